//! The protected databases: one worker each, and what all of them together mean for the core.

mod inbox;
pub(crate) mod partner;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ipicsha_core::{
    Gate, data::Data, id::DatabaseName, license::LicensedRole, message::RepairRequest, state::Role,
    time::WallTime,
};
use ipicsha_records::{
    Command, CommandSender, DatabaseStatus, Inspection, Worker, WorkerConfig, Writes,
};
use tokio::sync::mpsc;

use super::{
    compared::Comparisons,
    data_link::DataQueue,
    event::Event,
    limits,
    patterns::{Member, Patterns},
};
use crate::config::{DatabaseFile, LogFile};
pub(crate) use inbox::Inbox;
use partner::{PartnerDatabases, Told};

/// What every worker needs.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) log: LogFile,
    pub(crate) journal: PathBuf,
    pub(crate) data: DataQueue,
    pub(crate) events: mpsc::Sender<Event>,
    /// What the administrator should know of the journal; shown with every database.
    pub(crate) journal_notice: Option<String>,
}

/// Names of databases that only the partner protects, at most.
const UNKNOWN_MAX: usize = 64;
/// A name the partner has not sent for this long is forgotten.
const UNKNOWN_LIFE: Duration = Duration::from_secs(20);
/// How often an unattached database is announced again, in ticks of a second.
const INVITE_TICKS: u32 = 5;

struct Protected {
    file: DatabaseFile,
    /// With the rank it was started for.
    worker: Option<(LicensedRole, Worker)>,
    status: Option<DatabaseStatus>,
    /// Why it cannot be replicated, beyond what its worker knows.
    failure: Option<String>,
    /// Our objects are still in it after unconfigure, and why.
    not_removed: Option<String>,
    /// What was found in the file, while no worker tells.
    inspection: Option<Result<Inspection, String>>,
    /// The pattern it belongs to.
    member: Option<Member>,
}

impl Protected {
    fn new(file: DatabaseFile) -> Self {
        Self {
            file,
            worker: None,
            status: None,
            failure: None,
            not_removed: None,
            inspection: None,
            member: None,
        }
    }
}

impl Surroundings {
    fn worker(&self, name: &str, protected: &Protected, rank: LicensedRole) -> WorkerConfig {
        let file = &protected.file;
        WorkerConfig {
            name: DatabaseName(name.to_owned()),
            path: file.path.clone(),
            capacity: limits::capacity_of(file, &self.log),
            journal_path: self.journal.clone(),
            rank,
            // What was here and is gone was deleted by the application.
            create_if_missing: protected.member.as_ref().is_none_or(|member| !member.seen),
            journaling: file.journaling(),
        }
    }
}

/// All databases of this server.
pub(crate) struct Databases {
    surroundings: Surroundings,
    all: BTreeMap<String, Protected>,
    inbox: Inbox,
    pub(crate) patterns: Patterns,
    /// What the partner says it protects.
    pub(crate) partner: PartnerDatabases,
    /// What the last comparisons have found.
    pub(crate) compared: Comparisons,
    /// What the partner was told last.
    told: Told,
    /// Names the partner sends and this server does not know, and when it last did.
    unknown: BTreeMap<String, Instant>,
    ticks: u32,
    rank: Option<LicensedRole>,
    gate: Gate,
    link_up: bool,
    /// Until when the files let themselves be written to; `None` inside: it does not end by itself.
    right: Option<Option<WallTime>>,
}

impl Databases {
    pub(crate) fn new(
        surroundings: Surroundings,
        files: Vec<DatabaseFile>,
        patterns: Patterns,
        compared: PathBuf,
    ) -> Self {
        let protected = |file: DatabaseFile| {
            let name = file.common_name();
            (name, Protected::new(file))
        };
        let mut all: BTreeMap<String, Protected> = files.into_iter().map(protected).collect();
        for (file, member) in patterns.members() {
            let member = Some(member);
            all.entry(file.common_name())
                .or_insert_with(|| Protected { member, ..Protected::new(file) });
        }
        Self {
            surroundings,
            all,
            inbox: Inbox::default(),
            patterns,
            partner: PartnerDatabases::default(),
            compared: Comparisons::open(compared),
            told: Told::default(),
            unknown: BTreeMap::new(),
            ticks: 0,
            rank: None,
            gate: Gate::Closed,
            link_up: false,
            right: None,
        }
    }

