//! How HA ends under policy `witness`, on a server whose application goes on.
//!
//! Decides when its databases need no right any more: the partner has promised not to take over, or the
//! witness keeps the role for this server without end. Must not know how the witness does so.
//!
//! - **Invariant**: a promise is durable before the partner hears of it, and lasts until the partner is
//!   heard to have ended HA, or to want it no more.
//! - **Invariant**: `kept` is durable before the witness is asked to keep the role, and until it is known
//!   not to.

use super::{
    CONFIRMATION, Node, Phase,
    right::{About, PING},
};
use crate::{
    admin::{AdminReply, Refusal},
    id::{PartingId, RequestId},
    io::Output,
    message::Report,
    state::Role,
    time::{MonoTime, Now},
};

/// HA is to end on this server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parting {
    /// Who waits; nobody when the log is full.
    request: Option<RequestId>,
    since: MonoTime,
    number: u64,
    /// The witness was asked in vain.
    unanswered: bool,
}

impl Node {
    /// Whether HA may end here at once.
    pub(super) fn may_part(&mut self, now: Now, request: Option<RequestId>) -> bool {
        if !self.needs_right() {
            return true;
        }
        if self.role() != Some(Role::Active) && request.is_none() {
            return false; // the active one ends it
        }
        if self.right.parting.is_none_or(|parting| parting.request.is_none() && request.is_some()) {
            self.right.questions += 1;
            let number = self.right.questions;
            self.right.parting =
                Some(Parting { request, since: now.mono, number, unanswered: false });
            self.next_beat = now.mono;
        }
        false
    }

    pub(super) fn is_parting(&self) -> bool {
        self.right.parting.is_some()
    }

    /// An administrator waits for it.
    pub(super) fn is_asked_to_part(&self) -> bool {
        self.right.parting.is_some_and(|parting| parting.request.is_some())
    }

    /// What the partner is to yield to. One that is not active may have given it its word to be.
    pub(super) fn asks_to_part(&self) -> Option<PartingId> {
        let parting = self.right.parting.filter(|_| self.phase == Phase::Active)?;
        Some(PartingId { boot: self.boot, number: parting.number })
    }

    /// Not in the middle of a change of roles; and the services of a fenced server were stopped: first it
    /// has to be active again.
    fn can_part(&self) -> bool {
        let changes = matches!(self.phase, Phase::Activating | Phase::HandingOver { .. });
        self.is_parting() && !changes && !self.state.fenced
    }

    /// Nothing is written here, whatever becomes of the right.
    fn is_closed(&self) -> bool {
        self.phase == Phase::Standby && self.data.measured && self.data.writes_open == 0
    }

    /// The partner wants to end HA: this server promises not to take over until it hears that the partner
    /// has done so, or does not want it any more.
    pub(super) fn yield_to(&mut self, now: Now, report: &Report) {
        let agreed = report.ha.version == self.state.ha.version && self.state.ha.config.is_some();
        let still = |id: &PartingId| self.state.yields == Some(*id) || agreed && self.is_closed();
        let yields = report.parting.filter(still);
        if yields != self.state.yields {
            self.state.yields = yields;
            self.persist();
            self.next_beat = now.mono;
        }
    }

    /// The partner does not take over any more: nothing is needed of the witness.
    pub(super) fn hear_yielding(&mut self, now: Now, report: &Report) {
        let agreed = report.ha.version == self.state.ha.version;
        if agreed && report.yields.is_some() && report.yields == self.asks_to_part() {
            self.part(now);
        }
    }

    /// A server that is not active gets the role from the witness to end HA with it; as for a takeover
    /// the partner's right by the answers from here has to be over.
    pub(super) fn ask_to_part(&mut self, now: MonoTime) {
        if now >= self.alone_at()
            && self.state.yields.is_none()
            && let Some(epoch) = self.next_epoch()
        {
            self.ask_witness(now, epoch);
        }
    }

    /// A partner that is there yields within an interval; else the witness is asked.
    pub(super) fn wants_keeping(&self, now: MonoTime) -> bool {
        let late = |parting: &Parting| now >= parting.since + self.interval();
        let waited = |parting: &Parting| late(parting) || !self.connected(now);
        self.can_part() && self.right.parting.as_ref().is_some_and(waited)
    }

    fn alone_at(&self) -> MonoTime {
        self.silence_starts() + self.patience()
    }

    /// The witness may keep the role from now on.
    pub(super) fn note_kept(&mut self) {
        if !self.state.kept {
            self.state.kept = true;
            self.persist();
        }
    }

