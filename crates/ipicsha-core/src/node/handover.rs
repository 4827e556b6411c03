//! Planned switchover and orderly end: the active gives up with nothing lost (spec B5).

use std::time::Duration;

use super::{CONFIRMATION, Failure, Node, PendingHandover, Phase, RESTART_GRACE, RETRY_PAUSE};
use crate::{
    admin::{AdminReply, Refusal},
    clock_guard::Clocks,
    epoch::Epoch,
    id::RequestId,
    io::{Output, ServicesReport, Shutdown},
    license::LicensedRole,
    message::{Control, Goodbye, Report},
    preflight::Check,
    state::{NodeState, Reason, Role},
    time::{MonoTime, Now},
};

impl Node {
    /// The checks of a planned switchover, each with its fix.
    pub(super) fn preflight(&self, now: MonoTime) -> Vec<Check> {
        let partner = self.partner_name();
        let report = self.reachable_report(now);
        let version = report.map_or("unknown", |report| report.version.as_str());
        let not_ready = report.and_then(|report| report.not_ready);
        let ready = not_ready.map_or_else(
            || match report {
                Some(_) => format!("partner {partner} is ready"),
                None => format!("partner {partner} has not said yet how it is"),
            },
            |why| format!("partner {partner} is not ready: {why}"),
        );
        let offset = self.clock.offset_millis().map_or_else(
            || "clocks were not compared yet".into(),
            |ms| {
                format!("clocks differ by {:.2} s (limit 30 s)", ms.unsigned_abs() as f64 / 1000.0)
            },
        );
        let log = self.data.log_used_percent;
        vec![
            Check::require(
                self.connected(now),
                format!(
                    "partner {partner} is {}reachable",
                    if self.connected(now) { "" } else { "not " }
                ),
                "start the daemon on the partner and open port 3444 between the servers",
            ),
            Check::require(
                version == self.config.version,
                format!("versions: {} here, {version} on {partner}", self.config.version),
                "install the same version on both servers",
            ),
            Check::require(
                not_ready.is_none() && report.is_some(),
                ready,
                "see `ipicsha ha-status` on the partner",
            ),
            Check::require(
                self.clock.verdict() == Clocks::Agree,
                offset,
                "correct the clock that is wrong and enable NTP on both servers",
            ),
            Check::require(
                log < 75,
                format!("transaction log is filled to {log} %"),
                "wait until the partner has caught up",
            ),
            Check::advise(
                self.data.unacknowledged < 1000,
                format!("{} changes are queued; they are shipped first", self.data.unacknowledged),
                "wait until the queue is shorter if a pause of some seconds matters",
            ),
            Check::require(
                self.state.split_brain.is_none(),
                if self.state.split_brain.is_none() { "no split brain" } else { "split brain" }
                    .into(),
                "end it first: `ipicsha go-standby` on one server",
            ),
            self.pause_check(),
        ]
    }

    pub(super) fn pause_check(&self) -> Check {
        Check::advise(
            !self.is_paused(),
            if self.is_paused() { "HA is paused" } else { "HA is not paused" }.into(),
            "`ipicsha resume` when the maintenance is over",
        )
    }

    /// What a restart of this daemon must not forget (spec B5).
    fn remember_why_given_up(&mut self, exit: bool, reason: Reason) {
        let primary = self.rank() == Some(LicensedRole::Primary);
        self.state.gave_up = primary && reason == Reason::OnAdminRequest && !exit;
        if reason.is_of_services() {
            self.state.services_down = Some(reason);
            self.services_lost_here = true;
            self.services_well_since = self.last_tick;
        }
        self.services = ServicesReport::default(); // they are being stopped
    }

    pub(super) fn start_handover(
        &mut self,
        now: Now,
        request: Option<RequestId>,
        exit: bool,
        reason: Reason,
    ) {
        self.phase = Phase::HandingOver { request, exit, since: now.mono, reason };
        self.renew_parting();
        self.retry_at = None;
        let limit = self.takeover_after().clamp(Duration::from_secs(2), Duration::from_secs(10));
        self.outputs.push_back(Output::CloseWrites { limit });
    }

