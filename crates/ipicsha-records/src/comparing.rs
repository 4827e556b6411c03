//! Comparisons within the worker: begin, lead, answer, finish, interrupt.
//!
//! Decides when one may run and what its end changes. Which question comes next is the business
//! of `compare`, what happens to rows that of `repair`.

use ipicsha_core::{
    data::{CompareStep, Data, RepairReport, Standing},
    id::Seq,
    license::LicensedRole,
};

use crate::{
    capture::write_standing,
    compare::{Follower, Leader, Next},
    database::{Database, PATIENT},
    engine::{Engine, Session, Source},
    error::{AtPath as _, Error},
    log,
    repair::{self, Terms, Versions},
    scan::Span,
    session::Authorities,
    status::Event,
    worker::Done,
};

/// A comparison this server leads.
pub(crate) struct Leading {
    pub(crate) leader: Leader,
    done: Option<Done<RepairReport>>,
}

impl Engine {
    /// The shell asks for a comparison.
    pub(crate) fn compare(&mut self, apply: bool, run: u64, done: Done<RepairReport>) {
        let refusal = match &self.session {
            _ if self.config.rank == LicensedRole::Secondary => Some(Error::NotLeader),
            _ if self.leading.is_some() => {
                Some(Error::NotReady("a comparison of this database is running already".into()))
            }
            _ if self.switchover.is_some() => {
                Some(Error::NotReady("a switchover is being prepared".into()))
            }
            Session::Attached(_) => None,
            Session::Detached | Session::Attaching(_) => {
                Some(Error::NotReady("this database is not connected to the partner's".into()))
            }
        };
        match (refusal, &self.session) {
            (Some(refusal), _) => done(Err(refusal)),
            (None, Session::Attached(attached)) => {
                let tables = attached.tables.iter().cloned().collect();
                if let Err(error) = self.lead(run, apply, false, tables, Some(done)) {
                    self.settle(Source::Work, Err(error));
                }
            }
            (None, Session::Detached | Session::Attaching(_)) => {}
        }
    }

    pub(crate) fn lead(
        &mut self,
        run: u64,
        apply: bool,
        initial: bool,
        tables: Vec<String>,
        done: Option<Done<RepairReport>>,
    ) -> Result<(), Error> {
        let mark = match self.last_seq() {
            Ok(mark) => mark,
            Err(error) => {
                if let Some(done) = done {
                    done(Err(Error::Interrupted(error.to_string())));
                }
                return Err(error);
            }
        };
        let name = self.config.name.clone();
        let leader =
            Leader::new(name, run, apply, initial, tables, mark, self.authorities(initial));
        self.leading = Some(Leading { leader, done });
        Ok(())
    }

