//! The protected databases: one worker each, and what all of them together mean for the core.

use std::{collections::BTreeMap, path::PathBuf};

use ipicsha_core::{
    Gate,
    data::Data,
    id::DatabaseName,
    license::LicensedRole,
    message::{DataReport, RepairRequest},
    state::Role,
};
use ipicsha_records::{Command, CommandSender, DatabaseStatus, Worker, WorkerConfig, Writes};
use tokio::sync::mpsc;

use super::event::Event;
use crate::{
    api::{DatabaseRow, PendingRepair},
    config::DatabaseFile,
};

/// What every worker needs.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) capacity_entries: u64,
    pub(crate) journal: PathBuf,
    pub(crate) data: mpsc::Sender<Data>,
    pub(crate) events: mpsc::Sender<Event>,
}

struct Protected {
    file: DatabaseFile,
    /// With the rank it was started for.
    worker: Option<(LicensedRole, Worker)>,
    status: Option<DatabaseStatus>,
    /// Why no worker could be started.
    failure: Option<String>,
}

/// All databases of this server.
pub(crate) struct Databases {
    surroundings: Surroundings,
    all: BTreeMap<String, Protected>,
    /// Names the partner sends and this server does not know.
    unknown: BTreeMap<String, ()>,
    rank: Option<LicensedRole>,
    gate: Gate,
    link_up: bool,
}

impl Databases {
    pub(crate) fn new(surroundings: Surroundings, files: Vec<DatabaseFile>) -> Self {
        let protected = |file: DatabaseFile| {
            let name = file.common_name();
            (name, Protected { file, worker: None, status: None, failure: None })
        };
        Self {
            surroundings,
            all: files.into_iter().map(protected).collect(),
            unknown: BTreeMap::new(),
            rank: None,
            gate: Gate::Closed,
            link_up: false,
        }
    }

    pub(crate) fn knows(&self, file: &DatabaseFile) -> bool {
        let same = |p: &Protected| p.file.path == file.path;
        self.all.contains_key(&file.common_name()) || self.all.values().any(same)
    }

    /// Name of the database that is called `name` or lies at that path.
    pub(crate) fn find(&self, name: &str) -> Option<String> {
        let at_path = |p: &&Protected| p.file.path.as_os_str() == name;
        if self.all.contains_key(name) {
            return Some(name.to_owned());
        }
        self.all.values().find(at_path).map(|p| p.file.common_name())
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.all.get(name).map(|p| p.file.path.clone())
    }

    /// HA is configured: capture changes in every database from now on.
    pub(crate) fn install(&mut self, rank: LicensedRole) {
        self.rank = Some(rank);
        let names: Vec<String> = self.all.keys().cloned().collect();
        for name in names {
            self.start(&name, None);
        }
    }

    /// One more database; with HA configured it takes part at once, in the role of this server.
    pub(crate) fn add(&mut self, file: DatabaseFile, role: Option<Role>) {
        let name = file.common_name();
        self.unknown.remove(&name);
        self.all
            .insert(name.clone(), Protected { file, worker: None, status: None, failure: None });
        if self.rank.is_some() {
            self.start(&name, role);
        }
    }

    fn start(&mut self, name: &str, role: Option<Role>) {
        let (Some(rank), Some(protected)) = (self.rank, self.all.get_mut(name)) else { return };
        if let Some((_, other)) = protected.worker.take_if(|(started_for, _)| *started_for != rank)
        {
            other.join();
        }
        if protected.worker.is_none() {
            let config = WorkerConfig {
                name: DatabaseName(name.to_owned()),
                path: protected.file.path.clone(),
                capacity_entries: self.surroundings.capacity_entries,
                journal_path: self.surroundings.journal.clone(),
                rank,
                create_if_missing: true,
            };
            match Worker::spawn(config, callback(&self.surroundings)) {
                Ok(worker) => protected.worker = Some((rank, worker)),
                Err(error) => {
                    tracing::error!(database = name, %error, "the database cannot be protected");
                    protected.failure = Some(error.to_string());
                    return;
                }
            }
        }
        let Some((_, worker)) = &protected.worker else { return };
        worker.send(Command::Install);
        if let Some(role) = role {
            let writes = if role == Role::Active { Writes::Open } else { Writes::Closed };
            worker.send(Command::SetWrites { writes, done: Box::new(|_| {}) });
        }
        worker.send(Command::SetGate(records_gate(self.gate)));
        if self.link_up {
            worker.send(Command::LinkUp);
        }
    }

