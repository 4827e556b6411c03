//! What the node shows: state and reason, readiness, alarms, and the status snapshot.

use super::{Node, Phase};
use crate::{
    advice::{Advice, advice},
    clock_guard::Clocks,
    io::{DirectoryReport, ServiceDown},
    message::Report,
    state::{NodeState, NotReady, Reason, Role},
    status::{Alarm, PairStatus, PauseStatus, ServerStatus},
    time::{MonoTime, Now},
};

impl Node {
    /// Why this server could not take over now.
    pub(super) fn not_ready(&self, now: MonoTime) -> Option<NotReady> {
        match self.phase {
            Phase::Unconfigured => Some(NotReady::NotConfigured),
            Phase::Booting { .. } => Some(NotReady::Initializing),
            Phase::Activating | Phase::HandingOver { .. } => Some(NotReady::RoleChange),
            Phase::Active if self.state.split_brain.is_some() => Some(NotReady::SplitBrain),
            Phase::Active => None,
            Phase::Standby if self.pending_handover.is_some() => Some(NotReady::RoleChange),
            Phase::Standby => self.standby_not_ready(now),
        }
    }

    pub(super) fn standby_not_ready(&self, now: MonoTime) -> Option<NotReady> {
        if self.lost(now) {
            return Some(NotReady::PartnerUnreachable);
        }
        if self.version_differs() {
            return Some(NotReady::VersionDiffers);
        }
        if self.clock.verdict() != Clocks::Agree {
            return Some(NotReady::ClocksApart);
        }
        if !self.is_time_synced() {
            return Some(NotReady::TimeNotSynced);
        }
        if self.failure.is_some() || self.data.writes_open > 0 {
            return Some(NotReady::WritesNotClosed);
        }
        if !self.data.synced || !self.data.attached {
            return Some(NotReady::DatabasesNotSynced);
        }
        if self.data.held > 0 {
            return Some(NotReady::DatabaseHeld);
        }
        let down = self.state.services_down.is_some() || !self.services.down.is_empty();
        down.then_some(NotReady::ServicesDown)
    }

    fn version_differs(&self) -> bool {
        let differs = |report: &Report| report.version != self.config.version;
        self.partner.report.as_ref().is_some_and(differs)
    }

    /// Records flow only within a configured pair with one active server and agreeing clocks.
    pub(super) fn may_replicate(&self, now: Now) -> bool {
        let partner_configured =
            self.partner.report.as_ref().is_some_and(|report| report.role.is_some());
        self.state.ha.config.is_some()
            && partner_configured
            && self.state.split_brain.is_none()
            && self.clock.verdict() == Clocks::Agree
            && !self.lost(now.mono)
            && self.is_report_fresh(now.mono)
    }

    /// After a silence the first sign of life may be no beat: what the partner said before it is not true
    /// any more, it may have become active.
    pub(super) fn is_report_fresh(&self, now: MonoTime) -> bool {
        let arrived = self.partner.last_beat.map(|(_, arrived)| arrived);
        arrived.is_some_and(|arrived| now.since(arrived) < self.takeover_after())
    }

    pub(super) fn current_alarms(&self, clock: Now) -> Vec<Alarm> {
        let now = clock.mono;
        let configured = self.state.ha.config.is_some();
        let lost = configured && self.lost(now);
        let mut alarms = Vec::new();
        let mut raise = |raised: bool, alarm: Alarm| {
            if raised {
                alarms.push(alarm);
            }
        };
        raise(self.state.split_brain.is_some(), Alarm::SplitBrain);
        raise(lost, Alarm::PartnerDown);
        raise(self.state.fenced, Alarm::Fenced);
        raise(configured && !lost && self.one_way(), Alarm::OneWay);
        raise(self.clock.verdict() == Clocks::Apart, Alarm::ClocksApart);
        raise(configured && self.time_synced == Some(false), Alarm::TimeNotSynced);
        raise(configured && self.version_differs(), Alarm::VersionDiffers);
        raise(configured && self.is_log_filling(), self.log_filling());
        raise(self.state.log_full.is_some(), self.log_full());
        raise(configured && self.data.held > 0, Alarm::DatabaseHeld);
        raise(self.state.repair_due, Alarm::RepairDue);
        if let Some(failure) = &self.failure {
            raise(true, Alarm::RoleChangeFailed { cause: failure.cause.clone() });
        }
        if let Some(cause) = self.takeover_needed(lost) {
            let promised = self.state.yields.is_some();
            raise(true, Alarm::TakeoverNeeded { cause: cause.to_owned(), promised });
        }
        if let Err(error) = &self.licensed {
            raise(configured, Alarm::License { cause: error.to_string() });
        }
        if let Some(days) = self.certificate_ends(clock.wall) {
            raise(true, Alarm::CertificateEnds { days });
        }
        if let Some(cause) = self.witness_trouble() {
            raise(configured, Alarm::WitnessDown { cause });
        }
        if let Some(seconds) = self.takeovers_held(now) {
            raise(configured, Alarm::TakeoversHeld { seconds });
        }
        if let Some(reason) = self.moved_by_itself() {
            raise(configured, Alarm::RoleMoved { reason });
        }
        if let Some(pause) = self.pause_in_force() {
            let (reason, seconds) = (pause.reason.clone(), self.pause_seconds(now));
            raise(configured, Alarm::Paused { reason, seconds });
        }
        if configured {
            alarms.extend(self.services.down.iter().map(service_alarm));
            let missing = |(address, cause): &(String, String)| Alarm::AddressMissing {
                address: address.clone(),
                cause: cause.clone(),
            };
            alarms.extend(self.addresses.iter().map(missing));
            alarms.extend(self.directories.iter().flat_map(directory_alarms));
        }
        alarms
    }

