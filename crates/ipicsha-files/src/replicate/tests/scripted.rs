//! One real worker, and a partner that says whatever the test wants.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use ipicsha_core::{
    file::{DirectoryName, Entry, File, IndexId, Known, Part, Version},
    id::Seq,
    license::LicensedRole,
};
use tempfile::TempDir;

use super::super::{
    Command, DirectoryConfig, DirectoryStatus, Event, Gate, GuardLimits, KeepLimits, Outlets,
    Worker,
};

/// Generous: the machine may be busy.
const LONG: Duration = Duration::from_secs(30);
const INDEX: IndexId = IndexId([7; 16]);

pub(super) struct Scripted {
    worker: Worker,
    heard: Receiver<File>,
    status: Arc<Mutex<Option<DirectoryStatus>>>,
    told: i64,
    pub(super) root: PathBuf,
    pub(super) folder: TempDir,
}

fn directory() -> DirectoryName {
    DirectoryName("d".into())
}

impl Scripted {
    /// They have said hello to each other.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, state) = (folder.path().join("root"), folder.path().join("state"));
        fs::create_dir(&root).unwrap();
        let config = DirectoryConfig {
            name: directory(),
            root: root.clone(),
            state,
            rank: LicensedRole::Secondary,
            rules: Vec::new(),
            ignore_file: String::new(),
            keep: KeepLimits::default(),
            guard: GuardLimits::default(),
        };
        let status = Arc::new(Mutex::new(None));
        let (events, heard) = channel();
        let seen = Arc::clone(&status);
        let outlets = Outlets {
            events: Box::new(move |event| match event {
                Event::Send(file) => drop(events.send(file)),
                Event::Status(status) => *seen.lock().unwrap() = Some(*status),
                Event::Kept(_) | Event::Repairing(_) => {}
            }),
            parts: Box::new(|_| None),
            bandwidth_limit: None,
        };
        let worker = Worker::spawn(config, outlets).unwrap();
        worker.send(Command::SetGate(Gate::Open));
        worker.send(Command::Link(true));
        let scripted = Self { worker, heard, status, told: 0, root, folder };
        scripted.hear(|file| matches!(file, File::Hello { .. }).then_some(()));
        scripted.say(File::Hello {
            directory: directory(),
            index: INDEX,
            last: Seq(0),
            noted: None,
            answer: false,
        });
        scripted
    }

    fn say(&self, file: File) {
        self.worker.send(Command::Received(file, Box::new(())));
    }

    /// Tells entries as changed after everything the worker knows.
    pub(super) fn tell(&mut self, entries: Vec<(Vec<u8>, Version, u64)>) {
        let from = self.told;
        let entries = entries.into_iter().map(|(path, version, counter)| {
            self.told += 1;
            let known = Known { primary: counter, secondary: 0 };
            Entry { path, seq: Seq(self.told), version, known }
        });
        let entries = entries.collect();
        let (from, to) = (Seq(from), Seq(self.told));
        self.say(File::Entries { directory: directory(), index: INDEX, from, to, entries });
    }

    /// The first message from now on that `is` makes something of.
    pub(super) fn hear<T>(&self, mut is: impl FnMut(File) -> Option<T>) -> T {
        loop {
            if let Some(found) = is(self.heard.recv_timeout(LONG).expect("a message in time")) {
                return found;
            }
        }
    }

    /// The worker has durably heard all that was told.
    pub(super) fn is_noted(&self) {
        self.hear(|file| matches!(file, File::Noted { to, .. } if to.0 == self.told).then_some(()));
    }

    /// Answers the next request for a content.
    pub(super) fn answer(&self, bytes: &[u8], compressed: bool) {
        let id =
            self.hear(|file| if let File::Request { id, .. } = file { Some(id) } else { None });
        let part = Part::Last { bytes: bytes.to_vec(), compressed };
        self.say(File::Part { directory: directory(), id, part });
    }

    /// What the status says of a path that is tried again.
    pub(super) fn trouble(&self, path: &str) -> Option<String> {
        let status = self.status.lock().unwrap();
        let troubles = status.as_ref().map(|status| status.troubles.clone()).unwrap_or_default();
        troubles.into_iter().find(|trouble| trouble.path == path).map(|trouble| trouble.problem)
    }
}
