CREATE TRIGGER "_ipicsha_{t}{name}" BEFORE {event} ON {table}
  WHEN EXISTS(SELECT 1 FROM {table} WHERE {match} AND ({other})) BEGIN
  INSERT INTO _ipicsha_log(t,op,ms,{k}) SELECT {t},4,{ms},{keys} FROM {table} WHERE {match} AND ({other}); END
