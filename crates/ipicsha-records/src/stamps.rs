//! When the application last wrote each record, as far as the transaction log goes back.
//!
//! Decides nothing: two servers that meet with data of an earlier pair compare what both know.
//! Read once, when the first record differs, and only for a first comparison.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use ipicsha_core::{data::Value, time::WallTime};

use crate::{
    database::Database,
    error::{AtPath as _, Error},
    log::{Record, SUPERSEDED, SUSPECT},
    value,
};

/// Entries read in one go.
const AT_ONCE: usize = 10_000;

/// By a hash of the record: a log of a million changes takes some 20 MB.
pub(crate) struct Stamps {
    hasher: RandomState,
    walls: HashMap<u64, i64>,
}

impl Stamps {
    /// Reads the whole log.
    pub(crate) fn read(database: &Database) -> Result<Self, Error> {
        let mut stamps = Self { hasher: RandomState::new(), walls: HashMap::new() };
        stamps.scan(database).at(&database.path)?;
        Ok(stamps)
    }

    fn scan(&mut self, database: &Database) -> rusqlite::Result<()> {
        let mut behind = i64::MIN;
        while let Some(last) = self.scan_some(database, behind)? {
            behind = last;
        }
        Ok(())
    }

    /// The next entries, briefly: without a WAL reading holds up the application's commits.
    fn scan_some(&mut self, database: &Database, behind: i64) -> rusqlite::Result<Option<i64>> {
        let columns: String = (1..=database.key_columns).map(|n| format!(",k{n}")).collect();
        let sql = format!(
            "SELECT t,op,ms{columns},seq FROM _ipicsha_log WHERE seq>?1 ORDER BY seq LIMIT {AT_ONCE}"
        );
        let mut statement = database.reader.prepare_cached(&sql)?;
        let mut rows = statement.query([behind])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            last = Some(row.get(3 + database.key_columns)?);
            let (t, op, ms): (u32, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some(captured) = database.tables.get(&t).filter(|_| op != SUSPECT) else {
                continue;
            };
            let key = value::read_columns(row, 3, captured.table.key.len())?;
            if key.contains(&Value::Null) {
                continue;
            }
            let hash = self.hasher.hash_one((t, captured.table.identity_of(&key)));
            if op == SUPERSEDED {
                // What is there now is the partner's.
                self.walls.remove(&hash);
            } else {
                self.walls.insert(hash, ms);
            }
        }
        Ok(last)
    }

    /// When the record was last written here, if the log says so.
    pub(crate) fn of(&self, record: &Record) -> Option<WallTime> {
        self.walls.get(&self.hasher.hash_one(record)).copied().map(WallTime)
    }
}
