//! How often a password may be guessed from outside.
//!
//! Pure: time comes in as a value. Counts over all addresses together, because an attacker has many.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Attempts that may begin within [`WINDOW`].
pub(crate) const ATTEMPTS_MAX: usize = 5;
/// The span that is looked at.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Remembers the attempts of the last minute.
#[derive(Debug, Default)]
pub(crate) struct AttemptLimiter {
    begun: VecDeque<(u64, Instant)>,
    next: u64,
}

/// One admitted attempt.
#[derive(Debug)]
pub(crate) struct Attempt(u64);

impl AttemptLimiter {
    /// Counts a new attempt, or says how long to wait for the next one.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Attempt, Duration> {
        let age = |begun: Instant| now.saturating_duration_since(begun);
        while self.begun.front().is_some_and(|(_, begun)| age(*begun) >= WINDOW) {
            self.begun.pop_front();
        }
        if self.begun.len() >= ATTEMPTS_MAX {
            let oldest = self.begun.front().map_or(now, |(_, begun)| *begun);
            return Err(WINDOW.saturating_sub(age(oldest)));
        }
        let attempt = self.next;
        self.next += 1;
        self.begun.push_back((attempt, now));
        Ok(Attempt(attempt))
    }

    /// Gives an attempt back that proved the password: it was no guess.
    pub(crate) fn forgive(&mut self, attempt: &Attempt) {
        self.begun.retain(|(begun, _)| *begun != attempt.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_attempt_waits_for_the_first_to_age() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limiter = AttemptLimiter::default();
        for second in 0..5 {
            assert!(limiter.admit(at(second * 10)).is_ok());
        }
        assert_eq!(limiter.admit(at(45)).unwrap_err(), Duration::from_secs(15));
        assert_eq!(limiter.admit(at(59)).unwrap_err(), Duration::from_secs(1));
        assert!(limiter.admit(at(60)).is_ok());
        // The refused ones did not count; the next place is free when the second one has aged.
        assert_eq!(limiter.admit(at(60)).unwrap_err(), Duration::from_secs(10));
        assert!(limiter.admit(at(70)).is_ok());
    }

    #[test]
    fn a_proven_attempt_is_no_guess() {
        let now = Instant::now();
        let mut limiter = AttemptLimiter::default();
        for _ in 0..20 {
            let attempt = limiter.admit(now).unwrap();
            limiter.forgive(&attempt);
        }
        for _ in 0..5 {
            limiter.admit(now).unwrap();
        }
        limiter.admit(now).unwrap_err();
    }
}