    /// HA is unconfigured: every object of ours leaves every database. The workers stay, idle, so
    /// that nothing of a later configuration can overtake this.
    pub(crate) fn remove_all(&mut self) {
        self.rank = None;
        self.unknown.clear();
        for (name, protected) in &mut self.all {
            protected.status = None;
            if let Some((_, worker)) = &protected.worker {
                let name = name.clone();
                worker.send(Command::Remove {
                    done: Box::new(move |result| {
                        if let Err(error) = result {
                            tracing::error!(database = name, %error, "our objects are still in it");
                        }
                    }),
                });
            }
        }
    }

    /// Takes one database out of protection; the sender of its worker, when it has one.
    pub(crate) fn take(&mut self, name: &str) -> Option<Option<Worker>> {
        self.all.remove(name).map(|protected| protected.worker.map(|(_, worker)| worker))
    }

    pub(crate) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        self.tell(|| Command::SetGate(records_gate(gate)));
    }

    pub(crate) fn set_link(&mut self, up: bool) {
        self.link_up = up;
        self.tell(|| if up { Command::LinkUp } else { Command::LinkDown });
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in self.all.values().filter_map(|p| p.worker.as_ref().map(|(_, w)| w)) {
            worker.send(command());
        }
    }

    /// Commands for all workers, for operations that wait for their answers.
    pub(crate) fn senders(&self) -> Vec<(String, CommandSender)> {
        let sender = |(name, p): (&String, &Protected)| {
            p.worker.as_ref().map(|(_, worker)| (name.clone(), worker.sender()))
        };
        self.all.iter().filter_map(sender).collect()
    }

    /// A message of the partner.
    pub(crate) fn receive(&mut self, data: Data) {
        let name = &data.database().0;
        match self.all.get(name) {
            Some(protected) => {
                if let Some((_, worker)) = &protected.worker {
                    worker.send(Command::Received(data));
                }
            }
            None => {
                if self.rank.is_some() && self.unknown.insert(name.clone(), ()).is_none() {
                    tracing::warn!(
                        database = name,
                        "the partner protects it, this server does not"
                    );
                }
            }
        }
    }

    pub(crate) fn update(&mut self, status: DatabaseStatus) {
        if let Some(protected) = self.all.get_mut(&status.name.0) {
            protected.status = Some(status);
        }
    }

    /// Starts the comparisons of a request on this server, which leads them.
    pub(crate) fn compare(&self, request: &RepairRequest, events: &mpsc::Sender<Event>) {
        for (database, sender) in self.senders() {
            if request.database.as_ref().is_some_and(|only| *only != database) {
                continue;
            }
            let (events, run) = (events.clone(), request.run);
            sender.send(Command::Compare {
                apply: request.apply,
                run,
                done: Box::new(move |result| {
                    // Finished comparisons are reported on both servers by an event of their own.
                    if let Err(error) = result {
                        let result = Err(error.to_string());
                        let _ = events.try_send(Event::RepairEnded { run, database, result });
                    }
                }),
            });
        }
    }

    /// Names of the databases that a request is about.
    pub(crate) fn names(&self, only: Option<&String>) -> Vec<String> {
        self.all.keys().filter(|name| only.is_none_or(|only| only == *name)).cloned().collect()
    }

    /// All of it in a few numbers for the core.
    pub(crate) fn report(&self) -> DataReport {
        let statuses: Vec<&DatabaseStatus> =
            self.all.values().filter_map(|p| p.status.as_ref()).collect();
        let complete = statuses.len() == self.all.len();
        let held = statuses.iter().filter(|s| s.hold.is_some()).count()
            + self.all.values().filter(|p| p.failure.is_some()).count()
            + self.unknown.len();
        let fullest = statuses.iter().map(|s| s.log_used_percent).fold(0.0, f64::max);
        DataReport {
            measured: complete && statuses.iter().all(|s| s.installed),
            databases: u32::try_from(self.all.len()).unwrap_or(u32::MAX),
            synced: complete && self.unknown.is_empty() && statuses.iter().all(|s| s.synced),
            attached: statuses.iter().all(|s| s.attached),
            unacknowledged: statuses.iter().map(|s| s.queue_records).sum(),
            log_used_percent: fullest.clamp(0.0, 255.0) as u8,
            held: u32::try_from(held).unwrap_or(u32::MAX),
        }
    }

    /// For the status.
    pub(crate) fn rows(&self) -> Vec<DatabaseRow> {
        let known = self.all.iter().map(|(name, protected)| match &protected.status {
            Some(status) => DatabaseRow::from(status),
            None => row_without_worker(name, protected),
        });
        let unknown = self.unknown.keys().map(|name| DatabaseRow {
            hold: Some(format!(
                "protected on the partner only: run `ipicsha protect db PATH --name {name} --seed` here"
            )),
            ..empty_row(name)
        });
        known.chain(unknown).collect()
    }

    pub(crate) fn pending_repairs(&self) -> Vec<PendingRepair> {
        let pending = |status: &DatabaseStatus| {
            let repair = status.repair.as_ref()?;
            Some(PendingRepair {
                database: status.name.to_string(),
                stage: repair.stage.to_string(),
                table: repair.table.clone(),
                tables_done: repair.tables_done,
                tables_total: repair.tables_total,
                rows_compared: repair.rows_compared,
                differences: repair.differences,
            })
        };
        self.all.values().filter_map(|p| p.status.as_ref().and_then(pending)).collect()
    }
}

