//! Manual recovery (spec B8): what failed is started again, on both servers at once.

use super::{Node, Phase};
use crate::{
    admin::{AdminReply, Refusal},
    id::RequestId,
    io::{ActivationFailed, Output},
    message::Control,
    state::NodeState,
    time::Now,
};

impl Node {
    pub(super) fn recover(
        &mut self,
        now: Now,
        request: RequestId,
    ) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if self.state_and_reason(now.mono).0 != NodeState::RunningInFailedMode {
            return Err(Refusal::NotFailed);
        }
        if self.pending_recover.is_some() {
            return Err(Refusal::Busy);
        }
        self.outputs.push_back(Output::Send(Control::Recover));
        self.retry_now(now);
        if self.phase == Phase::Active {
            self.pending_recover = Some(request);
            return Ok(None);
        }
        Ok(Some(AdminReply::Recovering))
    }

    /// Starts again what failed here; without a failure nothing happens.
    pub(super) fn retry_now(&mut self, now: Now) {
        match self.phase {
            Phase::Active if self.failed_because(now.mono).is_some() => {
                self.retry_at = None;
                self.reopen();
            }
            Phase::Standby => {
                if self.failure.is_some() {
                    self.retry_at = Some(now.mono);
                }
                if self.partner_failed.is_some() && self.services.down.is_empty() {
                    self.forget_services_down();
                }
            }
            Phase::Unconfigured
            | Phase::Booting { .. }
            | Phase::Activating
            | Phase::Active
            | Phase::HandingOver { .. } => {}
        }
    }

    pub(super) fn answer_recover(&mut self, result: &Result<(), ActivationFailed>) {
        if let Some(request) = self.pending_recover.take() {
            let reply = match result {
                Ok(()) => Ok(AdminReply::Done),
                Err(failed) => Err(Refusal::FailedAgain(failed.cause.clone())),
            };
            self.outputs.push_back(Output::Reply(request, reply));
        }
    }
}
