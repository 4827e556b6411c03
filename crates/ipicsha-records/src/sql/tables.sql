-- No constraint on the log: an outer OR IGNORE or OR REPLACE of the application would apply to it.
CREATE TABLE _ipicsha_log(seq INTEGER PRIMARY KEY, t, op, ms, k1);
CREATE TABLE _ipicsha_meta(one INTEGER PRIMARY KEY, format, uuid, incarnation, inode, partner_uuid, partner_incarnation, partner_applied, partner_applied_ms, partner_base, synced);
-- A number is never given twice: entries of a retired one (name NULL) are not read any more.
CREATE TABLE _ipicsha_tab(t INTEGER PRIMARY KEY, name, standing, signature);
-- VACUUM renumbers the rowids of tables like this one: then it is 1.
CREATE TABLE _ipicsha_mark(x);
INSERT INTO _ipicsha_mark(rowid, x) VALUES(2, 0);
INSERT INTO _ipicsha_meta VALUES(1, 3, randomblob(16), 1, 0, NULL, NULL, NULL, NULL, 0, 0);
