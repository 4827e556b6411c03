//! The exchange with the partner: attach, apply what comes, acknowledge. Sending is in `pump`.
//!
//! Decides the order: what is received is worked off in order, except acknowledgements, which
//! count at once. Must not know how the message travels. Nothing is sent that is not durable here,
//! nothing is acknowledged that is not durable here.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{Attach, Batch, CompareStep, Data, LogExtent, Origin, Schema, Standing, TableState},
    id::Seq,
    license::LicensedRole,
    time::WallTime,
};

use crate::{
    apply,
    database::{Database, SHORT},
    engine::{Attached, Engine, Session, Source},
    error::{AtPath as _, Error},
    fault::{self, Mutant},
    follow::{self, Extra},
    journal::Acked,
    log::{self, Dirty, Extent},
    pump::WINDOW,
    received::Received,
    seed, sequence, series,
    session::{self, Agreement, Authority},
    status::{ConflictSummary, Event},
    worker::Writes,
};

/// Rows applied at a time while the application writes here, too.
const SHARED_ROWS: usize = 20;
/// How long received messages are worked off before commands are looked at again.
const WORK: Duration = Duration::from_millis(20);
/// The same of what came before the connection was lost, which somebody may wait for to take over.
const LAST_WORK: Duration = Duration::from_secs(1);

impl Engine {
    /// Begins an exchange: the secondary says where it stands, the primary asks it to.
    pub(crate) fn send_attach(&mut self) -> Result<(), Error> {
        if self.config.rank == LicensedRole::Primary {
            self.send(Data::Invite { database: self.config.name.clone() });
            return Ok(());
        }
        self.turn += 1;
        let mine = self.my_attach(self.turn)?;
        self.send(Data::Attach(mine.clone()));
        self.session = Session::Attaching(Box::new(mine));
        Ok(())
    }

    fn my_attach(&self, turn: u64) -> Result<Attach, Error> {
        let mut attach = Attach {
            database: self.config.name.clone(),
            turn,
            log: None,
            applied: None,
            synced: false,
            tables: Vec::new(),
            schema: [0; 16],
            open: false,
        };
        if let Some(database) = &self.database {
            // What is told here counts as acknowledged.
            self.wal.sync()?;
            let extent = log::extent(&database.reader).at(&database.path)?;
            self.check_overflow(extent)?;
            let Extent { first, last } = extent;
            let last_wall =
                log::written_at(&database.reader, last).at(&database.path)?.map(WallTime);
            attach.log = Some(LogExtent { origin: database.meta.origin, first, last, last_wall });
            attach.applied = database.meta.applied;
            attach.synced = database.meta.synced;
            (attach.schema, attach.open) = (database.digest, !database.fence_closed);
            attach.tables = database
                .tables
                .values()
                .map(|captured| TableState {
                    name: captured.table.name.clone(),
                    schema_hash: captured.table.hash,
                    standing: captured.standing,
                    sequence: None,
                })
                .collect();
            sequence::read_into(&database.reader, database, &mut attach.tables)
                .at(&database.path)?;
        }
        Ok(attach)
    }

    /// Takes a message of the partner and applies it, for a thread that has to go on: what is applied is
    /// acknowledged by the next [`Engine::work`]. Gives the message back if it has to come in its turn.
    pub(crate) fn receive_at_once(&mut self, data: Data) -> Option<Data> {
        let takes = |database: &Database| database.fence_closed && database.commits_at_once();
        let is_standby = self.database.as_ref().is_some_and(takes);
        // What comes faster than it is acknowledged is applied together.
        let waits =
            !self.inbox.is_empty() || self.unconfirmed.is_some() || self.switchover.is_some();
        // Whatever may lose is kept in the journal, which all databases share.
        let waits = waits || self.received.is_some() || !self.dirty.is_empty();
        let now = Instant::now();
        if !is_standby || waits || now < self.work_after {
            return Some(data);
        }
        self.receive(data);
        // Others wait for this thread: a lock is waited for by the worker's.
        self.patience = Duration::ZERO;
        self.work_off(now);
        self.patience = SHORT;
        self.reporter.touch();
        None
    }

