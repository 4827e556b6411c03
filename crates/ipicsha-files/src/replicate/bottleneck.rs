//! Whether contents are worth compressing: only while they wait for the connection.
//!
//! Decides the level, from what went and how long that took. Must not know clocks, nor what is sent.

use std::time::Duration;

use crate::compression;

/// What happens within this time is looked at together.
const WINDOW: Duration = Duration::from_secs(2);
/// Windows without much waiting before it is tried whether the connection carries all as it is.
const RELIEVED_MAX: u32 = 15;
/// With so many bytes per second, compressing takes longer than it saves.
const FAST: u64 = 190_000_000;
/// Below so many there is time for the better level.
const SLOW: u64 = 25_000_000;
const QUICK_LEVEL: i32 = 1;
const BETTER_LEVEL: i32 = 3;
/// After so many parts in a row that did not get shorter, the rest of the file is not tried.
const INCOMPRESSIBLE_MAX: u32 = 4;

/// What contents wait for.
#[derive(Debug)]
pub(super) struct Bottleneck {
    /// A limit that is one whatever is measured.
    limited: Option<i32>,
    level: Option<i32>,
    bytes: u64,
    waited: Duration,
    passed: Duration,
    /// Windows in which compressed contents hardly waited, one after another.
    relieved: u32,
}

impl Bottleneck {
    /// `limit`: bytes per second that may go at most.
    pub(super) fn new(limit: Option<u64>) -> Self {
        let limited = limit.and_then(level_at);
        let (waited, passed) = (Duration::ZERO, Duration::ZERO);
        Self { limited, level: None, bytes: 0, waited, passed, relieved: 0 }
    }

    /// How to compress what goes now.
    pub(super) fn level(&self) -> Option<i32> {
        self.limited.or(self.level)
    }

    /// So many bytes went; of the time since those before, so much was waiting for the connection.
    pub(super) fn sent(&mut self, bytes: u64, waited: Duration, passed: Duration) {
        self.bytes += bytes;
        self.waited += waited;
        self.passed += passed;
        if self.passed < WINDOW {
            return;
        }
        let milliseconds = u64::try_from(self.passed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = self.bytes.saturating_mul(1000) / milliseconds;
        if self.waited * 2 > self.passed {
            (self.level, self.relieved) = (level_at(rate), 0);
        } else if self.level.is_some() {
            // That hardly anything waits may be because it is compressed.
            self.relieved += 1;
            if self.relieved >= RELIEVED_MAX {
                (self.level, self.relieved) = (None, 0);
            }
        }
        (self.bytes, self.waited, self.passed) = (0, Duration::ZERO, Duration::ZERO);
    }
}

fn level_at(rate: u64) -> Option<i32> {
    match rate {
        0..SLOW => Some(BETTER_LEVEL),
        SLOW..FAST => Some(QUICK_LEVEL),
        FAST.. => None,
    }
}

/// How the parts of one file took to it.
#[derive(Debug, Default)]
pub(super) struct Tries {
    failed: u32,
}

impl Tries {
    /// A part as it travels, and whether that is compressed.
    pub(super) fn compress(&mut self, bytes: Vec<u8>, level: Option<i32>) -> (Vec<u8>, bool) {
        let level = level.filter(|_| self.failed < INCOMPRESSIBLE_MAX);
        let Some(level) = level.filter(|_| bytes.len() >= compression::BYTES_MIN) else {
            return (bytes, false);
        };
        if let Some(packed) = compression::compress(&bytes, level) {
            self.failed = 0;
            (packed, true)
        } else {
            self.failed += 1;
            (bytes, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A window at this rate, of which this share of a hundred was waiting.
    fn window(bottleneck: &mut Bottleneck, rate: u64, waiting: u32) -> Option<i32> {
        for _ in 0..2 {
            bottleneck.sent(rate, SECOND * waiting / 100, SECOND);
        }
        bottleneck.level()
    }

    #[test]
    fn only_what_waits_for_a_slow_connection_most_of_the_time_is_compressed() {
        let level = |rate, waiting| window(&mut Bottleneck::new(None), rate, waiting);
        assert_eq!(level(10_000_000, 60), Some(3));
        assert_eq!(level(100_000_000, 60), Some(1));
        assert_eq!(level(100_000_000, 50), None, "the disk is as slow");
        assert_eq!(level(500_000_000, 90), None, "compressing would be slower");
        let mut bottleneck = Bottleneck::new(None);
        bottleneck.sent(1000, SECOND, SECOND);
        assert_eq!(bottleneck.level(), None, "one second says nothing");
    }

    #[test]
    fn compressing_stays_while_it_helps_and_ends_when_the_connection_has_become_faster() {
        let mut bottleneck = Bottleneck::new(None);
        assert_eq!(window(&mut bottleneck, 10_000_000, 90), Some(3));
        assert_eq!(window(&mut bottleneck, 30_000_000, 90), Some(1));
        for _ in 0..14 {
            assert_eq!(window(&mut bottleneck, 8_000_000, 10), Some(1));
        }
        assert_eq!(window(&mut bottleneck, 8_000_000, 10), None, "it is tried without");
        assert_eq!(window(&mut bottleneck, 10_000_000, 90), Some(3), "which was too much");
    }

    #[test]
    fn a_limit_is_a_bottleneck_at_once_and_stays_one() {
        let mut bottleneck = Bottleneck::new(Some(1_000_000));
        assert_eq!(bottleneck.level(), Some(3));
        for _ in 0..20 {
            assert_eq!(window(&mut bottleneck, 1_000_000, 0), Some(3));
        }
        assert_eq!(Bottleneck::new(Some(100_000_000)).level(), Some(1));
        assert_eq!(Bottleneck::new(Some(1_000_000_000)).level(), None);
    }

    #[test]
    fn a_file_that_does_not_get_shorter_is_given_up_after_four_parts() {
        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let (mut tries, words) = (Tries::default(), b"words ".repeat(1000));
        for _ in 0..3 {
            assert!(!tries.compress(noise.clone(), Some(1)).1);
        }
        assert!(tries.compress(words.clone(), Some(1)).1, "three are not enough");
        for _ in 0..4 {
            assert_eq!(tries.compress(noise.clone(), Some(1)), (noise.clone(), false));
        }
        assert_eq!(tries.compress(words.clone(), Some(1)), (words, false));
    }
}
