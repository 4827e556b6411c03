//! The right to be active under policy `witness`: it ends by itself unless the partner or the witness
//! goes on granting it, so that two servers are never able to write.
//!
//! Decides until when this server may be active, when the witness is asked, and when a standby may
//! take over. Must not know what a witness is.
//!
//! - **Invariant**: a partner that is not active takes over D after it last heard this server at the
//!   earliest; so its answer to a beat gives a right until D after that beat was sent, less a margin.
//! - **Invariant**: the witness grants the role to one server at a time, for D from the question on.

use std::time::Duration;

use super::{Node, Phase, parting::Parting};
use crate::{
    admin::{AdminReply, Refusal},
    config::{PartitionPolicy, Profile},
    epoch::Epoch,
    id::RequestId,
    io::{Output, WitnessAnswer},
    message::{Beat, Report},
    state::{Reason, Role},
    time::{MonoTime, Now},
};

/// A witness that knows of a later epoch is not believed.
const EPOCHS_AHEAD_MAX: u64 = 1_000_000;

/// What is said of a witness before it was asked.
pub(super) const NOT_ASKED: &str = "it was not asked yet";
/// What is said of a witness that keeps the role for the other server.
const KEPT: &str = "it keeps the role for the other server, where HA ended while this one could not be reached; \
    that server has to be reachable, or its certificate is removed from the witness's configuration (with etcd: the key \
    PREFIX/PAIR/.../role is deleted)";
/// What is said of a witness that keeps it for nobody who is known here.
const KEPT_OLD: &str = "it keeps the role for another certificate than those of this pair: take that one out of the \
    witness's configuration (with etcd: delete the key PREFIX/PAIR/.../role)";
/// What is said where it could not be told that it need not keep the role.
const MAY_KEEP: &str = "it was asked to keep the role for this server without end, and could not be told yet that it \
    need not: the other server could not take over";
/// The epoch that a question for nothing has; no server is ever active under it.
pub(super) const PING: Epoch = Epoch(0);
/// A wall clock that moves by more was set.
const CLOCK_SET_MS: u64 = 300;

/// What the witness is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The role for D.
    Role,
    /// The role for D, and to be kept without end.
    Keep,
    /// Whether it is there.
    Presence,
    /// To forget what it keeps.
    Leaving,
}

/// A question to the witness.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    number: u64,
    pub(super) about: About,
    epoch: Epoch,
    asked: MonoTime,
    hold: Duration,
}

/// What this server may do, and for how long.
#[derive(Clone, Debug, Default)]
pub(super) struct Right {
    /// Until then the partner does not take over.
    partner_until: Option<MonoTime>,
    /// What the partner last said of itself: it is not active.
    partner_waits: bool,
    /// The witness's grant: the epoch, and until when.
    pub(super) lease: Option<(Epoch, MonoTime)>,
    pub(super) question: Option<Question>,
    pub(super) questions: u64,
    /// The witness is not asked before.
    ask_at: Option<MonoTime>,
    /// The newest epoch the witness knows of.
    known_there: Epoch,
    /// Why the witness does not answer.
    pub(super) problem: Option<String>,
    /// It has answered, whatever it said.
    answered: bool,
    /// What the shell was last told, and by how much the clocks were apart then, in milliseconds.
    told: Option<(MonoTime, i64)>,
    /// An administrator waits for the witness's grant.
    forced: Option<RequestId>,
    /// HA is to end here.
    pub(super) parting: Option<Parting>,
}

impl Right {
    /// An administrator waits for the witness.
    pub(super) fn is_forced(&self) -> bool {
        self.forced.is_some()
    }
}

impl Node {
    pub(super) fn needs_right(&self) -> bool {
        self.policy() == PartitionPolicy::Witness
    }

    /// Why the witness does not answer, empty when it does; `None` under other policies.
    pub(super) fn witness_problem(&self) -> Option<String> {
        let unknown = || (!self.right.answered).then(|| NOT_ASKED.to_owned());
        let problem = || self.right.problem.clone().or_else(unknown).unwrap_or_default();
        self.needs_right().then(problem)
    }

    /// The same as an alarm: only what was found.
    pub(super) fn witness_trouble(&self) -> Option<String> {
        let may_keep = self.state.kept && !self.is_parting() && self.right.problem.is_some();
        let problem = if may_keep { Some(MAY_KEEP.to_owned()) } else { self.right.problem.clone() };
        problem.filter(|_| self.needs_right())
    }

    pub(super) fn known_by_witness(&self) -> Epoch {
        self.right.known_there
    }

