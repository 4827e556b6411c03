//! One server of the pair: routes each input to the part that decides, and collects what to do.
//! It knows no clock, no file and no socket; the same inputs give the same outputs.

mod admin;
mod alarms;
mod beat;
mod boot;
mod fallback;
mod flap;
mod handover;
mod next;
mod parting;
mod pause;
mod recover;
mod renewal;
mod right;
mod services;
mod site;
pub use site::BANDWIDTH_MIN;
mod setting;
mod shown;
mod split;
mod takeback;
mod view;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    clock_guard::ClockGuard,
    config::{NodeConfig, PartitionPolicy, Timing},
    epoch::Epoch,
    id::RequestId,
    io::{DirectoryReport, Event, Gate, Input, Output, ServicesReport},
    license::{License, LicenseError, LicensedRole, licensed_role},
    message::{DataReport, Goodbye, Report},
    state::{NodeState, PersistedState, Reason, Role},
    status::Alarm,
    time::{MonoTime, Now, WallTime},
};

/// Heartbeats while trusted and not configured.
const UNCONFIGURED_INTERVAL: Duration = Duration::from_secs(1);
/// Silence after which an unconfigured partner counts as unreachable.
const UNCONFIGURED_SILENCE: Duration = Duration::from_secs(5);
/// How long a request waits for the partner's confirmation at least.
const CONFIRMATION: Duration = Duration::from_secs(10);
/// Writes or services that could not be opened or closed are tried again after this.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long the partner of a restarting daemon waits (restart grace).
const RESTART_GRACE: Duration = Duration::from_secs(10);

/// What this server is doing about its role.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// HA is not configured.
    Unconfigured,
    /// Started; standby until the partner says more.
    Booting { since: MonoTime },
    /// Following.
    Standby,
    /// The role is taken and persisted; writes and services are being opened.
    Activating,
    /// Serving.
    Active,
    /// Serving, and giving up as planned.
    HandingOver { request: Option<RequestId>, exit: bool, since: MonoTime, reason: Reason },
}

/// The partner as last heard.
#[derive(Clone, Debug, Default)]
struct PartnerView {
    report: Option<Report>,
    boot: u64,
    number: u64,
    heard: Option<MonoTime>,
    heard_wall: Option<WallTime>,
    /// Its clock in its last beat, and when that arrived.
    last_beat: Option<(MonoTime, MonoTime)>,
    goodbye: Option<Goodbye>,
}

/// A handover that the partner has not confirmed.
#[derive(Clone, Debug)]
struct PendingHandover {
    epoch: Epoch,
    request: Option<RequestId>,
    since: MonoTime,
    limit: Duration,
    /// Why this server gave up.
    reason: Reason,
    /// What the partner is told: it may have restarted since the first word.
    word: Reason,
}

/// A role change that went wrong.
#[derive(Clone, Debug)]
struct Failure {
    /// Of an active one that cannot serve.
    reason: Reason,
    cause: String,
}

