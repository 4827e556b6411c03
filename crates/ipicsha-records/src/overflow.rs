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
    engine::Engine,
    error::{AtPath as _, Error},
    gauge::LogUse,
    log,
};

/// What is known of the partner's position, beside the position itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    /// `acked` is what the partner said, and not only the least it may have.
    pub(crate) known: bool,
    /// End of the log when the file was opened.
    counted_from: Seq,
    /// The log has overwritten what the partner never had.
    pub(crate) overflowed: bool,
}

impl Engine {
    /// Takes over what is remembered of the partner's position in the log of the file just opened.
    pub(crate) fn recall_position(&mut self) -> Result<(), Error> {
        let (Some(database), Some(journal)) = (&self.database, &self.journal) else {
            return Ok(());
        };
        let extent = log::extent(&database.reader).at(&database.path)?;
        let stored = database.meta.partner_base;
        let saved = journal.load_acked(&self.config.name, database.meta.origin)?;
        let known = saved.is_some() && database.meta.applied.is_some();
        // Forgotten: all that is still there may be unknown to the partner, but how full the log is
        // can only be counted from now on.
        self.acked = saved.unwrap_or(Seq(extent.first.0 - 1)).max(stored);
        self.position = Position { known, counted_from: extent.last, overflowed: false };
        self.reporter.gauge.forget();
        match self.check_overflow() {
            Err(error @ Error::Overflow) => {
                self.overflow(&error);
                Ok(())
            }
            checked => checked,
        }
    }

    /// The partner has said where it stands; from here on the log is counted.
    pub(crate) fn note_position(&mut self, acked: Seq) {
        (self.acked, self.position.known) = (acked, true);
        self.save_acked();
    }

    /// The part of the log that must be kept for the partner.
    fn kept_behind(&self, last: Seq) -> Seq {
        let Some(database) = &self.database else { return last };
        if database.meta.applied.is_none() {
            return last; // first contact compares everything
        }
        let counted = if self.position.known { self.acked } else { self.position.counted_from };
        // What the partner has applied is free for the ring, whether or not it said so.
        counted.max(database.meta.partner_base)
    }

    /// What the log holds for the partner.
    pub(crate) fn log_use(&mut self) -> Result<LogUse, Error> {
        let mut used = LogUse::none(self.config.capacity);
        used.overflowed = self.position.overflowed;
        let Some(database) = &self.database else { return Ok(used) };
        let extent = log::extent(&database.reader).at(&database.path)?;
        let base = self.kept_behind(extent.last);
        used.capacity.entries = database.capacity();
        used.entries = (extent.last.0 - base.0).max(0).cast_unsigned();
        let keys = database.key_columns;
        let bytes = self.reporter.gauge.bytes(&database.reader, keys, base, extent.last);
        used.bytes = bytes.at(&database.path)?;
        Ok(used)
    }

    /// Refuses when the log has overwritten what the partner never had.
    pub(crate) fn check_overflow(&self) -> Result<(), Error> {
        let Some(database) = &self.database else { return Ok(()) };
        let first = log::extent(&database.reader).at(&database.path)?.first;
        let acked = self.acked.max(database.meta.partner_base);
        if self.position.known && database.meta.synced && first.0 > acked.0 + 1 {
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
