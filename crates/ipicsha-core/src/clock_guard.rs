//! How far the two wall clocks are apart, and whether that is safe (spec D2).
//! It knows nothing of roles; it only judges samples taken from heartbeats.

use std::{collections::VecDeque, time::Duration};

use crate::time::{MonoTime, Now, WallTime};

/// Over this the clocks are apart.
pub const OFFSET_LIMIT: Duration = Duration::from_secs(30);
/// Under this they agree again.
pub const OFFSET_RESUME: Duration = Duration::from_secs(25);
/// Samples among which the one with the lowest round trip is believed.
const WINDOW: usize = 8;

/// One measurement: what a heartbeat told of the partner's clock.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Partner's clock minus ours, in milliseconds.
    offset_millis: i64,
    round_trip: Duration,
}

/// Verdict on the two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clocks {
    /// Nothing was measured yet.
    #[default]
    Unknown,
    /// Within the limit.
    Agree,
    /// More than 30 s apart: no record may be merged by its stamp.
    Apart,
}

/// Four timestamps of one exchange, as one server sees them.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// When this server sent the heartbeat that the partner echoes.
    pub sent: MonoTime,
    /// How long the partner held it before it answered.
    pub held: Duration,
    /// The partner's wall clock when it answered.
    pub partner_wall: WallTime,
}

/// Keeps the last samples and the verdict.
#[derive(Clone, Debug, Default)]
pub struct ClockGuard {
    samples: VecDeque<Sample>,
    verdict: Clocks,
}

impl ClockGuard {
    /// Takes one exchange, received at `now`.
    pub fn handle_exchange(&mut self, now: Now, exchange: Exchange) {
        let elapsed = now.mono.since(exchange.sent);
        let Some(round_trip) = elapsed.checked_sub(exchange.held) else {
            return; // the partner claims to have held it longer than it was away
        };
        let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
        let offset_millis = exchange.partner_wall.millis_since(now.wall).saturating_add(half);
        let sample = Sample { offset_millis, round_trip };
        if self.best().is_some_and(|best| contradict(best, sample)) {
            self.samples.clear(); // one of the clocks was stepped: older samples say nothing now
        }
        self.samples.push_back(sample);
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        self.judge();
    }

    /// Forgets everything, as after a new trust.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The verdict on the clocks.
    pub fn verdict(&self) -> Clocks {
        self.verdict
    }

    /// Partner's clock minus ours in milliseconds, when measured.
    pub fn offset_millis(&self) -> Option<i64> {
        self.best().map(|sample| sample.offset_millis)
    }

    /// Shortest round trip of the last beats, without the time the partner held them.
    pub fn round_trip(&self) -> Option<Duration> {
        self.best().map(|sample| sample.round_trip)
    }

    fn best(&self) -> Option<Sample> {
        self.samples.iter().copied().min_by_key(|sample| sample.round_trip)
    }

    fn judge(&mut self) {
        let Some(offset) = self.offset_millis() else { return };
        let limit = if self.verdict == Clocks::Apart { OFFSET_RESUME } else { OFFSET_LIMIT };
        let apart = Duration::from_millis(offset.unsigned_abs());
        self.verdict = if apart > limit { Clocks::Apart } else { Clocks::Agree };
    }
}

/// Two samples that cannot both be true: they differ by more than their round trips allow.
fn contradict(a: Sample, b: Sample) -> bool {
    let slack = (a.round_trip + b.round_trip).as_millis() / 2 + 50;
    u128::from(a.offset_millis.abs_diff(b.offset_millis)) > slack
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Partner's clock is `offset` ms ahead; the beat took `out` and `back` ms.
    fn exchange(guard: &mut ClockGuard, at: u64, offset: i64, out: u64, back: u64) {
        let sent = MonoTime(at * 1000);
        let mono = MonoTime((at + out + back) * 1000);
        let wall = WallTime(1_000_000 + i64::try_from(at + out + back).unwrap());
        let partner_wall = WallTime(1_000_000 + i64::try_from(at + out).unwrap() + offset);
        guard.handle_exchange(
            Now { mono, wall },
            Exchange { sent, held: Duration::ZERO, partner_wall },
        );
    }

    #[test]
    fn thirty_one_seconds_are_apart_and_twenty_four_agree_again() {
        let mut guard = ClockGuard::default();
        assert_eq!(guard.verdict(), Clocks::Unknown);
        exchange(&mut guard, 0, 29_900, 1, 1);
        assert_eq!(guard.verdict(), Clocks::Agree);
        exchange(&mut guard, 100, 31_000, 1, 1);
        assert_eq!(guard.verdict(), Clocks::Apart);
        exchange(&mut guard, 200, 26_000, 1, 1);
        assert_eq!(guard.verdict(), Clocks::Apart);
        exchange(&mut guard, 300, 24_000, 1, 1);
        assert_eq!(guard.verdict(), Clocks::Agree);
        exchange(&mut guard, 400, -31_000, 1, 1);
        assert_eq!(guard.verdict(), Clocks::Apart);
    }

    #[test]
    fn the_lowest_round_trip_of_the_last_eight_is_believed() {
        let mut guard = ClockGuard::default();
        exchange(&mut guard, 0, 500, 1, 1);
        exchange(&mut guard, 100, 500, 900, 10); // asymmetric: alone it would say 945
        assert_eq!(guard.offset_millis(), Some(500));
    }

    #[test]
    fn a_step_is_noticed_at_the_next_heartbeat() {
        let mut guard = ClockGuard::default();
        for at in 0..8 {
            exchange(&mut guard, at * 100, 0, 1, 1);
        }
        exchange(&mut guard, 900, 40_000, 5, 5);
        assert_eq!(guard.verdict(), Clocks::Apart);
    }
}
