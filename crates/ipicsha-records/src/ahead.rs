//! A commit of the application is awaited from the moment in which it writes.
//!
//! Decides when to look more closely, and does the work of the disk meanwhile. Must not know what was
//! written.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::engine::{Engine, Session, Source};

/// How long to look for the commit after an event.
const ALARM: Duration = Duration::from_millis(40);
/// The first look at it does not sleep for so long.
const AT_ONCE: Duration = Duration::from_micros(100);
/// Within this the next event is announced, however fast events come.
pub(crate) const ANNOUNCED: Duration = Duration::from_millis(2);

/// What is known of a transaction of the application that was not seen to commit yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    Nothing,
    /// After a pause it writes.
    Writes,
    /// What it had written by then is on disk.
    Synced(Instant),
}

impl Engine {
    /// The file system says something may have changed.
    pub(crate) fn wake(&mut self) {
        self.alarm.reset();
        // On a standby nobody commits but this thread; a change of the schema is not urgent.
        if self.database.as_ref().is_some_and(|database| database.fence_closed) {
            return;
        }
        let now = Instant::now();
        if now >= self.alarm_until {
            self.announced = Announced::Nothing; // nothing came of it
        }
        // Not while one transaction follows upon the other.
        let pause = self.seen_at.is_none_or(|seen| now >= seen + ANNOUNCED);
        if pause && self.announced == Announced::Nothing {
            self.announced = Announced::Writes;
        }
        (self.alarm_since, self.alarm_until) = (now, now + ALARM);
    }

    /// Syncs what the application has written while it does the same: when its commit can be seen
    /// most of the waiting is over. Whether this was enough is found out before anything is sent.
    pub(crate) fn sync_ahead(&mut self) {
        if self.announced != Announced::Writes {
            return;
        }
        let ships = matches!(self.session, Session::Attached(_))
            && self.database.as_ref().is_some_and(|database| !database.keeps_rollback);
        if ships {
            self.wal.settle();
            if let Err(error) = self.wal.sync() {
                self.settle(Source::Pump, Err(error));
            }
            self.await_commit();
        }
        let now = Instant::now();
        self.alarm_until = self.alarm_until.max(now + ALARM);
        self.announced = Announced::Synced(now);
    }

    /// Waits a moment for what the application does once its disk has answered: as long as going to
    /// sleep and waking up would take.
    fn await_commit(&self) {
        let Some(database) = &self.database else { return };
        let until = Instant::now() + AT_ONCE;
        while database.is_quiet(self.data_version) && Instant::now() < until {
            thread::yield_now();
        }
    }
}
