//! What the watching thread and the consumer have in common.
//!
//! Decides who is woken when. Must not know backends.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
};

use super::{Hint, Method, Options, Status, hot::Hot, names, pending::Pending};

/// Behind the lock.
pub(super) struct State {
    pub(super) pending: Pending,
    pub(super) hot: Hot,
    pub(super) status: Status,
    /// Cookies that were made and not seen yet.
    pub(super) cookies: BTreeSet<u64>,
    /// Cookies that were seen; hints for them are complete after the current step.
    pub(super) seen: BTreeSet<u64>,
    pub(super) next_cookie: u64,
    pub(super) root_gone: bool,
    /// The consumer knows that hints are there.
    pub(super) woken: bool,
    stopping: bool,
}

impl State {
    fn take(&mut self) -> Vec<Hint> {
        self.woken = false;
        self.pending.take()
    }
}

/// The common ground.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Hints are ready, or a cookie was seen.
    changed: Condvar,
    /// Held while no event may be read.
    pub(super) gate: Mutex<()>,
    wake: OwnedFd,
    pub(super) recheck_every: Duration,
}

impl Shared {
    pub(super) fn new(options: &Options) -> Result<Self, Errno> {
        let status =
            Status { method: Method::Polling, refused: Vec::new(), polled: 0, alarm: None };
        Ok(Self {
            state: Mutex::new(State {
                pending: Pending::new(options.paths_max, options.settle),
                hot: Hot::new(options.recheck_every),
                status,
                cookies: BTreeSet::new(),
                seen: BTreeSet::new(),
                next_cookie: 0,
                root_gone: false,
                woken: false,
                stopping: false,
            }),
            changed: Condvar::new(),
            gate: Mutex::new(()),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            recheck_every: options.recheck_every,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when the thread was woken.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Lets the thread go round once.
    pub(super) fn wake(&self) {
        // Full means that it is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The thread is awake.
    pub(super) fn awake(&self) {
        // Empty means that something else woke it.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }

    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.wake();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Wakes everybody who waits for hints or cookies.
    pub(super) fn announce(&self) {
        self.changed.notify_all();
    }

    pub(super) fn take(&self) -> Vec<Hint> {
        self.lock().take()
    }

    pub(super) fn wait(&self, deadline: Instant) -> Vec<Hint> {
        self.wait_until(deadline, |state| state.pending.is_ready()).take()
    }

    /// Waits until `done`, or the deadline is over.
    pub(super) fn wait_until(
        &self,
        deadline: Instant,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

/// Where backends tell what they found. Leaves our own names out.
impl Shared {
    /// A file was made, and may be written to from now on.
    pub(super) fn created(&self, path: &[u8], writer: Option<u32>, now: Instant) {
        if !self.is_own(path) {
            let mut state = self.lock();
            state.pending.entry_later(path, writer, now);
            state.hot.add(path, now + self.recheck_every);
        }
    }

    /// A file that was open for writing was closed.
    pub(super) fn closed(&self, path: &[u8], writer: Option<u32>) {
        if !self.is_own(path) {
            let mut state = self.lock();
            state.hot.remove(path);
            state.pending.entry(path, writer);
        }
    }

    /// Facts of an entry changed, and more may follow.
    pub(super) fn touched(&self, path: &[u8], writer: Option<u32>, now: Instant) {
        if !self.is_own(path) {
            self.lock().pending.entry_later(path, writer, now);
        }
    }

    /// An entry came or went as a whole.
    pub(super) fn entry(&self, path: &[u8], writer: Option<u32>) {
        if !self.is_own(path) {
            self.lock().pending.entry(path, writer);
        }
    }

    /// A directory came, with all beneath it.
    pub(super) fn subtree(&self, path: &[u8]) {
        if !self.is_own(path) {
            self.lock().pending.subtree(path);
        }
    }

    /// Anything may have changed.
    pub(super) fn everything(&self) {
        self.lock().pending.everything();
    }

    /// All cookies that are under way count as seen: what they stand for is told otherwise.
    pub(super) fn all_cookies_seen(&self) {
        let mut state = self.lock();
        let cookies = state.cookies.clone();
        state.seen.extend(cookies);
    }

    fn is_own(&self, path: &[u8]) -> bool {
        let ours = names::is_ours(path);
        if ours && let Some((process, number)) = names::cookie(path) {
            let mut state = self.lock();
            if process == std::process::id() && state.cookies.contains(&number) {
                state.seen.insert(number);
            }
        }
        ours
    }
}
