//! A commit of the application is awaited from the moment in which it writes.
//!
//! Decides when to look more closely, and does the work of the disk meanwhile. Must not know what was
//! written.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ipicsha_core::{data::Data, id::DatabaseName};

use crate::{
    database::{self, Database},
    engine::{Engine, Session, Source},
    status::{Event, Events},
};

/// How long to look for the commit after an event.
const ALARM: Duration = Duration::from_millis(40);
/// The first look at it does not sleep for so long.
const AT_ONCE: Duration = Duration::from_micros(100);
/// The partner stays awake for what it is told to expect: that costs it no more than a fifth of a core.
const TELL: Duration = Duration::from_millis(5);
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

/// Tells the partner that a batch comes in a moment, on the thread that hears of it first.
pub(crate) struct Herald {
    name: DatabaseName,
    events: Events,
    state: Mutex<Announcing>,
}

struct Announcing {
    /// What is committed is sent at once.
    ready: bool,
    not_before: Instant,
}

impl Herald {
    pub(crate) fn new(name: DatabaseName, events: Events) -> Self {
        let state = Announcing { ready: false, not_before: Instant::now() };
        Self { name, events, state: Mutex::new(state) }
    }

    /// The application writes. It may be what was seen already, so not too soon after that.
    pub(crate) fn announce(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.ready && now >= state.not_before {
            state.not_before = now + TELL;
            drop(state);
            (self.events)(Event::Send(Data::Expect { database: self.name.clone() }));
        }
    }

    /// Whether what is committed is sent at once.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.lock().ready = ready;
    }

    fn saw_commit(&self, now: Instant) {
        let mut state = self.lock();
        state.not_before = state.not_before.max(now + ANNOUNCED);
    }

    fn lock(&self) -> MutexGuard<'_, Announcing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// What was announced is here; the next commit is, in a moment, or when the disk has it.
    pub(crate) fn note_commit(&mut self, now: Instant) {
        (self.seen_at, self.announced) = (Some(now), Announced::Nothing);
        (self.alarm_since, self.alarm_until) = (now, self.alarm_until.min(self.in_a_moment(now)));
        self.herald.saw_commit(now);
    }

    /// A transaction that has written everything ends before this, unless its disk is slower than ever.
    fn in_a_moment(&self, now: Instant) -> Instant {
        now + ANNOUNCED.max(2 * self.wal.took())
    }

    /// Whether the disk's work is worth doing ahead.
    fn ships(&self) -> bool {
        let is_active = |database: &Database| !database.keeps_rollback && !database.fence_closed;
        matches!(self.session, Session::Attached(_))
            && self.database.as_ref().is_some_and(is_active)
    }

    /// Whether the partner would have the next commit at once: nothing is on its way before it.
    pub(crate) fn ships_at_once(&self) -> bool {
        let idle =
            matches!(&self.session, Session::Attached(attached) if attached.in_flight.is_empty());
        idle && self.ships()
    }

    /// The file system says something may have changed.
    pub(crate) fn wake(&mut self) {
        self.alarm.reset();
        // On a standby nobody commits but this thread; a change of the schema is not urgent.
        if self.database.as_ref().is_some_and(|database| database.fence_closed) {
            return;
        }
        let now = Instant::now();
        if self.wal.is_quiet() {
            // What was written is on disk already: its commit was seen, or comes in a moment.
            if now >= self.alarm_until {
                self.alarm_since = now;
            }
            self.alarm_until = self.alarm_until.max(self.in_a_moment(now));
            return;
        }
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
        if self.ships() {
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

    /// A batch comes in a moment: what applying it needs is brought into the memory nearby.
    pub(crate) fn rehearse(&mut self) {
        let is_standby = |database: &&Database| database.fence_closed && !database.keeps_rollback;
        let (Session::Attached(_), Some(database)) =
            (&self.session, self.database.as_ref().filter(is_standby))
        else {
            return;
        };
        // Whatever is wrong shows when the batch is applied.
        if database::begin(&database.writer, &database.path, Duration::ZERO).is_ok() {
            let _ = self.dirty.refresh(&database.writer, database);
            database::rollback(&database.writer);
        }
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
