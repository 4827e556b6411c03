//! Critical services (spec B3, B4, B11): how long one may be down before the role moves, to whom, and
//! when a server that lost its role because of them may have it back. It does not know what a
//! service is or how it is checked.

use super::{Node, Phase};
use crate::{
    admin::{AdminReply, Refusal},
    io::{ServiceKind, ServicesReport},
    license::LicensedRole,
    preflight::Check,
    state::{NodeState, Reason},
    time::{MonoTime, Now},
};

impl Node {
    pub(super) fn handle_services(&mut self, now: Now, report: ServicesReport) {
        if !report.down.is_empty() || !self.services.down.is_empty() {
            self.services_well_since = now.mono;
        }
        self.services = report;
        // A daemon that has started since the loss is the restart that mends (a reboot).
        if self.services.down.is_empty() && !self.services_lost_here && self.is_settled() {
            self.forget_services_down();
        }
    }

    fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Booting { .. } | Phase::Standby | Phase::Active)
            && self.pending_handover.is_none()
    }

    pub(super) fn forget_services_down(&mut self) {
        if self.state.services_down.take().is_some() {
            self.persist();
        }
    }

    /// The administrator says that the services of this server may run again.
    pub(super) fn services_mended(&mut self) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if let (Phase::Standby, Some(down)) = (&self.phase, self.services.down.first()) {
            let (name, cause) = (down.name.clone(), down.cause.clone());
            return Err(Refusal::ServiceDown { name, cause });
        }
        self.forget_services_down();
        Ok(Some(AdminReply::Done))
    }

    /// Database failures come first: they are the graver ones.
    pub(super) fn services_reason(&self) -> Reason {
        if self.services.down.iter().any(|down| down.kind == ServiceKind::Database) {
            Reason::DatabaseFailure
        } else {
            Reason::CriticalServiceDown
        }
    }

    /// When an active server with a service that is down gives up.
    pub(super) fn services_due(&self) -> Option<MonoTime> {
        self.services_down_since.map(|since| since + self.config.automatic.critical_service_delay)
    }

    /// When a secondary that lost its role is as good as before: nobody need do anything.
    pub(super) fn services_forgotten_at(&self) -> Option<MonoTime> {
        let waits = self.state.services_down.is_some()
            && self.phase == Phase::Standby
            && self.pending_handover.is_none()
            && self.services.down.is_empty()
            && self.rank() == Some(LicensedRole::Secondary);
        waits.then(|| self.services_well_since + self.config.automatic.critical_service_delay)
    }

    pub(super) fn consider_services(&mut self, now: Now) {
        match self.phase {
            Phase::Active if self.services.down.is_empty() => self.services_down_since = None,
            Phase::Active => {
                self.services_down_since.get_or_insert(now.mono);
            }
            Phase::HandingOver { .. } => {}
            Phase::Unconfigured | Phase::Booting { .. } | Phase::Standby | Phase::Activating => {
                self.services_down_since = None;
            }
        }
        if self.services_forgotten_at().is_some_and(|at| now.mono >= at) {
            self.forget_services_down();
        }
        if self.services_due().is_none_or(|due| now.mono < due) {
            return;
        }
        let reason = match (self.rank(), self.services_reason()) {
            (Some(LicensedRole::Secondary), Reason::DatabaseFailure) => {
                Reason::AutoRecoverDatabaseFailure
            }
            (Some(LicensedRole::Secondary), _) => Reason::AutoRecoverCriticalServiceDown,
            (Some(LicensedRole::Primary) | None, reason) => reason,
        };
        if self.may_change_by_itself(now) {
            self.start_handover(now, None, false, reason);
        }
    }

    /// A role change that nobody asked for: only to a partner that is ready, only while nothing is
    /// suspended or held, and to the primary only where it lost its role through no wish of an
    /// administrator.
    pub(super) fn may_change_by_itself(&self, now: Now) -> bool {
        let ready = |report: &crate::message::Report| {
            report.not_ready.is_none()
                && (self.is_primary() || report.state == NodeState::FailedOver)
        };
        let allowed = self.phase == Phase::Active
            && !self.is_paused()
            && self.handover_blocked_until.is_none_or(|until| now.mono >= until)
            && self.takeover_release().is_none()
            && self.require_idle().is_ok();
        let failed = |check: &Check| check.failure().is_some();
        allowed
            && self.partner.report.as_ref().is_some_and(ready)
            && !self.preflight(now.mono).iter().any(failed)
    }
}