    /// Takes a message of the partner.
    pub(crate) fn receive(&mut self, data: Data) {
        if !self.is_ready() {
            return;
        }
        match data {
            // A new beginning: what came before it belongs to an exchange that is over.
            Data::Invite { .. } if self.config.rank == LicensedRole::Secondary => {
                match self.session {
                    Session::Attaching(_) => self.attach_later(),
                    Session::Detached | Session::Attached(_) => {
                        self.reattach("the partner attaches again");
                    }
                }
            }
            Data::Attach(_) if self.config.rank == LicensedRole::Primary => {
                self.detach("the partner attaches again");
                self.inbox.push_back(data);
            }
            Data::Attach(_) | Data::Schema { .. } => self.inbox.push_back(data),
            Data::Ack { origin, to, .. } => {
                let taken = self.acknowledge(origin, to);
                // A hold of what waits is not over by that.
                if taken.is_err() || self.inbox.is_empty() {
                    self.settle(Source::Work, taken);
                }
            }
            Data::Batch(_) if self.inbox.len() > 2 * WINDOW => {
                self.reattach("the partner sends more than it may");
            }
            Data::Batch(_) | Data::Compare { .. } | Data::Undo { .. } => {
                // While attaching, what still arrives belongs to the exchange before; behind the
                // answer in the inbox it belongs to the new one.
                if matches!(self.session, Session::Attached(_)) || !self.inbox.is_empty() {
                    self.inbox.push_back(data);
                }
            }
            Data::Expect { .. } | Data::Invite { .. } => {}
        }
    }

    fn acknowledge(&mut self, origin: Origin, to: Seq) -> Result<(), Error> {
        let (Session::Attached(attached), Some(database)) = (&mut self.session, &self.database)
        else {
            return Ok(());
        };
        if origin != database.meta.origin || to > attached.sent_to {
            return Err(Error::Mismatch("an acknowledgement of what was not sent"));
        }
        self.acked = self.acked.max(to);
        self.reporter.unsaved = true;
        while let Some(sent) = attached.in_flight.pop_front_if(|sent| sent.to <= to) {
            if sent.is_all {
                attached.covered = sent.to;
            }
        }
        self.dirty.prune(floor(self.acked, &self.inbox));
        self.save_acked_in_time();
        self.reporter.touch();
        Ok(())
    }

    /// Works off received messages, for a while, and acknowledges what was applied.
    pub(crate) fn work(&mut self, now: Instant) {
        self.work_off(now);
        if self.unconfirmed.is_some() {
            let confirmed = self.confirm();
            // A hold of what waits is not over by that.
            if confirmed.is_err() || self.inbox.is_empty() {
                self.settle(Source::Work, confirmed);
            }
        }
    }

    /// Whether a message waits that can be worked off.
    pub(crate) fn has_work(&self) -> bool {
        let attached = matches!(self.session, Session::Attached(_));
        self.switchover.is_none()
            && !self.inbox.is_empty()
            && !(attached && series::is_begun(&self.inbox))
    }

    fn work_off(&mut self, now: Instant) {
        let until = now + WORK;
        while self.has_work() && Instant::now() >= self.work_after {
            let Some(data) = self.inbox.pop_front() else { break };
            match self.work_one(&data) {
                Ok(finished) => {
                    if !finished {
                        self.inbox.push_front(data);
                    }
                    self.settle(Source::Work, Ok(()));
                }
                Err(error) => {
                    // It stays first, so that nothing overtakes it; attaching again empties all.
                    self.inbox.push_front(data);
                    self.settle(Source::Work, Err(error));
                    break;
                }
            }
            self.reporter.touch();
            if Instant::now() >= until {
                break;
            }
        }
    }

