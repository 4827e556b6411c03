//! The set of paths that somebody should look at.
//!
//! Decides what makes what superfluous, and when a path is told. Bounded: many entries of one
//! directory become that directory, too many paths become everything. Must not know where hints come
//! from.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use super::{Hint, Status, names};
use crate::path::RelativePath;

/// Entries of one directory; more of them are the directory.
const ENTRIES_MAX: usize = 1024;
/// A path that is heard of again and again is told after so many times [`Pending::settle`].
const SETTLES_MAX: u32 = 16;

/// Who changed a path: nobody known, or several, is `None`.
type Writer = Option<u32>;

struct Waiting {
    /// Number of its place in the queue.
    number: u64,
    due: Instant,
    latest: Instant,
    writer: Writer,
}

/// What is to be told. Paths are bytes beneath the root.
pub(super) struct Pending {
    paths_max: usize,
    settle: Duration,
    method: Option<Status>,
    gone: bool,
    everything: bool,
    subtrees: BTreeSet<Vec<u8>>,
    directories: BTreeSet<Vec<u8>>,
    /// By directory, then name.
    entries: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Writer>>,
    entry_count: usize,
    /// Files that may still be written to.
    waiting: HashMap<Vec<u8>, Waiting>,
    /// When to look at which of them; may name some that wait no longer.
    queue: VecDeque<(Instant, u64, Vec<u8>)>,
    /// Number of the next place in the queue.
    next: u64,
}

impl Pending {
    pub(super) fn new(paths_max: usize, settle: Duration) -> Self {
        Self {
            paths_max,
            settle,
            method: None,
            gone: false,
            everything: false,
            subtrees: BTreeSet::new(),
            directories: BTreeSet::new(),
            entries: BTreeMap::new(),
            entry_count: 0,
            waiting: HashMap::new(),
            queue: VecDeque::new(),
            next: 0,
        }
    }

    /// Whether there is something to tell now.
    pub(super) fn is_ready(&self) -> bool {
        let flags = self.gone || self.everything || self.method.is_some();
        let paths = self.entry_count > 0;
        flags || paths || !self.subtrees.is_empty() || !self.directories.is_empty()
    }

    fn len(&self) -> usize {
        self.entry_count + self.subtrees.len() + self.directories.len() + self.waiting.len()
    }

    fn bound(&mut self) {
        if self.len() > self.paths_max {
            self.everything();
        }
    }

    /// How changes are noticed is another now.
    pub(super) fn method(&mut self, status: Status) {
        self.method = Some(status);
    }

    fn clear(&mut self) {
        self.subtrees.clear();
        self.directories.clear();
        self.entries.clear();
        self.entry_count = 0;
        self.waiting.clear();
        self.queue.clear();
    }

    /// The root is gone; what was to be told of it is void.
    pub(super) fn root_gone(&mut self) {
        self.clear();
        self.everything = false;
        self.gone = true;
    }

    /// Everything is to be scanned; paths need not be told.
    pub(super) fn everything(&mut self) {
        self.clear();
        self.everything = true;
    }

    /// The entry and everything beneath it is to be looked at.
    pub(super) fn subtree(&mut self, path: &[u8]) {
        if path.is_empty() {
            return self.everything();
        }
        if self.everything || self.is_beneath_subtree(path) {
            return;
        }
        let beneath = beneath(path);
        remove_range(&mut self.subtrees, &beneath);
        remove_range(&mut self.directories, &beneath);
        self.directories.remove(path);
        self.drop_entries(path);
        let inside: Vec<_> = self.entries.range(beneath).map(|(dir, _)| dir.clone()).collect();
        for dir in inside {
            self.drop_entries(&dir);
        }
        self.drop_entry(path);
        self.subtrees.insert(path.to_vec());
        self.bound();
    }

    fn drop_entries(&mut self, dir: &[u8]) {
        self.entry_count -= self.entries.remove(dir).map_or(0, |names| names.len());
    }

    fn drop_entry(&mut self, path: &[u8]) {
        let (dir, name) = names::split(path);
        if let Some(names) = self.entries.get_mut(dir) {
            self.entry_count -= usize::from(names.remove(name).is_some());
            if names.is_empty() {
                self.entries.remove(dir);
            }
        }
    }

    fn is_beneath_subtree(&self, path: &[u8]) -> bool {
        if self.subtrees.is_empty() {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| self.subtrees.contains(&path[..end]))
    }

    /// The entry is to be looked at now.
    pub(super) fn entry(&mut self, path: &[u8], writer: Writer) {
        if self.everything {
            return;
        }
        let writer = match self.waiting.remove(path) {
            Some(waiting) if waiting.writer != writer => None,
            Some(_) | None => writer,
        };
        self.tell(path, writer);
        self.bound();
    }