    /// Whose contents count, in the comparison an exchange begins with.
    fn authorities(&self, initial: bool) -> Authorities {
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
            self.answer(run, step);
            return;
        }
        let flushed = !self.unread && attached.sent_to >= self.dirty.scanned_to();
        let (Some(leading), Some(database)) = (&mut self.leading, &self.database) else { return };
        let run = leading.leader.run;
        match leading.leader.next(database, self.acked, flushed) {
            Ok(Next::Wait) => {}
            Ok(Next::Ask(step)) => self.answer(run, step),
            Ok(Next::Done(report)) => self.finish_leading(report),
            Err(Error::Interrupted(reason)) => {
                self.answer(run, CompareStep::Interrupted(reason.clone()));
                self.interrupt(&reason);
            }
            Err(error) => self.settle(Source::Work, Err(error)),
        }
    }

    fn answer(&self, run: u64, step: CompareStep) {
        self.send(Data::Compare { database: self.config.name.clone(), run, step });
    }

    /// Works off one step of the partner.
    pub(crate) fn compare_step(&mut self, run: u64, step: &CompareStep) -> Result<(), Error> {
        let leads = self.leading.as_ref().is_some_and(|leading| leading.leader.run == run);
        let follows = self.follower.as_ref().is_some_and(|follower| follower.run == run);
        match step {
            CompareStep::Begin { apply, initial, tables } => {
                let mark = self.last_seq()?;
                let tables = tables.clone();
                let authorities = self.authorities(*initial);
                let follower = Follower::new(run, *apply, *initial, tables, mark, authorities);
                self.follower = Some(follower);
                Ok(())
            }
            CompareStep::Interrupted(reason) if leads || follows => {
                self.interrupt(reason);
                Ok(())
            }
            CompareStep::Done(report) if follows => self.finish_following(report.clone()),
            CompareStep::Ready
            | CompareStep::DifferingRanges(_)
            | CompareStep::DifferingKeys(_)
            | CompareStep::Fixed { .. }
                if leads =>
            {
                self.take_answer(step)
            }
            CompareStep::Ranges { .. } | CompareStep::Rows { .. } | CompareStep::Fix { .. }
                if follows =>
            {
                let answer = self.take_question(run, step)?;
                self.answer(run, answer);
                Ok(())
            }
            // Of a comparison that is over.
            CompareStep::Interrupted(_)
            | CompareStep::Done(_)
            | CompareStep::Ready
            | CompareStep::DifferingRanges(_)
            | CompareStep::DifferingKeys(_)
            | CompareStep::Fixed { .. }
            | CompareStep::Ranges { .. }
            | CompareStep::Rows { .. }
            | CompareStep::Fix { .. } => Ok(()),
        }
    }

    fn take_answer(&mut self, step: &CompareStep) -> Result<(), Error> {
        let table = self.leading.as_ref().and_then(|l| l.leader.table()).map(str::to_owned);
        if let (CompareStep::Fixed { base, found, copies, gone }, Some(table)) = (step, &table) {
            let theirs = self.leading.as_ref().is_some_and(|l| l.leader.yields(table));
            let run = self.leading.as_ref().map_or(0, |leading| leading.leader.run);
            let (database, mut setting) = self.parts()?;
            let refused = if theirs {
                let versions = Versions { copies, gone };
                let losers =
                    repair::yield_to(database, &mut setting, table, *base, &versions, run)?;
                self.note_losers(&losers);
                Vec::new()
            } else {
                repair::copy(database, &mut setting, table, *base, copies)?
            };
            if let Some(leading) = &mut self.leading {
                leading.leader.take_fixed(found, refused);
            }
            return Ok(());
        }
        let (Some(leading), Some(database)) = (&mut self.leading, &self.database) else {
            return Ok(());
        };
        match step {
            CompareStep::Ready => leading.leader.take_ready(),
            CompareStep::DifferingRanges(differing) => leading.leader.take_ranges(differing)?,
            CompareStep::DifferingKeys(keys) => {
                let table = table.and_then(|name| database.table(&name));
                let table = table.ok_or(Error::Mismatch("an answer about an unknown table"))?;
                leading.leader.take_keys(keys.clone(), &table.table)?;
            }
            CompareStep::Begin { .. }
            | CompareStep::Ranges { .. }
            | CompareStep::Rows { .. }
            | CompareStep::Fix { .. }
            | CompareStep::Fixed { .. }
            | CompareStep::Done(_)
            | CompareStep::Interrupted(_) => {}
        }
        Ok(())
    }

    fn take_question(&mut self, run: u64, step: &CompareStep) -> Result<CompareStep, Error> {
        let index = match step {
            CompareStep::Ranges { table, .. }
            | CompareStep::Rows { table, .. }
            | CompareStep::Fix { table, .. } => *table,
            CompareStep::Begin { .. }
            | CompareStep::Ready
            | CompareStep::DifferingRanges(_)
            | CompareStep::DifferingKeys(_)
            | CompareStep::Fixed { .. }
            | CompareStep::Done(_)
            | CompareStep::Interrupted(_) => return Err(Error::Mismatch("not a question")),
        };
        let closed = || Error::Mismatch("the database is not open here");
        let follower = self.follower.as_mut().ok_or_else(closed)?;
        let (name, apply) = (follower.table(index)?, follower.apply);
        let database = self.database.as_ref().ok_or_else(closed)?;
        let table = &database
            .table(&name)
            .ok_or(Error::Mismatch("a comparison of a table that is not here"))?
            .table;
        match step {
            CompareStep::Ranges { after, ranges, .. } => {
                follower.ranges(database, table, after.clone(), ranges.clone())
            }
            CompareStep::Rows { after, upto, rows, .. } => {
                let span = Span { after: after.clone(), upto: upto.clone() };
                Follower::rows(database, table, &span, rows.clone())
            }
            CompareStep::Fix { base, rows, .. } => {
                let authority = follower.authorities.get(&name).copied();
                let terms = Terms { base: *base, run, apply, authority };
                let (database, mut setting) = self.parts()?;
                let fixed = repair::fix(database, &mut setting, &name, rows, &terms)?;
                let base = database.meta.applied.map_or(Seq(0), |applied| applied.seq);
                self.note_losers(&fixed.losers);
                if let Some(follower) = &mut self.follower {
                    follower.note(&fixed.found);
                }
                let repair::Fixed { found, copies, gone, .. } = fixed;
                Ok(CompareStep::Fixed { base, found, copies, gone })
            }
            CompareStep::Begin { .. }
            | CompareStep::Ready
            | CompareStep::DifferingRanges(_)
            | CompareStep::DifferingKeys(_)
            | CompareStep::Fixed { .. }
            | CompareStep::Done(_)
            | CompareStep::Interrupted(_) => Err(Error::Mismatch("not a question")),
        }
    }

    fn finish_leading(&mut self, report: RepairReport) {
        let Some(mut leading) = self.leading.take() else { return };
        let (run, initial) = (leading.leader.run, leading.leader.initial);
        // The partner notes it after us; a crash in between compares once more, which is harmless.
        if let Err(error) = self.note_equal(&report) {
            let reason = error.to_string();
            self.answer(run, CompareStep::Interrupted(reason.clone()));
            self.leading = Some(leading);
            self.interrupt(&reason);
            self.settle(Source::Work, Err(error));
            if initial {
                self.reattach("the initial comparison begins again");
            }
            return;
        }
        self.answer(run, CompareStep::Done(report.clone()));
        if let Some(done) = leading.done.take() {
            done(Ok(report.clone()));
        }
        (self.events)(Event::RepairFinished { run, initial, result: Ok(report) });
    }

    fn finish_following(&mut self, report: RepairReport) -> Result<(), Error> {
        self.note_equal(&report)?;
        if let Some(follower) = self.follower.take() {
            let (run, initial) = (follower.run, follower.initial);
            (self.events)(Event::RepairFinished { run, initial, result: Ok(report) });
        }
        Ok(())
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
        Ok(())
    }

    /// Ends what runs, with this reason.
    pub(crate) fn interrupt(&mut self, reason: &str) {
        if let Some(leading) = self.leading.take() {
            let (run, initial) = (leading.leader.run, leading.leader.initial);
            if let Some(done) = leading.done {
                done(Err(Error::Interrupted(reason.into())));
            }
            let result = Err(reason.to_owned());
            (self.events)(Event::RepairFinished { run, initial, result });
        }
        if let Some(follower) = self.follower.take() {
            let (run, initial) = (follower.run, follower.initial);
            let result = Err(reason.to_owned());
            (self.events)(Event::RepairFinished { run, initial, result });
        }
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
