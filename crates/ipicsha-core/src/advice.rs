//! The recommended action for every pair of states (spec B10), in the words of the reference's table
//! and with our commands. One table, no wildcard for a state: a new one does not compile without
//! its advice.

use crate::state::{NodeState, Reason};

/// What an administrator should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// All is well.
    None,
    /// Something is under way.
    Wait,
    /// The partner has to be brought back.
    RestorePartner,
    /// The partner, which is the primary, has to be brought back.
    RestorePrimary,
    /// The partner, which is the primary, was shut down.
    PowerUpPartner,
    /// The licensed roles are swapped.
    FallBack,
    /// The licensed roles are swapped, and the primary was not there at the start.
    FallBackWhenUp,
    /// The services of the primary, which is this server, are down.
    StartServicesHere,
    /// The services of the primary, which is the partner, are down.
    StartServicesThere,
    /// A database of the primary, which is this server, is down.
    RebootHere,
    /// A database of the primary, which is the partner, is down.
    RebootThere,
    /// Both are active.
    EndSplit,
    /// The active cannot serve.
    Recover,
    /// The active cannot serve after it took back.
    RecoverThenFallBack,
    /// Neither could serve.
    RecoverBoth,
    /// The partner knows what to do.
    LookAtPartner,
    /// Neither the partner nor the witness answers.
    RestoreEither,
    /// HA is not configured.
    Configure,
    /// The servers do not agree whether HA is configured.
    RestartBoth,
}

impl Advice {
    /// The advice in words; `PARTNER` stands for the partner's name.
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Wait => "wait",
            Self::RestorePartner => {
                "repair the link to PARTNER, or start PARTNER and its daemon; it comes back as standby by itself"
            }
            Self::RestorePrimary => {
                "repair the link to PARTNER, or power up PARTNER and start its daemon; it comes back as standby by itself; when it is healthy: `ipicsha fallback`"
            }
            Self::PowerUpPartner => {
                "repair and power up PARTNER; it comes back as standby by itself; when it is healthy: `ipicsha fallback`"
            }
            Self::FallBack => {
                "none; when the primary is to serve again: `ipicsha fallback` on the active server"
            }
            Self::FallBackWhenUp => {
                "`ipicsha fallback` on the active server when the primary is up with its services able to run"
            }
            Self::StartServicesHere => {
                "mend the services and run `ipicsha service start` here; else reboot this server; then `ipicsha fallback` on PARTNER"
            }
            Self::StartServicesThere => {
                "mend the services and run `ipicsha service start` on PARTNER; else reboot PARTNER; then `ipicsha fallback` here"
            }
            Self::RebootHere => {
                "mend the database or reboot this server; then `ipicsha fallback` on PARTNER"
            }
            Self::RebootThere => {
                "mend the database of PARTNER or reboot PARTNER; then `ipicsha fallback` here"
            }
            Self::EndSplit => {
                "choose who goes on (usually the primary) and run `ipicsha go-standby` on the other, then `ipicsha repair`"
            }
            Self::Recover => {
                "remove the cause named in the alarms, then `ipicsha recover`; else reboot the active server"
            }
            Self::RecoverThenFallBack => {
                "remove the cause named in the alarms, then `ipicsha recover`; else reboot the active server; then `ipicsha fallback`"
            }
            Self::RecoverBoth => {
                "remove the cause named in the alarms, then `ipicsha recover`; else reboot both servers"
            }
            Self::LookAtPartner => "see `ipicsha ha-status` on PARTNER",
            Self::RestoreEither => {
                "repair the link to PARTNER or to the witness: with either this server serves again by itself"
            }
            Self::Configure => "configure HA: `ipicsha configure`",
            Self::RestartBoth => {
                "restart the daemon on both servers: `systemctl restart ipicsha`; if it stays, configure HA anew"
            }
        }
    }
}

/// The advice when this server is `mine` for `reason`, and the partner `partner` (`None`: not
/// reachable).
pub fn advice(mine: NodeState, reason: Reason, partner: Option<NodeState>) -> Advice {
    use NodeState as S;
    match mine {
        S::NotConfigured => Advice::Configure,
        S::Unknown => Advice::RestartBoth,
        S::RunningInFailedMode => failed(reason),
        S::SplitBrain => match partner {
            None => Advice::RestorePartner,
            Some(_) => Advice::EndSplit,
        },
        S::Fenced => Advice::RestoreEither,
        S::Initializing => match partner {
            None => Advice::RestorePartner,
            Some(_) => Advice::Wait,
        },
        S::FailingOver | S::TakingOver | S::TakingBack | S::FallingBack | S::Suspect => {
            Advice::Wait
        }
        S::Normal
        | S::Idle
        | S::RunningInBackupMode
        | S::FailedOver
        | S::FailedOverServicesNotRunning
        | S::BackupActivated
        | S::FailoverAffectedServices => settled(mine, reason, partner),
    }
}