    /// What a right ends earlier than what it stands for, for clocks that do not run equally fast.
    fn margin(&self, d: Duration) -> Duration {
        let fast = self.timing().is_some_and(|timing| timing.profile() == Profile::Fast);
        if fast { d / 5 } else { (d / 5).clamp(Duration::from_secs(5), Duration::from_secs(30)) }
    }

    /// A right of D from `since` on.
    fn until(&self, since: MonoTime, d: Duration) -> MonoTime {
        since + d.saturating_sub(self.margin(d))
    }

    /// Until when this server may be written to; `None` is not at all.
    pub(super) fn right_until(&self) -> Option<MonoTime> {
        let lease = self.right.lease.map(|(_, until)| until);
        self.right.partner_until.filter(|_| self.right.partner_waits).max(lease)
    }

    fn has_right(&self, now: MonoTime) -> bool {
        !self.needs_right() || self.right_until().is_some_and(|until| now < until)
    }

    /// When a right that is not renewed ends; counts only while this server is active.
    pub(super) fn right_ends(&self) -> Option<MonoTime> {
        let serves = self.needs_right() && self.role() == Some(Role::Active);
        serves.then(|| self.right_until().unwrap_or(self.last_tick))
    }

    /// The partner answered one of this server's beats.
    pub(super) fn note_acknowledged(&mut self, beat: &Beat) {
        self.right.partner_waits = beat.report.role != Some(Role::Active);
        let Some(echo) = beat.echo.filter(|echo| echo.boot == self.boot) else { return };
        // While the two do not agree on D, the shorter one counts.
        let theirs = beat.report.ha.config.as_ref().map(|config| config.timing.takeover_after());
        let d = theirs.unwrap_or(self.takeover_after()).min(self.takeover_after());
        let until = self.until(echo.sent, d);
        self.right.partner_until = self.right.partner_until.max(Some(until));
    }

    /// The partner's word: it is not active any more.
    pub(super) fn may_follow_word(&mut self, now: MonoTime) -> bool {
        self.right.partner_waits = true;
        self.has_right(now)
    }

    /// Another D is in force. The partner counts by it from the next beat on, at the earliest.
    pub(super) fn shorten_right(&mut self, now: MonoTime) {
        let until = self.until(now, self.takeover_after());
        self.right.partner_until = self.right.partner_until.map(|old| old.min(until));
    }

    /// HA has just been configured here: the partner, which is not configured, hears of it later.
    pub(super) fn begin_right(&mut self, now: MonoTime) {
        self.right = Right { questions: self.right.questions, ..Right::default() };
        self.right.partner_until = Some(self.until(now, self.takeover_after()));
        self.right.partner_waits = true;
    }

    /// D of a partner that may not know the one in force here yet.
    pub(super) fn patience(&self) -> Duration {
        let theirs = |report: &Report| {
            let config = report.ha.config.as_ref()?;
            let differs = report.ha.version != self.state.ha.version;
            differs.then(|| config.timing.takeover_after())
        };
        let other = self.partner.report.as_ref().filter(|_| self.needs_right()).and_then(theirs);
        other.unwrap_or_default().max(self.takeover_after())
    }

    /// Whether this server may become active under the next epoch; else the witness is asked.
    pub(super) fn is_granted(&mut self, now: Now) -> bool {
        if !self.needs_right() {
            return true;
        }
        let next = self.next_epoch();
        let granted = self.right.lease.is_some_and(|(epoch, until)| {
            now.mono < until && next.is_some_and(|next| epoch == next)
        });
        if !granted && let Some(epoch) = next {
            self.ask_witness(now.mono, epoch);
        }
        granted
    }

    pub(super) fn ask_witness(&mut self, now: MonoTime, epoch: Epoch) {
        let keep = self.wants_keeping(now);
        let about = if keep { About::Keep } else { About::Role };
        if let Some(number) = self.next_question(now, about, epoch) {
            if keep {
                self.note_kept();
            }
            let (hold, known) = (self.takeover_after(), self.epoch_known());
            self.outputs.push_back(Output::AskWitness { number, epoch, known, hold, keep });
        }
    }

    /// A server that was active knows what it was active under; any other one believes the witness, and an
    /// administrator decides for both.
    fn epoch_known(&self) -> Epoch {
        let alone = self.was_active() && self.right.forced.is_none();
        if alone { self.state.epoch } else { self.state.epoch.max(self.right.known_there) }
    }