    /// The partner may be gone for good: what has come whole is worth more here than asked for again.
    pub(crate) fn apply_what_came(&mut self) {
        let standby = self.database.as_ref().is_some_and(|database| database.fence_closed);
        let attached = matches!(self.session, Session::Attached(_));
        let until = Instant::now() + LAST_WORK;
        while standby && attached && self.has_work() && Instant::now() < until {
            let Some(data) = self.inbox.pop_front() else { return };
            let Data::Batch(batch) = &data else { return };
            match self.apply(batch) {
                Ok(true) => {}
                Ok(false) => self.inbox.push_front(data),
                Err(error) => {
                    let database = &self.config.name;
                    tracing::warn!(%database, %error, "what has come last cannot be applied");
                    return;
                }
            }
        }
    }

    /// `false`: not finished, the rest comes later.
    fn work_one(&mut self, data: &Data) -> Result<bool, Error> {
        let attached = matches!(self.session, Session::Attached(_));
        if !matches!(data, Data::Batch(_)) {
            self.confirm()?;
        }
        match data {
            // Of the exchange before: applied now it would move the position just told.
            Data::Batch(_) | Data::Compare { .. } | Data::Undo { .. } if !attached => Ok(true),
            Data::Batch(batch) => self.apply(batch),
            Data::Compare { run, step, .. } => self.compare_step(*run, step).map(|()| true),
            Data::Undo { run, step, .. } => self.undo_step(*run, step).map(|()| true),
            Data::Attach(theirs) => self.answer_attach(theirs).map(|()| true),
            Data::Schema { schema, .. } => self.take_schema(schema).map(|()| true),
            Data::Invite { .. } | Data::Ack { .. } | Data::Expect { .. } => Ok(true),
        }
    }

    /// Applies a batch with the rest of its series, on a standby with all that wait behind it.
    fn apply(&mut self, batch: &Batch) -> Result<bool, Error> {
        let started = Instant::now();
        let shared = self.database.as_ref().is_some_and(|db| !db.fence_closed);
        let rollback = self.database.as_ref().is_some_and(|db| db.keeps_rollback);
        let limit = if shared { SHARED_ROWS } else { usize::MAX };
        // Without a WAL a long transaction locks readers out. After a failure one at a time, so that
        // a bad one does not hold up those before it.
        let alone = shared || rollback || std::mem::take(&mut self.apply_alone);
        if let Some(database) = &self.database {
            let more = matches!(self.inbox.front(), Some(Data::Batch(_)));
            self.wal.keep_length(&database.writer, more && !alone)?;
        }
        let waiting = std::mem::take(&mut self.inbox);
        let batches = || std::iter::once(batch).chain(series::batches(&waiting));
        // Two open sides compete record by record, and the one that writes here has to have its turn.
        let together = if shared { 1 } else { series::complete(batches(), alone) };
        let applied = self.parts().and_then(|(database, mut setting)| {
            if together == 0 {
                return Err(Error::Mismatch("another message came within a series"));
            }
            let batches = batches().take(together);
            let outcome = apply::apply_batches(database, &mut setting, batches, limit)?;
            Ok((outcome, database.meta.applied.map_or(batch.to, |applied| applied.seq)))
        });
        self.inbox = waiting;
        self.apply_alone = applied.is_err();
        let (outcome, to) = applied?;
        self.note_losers(&outcome.losers);
        for data in self.inbox.drain(..outcome.finished.saturating_sub(1)) {
            if let Data::Batch(batch) = &data {
                self.reporter.note_applied(batch);
            }
        }
        if outcome.finished > 0 {
            self.reporter.note_applied(batch);
            self.unconfirmed = Some((batch.origin, to));
        }
        if shared {
            // Without a pause two applications got 5 changes through in 4 s.
            self.work_after = Instant::now() + started.elapsed();
        }
        Ok(outcome.finished > 0)
    }

    /// Acknowledges what was applied: readers here see it already; the partner forgets it only once it is
    /// durable.
    fn confirm(&mut self) -> Result<(), Error> {
        let Some((origin, to)) = self.unconfirmed else { return Ok(()) };
        self.wal.sync()?;
        self.unconfirmed = None;
        self.send(Data::Ack { database: self.config.name.clone(), origin, to });
        Ok(())
    }

