//! The state machine as one table: which change of state can be seen, and why (spec B10). Nothing is
//! decided by it; the simulation checks that no other change happens.

use std::fmt::Write;

use crate::state::NodeState as S;

/// Changes to one state for one cause.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    /// From any of these.
    pub from: &'static [S],
    /// To this one.
    pub to: &'static [S],
    /// Why.
    pub cause: &'static str,
}

const FOLLOWING: &[S] = &[
    S::Normal,
    S::Idle,
    S::FailedOver,
    S::FailedOverServicesNotRunning,
    S::FailoverAffectedServices,
];
const SERVING: &[S] = &[S::Normal, S::RunningInBackupMode, S::BackupActivated];
const CONFIGURED: &[S] = &[
    S::Initializing,
    S::Normal,
    S::Suspect,
    S::FailingOver,
    S::TakingOver,
    S::Idle,
    S::RunningInBackupMode,
    S::FailedOver,
    S::RunningInFailedMode,
    S::SplitBrain,
    S::FailedOverServicesNotRunning,
    S::TakingBack,
    S::FallingBack,
    S::BackupActivated,
    S::FailoverAffectedServices,
    S::Fenced,
];

/// Every change that can be seen.
pub const CHANGES: &[Changes] = &[
    Changes {
        from: &[S::NotConfigured],
        to: &[S::Initializing],
        cause: "the daemon starts in a configured pair",
    },
    Changes {
        from: &[S::NotConfigured],
        to: &[S::TakingOver, S::Normal, S::FailedOver, S::Suspect],
        cause: "HA is configured",
    },
    Changes {
        from: &[S::NotConfigured],
        to: &[S::RunningInFailedMode, S::FailedOverServicesNotRunning],
        cause: "HA is configured while services do not run",
    },
    Changes { from: &[S::Initializing], to: FOLLOWING, cause: "the partner is active" },
    Changes {
        from: &[S::Initializing],
        to: &[S::RunningInFailedMode],
        cause: "the partner is active and cannot serve",
    },
    Changes {
        from: &[S::Initializing],
        to: &[S::TakingOver, S::TakingBack],
        cause: "the partner's word, or the initialisation timeout",
    },
    Changes {
        from: &[
            S::Normal,
            S::Idle,
            S::FailedOver,
            S::FailedOverServicesNotRunning,
            S::FailoverAffectedServices,
            S::RunningInFailedMode,
            S::FailingOver,
            S::FallingBack,
            S::SplitBrain,
            S::Initializing,
        ],
        to: &[S::Suspect],
        cause: "the active misses heartbeats",
    },
    Changes { from: &[S::Suspect], to: FOLLOWING, cause: "the active is heard again" },
    Changes {
        from: &[
            S::Suspect,
            S::Normal,
            S::FailoverAffectedServices,
            S::FallingBack,
            S::RunningInFailedMode,
        ],
        to: &[S::TakingOver],
        cause: "the active is silent for D, or gave its word",
    },
    Changes {
        from: &[
            S::Suspect,
            S::Idle,
            S::FailedOver,
            S::FailedOverServicesNotRunning,
            S::FailingOver,
            S::RunningInFailedMode,
        ],
        to: &[S::TakingBack],
        cause: "the active is silent for D, or gave its word",
    },
    Changes {
        from: &[S::TakingOver, S::TakingBack],
        to: SERVING,
        cause: "writes are open and services run",
    },
    Changes {
        from: &[S::TakingOver, S::TakingBack],
        to: &[S::RunningInFailedMode],
        cause: "writes or services failed",
    },
    Changes {
        from: SERVING,
        to: &[S::RunningInFailedMode],
        cause: "a critical service is down for its delay and the partner is not ready",
    },
    Changes {
        from: &[
            S::Idle,
            S::FailedOver,
            S::FailedOverServicesNotRunning,
            S::FailoverAffectedServices,
            S::Suspect,
        ],
        to: &[S::RunningInFailedMode],
        cause: "the active cannot serve",
    },
    Changes {
        from: &[S::RunningInFailedMode],
        to: &[
            S::Normal,
            S::RunningInBackupMode,
            S::BackupActivated,
            S::Idle,
            S::FailedOver,
            S::FailedOverServicesNotRunning,
            S::FailoverAffectedServices,
        ],
        cause: "what failed works again",
    },
    Changes {
        from: &[S::Normal, S::BackupActivated, S::RunningInFailedMode],
        to: &[S::FailingOver],
        cause: "failover, a critical service or database down for its delay, or an orderly stop",
    },
    Changes {
        from: &[S::RunningInBackupMode, S::RunningInFailedMode],
        to: &[S::FallingBack],
        cause: "fallback, automatic fallback, auto-recovery, or an orderly stop",
    },
    Changes {
        from: &[S::FailingOver],
        to: &[S::Idle, S::FailedOver, S::FailedOverServicesNotRunning, S::RunningInFailedMode],
        cause: "the secondary is active, or does not confirm it",
    },
    Changes {
        from: &[S::FallingBack],
        to: &[S::FailoverAffectedServices, S::RunningInFailedMode],
        cause: "the primary is active, or does not confirm it",
    },
    Changes {
        from: &[S::FailingOver, S::FallingBack],
        to: SERVING,
        cause: "rolled back; or the primary is active and all is well",
    },
    Changes {
        from: &[
            S::Normal,
            S::RunningInBackupMode,
            S::BackupActivated,
            S::RunningInFailedMode,
            S::TakingOver,
            S::TakingBack,
            S::FailingOver,
            S::FallingBack,
        ],
        to: &[S::SplitBrain],
        cause: "the partner is active too",
    },
    Changes {
        from: &[S::SplitBrain],
        to: &[S::RunningInBackupMode, S::BackupActivated, S::RunningInFailedMode],
        cause: "the partner stepped back",
    },
    Changes {
        from: &[S::SplitBrain],
        to: &[S::FailingOver, S::FallingBack],
        cause: "the partner stepped back, and a service is down for its delay",
    },
    Changes {
        from: &[S::SplitBrain],
        to: FOLLOWING,
        cause: "go-standby here or there, or one side wrote nothing",
    },
    Changes {
        from: &[
            S::Normal,
            S::RunningInBackupMode,
            S::BackupActivated,
            S::RunningInFailedMode,
            S::TakingOver,
            S::TakingBack,
            S::FailingOver,
            S::FallingBack,
            S::SplitBrain,
        ],
        to: &[S::Fenced],
        cause: "policy `witness`: neither the partner nor the witness answers",
    },
    Changes {
        from: &[S::Fenced],
        to: &[S::TakingOver, S::TakingBack],
        cause: "the witness grants the role again, or the partner gave its word",
    },
    Changes { from: &[S::Fenced], to: FOLLOWING, cause: "the partner is active" },
    Changes {
        from: &[S::Fenced],
        to: &[S::RunningInFailedMode],
        cause: "the partner is active and cannot serve",
    },
    Changes {
        from: &[S::FailedOver],
        to: &[S::FailedOverServicesNotRunning],
        cause: "its services could not run",
    },
    Changes {
        from: &[S::FailedOverServicesNotRunning],
        to: &[S::FailedOver],
        cause: "service start, or a restart that finds them well",
    },
    Changes {
        from: &[S::Normal],
        to: &[S::BackupActivated],
        cause: "the secondary gave up because of its services",
    },
    Changes {
        from: &[S::BackupActivated, S::FailoverAffectedServices],
        to: &[S::Normal],
        cause: "the services of the secondary are well",
    },
    Changes {
        from: CONFIGURED,
        to: &[S::NotConfigured],
        cause: "unconfigure, or a transaction log at 90 %",
    },
    Changes {
        from: CONFIGURED,
        to: &[S::Unknown],
        cause: "the partner says that HA is not configured",
    },
    Changes { from: &[S::Unknown], to: CONFIGURED, cause: "the servers agree again" },
    Changes { from: &[S::Unknown], to: &[S::NotConfigured], cause: "unconfigure" },
];