fn failed(reason: Reason) -> Advice {
    match reason {
        Reason::StartOfCriticalServicesFailed => Advice::RecoverThenFallBack,
        Reason::TakeOverUsersFailed | Reason::TakeBackUsersFailed | Reason::Unknown => {
            Advice::RecoverBoth
        }
        Reason::Normal
        | Reason::OnAdminRequest
        | Reason::Initialization
        | Reason::PeerDown
        | Reason::PeerReboot
        | Reason::SplitBrain
        | Reason::CriticalServiceDown
        | Reason::DatabaseFailure
        | Reason::AutomaticFallback
        | Reason::PeerDownDuringInitialization
        | Reason::AutoRecoverDatabaseFailure
        | Reason::AutoRecoverCriticalServiceDown => Advice::Recover,
    }
}

fn settled(mine: NodeState, reason: Reason, partner: Option<NodeState>) -> Advice {
    use NodeState as S;
    let database = reason == Reason::DatabaseFailure;
    let late = Reason::PeerDownDuringInitialization;
    match partner {
        None if mine == S::RunningInBackupMode && reason == Reason::PeerReboot => {
            Advice::PowerUpPartner
        }
        None if mine == S::RunningInBackupMode => Advice::RestorePrimary,
        None => Advice::RestorePartner,
        Some(S::SplitBrain | S::RunningInFailedMode | S::NotConfigured | S::Unknown) => {
            Advice::LookAtPartner
        }
        Some(
            S::Initializing
            | S::Suspect
            | S::FailingOver
            | S::TakingOver
            | S::TakingBack
            | S::FallingBack
            | S::Fenced,
        ) => Advice::Wait,
        Some(S::BackupActivated | S::FailoverAffectedServices) => Advice::None,
        Some(S::FailedOverServicesNotRunning) if reason == late => Advice::FallBackWhenUp,
        Some(S::FailedOverServicesNotRunning) if database => Advice::RebootThere,
        Some(S::FailedOverServicesNotRunning) => Advice::StartServicesThere,
        Some(S::Normal | S::Idle | S::RunningInBackupMode | S::FailedOver) => swapped(mine, reason),
    }
}

/// Both are well; the licensed roles may be swapped.
fn swapped(mine: NodeState, reason: Reason) -> Advice {
    use NodeState as S;
    if mine == S::FailedOverServicesNotRunning {
        return if reason == Reason::DatabaseFailure {
            Advice::RebootHere
        } else {
            Advice::StartServicesHere
        };
    }
    if matches!(mine, S::Normal | S::BackupActivated | S::FailoverAffectedServices) {
        return Advice::None;
    }
    if reason == Reason::PeerDownDuringInitialization {
        Advice::FallBackWhenUp
    } else {
        Advice::FallBack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reasons that change the advice, and one that does not.
    const REASONS: [Reason; 7] = [
        Reason::OnAdminRequest,
        Reason::CriticalServiceDown,
        Reason::DatabaseFailure,
        Reason::PeerReboot,
        Reason::PeerDownDuringInitialization,
        Reason::StartOfCriticalServicesFailed,
        Reason::TakeOverUsersFailed,
    ];

    #[test]
    fn the_whole_matrix_is_known() {
        let mut matrix = String::new();
        for mine in NodeState::ALL {
            for partner in std::iter::once(None).chain(NodeState::ALL.iter().copied().map(Some)) {
                let theirs = partner.map_or_else(|| "(unreachable)".into(), |s| s.to_string());
                let usual = advice(*mine, REASONS[0], partner);
                matrix.push_str(&format!("{mine} | {theirs} | {}\n", usual.text()));
                for reason in REASONS {
                    let special = advice(*mine, reason, partner);
                    if special != usual {
                        let text = special.text();
                        matrix.push_str(&format!("{mine}, {reason} | {theirs} | {text}\n"));
                    }
                }
            }
        }
        insta::assert_snapshot!("advice_matrix", matrix);
    }
}