    /// Whether the log has what the partner has applied of it; else a backup was restored here, and both
    /// attach anew.
    fn has_applied_by(&mut self, theirs: &Attach) -> Result<bool, Error> {
        let Some(database) = &mut self.database else { return Ok(true) };
        let origin = database.meta.origin;
        let Some(applied) = theirs.applied.filter(|applied| applied.origin == origin) else {
            return Ok(true);
        };
        if database.still_has(Acked { seq: applied.seq, ms: applied.wall.map(|wall| wall.0) })? {
            return Ok(true);
        }
        self.note_restored()?;
        self.reattach("a backup was restored into the database");
        Ok(false)
    }

    fn answer_attach(&mut self, theirs: &Attach) -> Result<(), Error> {
        if !self.has_applied_by(theirs)? {
            return Ok(());
        }
        let mine = match self.config.rank {
            LicensedRole::Primary => self.my_attach(theirs.turn)?,
            LicensedRole::Secondary => match &self.session {
                Session::Attaching(mine) if mine.turn == theirs.turn => (**mine).clone(),
                Session::Attaching(_) | Session::Detached | Session::Attached(_) => return Ok(()),
            },
        };
        self.check_overflow_by(&mine, theirs)?;
        let agreement = session::agree(&mine, theirs);
        if let (Some(agreement), Some(database), Some(journal)) =
            (&agreement, &mut self.database, &self.journal)
        {
            if !agreement.continued && self.config.rank == LicensedRole::Primary {
                // First of all: a place stored under positions that end here means nothing.
                journal.forget_reached(&self.config.name)?;
            }
            // Before the answer: once the partner counts on it, it must survive a crash here.
            persist(database, agreement)?;
        }
        let (i_have_it, partner_has_it) = (mine.log.is_some(), theirs.log.is_some());
        if self.config.rank == LicensedRole::Primary {
            self.send(Data::Attach(mine));
        }
        match agreement {
            Some(agreement) => self.begin(agreement),
            None if i_have_it => self.send_schema(),
            None if partner_has_it => Ok(()),
            None => {
                self.hold = Some(
                    "the file is missing on both servers: start the application once on the active \
                     server, so that it creates the file"
                        .into(),
                );
                Ok(())
            }
        }
    }

    fn begin(&mut self, agreement: Agreement) -> Result<(), Error> {
        self.dirty.resume(agreement.send_from);
        self.received = agreement.journaled.then(Received::default);
        self.note_position(agreement.send_from);
        let tables: Vec<String> = agreement.tables.iter().cloned().collect();
        let extra = if agreement.compare { Extra::Keep } else { Extra::Drop };
        self.attached(Attached {
            sent_to: agreement.send_from,
            in_flight: VecDeque::new(),
            covered: Seq(0),
            tables: agreement.tables,
            held: agreement.held,
            authorities: agreement.authorities,
            following: (agreement.follows == Some(Authority::Theirs)).then_some(extra),
            alike: agreement.alike,
            uncompared: agreement.compare || !agreement.partial.is_empty(),
        });
        if agreement.follows == Some(Authority::Mine) {
            self.send_schema()?;
        }
        if let Some(database) = &mut self.database {
            sequence::raise(database, &agreement.sequences)?;
        }
        let due = agreement.compare || !agreement.partial.is_empty();
        if due && self.config.rank == LicensedRole::Primary {
            let tables =
                if agreement.compare { tables } else { agreement.partial.into_iter().collect() };
            self.lead_initial(tables)?;
        }
        self.tell_again();
        self.lead_wanted();
        Ok(())
    }

    fn send_schema(&mut self) -> Result<(), Error> {
        let Some(database) = &self.database else { return Ok(()) };
        let schema = seed::read(&database.reader).at(&database.path)?;
        self.send(Data::Schema { database: self.config.name.clone(), schema });
        Ok(())
    }

