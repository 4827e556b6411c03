//! Comparisons that somebody waits for: collected over all databases, on either server.

use std::collections::{BTreeMap, BTreeSet};

use ipicsha_core::{
    Input,
    data::RepairReport,
    license::LicensedRole,
    message::{Control, RepairRequest},
};
use tokio::sync::oneshot;

use super::{event::RepairOutcome, event_loop::Daemon};
use crate::exit::{Failure, Kind};

type RepairWaiter = oneshot::Sender<Result<Vec<RepairOutcome>, Failure>>;

struct Run {
    missing: BTreeSet<String>,
    outcomes: Vec<RepairOutcome>,
    waiter: RepairWaiter,
}

/// All runs under way.
#[derive(Default)]
pub(crate) struct Repairs {
    waited: BTreeMap<u64, Run>,
    /// Databases that ended equal, by run: a repair of all of them ends what a split left.
    repaired: BTreeMap<u64, BTreeSet<String>>,
}

impl Daemon {
    /// Starts a comparison here when this server leads, else asks the partner to lead it.
    pub(crate) fn start_repair(&mut self, request: RepairRequest, waiter: RepairWaiter) {
        let missing: BTreeSet<String> =
            self.databases.names(request.database.as_ref()).into_iter().collect();
        if missing.is_empty() {
            let result = match &request.database {
                None => {
                    self.input(Input::Repaired);
                    Ok(Vec::new())
                }
                Some(name) => {
                    Err(Failure::new(Kind::Refused, format!("no database is called {name}"))
                        .hinted("`ipicsha ha-status` lists them"))
                }
            };
            let _ = waiter.send(result); // the command line went away
            return;
        }
        self.repairs.waited.insert(request.run, Run { missing, outcomes: Vec::new(), waiter });
        match self.node.persisted().configured_as {
            Some(LicensedRole::Primary) => self.databases.compare(&request, &self.events),
            Some(LicensedRole::Secondary) | None => self.send(Control::RepairRequest(request)),
        }
    }

    /// One database is done.
    pub(crate) fn repair_ended(
        &mut self,
        run: u64,
        database: &str,
        result: Result<RepairReport, String>,
    ) {
        if result.as_ref().is_ok_and(|report| report.applied && report.remaining() == 0) {
            let repaired = self.repairs.repaired.entry(run).or_default();
            repaired.insert(database.to_owned());
            let all: BTreeSet<String> = self.databases.names(None).into_iter().collect();
            if repaired.is_superset(&all) {
                self.repairs.repaired.remove(&run);
                self.input(Input::Repaired);
            }
        }
        let Some(waited) = self.repairs.waited.get_mut(&run) else { return };
        if waited.missing.remove(database) {
            let (report, error) = match result {
                Ok(report) => (Some(report), None),
                Err(error) => (None, Some(error)),
            };
            waited.outcomes.push(RepairOutcome { database: database.to_owned(), report, error });
        }
        self.answer_if_done(run);
    }

    /// The link was lost in the middle: what is not done will not be.
    pub(crate) fn repair_interrupted(&mut self, run: u64, cause: &str) {
        let Some(waited) = self.repairs.waited.get_mut(&run) else { return };
        for database in std::mem::take(&mut waited.missing) {
            let error = Some(cause.to_owned());
            waited.outcomes.push(RepairOutcome { database, report: None, error });
        }
        self.answer_if_done(run);
    }

    fn answer_if_done(&mut self, run: u64) {
        if self.repairs.waited.get(&run).is_some_and(|waited| waited.missing.is_empty())
            && let Some(waited) = self.repairs.waited.remove(&run)
        {
            let _ = waited.waiter.send(Ok(waited.outcomes)); // the command line went away
        }
    }
}
