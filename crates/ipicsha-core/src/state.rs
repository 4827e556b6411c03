//! Roles, states and reasons, in the reference's words (spec B1, B10).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    config::HaSetting, epoch::Epoch, license::LicensedRole, time::WallTime, trust::Partner,
};

/// What a server does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves; its databases accept writes.
    Active,
    /// Follows; its databases refuse writes.
    Standby,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Standby => "standby",
        })
    }
}

macro_rules! worded {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every value, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

worded! {
    /// State of one server (spec B10; Suspect and Split Brain are ours).
    NodeState {
        /// HA is not configured.
        NotConfigured => "Not Configured",
        /// Started, and not yet told its role by the partner.
        Initializing => "Initializing",
        /// In its licensed role, all well.
        Normal => "Normal",
        /// Standby that misses heartbeats of the active.
        Suspect => "Suspect",
        /// Active that is giving up on request.
        FailingOver => "Failing Over",
        /// Becoming active.
        TakingOver => "Taking Over",
        /// Gave up on request; standby.
        Idle => "Idle",
        /// Secondary that is active.
        RunningInBackupMode => "Running in Backup Mode",
        /// Primary that lost its role and is back as standby.
        FailedOver => "Failed Over",
        /// Active whose writes or services could not be opened.
        RunningInFailedMode => "Running in Failed Mode",
        /// Active while the partner is active too.
        SplitBrain => "Split Brain",
    }
}

worded! {
    /// Why a server is in its state (spec B10).
    Reason {
        /// Nothing to explain.
        Normal => "Normal",
        /// An administrator asked for it.
        OnAdminRequest => "On Admin Request",
        /// The server or its daemon started.
        Initialization => "Initialization",
        /// The partner was silent for D.
        PeerDown => "Peer Down",
        /// The partner said that it stops.
        PeerReboot => "Peer Reboot",
        /// Services or writes could not be opened.
        StartOfCriticalServicesFailed => "Start of Critical Services Failed",
        /// Both were active, and this one stepped back.
        SplitBrain => "Split Brain",
    }
}

worded! {
    /// Why a standby could not take over, or why this pair is not whole.
    NotReady {
        /// HA is not configured.
        NotConfigured => "HA is not configured",
        /// Started, and not yet told its role.
        Initializing => "it is starting",
        /// A role change is under way.
        RoleChange => "a role change is under way",
        /// Both are active.
        SplitBrain => "both servers are active",
        /// The partner is silent.
        PartnerUnreachable => "its partner is not reachable",
        /// Different software.
        VersionDiffers => "the versions differ",
        /// More than 30 s apart, or not measured yet.
        ClocksApart => "the clocks do not agree",
        /// No NTP.
        TimeNotSynced => "its time is not synchronised",
        /// The first comparison has not ended.
        DatabasesNotSynced => "its databases are not in sync yet",
        /// The fence is not up.
        WritesNotClosed => "its writes are not closed",
        /// A database cannot follow.
        DatabaseHeld => "one of its databases is held",
    }
}

/// Both servers were active at once (spec D1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitBrain {
    /// Last contact before the second activation, by this server's wall clock.
    pub since: WallTime,
    /// When this server noticed.
    pub noticed: WallTime,
}

/// Why HA was unconfigured because of a transaction log (spec C4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFullCause {
    /// Name of the database whose log it was.
    pub database: String,
    /// It had overwritten changes the partner never had.
    pub overflowed: bool,
}

/// What a server must remember over a crash. Written before anything that follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistedState {
    /// Whom it trusts.
    pub partner: Option<Partner>,
    /// The agreed configuration.
    pub ha: HaSetting,
    /// Role last taken; after a start it is only a memory.
    pub role: Role,
    /// Why it took that role.
    pub role_reason: Reason,
    /// Licensed role when HA was configured: a license that expires later stops nobody.
    pub configured_as: Option<LicensedRole>,
    /// Highest epoch this server was active under or knows of.
    pub epoch: Epoch,
    /// Set while both are active.
    pub split_brain: Option<SplitBrain>,
    /// A split brain ended and the databases were not repaired since.
    pub repair_due: bool,
    /// When HA was unconfigured because a transaction log was nearly full; until HA is configured
    /// anew (spec C4).
    pub log_full: Option<WallTime>,
    /// Which log that was, and whether it had overflowed.
    #[serde(default)]
    pub log_full_cause: LogFullCause,
    /// Last time the partner was heard, by this server's wall clock.
    pub last_contact: Option<WallTime>,
}

impl Default for PersistedState {
    fn default() -> Self {
        Self {
            partner: None,
            ha: HaSetting::default(),
            role: Role::Standby,
            role_reason: Reason::Initialization,
            configured_as: None,
            epoch: Epoch::default(),
            split_brain: None,
            repair_due: false,
            log_full: None,
            log_full_cause: LogFullCause::default(),
            last_contact: None,
        }
    }
}

/// State and reason of a healthy server in `role`, by its license: being active is normal for a
/// primary and backup mode for a secondary.
pub(crate) fn settled(
    role: Role,
    licensed: Option<LicensedRole>,
    reason: Reason,
) -> (NodeState, Reason) {
    match (role, licensed) {
        (Role::Active, Some(LicensedRole::Secondary)) => (NodeState::RunningInBackupMode, reason),
        (Role::Standby, Some(LicensedRole::Primary)) => match reason {
            Reason::OnAdminRequest => (NodeState::Idle, reason),
            Reason::Normal
            | Reason::Initialization
            | Reason::PeerDown
            | Reason::PeerReboot
            | Reason::StartOfCriticalServicesFailed
            | Reason::SplitBrain => (NodeState::FailedOver, reason),
        },
        (Role::Active, Some(LicensedRole::Primary) | None)
        | (Role::Standby, Some(LicensedRole::Secondary) | None) => {
            (NodeState::Normal, Reason::Normal)
        }
    }
}
