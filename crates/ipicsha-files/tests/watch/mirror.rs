//! A consumer: it looks only where hints say, and so must come to know everything.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, Metadata},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipicsha_files::{
    RelativePath,
    watch::{Hint, Method, Options, Watcher, is_ours},
};
use tempfile::TempDir;

/// Ends a hanging test; nothing is measured by it.
pub(crate) const HANG: Duration = Duration::from_secs(90);

/// To watch by `method`, however busy other tests keep the same file system.
pub(crate) fn options(method: Method) -> Options {
    Options { best: method, foreign_per_second_max: u32::MAX, ..Options::default() }
}

/// All methods that listen.
pub(crate) const LISTENING: [Method; 3] = [Method::Fanotify, Method::Inotify, Method::Notify];

/// What is known of an entry: kind and mode, inode, size, mtime, ctime.
type Facts = (u32, u64, u64, (i64, i64), (i64, i64));

fn facts(meta: &Metadata) -> Facts {
    let times = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    // A directory changes with its entries, which are told themselves.
    if meta.is_dir() {
        return (meta.mode(), meta.ino(), 0, (0, 0), (0, 0));
    }
    (meta.mode(), meta.ino(), meta.len(), times.0, times.1)
}

/// Paths beneath the root, and what is known of them.
pub(crate) type Known = BTreeMap<Vec<u8>, Facts>;

