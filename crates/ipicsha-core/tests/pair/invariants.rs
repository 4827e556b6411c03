//! What must hold after every step, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use ipicsha_core::{
    Gate,
    epoch::Epoch,
    message::{Control, Report},
    state::{NodeState, PersistedState, Reason, Role},
    time::MonoTime,
};

use crate::world::{World, micros};

#[derive(Default)]
pub(crate) struct Invariants {
    /// Which server activated under an epoch, and in which run of its daemon.
    owners: BTreeMap<u64, usize>,
    /// Since when both are active, awake, and can hear each other without loss.
    visible_split_since: Option<u64>,
    /// Since when the clocks are apart and both could know.
    apart_since: Option<u64>,
    /// Automatic takeovers that one run of a daemon made or was told of, by its own clock.
    automatic: BTreeMap<u64, BTreeMap<Epoch, u64>>,
    /// Every change of state that was recorded.
    pub(crate) transitions: BTreeSet<(NodeState, NodeState)>,
    pub(crate) takeovers: u64,
    pub(crate) splits: u64,
    pub(crate) services: u64,
    pub(crate) fallbacks: u64,
}

impl Invariants {
    pub(crate) fn persisted(world: &mut World, at: usize, state: &PersistedState) {
        let before = &world.servers[at].disk;
        assert!(state.epoch >= before.epoch, "the epoch of {at} went back");
        let activated = state.role == Role::Active
            && state.epoch > before.epoch
            && (before.role == Role::Standby
                || matches!(
                    state.role_reason,
                    Reason::Initialization | Reason::PeerDownDuringInitialization
                ));
        if !activated {
            return;
        }
        let before_fenced = before.fenced;
        let owner = *world.invariants.owners.entry(state.epoch.0).or_insert(at);
        assert_eq!(owner, at, "two servers share epoch {}", state.epoch);
        if state.role_reason == Reason::PeerDown {
            Self::check_takeover(world, at, before_fenced);
        }
    }

    /// Takeover on silence comes after D and not before, by the server's own clock (spec B2).
    fn check_takeover(world: &mut World, at: usize, was_fenced: bool) {
        world.invariants.takeovers += 1;
        let heard = world.servers[at].last_heard.expect("a server that never heard waits");
        let silence = world.clock(at).mono.since(heard);
        let d = world.servers[at]
            .disk
            .ha
            .config
            .as_ref()
            .expect("only a configured server takes over")
            .timing
            .takeover_after();
        assert!(silence >= d, "took over after {silence:?} of silence, D is {d:?}");
        // Nobody else had the role meanwhile: that is no takeover.
        if !was_fenced {
            Self::check_automatic(world, at);
        }
    }

    /// Nothing happens by itself during a pause (spec B13), nor more than twice in a window.
    fn check_automatic(world: &mut World, at: usize) {
        assert!(!world.paused(at), "{at} changed roles by itself during a pause");
        let now = micros(world.clock(at).mono.since(MonoTime(0)));
        let boot = world.servers[at].boot;
        let window = micros(world.automatic.takeover_window);
        let epoch = world.servers[at].node.as_ref().expect("it runs").persisted().epoch;
        let times = world.invariants.automatic.entry(boot).or_default();
        // What is told of travels: its time may differ by that.
        times.retain(|_, time| *time + window > now + 200_000);
        times.insert(epoch, now);
        assert!(times.len() <= 2, "more than two automatic takeovers within {window}: {times:?}");
    }

    /// A heartbeat tells of takeovers that this run of a daemon may not have seen.
    pub(crate) fn told(world: &mut World, at: usize, report: &Report) {
        let now = micros(world.clock(at).mono.since(MonoTime(0)));
        let known = world.invariants.automatic.entry(world.servers[at].boot).or_default();
        for (epoch, age) in &report.takeovers {
            known.entry(*epoch).or_insert(now.saturating_sub(micros(*age)));
        }
    }

    /// A planned switchover begins: the partner is ready, and if nobody asked for it, it is allowed.
    pub(crate) fn closing(world: &mut World, at: usize) {
        let heard = world.servers[at].heard_not_ready;
        assert_eq!(heard, Some(None), "{at} hands over to a partner that is not ready");
        let Some((_, reason)) = world.shown(at) else { return };
        let services = [
            Reason::CriticalServiceDown,
            Reason::DatabaseFailure,
            Reason::AutoRecoverCriticalServiceDown,
            Reason::AutoRecoverDatabaseFailure,
        ];
        if reason == Reason::OnAdminRequest {
            return;
        } else if reason == Reason::AutomaticFallback {
            world.invariants.fallbacks += 1;
        } else {
            assert!(services.contains(&reason), "a switchover because of {reason}");
            world.invariants.services += 1;
        }
        assert!(!world.paused(at), "{at} hands over by itself during a pause");
    }

