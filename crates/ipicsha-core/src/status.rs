//! The one snapshot that every front end shows.

use serde::{Deserialize, Serialize};

use crate::{
    config::HaConfig,
    license::LicensedRole,
    state::{NodeState, Reason, Role},
};

/// Something an administrator must know until it is over (spec F4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Alarm {
    /// Both servers are active (spec D1).
    SplitBrain,
    /// The partner has been silent for D, or stopped.
    PartnerDown,
    /// This server hears the partner, and the partner does not hear this server.
    OneWay,
    /// Clocks more than 30 s apart: records queue (spec D2).
    ClocksApart,
    /// No time synchronisation here (spec A5).
    TimeNotSynced,
    /// The servers run different software (spec A6).
    VersionDiffers,
    /// Transaction log at 75 % or more (spec C4); over when it is below 70 %.
    LogFilling {
        /// The database whose log is fullest.
        #[serde(default)]
        database: String,
        /// How full it is.
        #[serde(default)]
        percent: u8,
        /// When the first log reaches 90 %.
        #[serde(default)]
        forecast: LogForecast,
    },
    /// A transaction log reached 90 %, or overflowed, and HA was unconfigured (spec C4).
    LogFull {
        /// The database whose log it was.
        #[serde(default)]
        database: String,
        /// Changes were overwritten that the partner never had.
        #[serde(default)]
        overflowed: bool,
    },
    /// A database cannot follow.
    DatabaseHeld,
    /// Writes or services could not be opened or closed.
    RoleChangeFailed {
        /// What went wrong.
        cause: String,
    },
    /// The active is lost and this server may not take over by itself.
    TakeoverNeeded {
        /// Why not.
        cause: String,
        /// It has promised not to, so that `failover` is refused, too.
        promised: bool,
    },
    /// A split brain ended and its databases were not repaired yet.
    RepairDue,
    /// The licenses give this server no role.
    License {
        /// Why.
        cause: String,
    },
    /// A watched directory cannot be replicated.
    DirectoryHeld {
        /// Its name.
        directory: String,
        /// Why, with the next step.
        cause: String,
    },
    /// More was deleted in a watched directory than happens by itself: an administrator decides.
    DeletionsHeld {
        /// Its name.
        directory: String,
        /// How many deletions wait.
        count: u64,
    },
    /// A critical service is down, or could not run here (spec B3, B4).
    CriticalServiceDown {
        /// Its name.
        service: String,
        /// What was found.
        cause: String,
    },
    /// Too many automatic takeovers: the next one waits.
    TakeoversHeld {
        /// For how long from now.
        seconds: u64,
    },
    /// The role came here without anybody asking for it, and the partner is not ready to take it back.
    RoleMoved {
        /// Why it came.
        reason: Reason,
    },
    /// An address that moves with the role is not here, although this server is active.
    AddressMissing {
        /// It, with the length of its network.
        address: String,
        /// Why.
        cause: String,
    },
    /// The certificate of this server ends soon (spec A3).
    CertificateEnds {
        /// So many days from now; below 0 it has ended.
        days: i64,
    },
    /// This server was active, and neither the partner nor the witness answers: it closed its writes.
    Fenced,
    /// The witness does not answer: it grants nothing.
    WitnessDown {
        /// Why.
        cause: String,
    },
    /// HA is suspended for maintenance (spec B13).
    Paused {
        /// Why.
        reason: String,
        /// For how long from now.
        seconds: u64,
    },
    /// Changes in a watched directory are noticed late, or at scans only.
    ChangesLate {
        /// Its name.
        directory: String,
        /// Why, with the remedy.
        cause: String,
    },
}

