//! Values the pair is configured with. A value out of range cannot exist (spec A8, A12).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::id::ServerId;

/// Which ranges of the heartbeat are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The reference's ranges: 5 to 600 s, 5 to 30 missed (spec A8).
    #[default]
    Standard,
    /// From 100 ms and 3 missed, for local links; never the default.
    Fast,
}

impl Profile {
    fn interval_range(self) -> (Duration, Duration) {
        match self {
            Self::Standard => (Duration::from_secs(5), Duration::from_secs(600)),
            Self::Fast => (Duration::from_millis(100), Duration::from_secs(600)),
        }
    }

    fn count_range(self) -> (u32, u32) {
        match self {
            Self::Standard => (5, 30),
            Self::Fast => (3, 30),
        }
    }
}

/// Heartbeat interval and missed heartbeat count; `D` is their product (spec A8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawTiming", into = "RawTiming")]
pub struct Timing {
    profile: Profile,
    interval: Duration,
    missed_count: u32,
}

/// The form of [`Timing`] on the wire and in the state file, checked on the way in.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct RawTiming {
    profile: Profile,
    interval_millis: u64,
    missed_count: u32,
}

impl TryFrom<RawTiming> for Timing {
    type Error = TimingError;

    fn try_from(raw: RawTiming) -> Result<Self, TimingError> {
        Self::new(raw.profile, Duration::from_millis(raw.interval_millis), raw.missed_count)
    }
}

impl From<Timing> for RawTiming {
    fn from(timing: Timing) -> Self {
        Self {
            profile: timing.profile,
            interval_millis: u64::try_from(timing.interval.as_millis()).unwrap_or(u64::MAX),
            missed_count: timing.missed_count,
        }
    }
}

/// A heartbeat setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// Spec A8: 5 to 600 s.
    #[error("heartbeat interval {}s is out of range: {}s to {}s", .given.as_secs_f64(), .min.as_secs_f64(), .max.as_secs_f64())]
    Interval {
        /// What was asked for.
        given: Duration,
        /// Smallest value of the profile.
        min: Duration,
        /// Largest value of the profile.
        max: Duration,
    },
    /// Spec A8: 5 to 30.
    #[error("missed heartbeat count {given} is out of range: {min} to {max}")]
    Count {
        /// What was asked for.
        given: u32,
        /// Smallest value of the profile.
        min: u32,
        /// Largest value of the profile.
        max: u32,
    },
}

impl Timing {
    /// A timing within the ranges of `profile`.
    ///
    /// # Errors
    /// Names the value that is out of range, and the range.
    pub fn new(
        profile: Profile,
        interval: Duration,
        missed_count: u32,
    ) -> Result<Self, TimingError> {
        let (min, max) = profile.interval_range();
        if interval < min || interval > max {
            return Err(TimingError::Interval { given: interval, min, max });
        }
        let (min, max) = profile.count_range();
        if missed_count < min || missed_count > max {
            return Err(TimingError::Count { given: missed_count, min, max });
        }
        Ok(Self { profile, interval, missed_count })
    }

    /// Time between two heartbeats.
    pub fn interval(self) -> Duration {
        self.interval
    }

    /// Heartbeats that may be missed before the partner counts as lost.
    pub fn missed_count(self) -> u32 {
        self.missed_count
    }

    /// The ranges in force.
    pub fn profile(self) -> Profile {
        self.profile
    }

    /// D: interval x missed count, the silence after which the standby takes over (spec B2).
    pub fn takeover_after(self) -> Duration {
        self.interval * self.missed_count
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self { profile: Profile::Standard, interval: Duration::from_secs(15), missed_count: 5 }
    }
}

/// What each side does when the link between the servers is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionPolicy {
    /// The active goes on, the standby takes over after D; a split brain is possible and repaired.
    #[default]
    Availability,
    /// The active goes on, the standby raises an alarm and waits for the administrator.
    Manual,
    /// The active goes on while the partner or a witness grants it, the standby takes over with the
    /// witness's grant: never two servers that can be written to.
    Witness,
}

