//! Waiting until the partner durably has everything that was committed before.
//!
//! Decides when that is so, and when it can be waited for. What is acknowledged counts only while
//! both databases are known to be equal but for the log: behind a comparison that has not ended, or
//! with a table that cannot follow, an acknowledged position says too little. Must not know who
//! asks, or over which way.

use std::time::Instant;

use ipicsha_core::id::Seq;

use crate::{
    engine::{Engine, Session},
    error::{AtPath as _, Error},
    log,
    schema::null_key_warning,
    worker::{Done, Gate},
};

/// What the partner durably has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The last log entry of what was committed before the barrier.
    pub seq: Seq,
    /// What of this database is not replicated, so that nothing is said about it.
    pub not_covered: Vec<String>,
}

/// Somebody waits.
pub(crate) struct Barrier {
    seq: Seq,
    deadline: Instant,
    done: Done<Confirmed>,
}

impl Engine {
    /// Everything that is committed now is to be at the partner.
    pub(crate) fn barrier(&mut self, deadline: Instant, done: Done<Confirmed>) {
        // A schema that changed may have tables without triggers: noticed before anything is promised.
        self.look_now();
        match self.mark() {
            Ok(seq) => {
                self.unread = true;
                self.barriers.push(Barrier { seq, deadline, done });
            }
            Err(error) => done(Err(error)),
        }
    }

    /// The newest entry, where one can be waited for.
    fn mark(&self) -> Result<Seq, Error> {
        self.may_wait()?;
        let Some(database) = &self.database else {
            let hold = self.hold.clone();
            return Err(Error::NotConnected(hold.unwrap_or_else(|| "it is not open".into())));
        };
        if database.fence_closed {
            return Err(Error::Fenced { path: database.path.clone() });
        }
        Ok(log::extent(&database.reader).at(&database.path)?.last)
    }

    /// Whether an acknowledgement can come at all.
    fn may_wait(&self) -> Result<(), Error> {
        let why = if self.position.overflowed {
            "its transaction log has overflowed"
        } else if !self.installing {
            "HA is not configured"
        } else if !self.link {
            "there is no connection to the partner"
        } else {
            return Ok(());
        };
        Err(Error::NotConnected(why.into()))
    }

    /// Why an acknowledged position does not yet say everything.
    fn not_yet(&self) -> Option<String> {
        if self.gate == Gate::Closed {
            return Some("the exchange of changes is paused".into());
        }
        let (Session::Attached(attached), Some(database)) = (&self.session, &self.database) else {
            return Some("both servers are agreeing where to go on".into());
        };
        if !database.is_current(&database.reader).unwrap_or(false) {
            return Some("the schema has changed".into());
        }
        if attached.uncompared {
            return Some("both databases are being compared".into());
        }
        let held: Vec<&str> = attached.held.iter().map(|held| held.table.as_str()).collect();
        let tables = held.join(", ");
        (!held.is_empty()).then(|| format!("the partner cannot follow in {tables}"))
    }

    /// Answers those whose time has come, in either sense.
    pub(crate) fn check_barriers(&mut self, now: Instant) {
        if self.barriers.is_empty() {
            return;
        }
        let not_yet = self.not_yet();
        for barrier in std::mem::take(&mut self.barriers) {
            if let Err(error) = self.may_wait() {
                (barrier.done)(Err(error));
            } else if not_yet.is_none() && self.covered() >= barrier.seq {
                let confirmed = Confirmed { seq: barrier.seq, not_covered: self.not_covered() };
                (barrier.done)(Ok(confirmed));
            } else if now >= barrier.deadline {
                let missing = (barrier.seq.0 - self.acked.0).max(1).cast_unsigned();
                let reason = not_yet.clone();
                (barrier.done)(Err(Error::Unconfirmed { missing, reason }));
            } else {
                self.barriers.push(barrier);
            }
        }
    }

    /// The partner durably has everything that was committed up to here.
    fn covered(&self) -> Seq {
        let Session::Attached(attached) = &self.session else { return Seq(0) };
        let is_all_sent = !self.unread && attached.sent_to >= self.dirty.scanned_to();
        if is_all_sent && attached.in_flight.is_empty() {
            return self.acked.max(attached.covered);
        }
        attached.covered
    }

    fn not_covered(&self) -> Vec<String> {
        let Some(database) = &self.database else { return Vec::new() };
        let skipped = database.skipped.iter().map(|s| format!("{} ({})", s.table, s.reason));
        let nameless = self.dirty.nameless().filter_map(|t| database.tables.get(&t));
        skipped.chain(nameless.map(|captured| null_key_warning(&captured.table.name))).collect()
    }

    /// The next time one of them gives up.
    pub(crate) fn barrier_due(&self) -> Option<Instant> {
        self.barriers.iter().map(|barrier| barrier.deadline).min()
    }

    /// Nobody waits any longer.
    pub(crate) fn refuse_barriers(&mut self) {
        for barrier in std::mem::take(&mut self.barriers) {
            (barrier.done)(Err(Error::Stopped));
        }
    }
}