    /// Nobody hears of an epoch, a role or a configuration that is not on the disk.
    pub(crate) fn sent(world: &mut World, at: usize, control: &Control) {
        let disk = &world.servers[at].disk;
        match control {
            Control::Beat(beat) => {
                let report = &beat.report;
                assert!(
                    report.epoch <= disk.epoch,
                    "sent epoch {} before it was persisted",
                    report.epoch
                );
                if report.role == Some(Role::Active) {
                    assert_eq!(disk.role, Role::Active, "told of a role before it was persisted");
                }
                assert!(report.ha.version <= disk.ha.version, "told of a configuration too early");
            }
            Control::Handover { .. } => {
                let role = world.role(at);
                assert_ne!(role, Some(Role::Active), "an active server gave its word");
            }
            Control::Goodbye(_)
            | Control::AskHandover
            | Control::HandoverRefused { .. }
            | Control::Certificate { .. }
            | Control::CertificateNoted { .. }
            | Control::Recover
            | Control::RepairRequest(_)
            | Control::RepairRefused { .. }
            | Control::Databases { .. } => {}
        }
    }

    /// Writes open only on a server whose active role is durable, or whose right or HA has ended meanwhile.
    pub(crate) fn opened(world: &mut World, at: usize) {
        let ended = world.servers[at].disk.ha.config.is_none();
        if ended || world.is_under_witness(at) && !world.is_writable(at) {
            return;
        }
        assert_eq!(world.servers[at].disk.role, Role::Active, "opened the writes of a standby");
    }

    /// Records flow only between an active and a standby.
    pub(crate) fn shipping(world: &mut World) {
        let both = [0, 1].iter().all(|at| world.state(*at) == Some(NodeState::SplitBrain));
        assert!(!both, "records flow in a split brain");
    }

    /// Under policy `witness` two servers are never able to write, not for a moment.
    fn never_two_writable(world: &World) {
        // One whose HA ended while the partner did not hear of it counts as well.
        let version = |at: usize| world.servers[at].disk.ha.version;
        let left = |at: usize| {
            let ended = world.servers[at].disk.ha.config.is_none();
            ended && world.is_under_witness(1 - at) && version(at) > version(1 - at)
        };
        let counts =
            |at: usize| left(at) || world.is_under_witness(at) && !world.servers[at].joining;
        let writable = |at: &usize| counts(*at) && world.is_writable(*at);
        let both = [0, 1].iter().all(writable);
        assert!(!both, "both servers can be written to under policy `witness`");
    }

    pub(crate) fn after_step(world: &mut World) {
        Self::never_two_writable(world);
        Self::split_is_seen(world);
        Self::apart_clocks_hold_records(world);
        for at in [0, 1] {
            let s = &world.servers[at];
            if s.serving && s.node.is_some() {
                let role = s.node.as_ref().and_then(ipicsha_core::Node::role);
                let giving_up = s.disk.role == Role::Standby;
                assert!(
                    role == Some(Role::Active) || giving_up || role.is_none(),
                    "a standby serves"
                );
            }
        }
    }

    /// The link was cut, if only for a moment between two steps: what counts from quiet begins anew.
    pub(crate) fn interrupted(&mut self) {
        self.visible_split_since = None;
        self.apart_since = None;
    }

    fn quiet(world: &World) -> bool {
        let whole = world.links.iter().all(|l| !l.cut && l.loss_per_mille == 0);
        whole
            && [0, 1].iter().all(|at| world.up(*at) && world.servers[*at].paused_until <= world.now)
    }

    fn held_for(since: &mut Option<u64>, holds: bool, now: u64) -> u64 {
        if !holds {
            *since = None;
            return 0;
        }
        now - *since.get_or_insert(now)
    }

    /// Two actives on a healed link both know within one interval (plus the travel time).
    fn split_is_seen(world: &mut World) {
        let both = [0, 1].iter().all(|at| world.role(*at) == Some(Role::Active));
        let holds = both && Self::quiet(world);
        let was = world.invariants.visible_split_since;
        let held = Self::held_for(&mut world.invariants.visible_split_since, holds, world.now);
        if holds && was.is_none() {
            world.invariants.splits += 1;
        }
        let travel = world.links.iter().map(|l| l.latency_us).max().unwrap_or(0) * 4;
        let longest = [0, 1].iter().map(|at| interval(world, *at)).max().unwrap_or(0);
        if held > longest + longest / 50 + travel + 5_000 {
            for at in [0, 1] {
                let state = world.state(at);
                assert!(
                    matches!(
                        state,
                        Some(
                            NodeState::SplitBrain
                                | NodeState::TakingOver
                                | NodeState::TakingBack
                                | NodeState::FailingOver
                                | NodeState::FallingBack
                        )
                    ),
                    "{at} is {state:?} and does not see that both are active"
                );
            }
        }
    }

    /// More than 30 s apart: nothing is merged by its stamp (spec D2).
    fn apart_clocks_hold_records(world: &mut World) {
        let offset = world.clock(0).wall.millis_since(world.clock(1).wall).abs();
        let holds = offset > 31_000 && Self::quiet(world);
        let held = Self::held_for(&mut world.invariants.apart_since, holds, world.now);
        let longest = [0, 1].iter().map(|at| interval(world, *at)).max().unwrap_or(0);
        if held > 3 * longest + 100_000 {
            for at in [0, 1] {
                assert_eq!(
                    world.servers[at].gate,
                    Gate::Closed,
                    "{at} replicates with clocks apart"
                );
            }
        }
    }
}

fn interval(world: &World, at: usize) -> u64 {
    let ha = world.servers[at].node.as_ref().and_then(|n| n.persisted().ha.config.clone());
    ha.map_or(1_000_000, |config| micros(config.timing.interval()))
}
