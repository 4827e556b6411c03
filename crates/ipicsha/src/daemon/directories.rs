//! The watched directories: one worker each, and what all of them together mean for the core.

mod inbox;
mod verbs;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipicsha_core::{DirectoryReport, Gate, file::DirectoryName, license::LicensedRole};
use ipicsha_files::{
    Hash,
    replicate::{
        Command, CommandSender, DirectoryConfig, DirectoryStatus, Event as Said, KeptReason,
        Outlets, Refused, Worker,
    },
};
use tokio::sync::mpsc;

use super::{event::Event, files_link::FilesQueue};
use crate::{
    config::DirectoryFile,
    exit::{Failure, Kind},
};
pub(crate) use inbox::Inbox;
pub(crate) use verbs::watched_files;

/// Names of directories that only the partner watches, at most.
const UNKNOWN_MAX: usize = 64;
/// A name the partner has not sent for this long is forgotten.
const UNKNOWN_LIFE: Duration = Duration::from_secs(20);

struct Watched {
    file: DirectoryFile,
    worker: Option<Worker>,
    status: Option<DirectoryStatus>,
    /// Why it has no worker.
    failure: Option<String>,
}

/// All watched directories of this server.
pub(crate) struct Directories {
    all: BTreeMap<String, Watched>,
    state: PathBuf,
    queue: FilesQueue,
    inbox: Inbox,
    events: mpsc::Sender<Event>,
    rank: Option<LicensedRole>,
    gate: Gate,
    link_up: bool,
    /// Names the partner sends and this server does not know, and when it last did.
    unknown: BTreeMap<String, Instant>,
}

impl Directories {
    pub(crate) fn new(
        files: Vec<DirectoryFile>,
        state: PathBuf,
        queue: FilesQueue,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let watched = |file: DirectoryFile| (file.common_name(), Watched::new(file));
        Self {
            all: files.into_iter().map(watched).collect(),
            state,
            queue,
            inbox: Inbox::default(),
            events,
            rank: None,
            gate: Gate::Closed,
            link_up: false,
            unknown: BTreeMap::new(),
        }
    }

    /// Where messages of the partner about files go.
    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    pub(crate) fn files(&self) -> Vec<DirectoryFile> {
        self.all.values().map(|watched| watched.file.clone()).collect()
    }

    /// Name of the directory that is called `name` or lies at that path.
    pub(crate) fn find(&self, name: &str) -> Option<String> {
        let at_path = |watched: &&Watched| watched.file.path == Path::new(name);
        if self.all.contains_key(name) {
            return Some(name.to_owned());
        }
        self.all.values().find(at_path).map(|watched| watched.file.common_name())
    }

    /// HA is configured: replicate all of them from now on.
    pub(crate) fn install(&mut self, rank: LicensedRole) {
        self.rank = Some(rank);
        let names: Vec<String> = self.all.keys().cloned().collect();
        for name in names {
            self.start(&name);
        }
    }

    /// HA is not configured: the indexes are removed, so that a later pair begins with a merge.
    pub(crate) fn remove_all(&mut self) {
        self.rank = None;
        self.unknown.clear();
        for (name, watched) in &mut self.all {
            self.inbox.remove(name);
            (watched.status, watched.failure) = (None, None);
            if let Some(worker) = watched.worker.take() {
                end(worker, name.clone());
            } else {
                forget_index(&folder(&self.state, name), name);
            }
        }
    }

    /// One more directory; with HA configured it takes part at once.
    pub(crate) fn add(&mut self, file: DirectoryFile) {
        let name = file.common_name();
        self.unknown.remove(&name);
        self.all.insert(name.clone(), Watched::new(file));
        self.start(&name);
    }

    /// Not watched any more; nothing in it changes.
    pub(crate) fn take(&mut self, name: &str) {
        self.inbox.remove(name);
        if let Some(worker) = self.all.remove(name).and_then(|watched| watched.worker) {
            end(worker, name.to_owned());
        }
    }

