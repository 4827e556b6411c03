//! Answers `dbreplication`: gathers what the workers have said, and has the rest counted away from
//! them and from the event loop.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use ipicsha_core::{id::Seq, message::ReplicationState};
use ipicsha_records::{Census, Journal, SkippedTable, TableCensus};
use tokio::sync::oneshot;

use super::{
    clock,
    event_loop::Daemon,
    verbs::{records_failure, value},
};
use crate::{
    api::Answer,
    exit::{Failure, Kind},
    replication::{
        Compared, DatabaseState, DatabaseStatus, Replication, RuntimeState, Skipped, TableStatus,
    },
};

/// Counting one database takes at most this long; what is not counted by then is shown as such.
const BUDGET: Duration = Duration::from_secs(20);

/// What is known of one database before anything is counted.
pub(crate) struct Known {
    pub(crate) path: PathBuf,
    pub(crate) status: DatabaseStatus,
    pub(crate) acked: Seq,
    /// Newest change of the partner's by table.
    pub(crate) applied_ms: BTreeMap<String, i64>,
    pub(crate) compared: BTreeMap<String, Compared>,
    pub(crate) held: Vec<SkippedTable>,
}

impl Daemon {
    /// `dbreplication status`.
    pub(crate) fn replication(&self, only: Option<&str>, answer: oneshot::Sender<Answer>) {
        let only = match only.map(|name| (name, self.databases.find(name))) {
            None => None,
            Some((_, Some(name))) => Some(name),
            Some((name, None)) => {
                let failure = Failure::new(Kind::Refused, format!("no database is called {name}"));
                let _ = answer.send(Err(failure.hinted("`ipicsha ha-status` lists them")));
                return;
            }
        };
        let known = self.databases.known(only.as_deref());
        let journal = self.config.state_file("journal.db");
        let mut replication = Replication {
            schema: "ipicsha.dbreplication/1".into(),
            server: self.config.file.server.name.clone(),
            role: self.node.role().map(|role| role.to_string()),
            seen_unix_ms: clock::wall().0,
            databases: Vec::new(),
        };
        tokio::task::spawn_blocking(move || {
            let result = Journal::open(&journal).map_err(|error| records_failure(&error));
            let result = result.and_then(|journal| {
                let now = replication.seen_unix_ms;
                replication.databases =
                    known.into_iter().map(|known| known.counted(&journal, now)).collect();
                value(&replication)
            });
            let _ = answer.send(result); // the command line went away
        });
    }

    /// `dbreplication runtimestate`.
    pub(crate) fn runtime_state(&self) -> Answer {
        let here = self.databases.states();
        let there = self.databases.partner.states();
        let status = self.node.status(clock::now());
        let partner = status.servers.get(1);
        let there = there.filter(|_| partner.is_some_and(|partner| partner.reachable));
        // A database that only one of them has is incomplete on the other.
        let mut states: BTreeMap<&str, (u8, Option<u8>)> = BTreeMap::new();
        let incomplete = ReplicationState::Incomplete.number();
        for database in &here {
            let entry = (database.state.number(), there.map(|_| incomplete));
            states.insert(&database.name.0, entry);
        }
        for database in there.into_iter().flatten() {
            let entry = states.entry(&database.name.0).or_insert((incomplete, None));
            entry.1 = Some(database.state.number());
        }
        let good = ReplicationState::Good.number();
        let configured = self.node.persisted().ha.config.is_some();
        value(&RuntimeState {
            schema: "ipicsha.runtimestate/1".into(),
            server: self.config.file.server.name.clone(),
            partner: partner.map(|partner| partner.name.clone()),
            good: configured
                && there.is_some()
                && states.values().all(|state| *state == (good, Some(good))),
            databases: states
                .into_iter()
                .map(|(name, (here, partner))| DatabaseState { name: name.into(), here, partner })
                .collect(),
        })
    }
}

impl Known {
    /// Blocks while it counts.
    fn counted(self, journal: &Journal, now: i64) -> DatabaseStatus {
        let mut status = self.status;
        let conflicts = journal.count_by_table(&status.name).unwrap_or_else(|error| {
            status.error = Some(error.to_string());
            BTreeMap::new()
        });
        let census =
            ipicsha_records::census(&self.path, self.acked, BUDGET).unwrap_or_else(|error| {
                status.error = Some(format!("{error}: {}", error.next_step()));
                Census::default()
            });
        status.conflicts = conflicts.values().sum();
        for (name, counted) in census.tables {
            let compared = self.compared.get(&name).cloned();
            let applied = self.applied_ms.get(&name).copied();
            let held = self.held.iter().find(|held| held.table == name);
            let mut table = table(name, &counted, applied, now);
            table.conflicts = conflicts.get(&table.table).copied().unwrap_or(0);
            (table.compared, table.held) = (compared, held.map(|held| held.reason.clone()));
            status.tables.push(table);
        }
        status
    }
}

fn table(name: String, counted: &TableCensus, applied: Option<i64>, now: i64) -> TableStatus {
    let lag = counted.oldest_queued_ms.map_or(0, |oldest| (now - oldest).max(0));
    TableStatus {
        table: name,
        identity: counted.identity.name().into(),
        rows: Some(counted.rows),
        rows_complete: counted.complete,
        last_change_unix_ms: counted.changed_ms.max(applied),
        queue_records: counted.queue,
        lag_seconds: lag as f64 / 1000.0,
        conflicts: 0,
        compared: None,
        held: None,
    }
}

impl Known {
    /// From what a worker has said last, or from nothing.
    pub(crate) fn new(
        name: &str,
        path: PathBuf,
        state: ReplicationState,
        worker: Option<&ipicsha_records::DatabaseStatus>,
        compared: BTreeMap<String, Compared>,
    ) -> Self {
        let held: Vec<SkippedTable> =
            worker.map(|worker| worker.held_tables().cloned().collect()).unwrap_or_default();
        let skipped = worker.into_iter().flat_map(|worker| &worker.skipped_tables);
        let skipped = skipped
            .filter(|table| !held.contains(table))
            .map(|table| Skipped { table: table.table.clone(), reason: table.reason.clone() })
            .collect();
        Self {
            status: DatabaseStatus {
                name: name.into(),
                path: path.display().to_string(),
                state: state.number(),
                queue_records: worker.map_or(0, |worker| worker.queue_records),
                lag_seconds: worker.map_or(0.0, |worker| worker.lag_seconds),
                conflicts: 0,
                hold: None,
                error: None,
                tables: Vec::new(),
                skipped_tables: skipped,
            },
            path,
            acked: worker.map_or(Seq(i64::MAX), |worker| worker.acked),
            applied_ms: worker.map(|worker| worker.applied_ms.clone()).unwrap_or_default(),
            compared,
            held,
        }
    }
}