/// One server of the pair.
#[derive(Clone, Debug)]
pub struct Node {
    config: NodeConfig,
    state: PersistedState,
    phase: Phase,
    boot: u64,
    licenses: Vec<License>,
    licensed: Result<LicensedRole, LicenseError>,
    /// `None` until it was measured.
    time_synced: Option<bool>,
    data: DataReport,
    data_at: Option<MonoTime>,
    directories: Vec<DirectoryReport>,
    /// Addresses that should be here and are not.
    addresses: Vec<(String, String)>,
    clock: ClockGuard,
    partner: PartnerView,
    /// Silence is counted from here at the earliest: the start, or the end of a pause.
    count_from: MonoTime,
    grace_until: Option<MonoTime>,
    next_beat: MonoTime,
    beat_number: u64,
    last_tick: MonoTime,
    pending_handover: Option<PendingHandover>,
    pending_setting: Option<(RequestId, MonoTime)>,
    pending_close: Option<RequestId>,
    exit_after_close: bool,
    /// Said goodbye: nothing may follow.
    ended: bool,
    failure: Option<Failure>,
    /// When a role change that went wrong is tried again.
    retry_at: Option<MonoTime>,
    split_noticed: Option<MonoTime>,
    /// The partner could take over from the activation with this epoch.
    relieved: Option<Epoch>,
    services: ServicesReport,
    /// Since when a critical service is down while this server is active.
    services_down_since: Option<MonoTime>,
    /// Since when nothing is reported as down.
    services_well_since: MonoTime,
    /// It was this run of the daemon that lost the role because of its services.
    services_lost_here: bool,
    /// A role change that is not asked for is not tried before.
    handover_blocked_until: Option<MonoTime>,
    /// Since when the primary could take back.
    primary_well_since: Option<MonoTime>,
    /// Automatic takeovers of the pair, by epoch.
    takeovers: BTreeMap<Epoch, MonoTime>,
    /// When the pause that is in force ends.
    pause_ends: Option<MonoTime>,
    /// An active server is opening its writes again; the answer is under way.
    reopening: bool,
    pending_recover: Option<RequestId>,
    asked: Option<takeback::Asked>,
    right: right::Right,
    announced: Option<renewal::Announced>,
    /// What the active, which cannot serve, gives as its reason.
    partner_failed: Option<Reason>,
    /// The pair could not serve when this daemon started.
    started_failed: bool,
    shown: (Option<Role>, NodeState, Reason),
    alarms: Vec<Alarm>,
    gate: Gate,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A server that has just started with what it remembers. `seed` must differ at every start.
    pub fn new(config: NodeConfig, persisted: PersistedState, seed: u64, now: Now) -> Self {
        let configured = persisted.ha.config.is_some();
        let phase =
            if configured { Phase::Booting { since: now.mono } } else { Phase::Unconfigured };
        let relieved = persisted.epoch;
        let mut node = Self {
            config,
            state: persisted,
            phase,
            boot: seed,
            licenses: Vec::new(),
            licensed: Err(LicenseError::Missing),
            time_synced: None,
            data: DataReport::default(),
            data_at: None,
            directories: Vec::new(),
            addresses: Vec::new(),
            clock: ClockGuard::default(),
            partner: PartnerView::default(),
            count_from: now.mono,
            grace_until: None,
            next_beat: now.mono,
            beat_number: 0,
            last_tick: now.mono,
            pending_handover: None,
            pending_setting: None,
            pending_close: None,
            exit_after_close: false,
            ended: false,
            failure: None,
            retry_at: None,
            split_noticed: None,
            relieved: Some(relieved),
            services: ServicesReport::default(),
            services_down_since: None,
            services_well_since: now.mono,
            services_lost_here: false,
            handover_blocked_until: None,
            primary_well_since: None,
            takeovers: BTreeMap::new(),
            pause_ends: None,
            reopening: false,
            pending_recover: None,
            asked: None,
            right: right::Right::default(),
            announced: None,
            partner_failed: None,
            started_failed: false,
            shown: (None, NodeState::NotConfigured, Reason::Normal),
            alarms: Vec::new(),
            gate: Gate::Closed,
            outputs: VecDeque::new(),
        };
        node.outputs.push_back(Output::Capture(configured));
        node.recall_certificate();
        node
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.notice_sleep(now);
        self.refresh_pause(now);
        match input {
            Input::Admin(request, command) => self.handle_admin(now, request, command),
            Input::Control(control) => self.handle_control(now, *control),
            Input::Heard => self.hear(now),
            Input::LinkUp => self.next_beat = now.mono,
            Input::Data(report) => {
                self.data = report;
                self.data_at = Some(now.mono);
            }
            Input::Addresses(missing) => self.addresses = missing,
            Input::Directories(reports) => self.directories = reports,
            Input::TimeSynced(synced) => self.time_synced = Some(synced),
            Input::Licenses(licenses) => self.licenses = licenses,
            Input::Services(report) => self.handle_services(now, report),
            Input::Activated(result) => self.handle_activated(now, result),
            Input::Deactivated(result) => self.handle_deactivated(now, result),
            Input::WritesClosed(result) => self.handle_writes_closed(result),
            Input::Repaired => self.handle_repaired(),
            Input::Shutdown(shutdown) => self.handle_shutdown(now, shutdown),
            Input::Witness(number, answer) => self.handle_witness(now, number, answer),
        }
        self.settle(now);
    }

