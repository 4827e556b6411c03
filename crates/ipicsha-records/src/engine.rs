//! The state of one database's worker and the order in which it works.
//!
//! Decides what follows from each command and what is due at each waking. The exchange with the
//! partner is in `exchange`, comparisons in `comparing`, the planned switchover in `switchover`,
//! what is shown in `report`.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{Attach, Data, Origin, RepairReport},
    id::Seq,
};

use crate::{
    ahead::{Announced, Herald},
    answer::Follower,
    apply::Setting,
    barrier::Barrier,
    database::{self, DataVersion, Database, PATIENT, SHORT, Unshipped},
    durable::Wal,
    error::Error,
    follow::Extra,
    journal::Journal,
    log::Dirty,
    overflow::Position,
    received::Received,
    report::Reporter,
    resume::{Leading, Paused, Wanted},
    right::Renewal,
    rollback,
    schema::SkippedTable,
    session::Authorities,
    status::{Event, Events},
    switchover::Switchover,
    undo::Undoing,
    watch::{Alarm, Watching},
    worker::{Command, Gate, Waker, WorkerConfig, Writes},
};

/// How often to look for the commit after an event, at first. Later looks are further apart: an eighth
/// of the time since the event, so a commit is seen when it is an eighth late.
const ALARM_STEP: Duration = Duration::from_micros(50);
/// The same, and a thirty-second, for the first commit after a pause: the only one nothing waits behind.
const AWAITED_STEP: Duration = Duration::from_micros(20);
const AWAITED: Duration = Duration::from_millis(1);
/// The same behind a commit that was seen: what follows at once may wait, what waits for the disk comes
/// later. Looking more often would take the processor from those who work on that commit.
const FOLLOWING_STEP: Duration = Duration::from_micros(250);
/// How often to look without an event.
pub(crate) const SAFETY: Duration = Duration::from_millis(250);
/// How often writes are closed anew when the application changes its schema at that moment.
const SCHEMA_TRIES: usize = 10;
/// How often a failed opening is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// Between two attempts to attach.
pub(crate) const ATTACH_STEP: Duration = Duration::from_millis(100);
/// How long an answer to an attempt may take when the partner asks for one.
pub(crate) const ANSWER: Duration = Duration::from_millis(300);
/// After this an attempt nobody answered is repeated; the partner may not have been ready.
pub(crate) const UNANSWERED: Duration = Duration::from_secs(2);

/// Where the exchange with the partner stands.
pub(crate) enum Session {
    Detached,
    /// The secondary has sent this and waits for the answer.
    Attaching(Box<Attach>),
    Attached(Attached),
}

/// A running exchange.
pub(crate) struct Attached {
    pub(crate) sent_to: Seq,
    /// Batches that are not acknowledged.
    pub(crate) in_flight: VecDeque<Sent>,
    /// The partner durably has everything up to here. What is acknowledged only has places: a record
    /// that changed again while it waited has a later one.
    pub(crate) covered: Seq,
    pub(crate) tables: BTreeSet<String>,
    pub(crate) held: Vec<SkippedTable>,
    /// For the comparison this exchange begins with.
    pub(crate) authorities: Authorities,
    /// The partner's schema is on its way and is taken over.
    pub(crate) following: Option<Extra>,
    /// Both have the same schema.
    pub(crate) alike: bool,
    /// The comparison this exchange begins with has not ended.
    pub(crate) uncompared: bool,
}

/// A batch that is on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) to: Seq,
    pub(crate) bytes: usize,
    /// Nothing that was known to have changed was left for the next one.
    pub(crate) is_all: bool,
}

/// What can fail and be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Opening the file.
    Open,
    /// Looking at it.
    Look,
    /// Working off what the partner sent.
    Work,
    /// Sending.
    Pump,
}

