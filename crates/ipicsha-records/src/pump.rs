//! What the log holds, on its way to the partner.
//!
//! Decides how much may be on its way, and that nothing leaves which the disk here does not have.

use std::time::Instant;

use ipicsha_core::{
    data::{Batch, Data},
    id::DatabaseName,
};
use rusqlite::Connection;

use crate::{
    database::Database,
    engine::{Attached, Engine, Sent, Session},
    error::Error,
    log::{BATCH_ROWS, Dirty},
    rollback,
};

/// Log entries read at once while the partner is away.
const READ_AHEAD: i64 = 10_000;

/// Batches and bytes that may be unacknowledged: enough for the partner to apply many at once.
pub(crate) const WINDOW: usize = 128;
const WINDOW_BYTES: usize = 32 << 20;

/// A batch that was read, and its size in bytes.
pub(crate) type Loaded = (Batch, usize);

impl Attached {
    /// Whether another batch may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < WINDOW
            && self.in_flight.iter().map(|sent| sent.bytes).sum::<usize>() < WINDOW_BYTES
    }

    /// Reads the next batch of the database called `name`, from a snapshot that has the schema the tables
    /// were read from.
    pub(crate) fn load(
        &self,
        name: &DatabaseName,
        db: &Connection,
        database: &Database,
        dirty: &Dirty,
    ) -> Result<Option<Loaded>, Error> {
        if dirty.scanned_to() <= self.sent_to {
            return Ok(None);
        }
        let limit = if database.keeps_rollback { rollback::BATCH_ROWS } else { BATCH_ROWS };
        dirty.batch(db, database, &self.tables, name, self.sent_to, limit).map(Some)
    }
}

impl Engine {
    /// Sends what the log holds, as far as the window allows.
    pub(crate) fn pump(&mut self) -> Result<(), Error> {
        if !matches!(self.session, Session::Attached(_)) {
            self.read_ahead();
            return Ok(());
        }
        while let Some(loaded) = self.load()? {
            self.ship(loaded)?;
        }
        Ok(())
    }

    fn load(&mut self) -> Result<Option<Loaded>, Error> {
        let (Session::Attached(attached), Some(database)) = (&self.session, &self.database) else {
            return Ok(None);
        };
        let more = self.unread || attached.sent_to < self.dirty.scanned_to();
        if !more || !attached.has_room() {
            return Ok(None);
        }
        let (name, dirty, unread) = (&self.config.name, &mut self.dirty, self.unread);
        let mut current = true;
        let loaded = database.snapshot(|db| {
            // Otherwise the next look reads the schema and attaches again.
            current = database.is_current(db)?;
            if !current {
                return Ok(None);
            }
            if unread {
                dirty.refresh(db, database)?;
            }
            attached.load(name, db, database, dirty)
        })?;
        self.unread = !current;
        Ok(loaded)
    }

    /// Sends a batch that was just read.
    pub(crate) fn ship(&mut self, (batch, bytes): Loaded) -> Result<(), Error> {
        // Each batch has contents that were committed after those of the one before.
        self.wal.sync_unless_synced()?;
        if let Session::Attached(attached) = &mut self.session {
            let is_all = batch.to >= self.dirty.scanned_to();
            attached.sent_to = batch.to;
            attached.in_flight.push_back(Sent { to: batch.to, bytes, is_all });
        }
        self.send(Data::Batch(batch));
        Ok(())
    }

    /// Reads the log while the partner is away, a piece at a time: when it is back, the first batch can
    /// go at once. Whatever is wrong shows when both attach.
    fn read_ahead(&mut self) {
        let Some(database) = self.database.as_ref().filter(|database| !database.keeps_rollback)
        else {
            return;
        };
        if !self.unread || !self.position.known || self.position.overflowed {
            return;
        }
        if !self.dirty.is_begun() {
            self.dirty = Dirty::behind(self.acked);
        }
        let (before, dirty) = (self.dirty.scanned_to(), &mut self.dirty);
        let read = database.snapshot(|db| {
            if database.is_current(db)? {
                dirty.refresh_some(db, database, READ_AHEAD)?;
            }
            Ok(())
        });
        if read.is_err() {
            self.dirty = Dirty::default();
        }
        self.unread = read.is_ok() && self.dirty.scanned_to() > before;
        self.pump_after = self.unread.then(Instant::now);
    }
}