impl Alarm {
    /// One line for the administrator.
    pub fn text(&self) -> String {
        match self {
            Self::SplitBrain => "both servers are active (split brain)".into(),
            Self::OneWay => {
                "the link works in one direction only: the partner does not hear this server".into()
            }
            Self::PartnerDown => "the partner is down or not reachable".into(),
            Self::ClocksApart => {
                "the clocks are more than 30 s apart: records are held back".into()
            }
            Self::TimeNotSynced => "this server has no time synchronisation".into(),
            Self::VersionDiffers => "the servers run different versions".into(),
            Self::LogFilling { database, percent, forecast } => {
                let whose = whose(database);
                format!("the transaction log{whose} is filled to {percent} %: {}", forecast.text())
            }
            Self::LogFull { database, overflowed } => log_full(database, *overflowed),
            Self::DatabaseHeld => "a database cannot be replicated".into(),
            Self::RoleChangeFailed { cause } => format!("a role change went wrong: {cause}"),
            Self::TakeoverNeeded { cause, .. } => {
                format!("the active server is lost and nobody serves: {cause}")
            }
            Self::RepairDue => "databases were not repaired since the split brain".into(),
            Self::License { cause } => cause.clone(),
            Self::DirectoryHeld { directory, cause } => {
                format!("the directory {directory} is not replicated: {cause}")
            }
            Self::DeletionsHeld { directory, count } => {
                format!(
                    "{count} deletions in the directory {directory} wait: that many do not happen by themselves"
                )
            }
            Self::ChangesLate { directory, cause } => {
                format!("changes in the directory {directory} are noticed late: {cause}")
            }
            Self::CriticalServiceDown { service, cause } => {
                format!("the critical service {service} is down: {cause}")
            }
            Self::TakeoversHeld { seconds } => format!(
                "two automatic takeovers within a short time: the next one is held for {}",
                rounded(*seconds)
            ),
            Self::RoleMoved { reason } => {
                format!(
                    "this server took over by itself ({reason}) and has no standby that is ready"
                )
            }
            Self::AddressMissing { address, cause } => {
                format!("this server is active and has not got the address {address}: {cause}")
            }
            Self::CertificateEnds { days } => certificate_ends(*days),
            Self::Fenced => {
                "this server closed its writes: neither the partner nor the witness answers".into()
            }
            Self::WitnessDown { cause } => {
                format!("the witness is of no use: {cause}; no role changes because of that alone")
            }
            Self::Paused { reason, seconds } => {
                format!(
                    "HA is paused for {} ({reason}): no role changes by itself",
                    rounded(*seconds)
                )
            }
        }
    }
}

fn log_full(database: &str, overflowed: bool) -> String {
    let (whose, what) = match overflowed {
        true => (whose(database), "overflowed, the partner does not have all changes"),
        false => (whose(database), "reached 90 %"),
    };
    format!("the transaction log{whose} {what}: HA unconfigured itself so that applications go on")
}

fn certificate_ends(days: i64) -> String {
    if days < 0 {
        return "the certificate of this server has ended: the partner refuses it".into();
    }
    format!("the certificate of this server ends in {days} days")
}

fn whose(database: &str) -> String {
    if database.is_empty() { String::new() } else { format!(" of {database}") }
}

/// Where a transaction log is heading (spec C4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "growth")]
pub enum LogForecast {
    /// It was not watched for long enough.
    #[default]
    Unknown,
    /// It does not grow.
    None,
    /// At the present rate it reaches 90 %.
    Full {
        /// So many seconds from now.
        seconds: u64,
    },
}

impl LogForecast {
    /// What is expected of a log that fills by `percent_per_second` and is at `percent` now.
    pub fn new(percent: f64, percent_per_second: f64) -> Self {
        const FULL: f64 = 90.0;
        // Less than a percent in a month is no growth.
        const LEAST: f64 = 1.0 / (30.0 * 86_400.0);
        if percent >= FULL {
            Self::Full { seconds: 0 }
        } else if percent_per_second < LEAST {
            Self::None
        } else {
            Self::Full { seconds: ((FULL - percent) / percent_per_second) as u64 }
        }
    }

    /// Of two logs the one that is full first; what is not known does not hide what is.
    #[must_use]
    pub fn soonest(self, other: Self) -> Self {
        match (self, other) {
            (Self::Full { seconds: a }, Self::Full { seconds: b }) => {
                Self::Full { seconds: a.min(b) }
            }
            (full @ Self::Full { .. }, _) | (_, full @ Self::Full { .. }) => full,
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::Unknown, Self::Unknown) => Self::Unknown,
        }
    }

    /// In words.
    pub fn text(self) -> String {
        match self {
            Self::Unknown => "its rate is not known yet".into(),
            Self::None => "not growing".into(),
            Self::Full { seconds } => {
                format!("90 % in about {} at the present rate", rounded(seconds))
            }
        }
    }
}

/// A span with the unit that fits.
pub(crate) fn rounded(seconds: u64) -> String {
    let nearest = |unit: u64| (seconds + unit / 2) / unit;
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6_000 => format!("{} min", nearest(60)),
        6_000..180_000 => format!("{} h", nearest(3_600)),
        _ => format!("{} days", nearest(86_400)),
    }
}

