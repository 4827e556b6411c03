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
    /// Transaction log at 75 % or more (spec C4).
    LogFilling,
    /// A transaction log reached 90 % and HA was unconfigured (spec C4).
    LogFull,
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
    },
    /// A split brain ended and its databases were not repaired yet.
    RepairDue,
    /// The licenses give this server no role.
    License {
        /// Why.
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
            Self::LogFilling => "a transaction log is filled to 75 % or more".into(),
            Self::LogFull => {
                "a transaction log reached 90 %: HA unconfigured itself so that applications go on"
                    .into()
            }
            Self::DatabaseHeld => "a database cannot be replicated".into(),
            Self::RoleChangeFailed { cause } => format!("a role change went wrong: {cause}"),
            Self::TakeoverNeeded { cause } => {
                format!("the active server is lost and nobody serves: {cause}")
            }
            Self::RepairDue => "databases were not repaired since the split brain".into(),
            Self::License { cause } => cause.clone(),
        }
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
}

impl Alarm {
    /// What to do about it, when the alarm alone says it; `PARTNER` stands for the partner's name.
    pub(crate) fn action(&self) -> Option<&'static str> {
        match self {
            Self::RoleChangeFailed { .. } => Some(
                "look at the service and the database named in the alarm and remove the cause; it is tried again every 5 s",
            ),
            Self::TakeoverNeeded { .. } => Some(
                "repair PARTNER or the link; if PARTNER is really down and its last changes may be missing for now: `ipicsha failover --accept-data-loss`",
            ),
            Self::ClocksApart => Some(
                "correct the clock that is wrong and enable NTP on both servers; records are queued until then",
            ),
            Self::DatabaseHeld => Some("see the hold in the list of databases and do what it says"),
            Self::LogFull => Some(
                "bring PARTNER back, then configure HA anew: `ipicsha configure`; the databases are compared then",
            ),
            Self::LogFilling => Some(
                "bring PARTNER back so that the transaction log can drain before it reaches 90 %",
            ),
            Self::VersionDiffers => Some("install the same version on both servers"),
            Self::TimeNotSynced => {
                Some("enable time synchronisation here: `timedatectl set-ntp true`")
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
            Self::SplitBrain | Self::PartnerDown => None,
        }
    }
}
