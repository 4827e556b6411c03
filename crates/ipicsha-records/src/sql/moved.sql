CREATE TRIGGER "_ipicsha_{t}m" AFTER UPDATE OF {keys},rowid,_rowid_,oid ON {table} WHEN {moved} BEGIN
  INSERT INTO _ipicsha_log(t,op,ms,{k}) VALUES({t},3,{ms},{old}); END
