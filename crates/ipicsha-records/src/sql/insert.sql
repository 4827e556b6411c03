CREATE TRIGGER "_ipicsha_{t}i" AFTER INSERT ON {table} BEGIN
  INSERT INTO _ipicsha_log(t,op,ms,{k}) VALUES({t},1,{ms},{new}); END