    fn start(&mut self, name: &str) {
        let Some(rank) = self.rank else { return };
        let Some(config) = self.config_of(name, rank) else { return };
        let outlets = Outlets {
            events: callback(&self.queue, &self.events, name),
            parts: self.queue.parts(),
            bandwidth_limit: self.queue.limit(),
        };
        let Some(watched) = self.all.get_mut(name) else { return };
        // One of an earlier configuration may have had another rank.
        watched.worker = None;
        match Worker::spawn(config, outlets) {
            Ok(worker) => {
                worker.send(Command::SetGate(files_gate(self.gate)));
                worker.send(Command::Link(self.link_up));
                self.inbox.insert(name, worker.sender());
                (watched.worker, watched.failure) = (Some(worker), None);
            }
            Err(refused) => {
                tracing::error!(directory = name, error = %refused, "it cannot be replicated");
                watched.failure = Some(format!("{refused}: {}", refused.next_step));
            }
        }
    }

    /// What a worker of this directory is given.
    pub(crate) fn config_of(&self, name: &str, rank: LicensedRole) -> Option<DirectoryConfig> {
        let file = &self.all.get(name)?.file;
        Some(DirectoryConfig {
            name: DirectoryName(name.to_owned()),
            root: file.path.clone(),
            state: folder(&self.state, name),
            rank,
            rules: file.filter.clone(),
            ignore_file: file.ignore_file.clone(),
            keep: file.keep(),
            guard: file.guard(),
        })
    }

    pub(crate) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        for (_, sender) in self.senders() {
            sender.send(Command::SetGate(files_gate(gate)));
        }
    }

    /// The outgoing connection for files came or went.
    pub(crate) fn set_link(&mut self, up: bool) {
        self.link_up = up;
        self.queue.set_up(up);
        for (_, sender) in self.senders() {
            sender.send(Command::Link(up));
        }
    }

    pub(crate) fn senders(&self) -> Vec<(String, CommandSender)> {
        let sender = |(name, watched): (&String, &Watched)| {
            watched.worker.as_ref().map(|worker| (name.clone(), worker.sender()))
        };
        self.all.iter().filter_map(sender).collect()
    }

    pub(crate) fn sender(&self, name: &str) -> Option<CommandSender> {
        self.all.get(name)?.worker.as_ref().map(Worker::sender)
    }

    pub(crate) fn update(&mut self, status: DirectoryStatus) {
        if let Some(watched) = self.all.get_mut(&status.name.0) {
            watched.status = Some(status);
        }
    }

    /// Once a second: names that only the partner knows.
    pub(crate) fn tick(&mut self) {
        self.unknown.retain(|_, heard| heard.elapsed() < UNKNOWN_LIFE);
        for name in self.inbox.take_unknown() {
            let room = self.unknown.len() < UNKNOWN_MAX || self.unknown.contains_key(&name);
            let watched = self.all.contains_key(&name);
            if self.rank.is_some() && room && !watched {
                self.unknown.insert(name, Instant::now());
            }
        }
    }

    /// What an administrator must see to.
    pub(crate) fn reports(&self) -> Vec<DirectoryReport> {
        let rows = self.rows().into_iter().map(|row| DirectoryReport {
            name: row.name.0,
            hold: row.hold,
            held_deletions: row.held_deletions,
            late: row.alarm,
        });
        let matters = |row: &DirectoryReport| {
            row.hold.is_some() || row.held_deletions > 0 || row.late.is_some()
        };
        rows.filter(matters).collect()
    }

    /// For the status.
    pub(crate) fn rows(&self) -> Vec<DirectoryStatus> {
        let known = self.all.iter().map(|(name, watched)| {
            let mut row = match watched.status.as_ref().filter(|_| self.rank.is_some()) {
                Some(status) => status.clone(),
                None => idle(name, watched.file.path.clone()),
            };
            row.hold = row.hold.or_else(|| watched.failure.clone());
            row
        });
        let unknown = self.unknown.keys().map(|name| {
            let hold = format!(
                "watched on the partner only: run `ipicsha protect dir PATH --name '{name}'` here, or unprotect it there"
            );
            DirectoryStatus { hold: Some(hold), ..idle(name, PathBuf::new()) }
        });
        known.chain(unknown).collect()
    }
}

impl Watched {
    fn new(file: DirectoryFile) -> Self {
        Self { file, worker: None, status: None, failure: None }
    }
}

