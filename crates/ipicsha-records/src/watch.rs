//! An alarm clock that rings when the application may have committed.
//!
//! Decides which file system events are worth waking for. The event of a commit precedes the
//! commit, so it is only a hint: the worker looks for the commit itself, for a while. The
//! directory is watched, since the `-wal` or `-journal` is created, deleted and replaced.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};

/// Between two events, when they come one after the other.
const REST: Duration = Duration::from_millis(1);

/// Watches one database file; stops when dropped.
pub(crate) struct Watch {
    _watcher: RecommendedWatcher,
}

/// Whether a database file is watched.
pub(crate) enum Watching {
    /// It is not.
    No,
    /// It is to be, but the system does not let us.
    Impossible,
    /// It is, until this is dropped.
    Yes { _watch: Watch },
}

impl Watching {
    /// As [`Watch::start`].
    pub(crate) fn start(
        path: &Path,
        alarm: Alarm,
        ring: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        match Watch::start(path, alarm, ring) {
            Ok(watch) => Self::Yes { _watch: watch },
            Err(error) => {
                tracing::warn!(path = %path.display(), %error,
                    "the directory cannot be watched; changes are noticed four times a second");
                Self::Impossible
            }
        }
    }
}

/// Whether a wake-up is already on its way; keeps a busy application from filling the channel.
#[derive(Clone, Default)]
pub(crate) struct Alarm(Arc<AtomicBool>);

impl Alarm {
    /// Called by the worker when it begins to look: a later event has to ring again.
    pub(crate) fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Watch {
    /// Calls `ring` when the database at `path` may have changed.
    fn start(
        path: &Path,
        alarm: Alarm,
        ring: impl Fn() -> bool + Send + 'static,
    ) -> notify::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_owned();
        // A commit ends with a write to the one, or with the end of the other.
        let [wal, journal] = ["-wal", "-journal"].map(|suffix| {
            let mut file: OsString = name.clone();
            file.push(suffix);
            file
        });
        let concerns = move |event: &notify::Event| {
            let ours =
                |file: &OsStr| [&name, &wal, &journal].into_iter().any(|ours| *ours == *file);
            is_change(event.kind)
                && event.paths.iter().any(|path| path.file_name().is_some_and(ours))
        };
        let mut rang = Instant::now();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // An error (queue overflow) may hide a change.
                if !event.as_ref().map_or(true, &concerns) {
                    return;
                }
                if !alarm.0.swap(true, Ordering::SeqCst) && !ring() {
                    // Nobody will begin to look because of this one: the next event rings again.
                    alarm.reset();
                }
                // Every page written is an event. While this thread sleeps the kernel merges equal
                // ones; the worker goes on looking for much longer.
                if rang.elapsed() < REST {
                    thread::sleep(REST);
                }
                rang = Instant::now();
            })?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        watcher.watch(directory.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher })
    }
}

/// Opening and reading are no changes; our own polling must not wake us.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Name(_) | ModifyKind::Any)
        | EventKind::Any => true,
        EventKind::Access(AccessKind::Close(mode)) => mode == AccessMode::Write,
        EventKind::Modify(ModifyKind::Metadata(_) | ModifyKind::Other)
        | EventKind::Access(_)
        | EventKind::Other => false,
    }
}