    /// It does not, whatever it was asked before.
    pub(super) fn note_not_kept(&mut self) {
        if std::mem::take(&mut self.state.kept) {
            self.persist();
        }
    }

    pub(super) fn note_unanswered(&mut self, about: About) {
        if let Some(parting) = self.right.parting.as_mut().filter(|_| about == About::Keep) {
            parting.unanswered = true;
        }
    }

    /// The witness keeps the role; to a server that is not active that means nothing once the partner was
    /// heard again.
    pub(super) fn part_with_witness(&mut self, now: Now) {
        if self.role() == Some(Role::Active) || now.mono >= self.alone_at() {
            self.part(now);
        }
    }

    fn part(&mut self, now: Now) {
        if !self.can_part() {
            return;
        }
        match self.right.parting.take() {
            Some(Parting { request: Some(request), .. }) => self.change_setting(now, request, None),
            Some(Parting { request: None, .. }) => self.end_by_log(now),
            None => {}
        }
    }

    /// HA ended here by the partner's hand while it was about to.
    pub(super) fn note_log_of(&mut self, now: Now, parting: Option<Parting>) {
        if parting.is_some_and(|parting| parting.request.is_none()) {
            self.note_log_full(now);
        }
    }

    /// To be called once that is durable.
    pub(super) fn answer_parting(&mut self, parting: Option<Parting>) {
        if let Some(request) = parting.and_then(|parting| parting.request) {
            self.outputs.push_back(Output::Reply(request, Ok(AdminReply::Done)));
        }
    }

    /// The role is about to change: what the partner has promised until now does not count any more.
    pub(super) fn renew_parting(&mut self) {
        if let Some(parting) = &mut self.right.parting {
            self.right.questions += 1;
            parting.number = self.right.questions;
        }
    }

    /// Whoever waits for it is told why.
    pub(super) fn give_up_parting(&mut self, cause: &str) {
        if let Some(request) = self.right.parting.take().and_then(|parting| parting.request) {
            let refusal = Refusal::NoRight(cause.to_owned());
            self.outputs.push_back(Output::Reply(request, Err(refusal)));
        }
    }

    /// HA goes on if it was to end because of the log.
    pub(super) fn log_has_room(&mut self) {
        self.right.parting.take_if(|parting| parting.request.is_none());
    }

    /// Gives up what cannot be: neither the partner nor the witness lets HA end here.
    pub(super) fn consider_parting(&mut self, now: Now) {
        let Some(parting) = self.right.parting else { return };
        let late = self.parting_limit().is_some_and(|limit| now.mono >= limit);
        let unanswered = parting.unanswered || self.state.fenced && self.right.problem.is_some();
        let in_vain = late || unanswered && !self.connected(now.mono);
        match parting.request {
            Some(_) if in_vain => {
                let cause = self.right.problem.clone();
                self.give_up_parting(cause.as_deref().unwrap_or("the other server has it"));
            }
            // A full log goes on waiting where it would block the application.
            None if self.role() != Some(Role::Active) => self.right.parting = None,
            Some(_) | None => {}
        }
    }

    fn parting_limit(&self) -> Option<MonoTime> {
        let limit = self.takeover_after() * 2 + CONFIRMATION;
        self.right.parting.as_ref().map(|parting| parting.since + limit)
    }

    /// When a parting has to be looked at again.
    pub(super) fn parting_due(&self) -> Option<MonoTime> {
        let parting = self.right.parting.as_ref()?;
        let begins = parting.since + self.interval();
        let dues = [Some(begins), self.parting_limit(), Some(self.alone_at())];
        dues.into_iter().flatten().filter(|at| *at > self.last_tick).min()
    }

    /// What the witness keeps is given back once nobody needs it: the partner knows that HA has ended, or
    /// HA began anew. An active server just asks for a limited time.
    pub(super) fn consider_kept(&mut self, now: Now) {
        if !self.state.kept {
            return;
        }
        let knows =
            |report: &Report| report.role.is_none() && report.ha.version >= self.state.ha.version;
        let free = match self.role() {
            None => self.partner.report.as_ref().is_some_and(knows),
            Some(Role::Active) => !self.needs_right(),
            Some(Role::Standby) => {
                self.is_closed() && !self.is_parting() && !self.wants_role(now.mono)
            }
        };
        if free && let Some(number) = self.next_question(now.mono, About::Leaving, PING) {
            self.right.lease = None;
            self.outputs.push_back(Output::LeaveWitness { number: Some(number) });
        }
    }
}