/// Of a directory that nobody works on.
fn idle(name: &str, root: PathBuf) -> DirectoryStatus {
    DirectoryStatus::idle(DirectoryName(name.to_owned()), root)
}

/// Its folder in the state directory: names may be paths.
pub(crate) fn folder(state: &Path, name: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let readable: String = name.trim_start_matches('/').chars().map(plain).take(60).collect();
    let hash = Hash::of(name.as_bytes()).to_string();
    let short: String = hash.chars().take(8).collect();
    state.join(format!("{readable}-{short}"))
}

/// Its index goes, what is kept stays; not on the event loop, as it may be in the middle of something.
fn end(worker: Worker, name: String) {
    std::thread::spawn(move || {
        let (done, forgotten) = std::sync::mpsc::channel();
        let done = Box::new(move |result: Result<(), Refused>| {
            let _ = done.send(result); // nobody waits any more
        });
        worker.send(Command::Forget { done });
        if let Ok(Err(error)) = forgotten.recv() {
            tracing::error!(directory = name, %error, "its index could not be removed");
        }
    });
}

/// The index of a directory that has no worker, as after a kill in the middle of unconfigure.
fn forget_index(folder: &Path, name: &str) {
    if let Err(error) = ipicsha_files::replicate::remove_index(folder) {
        tracing::error!(directory = name, %error, "its index could not be removed");
    }
}

fn files_gate(gate: Gate) -> ipicsha_files::replicate::Gate {
    match gate {
        Gate::Open => ipicsha_files::replicate::Gate::Open,
        Gate::Closed => ipicsha_files::replicate::Gate::Closed,
    }
}

pub(crate) fn failure(refused: &Refused) -> Failure {
    Failure::new(Kind::Refused, refused.message.clone()).hinted(&refused.next_step)
}

/// What a worker tells goes to the partner, into the log, or into the event loop.
fn callback(
    queue: &FilesQueue,
    events: &mpsc::Sender<Event>,
    name: &str,
) -> Box<dyn Fn(Said) + Send> {
    let (queue, events, name) = (queue.clone(), events.clone(), name.to_owned());
    Box::new(move |said| match said {
        Said::Send(message) => queue.send(message),
        Said::Status(status) => {
            let _ = events.blocking_send(Event::Directory(status)); // the daemon ends
        }
        Said::Kept(kept) if kept.reason == KeptReason::Conflict => tracing::warn!(
            directory = name,
            path = kept.path,
            id = kept.id,
            "a version of a file lost against a newer one and is kept: `ipicsha trash list`"
        ),
        Said::Kept(kept) => tracing::debug!(directory = name, path = kept.path, "kept"),
        Said::Repairing(line) => tracing::info!(directory = name, "repair of files: {line}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_watches_is_reported_as_what_an_administrator_must_see_to() {
        let (events, _receiver) = mpsc::channel(1);
        let file = DirectoryFile::new("/srv/uploads".into(), None);
        let name = file.common_name();
        let queue = FilesQueue::new(None);
        let mut directories = Directories::new(vec![file], PathBuf::new(), queue, events);
        directories.rank = Some(LicensedRole::Primary);
        let mut status = idle(&name, PathBuf::new());
        directories.update(status.clone());
        assert_eq!(directories.reports(), []);
        status.alarm = Some("raise fs.inotify.max_user_watches".into());
        directories.update(status.clone());
        let late = status.alarm;
        let report = DirectoryReport { name, hold: None, held_deletions: 0, late };
        assert_eq!(directories.reports(), [report]);
    }

    #[test]
    fn every_name_has_a_folder_of_its_own() {
        let folder = |name: &str| folder(Path::new("/s"), name);
        let names = ["uploads", "/srv/app/uploads", "/srv/app_uploads", "a b", "a_b", "../x"];
        let folders: std::collections::BTreeSet<PathBuf> =
            names.iter().map(|name| folder(name)).collect();
        assert_eq!(folders.len(), names.len());
        for folder in folders {
            assert_eq!(folder.parent(), Some(Path::new("/s")), "{}", folder.display());
        }
    }
}
