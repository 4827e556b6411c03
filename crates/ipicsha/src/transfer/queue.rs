//! Messages of the other side that wait for the half that is here.
//!
//! Decides how much may wait, and what happens when one of both has ended. Must not know what the
//! messages are.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipicsha_files::sync::channel::Gone;

/// Who waits looks so often whether it should go on.
const SLICE: Duration = Duration::from_millis(100);

/// What is done when more waits than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Who brings it waits.
    Wait,
    /// It is an error: who brings it must never wait.
    Refuse,
}

/// Messages in their order.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    weight_max: u64,
    full: Full,
    /// Nothing more comes.
    closed: AtomicBool,
}

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<(T, u64)>,
    weight: u64,
    /// Nobody takes anything any more.
    abandoned: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(weight_max: u64, full: Full) -> Self {
        let state = State { messages: VecDeque::new(), weight: 0, abandoned: false };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            weight_max,
            full,
            closed: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a message; `false` when too much waits. `idle` is called again and again while there
    /// is no room.
    pub(super) fn push(&self, message: T, weight: u64, idle: &mut dyn FnMut()) -> bool {
        let mut state = self.state();
        while !state.abandoned && state.weight > 0 && state.weight + weight > self.weight_max {
            if self.full == Full::Refuse {
                return false;
            }
            state = self.wait(state);
            idle();
        }
        if !state.abandoned {
            state.messages.push_back((message, weight));
            state.weight += weight;
            self.changed.notify_all();
        }
        true
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State<T>>) -> MutexGuard<'s, State<T>> {
        let waited = self.changed.wait_timeout(state, SLICE);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.state());
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Nobody takes anything any more: what comes is dropped.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.messages.clear();
        state.weight = 0;
        self.changed.notify_all();
    }

    /// The next message, when there is one.
    pub(super) fn pop_now(&self) -> Result<Option<T>, Gone> {
        // Looked at first: what was brought before it was closed is still there.
        let closed = self.is_closed();
        let mut state = self.state();
        match self.take(&mut state) {
            None if closed => Err(Gone),
            message => Ok(message),
        }
    }

    fn take(&self, state: &mut State<T>) -> Option<T> {
        let (message, weight) = state.messages.pop_front()?;
        let was_full = state.weight + weight > self.weight_max / 2;
        state.weight -= weight;
        if was_full {
            self.changed.notify_all();
        }
        Some(message)
    }

    /// Waits for the next message, but not when `stop` is set.
    pub(super) fn pop(&self, stop: &AtomicBool) -> Result<T, Gone> {
        let mut state = self.state();
        loop {
            let closed = self.is_closed();
            if let Some(message) = self.take(&mut state) {
                return Ok(message);
            }
            if closed || stop.load(Ordering::Relaxed) {
                return Err(Gone);
            }
            state = self.wait(state);
        }
    }
}
