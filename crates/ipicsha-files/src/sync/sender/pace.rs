//! No more bytes per second than allowed.
//!
//! Decides how long to wait. Must not know what the bytes are.

use std::time::{Duration, Instant};

/// Time that may be caught up after a pause.
const CREDIT_MAX: Duration = Duration::from_millis(100);

/// Keeps a rate by waiting.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When everything so far is allowed to have been sent.
    free_at: Instant,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Instant::now() }
    }

    /// Bytes to send at a time, so that a low rate does not come in jerks.
    pub(super) fn piece(&self, most: usize) -> usize {
        let Some(rate) = self.bytes_per_second else { return most };
        usize::try_from(rate / 10).unwrap_or(most).clamp(1024.min(most), most)
    }

    /// Waits until `bytes` more are allowed.
    pub(super) fn spend(&mut self, bytes: u64) {
        let wait = self.account(bytes, Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    fn account(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else {
            return Duration::ZERO;
        };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let earliest = now.checked_sub(CREDIT_MAX).unwrap_or(now);
        self.free_at = self.free_at.max(earliest) + cost;
        self.free_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_pieces_and_pauses() {
        let begin = Instant::now();
        let mut pace = Pace { bytes_per_second: Some(1000), free_at: begin };
        assert_eq!(pace.account(500, begin), Duration::from_millis(500));
        assert_eq!(pace.account(500, begin), Duration::from_secs(1));
        let later = begin + Duration::from_secs(60);
        assert_eq!(pace.account(1000, later), Duration::from_millis(900));
        let mut free = Pace { bytes_per_second: None, free_at: begin };
        assert_eq!(free.account(u64::MAX, begin), Duration::ZERO);
        assert_eq!((pace.piece(4096), free.piece(4096)), (1024, 4096));
    }
}
