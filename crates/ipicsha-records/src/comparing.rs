//! Comparisons within the worker: begin, lead, answer, finish, interrupt.
//!
//! Decides when one may run and what its end changes. Which question comes next is the business
//! of `compare`, what the partner's steps mean that of `steps`.

use ipicsha_core::{
    data::{CompareStep, Data, Key, PrimaryVersion, RepairReport, Standing},
    id::Seq,
    license::LicensedRole,
};

use crate::{
    capture::write_standing,
    compare::Next,
    database::{Database, PATIENT},
    engine::{Engine, Session, Source},
    error::{AtPath as _, Error},
    log,
    resume::Wanted,
    session::Authorities,
    status::Event,
    worker::Done,
};

impl Engine {
    /// The shell asks for a comparison.
    pub(crate) fn compare(&mut self, apply: bool, run: u64, done: Done<RepairReport>) {
        let refusal = match &self.session {
            _ if self.config.rank == LicensedRole::Secondary => Some(Error::NotLeader),
            _ if self.wanted.is_some() => Some(Error::Comparing("a comparison or repair of it")),
            _ if self.leading.is_some() => Some(Error::Comparing("the initial comparison of it")),
            _ if self.switchover.is_some() => {
                Some(Error::NotReady("a switchover is being prepared".into()))
            }
            Session::Attached(_) => None,
            Session::Detached | Session::Attaching(_) => {
                Some(Error::NotReady("this database is not connected to the partner's".into()))
            }
        };
        if let Some(refusal) = refusal {
            done(Err(refusal));
            return;
        }
        self.wanted = Some(Wanted { run, apply, done: Some(done), attempts: 0 });
        self.lead_wanted();
    }

    /// Whose contents count, in the comparison an exchange begins with.
    pub(crate) fn authorities(&self, initial: bool) -> Authorities {
        match &self.session {
            Session::Attached(attached) if initial => attached.authorities.clone(),
            Session::Attached(_) | Session::Detached | Session::Attaching(_) => Authorities::new(),
        }
    }

    pub(crate) fn last_seq(&self) -> Result<Seq, Error> {
        let Some(database) = &self.database else { return Ok(Seq(0)) };
        Ok(log::extent(&database.reader).at(&database.path)?.last)
    }

    /// Lets a running comparison go on, if it can.
    pub(crate) fn drive(&mut self) {
        let Session::Attached(attached) = &self.session else { return };
        if let Some(step) = self.follower.as_mut().and_then(|follower| follower.next(self.acked)) {
            let run = self.follower.as_ref().map_or(0, |follower| follower.run);
            let answered = self.answer(run, step);
            self.settle(Source::Work, answered);
            return;
        }
        let flushed = !self.unread && attached.sent_to >= self.dirty.scanned_to();
        let (Some(leading), Some(database)) = (&mut self.leading, &self.database) else { return };
        let run = leading.leader.run;
        match leading.leader.next(database, self.acked, flushed) {
            Ok(Next::Wait) => {}
            Ok(Next::Ask(step)) => {
                self.note_led();
                self.save_reached();
                if let Some(progress) = self.leading.as_mut().and_then(|l| l.leader.tell_progress())
                {
                    let database = self.config.name.clone();
                    self.send(Data::Compare { database, run, step: progress });
                }
                let asked = self.answer(run, step);
                if let Err(error) = asked {
                    // The question counts as asked: only another attempt goes on from here.
                    self.reattach("rows could not be made durable");
                    self.settle(Source::Work, Err(error));
                }
            }
            Ok(Next::Done(report)) => self.finish_leading(report),
            Err(Error::Interrupted(reason)) => {
                self.tell_interrupted(run, &reason);
                self.interrupt(&reason);
            }
            Err(error) => self.settle(Source::Work, Err(error)),
        }
    }

    /// Sends a step. Rows go out only once they are durable: the other server must not be ahead
    /// of this one after a power cut.
    pub(crate) fn answer(&self, run: u64, step: CompareStep) -> Result<(), Error> {
        if carries_rows(&step) {
            self.wal.sync()?;
        }
        self.send(Data::Compare { database: self.config.name.clone(), run, step });
        Ok(())
    }

    fn finish_leading(&mut self, report: RepairReport) {
        let Some(leading) = &self.leading else { return };
        let (run, initial) = (leading.leader.run, leading.leader.initial);
        // The partner notes it after us; a crash in between compares once more, which is harmless.
        if let Err(error) = self.note_equal(&report) {
            let reason = error.to_string();
            self.tell_interrupted(run, &reason);
            self.interrupt(&reason);
            self.settle(Source::Work, Err(error));
            if initial {
                self.reattach("the initial comparison begins again");
            }
            return;
        }
        self.leading = None;
        self.end_run(run, Ok(&report));
        self.tell_done(run, &report);
        if let Some(done) = self.wanted.take_if(|wanted| wanted.run == run).and_then(|w| w.done) {
            done(Ok(report.clone()));
        }
        self.untold = (!initial).then(|| (run, report.clone()));
        (self.events)(Event::RepairFinished { run, initial, result: Ok(report) });
        self.lead_wanted();
    }

