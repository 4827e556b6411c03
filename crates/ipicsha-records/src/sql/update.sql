CREATE TRIGGER "_ipicsha_{t}u" AFTER UPDATE ON {table} BEGIN
  INSERT INTO _ipicsha_log(t,op,ms,{k}) VALUES({t},2,{ms},{new}); END
