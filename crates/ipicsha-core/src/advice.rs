//! The recommended action for every pair of states (spec B10). One table, no wildcard for this
//! server's state: a new state does not compile without its advice.

use crate::state::NodeState;

/// What an administrator should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// All is well.
    None,
    /// Something is under way.
    Wait,
    /// The partner has to be brought back.
    RestorePartner,
    /// The licensed roles are swapped.
    FallBack,
    /// Both are active.
    EndSplit,
    /// Writes or services are not open.
    MendServices,
    /// The partner knows what to do.
    LookAtPartner,
    /// HA is not configured.
    Configure,
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
            Self::FallBack => {
                "none; when the primary is to serve again: `ipicsha failover` on the active server"
            }
            Self::EndSplit => {
                "choose who goes on (usually the primary) and run `ipicsha go-standby` on the other, then `ipicsha repair`"
            }
            Self::MendServices => {
                "look at the service and the database named in the alarms and remove the cause; it is tried again every 5 s"
            }
            Self::LookAtPartner => "see `ipicsha ha-status` on PARTNER",
            Self::Configure => "configure HA: `ipicsha configure`",
        }
    }
}

/// The advice when this server is `mine` and the partner `partner` (`None`: not reachable).
pub fn advice(mine: NodeState, partner: Option<NodeState>) -> Advice {
    use NodeState as S;
    match mine {
        S::NotConfigured => Advice::Configure,
        S::RunningInFailedMode => Advice::MendServices,
        S::SplitBrain => match partner {
            None => Advice::RestorePartner,
            Some(_) => Advice::EndSplit,
        },
        S::FailingOver | S::TakingOver => Advice::Wait,
        S::Initializing => match partner {
            None => Advice::RestorePartner,
            Some(_) => Advice::Wait,
        },
        S::Suspect => Advice::Wait,
        S::Normal | S::Idle | S::RunningInBackupMode | S::FailedOver => settled(mine, partner),
    }
}

fn settled(mine: NodeState, partner: Option<NodeState>) -> Advice {
    use NodeState as S;
    let swapped = mine != S::Normal;
    match partner {
        None => Advice::RestorePartner,
        Some(S::SplitBrain | S::RunningInFailedMode | S::NotConfigured) => Advice::LookAtPartner,
        Some(S::Initializing | S::Suspect | S::FailingOver | S::TakingOver) => Advice::Wait,
        Some(S::Normal | S::Idle | S::RunningInBackupMode | S::FailedOver) => {
            if swapped {
                Advice::FallBack
            } else {
                Advice::None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_matrix_is_known() {
        let mut matrix = String::new();
        for mine in NodeState::ALL {
            for partner in std::iter::once(None).chain(NodeState::ALL.iter().copied().map(Some)) {
                let theirs = partner.map_or_else(|| "(unreachable)".into(), |s| s.to_string());
                let text = advice(*mine, partner).text();
                matrix.push_str(&format!("{mine} | {theirs} | {text}\n"));
            }
        }
        insta::assert_snapshot!("advice_matrix", matrix);
    }
}
