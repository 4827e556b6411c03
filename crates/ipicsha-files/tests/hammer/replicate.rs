//! A worker that a partner with bad intentions tells entries, beneath a directory that somebody
//! plays with.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipicsha_core::{
    file::{Contents, DirectoryName, Entry, File, IndexId, Known, Owner, Part, Version},
    id::Seq,
    license::LicensedRole,
};
use ipicsha_files::{
    Hash,
    replicate::{Command, DirectoryConfig, Event, Gate, GuardLimits, KeepLimits, Outlets, Worker},
};

use crate::{
    outside::Outside,
    swap::{Hammer, StopAtEnd},
};

/// Ends a hanging test; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);
/// At least so many rounds of entries meet the swaps.
const ROUNDS: u64 = 100;
/// Files in each directory.
const FILES: u64 = 12;
/// A round is told after this, whatever became of the one before.
const PACE: Duration = Duration::from_millis(20);

/// The partner: says what it likes, and always knows better.
struct Partner {
    worker: Worker,
    heard: Receiver<File>,
    directory: DirectoryName,
    index: IndexId,
    last: i64,
    contents: HashMap<[u8; 32], Vec<u8>>,
    requests: u64,
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_micros()).expect("a time")
}

fn config(root: &Path, state: &Path) -> DirectoryConfig {
    DirectoryConfig {
        name: DirectoryName("d".into()),
        root: root.into(),
        state: state.into(),
        rank: LicensedRole::Secondary,
        rules: Vec::new(),
        ignore_file: String::new(),
        keep: KeepLimits { bytes: 1 << 40, ..KeepLimits::default() },
        guard: GuardLimits { percent: 100, files_small: u64::MAX, files: u64::MAX },
    }
}

impl Partner {
    fn start(root: &Path, state: &Path) -> Self {
        let (told, heard) = channel();
        let parts = told.clone();
        let outlets = Outlets {
            events: Box::new(move |event| {
                if let Event::Send(file) = event {
                    // Nobody listens when the test is over.
                    let _ = told.send(file);
                }
            }),
            parts: Box::new(move |file| parts.send(file).ok().map(|()| Duration::ZERO)),
            bandwidth_limit: None,
        };
        let worker = Worker::spawn(config(root, state), outlets).expect("a worker");
        worker.send(Command::SetGate(Gate::Open));
        worker.send(Command::Link(true));
        let directory = DirectoryName("d".into());
        let (index, contents) = (IndexId([7; 16]), HashMap::new());
        Self { worker, heard, directory, index, last: 0, contents, requests: 0 }
    }

    fn say(&self, file: File) {
        self.worker.send(Command::Received(file, Box::new(())));
    }