/// Name of a pair: 1 to 128 characters of letters, digits, `_` and `-` (spec A12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PairName(String);

/// A pair name with a forbidden character or length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pair name {0:?} is not 1 to 128 letters, digits, `_` or `-`")]
pub struct PairNameError(String);

impl TryFrom<String> for PairName {
    type Error = PairNameError;

    fn try_from(name: String) -> Result<Self, PairNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) {
            return Err(PairNameError(name));
        }
        Ok(Self(name))
    }
}

impl From<PairName> for String {
    fn from(name: PairName) -> Self {
        name.0
    }
}

impl fmt::Display for PairName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What both servers of a configured pair have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaConfig {
    /// Name of the pair.
    pub pair: PairName,
    /// Heartbeat.
    pub timing: Timing,
    /// What to do when the link is lost.
    pub policy: PartitionPolicy,
    /// After a split brain in which one side wrote nothing, that side becomes standby by itself.
    pub auto_heal: bool,
}

/// The agreed configuration with its version: the higher version wins on both servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaSetting {
    /// Raised by every configure, update and unconfigure.
    pub version: u64,
    /// `None` while HA is not configured.
    pub config: Option<HaConfig>,
}

/// What one server knows of itself when it starts; it never changes while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Identity for life.
    pub server: ServerId,
    /// Name the administrator gave it.
    pub name: String,
    /// Software version; both servers must run the same (spec A6).
    pub version: String,
    /// How long a starting server waits for its partner before it may act alone (spec B9).
    pub initialization_timeout: Duration,
    /// When roles change by themselves, beyond the heartbeat.
    pub automatic: Automatic,
    /// Its certificate (DER) at the start.
    pub certificate: Vec<u8>,
    /// When its certificate ends; `None` where nobody looks (spec A3).
    pub certificate_end: Option<crate::time::WallTime>,
}

/// When roles change by themselves, beyond the heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Automatic {
    /// A critical service may be down for so long before its server gives up (spec B3).
    pub critical_service_delay: Duration,
    /// The primary takes back after it was healthy for so long; `None` is never (spec B6).
    pub fallback_after: Option<Duration>,
    /// At most two automatic takeovers within this time; then they are held.
    pub takeover_window: Duration,
}

impl Default for Automatic {
    fn default() -> Self {
        Self {
            critical_service_delay: Duration::from_secs(90),
            fallback_after: None,
            takeover_window: Duration::from_secs(600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(interval: u64, count: u32) -> Result<Timing, TimingError> {
        Timing::new(Profile::Standard, Duration::from_secs(interval), count)
    }

    #[test]
    fn spec_a8_the_ranges_are_exact() {
        assert!(seconds(5, 5).is_ok() && seconds(600, 30).is_ok());
        for (interval, count) in [(4, 5), (601, 5), (5, 4), (5, 31)] {
            assert!(seconds(interval, count).is_err(), "{interval} x {count}");
        }
        assert_eq!(Timing::default().takeover_after(), Duration::from_secs(75));
    }

    #[test]
    fn an_out_of_range_timing_cannot_arrive_over_the_wire() {
        let raw = RawTiming { profile: Profile::Standard, interval_millis: 100, missed_count: 3 };
        let bytes = postcard::to_allocvec(&raw).unwrap();
        assert!(postcard::from_bytes::<Timing>(&bytes).is_err());
        let raw = RawTiming { profile: Profile::Fast, ..raw };
        let bytes = postcard::to_allocvec(&raw).unwrap();
        let timing: Timing = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(timing.takeover_after(), Duration::from_millis(300));
    }

    #[test]
    fn spec_a12_names_of_pairs_have_limits() {
        for good in ["a", "Dispatch_1-b", &"x".repeat(128)] {
            assert!(PairName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", &"x".repeat(129)] {
            assert!(PairName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
