CREATE TABLE IF NOT EXISTS journal(
  id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, db TEXT NOT NULL, tbl TEXT NOT NULL, pk BLOB NOT NULL,
  kind TEXT NOT NULL, loser_origin BLOB NOT NULL, loser_seq INTEGER NOT NULL, loser_was_own INTEGER NOT NULL,
  loser_ms INTEGER, loser_row BLOB NOT NULL, winner_ms INTEGER, winner_row BLOB NOT NULL, columns BLOB NOT NULL,
  restored_at INTEGER, UNIQUE(db, tbl, pk, kind, loser_origin, loser_seq));
CREATE TABLE IF NOT EXISTS position(db TEXT PRIMARY KEY, uuid BLOB NOT NULL, incarnation INTEGER NOT NULL, acked INTEGER NOT NULL, ms INTEGER);
CREATE TABLE IF NOT EXISTS repair(
  run INTEGER NOT NULL, db TEXT NOT NULL, initial INTEGER NOT NULL, apply INTEGER NOT NULL, led INTEGER NOT NULL,
  started_ms INTEGER NOT NULL, ended_ms INTEGER, failure TEXT, report BLOB, undone_ms INTEGER,
  basis BLOB, reached BLOB, PRIMARY KEY(run, db));
