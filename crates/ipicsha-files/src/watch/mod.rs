//! Where to look: hints about what may have changed beneath one root.
//!
//! Decides which paths somebody should look at, and when. A hint is never the truth: a scan is. Must
//! not know the index, the partner, or what a change means; whether a change is our own echo is for
//! whoever compares the file with what it wrote.
//!
//! - **Invariant**: the backend listens before anything is listed, and the first hint is always
//!   [`Hint::Everything`]. So the order is start, scan, drain, and no change falls between.
//! - **Invariant**: a directory is listened to first and listed afterwards, and the hint to scan it is
//!   given after both. What happened before the hint is found by that scan, what happens after it
//!   gives a hint of its own.
//! - **Invariant**: the kernel's queue is read whatever the consumer does. Hints are a set of bounded
//!   size: too many of one directory become [`Hint::Directory`], too many of all [`Hint::Everything`].
//! - **Invariant**: the map of directories follows what is on the disk now, not what an event said;
//!   events are merged by the kernel and late by nature.
//! - **Invariant**: names of our own ([`is_ours`]) are never told.
//! - A lost event, an unmount or a full queue means to list everything again; a watch limit means to
//!   look at what is not covered every [`Options::poll_every`], with an alarm that names the remedy.

mod cookie;
mod cover;
mod fanotify;
mod hot;
mod inotify;
mod names;
mod parse;
mod pending;
mod polling;
mod portable;
mod reach;
mod run;
mod select;
mod shared;
mod status;
mod system;
mod tree;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::io::Errno;

pub use names::is_ours;
pub use status::{Method, Refused, Status};

use crate::{error::Said, path::RelativePath, watch::shared::Shared};

/// Where to look. Ordered as they are to be handled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// How changes are noticed is not as it was; for the status and its alarm.
    Method(Status),
    /// The root is not there any more, or another directory has its name. Nothing is to be deleted
    /// for that. [`Hint::Everything`] follows when a directory is there again.
    RootGone,
    /// Scan everything: at the start, after lost events, and where single paths would be too many.
    Everything,
    /// Look at this entry and at everything beneath it. It may be gone.
    Subtree(RelativePath),
    /// Look at this directory and at each of its entries, not beneath them.
    Directory(RelativePath),
    /// Look at this entry. It may be gone, and all that was beneath it. Of a file with several hard
    /// links the name it was changed by is told, and only that one: look at the others as well.
    Entry {
        /// The entry.
        path: RelativePath,
        /// Process that changed it, where the method knows it and it was one only. Good for leaving
        /// out what we wrote ourselves early; the comparison with the index decides.
        writer: Option<u32>,
    },
}

/// How to watch. The defaults are right for the product.
#[derive(Clone, Debug)]
pub struct Options {
    /// The best method that is tried; those below it follow.
    pub best: Method,
    /// A file that is written is told when it is closed, or when nothing was heard of it for so long.
    pub settle: Duration,
    /// Paths that are kept at most; more become [`Hint::Everything`].
    pub paths_max: usize,
    /// How often to look where nothing listens.
    pub poll_every: Duration,
    /// How often a file that stays open for writing is looked at while it changes.
    pub recheck_every: Duration,
    /// Directories that inotify may listen to at most: leaves watches for other programs.
    pub watches_max: usize,
    /// Events of other directories of the file system per second, over five seconds, from which on
    /// listening to the whole file system costs more than it gives.
    pub foreign_per_second_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            best: Method::Fanotify,
            settle: Duration::from_millis(300),
            paths_max: 65_536,
            poll_every: Duration::from_secs(10),
            recheck_every: Duration::from_secs(10),
            watches_max: usize::MAX,
            foreign_per_second_max: 20_000,
        }
    }
}

/// Why a root cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The root cannot be opened.
    #[error("cannot watch {}: {}; create the directory or make it readable", path.display(), Said(*errno))]
    Root {
        /// The root.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// No thread or wake-up descriptor.
    #[error("cannot watch {}: {}; raise the limits of processes and open files", path.display(), Said(*errno))]
    Resources {
        /// The root.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
}

/// Why it is not known that all hints are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The event of the cookie did not come in time.
    #[error("the file system did not report its own cookie in time; try again or scan everything")]
    Late,
    /// The cookie cannot be written.
    #[error("cannot write a cookie beneath `.ipicsha`: {}; scan everything instead", Said(*.0))]
    Cookie(Errno),
    /// There is no root.
    #[error("the watched directory is not there")]
    RootGone,
}

/// Watches one root. Dropping it ends the watching.
pub struct Watcher {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Listens to everything beneath the directory `root`, which may itself be reached by links.
    /// Returns when every directory is covered. `wake` is called from the watching thread whenever
    /// hints are there after there were none; it must not block.
    ///
    /// # Errors
    /// The root cannot be opened, or the system has no thread for it. A method that cannot be used
    /// is no error: the next one is, and [`Self::status`] says why.
    pub fn start(
        root: impl AsRef<Path>,
        options: Options,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Self, WatchError> {
        let path = root.as_ref().to_owned();
        let resources = |errno| WatchError::Resources { path: path.clone(), errno };
        let shared = Arc::new(Shared::new(&options).map_err(resources)?);
        let run = run::Run::start(&path, options, Arc::clone(&shared), Box::new(wake))
            .map_err(|errno| WatchError::Root { path: path.clone(), errno })?;
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || run.run());
        let thread = thread
            .map_err(|error| resources(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        Ok(Self { path, shared, thread: Some(thread) })
    }

    /// The hints there are, in the order of [`Hint`]; none, if nothing happened.
    pub fn take(&self) -> Vec<Hint> {
        self.shared.take()
    }

    /// Waits for hints, at most for `timeout`; none then.
    pub fn wait(&self, timeout: Duration) -> Vec<Hint> {
        self.shared.wait(Instant::now() + timeout)
    }

    /// Makes sure that every change made before this call is among the hints that were taken or are
    /// there to be taken, settled or not: a cookie file goes through the same queue. Files that stay
    /// open are looked at, and where nothing listens the hint is to scan.
    ///
    /// # Errors
    /// It could not be made sure before `timeout` was over.
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        cookie::flush(&self.path, &self.shared, Instant::now() + timeout)
    }

    /// Looks at this file every [`Options::recheck_every`] for as long as it changes, then more
    /// rarely and for an hour at most. For files found changed between two looks, or changed shortly
    /// before a scan: nobody reports writing to a file that stays open. Files created while watching
    /// and not yet closed are looked at anyway.
    pub fn recheck(&self, path: &RelativePath) {
        let every = self.shared.recheck_every;
        self.shared.lock().hot.add(path.as_written(), Instant::now() + every);
    }

    /// How changes are noticed now, and why not better.
    pub fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }

    /// Stops the reading of events until it is dropped, as a machine does that is busy with other
    /// things. For tests of what happens then.
    pub fn pause(&self) -> Pause<'_> {
        self.shared.wake();
        Pause { _gate: self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there; there is nobody to tell it to here.
            let _ = thread.join();
        }
    }
}

/// While it lives, no event is read.
#[derive(Debug)]
pub struct Pause<'watcher> {
    _gate: MutexGuard<'watcher, ()>,
}
