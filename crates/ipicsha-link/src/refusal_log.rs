//! One line about refused connections per second, however many there are.
//!
//! Decides when a refusal is worth a line. A port scan must neither fill the journal nor page
//! anybody: refusals are warnings, never errors.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::error::Error;

const INTERVAL: Duration = Duration::from_secs(1);

/// Pure: says how many refusals the next line stands for.
#[derive(Debug, Default)]
struct LineLimiter {
    last: Option<Instant>,
    unsaid: u64,
}

impl LineLimiter {
    /// `Some(n)`: write a line now, and say that `n` others came since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Writes the lines.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    limiter: Mutex<LineLimiter>,
}

impl RefusalLog {
    /// A connection was refused.
    pub(crate) fn refused(&self, peer: SocketAddr, reason: &Error) {
        self.line(|unsaid| {
            tracing::warn!(%peer, %reason, others_since_last_line = unsaid, "connection refused");
        });
    }

    /// Too many connections wait for their handshake.
    pub(crate) fn too_many(&self, peer: SocketAddr, limit: usize) {
        self.line(|unsaid| {
            tracing::warn!(%peer, limit, others_since_last_line = unsaid,
                "connection refused: too many connections have not said who they are");
        });
    }

    /// The listening socket could not accept.
    pub(crate) fn accept_failed(&self, reason: &std::io::Error) {
        self.line(|unsaid| {
            tracing::warn!(%reason, others_since_last_line = unsaid, "cannot accept connections");
        });
    }

    fn line(&self, write: impl FnOnce(u64)) {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = limiter.admit(Instant::now());
        drop(limiter);
        if let Some(unsaid) = admitted {
            write(unsaid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_counts_the_others() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut limiter = LineLimiter::default();
        assert_eq!(limiter.admit(at(0)), Some(0));
        assert_eq!(limiter.admit(at(1)), None);
        assert_eq!(limiter.admit(at(999)), None);
        assert_eq!(limiter.admit(at(1000)), Some(2));
        assert_eq!(limiter.admit(at(2500)), Some(0));
    }
}
