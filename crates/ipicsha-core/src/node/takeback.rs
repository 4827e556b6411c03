//! A standby asks the active server to hand over to it: the way back of a drill.

use std::time::Duration;

use super::Node;
use crate::{
    admin::{AdminReply, Refusal},
    id::RequestId,
    io::{ActivationFailed, Output},
    message::Control,
    preflight::Check,
    state::{Reason, Role},
    time::{MonoTime, Now},
};

/// How long it may take until this server serves: the other one ships files and records, 10 s each, and
/// services start.
const LIMIT: Duration = Duration::from_secs(60);

/// A handover that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    request: RequestId,
    since: MonoTime,
}

impl Node {
    pub(super) fn take_back(
        &mut self,
        now: Now,
        request: RequestId,
    ) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if self.role() == Some(Role::Active) {
            return Err(Refusal::AlreadyActive);
        }
        self.require_partner(now)?;
        if let Some(why) = self.not_ready(now.mono) {
            return Err(Refusal::NotReady(why.to_string()));
        }
        if self.asked.is_some() {
            return Err(Refusal::Busy);
        }
        self.asked = Some(Asked { request, since: now.mono });
        self.outputs.push_back(Output::Send(Control::AskHandover));
        Ok(None)
    }

    /// The standby wants to be active; the same checks as for an administrator here.
    pub(super) fn asked_to_hand_over(&mut self, now: Now) {
        match self.may_hand_over(now) {
            Ok(()) => self.start_handover(now, None, false, Reason::OnAdminRequest),
            Err(refusal) => self.refuse_handover(refusal.to_string()),
        }
    }

    pub(super) fn refuse_handover(&mut self, cause: String) {
        self.outputs.push_back(Output::Send(Control::HandoverRefused { cause }));
    }

    fn may_hand_over(&self, now: Now) -> Result<(), Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if self.role() != Some(Role::Active) {
            return Err(Refusal::NotActive(self.partner_name()));
        }
        let checks = self.preflight(now.mono);
        if checks.iter().any(|check: &Check| check.failure().is_some()) {
            return Err(Refusal::Preflight(checks));
        }
        Ok(())
    }

    /// The active server did not hand over.
    pub(super) fn handover_refused(&mut self, cause: String) {
        self.answer_asked(Err(Refusal::NotReady(cause)));
    }

    /// This server was activated, or could not serve.
    pub(super) fn answer_taken_back(&mut self, result: &Result<(), ActivationFailed>) {
        let Some(asked) = self.asked else { return };
        let took = self.last_tick.since(asked.since);
        self.answer_asked(match result {
            Ok(()) => Ok(AdminReply::FailedOver { took }),
            Err(failed) => Err(Refusal::FailedAgain(failed.cause.clone())),
        });
    }

    pub(super) fn answer_asked(&mut self, reply: Result<AdminReply, Refusal>) {
        if let Some(asked) = self.asked.take() {
            self.outputs.push_back(Output::Reply(asked.request, reply));
        }
    }

    pub(super) fn asked_until(&self) -> Option<MonoTime> {
        self.asked.map(|asked| asked.since + LIMIT)
    }

    pub(super) fn give_up_asking(&mut self, now: Now) {
        if self.asked_until().is_some_and(|until| now.mono >= until) {
            self.answer_asked(Err(Refusal::Unconfirmed));
        }
    }
}