    fn tell(&mut self, path: &[u8], writer: Writer) {
        let (dir, name) = names::split(path);
        if self.directories.contains(dir) && !path.is_empty() || self.is_beneath_subtree(path) {
            return;
        }
        let names = self.entries.entry(dir.to_vec()).or_default();
        match names.get_mut(name) {
            Some(known) if *known != writer => *known = None,
            Some(_) => {}
            None => {
                names.insert(name.to_vec(), writer);
                self.entry_count += 1;
            }
        }
        if names.len() > ENTRIES_MAX {
            let dir = dir.to_vec();
            self.drop_entries(&dir);
            self.directories.insert(dir);
        }
    }

    /// The entry is to be looked at when nothing was heard of it for a while: more may follow.
    pub(super) fn entry_later(&mut self, path: &[u8], writer: Writer, now: Instant) {
        if self.everything {
            return;
        }
        let due = now + self.settle;
        if let Some(waiting) = self.waiting.get_mut(path) {
            waiting.due = due.min(waiting.latest);
            if waiting.writer != writer {
                waiting.writer = None;
            }
            return;
        }
        let latest = now + self.settle * SETTLES_MAX;
        let number = self.enqueue(due, path.to_vec());
        self.waiting.insert(path.to_vec(), Waiting { number, due, latest, writer });
        if self.queue.len() > 2 * self.paths_max {
            let waiting = &self.waiting;
            self.queue.retain(|(_, number, path)| {
                waiting.get(path).is_some_and(|waiting| waiting.number == *number)
            });
        }
        self.bound();
    }

    /// At the end: what is put there later is due later, by a fixed delay.
    fn enqueue(&mut self, due: Instant, path: Vec<u8>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.queue.push_back((due, number, path));
        number
    }

    /// Makes ready what has settled by `now`.
    pub(super) fn settle(&mut self, now: Instant) {
        while self.queue.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, number, path)) = self.queue.pop_front() else { break };
            let waiting = self.waiting.get(&path).filter(|waiting| waiting.number == number);
            let Some(waiting) = waiting else { continue };
            if waiting.due > now {
                let number = self.enqueue(now + self.settle, path.clone());
                if let Some(waiting) = self.waiting.get_mut(&path) {
                    waiting.number = number;
                }
            } else if let Some(waiting) = self.waiting.remove(&path) {
                self.tell(&path, waiting.writer);
            }
        }
        self.bound();
    }

    /// Makes everything ready that waits.
    pub(super) fn settle_all(&mut self) {
        self.queue.clear();
        for (path, waiting) in std::mem::take(&mut self.waiting) {
            self.tell(&path, waiting.writer);
        }
    }

    /// When something settles next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, ..)| *due)
    }

    /// Everything that is ready, in the order of [`Hint`].
    pub(super) fn take(&mut self) -> Vec<Hint> {
        let mut hints = Vec::new();
        hints.extend(self.method.take().map(Hint::Method));
        hints.extend(std::mem::take(&mut self.gone).then_some(Hint::RootGone));
        hints.extend(std::mem::take(&mut self.everything).then_some(Hint::Everything));
        hints.extend(std::mem::take(&mut self.subtrees).into_iter().map(subtree));
        for dir in std::mem::take(&mut self.directories) {
            hints.push(RelativePath::try_from(dir).map_or_else(too_long, Hint::Directory));
        }
        for (dir, names) in std::mem::take(&mut self.entries) {
            let path = |name: &[u8]| RelativePath::try_from(names::join(&dir, name));
            hints.extend(names.into_iter().map(|(name, writer)| match path(&name) {
                Ok(path) => Hint::Entry { path, writer },
                // The scan of the directory names the path that is too long.
                Err(_) => subtree(dir.clone()),
            }));
        }
        self.entry_count = 0;
        hints
    }
}

/// A path beneath the limit of a path; the scan of what is above it names what is too long.
fn subtree(mut path: Vec<u8>) -> Hint {
    loop {
        match RelativePath::new(&path) {
            Ok(path) if path.is_root() => return Hint::Everything,
            Ok(path) => return Hint::Subtree(path),
            Err(_) => path.truncate(names::split(&path).0.len()),
        }
    }
}

fn too_long(_: crate::path::PathError) -> Hint {
    Hint::Everything
}

/// Paths beneath `path`, which are next to one another in the order of bytes.
fn beneath(path: &[u8]) -> Range<Vec<u8>> {
    let with = |end: u8| [path, &[end]].concat();
    with(b'/')..with(b'/' + 1)
}

