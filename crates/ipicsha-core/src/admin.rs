//! What administrators can ask for, and how each request can end. A refusal says why and what to
//! do next, and has changed nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::{HaConfig, Timing},
    license::{LicenseError, LicensedRole},
    preflight::Check,
    time::WallTime,
    trust::Partner,
};

/// A request that the core decides on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminCommand {
    /// May this server enter a trust exchange now? (spec A1)
    AskTrust,
    /// The exchange succeeded: trust this partner.
    SetTrust(Partner),
    /// May trust be deleted now? (spec A2)
    AskDeleteTrust,
    /// The partner agreed, or only this side is to forget: delete trust here.
    DeleteTrust,
    /// Configure HA (spec A9).
    Configure(HaConfig),
    /// Change the heartbeat while configured (spec A8).
    Update(Timing),
    /// Unconfigure HA on both servers (spec A10).
    Unconfigure {
        /// Under policy `witness` also where nobody says that the other server does not go on.
        force: bool,
    },
    /// Planned switchover (spec B5), or forced takeover with `accept_data_loss`.
    Failover {
        /// Only show what would happen.
        dry_run: bool,
        /// Take over although the active cannot be asked for its last changes.
        accept_data_loss: bool,
    },
    /// End a split brain: this server becomes standby (spec D3).
    GoStandby,
    /// Compare the databases, and repair unless `dry_run` (spec D4).
    Repair {
        /// Only show the plan.
        dry_run: bool,
    },
    /// May a configured server's licenses be replaced by ones for this role?
    AskLicenses(Result<LicensedRole, LicenseError>),
    /// The primary serves again (spec B7).
    Fallback {
        /// Only show what would happen.
        dry_run: bool,
    },
    /// Start again what failed, on both servers (spec B8).
    Recover,
    /// Suspend what changes roles by itself (spec B13).
    Pause {
        /// Why.
        reason: String,
        /// For how long at most.
        limit: Duration,
    },
    /// End a pause.
    Resume,
    /// This standby wants to be active: the other one is asked for a planned switchover.
    TakeBack,
    /// What the site is like: both servers, and the link between them (spec A11, A13).
    Site,
    /// The services of this server were mended and may run again (spec F3).
    ServicesMended,
    /// Tell the partner of a certificate (DER) that is to be used soon.
    AnnounceCertificate(Vec<u8>),
    /// A certificate that was announced is in use.
    CertificateInUse {
        /// It (DER).
        certificate: Vec<u8>,
        /// When it ends.
        ends: WallTime,
    },
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    /// Done; nothing more to say.
    Done,
    /// The planned switchover is complete.
    FailedOver {
        /// From closing the writes here until the partner was active.
        took: Duration,
    },
    /// This server took over without its partner.
    TookOver,
    /// The pre-flight list of a planned switchover.
    Preflight(Vec<Check>),
    /// In force here; the partner was not heard to have it, and adopts it when it is.
    Unconfirmed,
    /// The comparison may start; the shell carries it out.
    RepairMayStart,
    /// What failed is being started again; the status shows how it ends.
    Recovering,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Trust is missing.
    #[error("this server is not trusted with a partner")]
    NotTrusted,
    /// Trust is there already.
    #[error("this server already trusts {0}")]
    AlreadyTrusted(String),
    /// HA is configured.
    #[error("HA is configured")]
    Configured,
    /// HA is not configured.
    #[error("HA is not configured")]
    NotConfigured,
    /// The partner is silent.
    #[error("the partner {0} is not reachable")]
    PartnerUnreachable(String),
    /// Licenses give no role.
    #[error("{0}")]
    License(LicenseError),
    /// The partner's licenses give no role.
    #[error("the licenses of {0} give it no role")]
    PartnerLicense(String),
    /// Both servers are licensed for the same role.
    #[error("both servers are licensed as {0}")]
    SameRole(LicensedRole),
    /// New licenses would change the role of a configured server.
    #[error("the new licenses would change the role of this server while HA is configured")]
    RoleFixed,
    /// Different software (spec A6).
    #[error("the servers run different versions: {mine} here, {partner} on the partner")]
    VersionDiffers {
        /// Version here.
        mine: String,
        /// Version there.
        partner: String,
    },
    /// Clocks more than 30 s apart (spec D2).
    #[error("the clocks of the two servers are {:.1} s apart, more than 30 s", *.offset_millis as f64 / 1000.0)]
    ClocksApart {
        /// Partner's clock minus ours.
        offset_millis: i64,
    },
    /// The offset is not measured yet.
    #[error("the clocks of the two servers were not compared yet")]
    ClocksUnknown,
    /// No time synchronisation (spec A5).
    #[error("{0} has no time synchronisation (NTP)")]
    TimeNotSynced(String),
    /// Planned switchover impossible.
    #[error("failover is not possible now: {}", first_failure(.0))]
    Preflight(Vec<Check>),
    /// The verb belongs to the other server.
    #[error("this server is standby; {0} is active")]
    NotActive(String),
    /// A role change is under way.
    #[error("a role change is under way")]
    Busy,
    /// Nothing is split.
    #[error("there is no split brain: only one server is active")]
    NotSplit,
    /// Split.
    #[error("both servers are active (split brain)")]
    Split,
    /// Writes could not be closed or the tail not shipped; all is as before.
    #[error("the switchover was rolled back and nothing has changed: {0}")]
    RolledBack(String),
    /// The partner did not say that it is active.
    #[error("the partner did not confirm that it is active")]
    Unconfirmed,
    /// The partner has the role, and cannot serve.
    #[error("{0} is active, but could not open its writes or start its services")]
    PartnerFailed(String),
    /// Writes could not be closed.
    #[error("this server is standby, but its writes could not be closed: {0}")]
    NotClosed(String),
    /// A forced takeover while the partner may only be slow.
    #[error("{0} is silent, but not for D yet: it may still be active")]
    NotLostYet(String),
    /// The forced takeover needs consent.
    #[error(
        "the active server is not reachable, so its last changes cannot be fetched (it had {known} unsent when last heard)"
    )]
    DataLoss {
        /// Changes it had not shipped in its last report.
        known: u64,
    },
    /// The primary is active already.
    #[error("this server is the primary and active: there is nothing to fall back to")]
    NotInBackup,
    /// It has the role already.
    #[error("this server is active")]
    AlreadyActive,
    /// It could not serve, or the active server keeps the role.
    #[error("this server cannot be active now: {0}")]
    NotReady(String),
    /// Nothing failed.
    #[error("nothing has failed: neither server is in Running in Failed Mode")]
    NotFailed,
    /// What failed was started again, and failed again.
    #[error("it failed again: {0}")]
    FailedAgain(String),
    /// Nothing is suspended.
    #[error("HA is not paused")]
    NotPaused,
    /// A pause for no time, or for too long.
    #[error("a pause lasts from 1 second to {} days", PAUSE_MAX.as_secs() / 86_400)]
    PauseLimit,
    /// The partner did not say that it knows the new certificate; the old one stays in use.
    #[error("the partner did not confirm that it knows the new certificate")]
    NotNoted,
    /// What the witness keeps for this server would be lost with its certificate.
    #[error(
        "the witness keeps the role for the certificate in use, and was not told yet that it need not"
    )]
    KeptByWitness,
    /// Policy `witness`: nobody but the witness can give the role.
    #[error("the witness did not grant the role: {0}")]
    NoRight(String),
    /// Policy `witness`: this server has promised not to take over.
    #[error(
        "{0} was ending HA when it was last heard, and may go on alone: this server promised not to take over"
    )]
    Yields(String),
    /// A service cannot run.
    #[error("the service {name} cannot run: {cause}")]
    ServiceDown {
        /// Its name.
        name: String,
        /// What was found.
        cause: String,
    },
}

