//! Fallback: the primary serves again, asked for or by itself (spec B6, B7).

use super::{Node, Phase};
use crate::{
    admin::{AdminReply, Refusal},
    id::RequestId,
    license::LicensedRole,
    state::{NodeState, Reason, Role},
    time::{MonoTime, Now},
};

impl Node {
    pub(super) fn fallback(
        &mut self,
        now: Now,
        request: RequestId,
        dry_run: bool,
    ) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if self.role() != Some(Role::Active) {
            self.require_partner(now)?;
            return Err(Refusal::NotActive(self.partner_name()));
        }
        if self.rank() != Some(LicensedRole::Secondary) {
            return Err(Refusal::NotInBackup);
        }
        self.switch_over(now, request, dry_run)
    }

    /// When the primary takes back by itself. A primary that gave up on request (Idle) does not.
    pub(super) fn fallback_due(&self) -> Option<MonoTime> {
        Some(self.primary_well_since? + self.config.automatic.fallback_after?)
    }

    pub(super) fn consider_fallback(&mut self, now: Now) {
        let able = self.reachable_report(now.mono).is_some_and(|report| {
            report.state == NodeState::FailedOver && report.not_ready.is_none()
        });
        let waits = self.phase == Phase::Active
            && self.rank() == Some(LicensedRole::Secondary)
            && self.state.split_brain.is_none()
            && able;
        if !waits {
            self.primary_well_since = None;
            return;
        }
        self.primary_well_since.get_or_insert(now.mono);
        if self.fallback_due().is_some_and(|due| now.mono >= due) && self.may_change_by_itself(now)
        {
            self.start_handover(now, None, false, Reason::AutomaticFallback);
        }
    }
}