    pub(super) fn next_question(
        &mut self,
        now: MonoTime,
        about: About,
        epoch: Epoch,
    ) -> Option<u64> {
        let waits = self.right.ask_at.is_some_and(|at| now < at);
        if waits || self.right.question.is_some_and(|question| question.epoch == epoch) {
            return None;
        }
        self.right.questions += 1;
        let (number, hold) = (self.right.questions, self.takeover_after());
        self.right.question = Some(Question { number, about, epoch, asked: now, hold });
        self.right.ask_at = Some(now + self.interval());
        Some(number)
    }

    /// A standby that does not want the role asks whether the witness is there: it will be needed.
    fn ping_witness(&mut self, now: MonoTime) {
        if let Some(number) = self.next_question(now, About::Presence, PING) {
            self.outputs.push_back(Output::PingWitness { number });
        }
    }

    pub(super) fn handle_witness(&mut self, now: Now, number: u64, answer: WitnessAnswer) {
        let Some(question) = self.right.question.take_if(|question| question.number == number)
        else {
            return;
        };
        self.right.problem = None;
        self.right.answered = !matches!(answer, WitnessAnswer::Failed(_));
        let believed = self.state.epoch.0.saturating_add(EPOCHS_AHEAD_MAX);
        match answer {
            WitnessAnswer::Refused { epoch, .. } if epoch.0 > believed => {
                let cause = format!("it speaks of epoch {epoch}, which cannot be");
                self.refuse_forced(&cause);
                self.right.problem = Some(cause);
            }
            WitnessAnswer::Noted if question.about == About::Leaving => self.note_not_kept(),
            WitnessAnswer::Noted => {}
            WitnessAnswer::Granted => {
                let until = self.until(question.asked, question.hold);
                self.right.lease = Some((question.epoch, until));
                match question.about {
                    About::Keep => self.part_with_witness(now),
                    About::Role => self.note_not_kept(),
                    About::Presence | About::Leaving => {}
                }
            }
            WitnessAnswer::Refused { epoch, .. } if question.about == About::Leaving => {
                // Kept for the partner it is not kept for this server; else for one that was replaced.
                let theirs = self.rank().is_some_and(|rank| !epoch.is_of(rank));
                if theirs {
                    self.note_not_kept();
                }
                self.right.problem = Some(if theirs { KEPT } else { KEPT_OLD }.to_owned());
            }
            WitnessAnswer::Refused { .. } if question.epoch == PING => {}
            WitnessAnswer::Refused { epoch, left, kept } => {
                if kept {
                    self.note_not_kept();
                    self.right.problem = Some(KEPT.to_owned());
                }
                self.right.known_there = self.right.known_there.max(epoch);
                self.right.ask_at =
                    Some(now.mono + left.clamp(Duration::from_millis(50), self.interval()));
                if kept {
                    self.refuse_forced(KEPT);
                } else if !left.is_zero() {
                    self.refuse_forced("the witness has granted the role to the other server");
                }
            }
            WitnessAnswer::Failed(cause) => {
                self.refuse_forced(&cause);
                self.note_unanswered(question.about);
                self.right.problem = Some(cause);
            }
        }
    }

    fn refuse_forced(&mut self, cause: &str) {
        if let Some(request) = self.right.forced.take() {
            let refusal = Refusal::NoRight(cause.to_owned());
            self.outputs.push_back(Output::Reply(request, Err(refusal)));
        }
    }

    /// An administrator wants this server to be active; the witness decides.
    pub(super) fn force_with_witness(&mut self, now: Now, request: RequestId) {
        self.right.forced = Some(request);
        self.right.ask_at = None;
        self.consider_right(now);
    }

    fn consider_forced(&mut self, now: Now) {
        if self.right.forced.is_none() {
            return;
        }
        if self.role() == Some(Role::Active) {
            let request = self.right.forced.take();
            let reply = Ok(AdminReply::TookOver);
            return self.outputs.extend(request.map(|request| Output::Reply(request, reply)));
        }
        let is_silent = self.silent_at().is_none_or(|at| now.mono >= at);
        if self.role() != Some(Role::Standby) || !is_silent {
            return self.refuse_forced("the other server is heard again");
        }
        if self.is_granted(now) {
            let request = self.right.forced.take();
            if self.activate_next(now, Reason::OnAdminRequest) {
                let reply = Ok(AdminReply::TookOver);
                self.outputs.extend(request.map(|request| Output::Reply(request, reply)));
            }
        }
    }