/// Longest pause: one that is forgotten ends all the same.
pub const PAUSE_MAX: Duration = Duration::from_secs(7 * 86_400);

impl Refusal {
    /// What the administrator does next.
    pub fn next_step(&self) -> String {
        match self {
            Self::NotTrusted => "set up trust first: `ipicsha trust set PARTNER_ADDRESS`".into(),
            Self::AlreadyTrusted(_) => {
                "to replace it: `ipicsha unconfigure`, then `ipicsha trust delete`".into()
            }
            Self::Configured | Self::RoleFixed => "unconfigure first: `ipicsha unconfigure`".into(),
            Self::NotConfigured => "configure HA first: `ipicsha configure`".into(),
            Self::PartnerUnreachable(name) => format!(
                "check that the daemon runs on {name} and that port 3444 is open between the servers, then try again"
            ),
            Self::License(error) => error.next_step().into(),
            Self::PartnerLicense(name) => {
                format!("run `ipicsha license show` on {name} and install what is missing")
            }
            Self::SameRole(LicensedRole::Primary) => {
                "one server needs the High Availability license alone: `ipicsha license install --replace FILE` there".into()
            }
            Self::SameRole(LicensedRole::Secondary) => {
                "one server needs Base and Policy Engine Base: `ipicsha license install --replace FILE FILE` there".into()
            }
            Self::VersionDiffers { .. } => "install the same version on both servers".into(),
            Self::ClocksApart { .. } => {
                "correct the clock that is wrong and enable time synchronisation (NTP) on both servers".into()
            }
            Self::ClocksUnknown => "wait for the next heartbeat and try again".into(),
            Self::TimeNotSynced(name) => {
                format!("enable time synchronisation on {name}, for example `ipicsha ntp enable SERVER` there")
            }
            Self::Preflight(checks) => {
                checks.iter().find_map(Check::fix).unwrap_or("see `ipicsha ha-status`").into()
            }
            Self::NotActive(active) => format!("run it on {active}, the active server"),
            Self::Busy => "wait for it to end (`ipicsha ha-status`) and try again".into(),
            Self::NotSplit | Self::AlreadyActive => "nothing to do; `ipicsha ha-status` shows the roles".into(),
            Self::Split => {
                "end it first: `ipicsha go-standby` on the server that is to give up, usually the secondary".into()
            }
            Self::RolledBack(_) => "remove the cause and try again".into(),
            Self::Unconfirmed => {
                "look at `ipicsha ha-status` on both servers; whichever is silent for D is replaced".into()
            }
            Self::PartnerFailed(name) => {
                format!("see the alarms of `ipicsha ha-status` on {name}; fail over back from there if it cannot be mended")
            }
            Self::NotClosed(_) => {
                "it is tried again every 5 s; if it does not succeed, stop the application on this server by hand".into()
            }
            Self::NotLostYet(_) => {
                "wait until `ipicsha ha-status` shows it as not reachable, then try again".into()
            }
            Self::DataLoss { .. } => {
                "repair the active server or the link; or accept the loss: `ipicsha failover --accept-data-loss`".into()
            }
            Self::NotInBackup => "to move the service to the secondary: `ipicsha failover`".into(),
            Self::NotReady(_) | Self::KeptByWitness => "see `ipicsha ha-status` on both servers, then try again".into(),
            Self::FailedAgain(_) => {
                "remove the cause and run `ipicsha recover` again; else reboot this server".into()
            }
            Self::NotFailed | Self::NotPaused => "nothing to do; see `ipicsha ha-status`".into(),
            Self::PauseLimit => "give a time within the limits, for example `--for 30m`".into(),
            Self::NotNoted => "the old one stays in use; see `ipicsha ha-status` and try again".into(),
            Self::NoRight(_) | Self::Yields(_) => {
                "repair the witness or the link to it; or, if the other server is switched off for sure: `ipicsha unconfigure --force` opens the databases here".into()
            }
            Self::ServiceDown { .. } => {
                "remove the cause, then run `ipicsha service start` again; else reboot this server".into()
            }
        }
    }
}

fn first_failure(checks: &[Check]) -> String {
    checks.iter().find_map(Check::failure).unwrap_or_default()
}
