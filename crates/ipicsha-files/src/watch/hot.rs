//! Files that somebody may be writing to without closing them: logs, above all.
//!
//! Decides when such a file is looked at again. Nobody reports writing as such, because that would
//! slow every write of every program. Must not know what is done about a change.

use std::{
    collections::HashMap,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use rustix::fs::FileType;

use super::reach;

/// Files looked at; further ones are left to the next full scan.
const FILES_MAX: usize = 65_536;
/// A file that did not change for so long is looked at half as often each time.
const WARM: Duration = Duration::from_secs(60);
/// Longest time between two looks.
const EVERY_MAX: Duration = Duration::from_secs(300);
/// A file that did not change for so long is left to full scans.
const COLD: Duration = Duration::from_secs(3600);

/// Inode, size, mtime and ctime with nanoseconds.
type Facts = (u64, i64, (i64, u64), (i64, u64));

struct File {
    due: Instant,
    every: Duration,
    changed: Instant,
    facts: Option<Facts>,
}

/// The files, by path beneath the root.
pub(super) struct Hot {
    every: Duration,
    files: HashMap<Vec<u8>, File>,
    /// Nothing is due before.
    next: Option<Instant>,
}

impl Hot {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, files: HashMap::new(), next: None }
    }

    /// Looks at the file from `due` on.
    pub(super) fn add(&mut self, path: &[u8], due: Instant) {
        if self.files.len() >= FILES_MAX || self.files.contains_key(path) {
            return;
        }
        let file = File { due, every: self.every, changed: due, facts: None };
        self.files.insert(path.to_vec(), file);
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }

    /// It was closed, and so told.
    pub(super) fn remove(&mut self, path: &[u8]) {
        self.files.remove(path);
    }

    pub(super) fn clear(&mut self) {
        self.files.clear();
        self.next = None;
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next
    }

    /// Paths that are due at `now`, or all of them.
    pub(super) fn due(&self, now: Instant, all: bool) -> Vec<Vec<u8>> {
        if !all && self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let due = self.files.iter().filter(|(_, file)| all || file.due <= now);
        due.map(|(path, _)| path.clone()).collect()
    }

    /// What was found at the paths of [`Self::due`]; returns those that changed. A file that is no
    /// regular one, or not there, is not looked at any more.
    pub(super) fn found(
        &mut self,
        found: Vec<(Vec<u8>, Option<Facts>)>,
        now: Instant,
    ) -> Vec<Vec<u8>> {
        let mut changed = Vec::new();
        for (path, facts) in found {
            let Some(file) = self.files.get_mut(&path) else { continue };
            if facts.is_none() {
                self.files.remove(&path);
                continue;
            }
            if file.facts != facts {
                (file.facts, file.changed, file.every) = (facts, now, self.every);
                changed.push(path);
            } else if now.saturating_duration_since(file.changed) > COLD {
                self.files.remove(&path);
                continue;
            } else if now.saturating_duration_since(file.changed) > WARM {
                file.every = (file.every * 2).min(EVERY_MAX.max(self.every));
            }
            file.due = now + file.every;
        }
        self.next = self.files.values().map(|file| file.due).min();
        changed
    }
}

/// Looks at one file; `None` when there is no regular file.
pub(super) fn look(root: BorrowedFd<'_>, path: &[u8]) -> Option<Facts> {
    let stat = rustix::fs::fstat(reach::entry(root, path).ok()?).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let time = |seconds, nanoseconds: u64| (seconds, nanoseconds);
    let mtime = time(stat.st_mtime, stat.st_mtime_nsec);
    is_file.then(|| (stat.st_ino, stat.st_size, mtime, time(stat.st_ctime, stat.st_ctime_nsec)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn facts(size: i64) -> Option<Facts> {
        Some((1, size, (0, 0), (0, 0)))
    }

    #[test]
    fn a_file_is_told_whenever_it_changed_and_looked_at_more_rarely_when_not() {
        let mut hot = Hot::new(EVERY);
        let mut now = Instant::now();
        hot.add(b"log", now + EVERY);
        assert!(hot.due(now, false).is_empty());
        for size in 0..3 {
            now = hot.next_due().expect("a time");
            assert_eq!(hot.due(now, false), [b"log".to_vec()]);
            assert_eq!(hot.found(vec![(b"log".to_vec(), facts(size))], now), [b"log".to_vec()]);
            assert_eq!(hot.next_due(), Some(now + EVERY));
        }
        let mut looks = 0;
        let start = now;
        while let Some(next) = hot.next_due() {
            assert!(next - now <= EVERY_MAX);
            now = next;
            assert!(hot.found(vec![(b"log".to_vec(), facts(2))], now).is_empty());
            looks += 1;
        }
        assert!(now - start > COLD && looks < 30, "{looks} looks");
    }

    #[test]
    fn what_is_gone_or_closed_is_not_looked_at() {
        let mut hot = Hot::new(EVERY);
        let now = Instant::now();
        for path in [&b"gone"[..], b"closed"] {
            hot.add(path, now);
        }
        hot.remove(b"closed");
        assert_eq!(hot.due(now, true), [b"gone".to_vec()]);
        assert!(hot.found(vec![(b"gone".to_vec(), None)], now).is_empty());
        assert_eq!(hot.next_due(), None);
    }
}