    /// Raised at 75 %, and over below 70 %, so that a log at the limit is one alarm and not many.
    fn is_log_filling(&self) -> bool {
        let raised = self.alarms.iter().any(|alarm| matches!(alarm, Alarm::LogFilling { .. }));
        self.data.log_used_percent >= if raised { 70 } else { 75 }
    }

    fn log_filling(&self) -> Alarm {
        Alarm::LogFilling {
            database: self.data.log.database.clone(),
            percent: self.data.log_used_percent,
            forecast: self.data.log.forecast,
        }
    }

    fn log_full(&self) -> Alarm {
        let cause = self.state.log_full_cause.clone();
        Alarm::LogFull { database: cause.database, overflowed: cause.overflowed }
    }

    /// The partner's last report says that it has not heard this server for most of D.
    fn one_way(&self) -> bool {
        let hears = self.partner.report.as_ref().and_then(|report| report.hears_you);
        hears.is_some_and(|age| age > self.takeover_after() / 2 + self.interval())
    }

    /// Remembers that the partner could take over again.
    pub(super) fn note_relief(&mut self, now: MonoTime) {
        let ready =
            |report: &Report| report.role == Some(Role::Standby) && report.not_ready.is_none();
        if self.phase == Phase::Active && self.reachable_report(now).is_some_and(ready) {
            self.relieved = Some(self.state.epoch);
        }
    }

    /// Why this server became active without anybody's wish, until the other one could take over again.
    fn moved_by_itself(&self) -> Option<Reason> {
        let reason = self.state.role_reason;
        let moved = self.phase == Phase::Active
            && reason.is_automatic()
            && reason != Reason::AutomaticFallback;
        (moved && self.relieved != Some(self.state.epoch)).then_some(reason)
    }

