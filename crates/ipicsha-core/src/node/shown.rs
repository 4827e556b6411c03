//! State and reason of this server, as a function of what it does and of what the partner last said
//! (spec B10). Nothing is decided by what is shown.

use std::time::Duration;

use super::{Node, Phase};
use crate::{
    license::LicensedRole,
    message::Report,
    state::{NodeState, Reason, Role},
    time::MonoTime,
};

impl Node {
    pub(super) fn state_and_reason(&self, now: MonoTime) -> (NodeState, Reason) {
        let reason = self.state.role_reason;
        match self.phase {
            Phase::Unconfigured => (NodeState::NotConfigured, Reason::Normal),
            _ if self.disagrees(now) => (NodeState::Unknown, Reason::Unknown),
            Phase::Booting { .. } => (NodeState::Initializing, Reason::Initialization),
            // At the first configuration nothing is taken back from anybody.
            Phase::Activating if self.is_primary() && reason != Reason::Normal => {
                (NodeState::TakingBack, reason)
            }
            Phase::Activating => (NodeState::TakingOver, reason),
            Phase::HandingOver { reason, .. } => (self.giving_up(), reason),
            Phase::Active => self.active_state(now),
            Phase::Standby => self.standby_state(now),
        }
    }

    pub(super) fn is_primary(&self) -> bool {
        self.rank() == Some(LicensedRole::Primary)
    }

    fn giving_up(&self) -> NodeState {
        if self.is_primary() { NodeState::FailingOver } else { NodeState::FallingBack }
    }

    fn active_state(&self, now: MonoTime) -> (NodeState, Reason) {
        if self.state.split_brain.is_some() {
            return (NodeState::SplitBrain, Reason::SplitBrain);
        }
        let partner = self.reachable_report(now).map(|report| (report.state, report.reason));
        if let Some(reason) = self.failed_because(now) {
            let known = partner != Some((NodeState::RunningInFailedMode, Reason::Unknown));
            return (NodeState::RunningInFailedMode, if known { reason } else { Reason::Unknown });
        }
        match (self.rank(), partner) {
            (Some(LicensedRole::Secondary), _) => {
                (NodeState::RunningInBackupMode, self.state.role_reason)
            }
            (_, Some((NodeState::FailoverAffectedServices, reason))) => {
                (NodeState::BackupActivated, reason)
            }
            _ => (NodeState::Normal, Reason::Normal),
        }
    }

    /// Why this active server does not serve.
    pub(super) fn failed_because(&self, now: MonoTime) -> Option<Reason> {
        let overdue = self.services_due().is_some_and(|due| now >= due);
        let failure = self.failure.as_ref().map(|failure| failure.reason);
        failure.or_else(|| overdue.then(|| self.services_reason()))
    }

    fn standby_state(&self, now: MonoTime) -> (NodeState, Reason) {
        if let Some(pending) = &self.pending_handover {
            return (self.giving_up(), pending.reason);
        }
        if self.state.fenced {
            return (NodeState::Fenced, Reason::PeerDown);
        }
        if self.suspect_at().is_none_or(|at| now >= at) {
            return (NodeState::Suspect, Reason::PeerDown);
        }
        // A primary that was not relieved and is ready takes back by itself; else nobody can serve.
        let able =
            self.is_primary() && !self.state.gave_up && self.standby_not_ready(now).is_none();
        if let Some(reason) = self.partner_failed.filter(|_| !able) {
            return (NodeState::RunningInFailedMode, reason);
        }
        let (reason, lost) = (self.state.role_reason, self.state.services_down);
        if !self.is_primary() {
            return match lost {
                Some(lost) => (NodeState::FailoverAffectedServices, lost),
                None => (NodeState::Normal, Reason::Normal),
            };
        }
        let shown = lost.filter(|_| reason != Reason::Initialization).unwrap_or(reason);
        if lost.is_none() && self.state.gave_up {
            (NodeState::Idle, reason)
        } else if lost.is_some() || !self.services.down.is_empty() {
            (NodeState::FailedOverServicesNotRunning, shown)
        } else {
            (NodeState::FailedOver, reason)
        }
    }

    /// HA is configured here, and the partner goes on saying that it is not there.
    fn disagrees(&self, now: MonoTime) -> bool {
        let settled = self.count_from + (self.interval() * 2).max(Duration::from_secs(1));
        now >= settled
            && self.connected(now)
            && self.partner.report.as_ref().is_some_and(|report| report.role.is_none())
    }

    /// The partner's report, while it is not lost and has said something since it last was.
    pub(super) fn reachable_report(&self, now: MonoTime) -> Option<&Report> {
        let reachable =
            self.partner.heard.is_some() && !self.lost(now) && self.is_report_fresh(now);
        self.partner.report.as_ref().filter(|_| reachable)
    }

    /// A standby shows that the active cannot serve; once a daemon has restarted meanwhile, the
    /// reason is not known any more.
    pub(super) fn note_partner_failed(&mut self, report: &Report) {
        let failed = report.state == NodeState::RunningInFailedMode;
        if matches!(self.phase, Phase::Booting { .. }) {
            self.started_failed |= failed;
        } else if self.role() == Some(Role::Standby) && !failed {
            self.started_failed = false;
        }
        let restarting = matches!(
            report.state,
            NodeState::Initializing | NodeState::TakingOver | NodeState::TakingBack
        );
        self.partner_failed = match self.partner_failed {
            _ if failed && self.started_failed => Some(Reason::Unknown),
            _ if failed => Some(report.reason),
            Some(_) if restarting => Some(Reason::Unknown),
            _ => None,
        };
    }
}