    /// The way of the partner's messages to the workers.
    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    pub(crate) fn knows(&self, file: &DatabaseFile) -> bool {
        let same = |p: &Protected| p.file.path == file.path;
        self.all.contains_key(&file.common_name()) || self.all.values().any(same)
    }

    /// The one that is meant when `file` is protected again.
    pub(crate) fn same(&self, file: &DatabaseFile) -> Option<DatabaseFile> {
        let same = |p: &&Protected| {
            p.file.path == file.path
                && file.name.as_ref().is_none_or(|name| *name == p.file.common_name())
        };
        self.all.values().find(same).map(|p| p.file.clone())
    }

    /// Other settings of one that is protected already.
    pub(crate) fn replace(&mut self, file: DatabaseFile) {
        let capacity = limits::capacity_of(&file, &self.surroundings.log);
        if let Some(protected) = self.all.get_mut(&file.common_name()) {
            protected.file = file;
            // The worker's next status says the same.
            if let Some(status) = &mut protected.status {
                status.log.capacity = capacity;
                status.log_used_percent = status.log.percent();
            }
        }
    }

    /// Commands for one worker.
    pub(crate) fn sender(&self, name: &str) -> Option<CommandSender> {
        self.all.get(name)?.worker.as_ref().map(|(_, worker)| worker.sender())
    }

    /// All that were protected one by one.
    pub(crate) fn files(&self) -> Vec<DatabaseFile> {
        let single = self.all.values().filter(|protected| protected.member.is_none());
        single.map(|protected| protected.file.clone()).collect()
    }

    /// Where all of them lie.
    pub(crate) fn paths(&self) -> BTreeSet<PathBuf> {
        self.all.values().map(|protected| protected.file.path.clone()).collect()
    }