/// The table has this change.
pub fn is_known(from: S, to: S) -> bool {
    from == to
        || CHANGES.iter().any(|change| change.from.contains(&from) && change.to.contains(&to))
}

/// The machine as a Mermaid state diagram. Changes that all configured states share are one note.
pub fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n");
    let id = |state: S| state.to_string().replace(' ', "");
    for state in S::ALL {
        let _ = writeln!(text, "    state \"{state}\" as {}", id(*state)); // a String takes it all
    }
    text.push_str("    [*] --> NotConfigured\n");
    let shared = |states: &[S]| states == CONFIGURED;
    for change in CHANGES {
        if shared(change.from) || shared(change.to) {
            let (states, way) =
                if shared(change.from) { (change.to, "from") } else { (change.from, "to") };
            for state in states {
                let (id, cause) = (id(*state), change.cause);
                let note = format!("{way} any configured state: {cause}");
                let _ = writeln!(text, "    note right of {id}: {note}"); // as above
            }
            continue;
        }
        for (from, to) in
            change.from.iter().flat_map(|from| change.to.iter().map(move |to| (from, to)))
        {
            if from != to {
                let (from, to, cause) = (id(*from), id(*to), change.cause);
                let _ = writeln!(text, "    {from} --> {to}: {cause}"); // as above
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_can_be_reached_and_left() {
        for state in S::ALL {
            let touches = |states: &[S]| states.contains(state);
            assert!(CHANGES.iter().any(|change| touches(change.from)), "{state} has no exit");
            assert!(CHANGES.iter().any(|change| touches(change.to)), "{state} is never reached");
        }
        assert!(!is_known(S::Idle, S::RunningInBackupMode));
    }

    #[test]
    fn the_diagram_is_known() {
        insta::assert_snapshot!("mermaid", mermaid());
    }
}
