//! How HA ends under policy `witness`, on a server whose application goes on.
//!
//! Decides when its databases need no right any more: the partner, which would take over, has ended HA
//! itself, or the witness keeps the role for this server without end. Must not know how the witness does
//! so.
//!
//! - **Invariant**: `kept` is durable before the witness is asked to keep the role, and until it is known
//!   not to.

use super::{
    CONFIRMATION, Node, Phase,
    right::{About, PING},
};
use crate::{
    admin::{AdminReply, Refusal},
    id::RequestId,
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
    /// The partner was there to hear of it.
    told: bool,
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
            // By itself a server that may be written still does not open for good.
            return self.connected(now.mono) && self.is_closed();
        }
        if self.right.parting.is_none() {
            let (since, told) = (now.mono, self.connected(now.mono));
            self.right.parting = Some(Parting { request, since, told, unanswered: false });
            self.next_beat = now.mono;
        }
        false
    }

    pub(super) fn is_parting(&self) -> bool {
        self.right.parting.is_some()
    }

    /// Whether the partner is to end HA: not in the middle of a change of roles.
    pub(super) fn asks_to_part(&self) -> bool {
        let changes = matches!(self.phase, Phase::Activating | Phase::HandingOver { .. });
        self.is_parting() && !changes
    }

    /// Nothing is written here, whatever becomes of the right.
    fn is_closed(&self) -> bool {
        self.phase == Phase::Standby && self.data.measured && self.data.writes_open == 0
    }

    /// The partner wants HA to end: this server, which would take over, does so first.
    pub(super) fn follow_parting(&mut self, now: Now, report: &Report) {
        let agreed = report.ha.version == self.state.ha.version && self.state.ha.config.is_some();
        if report.parting && agreed && self.is_closed() {
            self.put_setting(now, None);
        }
    }

    /// A server that is not active gets the role from the witness to end HA with it; as for a takeover
    /// the partner's right by the answers from here has to be over.
    pub(super) fn ask_to_part(&mut self, now: MonoTime) {
        if now >= self.alone_at()
            && let Some(epoch) = self.next_epoch()
        {
            self.ask_witness(now, epoch);
        }
    }

    /// A partner that is there ends HA within an interval; else the witness is asked.
    pub(super) fn wants_keeping(&self, now: MonoTime) -> bool {
        let late = |parting: &Parting| now >= parting.since + self.interval();
        let waited = |parting: &Parting| late(parting) || !self.connected(now);
        self.asks_to_part() && self.right.parting.as_ref().is_some_and(waited)
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

    /// The witness keeps the role.
    pub(super) fn part(&mut self, now: Now) {
        if !self.asks_to_part() {
            return; // it is asked again
        }
        match self.right.parting.take() {
            Some(Parting { request: Some(request), .. }) => self.change_setting(now, request, None),
            Some(Parting { request: None, .. }) => self.end_by_log(now),
            None => {}
        }
    }

    /// HA ends here, whoever ended it.
    pub(super) fn end_parting(&mut self, now: Now) {
        match self.right.parting.take() {
            Some(Parting { request: Some(request), .. }) => {
                self.outputs.push_back(Output::Reply(request, Ok(AdminReply::Done)));
            }
            Some(Parting { request: None, .. }) => self.note_log_full(now),
            None => {}
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
        let in_vain = late || parting.unanswered && !self.connected(now.mono);
        match parting.request {
            Some(request) if in_vain => {
                let cause = self.right.problem.as_deref().unwrap_or("the other server has it");
                let refusal = match parting.told {
                    true => Refusal::EndUnconfirmed(self.partner_name()),
                    false => Refusal::NoRight(cause.to_owned()),
                };
                self.outputs.push_back(Output::Reply(request, Err(refusal)));
                self.right.parting = None;
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