fn remove_range(set: &mut BTreeSet<Vec<u8>>, range: &Range<Vec<u8>>) {
    let found: Vec<_> = set.range(range.clone()).cloned().collect();
    for path in found {
        set.remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> Pending {
        Pending::new(5000, Duration::from_millis(300))
    }

    fn path(text: &str) -> RelativePath {
        RelativePath::new(text.as_bytes()).expect("a path")
    }

    fn entry(text: &str, writer: Writer) -> Hint {
        Hint::Entry { path: path(text), writer }
    }

    #[test]
    fn the_same_path_is_told_once_and_two_writers_are_none() {
        let mut pending = pending();
        pending.entry(b"a/b", Some(1));
        pending.entry(b"a/b", Some(1));
        pending.entry(b"c", Some(1));
        pending.entry(b"c", Some(2));
        assert_eq!(pending.take(), [entry("c", None), entry("a/b", Some(1))]);
        assert!(!pending.is_ready() && pending.take().is_empty());
    }

    #[test]
    fn a_subtree_stands_for_all_beneath_it_but_not_beside_it() {
        let mut pending = pending();
        for text in ["a", "a/b", "a/b/c", "a.b", "a0"] {
            pending.entry(text.as_bytes(), None);
        }
        pending.subtree(b"a/b/x");
        pending.subtree(b"a");
        pending.subtree(b"a/d");
        pending.entry(b"a/e/f", None);
        let expected = [Hint::Subtree(path("a")), entry("a.b", None), entry("a0", None)];
        assert_eq!(pending.take(), expected);
        pending.subtree(b"");
        assert_eq!(pending.take(), [Hint::Everything]);
    }

    #[test]
    fn many_entries_become_their_directory_and_too_many_become_everything() {
        let mut pending = pending();
        for number in 0..=ENTRIES_MAX {
            pending.entry(format!("a/{number}").as_bytes(), None);
        }
        pending.entry(b"a/b/c", None);
        assert_eq!(pending.take(), [Hint::Directory(path("a")), entry("a/b/c", None)]);
        for number in 0..=5000 {
            pending.entry(format!("{number}/x").as_bytes(), None);
        }
        pending.entry(b"y", None);
        pending.subtree(b"z");
        assert_eq!(pending.take(), [Hint::Everything]);
    }

    #[test]
    fn waiting_paths_are_bounded_as_well() {
        let mut pending = pending();
        let now = Instant::now();
        for number in 0..=5000 {
            pending.entry_later(format!("{number}/x").as_bytes(), None, now);
        }
        assert_eq!(pending.take(), [Hint::Everything]);
        for number in 0..20_000 {
            pending.entry_later(b"x", None, now);
            pending.entry(b"x", Some(number));
        }
        assert!(pending.queue.len() <= 2 * 5000 + 1, "{}", pending.queue.len());
    }

    #[test]
    fn a_file_is_told_when_it_is_quiet_or_at_once_when_it_is_complete() {
        let mut pending = pending();
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        pending.entry_later(b"open", None, start);
        pending.entry_later(b"closed", None, start);
        pending.entry(b"closed", None);
        pending.settle(after(299));
        assert_eq!(pending.take(), [entry("closed", None)]);
        pending.entry_later(b"open", None, after(299));
        pending.settle(after(300));
        assert!(!pending.is_ready());
        pending.settle(after(600));
        assert_eq!(pending.take(), [entry("open", None)]);
        assert_eq!(pending.next_due(), None);
    }

    #[test]
    fn a_file_that_is_never_quiet_is_told_all_the_same() {
        let mut pending = pending();
        let start = Instant::now();
        let mut told = None;
        for tenth in 0..100 {
            let now = start + Duration::from_millis(100) * tenth;
            pending.entry_later(b"busy", None, now);
            pending.settle(now);
            if pending.is_ready() {
                told = Some(tenth);
                break;
            }
        }
        assert!(told.is_some_and(|tenth| tenth <= 52), "{told:?}");
    }

    #[test]
    fn a_root_that_is_gone_voids_its_paths() {
        let mut pending = pending();
        pending.entry(b"a", None);
        pending.entry_later(b"b", None, Instant::now());
        pending.root_gone();
        pending.settle_all();
        assert_eq!(pending.take(), [Hint::RootGone]);
        pending.root_gone();
        pending.everything();
        assert_eq!(pending.take(), [Hint::RootGone, Hint::Everything]);
    }

    #[test]
    fn a_path_too_long_to_be_named_is_told_by_a_directory_above_it() {
        let mut pending = pending();
        let deep = vec!["x".repeat(250); 20].join("/");
        pending.entry(deep.as_bytes(), None);
        let hints = pending.take();
        let [Hint::Subtree(path)] = hints.as_slice() else { panic!("{hints:?}") };
        assert!(deep.as_bytes().starts_with(path.as_bytes()) && path.depth() == 16);
    }
}
