//! A comparison that was cut off goes on where it was.
//!
//! Decides whether that is still correct: both logs continue and nothing that gives the stored
//! place its meaning has changed. Must not know how a comparison proceeds.

use ipicsha_core::data::RepairReport;

use crate::{
    compare::{Leader, Plan},
    engine::{Engine, Session, Source},
    error::Error,
    runs::Unfinished,
    session::Authorities,
    status::{Event, RepairProgress},
    value,
    worker::Done,
};

/// Attempts without progress after which a comparison somebody asked for is given up.
const ATTEMPTS: u32 = 20;

/// A comparison this server leads.
pub(crate) struct Leading {
    pub(crate) leader: Leader,
    /// What must be the same for another attempt to go on from a stored place.
    pub(crate) basis: [u8; 16],
}

/// A comparison somebody asked for, until it ends.
pub(crate) struct Wanted {
    pub(crate) run: u64,
    pub(crate) apply: bool,
    /// Who waits for its result; nobody after a restart.
    pub(crate) done: Option<Done<RepairReport>>,
    /// Since it last got on.
    pub(crate) attempts: u32,
}

/// One that is cut off.
pub(crate) struct Paused {
    pub(crate) run: u64,
    pub(crate) initial: bool,
    pub(crate) progress: RepairProgress,
}

impl Engine {
    /// What was asked for before a restart is still wanted.
    pub(crate) fn recall_wanted(&mut self) -> Result<(), Error> {
        let Some(journal) = &self.journal else { return Ok(()) };
        if self.wanted.is_none()
            && let Some(Unfinished { run, apply }) = journal.unfinished(&self.config.name, false)?
        {
            self.wanted = Some(Wanted { run, apply, done: None, attempts: 0 });
            let (initial, progress) = (false, RepairProgress::waiting(run));
            self.paused.get_or_insert(Paused { run, initial, progress });
        }
        Ok(())
    }

    /// Begins the comparison that is asked for, or goes on with it.
    pub(crate) fn lead_wanted(&mut self) {
        let Session::Attached(attached) = &self.session else { return };
        let Some(wanted) = self.wanted.as_mut().filter(|_| self.leading.is_none()) else { return };
        wanted.attempts += 1;
        let (run, apply, attempts) = (wanted.run, wanted.apply, wanted.attempts);
        if attempts > ATTEMPTS {
            self.cancel_wanted("it was cut off again and again");
            return;
        }
        let tables = attached.tables.iter().cloned().collect();
        if let Err(error) = self.lead(run, apply, false, tables) {
            self.cancel_wanted(&error.to_string());
            self.settle(Source::Work, Err(error));
        }
    }

    /// Begins the comparison an exchange begins with, or goes on with it.
    pub(crate) fn lead_initial(&mut self, tables: Vec<String>) -> Result<(), Error> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let run = match journal.unfinished(&self.config.name, true)? {
            Some(unfinished) => unfinished.run,
            None => journal.new_run()?,
        };
        self.lead(run, true, true, tables)
    }

    fn lead(
        &mut self,
        run: u64,
        apply: bool,
        initial: bool,
        tables: Vec<String>,
    ) -> Result<(), Error> {
        let mark = self.last_seq()?;
        let authorities = self.authorities(initial);
        let basis = self.basis(apply, &tables, &authorities);
        let Some(journal) = &self.journal else { return Ok(()) };
        let name = self.config.name.clone();
        let reached = journal.reached(&name, run, basis)?;
        journal.begin_run(&name, run, apply, initial, true)?;
        if let Some(reached) = &reached {
            tracing::info!(database = %name, run, rows = reached.rows_compared,
                "the comparison goes on where it was cut off");
        }
        let plan = Plan { run, apply, initial, tables, mark, authorities };
        self.leading = Some(Leading { leader: Leader::new(name, plan, reached), basis });
        self.paused = None;
        Ok(())
    }

    /// Stands for the histories of both files, the tables, their shape, and whose contents count.
    fn basis(&self, apply: bool, tables: &[String], authorities: &Authorities) -> [u8; 16] {
        let Some(database) = &self.database else { return [0; 16] };
        let partner = database.meta.applied.map(|applied| applied.origin);
        let mut text = format!("{apply} {:?} {partner:?} {authorities:?}", database.meta.origin);
        for table in tables {
            let captured = database.table(table);
            let shape = captured.map(|c| (c.t, c.table.hash, c.standing));
            text += &format!("\0{table}\0{shape:?}");
        }
        value::hash(text.as_bytes())
    }

    /// Remembers how far the comparison is, when that is worth it.
    pub(crate) fn save_reached(&mut self) {
        let Some(Leading { leader, basis }) = &mut self.leading else { return };
        let Some(reached) = leader.take_reached() else { return };
        let (run, basis) = (leader.run, *basis);
        if let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.run == run) {
            wanted.attempts = 0;
        }
        let Some(journal) = &self.journal else { return };
        if let Err(error) = journal.save_reached(&self.config.name, run, basis, &reached) {
            tracing::warn!(database = %self.config.name, %error,
                "how far the comparison is could not be remembered");
        }
    }

    /// What runs stops for now; it goes on when both are attached again.
    pub(crate) fn pause(&mut self) {
        let paused = match (self.leading.take(), self.follower.take()) {
            (Some(Leading { leader, .. }), _) => {
                Some((leader.run, leader.initial, leader.progress()))
            }
            (None, Some(follower)) => Some((follower.run, follower.initial, follower.progress())),
            (None, None) => None,
        };
        if let Some((run, initial, progress)) = paused {
            self.paused = Some(Paused { run, initial, progress: progress.paused() });
        }
    }

    /// What was asked for ends without a result.
    pub(crate) fn cancel_wanted(&mut self, reason: &str) {
        let Some(wanted) = self.wanted.take() else { return };
        self.paused = None;
        if let Some(done) = wanted.done {
            done(Err(Error::Interrupted(reason.into())));
        }
        self.end_run(wanted.run, Err(reason));
        let result = Err(reason.to_owned());
        (self.events)(Event::RepairFinished { run: wanted.run, initial: false, result });
    }

    pub(crate) fn end_run(&self, run: u64, result: Result<&RepairReport, &str>) {
        let Some(journal) = &self.journal else { return };
        if let Err(error) = journal.end_run(&self.config.name, run, result) {
            tracing::warn!(database = %self.config.name, run, %error,
                "the end of the comparison could not be remembered");
        }
    }
}