    /// To be called when the time of [`Node::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.notice_sleep(now);
        self.refresh_pause(now);
        self.settle(now);
    }

    /// When the node wants to be called next, and why.
    pub fn poll_timeout(&self) -> Option<(MonoTime, &'static str)> {
        self.state.partner.as_ref()?;
        let later = |at: Option<MonoTime>| at.filter(|at| *at > self.last_tick);
        // What waits for the witness's word is not done when it is due.
        let granted = |at| if self.needs_right() { later(at) } else { at };
        [
            (Some(self.next_beat), "heartbeat due"),
            (granted(self.takeover_due()), "partner lost"),
            (granted(self.boot_due()), "initialisation timeout"),
            (later(self.suspect_at()), "heartbeat missed"),
            (later(self.silent_at()), "partner silent"),
            (self.handover_due(), "handover unconfirmed"),
            (self.retry_at, "role change to be tried again"),
            (later(self.services_due()), "critical service delay"),
            (later(self.services_forgotten_at()), "services well again"),
            (later(self.fallback_due()), "automatic fallback"),
            (later(self.handover_blocked_until), "role change to be tried again"),
            (later(self.takeover_release()), "takeovers no longer held"),
            (later(self.pause_ends), "end of the pause"),
            (self.pending_setting.map(|(_, limit)| limit), "configuration unconfirmed"),
            (later(self.asked_until()), "handover not made"),
            (later(self.announced_until()), "certificate not noted"),
            (self.right_due(), "right to be active"),
        ]
        .into_iter()
        .filter_map(|(at, why)| at.map(|at| (at, why)))
        .min_by_key(|(at, _)| *at)
    }

    /// The next thing to do; strictly in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn is_time_synced(&self) -> bool {
        self.time_synced == Some(true)
    }

    /// What must survive a crash, as of now.
    pub fn persisted(&self) -> &PersistedState {
        &self.state
    }

    /// What this server shows of itself.
    pub fn state(&self, now: Now) -> (NodeState, Reason) {
        self.state_and_reason(now.mono)
    }

    /// It has just started and does not know its role yet.
    pub fn is_booting(&self) -> bool {
        matches!(self.phase, Phase::Booting { .. })
    }

    /// The role now: `None` while HA is not configured. A starting server is standby.
    pub fn role(&self) -> Option<Role> {
        match self.phase {
            Phase::Unconfigured => None,
            Phase::Booting { .. } | Phase::Standby => Some(Role::Standby),
            Phase::Activating | Phase::Active | Phase::HandingOver { .. } => Some(Role::Active),
        }
    }

    /// A daemon that did not run for half of D cannot judge the partner's silence: it starts to
    /// count anew. Half of D leaves room for the beats that are still in the socket.
    fn notice_sleep(&mut self, now: Now) {
        let slept = now.mono.since(self.last_tick);
        if slept >= (self.takeover_after() / 2).max(self.interval() + self.interval() / 2) {
            self.count_from = now.mono;
        }
        self.last_tick = now.mono;
    }

    /// Everything that follows from the new state, whatever the input was.
    fn settle(&mut self, now: Now) {
        if self.ended {
            return;
        }
        self.licensed = licensed_role(&self.licenses, now.wall);
        self.forget_takeovers(now);
        self.expire_requests(now);
        self.note_relief(now.mono);
        self.consider_boot(now);
        self.consider_takeover(now);
        self.consider_kept(now);
        self.consider_right(now);
        self.consider_auto_heal(now);
        self.consider_retry(now);
        self.consider_services(now);
        self.consider_fallback(now);
        self.consider_log(now);
        self.settle_gate(now);
        let changed = self.record_changes(now);
        if changed || now.mono >= self.next_beat {
            self.send_beat(now);
        }
    }

    fn settle_gate(&mut self, now: Now) {
        let gate = if self.may_replicate(now) { Gate::Open } else { Gate::Closed };
        if gate != self.gate {
            self.gate = gate;
            self.outputs.push_back(Output::Replicate(gate));
        }
    }

    fn record_changes(&mut self, now: Now) -> bool {
        let (state, reason) = self.state_and_reason(now.mono);
        let shown = (self.role(), state, reason);
        let changed = shown != self.shown;
        if changed {
            self.outputs.push_back(Output::Record(Event::State {
                role: shown.0,
                from: self.shown.1,
                to: state,
                reason,
                epoch: self.state.epoch.0,
            }));
            self.shown = shown;
        }
        let alarms = self.current_alarms(now);
        let has = |all: &[Alarm], alarm: &Alarm| all.iter().any(|other| other.is_still(alarm));
        for alarm in alarms.iter().filter(|alarm| !has(&self.alarms, alarm)) {
            self.outputs.push_back(Output::Record(Event::Raised { alarm: alarm.clone() }));
        }
        for alarm in self.alarms.iter().filter(|alarm| !has(&alarms, alarm)) {
            self.outputs.push_back(Output::Record(Event::Cleared { alarm: alarm.clone() }));
        }
        self.alarms = alarms;
        changed
    }

    fn persist(&mut self) {
        self.outputs.push_back(Output::Persist(Box::new(self.state.clone())));
    }

    fn timing(&self) -> Option<Timing> {
        self.state.ha.config.as_ref().map(|config| config.timing)
    }

    fn interval(&self) -> Duration {
        self.timing().map_or(UNCONFIGURED_INTERVAL, Timing::interval)
    }

    /// D.
    fn takeover_after(&self) -> Duration {
        self.timing().map_or(UNCONFIGURED_SILENCE, Timing::takeover_after)
    }

    fn policy(&self) -> PartitionPolicy {
        self.state.ha.config.as_ref().map_or(PartitionPolicy::Manual, |config| config.policy)
    }

    /// The licensed role that counts: the one HA was configured with, else today's.
    fn rank(&self) -> Option<LicensedRole> {
        self.state.configured_as.or_else(|| self.licensed.as_ref().ok().copied())
    }

    fn partner_name(&self) -> String {
        self.state.partner.as_ref().map_or_else(|| "the partner".into(), |p| p.name.clone())
    }
}
