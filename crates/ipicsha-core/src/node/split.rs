//! Split brain: noticed at the first heartbeat, ended by an administrator, or by itself when one
//! side wrote nothing (spec D1, D3).

use std::time::Duration;

use super::{Node, Phase};
use crate::{
    config::HaConfig,
    id::RequestId,
    io::Output,
    license::LicensedRole,
    message::{DataReport, Report, Timeline},
    state::{Reason, Role, SplitBrain},
    status::{SplitBrainStatus, TimelineStatus},
    time::{MonoTime, Now},
};

/// A split of this age or older is better ended by hand (spec D6).
pub(super) const OLD_SPLIT: Duration = Duration::from_secs(5 * 24 * 3600);

impl Node {
    pub(super) fn notice_split(&mut self, now: Now) {
        if self.split_noticed.is_none() {
            self.split_noticed = Some(now.mono);
        }
        if self.state.split_brain.is_none() {
            let since = self.state.last_contact.unwrap_or(now.wall);
            self.state.split_brain = Some(SplitBrain { since, noticed: now.wall });
            self.persist();
        }
    }

    /// The partner is standby and this server active: nothing is split any more, and this
    /// server's epoch is the highest.
    pub(super) fn lead(&mut self, report: &Report) {
        self.end_split();
        if report.epoch > self.state.epoch
            && let Some(rank) = self.rank()
        {
            self.state.epoch = report.epoch.next_for(rank);
            self.persist();
        }
    }

    pub(super) fn end_split(&mut self) {
        self.split_noticed = None;
        if self.state.split_brain.take().is_some() {
            self.state.repair_due |= self.both_wrote();
            self.persist();
        }
    }

    /// Whether clients are to find this server by the addresses of the pair. Of two active servers that see
    /// one another only the one that became active last is found, so that they drift no further apart; the
    /// other one may have been frozen meanwhile.
    pub fn is_found(&self, now: MonoTime) -> bool {
        let partner = self.partner.report.as_ref();
        let later = partner.is_some_and(|partner| partner.epoch > self.state.epoch);
        let split = self.state.split_brain.is_some() && !self.lost(now);
        self.role() == Some(Role::Active) && !(split && later)
    }

    /// When this server became active, and what it has that the partner has not.
    pub(super) fn timeline(&self) -> Timeline {
        let active = self.state.activated.filter(|_| self.role() == Some(Role::Active));
        Timeline { active, changes: self.data.log.changes }
    }

    /// The split brain as shown: since when, and what each side did.
    pub(super) fn split_status(&self, now: Now) -> Option<SplitBrainStatus> {
        let split = self.state.split_brain.as_ref()?;
        let partner = self.partner.report.as_ref();
        let own = shown(&self.config.name, self.data.unacknowledged, self.timeline());
        let theirs =
            partner.map(|report| shown(&report.name, report.data.unacknowledged, report.timeline));
        Some(SplitBrainStatus {
            since_unix_ms: split.since.0,
            seconds: now.wall.millis_since(split.since).max(0) as f64 / 1000.0,
            changes_here: self.data.unacknowledged,
            changes_on_partner: partner.map_or(0, |report| report.data.unacknowledged),
            timelines: std::iter::once(own).chain(theirs).collect(),
        })
    }

    /// Changes on both sides since the split; unknown counts as yes.
    fn both_wrote(&self) -> bool {
        let idle = |data: &DataReport| data.measured && data.unacknowledged == 0;
        let partner = self.partner.report.as_ref().map(|report| &report.data);
        !idle(&self.data) && !partner.is_some_and(idle)
    }

    pub(super) fn handle_repaired(&mut self) {
        if std::mem::take(&mut self.state.repair_due) {
            self.persist();
        }
    }

    /// Gives up the active role, whatever the partner has (spec D3).
    pub(super) fn step_down(&mut self, reason: Reason, request: Option<RequestId>) {
        self.end_split();
        self.state.role = Role::Standby;
        self.state.role_reason = reason;
        self.persist();
        self.phase = Phase::Standby;
        self.renew_parting();
        self.pending_close = request;
        self.data.measured = false; // what was measured says nothing about what is closed now
        self.outputs.push_back(Output::Deactivate);
    }

    /// The side that wrote nothing steps back by itself; with nothing written at all it is the
    /// secondary. Counted only once both sides have measured after the split was noticed.
    pub(super) fn consider_auto_heal(&mut self, now: Now) {
        let Some(noticed) = self.split_noticed else { return };
        let auto_heal = |config: &HaConfig| config.auto_heal;
        // While it is paused nothing moves by itself.
        let steady = self.phase == Phase::Active && !self.reopening && !self.is_paused();
        if !steady || !self.state.ha.config.as_ref().is_some_and(auto_heal) {
            return;
        }
        let settled = noticed + self.interval() * 2;
        let measured_here = self.data.measured && self.data_at.is_some_and(|at| at > noticed);
        let heard_since = self.partner.heard.is_some_and(|heard| heard >= settled);
        let Some(partner) = self.partner.report.as_ref().map(|report| &report.data) else { return };
        if now.mono < settled || !measured_here || !heard_since || !partner.measured {
            return;
        }
        let (ours, theirs) = (self.data.unacknowledged, partner.unacknowledged);
        let secondary = self.rank() == Some(LicensedRole::Secondary);
        if ours == 0 && (theirs > 0 || secondary) {
            self.step_down(Reason::SplitBrain, None);
        }
    }
}

fn shown(server: &str, changes: u64, timeline: Timeline) -> TimelineStatus {
    TimelineStatus {
        server: server.to_owned(),
        active_since_unix_ms: timeline.active.map(|(since, _)| since.0),
        active_because: timeline.active.map(|(_, reason)| reason),
        changes,
        first_change_unix_ms: timeline.changes.map(|(first, _)| first.0),
        last_change_unix_ms: timeline.changes.map(|(_, last)| last.0),
    }
}
