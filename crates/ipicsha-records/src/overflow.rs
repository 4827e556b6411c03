//! Has the transaction log overwritten what the partner never had?
//!
//! Decides that from the log and the partner's position alone. An overflow is never followed by a
//! comparison in silence: the exchange ends, the status says so, and HA is unconfigured by the core
//! (spec C4). It happens while the daemon does not run, or by one transaction larger than the log;
//! the application notices neither.
//!
//! No overflow: a partner that never attached, or a first comparison that has not ended (everything
//! is compared, and the status says so), a file that is another history (copied, restored, installed
//! anew: it is compared), a position nobody remembers, and a partner that went back behind what it
//! had acknowledged (it was restored).

use ipicsha_core::{
    data::{Attach, LogExtent},
    id::Seq,
};

use crate::{
    capacity::LogCapacity,
    database::Database,
    engine::Engine,
    error::{AtPath as _, Error},
    gauge::LogUse,
    journal::Journal,
    log::{self, Dirty, Extent},
};

/// What is known of the partner's position, beside the position itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    /// `acked` is what the partner said, and not only the least it may have.
    pub(crate) known: bool,
    /// End of the log when it was first looked at, for a position that is not known.
    counted_from: Option<Seq>,
    /// The log has overwritten what the partner never had.
    pub(crate) overflowed: bool,
}

impl Engine {
    /// Takes over what is remembered of the partner's position in the log of a file just opened.
    pub(crate) fn recall_position(&mut self, database: &mut Database) -> Result<(), Error> {
        let load = |journal: &Option<Journal>, database: &Database| match journal {
            Some(journal) => journal.load_acked(&self.config.name, database.meta.origin),
            None => Ok(None),
        };
        let mut saved = load(&self.journal, database)?;
        // The log is durable up to there: only a backup can have ended it before, or hold another
        // entry under that number.
        if let Some(acked) = saved
            && !database.still_has(acked)?
        {
            database.note_restored()?;
            saved = load(&self.journal, database)?;
        }
        let saved = saved.map(|acked| acked.seq);
        let known = saved.is_some() && database.meta.applied.is_some();
        self.position = Position { known, ..Position::default() };
        self.acked = saved.unwrap_or(Seq(0)).max(database.meta.partner_base);
        self.reporter.gauge.forget();
        Ok(())
    }

    /// Contents of another time are in the file: nothing that was known of its log holds.
    pub(crate) fn note_restored(&mut self) -> Result<(), Error> {
        let Some(database) = &mut self.database else { return Ok(()) };
        database.note_restored()?;
        self.acked = database.meta.partner_base;
        self.position = Position { overflowed: self.position.overflowed, ..Position::default() };
        self.dirty = Dirty::default();
        self.reporter.gauge.forget();
        Ok(())
    }

    /// The partner has said where it stands; from here on the log is counted.
    pub(crate) fn note_position(&mut self, acked: Seq) {
        (self.acked, self.position.known) = (acked, true);
        self.save_acked();
    }

    /// What the log holds for the partner; an overflow is noticed, and its consequences drawn.
    pub(crate) fn log_use(&mut self) -> Result<LogUse, Error> {
        let none = LogUse::none(self.config.capacity);
        let Some(database) = &self.database else { return Ok(none) };
        let extent = log::extent(&database.reader).at(&database.path)?;
        if !self.position.known && self.position.counted_from.is_none() {
            // Forgotten: all that is still there may be unknown to the partner, but how full the
            // log is can only be counted from now on.
            self.position.counted_from = Some(extent.last);
            self.acked = self.acked.max(Seq(extent.first.0 - 1));
        }
        let base = kept_behind(database, self.acked, self.position, extent.last);
        let keys = database.key_columns;
        let bytes = self.reporter.gauge.bytes(&database.reader, keys, base, extent.last);
        let used = LogUse {
            entries: (extent.last.0 - base.0).max(0).cast_unsigned(),
            bytes: bytes.at(&database.path)?,
            capacity: LogCapacity { entries: database.capacity(), ..none.capacity },
            ..none
        };
        if let Err(error) = self.check_overflow(extent) {
            self.overflow(&error);
        }
        Ok(LogUse { overflowed: self.position.overflowed, last: extent.last, ..used })
    }

    /// Refuses when a log that reaches so far has overwritten what the partner never had.
    pub(crate) fn check_overflow(&self, extent: Extent) -> Result<(), Error> {
        let Some(database) = &self.database else { return Ok(()) };
        let acked = self.acked.max(database.meta.partner_base);
        if self.position.known && database.meta.synced && extent.first.0 > acked.0 + 1 {
            return Err(Error::Overflow);
        }
        Ok(())
    }

    /// The same by the partner's word, when nothing is remembered here.
    pub(crate) fn check_overflow_by(&self, mine: &Attach, theirs: &Attach) -> Result<(), Error> {
        let lost = |log: LogExtent| {
            theirs.applied.is_some_and(|applied| {
                applied.origin == log.origin && log.first.0 > applied.seq.0.saturating_add(1)
            })
        };
        let in_sync = mine.synced && theirs.synced;
        if !self.position.known && in_sync && mine.log.is_some_and(lost) {
            return Err(Error::Overflow);
        }
        Ok(())
    }

    /// It has happened: nothing is exchanged any more until HA is configured anew.
    pub(crate) fn overflow(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.position.overflowed, true) {
            tracing::warn!(database = %self.config.name, %error, "HA cannot go on with this log");
        }
        self.hold = Some(format!("{error}: {}", error.next_step()));
        self.detach("the transaction log has overflowed");
    }
}

/// The part of the log that must be kept for the partner is behind this.
fn kept_behind(database: &Database, acked: Seq, position: Position, last: Seq) -> Seq {
    if database.meta.applied.is_none() {
        return last; // first contact compares everything
    }
    let counted = if position.known { acked } else { position.counted_from.unwrap_or(last) };
    // What the partner has applied is free for the ring, whether or not it said so.
    counted.max(database.meta.partner_base)
}
