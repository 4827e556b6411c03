//! Chance for tests: seeded, and the seed is shown, so that a run can be had again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::note;

/// Environment variable with the seed of an earlier run.
const VARIABLE: &str = "IPICSHA_E2E_SEED";

/// A small generator of pseudo-random numbers (xorshift64*).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins with the seed of the environment, else with the time, and notes it.
    pub fn new(test: &str) -> Self {
        let given = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
        let time = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let seed = given.unwrap_or_else(|| time() as u64);
        note(&format!("{test}: {VARIABLE}={seed}"));
        Self(seed.max(1))
    }

    /// A number below `end`, which is above 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    /// True or false.
    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Lets up to `milliseconds` pass: a moment nobody chose.
    pub fn pause(&mut self, milliseconds: u64) {
        std::thread::sleep(Duration::from_micros(self.below(milliseconds * 1000)));
    }

    /// Puts the list into any order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let with = self.below(last as u64 + 1) as usize;
            list.swap(last, with);
        }
    }
}
