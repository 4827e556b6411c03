//! The records and the changes every measurement uses, for SQLite and for PostgreSQL alike.
//!
//! Records that are there from the start have even ids, so that odd ones are free everywhere.

use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, params};

/// Columns and index, understood by both.
pub(crate) const SCHEMA: &str = "
CREATE TABLE rec(id BIGINT PRIMARY KEY, unit TEXT NOT NULL, state INTEGER NOT NULL,
 payload TEXT NOT NULL, ts BIGINT NOT NULL);
CREATE INDEX rec_unit ON rec(unit);";

/// SQLite's spelling of an integer key.
pub(crate) fn sqlite_schema() -> String {
    SCHEMA.replace("id BIGINT", "id INTEGER")
}

/// Changes of one transaction.
pub(crate) const BATCH: u64 = 1000;

pub(crate) const INSERT: &str = "INSERT INTO rec VALUES(?1,?2,?3,?4,?5)";
pub(crate) const UPDATE: &str = "UPDATE rec SET state=?2, payload=?3, ts=?4 WHERE id=?1";
/// Of an indexed column, too: a second page changes without us.
pub(crate) const UPDATE_INDEXED: &str =
    "UPDATE rec SET unit=?2, state=?3, payload=?4, ts=?5 WHERE id=?1";
pub(crate) const DELETE: &str = "DELETE FROM rec WHERE id=?1";

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: i64,
    pub(crate) unit: String,
    pub(crate) state: i64,
    pub(crate) payload: String,
    pub(crate) ts: i64,
}

impl Record {
    /// The record with this id; `version` changes what is in it.
    pub(crate) fn new(id: i64, version: u64) -> Self {
        let mixed = mix(id.cast_unsigned() ^ version.rotate_left(40));
        Self {
            id,
            unit: format!("unit-{:08}", mixed % 100_000_000),
            state: (mixed % 5).cast_signed(),
            payload: format!("{mixed:016x}").repeat(6),
            ts: 1_700_000_000 + (mixed % 100_000_000).cast_signed(),
        }
    }
}

/// Scatters (splitmix64).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How durable commits of a connection are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Synchronous {
    Normal,
    Full,
}

/// Opens a database as an application does.
pub(crate) fn open(path: &Path, synchronous: Synchronous) -> Result<Connection> {
    let db = Connection::open(path).with_context(|| path.display().to_string())?;
    db.busy_timeout(std::time::Duration::from_secs(20))?;
    db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    let level = match synchronous {
        Synchronous::Normal => "NORMAL",
        Synchronous::Full => "FULL",
    };
    db.pragma_update(None, "synchronous", level)?;
    Ok(db)
}

/// Makes a database with `rows` records; afterwards everything is in the one file.
pub(crate) fn create(path: &Path, rows: u64) -> Result<()> {
    let db = open(path, Synchronous::Normal)?;
    db.execute_batch(&sqlite_schema())?;
    for start in (0..rows).step_by(100_000) {
        db.execute_batch("BEGIN")?;
        let mut insert = db.prepare_cached(INSERT)?;
        for number in start..rows.min(start + 100_000) {
            execute(&mut insert, &Record::new(first_id(number), 0))?;
        }
        db.execute_batch("COMMIT")?;
    }
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// Id of a record that is there from the start.
pub(crate) fn first_id(number: u64) -> i64 {
    (2 * (number + 1)).cast_signed()
}

fn execute(statement: &mut rusqlite::Statement<'_>, r: &Record) -> Result<()> {
    statement.execute(params![r.id, r.unit, r.state, r.payload, r.ts])?;
    Ok(())
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Insert(Record),
    Update(Record),
    Delete(i64),
}

/// The changes of one round: per transaction 400 inserts, 500 updates, 100 deletes, in this order.
/// No record is changed twice in a round.
pub(crate) struct Changes {
    rows: u64,
    round: u64,
}

impl Changes {
    /// `rows` changes of a database that began with `rows` records.
    pub(crate) fn new(rows: u64, round: u64) -> Self {
        Self { rows, round }
    }

    pub(crate) fn transactions(&self) -> u64 {
        self.rows / BATCH
    }

    /// The changes of one transaction.
    pub(crate) fn of(&self, transaction: u64) -> Vec<Change> {
        let (rows, round) = (self.rows, self.round);
        let half = rows / 2;
        // Scattered without repetition: an odd factor that shares no divisor with `half`.
        let scattered = |k: u64| half + (k * 7_919 + round) % half;
        let inserts = (0..400).map(|n| {
            let number = rows + round * rows + transaction * 400 + n;
            Change::Insert(Record::new(first_id(number), 0))
        });
        let updates = (0..500).map(|n| {
            let id = first_id(scattered(transaction * 500 + n));
            Change::Update(Record::new(id, round + 1))
        });
        let deletes =
            (0..100).map(|n| Change::Delete(first_id(round * (rows / 10) + transaction * 100 + n)));
        inserts.chain(updates).chain(deletes).collect()
    }

    /// Makes all changes in SQLite.
    pub(crate) fn make(&self, db: &Connection) -> Result<()> {
        (0..self.transactions()).try_for_each(|transaction| make(db, &self.of(transaction)))
    }

    /// Id of the last record inserted; there once everything before is.
    pub(crate) fn last_insert(&self) -> i64 {
        let last = self.of(self.transactions() - 1);
        let ids = last.iter().map(|change| match change {
            Change::Insert(record) => record.id,
            Change::Update(_) | Change::Delete(_) => 0,
        });
        ids.max().unwrap_or_default()
    }
}

/// Makes changes in one transaction.
pub(crate) fn make(db: &Connection, changes: &[Change]) -> Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let mut insert = db.prepare_cached(INSERT)?;
    let mut update = db.prepare_cached(UPDATE)?;
    let mut delete = db.prepare_cached(DELETE)?;
    for change in changes {
        match change {
            Change::Insert(record) => execute(&mut insert, record)?,
            Change::Update(r) => {
                update.execute(params![r.id, r.state, r.payload, r.ts])?;
            }
            Change::Delete(id) => {
                delete.execute([id])?;
            }
        }
    }
    db.execute_batch("COMMIT")?;
    Ok(())
}

/// What tells two databases with this table apart, cheaply.
pub(crate) fn sums(db: &Connection) -> Result<(i64, i64, i64, i64, i64)> {
    let sql = "SELECT count(*), sum(id), sum(state), sum(ts), sum(length(payload)) FROM rec";
    Ok(db.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))?)
}
