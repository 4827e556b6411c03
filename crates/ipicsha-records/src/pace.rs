//! How fast something goes on, and how long the rest takes.
//!
//! Decides when a rate is worth telling: never before it was watched for a second, and never one
//! that is older than what it was measured by.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Looked at for a rate.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two samples that are kept.
const STEP: Duration = Duration::from_millis(200);
/// Watched for so long before there is a rate.
const LEAST: Duration = Duration::from_secs(1);

/// A count that rises.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// The count is `value` now; a smaller one than before is a new beginning.
    pub(crate) fn note(&mut self, now: Instant, value: u64) {
        if self.samples.back().is_some_and(|(_, last)| value < *last) {
            self.samples.clear();
        }
        // One sample older than the window stays, so that it is covered whole.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.samples.pop_front();
        }
        match self.samples.back_mut() {
            Some((at, last)) if now.duration_since(*at) < STEP && *last == value => {}
            Some(_) | None => self.samples.push_back((now, value)),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.samples.clear();
    }

    /// Per second, lately; `None` until it is known, and while nothing goes on.
    pub(crate) fn per_second(&self, now: Instant) -> Option<u64> {
        let ((since, first), (_, last)) = (self.samples.front()?, self.samples.back()?);
        let span = now.duration_since(*since);
        let rate = (last - first) as f64 / span.as_secs_f64();
        (span >= LEAST && rate >= 1.0).then_some(rate as u64)
    }
}

/// Seconds for `left` more at this rate, rounded up.
pub(crate) fn seconds(left: u64, per_second: Option<u64>) -> Option<u64> {
    per_second.filter(|rate| *rate > 0).map(|rate| left.div_ceil(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_rate_before_a_second_and_none_when_nothing_goes_on() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(pace.per_second(at(0)), None);
        pace.note(at(0), 1000);
        pace.note(at(500), 1500);
        assert_eq!(pace.per_second(at(500)), None, "too early");
        pace.note(at(2000), 3000);
        assert_eq!(pace.per_second(at(2000)), Some(1000));
        assert_eq!(pace.per_second(at(4000)), Some(500), "it stands still since");
        assert_eq!(pace.per_second(at(4_000_000)), None);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_of_one_beginning() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        for second in 0..60 {
            let value = if second < 30 { second * 10 } else { 300 + (second - 30) * 1000 };
            pace.note(start + Duration::from_secs(second), value);
        }
        let now = start + Duration::from_secs(59);
        assert_eq!(pace.per_second(now), Some(1000));
        pace.note(now, 5);
        assert_eq!(pace.per_second(now), None, "it began anew");
    }

    #[test]
    fn the_time_left_needs_a_rate() {
        assert_eq!(seconds(1001, Some(100)), Some(11));
        assert_eq!(seconds(0, Some(100)), Some(0));
        assert_eq!(seconds(10, None), None);
    }
}
