//! Roles, states and reasons, in the reference's words (spec B1, B10).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    config::HaSetting, epoch::Epoch, id::PartingId, license::LicensedRole, time::WallTime,
    trust::Partner,
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
        /// Primary that lost its role and whose critical services do not run.
        FailedOverServicesNotRunning => "Failed Over with Critical Services Not Running",
        /// Primary that becomes active again.
        TakingBack => "Taking Back",
        /// Active secondary that is giving up.
        FallingBack => "Falling Back",
        /// Primary that took over from a secondary whose services failed.
        BackupActivated => "Backup Activated",
        /// Secondary that gave up because its services failed.
        FailoverAffectedServices => "Failover Affected Services",
        /// The servers do not agree whether HA is configured.
        Unknown => "Unknown",
        /// Was active, and closed its writes because neither the partner nor the witness answered.
        Fenced => "Fenced",
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
        /// A critical service was down for longer than its delay (spec B3).
        CriticalServiceDown => "Critical Service Down",
        /// A database failed its check for longer than the delay (spec B4).
        DatabaseFailure => "Database Failure",
        /// The primary was healthy for long enough (spec B6).
        AutomaticFallback => "Automatic Fallback",
        /// Started, and did not hear the partner until the initialisation timeout (spec B9).
        PeerDownDuringInitialization => "Peer Down During Initialization",
        /// The secondary could not open its writes.
        TakeOverUsersFailed => "Take Over Users Failed",
        /// The primary could not open its writes.
        TakeBackUsersFailed => "Take Back Users Failed",
        /// Not known: a daemon restarted meanwhile.
        Unknown => "Unknown",
        /// A database of the secondary failed, and the primary took over (spec B11).
        AutoRecoverDatabaseFailure => "Auto Recover Database Failure",
        /// A critical service of the secondary failed, and the primary took over (spec B11).
        AutoRecoverCriticalServiceDown => "Auto Recover Critical Service Down",
    }
}

impl NodeState {
    /// The pair does not serve as it should, or two serve.
    pub fn is_failed(self) -> bool {
        matches!(self, Self::RunningInFailedMode | Self::SplitBrain | Self::Fenced)
    }
}

impl Reason {
    /// Nobody asked for the role change, and nobody said goodbye.
    pub(crate) fn is_automatic(self) -> bool {
        self.is_of_services() || matches!(self, Self::AutomaticFallback | Self::PeerDown)
    }

    /// The role changed because of the services of the server that gave up.
    pub(crate) fn is_of_services(self) -> bool {
        match self {
            Self::CriticalServiceDown
            | Self::DatabaseFailure
            | Self::AutoRecoverDatabaseFailure
            | Self::AutoRecoverCriticalServiceDown => true,
            Self::Normal
            | Self::OnAdminRequest
            | Self::Initialization
            | Self::PeerDown
            | Self::PeerReboot
            | Self::StartOfCriticalServicesFailed
            | Self::SplitBrain
            | Self::AutomaticFallback
            | Self::PeerDownDuringInitialization
            | Self::TakeOverUsersFailed
            | Self::TakeBackUsersFailed
            | Self::Unknown => false,
        }
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
        /// It lost its role because of its services, or they could not run now.
        ServicesDown => "its critical services cannot run",
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

/// HA suspended for maintenance (spec B13): nothing changes roles by itself meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Why, in the administrator's words.
    pub reason: String,
    /// When it ends by itself.
    pub until: WallTime,
}

/// The last pause or resume; the higher number counts on both servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseSetting {
    /// Raised by every pause and every resume.
    pub number: u64,
    /// `None` after a resume. A pause that has ended by itself stays here.
    pub pause: Option<Pause>,
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
    /// When it last became active, by this server's wall clock, and why.
    #[serde(default)]
    pub activated: Option<(WallTime, Reason)>,
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
    /// This primary gave up on an administrator's request: it stays Idle (spec B5).
    #[serde(default)]
    pub gave_up: bool,
    /// This server lost its role because of its services, and nobody has mended them since.
    #[serde(default)]
    pub services_down: Option<Reason>,
    /// HA is suspended, or was (spec B13).
    #[serde(default)]
    pub pause: PauseSetting,
    /// It was the active one, and closed its writes because its right to the role ended.
    #[serde(default)]
    pub fenced: bool,
    /// The witness was asked to keep the role for this server without end, and may do so still.
    #[serde(default, alias = "parted")]
    pub kept: bool,
    /// It does not take over: the partner wants to end HA and go on alone, and may have done so.
    #[serde(default)]
    pub yields: Option<PartingId>,
    /// A certificate (DER) the partner was told of and that is not known to be used.
    #[serde(default)]
    pub announced: Option<Vec<u8>>,
    /// Its own new certificate (DER), until the partner has forgotten the old one.
    #[serde(default)]
    pub renewed: Option<Vec<u8>>,
}

impl Default for PersistedState {
    fn default() -> Self {
        Self {
            partner: None,
            ha: HaSetting::default(),
            role: Role::Standby,
            role_reason: Reason::Initialization,
            activated: None,
            configured_as: None,
            epoch: Epoch::default(),
            split_brain: None,
            repair_due: false,
            log_full: None,
            log_full_cause: LogFullCause::default(),
            last_contact: None,
            gave_up: false,
            services_down: None,
            pause: PauseSetting::default(),
            fenced: false,
            kept: false,
            yields: None,
            announced: None,
            renewed: None,
        }
    }
}