/// One row of the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Name.
    pub name: String,
    /// Licensed role.
    pub license: Option<LicensedRole>,
    /// Role now; `None` when HA is not configured or the server is not reachable.
    pub role: Option<Role>,
    /// State; `None` when it is not reachable.
    pub state: Option<NodeState>,
    /// Reason of the state.
    pub reason: Option<Reason>,
    /// It can be talked to.
    pub reachable: bool,
    /// It could take over, or is active.
    pub ready: bool,
    /// Age of the last sign of life; `None` for this server itself or when never heard.
    pub heartbeat_age_seconds: Option<f64>,
    /// Its clock minus this server's.
    pub clock_offset_seconds: Option<f64>,
    /// Software version.
    pub version: Option<String>,
}

/// A split brain as shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitBrainStatus {
    /// Milliseconds since 1970 of the last contact before it.
    pub since_unix_ms: i64,
    /// For how long it has lasted.
    pub seconds: f64,
    /// Changes written here since.
    pub changes_here: u64,
    /// Changes written on the partner since.
    pub changes_on_partner: u64,
    /// What happened on each of the two; this server first.
    #[serde(default)]
    pub timelines: Vec<TimelineStatus>,
}

/// What one server did before and in a split brain; times are those of its own clock, in milliseconds
/// since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineStatus {
    /// Its name.
    pub server: String,
    /// Since when it is active.
    pub active_since_unix_ms: Option<i64>,
    /// Why it became active.
    pub active_because: Option<Reason>,
    /// Changes there that the other one does not have.
    pub changes: u64,
    /// When the first of them was made.
    pub first_change_unix_ms: Option<i64>,
    /// When the last of them was made.
    pub last_change_unix_ms: Option<i64>,
}

/// A pause as shown (spec B13).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PauseStatus {
    /// Why, in the administrator's words.
    pub reason: String,
    /// Milliseconds since 1970 of its end.
    pub until_unix_ms: i64,
    /// For how long from now.
    pub seconds: u64,
}

/// State of the pair as one server sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairStatus {
    /// `configured` or `not configured`.
    pub ha: String,
    /// `trusted` or `not trusted` (spec A1).
    pub trust: String,
    /// Configuration, when configured.
    pub config: Option<HaConfig>,
    /// D in seconds, when configured.
    pub takeover_after_seconds: Option<f64>,
    /// Epoch in force.
    pub epoch: u64,
    /// `Ready`, or why the standby is not (spec A9).
    pub standby_status: String,
    /// This server first, then the partner, also when it is not reachable.
    pub servers: Vec<ServerStatus>,
    /// Set while both are active.
    pub split_brain: Option<SplitBrainStatus>,
    /// What will happen next without anybody's doing.
    pub next: String,
    /// What the administrator should do.
    pub recommended_action: String,
    /// What is wrong now.
    pub alarms: Vec<Alarm>,
    /// When this was seen, milliseconds since 1970.
    pub seen_unix_ms: i64,
    /// Set while HA is suspended.
    #[serde(default)]
    pub pause: Option<PauseStatus>,
    /// Under policy `witness`: why the witness does not answer, empty when it does.
    #[serde(default)]
    pub witness: Option<String>,
}

