//! The right of the application to write ends by itself (policy `witness`).
//!
//! Decides nothing: triggers compare the time with a row that is renewed while the right lasts, so that
//! a server whose daemon is dead or frozen refuses writes, too. They exist only while writes are open
//! and a right was given. Must not know who gives it.
//!
//! - **Invariant**: where writes are opened under a right, its row is in the same transaction.

use std::time::{Duration, Instant};

use ipicsha_core::time::WallTime;
use rusqlite::Connection;

use crate::{
    capture::Captured,
    database::{Database, PATIENT},
    engine::Engine,
    error::{AtPath as _, Error},
    fence,
    schema::Table,
};

/// What the application's program is told when the right is over.
pub const EXPIRED: &str = "IPICSHA: the right of this server to be written to was not renewed";

/// What all our triggers for it begin with.
const PREFIX: &str = "_ipicsha_l";
/// The row is tried to be renewed again after this, when the application has the file locked.
const AGAIN: Duration = Duration::from_millis(10);
/// After so many renewals what they wrote is moved from the `-wal` into the file: an application that writes
/// little would not do it for long.
const CHECKPOINT_EVERY: u32 = 256;
/// A clock that is put back by less does not end a right.
const SLEW_MS: i64 = 1_000;

/// From when to when may be written, in milliseconds since 1970 by the wall clock. The begin counts as
/// well: a clock that is put back must not lengthen a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    since: i64,
    until: i64,
}

/// What the shell last said.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    /// `None` before it was told anything.
    told: Option<Option<Right>>,
    at: Option<Instant>,
    renewals: u32,
}

impl Right {
    /// Whether what is in the file lasts long enough: every renewal is a commit beside the application's,
    /// so that it is made when half of the time is over.
    fn covers(self, next: Self, now: i64) -> bool {
        let (left, wanted) = (self.until - now, next.until - now);
        self.since <= now && left <= wanted && left >= wanted / 2
    }
}

impl Renewal {
    /// When it is to be written at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.at
    }
}

/// The triggers of one table.
pub(crate) fn triggers(t: u32, table: &Table) -> Vec<(String, String)> {
    fence::before_writes(PREFIX, include_str!("sql/right.sql"), t, table)
}

/// Whether writes end by themselves here.
pub(crate) fn is_limited(db: &Connection) -> rusqlite::Result<bool> {
    Ok(!fence::names(db, PREFIX)?.is_empty())
}

/// Writes end by themselves from now on, inside the caller's transaction.
pub(crate) fn limit(db: &Connection, tables: &[Captured], right: Right) -> rusqlite::Result<()> {
    if !is_limited(db)? {
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS _ipicsha_right(one INTEGER PRIMARY KEY, since INTEGER NOT NULL, until INTEGER NOT NULL)",
        )?;
        for (_, sql) in tables.iter().flat_map(|captured| triggers(captured.t, &captured.table)) {
            db.execute_batch(&sql)?;
        }
    }
    db.prepare_cached("INSERT OR REPLACE INTO _ipicsha_right VALUES(1, ?1, ?2)")?
        .execute([right.since, right.until])?;
    Ok(())
}

/// They do not any more, inside the caller's transaction.
pub(crate) fn unlimit(db: &Connection) -> rusqlite::Result<()> {
    fence::drop_all(db, PREFIX)?;
    db.execute_batch("DROP TABLE IF EXISTS _ipicsha_right")
}

impl Database {
    /// From when to when the application may write; `None` is always. In force at once where writes are
    /// open, else from when they are opened on.
    ///
    /// # Errors
    /// The file is locked, or cannot be written.
    pub(crate) fn set_right(
        &mut self,
        right: Option<Right>,
        patience: Duration,
    ) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.right, right);
        if self.fence_closed || right.is_none() && before.is_none() && !self.is_limited()? {
            return Ok(());
        }
        // A power cut ends the right as well: its row need not be durable.
        let version = self.transaction_unsynced(patience, |db| db.change_fence(false))?;
        self.after_fence(false, version);
        Ok(())
    }

    fn is_limited(&self) -> Result<bool, Error> {
        is_limited(&self.writer).at(&self.path)
    }

    /// Writes the row, in the caller's transaction.
    pub(crate) fn change_right(&self) -> Result<(), Error> {
        let changed = match self.right {
            Some(right) => {
                let tables: Vec<Captured> = self.tables.values().cloned().collect();
                limit(&self.writer, &tables, right)
            }
            None => unlimit(&self.writer),
        };
        changed.at(&self.path)
    }
}

impl Engine {
    /// Until when the application may write without hearing more; `None` is always.
    pub(crate) fn allow_writes(&mut self, until: Option<WallTime>) {
        let right = until.map(|until| Right { since: now_ms() - SLEW_MS, until: until.0 });
        let written = self.database.as_ref().filter(|_| self.renewal.at.is_none());
        let written = written.and_then(|database| database.right);
        if let (Some(written), Some(next)) = (written, right)
            && written.covers(next, now_ms())
        {
            return;
        }
        (self.renewal.told, self.renewal.at) = (Some(right), Some(Instant::now()));
        self.renew_right(Instant::now());
    }

    /// Writes the row, as soon as the file lets it.
    pub(crate) fn renew_right(&mut self, now: Instant) {
        let (Some(right), true) = (self.renewal.told, self.renewal.at.is_some_and(|at| now >= at))
        else {
            return;
        };
        // The writer is inside the switchover's transaction, which ends before long.
        let free = self.switchover.is_none();
        let Some(database) = self.database.as_mut().filter(|_| free) else {
            self.renewal.at = self.switchover.as_ref().map(|_| now + AGAIN);
            return;
        };
        self.renewal.at = None;
        self.renewal.renewals += 1;
        let settles = self.renewal.renewals.is_multiple_of(CHECKPOINT_EVERY);
        // It does not wait for the application: the next try comes soon.
        let renewed = database.set_right(right, Duration::ZERO);
        if settles && renewed.is_ok() {
            // Whoever reads an old state makes it wait until the next time.
            let _ = database.writer.execute_batch("PRAGMA wal_checkpoint(PASSIVE)");
        }
        if let Err(error) = renewed {
            self.renewal.at = Some(Instant::now() + AGAIN);
            if !error.is_busy() {
                self.renewal.at = Some(Instant::now() + PATIENT);
                tracing::warn!(database = %self.config.name, %error, "the right to write cannot be renewed");
            }
        }
    }

    /// A file that was opened just now is to know what was said before.
    pub(crate) fn recall_right(&self, database: &mut Database) {
        if let Some(right) = self.renewal.told {
            database.right = right;
        }
    }

    /// The same for a file whose writes were open already.
    pub(crate) fn renew_soon(&mut self) {
        self.renewal.at = self.renewal.told.map(|_| Instant::now());
    }
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
