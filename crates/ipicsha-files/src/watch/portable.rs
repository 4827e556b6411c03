//! The portable library `notify`, for where our own backends cannot be used.
//!
//! Decides what its events mean. It adds the watch on a new directory late and tells nothing of what
//! came into it before. So a new directory is looked at again later, and nobody who relies on
//! completeness gets around a scan.

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, MetadataKind, ModifyKind},
};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    Method, names,
    select::{Backend, Place},
    shared::Shared,
};
use crate::error::Said;

/// Events kept until the thread has its turn; more are as good as lost.
const EVENTS_MAX: usize = 262_144;
/// A new directory is looked at again after so long. Measured: 200 ms were enough on a quiet machine
/// where listing it at once was not; the second time is for a busy one.
const AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// What the library's thread leaves for ours.
struct Inbox {
    events: Mutex<(VecDeque<notify::Result<notify::Event>>, bool)>,
    ready: OwnedFd,
}

impl Inbox {
    fn put(&self, event: notify::Result<notify::Event>) {
        if event.as_ref().is_ok_and(is_idle) {
            return;
        }
        let mut inbox = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.0.len() < EVENTS_MAX {
            inbox.0.push_back(event);
        } else {
            inbox.1 = true;
        }
        drop(inbox);
        // Full means that our thread is awake already.
        let _ = rustix::io::write(&self.ready, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> (VecDeque<notify::Result<notify::Event>>, bool) {
        // Empty means that it was taken already.
        let _ = rustix::io::read(&self.ready, &mut [0_u8; 8]);
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reading, by whom ever: also by our own scans.
fn is_idle(event: &notify::Event) -> bool {
    let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
    matches!(event.kind, EventKind::Access(_)) && event.kind != closed && !event.need_rescan()
}

/// See the module.
pub(super) struct Portable {
    inbox: Arc<Inbox>,
    root: PathBuf,
    /// When to look at which directory again.
    again: VecDeque<(Instant, Vec<u8>)>,
    /// Kept alive.
    _watcher: RecommendedWatcher,
}

impl Portable {
    pub(super) fn start(place: &Place<'_>) -> Result<Self, String> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Said(errno).to_string())?;
        let inbox = Arc::new(Inbox { events: Mutex::default(), ready });
        let putter = Arc::clone(&inbox);
        let mut watcher = notify::recommended_watcher(move |event| putter.put(event))
            .map_err(|error| error.to_string())?;
        // Links on the way to the root are resolved once, so that events name paths beneath it.
        let root = place.path.canonicalize().map_err(|error| error.to_string())?;
        watcher.watch(&root, RecursiveMode::Recursive).map_err(|error| error.to_string())?;
        Ok(Self { inbox, root, again: VecDeque::new(), _watcher: watcher })
    }

    fn event(&mut self, event: &notify::Event, now: Instant, hints: &Shared) {
        for path in &event.paths {
            let Ok(beneath) = path.strip_prefix(&self.root) else { continue };
            let beneath = beneath.as_os_str().as_bytes();
            if may_be_new(event.kind) && is_directory(path) {
                self.directory(beneath, now, hints);
            } else {
                tell(event.kind, beneath, now, hints);
            }
        }
    }

    fn directory(&mut self, path: &[u8], now: Instant, hints: &Shared) {
        hints.subtree(path);
        if names::is_ours(path) {
            return;
        }
        if self.again.len() >= EVENTS_MAX {
            self.again.clear();
            hints.everything();
        }
        self.again.extend(AGAIN.map(|after| (now + after, path.to_vec())));
    }

    fn look_again(&mut self, now: Instant, hints: &Shared) -> Option<Instant> {
        let is_due = |entry: &(Instant, Vec<u8>)| entry.0 <= now;
        for (_, path) in self.again.iter().filter(|entry| is_due(entry)) {
            hints.subtree(path);
        }
        self.again.retain(|entry| !is_due(entry));
        self.again.iter().map(|(due, _)| *due).min()
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

fn may_be_new(kind: EventKind) -> bool {
    let files = CreateKind::File;
    kind.is_create() && kind != EventKind::Create(files)
        || matches!(
            kind,
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Any | EventKind::Other
        )
}

fn tell(kind: EventKind, path: &[u8], now: Instant, hints: &Shared) {
    match kind {
        EventKind::Create(_) => hints.created(path, None, now),
        EventKind::Access(_) => hints.closed(path, None),
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any)
        | EventKind::Modify(ModifyKind::Metadata(
            MetadataKind::Any
            | MetadataKind::AccessTime
            | MetadataKind::WriteTime
            | MetadataKind::Permissions
            | MetadataKind::Ownership
            | MetadataKind::Extended
            | MetadataKind::Other,
        )) => hints.touched(path, None, now),
        EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Other)
        | EventKind::Remove(_)
        | EventKind::Any
        | EventKind::Other => hints.entry(path, None),
    }
}

impl Backend for Portable {
    fn method(&self) -> Method {
        Method::Notify
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inbox.ready.as_fd())
    }

    fn step(&mut self, now: Instant, hints: &Shared) -> Result<Option<Instant>, String> {
        let (events, mut lost) = self.inbox.take();
        for event in events {
            let event = event.map_err(|error| error.to_string())?;
            lost |= event.need_rescan();
            self.event(&event, now, hints);
        }
        if lost {
            hints.everything();
            hints.all_cookies_seen();
        }
        Ok(self.look_again(now, hints))
    }

    fn complete(&mut self, hints: &Shared) {
        hints.everything();
    }

    fn trouble(&self) -> (usize, Option<String>) {
        (0, None)
    }
}