impl Alarm {
    /// The same alarm: its figures may have changed since it was raised.
    pub fn is_still(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::LogFilling { .. }, Self::LogFilling { .. })
            | (Self::RoleChangeFailed { .. }, Self::RoleChangeFailed { .. })
            | (Self::TakeoverNeeded { .. }, Self::TakeoverNeeded { .. })
            | (Self::License { .. }, Self::License { .. }) => true,
            (
                Self::DeletionsHeld { directory: mine, .. },
                Self::DeletionsHeld { directory: theirs, .. },
            )
            | (
                Self::DirectoryHeld { directory: mine, .. },
                Self::DirectoryHeld { directory: theirs, .. },
            )
            | (
                Self::ChangesLate { directory: mine, .. },
                Self::ChangesLate { directory: theirs, .. },
            ) => mine == theirs,
            (
                Self::CriticalServiceDown { service: mine, .. },
                Self::CriticalServiceDown { service: theirs, .. },
            ) => mine == theirs,
            (
                Self::AddressMissing { address: mine, .. },
                Self::AddressMissing { address: theirs, .. },
            ) => mine == theirs,
            (Self::TakeoversHeld { .. }, Self::TakeoversHeld { .. })
            | (Self::RoleMoved { .. }, Self::RoleMoved { .. })
            | (Self::CertificateEnds { .. }, Self::CertificateEnds { .. })
            | (Self::WitnessDown { .. }, Self::WitnessDown { .. }) => true,
            (Self::Paused { reason: mine, .. }, Self::Paused { reason: theirs, .. }) => {
                mine == theirs
            }
            _ => self == other,
        }
    }

    /// What to do about it, when the alarm alone says it; `PARTNER` stands for the partner's name.
    pub fn action(&self) -> Option<&'static str> {
        match self {
            Self::RoleChangeFailed { .. } => Some(
                "look at the service and the database named in the alarm and remove the cause; it is tried again every 5 s",
            ),
            Self::TakeoverNeeded { promised: true, .. } => Some(
                "repair PARTNER or the link; if PARTNER is switched off for sure: `ipicsha unconfigure --force` here; its last changes may be missing until HA is configured again",
            ),
            Self::TakeoverNeeded { promised: false, .. } => Some(
                "repair PARTNER or the link; if PARTNER is really down and its last changes may be missing for now: `ipicsha failover --accept-data-loss`",
            ),
            Self::ClocksApart => Some(
                "correct the clock that is wrong and enable NTP on both servers; records are queued until then",
            ),
            Self::DatabaseHeld => Some("see the hold in the list of databases and do what it says"),
            Self::LogFull { .. } => Some(
                "bring PARTNER back, then configure HA anew: `ipicsha configure`; the databases are compared then",
            ),
            Self::LogFilling { .. } => Some(
                "bring PARTNER back so that the transaction log can drain before it reaches 90 %, or give it more room: `ipicsha protect db PATH --log-entries N --log-bytes SIZE`",
            ),
            Self::VersionDiffers => Some("install the same version on both servers"),
            Self::TimeNotSynced => {
                Some("enable time synchronisation here: `ipicsha ntp enable SERVER`")
            }
            Self::RepairDue => {
                Some("see what differs with `ipicsha repair --dry-run`, then run `ipicsha repair`")
            }
            Self::License { .. } => Some(
                "install a valid license: `ipicsha license install FILE`; the pair goes on meanwhile",
            ),
            Self::OneWay => Some(
                "look at firewalls and routes between the servers: TCP port 3444 must be open both ways",
            ),
            Self::DirectoryHeld { .. } => {
                Some("see the hold in the list of directories and do what it says")
            }
            Self::ChangesLate { .. } => Some(
                "apply the remedy if the alarm names one; until then changes are found by scans",
            ),
            Self::DeletionsHeld { .. } => Some(
                "if they are meant: `ipicsha repair files DIRECTORY --accept-deletions`; if not, put the files back where they were deleted",
            ),
            Self::Paused { .. } => Some(
                "`ipicsha resume` when the maintenance is over and the users are back; else it ends by itself",
            ),
            Self::AddressMissing { .. } => Some(
                "take the address from whoever has it, or correct `[[address]]` in the configuration file; it is tried again every second",
            ),
            Self::CertificateEnds { .. } => {
                Some("`ipicsha certificate renew` here: nothing stops for it")
            }
            Self::TakeoversHeld { .. } => Some(
                "find out why the servers or the link flap; `ipicsha failover` and `ipicsha fallback` are not held",
            ),
            Self::WitnessDown { .. } => Some(
                "look at the witness and the way to it (`[witness]` in the configuration file); without it nobody takes over on silence",
            ),
            Self::SplitBrain
            | Self::PartnerDown
            | Self::Fenced
            | Self::RoleMoved { .. }
            | Self::CriticalServiceDown { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_the_time_to_90_percent_at_the_present_rate() {
        let text = |percent, rate| LogForecast::new(percent, rate).text();
        assert_eq!(text(78.0, 1.0 / 60.0), "90 % in about 12 min at the present rate");
        assert_eq!(text(80.0, 0.5), "90 % in about 20 s at the present rate");
        assert_eq!(text(75.0, 15.0 / 36_000.0), "90 % in about 10 h at the present rate");
        assert_eq!(text(75.0, 5.0 / 86_400.0), "90 % in about 3 days at the present rate");
        assert_eq!(text(80.0, 0.0), "not growing");
        assert_eq!(text(80.0, -3.0), "not growing");
        assert_eq!(LogForecast::new(93.0, 0.0), LogForecast::Full { seconds: 0 });
    }

    #[test]
    fn the_soonest_of_all_forecasts_counts() {
        let (unknown, none) = (LogForecast::Unknown, LogForecast::None);
        let full = |seconds| LogForecast::Full { seconds };
        assert_eq!(full(7).soonest(full(3)).soonest(none).soonest(unknown), full(3));
        assert_eq!(unknown.soonest(full(9)), full(9));
        assert_eq!(unknown.soonest(none), none);
    }
}
