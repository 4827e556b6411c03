CREATE TRIGGER "_ipicsha_ring" AFTER INSERT ON _ipicsha_log WHEN (NEW.seq & 1023)=0 BEGIN
  DELETE FROM _ipicsha_log WHERE seq<=NEW.seq-{capacity}; END