/// Everything beneath `path`, read anew.
fn scan(root: &Path, path: &[u8], known: &mut Known) {
    let Ok(list) = fs::read_dir(root.join(OsStr::from_bytes(path))) else { return };
    for entry in list.flatten() {
        let name = entry.file_name();
        let child = join(path, name.as_bytes());
        if is_ours(&child) {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        known.insert(child.clone(), facts(&meta));
        if meta.is_dir() {
            scan(root, &child, known);
        }
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Folders that file systems of both kinds are in.
pub(crate) fn folders() -> Vec<TempDir> {
    let mut folders = vec![tempfile::tempdir().expect("a folder")];
    folders.extend(tempfile::tempdir_in("/dev/shm").ok());
    folders
}

/// Whether the method can be tested here; says so where not.
pub(crate) fn is_there(method: Method, folder: &Path) -> bool {
    let status = Watcher::start(folder, options(method), || {}).expect("a watcher").status();
    if status.method != method {
        eprintln!("skipped: {status}");
    }
    status.method == method
}

/// A consumer of one root.
pub(crate) struct Mirror {
    pub(crate) root: PathBuf,
    pub(crate) watcher: Watcher,
    pub(crate) known: Known,
    /// How often everything was scanned.
    pub(crate) scans: usize,
    pub(crate) seen: Vec<Hint>,
}

impl Mirror {
    /// Watches by `method`, which must be there.
    pub(crate) fn start(root: &Path, method: Method) -> Self {
        Self::with(root, options(method))
    }

    pub(crate) fn with(root: &Path, options: Options) -> Self {
        let method = options.best;
        let watcher = Watcher::start(root, options, || {}).expect("a watcher");
        assert_eq!(watcher.status().method, method, "{}", watcher.status());
        let root = root.to_owned();
        let mut mirror = Self { root, watcher, known: Known::new(), scans: 0, seen: Vec::new() };
        mirror.drain();
        assert_eq!(mirror.seen, [Hint::Everything], "the first hint is to scan");
        mirror
    }

    /// Handles what is there.
    pub(crate) fn drain(&mut self) {
        for hint in self.watcher.take() {
            self.handle(hint);
        }
    }

    /// Handles what comes within a moment.
    pub(crate) fn handle_some(&mut self) {
        for hint in self.watcher.wait(Duration::from_millis(10)) {
            self.handle(hint);
        }
    }

    fn handle(&mut self, hint: Hint) {
        match &hint {
            Hint::Everything => {
                self.scans += 1;
                self.known.clear();
                scan(&self.root, b"", &mut self.known);
            }
            Hint::Subtree(path) => {
                self.drop(path);
                self.look(path);
                scan(&self.root, path.as_written(), &mut self.known);
            }
            Hint::Directory(path) => self.list(path),
            Hint::Entry { path, .. } => self.look(path),
            Hint::Method(_) | Hint::RootGone => {}
        }
        self.seen.push(hint);
    }

    /// The entry and everything beneath it is not known any more.
    fn drop(&mut self, path: &RelativePath) {
        let path = path.as_written();
        let end = |last: u8| [path, &[last]].concat();
        let range = if path.is_empty() { vec![]..vec![0xff; 2] } else { end(b'/')..end(b'/' + 1) };
        let beneath: Vec<_> = self.known.range(range).map(|(path, _)| path.clone()).collect();
        for path in beneath {
            self.known.remove(&path);
        }
        self.known.remove(path);
    }

    /// Looks at one entry.
    pub(crate) fn look(&mut self, path: &RelativePath) {
        let full = self.root.join(OsStr::from_bytes(path.as_written()));
        match fs::symlink_metadata(full) {
            Ok(_) if path.is_root() => {}
            Ok(meta) => {
                if !meta.is_dir() {
                    self.drop(path);
                }
                self.known.insert(path.as_written().to_vec(), facts(&meta));
            }
            Err(_) => self.drop(path),
        }
    }

    fn list(&mut self, path: &RelativePath) {
        let mut now = Known::new();
        scan_one(&self.root, path.as_written(), &mut now);
        let parent = path.as_written();
        let is_here = |known: &[u8]| match known.iter().rposition(|b| *b == b'/') {
            Some(at) => &known[..at] == parent,
            None => parent.is_empty(),
        };
        let here: Vec<_> = self.known.keys().filter(|known| is_here(known)).cloned().collect();
        for gone in here.into_iter().filter(|known| !now.contains_key(known)) {
            self.drop(&RelativePath::new(&gone).expect("a path"));
        }
        self.known.extend(now);
    }

    /// What is on the disk.
    pub(crate) fn truth(&self) -> Known {
        let mut known = Known::new();
        scan(&self.root, b"", &mut known);
        known
    }

    /// All hints are there after a flush; what is known by them is all.
    pub(crate) fn assert_complete(&mut self) {
        self.watcher.flush(HANG).expect("flushed");
        self.drain();
        self.assert_equal();
    }

    /// Waits until what is known is all; hints of the portable library come late.
    pub(crate) fn wait_complete(&mut self) {
        self.wait(|mirror| mirror.known == mirror.truth());
    }

    /// Handles hints until `done`.
    pub(crate) fn wait(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + HANG;
        while !done(self) {
            assert!(Instant::now() < deadline, "it never came; {}", self.difference());
            // Not after every hint: what is asked for may cost a scan.
            let again = Instant::now() + Duration::from_millis(100);
            while let Some(left) = again.checked_duration_since(Instant::now()) {
                for hint in self.watcher.wait(left) {
                    self.handle(hint);
                }
            }
        }
    }

    /// Flushes until that costs no scan: what names that changed too fast left unclear is known.
    pub(crate) fn settle(&mut self) {
        let deadline = Instant::now() + HANG;
        loop {
            let before = self.scans;
            self.assert_complete();
            if self.scans == before {
                return;
            }
            assert!(Instant::now() < deadline, "every flush costs a scan");
        }
    }

    pub(crate) fn assert_equal(&self) {
        assert!(self.known == self.truth(), "{}", self.difference());
    }

    fn difference(&self) -> String {
        let truth = self.truth();
        let missed: Vec<_> = truth.iter().filter(|(p, f)| self.known.get(*p) != Some(*f)).collect();
        let ghosts: Vec<_> = self.known.keys().filter(|path| !truth.contains_key(*path)).collect();
        let show = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
        let first: Vec<_> = missed.iter().take(5).map(|(path, _)| show(path)).collect();
        let ghost: Vec<_> = ghosts.iter().take(5).map(|path| show(path)).collect();
        let facts = missed.first().map(|(path, facts)| (*facts, self.known.get(*path)));
        let last = &self.seen[self.seen.len().saturating_sub(30)..];
        format!(
            "{} of {} missed {first:?}, {} not there {ghost:?}; is and known of the first: {facts:?}; \
             {}; last hints: {last:?}",
            missed.len(),
            truth.len(),
            ghosts.len(),
            self.watcher.status(),
        )
    }
}

fn scan_one(root: &Path, path: &[u8], known: &mut Known) {
    let Ok(list) = fs::read_dir(root.join(OsStr::from_bytes(path))) else { return };
    for entry in list.flatten() {
        let child = join(path, entry.file_name().as_bytes());
        if !is_ours(&child)
            && let Ok(meta) = entry.metadata()
        {
            known.insert(child, facts(&meta));
        }
    }
}