    /// The pattern a database belongs to.
    pub(crate) fn member(&self, name: &str) -> Option<Member> {
        self.all.get(name).and_then(|protected| protected.member.clone())
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

    /// The licensed role HA was configured with, while it is.
    pub(crate) fn rank(&self) -> Option<LicensedRole> {
        self.rank
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
        self.all.insert(name.clone(), Protected::new(file));
        if self.rank.is_some() {
            self.start(&name, role);
        }
    }

    /// One more database of a pattern.
    pub(crate) fn add_member(&mut self, file: DatabaseFile, member: Member, role: Option<Role>) {
        let name = file.common_name();
        self.unknown.remove(&name);
        let protected = Protected { member: Some(member), ..Protected::new(file) };
        self.all.insert(name.clone(), protected);
        if self.rank.is_some() {
            self.start(&name, role);
        } else {
            self.inspect(&name);
        }
    }

    /// Takes all databases of a pattern out of protection; their workers.
    pub(crate) fn take_members(&mut self, pattern: &str) -> Vec<Worker> {
        let of = |p: &Protected| p.member.as_ref().is_some_and(|m| m.pattern == pattern);
        let names: Vec<String> =
            self.all.iter().filter(|(_, p)| of(p)).map(|(name, _)| name.clone()).collect();
        names.iter().filter_map(|name| self.take(name).flatten()).collect()
    }

    /// While HA is not configured nothing is missing when a file of a pattern is gone.
    pub(crate) fn prune_members(&mut self) -> bool {
        if self.rank.is_some() {
            return false;
        }
        let gone = |p: &Protected| p.member.is_some() && !p.file.path.exists();
        let names: Vec<String> =
            self.all.iter().filter(|(_, p)| gone(p)).map(|(name, _)| name.clone()).collect();
        for name in &names {
            if let Some(member) = self.member(name) {
                self.patterns.forget(&member, false);
            }
            drop(self.take(name));
        }
        !names.is_empty()
    }

    fn start(&mut self, name: &str, role: Option<Role>) {
        let (Some(rank), Some(protected)) = (self.rank, self.all.get_mut(name)) else { return };
        if let Some((_, other)) = protected.worker.take_if(|(started_for, _)| *started_for != rank)
        {
            other.join();
        }
        if protected.worker.is_none() {
            let config = self.surroundings.worker(name, protected, rank);
            match Worker::spawn(config, callback(&self.surroundings, name)) {
                Ok(worker) => {
                    self.inbox.insert(name, worker.sender());
                    protected.worker = Some((rank, worker));
                }
                Err(error) => {
                    tracing::error!(database = name, %error, "the database cannot be protected");
                    protected.failure = Some(error.to_string());
                    return;
                }
            }
        }
        let Some((_, worker)) = &protected.worker else { return };
        if let Some(right) = self.right {
            worker.send(Command::AllowWrites(right));
        }
        worker.send(Command::Install);
        if let Some(role) = role {
            let writes = if role == Role::Active { Writes::Open } else { Writes::Closed };
            worker.send(Command::SetWrites { writes, drained: false, done: Box::new(|_| {}) });
        }
        worker.send(Command::SetGate(records_gate(self.gate)));
        if self.link_up {
            worker.send(Command::LinkUp);
        }
    }

    /// HA is not configured: every object of ours leaves every database, also what a daemon left
    /// that was killed in the middle of this. The workers stay, idle, so that nothing of a later
    /// configuration can overtake it.
    pub(crate) fn remove_all(&mut self) {
        (self.rank, self.right) = (None, None);
        self.unknown.clear();
        self.partner = PartnerDatabases::default();
        let names: Vec<String> = self.all.keys().cloned().collect();
        for name in names {
            self.remove(&name);
            self.inspect(&name);
        }
    }

    fn remove(&mut self, name: &str) {
        let Some(protected) = self.all.get_mut(name) else { return };
        protected.status = None;
        protected.not_removed = None;
        if protected.worker.is_none() && protected.file.path.exists() {
            let config = self.surroundings.worker(name, protected, LicensedRole::Primary);
            match Worker::spawn(config, callback(&self.surroundings, name)) {
                Ok(worker) => {
                    self.inbox.insert(name, worker.sender());
                    protected.worker = Some((LicensedRole::Primary, worker));
                }
                Err(error) => protected.failure = Some(error.to_string()),
            }
        }
        if let Some((_, worker)) = &protected.worker {
            let (name, events) = (name.to_owned(), self.surroundings.events.clone());
            worker.send(Command::Remove {
                done: Box::new(move |result| {
                    if let Err(error) = result {
                        tracing::error!(database = name, %error, "our objects are still in it");
                        let _ = events.blocking_send(Event::NotRemoved(name, error.to_string()));
                    }
                }),
            });
        }
    }

    /// Looks into a file without a working worker; not on the event loop, as it may be locked.
    fn inspect(&self, name: &str) {
        let Some(protected) = self.all.get(name) else { return };
        let (name, file) = (name.to_owned(), protected.file.clone());
        let events = self.surroundings.events.clone();
        std::thread::spawn(move || {
            let inspection = ipicsha_records::inspect_as(&file.path, file.journaling())
                .map_err(|error| error.to_string());
            let _ = events.blocking_send(Event::Inspected(name, inspection)); // the daemon ends
        });
    }

    pub(crate) fn inspected(&mut self, name: &str, inspection: Result<Inspection, String>) {
        if let Some(protected) = self.all.get_mut(name) {
            protected.inspection = Some(inspection);
        }
    }

    /// Removing our objects failed: shown, and tried again at the next tick.
    pub(crate) fn not_removed(&mut self, name: &str, cause: String) {
        if let Some(protected) = self.all.get_mut(name).filter(|_| self.rank.is_none()) {
            protected.not_removed = Some(cause);
        }
    }

    pub(crate) fn hold_too_large(&mut self, name: &str) {
        if let Some(protected) = self.all.get_mut(name) {
            tracing::error!(database = name, "a record is too large to be sent");
            protected.failure = Some(
                "it holds a record too large to be sent (64 MiB with its batch): make that record \
                 smaller, then restart the daemon"
                    .into(),
            );
        }
    }

    /// Once a second: what was announced in vain is announced again, what is stale is forgotten.
    pub(crate) fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        self.unknown.retain(|_, heard| heard.elapsed() < UNKNOWN_LIFE);
        let stuck = |p: &Protected| p.not_removed.is_some();
        let again: Vec<String> =
            self.all.iter().filter(|(_, p)| stuck(p)).map(|(name, _)| name.clone()).collect();
        for name in again {
            self.remove(&name);
        }
        let invites = self.rank == Some(LicensedRole::Primary)
            && self.link_up
            && self.gate == Gate::Open
            && self.ticks.is_multiple_of(INVITE_TICKS);
        if invites {
            for status in self.all.values().filter_map(|p| p.status.as_ref()) {
                if status.installed && !status.attached {
                    let invite = Data::Invite { database: status.name.clone() };
                    if !self.surroundings.data.try_send(invite) {
                        tracing::debug!("the data queue is full: invited at the next tick");
                    }
                }
            }
        }
    }

    /// Takes one database out of protection; the sender of its worker, when it has one.
    pub(crate) fn take(&mut self, name: &str) -> Option<Option<Worker>> {
        self.inbox.remove(name);
        self.all.remove(name).map(|protected| protected.worker.map(|(_, worker)| worker))
    }

