CREATE TRIGGER "_ipicsha_{t}d" AFTER DELETE ON {table} BEGIN
  INSERT INTO _ipicsha_log(t,op,ms,{k}) VALUES({t},3,{ms},{old}); END
