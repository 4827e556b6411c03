//! How much a transaction log may hold, and bringing its ring to that (spec C4).
//!
//! Decides when a smaller ring is refused and how the log shrinks. The ring trigger deletes in the
//! application's transaction, so what a smaller ring would drop at once is dropped here before, in
//! pieces no application notices. Must not know the partner.

use std::{path::Path, thread, time::Duration};

use rusqlite::Connection;
use serde::Serialize;

use crate::{
    capture::{self, MIN_CAPACITY},
    database::{self, Database, SchemaCheck},
    engine::Engine,
    error::{AtPath as _, Error},
    gauge::LogUse,
    log,
};

/// From here on a log is an alarm; nobody is let into that by a smaller capacity.
const ALARM_PERCENT: f64 = 75.0;
/// Entries deleted in one transaction: 0.13 ms of the write lock.
const PIECE: i64 = 1000;
/// The ring is cut once in so many entries, so that it may be longer by as many.
const RING_STEP: i64 = 1024;

/// Room of one transaction log. Used up when either of the two is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LogCapacity {
    /// Changes of single records; the ring overwrites the oldest beyond that. At least 4096.
    pub entries: u64,
    /// Bytes in the database file, as estimated from a sample of the entries. Nothing enforces it
    /// but the end of HA at 90 %: with the daemon dead only `entries` bounds the log.
    pub bytes: u64,
}

impl LogCapacity {
    /// The entries that are really kept.
    pub(crate) fn entries(self) -> u64 {
        self.entries.max(MIN_CAPACITY)
    }
}

/// Drops what a ring of `entries` would not hold, oldest first. Nothing to do for the ring that is
/// installed, so that an active server is not written when its daemon starts again.
pub(crate) fn trim(db: &Connection, path: &Path, entries: u64) -> Result<(), Error> {
    if !capture::is_installed(db).at(path)? {
        return Ok(());
    }
    let entries = i64::try_from(entries.max(MIN_CAPACITY)).unwrap_or(i64::MAX);
    let excess = || -> rusqlite::Result<i64> {
        let extent = log::extent(db)?;
        Ok(extent.last.0 - extent.first.0 + 1 - entries)
    };
    if excess().at(path)? <= RING_STEP {
        return Ok(());
    }
    loop {
        let left = database::in_transaction(db, path, |db| {
            let due = excess()?.clamp(0, PIECE);
            db.prepare_cached(
                "DELETE FROM _ipicsha_log WHERE seq IN (SELECT seq FROM _ipicsha_log ORDER BY seq LIMIT ?1)",
            )?
            .execute([due])?;
            excess()
        })?;
        if left <= 0 {
            return Ok(());
        }
        thread::sleep(Duration::from_micros(200));
    }
}

impl Database {
    /// Installs a ring of another length.
    fn set_capacity(&mut self, entries: u64) -> Result<SchemaCheck, Error> {
        self.set_synchronous(true)?;
        trim(&self.writer, &self.path, entries)?;
        let before = std::mem::replace(&mut self.capacity, entries);
        self.reinstall().inspect_err(|_| self.capacity = before)
    }
}

impl Engine {
    /// The administrator gives the log more room, or less: nothing that waits is lost.
    pub(crate) fn set_capacity(&mut self, capacity: LogCapacity) -> Result<(), Error> {
        if self.switchover.is_some() {
            return Err(Error::NotReady("a switchover is being prepared".into()));
        }
        let used = self.log_use()?;
        let Some(database) = &mut self.database else {
            self.config.capacity = capacity;
            return Ok(());
        };
        let wanted = LogUse { capacity, ..used };
        if wanted.percent() >= ALARM_PERCENT && wanted.percent() > used.percent() {
            return Err(Error::CapacityTooSmall {
                entries: used.entries,
                bytes: used.bytes,
                percent: wanted.percent().min(9999.0) as u64,
            });
        }
        if capacity.entries() != database.capacity() {
            let check = database.set_capacity(capacity.entries)?;
            if check == SchemaCheck::Changed {
                self.reattach("the schema has changed");
            }
        }
        self.config.capacity = capacity;
        tracing::info!(database = %self.config.name, entries = capacity.entries(),
            bytes = capacity.bytes, "the capacity of the transaction log was changed");
        Ok(())
    }
}
