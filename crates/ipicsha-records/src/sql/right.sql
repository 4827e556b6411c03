CREATE TRIGGER "_ipicsha_l{t}{name}" BEFORE {event} ON {table} BEGIN
  SELECT RAISE(ABORT, 'IPICSHA: neither the partner nor the witness answers this server') FROM _ipicsha_right WHERE {ms} NOT BETWEEN since AND until; END