    /// The active is lost, and nobody takes over by itself.
    fn takeover_needed(&self, lost: bool) -> Option<&'static str> {
        match self.phase {
            Phase::Standby if lost => self.takeover_blocked(),
            Phase::Booting { .. } if lost && !self.was_active() => {
                Some("this server was not the active one when it stopped")
            }
            Phase::Unconfigured
            | Phase::Booting { .. }
            | Phase::Standby
            | Phase::Activating
            | Phase::Active
            | Phase::HandingOver { .. } => None,
        }
    }

    /// The snapshot that every front end shows.
    pub fn status(&self, now: Now) -> PairStatus {
        let config = self.state.ha.config.clone();
        let takeover_after = self.timing().map(|timing| timing.takeover_after().as_secs_f64());
        PairStatus {
            ha: if config.is_some() { "configured" } else { "not configured" }.into(),
            trust: if self.state.partner.is_some() { "trusted" } else { "not trusted" }.into(),
            config,
            takeover_after_seconds: takeover_after,
            epoch: self.state.epoch.0,
            standby_status: self.standby_status(now.mono),
            servers: self.server_rows(now),
            split_brain: self.split_status(now),
            next: self.next_event(now.mono),
            recommended_action: self.recommended_action(now),
            alarms: self.current_alarms(now),
            seen_unix_ms: now.wall.0,
            pause: self.pause_in_force().map(|pause| PauseStatus {
                reason: pause.reason.clone(),
                until_unix_ms: pause.until.0,
                seconds: self.pause_seconds(now.mono),
            }),
            witness: self.witness_problem(),
        }
    }

    /// `Ready`, or why the standby is not (spec A9).
    fn standby_status(&self, now: MonoTime) -> String {
        let why = match self.role() {
            Some(Role::Active) => match self.reachable_report(now) {
                Some(report) => report.not_ready,
                None => Some(NotReady::PartnerUnreachable),
            },
            Some(Role::Standby) | None => self.not_ready(now),
        };
        why.map_or_else(|| "Ready".into(), |why| format!("Not Ready: {why}"))
    }

    fn server_rows(&self, now: Now) -> Vec<ServerStatus> {
        let (state, reason) = self.state_and_reason(now.mono);
        let mut rows = vec![ServerStatus {
            name: self.config.name.clone(),
            license: self.rank(),
            role: self.role(),
            state: Some(state),
            reason: Some(reason),
            reachable: true,
            ready: self.not_ready(now.mono).is_none(),
            heartbeat_age_seconds: None,
            clock_offset_seconds: None,
            version: Some(self.config.version.clone()),
        }];
        let Some(partner) = &self.state.partner else { return rows };
        let report = self.partner.report.as_ref();
        let reachable = self.partner.heard.is_some() && !self.lost(now.mono);
        let seen = self.reachable_report(now.mono);
        let disagrees = state == NodeState::Unknown;
        rows.push(ServerStatus {
            name: partner.name.clone(),
            license: report.and_then(|report| report.licensed),
            role: seen.and_then(|report| report.role),
            state: seen.map(|report| if disagrees { state } else { report.state }),
            reason: seen.map(|report| if disagrees { reason } else { report.reason }),
            reachable,
            ready: seen.is_some_and(|report| report.not_ready.is_none()),
            heartbeat_age_seconds: self.partner.heard.map(|at| now.mono.since(at).as_secs_f64()),
            clock_offset_seconds: self.clock.offset_millis().map(|ms| ms as f64 / 1000.0),
            version: report.map(|report| report.version.clone()),
        });
        rows
    }

    fn recommended_action(&self, clock: Now) -> String {
        let now = clock.mono;
        let partner = self.partner_name();
        if self.state.partner.is_none() {
            return "set up trust: `ipicsha trust set PARTNER_ADDRESS`".into();
        }
        if self.state.ha.config.is_none() && self.state.log_full.is_none() {
            return "configure HA: `ipicsha configure`".into();
        }
        let alarms = self.current_alarms(clock);
        let (state, reason) = self.state_and_reason(now);
        let by_state = matches!(
            state,
            NodeState::SplitBrain
                | NodeState::RunningInFailedMode
                | NodeState::Unknown
                | NodeState::Fenced
        );
        if !by_state && let Some(action) = alarms.iter().find_map(Alarm::action) {
            return action.replace("PARTNER", &partner);
        }
        let split_age =
            self.state.split_brain.as_ref().map(|split| clock.wall.millis_since(split.since));
        let theirs = self.reachable_report(now).map(|report| report.state);
        let advice = advice(state, reason, theirs);
        let old = |age: i64| u128::from(age.unsigned_abs()) >= super::split::OLD_SPLIT.as_millis();
        if advice == Advice::EndSplit && split_age.is_some_and(old) {
            return "the split brain is older than 5 days: `ipicsha compare` shows what differs; stop the \
                    secondary, put it right by hand, then set up trust and HA anew (\"five days\" in README.md)"
                .into();
        }
        advice.text().replace("PARTNER", &partner)
    }
}

fn service_alarm(down: &ServiceDown) -> Alarm {
    Alarm::CriticalServiceDown { service: down.name.clone(), cause: down.cause.clone() }
}

fn directory_alarms(report: &DirectoryReport) -> impl Iterator<Item = Alarm> {
    let directory = || report.name.clone();
    let held =
        report.hold.clone().map(|cause| Alarm::DirectoryHeld { directory: directory(), cause });
    let count = report.held_deletions;
    let deletions = (count > 0).then(|| Alarm::DeletionsHeld { directory: directory(), count });
    let late = report.late.clone();
    let late = late.map(|cause| Alarm::ChangesLate { directory: directory(), cause });
    held.into_iter().chain(deletions).chain(late)
}
