//! What the log holds, on its way to the partner.
//!
//! Decides how much may be on its way, what is sent as one series, and that nothing leaves which the disk
//! here does not have. A series is read whole before its first batch is sent, so that it has its end.

use std::{
    thread,
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{Batch, Data, Follows},
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

/// What one series holds at most, unless it is one batch: the partner applies it in one transaction, and
/// keeps it in memory until it is complete.
const SERIES_ROWS: usize = 10_000;
const SERIES_BYTES: usize = 8 << 20;
/// Reading one takes no longer than this: its snapshot keeps the application's WAL from beginning anew, and
/// nothing else is answered meanwhile.
const SERIES_TIME: Duration = Duration::from_secs(1);
/// With a window that is all but full it stays below what the partner lets wait.
const SERIES_BATCHES: usize = 100;

/// Batches that were read to be applied together.
#[derive(Debug, Default)]
pub(crate) struct Series {
    batches: Vec<(Batch, usize)>,
    rows: usize,
    bytes: usize,
}

impl Series {
    fn push(&mut self, batch: Batch, bytes: usize) {
        self.rows += batch.rows.len();
        self.bytes += bytes;
        self.batches.push((batch, bytes));
        if self.rows + BATCH_ROWS > SERIES_ROWS
            || self.bytes >= SERIES_BYTES
            || self.batches.len() >= SERIES_BATCHES
        {
            self.cut();
        }
    }

    /// What was not read comes later.
    fn cut(&mut self) {
        if let Some((last, _)) = self.batches.last_mut()
            && last.follows == Follows::AtOnce
        {
            last.follows = Follows::Later;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn last(&self) -> Option<&Batch> {
        self.batches.last().map(|(batch, _)| batch)
    }

    /// There is nothing to be read for it any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.last().is_none_or(|batch| batch.follows != Follows::AtOnce)
    }
}

impl Attached {
    /// Whether another batch may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < WINDOW
            && self.in_flight.iter().map(|sent| sent.bytes).sum::<usize>() < WINDOW_BYTES
    }

    /// Reads the next series of the database called `name`, or goes on with it, from a snapshot that has the
    /// schema the tables were read from and to which `dirty` was refreshed.
    pub(crate) fn load(
        &self,
        name: &DatabaseName,
        db: &Connection,
        database: &Database,
        dirty: &Dirty,
        series: &mut Series,
    ) -> Result<(), Error> {
        let limit = if database.keeps_rollback { rollback::BATCH_ROWS } else { BATCH_ROWS };
        let from = |series: &Series| series.last().map_or(self.sent_to, |batch| batch.to);
        let begun = Instant::now();
        while from(series) < dirty.scanned_to() {
            let behind = from(series);
            let (batch, bytes) = dirty.batch(db, database, &self.tables, name, behind, limit)?;
            series.push(batch, bytes);
            if begun.elapsed() >= SERIES_TIME {
                series.cut();
            }
            // Without a WAL the application's commit waits for this snapshot; what it has changed when the
            // next one begins is read there, so that the end of the series is a consistent state, too.
            if series.has_ended() || database.keeps_rollback {
                break;
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Sends what the log holds, as far as the window allows.
    pub(crate) fn pump(&mut self) -> Result<(), Error> {
        if !matches!(self.session, Session::Attached(_)) {
            self.read_ahead();
            return Ok(());
        }
        while let Some(series) = self.load()? {
            self.ship(series)?;
        }
        Ok(())
    }

    fn load(&mut self) -> Result<Option<Series>, Error> {
        let (Session::Attached(attached), Some(database)) = (&self.session, &self.database) else {
            return Ok(None);
        };
        let more = self.unread || attached.sent_to < self.dirty.scanned_to();
        if !more || !attached.has_room() {
            return Ok(None);
        }
        let (name, dirty) = (&self.config.name, &mut self.dirty);
        let (mut series, mut current) = (Series::default(), true);
        let first = Instant::now();
        loop {
            let begun = Instant::now();
            let read = database.snapshot(|db| {
                // Otherwise the next look reads the schema and attaches again.
                current = database.is_current(db)?;
                if current {
                    dirty.refresh(db, database)?;
                    attached.load(name, db, database, dirty, &mut series)?;
                }
                Ok(())
            });
            match read {
                // An application that leaves no room for all of it must not keep all of it here.
                Err(error) if error.is_busy() && !series.is_empty() => series.cut(),
                read => read?,
            }
            if !current || series.has_ended() {
                break;
            }
            if first.elapsed() >= SERIES_TIME {
                series.cut();
                break;
            }
            // The application's turn.
            thread::sleep(begun.elapsed());
        }
        self.unread = !current;
        Ok((current && !series.is_empty()).then_some(series))
    }

    /// Sends what was just read.
    pub(crate) fn ship(&mut self, series: Series) -> Result<(), Error> {
        // All of it was committed before the last of it was read.
        self.wal.sync_unless_synced()?;
        for (batch, bytes) in series.batches {
            if let Session::Attached(attached) = &mut self.session {
                let is_all = batch.follows == Follows::Nothing;
                attached.sent_to = batch.to;
                attached.in_flight.push_back(Sent { to: batch.to, bytes, is_all });
            }
            self.send(Data::Batch(batch));
        }
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
