//! The watching thread: waits, lets the backend take in events, tells the consumer.
//!
//! Decides when the root is gone, when a method is given up for another, and when a better one is
//! tried again. Must not know how a method works.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    Method, Options, Refused, Status, hot,
    polling::Polling,
    reach,
    select::{Backend, Place, select, sleep_until},
    shared::Shared,
};

/// How often to see at least whether the root is still the root: of a parent that is renamed nobody
/// hears.
const ROOT_EVERY: Duration = Duration::from_secs(1);
/// How often to try a better method where nothing listens, and where something does.
const BETTER_EVERY: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];

struct Rooted {
    fd: OwnedFd,
    backend: Box<dyn Backend>,
    refused: Vec<Refused>,
    better_at: Instant,
}

/// See the module.
pub(super) struct Run {
    path: PathBuf,
    options: Options,
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send>,
    /// Missing while the root is.
    rooted: Option<Rooted>,
    /// When the backend wants its turn.
    next_step: Option<Instant>,
    next_root: Instant,
}

impl Run {
    /// Covers the root, so that everything that happens from now on is noticed.
    pub(super) fn start(
        path: &Path,
        options: Options,
        shared: Arc<Shared>,
        wake: Box<dyn Fn() + Send>,
    ) -> Result<Self, Errno> {
        let fd = reach::root(path)?;
        let rooted = root_with(path, &options, fd, &shared);
        shared.lock().status = status(&rooted);
        shared.everything();
        let next_root = Instant::now() + ROOT_EVERY;
        let (path, rooted) = (path.to_owned(), Some(rooted));
        Ok(Self { path, options, shared, wake, rooted, next_step: Some(next_root), next_root })
    }