    /// Hears and answers for a while.
    fn listen(&mut self, most: Duration) {
        let end = Instant::now() + most;
        while let Ok(file) = self.heard.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            self.hear(file);
        }
    }

    fn hear(&mut self, file: File) {
        let directory = self.directory.clone();
        if let File::Hello { index, last, noted, answer: true, .. } = file {
            // What was said before the worker listened is as good as never said.
            self.last = noted.map_or(0, |(_, seq)| seq.0);
            // Of its index everything is known.
            let noted_there = Some((index, last));
            let (index, last) = (self.index, Seq(self.last));
            self.say(File::Hello {
                directory,
                index,
                last,
                noted: noted_there,
                answer: noted.is_none(),
            });
        } else if let File::Entries { index, to, .. } = file {
            self.say(File::Noted { directory, index, to });
        } else if let File::Request { id, hash, .. } = file {
            self.requests += 1;
            let bytes = self.contents.get(&hash).cloned().unwrap_or_default();
            for part in [Part::Data { bytes, compressed: false }, Part::End] {
                self.say(File::Part { directory: directory.clone(), id, part });
            }
        }
    }

    fn version(&self, contents: Contents, mode: u32, round: u64) -> Version {
        let owner = || Owner { id: 0, name: None };
        let mtime_ns = i64::try_from(1_000_000_000 * round).expect("a time");
        let (user, group, attributes) = (owner(), owner(), Vec::new());
        Version { contents, mode, user, group, mtime_ns, attributes, link: None }
    }

    /// Tells versions that know everything the worker does in the next hour.
    fn tell(&mut self, versions: Vec<(String, Version)>) {
        let from = Seq(self.last);
        let later = now_us() + 3_600_000_000;
        let known = Known { primary: now_us(), secondary: later };
        let mut entries = Vec::new();
        for (path, version) in versions {
            self.last += 1;
            entries.push(Entry { path: path.into_bytes(), seq: Seq(self.last), version, known });
        }
        let (directory, index, to) = (self.directory.clone(), self.index, Seq(self.last));
        self.say(File::Entries { directory, index, from, to, entries });
    }

    /// Files of this round in `d` and `d/below`; in every third round some of them are deleted, in
    /// others they only get other facts. Gives what is there then.
    fn tell_round(&mut self, round: u64) -> Vec<(String, Vec<u8>)> {
        let mut versions = vec![
            ("d".to_owned(), self.version(Contents::Directory, 0o755, round)),
            ("d/below".to_owned(), self.version(Contents::Directory, 0o750, round)),
        ];
        let target = format!("f{round}").into_bytes();
        versions.push(("d/link".into(), self.version(Contents::Symlink { target }, 0, round)));
        let mut there = Vec::new();
        for number in 0..FILES {
            for path in [format!("d/f{number}"), format!("d/below/f{number}")] {
                if round % 3 == 1 && number % 2 == 0 {
                    versions.push((path, Version::absent(0)));
                    continue;
                }
                let bytes = format!("inside {path} {}", round / 2).into_bytes();
                let hash = *Hash::of(&bytes).as_bytes();
                let size = bytes.len() as u64;
                self.contents.insert(hash, bytes.clone());
                let mode = 0o600 + u32::try_from(round % 64).expect("small");
                let version = self.version(Contents::File { size, hash }, mode, round);
                versions.push((path.clone(), version));
                there.push((path, bytes));
            }
        }
        self.tell(versions);
        there
    }
}

#[test]
fn a_worker_never_leaves_its_root_whatever_is_swapped() {
    let folder = tempfile::tempdir().expect("a folder");
    let [root, state, stash] = ["root", "state", "stash"].map(|name| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    });
    fs::create_dir(root.join("d")).expect("a directory");
    let outside = Outside::make(folder.path().join("outside"));
    let mut partner = Partner::start(&root, &state);
    let swaps = Hammer::default();
    let mut round = 1;
    thread::scope(|scope| {
        scope.spawn(|| swaps.swap(&root.join("d"), &stash, outside.path()));
        let _stop = StopAtEnd(&swaps);
        let end = Instant::now() + HANG;
        // How much a round makes the worker want depends on when it meets the swaps.
        while !swaps.is_enough() || round < ROUNDS || partner.requests <= ROUNDS {
            let requests = partner.requests;
            assert!(Instant::now() < end, "in {round} rounds {requests} contents were wanted");
            partner.tell_round(round);
            partner.listen(PACE);
            round += 1;
        }
    });
    outside.assert_untouched();
    // Nobody plays any more: what the partner says is there in the end.
    let end = Instant::now() + HANG;
    let is_there = |there: &[(String, Vec<u8>)]| {
        let is_equal = |(path, bytes): &(String, Vec<u8>)| {
            fs::read(root.join(path)).is_ok_and(|found| found == *bytes)
        };
        fs::symlink_metadata(root.join("d")).is_ok_and(|meta| meta.is_dir())
            && there.iter().all(is_equal)
    };
    let there = partner.tell_round(3 * round);
    while !is_there(&there) {
        assert!(Instant::now() < end, "it does not come to rest");
        partner.listen(PACE);
    }
    drop(partner);
    outside.assert_untouched();
}