    /// Renews the right, ends what it does not cover, and tells the shell how long it lasts.
    pub(super) fn consider_right(&mut self, now: Now) {
        // An answer that does not come is none.
        let late = |question: &mut Question| now.mono >= question.asked + question.hold;
        if let Some(question) = self.right.question.take_if(late) {
            self.note_unanswered(question.about);
            self.right.problem = Some("it does not answer".to_owned());
        }
        if !self.needs_right() {
            return;
        }
        self.consider_forced(now);
        self.consider_parting(now);
        match self.role() {
            Some(Role::Active) if !self.has_right(now.mono) => self.fence(now),
            Some(Role::Active) => {
                self.outrun_witness();
                self.ask_witness(now.mono, self.state.epoch);
                self.tell_right(now);
            }
            Some(Role::Standby) if self.is_parting() => self.ask_to_part(now.mono),
            Some(Role::Standby) => self.leave_witness(now),
            None => {}
        }
    }

    /// The witness knows a later epoch, which nobody is active under: the partner, which waits, had
    /// asked for it.
    fn outrun_witness(&mut self) {
        // The same epoch is refused to a server that the witness knows by another certificate.
        let later = self.right.known_there >= self.state.epoch;
        if later
            && self.right.partner_waits
            && let Some(rank) = self.rank()
        {
            self.state.epoch = self.right.known_there.next_for(rank);
            self.right.question = None;
            self.persist();
        }
    }

    pub(super) fn wants_role(&self, now: MonoTime) -> bool {
        self.takeover_due().is_some_and(|due| now >= due)
            || self.boot_due().is_some_and(|due| now >= due)
            || self.right.forced.is_some()
    }

    /// A grant that is not used any more is given back, so that the partner need not wait for its end.
    fn leave_witness(&mut self, now: Now) {
        let wanted = self.wants_role(now.mono);
        if !wanted {
            self.ping_witness(now.mono);
        }
        let closed = self.data.writes_open == 0;
        if !wanted && closed && self.phase == Phase::Standby && self.right.lease.is_some() {
            self.right.lease = None;
            self.outputs.push_back(Output::LeaveWitness { number: None });
        }
    }

    /// The shell lets the databases refuse writes by themselves when the right ends, also when this
    /// process is dead or frozen then.
    pub(super) fn tell_right(&mut self, now: Now) {
        let Some(until) = self.right_until().filter(|_| self.needs_right()) else { return };
        // A wall clock that was set changes when the right ends by it.
        let apart = now.wall.0 - i64::try_from(now.mono.0 / 1000).unwrap_or(i64::MAX);
        let same = self
            .right
            .told
            .is_some_and(|(told, was)| told == until && apart.abs_diff(was) < CLOCK_SET_MS);
        if !same {
            self.right.told = Some((until, apart));
            let left = until.since(now.mono);
            self.outputs.push_back(Output::AllowWrites { until: now.wall + left });
        }
    }

    /// This daemon ends with its writes closed: nobody has to wait for the end of its right.
    pub(super) fn give_back_right(&mut self) {
        if self.needs_right() {
            self.right.lease = None;
            self.outputs.push_back(Output::LeaveWitness { number: None });
        }
    }

    /// HA ends here.
    pub(super) fn end_right(&mut self) -> Option<Parting> {
        let questions = self.right.questions;
        let parting = self.right.parting.take();
        self.refuse_forced("HA is not configured any more");
        let right = std::mem::replace(&mut self.right, Right { questions, ..Right::default() });
        // While the partner does not know that HA has ended, the witness keeps the role for this server.
        if right.lease.is_some() && !self.state.kept {
            self.outputs.push_back(Output::LeaveWitness { number: None });
        }
        parting
    }

    /// Neither the partner nor the witness answers: nothing may be written here any more.
    fn fence(&mut self, now: Now) {
        if let Phase::HandingOver { request: Some(request), .. } = self.phase {
            let refusal = Refusal::RolledBack("the right to be active ended".into());
            self.outputs.push_back(Output::Reply(request, Err(refusal)));
        }
        self.state.fenced = true;
        self.right.told = None;
        self.step_down(Reason::PeerDown, None);
        self.next_beat = now.mono;
    }

    /// Whether a server that was fenced may not become active again by itself.
    pub(super) fn was_outrun(&self) -> bool {
        self.was_active() && self.right.known_there > self.state.epoch
    }

    /// When the right has to be looked at again.
    pub(super) fn right_due(&self) -> Option<MonoTime> {
        if !self.needs_right() {
            return None;
        }
        let late = self.right.question.map(|question| question.asked + question.hold);
        let ask =
            self.right.ask_at.filter(|at| self.right.question.is_none() && *at > self.last_tick);
        [self.right_ends(), late, ask, self.parting_due()].into_iter().flatten().min()
    }
}
