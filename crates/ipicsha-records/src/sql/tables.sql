-- No constraint on the log: an outer OR IGNORE or OR REPLACE of the application would apply to it.
CREATE TABLE _ipicsha_log(seq INTEGER PRIMARY KEY, t, op, ms, k1);
CREATE TABLE _ipicsha_meta(one INTEGER PRIMARY KEY, format, uuid, incarnation, inode, partner_uuid, partner_incarnation, partner_applied, partner_base, synced);
CREATE TABLE _ipicsha_tab(t INTEGER PRIMARY KEY, name, behind);
INSERT INTO _ipicsha_meta VALUES(1, 1, randomblob(16), 1, 0, NULL, NULL, NULL, 0, 0);
