//! Who is active after a start, and takeover on silence (spec B2; design: a server starts as
//! standby and becomes active only with the partner's word, or alone when it was the last active
//! one and the initialisation timeout has passed).

use std::time::Duration;

use super::{Failure, Node, Phase, RETRY_PAUSE};
use crate::{
    config::PartitionPolicy,
    epoch::Epoch,
    io::{ActivationFailed, Output, Stage},
    license::LicensedRole,
    message::{Control, Goodbye, Report},
    state::{Reason, Role},
    time::{MonoTime, Now},
};

impl Node {
    /// Compares the partner's role with ours and does what follows.
    pub(super) fn react_to_partner(&mut self, now: Now) {
        let Some(report) = self.partner.report.clone() else { return };
        let (Some(mine), Some(theirs)) = (self.role(), report.role) else { return };
        match (mine, theirs) {
            (Role::Active, Role::Active) => self.notice_split(now),
            (Role::Active, Role::Standby) => self.lead(&report),
            (Role::Standby, Role::Active) => self.follow(&report),
            (Role::Standby, Role::Standby) => self.settle_two_standbys(now, &report),
        }
    }

    /// The partner is active: this server follows it.
    fn follow(&mut self, report: &Report) {
        self.end_split();
        let booting = matches!(self.phase, Phase::Booting { .. });
        if booting {
            self.phase = Phase::Standby;
            self.state.role = Role::Standby;
            self.state.role_reason = Reason::Initialization;
        }
        let fenced = std::mem::take(&mut self.state.fenced);
        if booting || fenced || report.epoch > self.state.epoch {
            self.state.epoch = self.state.epoch.max(report.epoch);
            self.persist();
        }
        if booting {
            self.outputs.push_back(Output::Deactivate);
        }
        self.confirm_handover(report);
    }

    /// Both wait. The one that knows more becomes active, with the other's word.
    fn settle_two_standbys(&mut self, now: Now, report: &Report) {
        let (Some(mine), Some(theirs)) = (self.rank(), report.licensed) else { return };
        if let Some(pending) = &mut self.pending_handover {
            if report.epoch >= pending.epoch {
                // It took the word, and its daemon restarted before it was active.
                pending.epoch = report.epoch.next_for(theirs);
                pending.word = Reason::Initialization;
            }
            return self.repeat_handover();
        }
        let weight = |epoch: Epoch, was_active: bool, rank: LicensedRole| {
            (epoch, was_active, rank == LicensedRole::Primary)
        };
        let ours = weight(self.state.epoch, self.was_active(), mine);
        if ours < weight(report.epoch, report.was_active, theirs)
            && !self.may_be_written_to(now.mono)
        {
            let epoch = report.epoch.max(self.state.epoch).next_for(theirs);
            let reason = Reason::Initialization;
            self.outputs.push_back(Output::Send(Control::Handover { epoch, reason }));
        }
    }

    /// The right that its daemon had before it ended may not have lapsed: applications write on by it.
    fn may_be_written_to(&self, now: MonoTime) -> bool {
        let Phase::Booting { since } = self.phase else { return false };
        let open = self.was_active() || !self.data.measured || self.data.writes_open > 0;
        self.needs_right() && open && now < since + self.patience()
    }

    /// The partner's word that this server is to be active.
    pub(super) fn handle_handover(&mut self, now: Now, epoch: Epoch, reason: Reason) {
        let waiting = matches!(self.phase, Phase::Booting { .. } | Phase::Standby);
        let ours = self
            .rank()
            .is_some_and(|rank| Epoch(epoch.0.saturating_sub(1)).next_for(rank) == epoch);
        // Both gave their word when one of them had not heard the other's yet: the first one counts.
        let gave = self.pending_handover.is_some();
        let may = self.may_follow_word(now.mono) && !gave;
        if waiting && ours && may && epoch > self.state.epoch {
            // Only of a server that was active has anything been waited for.
            let drained = reason != Reason::Initialization;
            if reason.is_automatic() {
                self.note_takeover(epoch, now.mono);
            }
            let restarted = matches!(self.phase, Phase::Booting { .. });
            let reason = if restarted { Reason::Initialization } else { reason };
            self.activate(now, epoch, reason, drained);
        }
    }

    /// Takes the active role: persisted before anybody hears of it or any write opens.
    fn activate(&mut self, now: Now, epoch: Epoch, reason: Reason, drained: bool) {
        // A daemon that starts again and was active goes on with what its databases never stopped taking.
        let goes_on = matches!(self.phase, Phase::Booting { .. })
            && self.was_active()
            && !self.state.fenced
            && matches!(reason, Reason::Initialization | Reason::PeerDownDuringInitialization);
        if !goes_on || self.state.activated.is_none() {
            self.state.activated = Some((now.wall, reason));
        }
        self.state.role = Role::Active;
        self.state.role_reason = reason;
        self.state.epoch = epoch;
        self.state.gave_up = false;
        self.state.fenced = false;
        self.state.yields = None;
        self.state.services_down = None;
        if self.partner.heard.is_some() {
            self.state.last_contact = self.partner.heard_wall;
        }
        self.persist();
        self.failure = None;
        self.retry_at = None;
        self.phase = Phase::Activating;
        self.tell_right(now);
        self.outputs.push_back(Output::Activate { drained });
        self.fail_pending_handover();
        self.next_beat = now.mono;
    }

    pub(super) fn handle_activated(&mut self, now: Now, result: Result<(), ActivationFailed>) {
        self.reopening = false;
        self.answer_recover(&result);
        self.answer_taken_back(&result);
        if result.is_ok() {
            self.started_failed = false;
        }
        // What made it fail first stays the reason while it is tried again.
        let first = self.failed_because(now.mono).filter(|_| self.phase == Phase::Active);
        let result = result.map_err(|failed| Failure {
            reason: first.unwrap_or_else(|| self.failed_reason(failed.stage)),
            cause: failed.cause,
        });
        if self.phase == Phase::Activating {
            self.phase = Phase::Active;
        }
        if self.phase == Phase::Active {
            self.note_outcome(now, result);
        }
    }

