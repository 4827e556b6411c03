//! The agreed configuration: the higher version wins on both servers, so that configure, update
//! and unconfigure reach a partner that was away (spec A8 to A10).

use super::{CONFIRMATION, Node, Phase};
use crate::{
    admin::{AdminReply, Refusal},
    clock_guard::Clocks,
    config::{HaConfig, Timing},
    id::RequestId,
    io::Output,
    license::LicensedRole,
    message::{DataReport, Report},
    state::{LogFullCause, Reason, Role},
    time::Now,
};

/// From here on the log would soon be full.
const LOG_FULL_PERCENT: u8 = 90;

impl Node {
    /// At 90 % of a transaction log, or when one has overflowed (while the daemon did not run, or by
    /// one large transaction), HA ends by itself: the application is never blocked (spec C4).
    pub(super) fn consider_log(&mut self, now: Now) {
        // What was overwritten cannot be shipped any more: it must not be compared in silence.
        let is_full = |data: &DataReport| {
            let full = data.measured && data.log_used_percent >= LOG_FULL_PERCENT;
            full || data.log.overflowed
        };
        // Under policy `witness` a standby does not end HA: its databases would open.
        let theirs = self.reachable_report(now.mono).filter(|_| self.needs_right());
        if !is_full(&self.data) && !theirs.is_some_and(|report| is_full(&report.data)) {
            self.log_has_room();
        } else if self.state.ha.config.is_some() && self.may_part(now, None) {
            self.end_by_log(now);
        }
    }

    pub(super) fn end_by_log(&mut self, now: Now) {
        self.note_log_full(now);
        self.put_setting(now, None);
    }

    /// What is shown of it after HA has ended.
    pub(super) fn note_log_full(&mut self, now: Now) {
        self.state.log_full = Some(now.wall);
        let (database, overflowed) = (self.data.log.database.clone(), self.data.log.overflowed);
        self.state.log_full_cause = LogFullCause { database, overflowed };
    }

    /// Everything that must hold before HA is configured.
    pub(super) fn may_configure(&self, now: Now) -> Result<(), Refusal> {
        if self.state.partner.is_none() {
            return Err(Refusal::NotTrusted);
        }
        if self.state.ha.config.is_some() {
            return Err(Refusal::Configured);
        }
        let mine = self.licensed.clone().map_err(Refusal::License)?;
        let partner = self.partner_name();
        let Some(report) = self.partner.report.as_ref().filter(|_| self.connected(now.mono)) else {
            return Err(Refusal::PartnerUnreachable(partner));
        };
        let theirs = report.licensed.ok_or(Refusal::PartnerLicense(partner))?;
        if mine == theirs {
            return Err(Refusal::SameRole(mine));
        }
        self.check_versions(report)?;
        self.check_clocks()?;
        for (synced, name) in
            [(self.is_time_synced(), &self.config.name), (report.time_synced, &report.name)]
        {
            if !synced {
                return Err(Refusal::TimeNotSynced(name.clone()));
            }
        }
        Ok(())
    }

    fn check_versions(&self, report: &Report) -> Result<(), Refusal> {
        if report.version == self.config.version {
            return Ok(());
        }
        let (mine, partner) = (self.config.version.clone(), report.version.clone());
        Err(Refusal::VersionDiffers { mine, partner })
    }

    fn check_clocks(&self) -> Result<(), Refusal> {
        match self.clock.verdict() {
            Clocks::Agree => Ok(()),
            Clocks::Unknown => Err(Refusal::ClocksUnknown),
            Clocks::Apart => {
                let offset_millis = self.clock.offset_millis().unwrap_or_default();
                Err(Refusal::ClocksApart { offset_millis })
            }
        }
    }

    /// Puts a new configuration into force here; the partner adopts it from the next beat.
    pub(super) fn change_setting(
        &mut self,
        now: Now,
        request: RequestId,
        config: Option<HaConfig>,
    ) {
        let connected = self.connected(now.mono);
        self.put_setting(now, config);
        self.await_partner(now, request, connected);
    }

    /// Answers once the partner has what was set, at once when it is not there.
    pub(super) fn await_partner(&mut self, now: Now, request: RequestId, connected: bool) {
        if connected {
            let limit = now.mono + self.takeover_after().max(CONFIRMATION);
            self.pending_setting = Some((request, limit));
        } else {
            self.outputs.push_back(Output::Reply(request, Ok(AdminReply::Unconfirmed)));
        }
    }

