//! One watch on every directory.
//!
//! Decides what an event of inotify means for the tree and which hint it gives. Writing itself is
//! not listened to.

use std::{
    collections::{HashSet, VecDeque},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::{
    Method,
    cover::{Cover, Ear, How},
    names,
    select::{Backend, Place},
    shared::Shared,
    tree::ROOT,
};
use crate::error::Said;

/// Events kept while directories are listed; more are as good as lost.
const BACKLOG_MAX: usize = 262_144;
/// Events handled before other things have their turn.
const EVENTS_MAX: usize = 32_768;
const BUFFER: usize = 64 << 10;

struct Event {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Box<[u8]>,
}

/// The instance and what was read of it.
struct Watches {
    instance: OwnedFd,
    watches: HashSet<i32>,
    watches_max: usize,
    /// The limit of watches was reached.
    limit: bool,
    backlog: Backlog,
}

#[derive(Default)]
struct Backlog {
    events: VecDeque<Event>,
    /// Events were lost.
    lost: bool,
    /// The instance cannot be read.
    failed: Option<Errno>,
}

impl Backlog {
    fn keep(&mut self, event: Event) {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) || self.events.len() >= BACKLOG_MAX {
            self.lost = true;
        } else {
            self.events.push_back(event);
        }
    }
}

impl Ear for Watches {
    type Key = i32;

    fn cover(&mut self, dir: BorrowedFd<'_>) -> Result<i32, Errno> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        // By the held descriptor: the path may lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let watch = inotify::add_watch(&self.instance, path, flags);
        self.limit |= watch == Err(Errno::NOSPC);
        let watch = watch?;
        if self.watches.insert(watch) && self.watches.len() > self.watches_max {
            self.limit = true;
            self.uncover(watch);
            return Err(Errno::NOSPC);
        }
        Ok(watch)
    }

    fn uncover(&mut self, watch: i32) {
        self.watches.remove(&watch);
        // The kernel may have removed it with its directory.
        let _ = inotify::remove_watch(&self.instance, watch);
    }

    fn drain(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.instance, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => self.backlog.keep(Event {
                    watch: event.wd(),
                    flags: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map_or_else(Box::default, |n| n.to_bytes().into()),
                }),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    self.backlog.failed = Some(errno);
                    break;
                }
            }
        }
    }
}

/// See the module.
pub(super) struct Inotify {
    cover: Cover<Watches>,
    poll_every: Duration,
}

impl Inotify {
    pub(super) fn start(place: &Place<'_>) -> Result<Self, String> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let watches = Watches {
            instance: inotify::init(flags).map_err(refused)?,
            watches: HashSet::new(),
            watches_max: place.options.watches_max,
            limit: false,
            backlog: Backlog::default(),
        };
        let cover = Cover::start(place.fd, watches).map_err(refused)?;
        Ok(Self { cover, poll_every: place.options.poll_every })
    }

    fn event(&mut self, event: &Event, now: Instant, hints: &Shared) {
        let is_gone = event.flags.contains(ReadFlags::IGNORED);
        if is_gone {
            self.cover.ear.watches.remove(&event.watch);
        }
        let Some(dir) = self.cover.tree.id_of(&event.watch) else { return };
        if is_gone {
            // That of the root is noticed by its path.
            if dir != ROOT {
                self.cover.forget(dir);
            }
            return;
        }
        let came_or_went = ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM;
        let came_or_went = came_or_went | ReadFlags::MOVED_TO;
        let is_new = self.cover.tree.child(dir, &event.name).is_none();
        let is_directory = event.flags.contains(ReadFlags::ISDIR) && !event.name.is_empty();
        // Facts that changed may allow to look into a directory that was closed before.
        if is_directory && (event.flags.intersects(came_or_went) || is_new) {
            let came = event.flags.contains(ReadFlags::CREATE);
            let how = if came { How::Came } else { How::Moved };
            return self.cover.look((dir, &event.name), how, None, hints);
        }
        let path = names::join(&self.cover.tree.path(dir), &event.name);
        if event.flags.contains(ReadFlags::CLOSE_WRITE) {
            hints.closed(&path, None);
        } else if event.flags.contains(ReadFlags::CREATE) {
            hints.created(&path, None, now);
        } else if event.flags.intersects(came_or_went) {
            hints.entry(&path, None);
        } else {
            hints.touched(&path, None, now);
        }
    }

    /// The next event; of both halves of a renamed directory the new name first, so that it is moved
    /// in the tree and not forgotten.
    fn next(&mut self) -> Option<Event> {
        let backlog = &mut self.cover.ear.backlog.events;
        let is_half = |event: &Event, flag| event.flags.contains(flag | ReadFlags::ISDIR);
        if let (Some(from), Some(to)) = (backlog.front(), backlog.get(1))
            && is_half(from, ReadFlags::MOVED_FROM)
            && is_half(to, ReadFlags::MOVED_TO)
            && from.cookie == to.cookie
        {
            backlog.swap(0, 1);
        }
        backlog.pop_front()
    }
}

impl Backend for Inotify {
    fn method(&self) -> Method {
        Method::Inotify
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.cover.ear.instance.as_fd())
    }

    fn step(&mut self, now: Instant, hints: &Shared) -> Result<Option<Instant>, String> {
        self.cover.ear.drain();
        for _ in 0..EVENTS_MAX {
            let Some(event) = self.next() else { break };
            self.event(&event, now, hints);
        }
        let backlog = &mut self.cover.ear.backlog;
        if let Some(errno) = backlog.failed {
            return Err(format!("cannot read events: {}", Said(errno)));
        }
        let is_more = !backlog.events.is_empty();
        if std::mem::take(&mut backlog.lost) {
            self.cover.doubt();
        }
        let next = self.cover.tend(now, self.poll_every, hints);
        if self.cover.bare().is_empty() {
            self.cover.ear.limit = false;
        }
        Ok(if is_more { Some(now) } else { next })
    }

    fn complete(&mut self, hints: &Shared) {
        self.cover.tell_uncertain(hints);
    }

    fn trouble(&self) -> (usize, Option<String>) {
        let bare = self.cover.bare().len();
        if bare == 0 {
            return (0, None);
        }
        let every = self.poll_every.as_secs();
        let remedy = if self.cover.ear.limit { watch_limit() } else { open_files() };
        (bare, Some(format!("{bare} directories are only looked at every {every} s: {remedy}")))
    }
}

fn limit(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
}

/// What to set where watches are used up.
fn watch_limit() -> String {
    let now = limit("max_user_watches").unwrap_or(8192);
    let then = (now * 2).next_power_of_two().max(524_288);
    format!(
        "inotify watches are used up (fs.inotify.max_user_watches = {now}); \
         run `sysctl -w fs.inotify.max_user_watches={then}` and put it into /etc/sysctl.d"
    )
}

fn open_files() -> String {
    "too many open files or too little memory; raise LimitNOFILE of the daemon".into()
}

fn refused(errno: Errno) -> String {
    match errno {
        Errno::MFILE => {
            let now = limit("max_user_instances").unwrap_or(128);
            format!(
                "inotify instances are used up (fs.inotify.max_user_instances = {now}); \
                 run `sysctl -w fs.inotify.max_user_instances={}` and put it into /etc/sysctl.d",
                (now * 2).next_power_of_two().max(1024)
            )
        }
        Errno::NOSPC => watch_limit(),
        errno => Said(errno).to_string(),
    }
}
