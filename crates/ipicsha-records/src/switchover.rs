//! The planned switchover of one database: two phases, so that several switch together.
//!
//! Decides when everything is acknowledged and when to give up. The write lock is held from the
//! first phase to the second; until then a rollback leaves nothing changed. Must not know roles.

use std::time::Instant;

use ipicsha_core::id::Seq;

use crate::{
    database::{self, PATIENT, rollback},
    engine::{Engine, Session},
    error::{AtPath as _, Error},
    log, room,
    worker::{Done, Prepared, Writes},
};

/// A switchover between its phases.
pub(crate) struct Switchover {
    deadline: Instant,
    locked_at: Instant,
    /// The last entry; nobody can write another one.
    seq: Seq,
    /// Waiting for the acknowledgement; `None` once reported.
    done: Option<Done<Prepared>>,
}

impl Switchover {
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Engine {
    /// First phase: takes the write lock and ships what is left.
    pub(crate) fn prepare(&mut self, deadline: Instant, done: Done<Prepared>) {
        match self.lock(deadline) {
            Ok(seq) => {
                let (locked_at, done) = (Instant::now(), Some(done));
                self.switchover = Some(Switchover { deadline, locked_at, seq, done });
                self.unread = true;
            }
            Err(error) => done(Err(error)),
        }
    }

    fn lock(&mut self, deadline: Instant) -> Result<Seq, Error> {
        let refuse = |reason: &str| Err(Error::NotReady(reason.into()));
        self.look_now();
        let (Session::Attached(attached), Some(database)) = (&self.session, &self.database) else {
            return refuse("this database is not connected to the partner's");
        };
        if self.switchover.is_some() {
            return refuse("a switchover is being prepared already");
        }
        if !database.meta.synced {
            return refuse("the initial comparison of this database has not finished");
        }
        if self.leading.is_some() || self.follower.is_some() || attached.uncompared {
            return refuse("a comparison of this database is running");
        }
        if self.undoing.is_some() {
            return refuse("a repair of this database is being undone");
        }
        if let Some(held) = attached.held.first() {
            return Err(Error::NotReady(format!(
                "the partner cannot follow in table {}: {}",
                held.table, held.reason
            )));
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        database.begin(patience)?;
        room::give(&database.path);
        let last = || {
            if !database.is_seen()? {
                return Err(Error::Unseen { path: database.path.clone() });
            }
            Ok(log::extent(&database.writer).at(&database.path)?.last)
        };
        last().inspect_err(|_| rollback(&database.writer))
    }

    /// Reports the end of the first phase, or gives up at the deadline.
    pub(crate) fn check_switchover(&mut self, now: Instant) {
        let Some(switchover) = &mut self.switchover else { return };
        if self.acked >= switchover.seq
            && let Some(done) = switchover.done.take()
        {
            let held = now.duration_since(switchover.locked_at);
            done(Ok(Prepared { held, seq: switchover.seq }));
        }
        if now >= switchover.deadline {
            self.abandon("the time for it was over");
        }
    }

    /// Second phase: the fence in the same transaction.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        let refuse = |reason: &str| Err(Error::NotPrepared(reason.into()));
        let (Some(switchover), Some(database)) = (&self.switchover, &mut self.database) else {
            return refuse("its time was over, or it was aborted");
        };
        if switchover.done.is_some() {
            return refuse("the partner has not acknowledged everything yet");
        }
        self.switchover = None;
        let committed = database.change_fence(true).and_then(|version| {
            database::commit(&database.writer, &database.path, PATIENT).map(|()| version)
        });
        match committed {
            Ok(version) => {
                database.after_fence(true, version);
                self.writes = Some(Writes::Closed);
                Ok(())
            }
            Err(error) => {
                rollback(&database.writer);
                Err(error)
            }
        }
    }

    /// Rolls a prepared switchover back.
    pub(crate) fn abandon(&mut self, reason: &str) {
        let Some(switchover) = self.switchover.take() else { return };
        if let Some(database) = &self.database {
            rollback(&database.writer);
        }
        if let Some(done) = switchover.done {
            done(Err(Error::NotPrepared(reason.into())));
        }
    }
}