    pub(super) fn put_setting(&mut self, now: Now, config: Option<HaConfig>) {
        let known = self.partner.report.as_ref().map_or(0, |report| report.ha.version);
        let was = self.state.ha.config.take();
        self.state.ha.version = self.state.ha.version.max(known) + 1;
        self.state.ha.config = config;
        self.apply_setting(now, was.is_some());
        self.next_beat = now.mono;
    }

    /// Takes over the partner's configuration when it is newer; on a tie the primary's counts.
    pub(super) fn adopt_setting(&mut self, now: Now, report: &Report) {
        let (ours, theirs) = (&self.state.ha, &report.ha);
        let tie = theirs.version == ours.version && theirs.config != ours.config;
        let yields = tie && self.rank() == Some(LicensedRole::Secondary);
        if theirs.version > ours.version || yields {
            let was = self.state.ha.config.is_some();
            self.state.ha = theirs.clone();
            self.partner.report = Some(report.clone());
            self.apply_setting(now, was);
            self.next_beat = now.mono;
        }
        let confirmed = report.ha.version >= self.state.ha.version
            && report.pause.number >= self.state.pause.number;
        if let Some((request, _)) = self.pending_setting.take_if(|_| confirmed) {
            self.outputs.push_back(Output::Reply(request, Ok(AdminReply::Done)));
        }
    }

    fn apply_setting(&mut self, now: Now, was_configured: bool) {
        let is_configured = self.state.ha.config.is_some();
        match (was_configured, is_configured) {
            (false, true) => self.enter_pair(now),
            (true, false) => self.leave_pair(now),
            (true, true) => {
                self.count_from = now.mono; // silence under the old D says nothing about the new one
                self.shorten_right(now.mono);
                self.persist();
            }
            (false, false) => self.persist(),
        }
    }

    /// First roles by license (spec A4), unless the partner is active already.
    fn enter_pair(&mut self, now: Now) {
        let partner_rank = self.partner.report.as_ref().and_then(|report| report.licensed);
        let own_rank = self.licensed.as_ref().ok().copied();
        self.state.configured_as = own_rank.or(partner_rank.map(LicensedRole::other));
        self.count_from = now.mono;
        self.state.log_full = None;
        self.state.gave_up = false;
        self.state.fenced = false;
        self.state.yields = None;
        self.state.services_down = None;
        self.data = DataReport::default(); // what was measured before does not count for the pair
        self.persist();
        self.outputs.push_back(Output::Capture(true));
        let partner_active =
            self.partner.report.as_ref().is_some_and(|report| report.role == Some(Role::Active));
        self.begin_right(now.mono);
        if self.rank() == Some(LicensedRole::Primary) && !partner_active {
            self.activate_next(now, Reason::Normal);
        } else {
            self.state.role = Role::Standby;
            self.state.role_reason = Reason::Normal;
            self.persist();
            self.phase = Phase::Standby;
            self.outputs.push_back(Output::Deactivate);
        }
    }

    /// Both end unconfigured; the application of the active one just goes on (spec A10).
    fn leave_pair(&mut self, now: Now) {
        self.state.role = Role::Standby;
        self.state.configured_as = None;
        self.state.split_brain = None;
        self.state.repair_due = false;
        self.state.gave_up = false;
        self.state.fenced = false;
        self.state.yields = None;
        self.state.services_down = None;
        self.state.pause.pause = None;
        self.pause_ends = None;
        self.takeovers.clear();
        self.split_noticed = None;
        self.failure = None;
        self.retry_at = None;
        if let Phase::HandingOver { request: Some(request), .. } = self.phase {
            self.outputs.push_back(Output::Reply(request, Err(Refusal::NotConfigured)));
        }
        self.phase = Phase::Unconfigured;
        let parting = self.end_right();
        self.note_log_of(now, parting);
        self.fail_pending_handover();
        self.answer_asked(Err(Refusal::NotConfigured));
        self.persist();
        self.answer_parting(parting);
        self.outputs.push_back(Output::Capture(false));
    }

    /// Requests that waited for the partner for too long.
    pub(super) fn expire_requests(&mut self, now: Now) {
        self.give_up_asking(now);
        self.give_up_announcing(now);
        if self.handover_due().is_some_and(|due| now.mono >= due) {
            self.fail_pending_handover();
        }
        if let Some((request, _)) = self.pending_setting.take_if(|(_, limit)| now.mono >= *limit) {
            self.outputs.push_back(Output::Reply(request, Ok(AdminReply::Unconfirmed)));
        }
    }

    pub(super) fn update_timing(&mut self, now: Now, request: RequestId, timing: Timing) {
        if let Some(config) = self.state.ha.config.clone() {
            self.change_setting(now, request, Some(HaConfig { timing, ..config }));
        }
    }
}
