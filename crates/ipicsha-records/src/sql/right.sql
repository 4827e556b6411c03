CREATE TRIGGER "_ipicsha_l{t}{name}" BEFORE {event} ON {table} BEGIN
  SELECT RAISE(ABORT, 'IPICSHA: the right of this server to be written to was not renewed') FROM _ipicsha_right WHERE {ms} NOT BETWEEN since AND until; END