    fn failed_reason(&self, stage: Stage) -> Reason {
        match stage {
            _ if self.started_failed => Reason::Unknown,
            Stage::Services => Reason::StartOfCriticalServicesFailed,
            Stage::Writes if self.rank() == Some(LicensedRole::Primary) => {
                Reason::TakeBackUsersFailed
            }
            Stage::Writes => Reason::TakeOverUsersFailed,
        }
    }

    /// Remembers how a role change ended; one that went wrong is tried again.
    pub(super) fn note_outcome(&mut self, now: Now, result: Result<(), Failure>) {
        self.failure = result.err();
        self.retry_at = self.failure.as_ref().map(|_| now.mono + RETRY_PAUSE);
    }

    pub(super) fn consider_retry(&mut self, now: Now) {
        let wrong = match self.phase {
            Phase::Active => self.data.writes_closed > 0 || self.failed_because(now.mono).is_some(),
            Phase::Standby => self.data.writes_open > 0,
            Phase::Unconfigured
            | Phase::Booting { .. }
            | Phase::Activating
            | Phase::HandingOver { .. } => return,
        };
        if self.retry_at.is_none() && wrong {
            self.retry_at = Some(now.mono + RETRY_PAUSE);
        }
        if self.retry_at.take_if(|at| now.mono >= *at).is_none()
            || !(wrong || self.failure.is_some())
            || self.exit_after_close
        {
            return;
        }
        if self.phase == Phase::Active {
            self.reopen();
        } else {
            self.outputs.push_back(Output::Deactivate);
        }
    }

    /// Opens the writes and starts the services once more. The role is not given up for nothing
    /// meanwhile: they would open on a standby.
    pub(super) fn reopen(&mut self) {
        self.reopening = true;
        self.outputs.push_back(Output::Activate { drained: false });
    }

    pub(super) fn next_epoch(&self) -> Option<Epoch> {
        let known = self.partner.report.as_ref().map_or(Epoch(0), |report| report.epoch);
        let known = known.max(self.known_by_witness());
        self.rank().map(|rank| self.state.epoch.max(known).next_for(rank))
    }

    /// Activates under the next epoch of this server; `false` without a licensed role.
    pub(super) fn activate_next(&mut self, now: Now, reason: Reason) -> bool {
        let epoch = self.next_epoch();
        if let Some(epoch) = epoch {
            self.activate(now, epoch, reason, false);
        }
        epoch.is_some()
    }

    /// When a starting server that was active may go on alone.
    pub(super) fn boot_due(&self) -> Option<MonoTime> {
        let Phase::Booting { since } = self.phase else { return None };
        let alone_since = self.partner.heard.unwrap_or_default().max(since);
        let waits = match (self.needs_right(), self.partner.heard) {
            (false, _) => self.config.initialization_timeout,
            // The partner may have been told that it is waited for.
            (true, Some(_)) => self.config.initialization_timeout.max(self.patience()),
            // The witness knows whether anybody else was active meanwhile.
            (true, None) => (self.interval() * 2).max(Duration::from_secs(1)),
        };
        let able = self.was_active()
            && self.rank().is_some()
            && !self.was_outrun()
            && self.state.yields.is_none();
        able.then(|| alone_since + waits)
    }

    pub(super) fn consider_boot(&mut self, now: Now) {
        if self.boot_due().is_some_and(|due| now.mono >= due) && self.is_granted(now) {
            self.activate_next(now, Reason::PeerDownDuringInitialization);
        }
    }

    /// Why this standby may not take over by itself when the active is lost.
    pub(super) fn takeover_blocked(&self) -> Option<&'static str> {
        if self.is_paused() && !self.state.fenced {
            return Some("HA is paused");
        }
        if self.policy() == PartitionPolicy::Manual {
            return Some("the partition policy is `manual`");
        }
        if self.state.yields.is_some() {
            return Some("the partner was ending HA, and may go on alone");
        }
        if self.was_outrun() {
            return Some("the partner was active after this server, and is not heard");
        }
        if !self.data.synced && !self.state.fenced {
            return Some("the databases here were never in sync with the partner's");
        }
        if self.rank().is_none() {
            return Some("the licenses give this server no role");
        }
        None
    }

    /// When this standby takes over if nothing is heard (spec B2).
    pub(super) fn takeover_due(&self) -> Option<MonoTime> {
        if self.phase != Phase::Standby || self.takeover_blocked().is_some() {
            return None;
        }
        // A goodbye alone does not say that its writes are closed.
        if matches!(self.partner.goodbye, Some(Goodbye::Stop)) && !self.needs_right() {
            return Some(self.last_tick);
        }
        if self.state.fenced {
            return self.silent_at(); // nobody else had the role meanwhile
        }
        let later = |at: MonoTime, limit: Option<MonoTime>| limit.map_or(at, |it| at.max(it));
        self.silent_at().map(|at| later(later(at, self.grace_until), self.takeover_release()))
    }

    pub(super) fn consider_takeover(&mut self, now: Now) {
        if self.takeover_due().is_some_and(|due| now.mono >= due) && self.is_granted(now) {
            let stopped = matches!(self.partner.goodbye, Some(Goodbye::Stop));
            let counts = !stopped && !self.state.fenced;
            let reason = if stopped { Reason::PeerReboot } else { Reason::PeerDown };
            if self.activate_next(now, reason) && counts {
                self.note_takeover(self.state.epoch, now.mono);
            }
        }
    }
}
