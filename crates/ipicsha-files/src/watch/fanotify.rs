//! One mark on the file system; events name a directory by its handle, and an entry in it.
//!
//! Decides what an event of fanotify means for the tree and which hint it gives. Events of other
//! directories of the file system are left out by one look into a table. Writing itself is not
//! listened to: it would slow every write of every program.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    Method,
    cover::{Cover, Ear, How},
    names,
    parse::{self, Event, Record},
    select::{Backend, Place},
    shared::Shared,
    system,
    tree::Id,
};
use crate::error::Said;

const BUFFER: usize = 256 << 10;
/// Buffers read before other things have their turn.
const READS_MAX: usize = 16;
/// So many seconds in a row too many foreign events come before the method is given up.
const BUSY_SECONDS: u32 = 5;

const ALWAYS: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_ONDIR;
const MOVED: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// Handles are all that is needed: the mark is on the file system, and the queue has no limit.
struct Handles;

impl Ear for Handles {
    type Key = Box<[u8]>;

    fn cover(&mut self, dir: BorrowedFd<'_>) -> Result<Box<[u8]>, Errno> {
        system::handle_of(dir)
    }

    fn uncover(&mut self, _: Box<[u8]>) {}

    fn drain(&mut self) {}
}

/// See the module.
pub(super) struct Fanotify {
    group: OwnedFd,
    cover: Cover<Handles>,
    foreign: Foreign,
    poll_every: Duration,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Fanotify {
    pub(super) fn start(place: &Place<'_>) -> Result<Self, String> {
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS
            | libc::FAN_REPORT_DFID_NAME;
        let group = system::fanotify_init(flags).map_err(refused)?;
        let mark = |mask| {
            let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
            system::fanotify_mark(group.as_fd(), flags, mask, place.fd.as_fd())
        };
        // Linux 5.17 pairs both names of a rename.
        let marked = match mark(ALWAYS | libc::FAN_RENAME) {
            Err(Errno::INVAL) => mark(ALWAYS | MOVED),
            other => other,
        };
        marked.map_err(refused)?;
        let cover = Cover::start(place.fd, Handles).map_err(refused)?;
        let foreign = Foreign::new(place.options.foreign_per_second_max);
        let buffer = vec![MaybeUninit::uninit(); BUFFER];
        Ok(Self { group, cover, foreign, poll_every: place.options.poll_every, buffer })
    }

    fn event(&mut self, event: &Event<'_>, now: Instant, hints: &Shared) {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            self.cover.doubt();
        }
        let mut is_known = false;
        // New names first, so that a directory is moved in the tree and not forgotten.
        for record in event.records.iter().rev() {
            if let Some(parent) = self.cover.tree.id_of(record.handle) {
                is_known = true;
                self.record(event, record, parent, now, hints);
            }
        }
        if !is_known {
            self.foreign.count += 1;
        }
    }

    fn record(
        &mut self,
        event: &Event<'_>,
        record: &Record<'_>,
        parent: Id,
        now: Instant,
        hints: &Shared,
    ) {
        let writer = u32::try_from(event.process).ok().filter(|process| *process > 0);
        let name = if record.name == b"." { b"" } else { record.name };
        let is_directory = event.mask & libc::FAN_ONDIR != 0;
        let came_or_went = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_RENAME | MOVED;
        if is_directory && !name.is_empty() && event.mask & came_or_went != 0 {
            let is_new = event.mask & came_or_went == libc::FAN_CREATE;
            let how = if is_new { How::Came } else { How::Moved };
            return self.cover.look((parent, name), how, writer, hints);
        }
        let path = names::join(&self.cover.tree.path(parent), name);
        if event.mask & libc::FAN_CLOSE_WRITE != 0 {
            hints.closed(&path, writer);
        } else if event.mask & (came_or_went & !libc::FAN_CREATE) != 0 {
            hints.entry(&path, writer);
        } else if event.mask & libc::FAN_CREATE != 0 {
            hints.created(&path, writer, now);
        } else {
            hints.touched(&path, writer, now);
        }
        // Several files had the name, told as one: the last of them may be open still.
        if event.mask & libc::FAN_CREATE != 0 && event.mask & libc::FAN_DELETE != 0 {
            hints.created(&path, writer, now);
        }
    }
}

impl Backend for Fanotify {
    fn method(&self) -> Method {
        Method::Fanotify
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.group.as_fd())
    }

    fn step(&mut self, now: Instant, hints: &Shared) -> Result<Option<Instant>, String> {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..READS_MAX {
            let bytes = match rustix::io::read(&self.group, &mut buffer[..]) {
                Ok((bytes, _)) => &*bytes,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(format!("cannot read events: {}", Said(errno))),
            };
            for event in parse::events(bytes) {
                self.event(&event, now, hints);
            }
        }
        self.buffer = buffer;
        self.foreign.judge(now)?;
        Ok(self.cover.tend(now, self.poll_every, hints))
    }

    fn complete(&mut self, hints: &Shared) {
        self.cover.tell_uncertain(hints);
    }

    fn trouble(&self) -> (usize, Option<String>) {
        let bare = self.cover.bare().len();
        let alarm = || "directories could not be opened: raise the limit of open files".to_owned();
        (bare, (bare > 0).then(alarm))
    }
}

/// How many events were for nothing.
struct Foreign {
    per_second_max: u32,
    count: u32,
    since: Instant,
    busy_seconds: u32,
}

impl Foreign {
    fn new(per_second_max: u32) -> Self {
        Self { per_second_max, count: 0, since: Instant::now(), busy_seconds: 0 }
    }

    fn judge(&mut self, now: Instant) -> Result<(), String> {
        let seconds = now.saturating_duration_since(self.since);
        if seconds < Duration::from_secs(1) {
            return Ok(());
        }
        let per_second = f64::from(self.count) / seconds.as_secs_f64();
        let is_busy = per_second > f64::from(self.per_second_max);
        self.busy_seconds = if is_busy { self.busy_seconds + 1 } else { 0 };
        (self.count, self.since) = (0, now);
        if self.busy_seconds < BUSY_SECONDS {
            return Ok(());
        }
        Err(format!(
            "other directories of the file system change too much ({per_second:.0} events/s); \
             give the watched directory a file system of its own"
        ))
    }
}

fn refused(errno: Errno) -> String {
    let said = Said(errno);
    match errno {
        Errno::PERM => "it needs CAP_SYS_ADMIN, which the unit file of the daemon grants".into(),
        Errno::NOSYS | Errno::INVAL => "it needs Linux 5.9 or newer".into(),
        Errno::MFILE => format!("{said}: raise fs.fanotify.max_user_groups"),
        Errno::OPNOTSUPP | Errno::NODEV | Errno::XDEV => {
            format!("this file system does not support it: {said}")
        }
        _ => said.to_string(),
    }
}