pub(crate) struct Engine {
    pub(crate) config: WorkerConfig,
    pub(crate) events: Events,
    pub(crate) waker: Waker,
    pub(crate) alarm: Alarm,
    pub(crate) watch: Watching,
    pub(crate) journal: Option<Journal>,
    pub(crate) database: Option<Database>,
    pub(crate) wal: Wal,
    /// Install was asked for.
    pub(crate) installing: bool,
    /// The file was never there: the partner's is taken.
    pub(crate) missing: bool,
    /// Inode of the file that was served and has gone from its path.
    pub(crate) replaced: Option<u64>,
    pub(crate) writes: Option<Writes>,
    pub(crate) link: bool,
    pub(crate) gate: Gate,
    pub(crate) turn: u64,
    pub(crate) session: Session,
    pub(crate) inbox: VecDeque<Data>,
    pub(crate) work_after: Instant,
    /// What was applied and is not acknowledged: the history of the partner's, and up to where.
    pub(crate) unconfirmed: Option<(Origin, Seq)>,
    /// How long a lock is waited for before the work is left for later.
    pub(crate) patience: Duration,
    /// The last batches could not be applied together.
    pub(crate) apply_alone: bool,
    pub(crate) dirty: Dirty,
    pub(crate) received: Option<Received>,
    pub(crate) acked: Seq,
    pub(crate) position: Position,
    pub(crate) barriers: Vec<Barrier>,
    /// The log may hold entries that were not read.
    pub(crate) unread: bool,
    pub(crate) leading: Option<Leading>,
    pub(crate) follower: Option<Follower>,
    pub(crate) wanted: Option<Wanted>,
    pub(crate) paused: Option<Paused>,
    pub(crate) undoing: Option<Undoing>,
    /// Result the partner may not have heard of.
    pub(crate) untold: Option<(u64, RepairReport)>,
    pub(crate) switchover: Option<Switchover>,
    pub(crate) renewal: Renewal,
    /// Why it cannot follow.
    pub(crate) hold: Option<String>,
    /// The step that failed; the hold ends when it succeeds.
    held_by: Option<Source>,
    pub(crate) pump_after: Option<Instant>,
    pub(crate) reporter: Reporter,
    pub(crate) data_version: DataVersion,
    pub(crate) alarm_since: Instant,
    pub(crate) alarm_until: Instant,
    pub(crate) announced: Announced,
    pub(crate) herald: Arc<Herald>,
    /// When a commit was seen last.
    pub(crate) seen_at: Option<Instant>,
    pub(crate) look_at: Instant,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) attach_at: Option<Instant>,
    pub(crate) attached_last: Option<Instant>,
}

impl Engine {
    pub(crate) fn new(config: WorkerConfig, events: Events, waker: Waker, alarm: Alarm) -> Self {
        let now = Instant::now();
        Self {
            wal: Wal::of(&config.path),
            herald: Arc::new(Herald::new(config.name.clone(), Arc::clone(&events))),
            config,
            events,
            waker,
            alarm,
            watch: Watching::No,
            journal: None,
            database: None,
            installing: false,
            missing: false,
            replaced: None,
            writes: None,
            link: false,
            gate: Gate::Closed,
            turn: 0,
            session: Session::Detached,
            inbox: VecDeque::new(),
            work_after: now,
            unconfirmed: None,
            patience: SHORT,
            apply_alone: false,
            dirty: Dirty::default(),
            received: None,
            acked: Seq(0),
            position: Position::default(),
            barriers: Vec::new(),
            unread: false,
            leading: None,
            follower: None,
            wanted: None,
            paused: None,
            undoing: None,
            untold: None,
            switchover: None,
            renewal: Renewal::default(),
            hold: None,
            held_by: None,
            pump_after: None,
            reporter: Reporter::new(now),
            data_version: DataVersion::default(),
            alarm_since: now,
            alarm_until: now,
            announced: Announced::Nothing,
            seen_at: None,
            look_at: now + SAFETY,
            retry_at: None,
            attach_at: None,
            attached_last: None,
        }
    }