    fn take_schema(&mut self, schema: &Schema) -> Result<(), Error> {
        if !self.missing {
            return self.follow(schema);
        }
        let closed = self.writes != Some(Writes::Open);
        let (capacity, journaling) = (self.config.capacity.entries, self.config.journaling);
        seed::build(&self.config.path, schema, capacity, closed, journaling)?;
        tracing::info!(database = %self.config.name, path = %self.config.path.display(),
            "the missing database was built from the partner's schema");
        self.open();
        Ok(())
    }

    /// Takes over the schema of the active server.
    fn follow(&mut self, schema: &Schema) -> Result<(), Error> {
        let (Session::Attached(attached), Some(database)) = (&self.session, &mut self.database)
        else {
            return Ok(());
        };
        let Some(extra) = attached.following.filter(|_| database.fence_closed) else {
            return Ok(());
        };
        let followed = follow::follow(database, schema, extra)?;
        for refused in &followed.refused {
            tracing::warn!(database = %self.config.name, %refused,
                "a change of the partner's schema cannot be made here");
        }
        if !followed.changed {
            return Ok(());
        }
        tracing::info!(database = %self.config.name, tables = ?followed.tables,
            "the schema follows the active server's");
        database.check_schema()?;
        self.dirty = Dirty::default();
        if extra == Extra::Keep {
            // First contact: what is here was never the partner's, so it is merged.
            let tables = followed.tables.iter().filter_map(|name| database.table(name));
            let tables: Vec<u32> = tables.map(|captured| captured.t).collect();
            database.set_standing(&tables, Standing::Behind)?;
        }
        self.reattach("the schema follows the active server's");
        Ok(())
    }

    pub(crate) fn note_losers(&mut self, losers: &[crate::journal::Loser]) {
        self.reporter.conflicts_total += losers.len() as u64;
        for loser in losers {
            (self.events)(Event::ConflictJournaled(ConflictSummary {
                database: self.config.name.clone(),
                table: loser.table.clone(),
                key: crate::value::describe_key(&loser.key),
                kind: loser.kind,
                loser_was_own: loser.was_own,
            }));
        }
    }
}

/// Up to where own changes are forgotten: what waits to be applied was sent with the knowledge of
/// its base, so what is newer must still be there to be compared with.
pub(crate) fn floor<'a>(acked: Seq, waiting: impl IntoIterator<Item = &'a Data>) -> Seq {
    if fault::is(Mutant::TrimOnAck) {
        return acked;
    }
    let bases = waiting.into_iter().filter_map(|data| match data {
        Data::Batch(batch) => Some(batch.base),
        Data::Compare {
            step:
                CompareStep::Fix { base, .. }
                | CompareStep::Fixed { base, .. }
                | CompareStep::FixedNewer { base, .. }
                | CompareStep::Fill { base, .. }
                | CompareStep::Fetched { base, .. },
            ..
        } => Some(*base),
        Data::Invite { .. }
        | Data::Attach(_)
        | Data::Schema { .. }
        | Data::Ack { .. }
        | Data::Compare { .. }
        | Data::Undo { .. }
        | Data::Expect { .. } => None,
    });
    bases.fold(acked, Seq::min)
}

/// Stores what was agreed, where it differs from what is stored. In steady state it does not, so
/// an active server is not written when the partner attaches again.
fn persist(database: &mut Database, agreement: &Agreement) -> Result<(), Error> {
    let held: Vec<u32> = database
        .tables
        .values()
        .filter(|captured| {
            // One the partner has dropped is about to be dropped here.
            let dropped = agreement.follows == Some(Authority::Theirs)
                && agreement.absent.contains(&captured.table.name);
            captured.standing == Standing::Even
                && !dropped
                && !agreement.tables.contains(&captured.table.name)
        })
        .map(|captured| captured.t)
        .collect();
    database.set_standing(&held, Standing::Behind)?;
    let (applied, compare) = (agreement.applied, agreement.compare);
    database.update_meta(|meta| {
        meta.applied = Some(applied);
        meta.synced = !compare;
    })
}
