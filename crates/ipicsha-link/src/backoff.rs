//! How long to wait before dialling again. Pure: the seed comes from outside, so a test can know
//! every value.

use std::time::Duration;

/// Doubling waits between a minimum and a maximum, each shortened by up to half at random so that two
/// servers do not keep meeting.
#[derive(Clone, Debug)]
pub struct Backoff {
    minimum: Duration,
    maximum: Duration,
    step: Duration,
    state: u64,
}

impl Backoff {
    /// Waits from `minimum` up to `maximum`; any `seed` is good.
    pub fn new(minimum: Duration, maximum: Duration, seed: u64) -> Self {
        let maximum = maximum.max(minimum);
        Self { minimum, maximum, step: minimum, state: seed }
    }

    /// The next wait: between half of the current step and the step, never below the minimum.
    #[allow(clippy::should_implement_trait)] // it never ends, so it is no iterator
    pub fn next(&mut self) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(2).min(self.maximum);
        // 1024 to 2047 of 2048 parts of the step.
        let parts = 1024 + u32::try_from(self.random() % 1024).unwrap_or(0);
        (step / 2048).saturating_mul(parts).clamp(self.minimum, self.maximum)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.step = self.minimum;
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_stay_in_bounds_and_start_over() {
        let (minimum, maximum) = (Duration::from_millis(200), Duration::from_secs(5));
        for seed in 0..50 {
            let mut backoff = Backoff::new(minimum, maximum, seed);
            let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
            assert!(waits.iter().all(|wait| (minimum..=maximum).contains(wait)), "{waits:?}");
            assert!(waits[10..].iter().all(|wait| *wait >= Duration::from_millis(2499)));
            assert!(waits[10..].iter().any(|wait| *wait != waits[10]), "no jitter");
            backoff.reset();
            assert!(backoff.next() <= minimum);
        }
    }

    #[test]
    fn the_seed_decides_everything() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed);
            (0..8).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }

    #[test]
    fn a_maximum_below_the_minimum_is_raised() {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(1), 1);
        assert_eq!(backoff.next(), Duration::from_secs(2));
    }
}
