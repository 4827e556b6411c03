//! Comparisons that somebody waits for: collected over all databases, on either server.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use ipicsha_core::{
    Input,
    data::RepairReport,
    license::LicensedRole,
    message::{Control, RepairRequest},
};
use ipicsha_records::RUNNING;
use tokio::sync::oneshot;

use super::{
    event::{RepairOutcome, Sides},
    event_loop::Daemon,
};
use crate::{
    api::PendingRepair,
    exit::{Failure, Kind},
};

/// A run without any progress for this long has ended without a word.
const QUIET_LIMIT: Duration = Duration::from_secs(15);
/// Runs that are known to have ended.
const ENDED: usize = 256;
/// For so long a lost connection is waited for before whoever waits is told that it takes longer.
const AWAY_LIMIT: Duration = Duration::from_secs(600);

/// What is then said.
const QUIET: &str = "no comparison of it is under way; is it protected on the partner?";
const AWAY: &str = "the partner has been away for 10 minutes; it goes on by itself when the partner is back: `ipicsha ha-status`";

type RepairWaiter = oneshot::Sender<Result<Vec<RepairOutcome>, Failure>>;

struct Run {
    missing: BTreeSet<String>,
    outcomes: Vec<RepairOutcome>,
    waiter: RepairWaiter,
    /// When it was last seen to be under way.
    seen: Instant,
}

/// All runs under way.
#[derive(Default)]
pub(crate) struct Repairs {
    waited: BTreeMap<u64, Run>,
    /// Databases that ended equal since a repair became due: all of them end what a split left.
    repaired: BTreeSet<String>,
    /// The last runs that ended; the status that no longer shows them may come a moment later.
    ended: VecDeque<(String, u64)>,
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
        if let Some(failure) = self.compared_already(&missing) {
            let _ = waiter.send(Err(failure)); // the command line went away
            return;
        }
        self.repairs.waited.insert(
            request.run,
            Run { missing, outcomes: Vec::new(), waiter, seen: Instant::now() },
        );
        match self.node.persisted().configured_as {
            Some(LicensedRole::Primary) => {
                if !self.databases.compare(&request, &self.events) {
                    self.repair_interrupted(request.run, "it cannot be opened here");
                }
            }
            Some(LicensedRole::Secondary) | None => self.send(Control::RepairRequest(request)),
        }
    }

    /// A comparison of one database has ended here, whoever asked for it.
    pub(crate) fn note_ended(&mut self, run: u64, database: &str) {
        self.repairs.ended.push_front((database.to_owned(), run));
        self.repairs.ended.truncate(ENDED);
    }

    /// One database is done.
    pub(crate) fn repair_ended(
        &mut self,
        run: u64,
        database: &str,
        result: Result<RepairReport, String>,
    ) {
        if result.as_ref().is_ok_and(|report| report.applied && report.remaining() == 0) {
            let all: BTreeSet<String> = self.databases.names(None).into_iter().collect();
            self.repairs.repaired.insert(database.to_owned());
            if self.repairs.repaired.is_superset(&all) || !self.node.persisted().repair_due {
                self.repairs.repaired.clear();
                self.input(Input::Repaired);
            }
        }
        let (sides, not_compared) = (self.sides(), self.databases.not_compared(database));
        let Some(waited) = self.repairs.waited.get_mut(&run) else { return };
        if waited.missing.remove(database) {
            let outcome = RepairOutcome::new(run, database.to_owned(), sides, not_compared, result);
            waited.outcomes.push(outcome);
        }
        self.answer_if_done(run);
    }

    /// A run that the other server forgot, or never heard of, must not be waited for for ever. One
    /// that is cut off goes on when the link is back: it is waited for much longer.
    pub(crate) fn end_quiet_repairs(&mut self) {
        let pending = self.databases.pending_repairs();
        let linked = self.databases.is_linked();
        let mut ended = Vec::new();
        for (run, waited) in &mut self.repairs.waited {
            let mine = |p: &&PendingRepair| waited.missing.contains(&p.database);
            if pending.iter().filter(mine).any(|p| !p.paused) {
                waited.seen = Instant::now();
            }
            let away = !linked || pending.iter().filter(mine).any(|p| p.paused);
            let (limit, cause) = if away { (AWAY_LIMIT, AWAY) } else { (QUIET_LIMIT, QUIET) };
            if waited.seen.elapsed() > limit {
                ended.push((*run, cause));
            }
        }
        for (run, cause) in ended {
            self.repair_interrupted(run, cause);
        }
    }

    /// What is not done will not be.
    pub(crate) fn repair_interrupted(&mut self, run: u64, cause: &str) {
        let sides = self.sides();
        let Some(waited) = self.repairs.waited.get_mut(&run) else { return };
        for database in std::mem::take(&mut waited.missing) {
            let result = Err(cause.to_owned());
            let (sides, not_compared) = (sides.clone(), Vec::new());
            waited.outcomes.push(RepairOutcome::new(run, database, sides, not_compared, result));
        }
        self.answer_if_done(run);
    }

    /// Who is meant by here and there.
    fn sides(&self) -> Sides {
        let state = self.node.persisted();
        let there = state.partner.as_ref().map(|partner| partner.name.clone());
        Sides {
            here: self.config.file.server.name.clone(),
            there: there.unwrap_or_else(|| "the partner".into()),
            here_is_primary: state.configured_as == Some(LicensedRole::Primary),
        }
    }

    /// Databases of a request that are compared already; only one comparison of each can run.
    fn compared_already(&self, wanted: &BTreeSet<String>) -> Option<Failure> {
        let waited = self.repairs.waited.values().flat_map(|run| &run.missing);
        let pending = self.databases.pending_repairs();
        let ended = |p: &&PendingRepair| {
            self.repairs.ended.iter().any(|(name, run)| *name == p.database && *run == p.run)
        };
        let pending = pending.iter().filter(|p| !ended(p)).map(|pending| &pending.database);
        let busy: BTreeSet<&str> = waited
            .chain(pending)
            .filter(|name| wanted.contains(*name))
            .map(String::as_str)
            .collect();
        if busy.is_empty() {
            return None;
        }
        Some(running(busy))
    }

    fn answer_if_done(&mut self, run: u64) {
        if self.repairs.waited.get(&run).is_some_and(|waited| waited.missing.is_empty())
            && let Some(waited) = self.repairs.waited.remove(&run)
        {
            let refused = |outcome: &RepairOutcome| {
                outcome.error.as_ref().is_some_and(|error| error.contains(RUNNING))
            };
            let result = if waited.outcomes.iter().all(refused) {
                Err(running(waited.outcomes.iter().map(|outcome| outcome.database.as_str())))
            } else {
                Ok(waited.outcomes)
            };
            let _ = waited.waiter.send(result); // the command line went away
        }
    }
}

/// Nothing was begun, as these are being compared.
fn running<'a>(databases: impl IntoIterator<Item = &'a str>) -> Failure {
    let names = databases.into_iter().collect::<Vec<_>>().join(", ");
    let message = format!("a comparison or repair of {names} is running already");
    Failure::new(Kind::Refused, message).hinted(
        "`ipicsha ha-status` shows how far it is; other databases can be compared meanwhile with --db",
    )
}
