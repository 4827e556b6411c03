//! Many files get their names together, behind one barrier.
//!
//! Decides how much is gathered and which barrier is cheapest. No file has its name before its
//! content is on the disk; the names of a batch are durable after the next batch, or `settle`.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{Hold, Placement, Ready, temp::Out};
use crate::{meta::Meta, path::Name, resolve::Dir};

const FILES_MAX: usize = 512;
const BYTES_MAX: u64 = 64 * 1024 * 1024;
const AGE_MAX: Duration = Duration::from_millis(500);
/// Up to this many files are synced one by one, so that other writers' data is not waited for.
const SINGLE_MAX: usize = 64;
const THREADS_MAX: usize = 8;

/// A file that has its name.
#[derive(Debug)]
pub struct Placed {
    /// The facts it has now: an event about it that shows the same facts is our own echo.
    pub meta: Meta,
    /// After an exchange: what was there before, and whether it is what was expected. It is removed
    /// when the hold is dropped.
    pub before: Option<(Hold, Expected)>,
}

/// Whether an exchange brought out what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It did.
    Yes,
    /// Somebody changed the file meanwhile: it must be kept.
    No,
}

/// What became of the files of a batch, in the order they were added.
pub type Outcomes<T> = Vec<(T, Result<Placed, Errno>)>;

/// Finished files that wait for their names.
#[derive(Debug)]
pub struct Batch<T> {
    waiting: Vec<(Ready, Name, Placement, T)>,
    bytes: u64,
    since: Option<Instant>,
    /// Directories whose names are not durable yet.
    unsettled: Vec<Arc<Dir>>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), bytes: 0, since: None, unsettled: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// Adds a file that shall be called `name` in its directory; `tag` comes back with its result.
    pub fn push(&mut self, ready: Ready, name: Name, placement: Placement, tag: T, now: Instant) {
        self.bytes += ready.length();
        self.since.get_or_insert(now);
        self.waiting.push((ready, name, placement, tag));
    }

    /// Whether it is large or old enough to be committed.
    pub fn is_due(&self, now: Instant) -> bool {
        let old = self.since.is_some_and(|since| now.saturating_duration_since(since) >= AGE_MAX);
        old || self.waiting.len() >= FILES_MAX || self.bytes >= BYTES_MAX
    }

    /// Number of waiting files.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Makes the contents durable, then gives all names. The result of every file is told with its
    /// tag; a file without its name is removed.
    ///
    /// # Errors
    /// The barrier failed; no file got its name.
    pub fn commit(&mut self) -> Result<Outcomes<T>, Errno> {
        let waiting = std::mem::take(&mut self.waiting);
        (self.bytes, self.since) = (0, None);
        self.settle()?;
        barrier(waiting.iter().map(|(ready, ..)| ready).collect())?;
        let mut results = Vec::with_capacity(waiting.len());
        for (ready, name, placement, tag) in waiting {
            let dir = Arc::clone(ready.dir());
            results.push((tag, place(ready, &name, &placement)));
            if !self.unsettled.iter().any(|known| Arc::ptr_eq(known, &dir)) {
                self.unsettled.push(dir);
            }
        }
        Ok(results)
    }

    /// Makes the names of what was committed durable.
    ///
    /// # Errors
    /// The device failed; it is tried again at the next call.
    pub fn settle(&mut self) -> Result<(), Errno> {
        let dirs = distinct(self.unsettled.iter())?;
        if self.unsettled.len() > SINGLE_MAX {
            dirs.iter().try_for_each(|dir| dir.sync_all())?;
        } else {
            self.unsettled.iter().try_for_each(|dir| dir.sync())?;
        }
        self.unsettled.clear();
        Ok(())
    }
}

fn place(ready: Ready, name: &Name, placement: &Placement) -> Result<Placed, Errno> {
    let file = ready.file().try_clone().map_err(|error| super::errno_of(&error))?;
    let out = ready.place(name, placement)?;
    let expected = |expected| if expected { Expected::Yes } else { Expected::No };
    let before = out.map(|Out { hold, expected: was }| (hold, expected(was)));
    Ok(Placed { meta: Meta::of(&file)?, before })
}

/// One directory of every file system.
fn distinct<'d>(dirs: impl Iterator<Item = &'d Arc<Dir>>) -> Result<Vec<&'d Arc<Dir>>, Errno> {
    let mut found: Vec<(u64, &Arc<Dir>)> = Vec::new();
    for dir in dirs {
        let device = dir.meta()?.device;
        if !found.iter().any(|(known, _)| *known == device) {
            found.push((device, dir));
        }
    }
    Ok(found.into_iter().map(|(_, dir)| dir).collect())
}

fn barrier(files: Vec<&Ready>) -> Result<(), Errno> {
    if files.len() > SINGLE_MAX {
        return distinct(files.iter().map(|ready| ready.dir()))?
            .iter()
            .try_for_each(|dir| dir.sync_all());
    }
    let share = files.len().div_ceil(THREADS_MAX).max(1);
    let sync = |part: &[&Ready]| part.iter().try_for_each(|ready| ready.sync());
    thread::scope(|scope| {
        let spawn = |part| thread::Builder::new().spawn_scoped(scope, move || sync(part));
        let parts: Vec<_> = files.chunks(share).map(|part| (part, spawn(part))).collect();
        parts.into_iter().try_for_each(|(part, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or(Err(Errno::IO)),
            Err(_) => sync(part), // the system has no thread to give
        })
    })
}