    /// What the partner protected and does not any more is not missing here.
    pub(crate) fn forget_unknown(&mut self) {
        let names: BTreeSet<String> = self.partner.names().into_iter().collect();
        self.unknown.retain(|name, _| names.contains(name));
    }

    pub(crate) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        self.tell(|| Command::SetGate(records_gate(gate)));
    }

    /// The files refuse writes by themselves from then on; `None`: not at all.
    pub(crate) fn allow_writes(&mut self, until: Option<WallTime>) {
        self.right = Some(until);
        self.tell(|| Command::AllowWrites(until));
    }

    /// Another policy is in force.
    pub(crate) fn lift_right(&mut self) {
        if let Some(Some(_)) = self.right {
            self.allow_writes(None);
        }
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

    /// A message of the partner for which there was no worker; the name of a database that a pattern
    /// has room for. The message itself is lost, as it always was: both sides attach again.
    pub(crate) fn receive(&mut self, data: &Data) -> Option<String> {
        let name = &data.database().0;
        match self.all.get(name) {
            Some(_) => {}
            None if self.rank.is_some() && self.patterns.place(name).is_some() => {
                return Some(name.clone());
            }
            None => {
                let room = self.unknown.len() < UNKNOWN_MAX || self.unknown.contains_key(name);
                let new =
                    |this: &mut Self| this.unknown.insert(name.clone(), Instant::now()).is_none();
                if self.rank.is_some() && room && new(self) {
                    tracing::warn!(
                        database = name,
                        "the partner protects it, this server does not"
                    );
                }
            }
        }
        None
    }

    /// `true`: there is something new to remember.
    pub(crate) fn update(&mut self, status: DatabaseStatus) -> bool {
        let Some(protected) = self.all.get_mut(&status.name.0) else { return false };
        let (installed, synced) = (status.installed, status.synced);
        protected.status = Some(status);
        let Some(member) = &mut protected.member else { return false };
        member.late &= !synced;
        let first = installed && !member.seen;
        member.seen |= installed;
        let member = member.clone();
        if first {
            self.patterns.note(&member);
        }
        first
    }

    /// Starts the comparisons of a request on this server, which leads them.
    /// `false`: none is known by that name.
    pub(crate) fn compare(&self, request: &RepairRequest, events: &mpsc::Sender<Event>) -> bool {
        let mut asked = false;
        for (database, sender) in self.senders() {
            if request.database.as_ref().is_some_and(|only| *only != database) {
                continue;
            }
            asked = true;
            let (events, run) = (events.clone(), request.run);
            sender.send(Command::Compare {
                apply: request.apply,
                run,
                done: Box::new(move |result| {
                    // Finished comparisons are reported on both servers by an event of their own.
                    // One that is cut off by the end of the daemon goes on after its next start.
                    if let Err(error) = result
                        && !matches!(error, ipicsha_records::Error::Stopped)
                    {
                        let result = Err(error.to_string());
                        let _ = events.blocking_send(Event::RepairEnded { run, database, result });
                    }
                }),
            });
        }
        asked
    }

    /// Whether the outgoing data connection stands.
    pub(crate) fn is_linked(&self) -> bool {
        self.link_up
    }

    /// Names of the databases that a request is about.
    pub(crate) fn names(&self, only: Option<&String>) -> Vec<String> {
        self.all.keys().filter(|name| only.is_none_or(|only| only == *name)).cloned().collect()
    }
}

fn records_gate(gate: Gate) -> ipicsha_records::Gate {
    match gate {
        Gate::Open => ipicsha_records::Gate::Open,
        Gate::Closed => ipicsha_records::Gate::Closed,
    }
}

/// What a worker reports goes to the partner or into the event loop; a full queue slows the worker.
fn callback(surroundings: &Surroundings, name: &str) -> ipicsha_records::Events {
    let name = name.to_owned();
    let (data, events) = (surroundings.data.clone(), surroundings.events.clone());
    Arc::new(move |event| {
        // Closed channels mean that the daemon ends.
        let _ = match event {
            ipicsha_records::Event::Send(message) => {
                data.send(message);
                return;
            }
            other @ (ipicsha_records::Event::Status(_)
            | ipicsha_records::Event::ConflictJournaled(_)
            | ipicsha_records::Event::RepairFinished { .. }) => {
                events.blocking_send(Event::Records(name.clone(), other))
            }
        };
    })
}