    pub(super) fn handle_writes_closed(&mut self, result: Result<(), String>) {
        let Phase::HandingOver { request, exit, since, reason } = self.phase else { return };
        if let Err(cause) = result {
            self.phase = Phase::Active;
            self.retry_at = self.failure.as_ref().map(|_| self.last_tick);
            self.handover_blocked_until = Some(self.last_tick + RETRY_PAUSE);
            if let Some(request) = request {
                self.outputs.push_back(Output::Reply(request, Err(Refusal::RolledBack(cause))));
            } else if reason == Reason::OnAdminRequest && !exit {
                self.refuse_handover(Refusal::RolledBack(cause).to_string());
            }
            if exit {
                self.say_goodbye_and_exit();
            }
            return;
        }
        self.failure = None;
        self.state.role = Role::Standby;
        self.state.role_reason = if exit { Reason::Initialization } else { reason };
        self.remember_why_given_up(exit, reason);
        self.persist();
        self.phase = Phase::Standby;
        let partner_rank = self.rank().map(LicensedRole::other);
        if let Some(rank) = partner_rank {
            let known = self.partner.report.as_ref().map_or(Epoch(0), |report| report.epoch);
            let epoch = self.state.epoch.max(known).next_for(rank);
            let limit = self.takeover_after().max(CONFIRMATION);
            let word = if exit { Reason::PeerReboot } else { reason };
            self.pending_handover =
                Some(PendingHandover { epoch, request, since, limit, reason, word });
            if word.is_automatic() {
                self.note_takeover(epoch, self.last_tick);
            }
            self.repeat_handover();
        }
        if exit {
            self.give_back_right();
            self.leave(Goodbye::Stop);
        }
    }

    /// The last words; no beat may follow them.
    fn leave(&mut self, goodbye: Goodbye) {
        self.outputs.push_back(Output::Send(Control::Goodbye(goodbye)));
        self.outputs.push_back(Output::Exit);
        self.ended = true;
    }

    /// Sends the word again; the partner takes it once.
    pub(super) fn repeat_handover(&mut self) {
        if let Some(pending) = &self.pending_handover {
            let (epoch, reason) = (pending.epoch, pending.word);
            self.outputs.push_back(Output::Send(Control::Handover { epoch, reason }));
        }
    }

    pub(super) fn confirm_handover(&mut self, report: &Report) {
        let opened = !matches!(report.state, NodeState::TakingOver | NodeState::TakingBack);
        let done = |pending: &mut PendingHandover| opened && report.epoch >= pending.epoch;
        let Some(pending) = self.pending_handover.take_if(done) else { return };
        if let Some(request) = pending.request {
            let took = self.last_tick.since(pending.since);
            let reply = if report.state == NodeState::RunningInFailedMode {
                Err(Refusal::PartnerFailed(self.partner_name()))
            } else {
                Ok(AdminReply::FailedOver { took })
            };
            self.outputs.push_back(Output::Reply(request, reply));
        }
    }

    pub(super) fn handover_due(&self) -> Option<MonoTime> {
        self.pending_handover.as_ref().map(|pending| pending.since + pending.limit)
    }

    pub(super) fn fail_pending_handover(&mut self) {
        if let Some(request) = self.pending_handover.take().and_then(|pending| pending.request) {
            self.outputs.push_back(Output::Reply(request, Err(Refusal::Unconfirmed)));
        }
    }

    pub(super) fn handle_shutdown(&mut self, now: Now, shutdown: Shutdown) {
        match (shutdown, &self.phase) {
            (Shutdown::Restart, _) => {
                self.leave(Goodbye::Restart { grace: RESTART_GRACE });
            }
            (Shutdown::Stop, Phase::HandingOver { .. }) => {
                if let Phase::HandingOver { exit, .. } = &mut self.phase {
                    *exit = true;
                }
            }
            (Shutdown::Stop, Phase::Active) => {
                let failed = |check: &Check| check.failure().is_some();
                if self.is_paused() || self.preflight(now.mono).iter().any(failed) {
                    self.say_goodbye_and_exit();
                } else {
                    self.start_handover(now, None, true, Reason::OnAdminRequest);
                }
            }
            (
                Shutdown::Stop,
                Phase::Unconfigured | Phase::Booting { .. } | Phase::Standby | Phase::Activating,
            ) => self.say_goodbye_and_exit(),
        }
    }

    /// The end without a planned switchover. An active one closes its writes first when somebody
    /// is there to take over; alone it stays the last active one and leaves the databases open.
    fn say_goodbye_and_exit(&mut self) {
        // Under policy `witness` nothing renews the right from here on.
        let taken_over = self.role() == Some(Role::Active)
            && (self.needs_right() || self.connected(self.last_tick) && !self.is_paused());
        if taken_over && !self.exit_after_close {
            self.exit_after_close = true;
            self.outputs.push_back(Output::Deactivate);
            return;
        }
        self.leave(Goodbye::Stop);
    }

    pub(super) fn handle_deactivated(&mut self, now: Now, result: Result<(), String>) {
        if self.exit_after_close {
            if result.is_ok() {
                self.give_back_right();
            }
            return self.say_goodbye_and_exit();
        }
        let reply = match &result {
            Ok(()) => Ok(AdminReply::Done),
            Err(cause) => Err(Refusal::NotClosed(cause.clone())),
        };
        if let Some(request) = self.pending_close.take() {
            self.outputs.push_back(Output::Reply(request, reply));
        }
        if self.phase == Phase::Standby {
            let failed = |cause| Failure { reason: Reason::Unknown, cause };
            self.note_outcome(now, result.map_err(failed));
        }
    }
}
