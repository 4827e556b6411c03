CREATE TRIGGER "_ipicsha_f{t}{name}" BEFORE {event} ON {table} BEGIN
  SELECT RAISE(ABORT, 'IPICSHA: this server is standby'); END
