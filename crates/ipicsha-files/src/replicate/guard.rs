//! When deletions that the partner tells are too many to happen without being asked for.
//!
//! Decides by what was deleted within the last hour. Must not know what is deleted, or a clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::GuardLimits;

/// So long a deletion counts, and so long an accepted number stays good.
const WINDOW: Duration = Duration::from_secs(3600);
/// Deletions of so long a time are remembered as one number.
const STEP: Duration = Duration::from_secs(60);

/// Whether deletions may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They may.
    Go,
    /// An administrator is asked first.
    Hold,
}

/// Deletions within the same [`STEP`].
#[derive(Debug)]
struct Recent {
    first: Instant,
    last: Instant,
    count: u64,
}

/// Counts the deletions of one directory.
#[derive(Debug)]
pub(super) struct Guard {
    limits: GuardLimits,
    recent: VecDeque<Recent>,
    accepted: u64,
    accepted_at: Option<Instant>,
}

impl Guard {
    /// Nothing was deleted yet.
    pub(super) fn new(limits: GuardLimits) -> Self {
        Self { limits, recent: VecDeque::new(), accepted: 0, accepted_at: None }
    }

    /// Whether `wanted` more deletions may happen in a directory of `entries` that exist now,
    /// those that are to go included.
    pub(super) fn may_delete(&mut self, wanted: u64, entries: u64, now: Instant) -> Verdict {
        self.pass_time(now);
        let done: u64 = self.recent.iter().map(|recent| recent.count).sum();
        let total = done.saturating_add(wanted.saturating_sub(self.accepted));
        // The share is that of what was there before the hour began.
        let before = u128::from(entries) + u128::from(done);
        let is_large_share = u128::from(total) * 100 > u128::from(self.limits.percent) * before;
        let many = is_large_share && total > self.limits.files_small || total > self.limits.files;
        // What takes nothing is never held, however much went before.
        if many && wanted > self.accepted { Verdict::Hold } else { Verdict::Go }
    }

    /// So many were deleted.
    pub(super) fn done(&mut self, count: u64, now: Instant) {
        self.pass_time(now);
        let asked_for = count.min(self.accepted);
        self.accepted -= asked_for;
        let count = count - asked_for;
        if count == 0 {
            return;
        }
        match self.recent.back_mut() {
            Some(recent) if now.saturating_duration_since(recent.first) < STEP => {
                recent.count = recent.count.saturating_add(count);
                recent.last = now;
            }
            Some(_) | None => self.recent.push_back(Recent { first: now, last: now, count }),
        }
    }

    /// An administrator wants `count` deletions to happen: they pass once, within an hour, and do
    /// not count.
    pub(super) fn accept(&mut self, count: u64, now: Instant) {
        (self.accepted, self.accepted_at) = (count, Some(now));
    }

    fn pass_time(&mut self, now: Instant) {
        let is_old = |time: Instant| now.saturating_duration_since(time) >= WINDOW;
        while self.recent.front().is_some_and(|recent| is_old(recent.last)) {
            self.recent.pop_front();
        }
        if self.accepted_at.is_some_and(is_old) {
            (self.accepted, self.accepted_at) = (0, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GuardLimits = GuardLimits { percent: 50, files_small: 100, files: 1000 };
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_large_share_waits_and_a_small_number_does_not() {
        let now = Instant::now();
        let mut guard = Guard::new(LIMITS);
        assert_eq!(guard.may_delete(100, 100, now), Verdict::Go, "all of a small directory");
        assert_eq!(guard.may_delete(101, 101, now), Verdict::Hold);
        assert_eq!(guard.may_delete(101, 202, now), Verdict::Go, "just half");
        assert_eq!(guard.may_delete(101, 201, now), Verdict::Hold);
        assert_eq!(guard.may_delete(1000, 1_000_000, now), Verdict::Go);
        assert_eq!(guard.may_delete(1001, 1_000_000, now), Verdict::Hold, "whatever the share");
        assert_eq!(guard.may_delete(u64::MAX, u64::MAX, now), Verdict::Hold);
    }

    #[test]
    fn one_by_one_is_counted_together_for_an_hour() {
        let start = Instant::now();
        let mut guard = Guard::new(LIMITS);
        let mut left = 150;
        for count in 0..100 {
            assert_eq!(guard.may_delete(1, left, start), Verdict::Go, "{count}");
            guard.done(1, start);
            left -= 1;
        }
        assert_eq!(guard.may_delete(1, left, start), Verdict::Hold);
        assert_eq!(guard.may_delete(0, left, start), Verdict::Go, "nothing is nothing");
        assert_eq!(guard.may_delete(1, left, start + 59 * MINUTE), Verdict::Hold);
        assert_eq!(guard.may_delete(1, left, start + 60 * MINUTE), Verdict::Go);
    }

    #[test]
    fn the_hour_slides_and_what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut guard = Guard::new(LIMITS);
        for second in 0..7200 {
            guard.done(1, start + Duration::from_secs(second));
        }
        assert!(guard.recent.len() <= 61, "{}", guard.recent.len());
        let now = start + Duration::from_secs(7200);
        let done: u64 = guard.recent.iter().map(|recent| recent.count).sum();
        assert!((3540..=3660).contains(&done), "{done}");
        assert_eq!(guard.may_delete(1, u64::MAX, now), Verdict::Hold);
        assert_eq!(guard.may_delete(1, u64::MAX, now + 61 * MINUTE), Verdict::Go);
    }

    #[test]
    fn what_an_administrator_accepts_passes_once() {
        let now = Instant::now();
        let mut guard = Guard::new(LIMITS);
        assert_eq!(guard.may_delete(5000, 5000, now), Verdict::Hold);
        guard.accept(5000, now);
        assert_eq!(guard.may_delete(5000, 5000, now), Verdict::Go);
        guard.done(2000, now);
        assert_eq!(guard.may_delete(3000, 3000, now), Verdict::Go, "the rest of them");
        guard.done(3000, now);
        assert_eq!(guard.may_delete(100, 100, now), Verdict::Go, "accepted ones do not count");
        assert_eq!(guard.may_delete(5000, 5000, now), Verdict::Hold, "the next ones");
        guard.accept(5000, now);
        assert_eq!(guard.may_delete(5000, 5000, now + 61 * MINUTE), Verdict::Hold, "too late");
    }
}