    /// Until it is stopped.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        self.announce();
        loop {
            let fd = self.rooted.as_ref().and_then(|rooted| rooted.backend.fd());
            sleep_until(&[Some(shared.wake_fd()), fd], self.next());
            shared.awake();
            let _gate = shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
            if shared.is_stopping() {
                return;
            }
            let now = Instant::now();
            self.see_root(now);
            self.step(now);
            self.see_open_files(now);
            self.announce();
        }
    }

    /// When there is something to do without anything happening.
    fn next(&self) -> Instant {
        let state = self.shared.lock();
        let times = [self.next_step, state.pending.next_due(), state.hot.next_due()];
        times.into_iter().flatten().fold(self.next_root, Instant::min)
    }

    fn see_root(&mut self, now: Instant) {
        self.next_root = now + ROOT_EVERY;
        match &self.rooted {
            Some(rooted) if is_root(&rooted.fd, &self.path) => self.try_better(now),
            Some(_) => {
                self.rooted = None;
                self.next_step = None;
                let mut state = self.shared.lock();
                state.root_gone = true;
                state.hot.clear();
                state.pending.root_gone();
                drop(state);
                self.return_to_root();
            }
            None => self.return_to_root(),
        }
    }

    fn return_to_root(&mut self) {
        let Ok(fd) = reach::root(&self.path) else { return };
        let rooted = root_with(&self.path, &self.options, fd, &self.shared);
        self.rooted = Some(rooted);
        self.shared.lock().root_gone = false;
        self.shared.everything();
    }

    fn try_better(&mut self, now: Instant) {
        let Some(rooted) = self.rooted.as_mut().filter(|rooted| now >= rooted.better_at) else {
            return;
        };
        let method = rooted.backend.method();
        rooted.better_at = better_at(method, now);
        if method <= self.options.best {
            return;
        }
        let place = Place { path: &self.path, fd: &rooted.fd, options: &self.options };
        let best = self.options.best;
        if let Some(backend) = select(&place, best, method, &mut rooted.refused, &self.shared) {
            rooted.refused.retain(|refused| refused.method < backend.method());
            rooted.backend = backend;
            self.shared.everything();
        }
    }

    fn step(&mut self, now: Instant) {
        let Some(rooted) = &mut self.rooted else { return };
        match rooted.backend.step(now, &self.shared) {
            Ok(next) => self.next_step = next,
            Err(why) => self.give_up(why, now),
        }
    }

    /// The method cannot go on; the next one does.
    fn give_up(&mut self, why: String, now: Instant) {
        let Some(rooted) = &mut self.rooted else { return };
        let method = rooted.backend.method();
        rooted.refused.retain(|known| known.method != method);
        rooted.refused.push(Refused { method, why });
        let next = if method == Method::Fanotify { Method::Inotify } else { Method::Polling };
        let place = Place { path: &self.path, fd: &rooted.fd, options: &self.options };
        let backend = select(&place, next, Method::Polling, &mut rooted.refused, &self.shared);
        rooted.backend = backend.unwrap_or_else(|| polling(&self.options));
        rooted.better_at = now + BETTER_EVERY[1];
        self.next_step = Some(now);
        self.shared.everything();
        self.shared.all_cookies_seen();
    }

    /// Looks at files that stay open: at those that are due, and at all of them for a flush.
    fn see_open_files(&mut self, now: Instant) {
        let Some(rooted) = &self.rooted else { return };
        let due = {
            let state = self.shared.lock();
            state.hot.due(now, !state.seen.is_empty())
        };
        if due.is_empty() {
            return;
        }
        let found = due.into_iter().map(|path| (hot::look(rooted.fd.as_fd(), &path), path));
        let found = found.map(|(facts, path)| (path, facts)).collect();
        let mut state = self.shared.lock();
        for path in state.hot.found(found, now) {
            state.pending.entry(&path, None);
        }
    }

    /// Tells what is ready to whoever waits for it.
    fn announce(&mut self) {
        let now = Instant::now();
        let is_flush = !self.shared.lock().seen.is_empty();
        if let Some(rooted) = self.rooted.as_mut().filter(|_| is_flush) {
            rooted.backend.complete(&self.shared);
        }
        let mut state = self.shared.lock();
        if is_flush {
            state.pending.settle_all();
            for number in std::mem::take(&mut state.seen) {
                state.cookies.remove(&number);
            }
        }
        state.pending.settle(now);
        if let Some(status) = self.rooted.as_ref().map(status)
            && status != state.status
        {
            state.status = status.clone();
            state.pending.method(status);
        }
        let is_ready = state.pending.is_ready();
        let is_news = is_ready && !state.woken;
        state.woken |= is_ready;
        let is_waited_for = is_ready || is_flush || state.root_gone;
        drop(state);
        if is_waited_for {
            self.shared.announce();
        }
        if is_news {
            (self.wake)();
        }
    }
}

fn polling(options: &Options) -> Box<dyn Backend> {
    Box::new(Polling::new(options.poll_every))
}

fn root_with(path: &Path, options: &Options, fd: OwnedFd, shared: &Shared) -> Rooted {
    let place = Place { path, fd: &fd, options };
    let mut refused = Vec::new();
    let backend = select(&place, options.best, Method::Polling, &mut refused, shared);
    let backend = backend.unwrap_or_else(|| polling(options));
    let better_at = better_at(backend.method(), Instant::now());
    Rooted { fd, backend, refused, better_at }
}

fn better_at(method: Method, now: Instant) -> Instant {
    now + BETTER_EVERY[usize::from(method != Method::Polling)]
}

fn status(rooted: &Rooted) -> Status {
    let (polled, mut alarm) = rooted.backend.trouble();
    let (method, refused) = (rooted.backend.method(), rooted.refused.clone());
    // What would have to be done for something better than polling.
    let inotify = refused.iter().find(|refused| refused.method == Method::Inotify);
    if let Some(alarm) = alarm.as_mut().filter(|_| method == Method::Polling)
        && let Some(inotify) = inotify
    {
        alarm.push_str(&format!("; inotify: {}", inotify.why));
    }
    Status { method, refused, polled, alarm }
}

/// Whether the path still leads to the directory that is held.
fn is_root(fd: &OwnedFd, path: &Path) -> bool {
    let held = rustix::fs::fstat(fd);
    let there = rustix::fs::stat(path);
    held.is_ok_and(|held| {
        there.is_ok_and(|there| (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino))
    })
}
