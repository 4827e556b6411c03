//! Whether anything was written into a file since it was last asked.
//!
//! The kernel queues the event of a write before the write returns, so whoever can read what a writer
//! has announced afterwards (SQLite: in the index of the WAL) finds the event here. It is asked of the
//! inode, so the name a writer came by does not matter. Decides that what is not known is a write.
//! Knows neither SQLite nor syncing.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

/// Bytes of events read at once; equal ones are merged, so there are few.
const BUFFER: usize = 1024;

/// One queue for all files: the system gives each user a hundred or so.
static QUEUE: Mutex<Option<Queue>> = Mutex::new(None);

struct Queue {
    inotify: OwnedFd,
    /// Of all files; every event has another number.
    last: u64,
    /// The last event of each file that is watched, by the number of its watch.
    writes: BTreeMap<i32, u64>,
}

impl Queue {
    fn start() -> Result<Self, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, last: 0, writes: BTreeMap::new() })
    }

    /// Watches a file. Whoever watched it before is told of a write.
    fn watch(&mut self, file: &File) -> Result<i32, Errno> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = inotify::add_watch(&self.inotify, path, WatchFlags::MODIFY)?;
        self.last += 1;
        self.writes.insert(watch, self.last);
        Ok(watch)
    }

    /// The last event of a file; `None`: it is not watched any more.
    fn last_of(&mut self, watch: i32) -> Option<u64> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    self.last += 1;
                    self.writes.values_mut().for_each(|last| *last = self.last);
                }
                Ok(event) if event.events().contains(ReadFlags::IGNORED) => {
                    self.writes.remove(&event.wd());
                }
                Ok(event) => {
                    self.last += 1;
                    if let Some(last) = self.writes.get_mut(&event.wd()) {
                        *last = self.last;
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(_) => return None,
            }
        }
        self.writes.get(&watch).copied()
    }
}

fn lock() -> MutexGuard<'static, Option<Queue>> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees every write to one file. A second one of the same file makes the first see nothing but writes.
pub(crate) struct Witness {
    watch: i32,
    /// The last event there was when it was asked to forget.
    forgotten: Cell<Option<u64>>,
}

impl Witness {
    /// `None`: the system gives none.
    pub(crate) fn of(file: &File) -> Option<Self> {
        let mut queue = lock();
        let started = match &mut *queue {
            Some(queue) => queue.watch(file),
            None => Queue::start().and_then(|new| queue.insert(new).watch(file)),
        };
        match started {
            Ok(watch) => Some(Self { watch, forgotten: Cell::new(None) }),
            Err(error) => {
                tracing::debug!(%error, "writes cannot be watched: every commit is synced anew");
                None
            }
        }
    }

    /// From now on only later writes count.
    pub(crate) fn forget(&self) {
        self.forgotten.set(self.last());
    }

    /// Nothing was written since the last [`Witness::forget`] began.
    pub(crate) fn saw_nothing(&self) -> bool {
        self.forgotten.get().is_some_and(|forgotten| self.last() == Some(forgotten))
    }

    fn last(&self) -> Option<u64> {
        lock().as_mut()?.last_of(self.watch)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(queue) = lock().as_mut()
            && queue.writes.remove(&self.watch).is_some()
        {
            // It may have gone with its file.
            let _ = inotify::remove_watch(&queue.inotify, self.watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::FileExt as _};

    use super::*;

    #[test]
    fn every_write_is_seen_by_whatever_name() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("file"), directory.path().join("other"));
        let file = File::create_new(&path).unwrap();
        fs::hard_link(&path, &other).unwrap();
        let witness = Witness::of(&file).unwrap();
        assert!(!witness.saw_nothing(), "before it was asked everything counts as written");
        witness.forget();
        assert!(witness.saw_nothing());
        file.write_at(b"x", 0).unwrap();
        assert!(!witness.saw_nothing());
        assert!(!witness.saw_nothing(), "it is not forgotten by asking");
        witness.forget();
        let mut again = fs::OpenOptions::new().append(true).open(&other).unwrap();
        assert!(witness.saw_nothing(), "opening is no write");
        again.write_all(b"y").unwrap();
        assert!(!witness.saw_nothing());
        witness.forget();
        again.set_len(0).unwrap();
        assert!(!witness.saw_nothing());
    }

    #[test]
    fn files_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name| File::create_new(directory.path().join(name)).unwrap();
        let (a, b) = (file("a"), file("b"));
        let (of_a, of_b) = (Witness::of(&a).unwrap(), Witness::of(&b).unwrap());
        of_a.forget();
        of_b.forget();
        a.write_at(b"x", 0).unwrap();
        assert!(of_b.saw_nothing());
        assert!(!of_a.saw_nothing());
        drop(of_a);
        b.write_at(b"x", 0).unwrap();
        assert!(!of_b.saw_nothing());
    }
}
