//! Nothing listens: everything is scanned again and again.
//!
//! Decides when. What changed is found by the consumer's scan, which knows what was there before.

use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use super::{Method, select::Backend, shared::Shared};

/// Says now and then that everything is to be scanned.
pub(super) struct Polling {
    every: Duration,
    next: Instant,
}

impl Polling {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, next: Instant::now() + every }
    }
}

impl Backend for Polling {
    fn method(&self) -> Method {
        Method::Polling
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn step(&mut self, now: Instant, hints: &Shared) -> Result<Option<Instant>, String> {
        if now >= self.next {
            hints.everything();
            self.next = now + self.every;
        }
        // Whoever flushes is told to scan, by `complete`.
        hints.all_cookies_seen();
        Ok(Some(self.next))
    }

    fn complete(&mut self, hints: &Shared) {
        hints.everything();
    }

    fn trouble(&self) -> (usize, Option<String>) {
        let every = self.every.as_secs();
        let alarm = format!("changes are not reported here; everything is scanned every {every} s");
        (1, Some(alarm))
    }
}