fn records_gate(gate: Gate) -> ipicsha_records::Gate {
    match gate {
        Gate::Open => ipicsha_records::Gate::Open,
        Gate::Closed => ipicsha_records::Gate::Closed,
    }
}

/// What a worker reports goes to the partner or into the event loop; a full queue slows the worker.
fn callback(surroundings: &Surroundings) -> Box<dyn Fn(ipicsha_records::Event) + Send> {
    let (data, events) = (surroundings.data.clone(), surroundings.events.clone());
    Box::new(move |event| {
        // Closed channels mean that the daemon ends.
        let _ = match event {
            ipicsha_records::Event::Send(message) => data.blocking_send(message).map_err(|_| ()),
            other @ (ipicsha_records::Event::Status(_)
            | ipicsha_records::Event::ConflictJournaled(_)
            | ipicsha_records::Event::RepairFinished { .. }) => {
                events.blocking_send(Event::Records(other)).map_err(|_| ())
            }
        };
    })
}

fn empty_row(name: &str) -> DatabaseRow {
    DatabaseRow {
        name: name.to_owned(),
        path: String::new(),
        tables: Vec::new(),
        skipped_tables: Vec::new(),
        synced: false,
        writes: "open".into(),
        queue_records: 0,
        lag_seconds: 0.0,
        log_used_percent: 0.0,
        conflicts_total: 0,
        hold: None,
        warnings: Vec::new(),
    }
}

fn row_without_worker(name: &str, protected: &Protected) -> DatabaseRow {
    let mut row =
        DatabaseRow { path: protected.file.path.display().to_string(), ..empty_row(name) };
    row.hold.clone_from(&protected.failure);
    match ipicsha_records::inspect(&protected.file.path) {
        Ok(inspection) => {
            row.tables = inspection.tables.iter().map(|table| table.name.clone()).collect();
            row.warnings = inspection.warnings;
            row.skipped_tables = inspection
                .skipped
                .iter()
                .map(|s| crate::api::SkippedRow {
                    table: s.table.clone(),
                    reason: s.reason.clone(),
                })
                .collect();
        }
        Err(error) => row.warnings = vec![error.to_string()],
    }
    row
}