    fn tell_done(&self, run: u64, report: &RepairReport) {
        let step = CompareStep::Done(report.clone());
        self.send(Data::Compare { database: self.config.name.clone(), run, step });
    }

    /// The connection may have been lost before the last result was heard.
    pub(crate) fn tell_again(&mut self) {
        if let Some((run, report)) = self.untold.take() {
            self.tell_done(run, &report);
        }
    }

    fn tell_interrupted(&self, run: u64, reason: &str) {
        let step = CompareStep::Interrupted(reason.into());
        self.send(Data::Compare { database: self.config.name.clone(), run, step });
    }

    pub(crate) fn finish_following(&mut self, report: RepairReport) -> Result<(), Error> {
        self.note_equal(&report)?;
        if let Some(follower) = self.follower.take() {
            let (run, initial) = (follower.run, follower.initial);
            self.end_run(run, Ok(&report));
            (self.events)(Event::RepairFinished { run, initial, result: Ok(report) });
        }
        Ok(())
    }

    /// The end of a comparison that was cut off just before it was told.
    pub(crate) fn finish_paused(&mut self, run: u64, report: RepairReport) {
        if self.paused.take_if(|paused| paused.run == run && !paused.initial).is_some() {
            self.end_run(run, Ok(&report));
            (self.events)(Event::RepairFinished { run, initial: false, result: Ok(report) });
        }
    }

    fn note_equal(&mut self, report: &RepairReport) -> Result<(), Error> {
        self.reporter.touch();
        if !report.applied {
            return Ok(());
        }
        if let Some(database) = &mut self.database {
            mark_compared(database, report)?;
        }
        self.received = None;
        if let Session::Attached(attached) = &mut self.session {
            attached.uncompared = false;
        }
        Ok(())
    }

    /// Ends what runs, with this reason.
    pub(crate) fn interrupt(&mut self, reason: &str) {
        if let Some(leading) = self.leading.take() {
            let (run, initial) = (leading.leader.run, leading.leader.initial);
            if initial {
                let result = Err(reason.to_owned());
                (self.events)(Event::RepairFinished { run, initial, result });
            } else {
                self.cancel_wanted(reason);
            }
        }
        if let Some(follower) = self.follower.take() {
            let (run, initial) = (follower.run, follower.initial);
            self.end_run(run, Err(reason));
            let result = Err(reason.to_owned());
            (self.events)(Event::RepairFinished { run, initial, result });
        }
    }

    /// The same on the side that leads.
    fn note_led(&mut self) {
        if self.received.is_none() {
            return;
        }
        if let Some((tables, index, after)) = self.leading.as_ref().and_then(|l| l.leader.done()) {
            self.note_compared(&tables, index, after);
        }
    }

    /// What was compared so far cannot differ any more without a log entry that says so.
    pub(crate) fn note_compared(&mut self, tables: &[String], index: usize, after: Option<Key>) {
        let (Some(received), Some(database)) = (&mut self.received, &self.database) else { return };
        let t = |name: &String| database.table(name).map(|captured| captured.t);
        let partly = tables.get(index).and_then(t).zip(after);
        received.note_compared(tables.iter().take(index).filter_map(t), partly);
    }
}

fn carries_rows(step: &CompareStep) -> bool {
    match step {
        CompareStep::Fix { rows, .. } => {
            let carried = |version: &PrimaryVersion| {
                matches!(version, PrimaryVersion::Contents(_) | PrimaryVersion::Dated { .. })
            };
            rows.iter().any(|(_, version)| carried(version))
        }
        CompareStep::FixedNewer { .. } => true,
        CompareStep::Fixed { copies: rows, .. }
        | CompareStep::Fill { rows, .. }
        | CompareStep::Fetched { rows, .. } => !rows.is_empty(),
        CompareStep::Begin { .. }
        | CompareStep::Ready
        | CompareStep::Ranges { .. }
        | CompareStep::DifferingRanges(_)
        | CompareStep::Rows { .. }
        | CompareStep::DifferingKeys(_)
        | CompareStep::Done(_)
        | CompareStep::Interrupted(_)
        | CompareStep::Fetch { .. }
        | CompareStep::Progress { .. } => false,
    }
}

/// In one transaction, so that a crash leaves either all or nothing to be compared again.
fn mark_compared(database: &mut Database, report: &RepairReport) -> Result<(), Error> {
    let unequal: Vec<u32> = report
        .tables
        .iter()
        .filter_map(|table| database.table(&table.table))
        .filter(|captured| captured.standing != Standing::Even)
        .map(|captured| captured.t)
        .collect();
    if unequal.is_empty() {
        return database.update_meta(|meta| meta.synced = true);
    }
    let meta = crate::capture::Meta { synced: true, ..database.meta };
    database.transaction(PATIENT, |database| {
        unequal
            .iter()
            .try_for_each(|t| write_standing(&database.writer, *t, Standing::Even))
            .and_then(|()| crate::capture::write_meta(&database.writer, &meta))
            .at(&database.path)
    })?;
    database.meta = meta;
    database.note_standing(&unequal, Standing::Even);
    Ok(())
}