    /// How long nothing is due.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let rollback = self.database.as_ref().is_some_and(|database| database.keeps_rollback);
        let (step, part) = match self.announced {
            _ if rollback => (rollback::ALARM_STEP, 8),
            Announced::Synced(at) if now < at + AWAITED => (AWAITED_STEP, 32),
            Announced::Nothing if self.seen_at >= Some(self.alarm_since) => (FOLLOWING_STEP, 8),
            Announced::Nothing | Announced::Writes | Announced::Synced(_) => (ALARM_STEP, 8),
        };
        let mut at = if now < self.alarm_until {
            now + step.max(now.duration_since(self.alarm_since) / part)
        } else {
            self.look_at
        };
        if self.has_work() || self.unconfirmed.is_some() {
            at = at.min(self.work_after);
        }
        if self.undoing.as_ref().is_some_and(Undoing::is_due) {
            at = now;
        }
        let dues = [
            self.retry_at,
            self.attach_at,
            self.pump_after,
            self.switchover.as_ref().map(Switchover::deadline),
            self.reporter.due(),
            self.barrier_due(),
            self.renewal.due(),
        ];
        at = dues.into_iter().flatten().fold(at, Instant::min);
        at.saturating_duration_since(now)
    }

    /// Carries out a command.
    pub(crate) fn handle(&mut self, command: Command) {
        match command {
            Command::Install => {
                (self.installing, self.replaced) = (true, None);
                if self.database.is_none() {
                    self.open();
                }
            }
            Command::Remove { done } => done(self.remove()),
            Command::SetWrites { writes, drained, done } => done(self.set_writes(writes, drained)),
            Command::AllowWrites(until) => self.allow_writes(until),
            Command::LinkUp => {
                self.link = true;
                self.detach("the connection is a new one");
                self.attach_soon();
            }
            Command::LinkDown => {
                self.link = false;
                self.apply_what_came();
                self.detach("the connection to the partner is lost");
            }
            Command::SetGate(gate) if gate == self.gate => {}
            Command::SetGate(gate) => {
                self.gate = gate;
                self.detach("the exchange of changes is paused");
                self.attach_soon();
            }
            Command::Received(data) => self.receive(data),
            Command::Prepare { deadline, done } => self.prepare(deadline, done),
            Command::Commit { done } => done(self.commit()),
            Command::Abort => self.abandon("it was aborted"),
            Command::Compare { apply, run, done } => self.compare(apply, run, done),
            Command::Undo { run, done } => self.start_undo(run, done),
            Command::Barrier { deadline, done } => self.barrier(deadline, done),
            Command::SetCapacity { capacity, done } => done(self.set_capacity(capacity)),
            Command::Shutdown => {}
        }
        self.reporter.touch();
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.open();
        }
        self.keep_watch();
        self.renew_right(now);
        self.sync_ahead();
        self.look(Instant::now());
        if self.attach_at.is_some_and(|at| now >= at) {
            self.attach();
        }
        self.work(now);
        if self.pump_after.is_none_or(|at| now >= at) {
            self.pump_after = None;
            let pumped = self.pump();
            self.settle(Source::Pump, pumped);
        }
        self.drive();
        self.drive_undo();
        self.check_switchover(Instant::now());
        self.check_barriers(Instant::now());
        self.herald.set_ready(self.ships_at_once());
        self.report(Instant::now());
    }

    /// The thread ends.
    pub(crate) fn stop(&mut self) {
        self.detach("the daemon stops");
        // It goes on after the next start.
        if let Some(done) = self.wanted.take().and_then(|wanted| wanted.done) {
            done(Err(Error::Stopped));
        }
        self.refuse_barriers();
        self.save_acked();
        self.database = None;
    }

    /// Whether changes may be exchanged now.
    pub(crate) fn is_ready(&self) -> bool {
        self.link
            && self.gate == Gate::Open
            && self.installing
            && !self.position.overflowed
            && (self.database.is_some() || self.missing)
    }

    fn remove(&mut self) -> Result<(), Error> {
        self.installing = false;
        self.detach("HA is unconfigured");
        self.cancel_wanted("HA is unconfigured");
        (self.paused, self.untold) = (None, None);
        (self.database, self.watch, self.retry_at) = (None, Watching::No, None);
        self.wal.release();
        self.position = Position::default();
        self.clear_hold();
        (self.missing, self.replaced, self.attach_at) = (false, None, None);
        match database::remove(&self.config.path) {
            // What is not there has nothing of ours.
            Err(Error::Missing { .. }) => Ok(()),
            result => result,
        }
    }

    fn set_writes(&mut self, writes: Writes, drained: bool) -> Result<(), Error> {
        self.abandon("writes were opened or closed");
        self.writes = Some(writes);
        let unshipped = match self.session {
            Session::Attached(_) if drained => Unshipped::Nothing,
            Session::Attached(_) | Session::Detached | Session::Attaching(_) => Unshipped::Possible,
        };
        self.look_now();
        match &self.database {
            Some(_) => {
                self.set_fence(writes == Writes::Closed, unshipped)?;
                // Which schema is followed depends on who is active.
                if matches!(&self.session, Session::Attached(attached) if !attached.alike) {
                    self.reattach("writes were opened or closed while the schemas differ");
                }
                Ok(())
            }
            // A file that was deleted cannot be written: nothing is in the way of the role change.
            None if self.installing && !self.missing && self.config.path.exists() => {
                let hold = self.hold.clone().unwrap_or_else(|| "the database is not open".into());
                Err(Error::NotReady(hold))
            }
            None => Ok(()),
        }
    }

    /// Looks again as often as the application changes the schema just before.
    fn set_fence(&mut self, closed: bool, unshipped: Unshipped) -> Result<(), Error> {
        for _ in 0..SCHEMA_TRIES {
            let Some(database) = &mut self.database else { break };
            match database.set_fence(closed, unshipped, PATIENT) {
                Err(Error::Unseen { .. }) => self.look_now(),
                result => return result,
            }
        }
        Err(Error::Unseen { path: self.config.path.clone() })
    }

    /// Draws the consequence of a step.
    pub(crate) fn settle(&mut self, source: Source, result: Result<(), Error>) {
        let Err(error) = result else {
            if self.held_by == Some(source) && !self.wal.has_failed() {
                self.clear_hold();
            }
            return;
        };
        let busy = error.is_busy();
        let after = Instant::now() + if busy { Duration::from_millis(1) } else { RETRY };
        match source {
            Source::Work => self.work_after = after,
            Source::Pump => self.pump_after = Some(after),
            Source::Open | Source::Look => {}
        }
        if busy {
            return;
        }
        if matches!(error, Error::Overflow) {
            self.overflow(&error);
        } else if error.needs_attach() {
            tracing::warn!(database = %self.config.name, %error, "attaching again");
            self.work_after = Instant::now();
            self.reattach("the databases attach again");
        } else if matches!(error, Error::Replaced { .. }) {
            self.hold_for(Source::Open, &error);
            self.detach("the file was replaced");
            let inode = self.database.take().map(|database| database.inode);
            (self.watch, self.replaced) = (Watching::No, inode);
            self.wal.release();
            self.retry_at = Some(Instant::now() + RETRY);
        } else {
            self.hold_for(source, &error);
        }
    }

    pub(crate) fn hold_for(&mut self, source: Source, error: &Error) {
        let text = format!("{error}: {}", error.next_step());
        if self.hold.as_ref() != Some(&text) {
            tracing::warn!(database = %self.config.name, reason = %text, "records are held");
            self.hold = Some(text);
            self.reporter.touch();
        }
        self.held_by = Some(source);
    }

    pub(crate) fn clear_hold(&mut self) {
        if self.position.overflowed {
            return; // until HA is configured anew
        }
        (self.hold, self.held_by) = (None, None);
        self.reporter.touch();
    }

    pub(crate) fn send(&self, data: Data) {
        (self.events)(Event::Send(data));
    }

    /// Splits the borrow: the database, and what applying needs beside it.
    pub(crate) fn parts(&mut self) -> Result<(&mut Database, Setting<'_>), Error> {
        match (&mut self.database, &mut self.journal) {
            (Some(database), Some(journal)) => Ok((
                database,
                Setting {
                    name: &self.config.name,
                    role: self.config.rank,
                    journal,
                    patience: self.patience,
                    dirty: &mut self.dirty,
                    received: self.received.as_mut(),
                },
            )),
            (None, _) | (_, None) => Err(Error::Mismatch("the database is not open here")),
        }
    }
}
