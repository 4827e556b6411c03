//! The simulated world: time, servers, links, disks, and the order in which things happen.

mod parts;
mod store;
mod witness;

pub(crate) use parts::pair_name;
use parts::{license, partner};

use std::{collections::BTreeMap, time::Duration};

use ipicsha_core::{
    ActivationFailed, Event, Gate, Input, Node, Output, ServiceKind, ServicesReport, Shutdown,
    Stage,
    admin::{AdminCommand, AdminReply, Refusal},
    config::{Automatic, NodeConfig, PartitionPolicy, Profile, Timing},
    id::{RequestId, ServerId},
    license::{Feature, License},
    machine,
    message::Control,
    state::{NodeState, NotReady, PersistedState, Reason, Role},
    status::{Alarm, LogForecast, PairStatus},
    time::{MonoTime, Now, WallTime},
};

use crate::{data::Store, invariants::Invariants};

/// Deterministic random numbers (splitmix64).
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// One direction of the link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) cut: bool,
    pub(crate) loss_per_mille: u64,
    pub(crate) latency_us: u64,
    /// Raised by every cut: what was in flight is lost.
    pub(crate) generation: u64,
    /// When the last message arrives: one connection keeps the order.
    last_arrival: u64,
}

enum Happening {
    Deliver { to: usize, control: Box<Control>, generation: u64 },
    AtWitness(witness::Word),
    Done { at: usize, boot: u64, input: Input },
    Ship,
    Measure,
}

pub(crate) struct Server {
    pub(crate) node: Option<Node>,
    pub(crate) config: NodeConfig,
    pub(crate) disk: PersistedState,
    pub(crate) boot: u64,
    pub(crate) wall_offset_ms: i64,
    drift_ppm: i64,
    pub(crate) paused_until: u64,
    pub(crate) store: Store,
    pub(crate) fenced: bool,
    /// Until when its databases let themselves be written to, by its own clock.
    pub(crate) allowed_until: Option<MonoTime>,
    /// Its databases were compared with the partner's since HA was configured.
    synced: bool,
    /// Its databases have the pair's triggers.
    captured: bool,
    /// HA has just been configured, and its databases are still open from before.
    pub(crate) joining: bool,
    pub(crate) serving: bool,
    pub(crate) gate: Gate,
    licenses: Vec<License>,
    pub(crate) exited: bool,
    pub(crate) last_heard: Option<MonoTime>,
    pub(crate) replies: BTreeMap<u64, Result<AdminReply, Refusal>>,
    pub(crate) time_synced: bool,
    /// Changes the transaction log holds.
    pub(crate) capacity: u64,
    /// What its logs are expected to do, as the shell measures it.
    pub(crate) forecast: LogForecast,
    /// Alarms that its history shows as raised.
    pub(crate) raised: Vec<Alarm>,
    /// Opening and closing of writes fails.
    pub(crate) stuck: bool,
    /// A service that does not run here, whoever starts it.
    pub(crate) broken: Option<ServiceKind>,
    /// It is known to be broken also while it is stopped.
    pub(crate) broken_when_stopped: bool,
    /// What the node was last told of its services; nothing since the start or a role change.
    services_told: Option<ServicesReport>,
    /// What the partner last said of itself.
    pub(crate) heard_not_ready: Option<Option<NotReady>>,
    /// A certificate that its shell renews, by the request that announced it.
    pub(crate) renewal: Option<(u64, Vec<u8>)>,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) servers: [Server; 2],
    pub(crate) links: [Link; 2],
    pub(crate) witness: witness::Witness,
    queue: BTreeMap<(u64, u64), Happening>,
    order: u64,
    requests: u64,
    versions: u64,
    pub(crate) parent: BTreeMap<u64, Option<u64>>,
    /// Crash in the middle of a list of outputs with this chance.
    pub(crate) crash_per_mille: u64,
    pub(crate) invariants: Invariants,
    pub(crate) trace: Vec<String>,
    pub(crate) timing: Timing,
    pub(crate) automatic: Automatic,
}

pub(crate) const PRIMARY: usize = 0;
pub(crate) const SECONDARY: usize = 1;

impl World {
    pub(crate) fn new(seed: u64, timing: Timing) -> Self {
        Self::new_with(seed, timing, Automatic::default())
    }

    pub(crate) fn new_with(seed: u64, timing: Timing, automatic: Automatic) -> Self {
        let mut rng = Rng(seed);
        let mut server = |index: usize| Server {
            node: None,
            config: NodeConfig {
                certificate: Vec::new(),
                certificate_end: None,
                server: ServerId(index as u64 + 1),
                name: ["alpha", "bravo"][index].into(),
                version: "1".into(),
                initialization_timeout: Duration::from_secs(120),
                automatic,
            },
            disk: PersistedState { partner: Some(partner(1 - index)), ..Default::default() },
            boot: 0,
            wall_offset_ms: rng.below(10_000) as i64 - 5_000,
            drift_ppm: rng.below(200) as i64 - 100,
            paused_until: 0,
            store: Store::default(),
            fenced: false,
            allowed_until: None,
            synced: false,
            captured: false,
            joining: false,
            serving: false,
            gate: Gate::Closed,
            licenses: match index {
                PRIMARY => vec![license(Feature::Base), license(Feature::PolicyEngineBase)],
                _ => vec![license(Feature::HighAvailability)],
            },
            exited: false,
            last_heard: None,
            replies: BTreeMap::new(),
            time_synced: true,
            capacity: 1_000_000,
            forecast: LogForecast::Unknown,
            raised: Vec::new(),
            stuck: false,
            broken: None,
            broken_when_stopped: false,
            services_told: None,
            heard_not_ready: None,
            renewal: None,
        };
        let servers = [server(0), server(1)];
        let link =
            Link { cut: false, loss_per_mille: 0, latency_us: 500, generation: 0, last_arrival: 0 };
        let mut world = Self {
            now: 1_000_000,
            rng,
            servers,
            links: [link; 2],
            witness: witness::Witness::default(),
            queue: BTreeMap::new(),
            order: 0,
            requests: 0,
            versions: 0,
            parent: BTreeMap::new(),
            crash_per_mille: 0,
            invariants: Invariants::default(),
            trace: Vec::new(),
            timing,
            automatic,
        };
        world.start(PRIMARY);
        world.start(SECONDARY);
        world.later(10_000, Happening::Ship);
        world.later(20_000, Happening::Measure);
        world
    }

    /// A pair that is configured and Ready.
    pub(crate) fn ready(seed: u64, timing: Timing, policy: PartitionPolicy) -> Self {
        Self::ready_with(seed, timing, policy, Automatic::default())
    }

    pub(crate) fn ready_with(
        seed: u64,
        timing: Timing,
        policy: PartitionPolicy,
        automatic: Automatic,
    ) -> Self {
        let mut world = Self::new_with(seed, timing, automatic);
        world.run(3_000_000);
        let config = world.agreed(policy, seed.is_multiple_of(2));
        let reply = world.ask(PRIMARY, AdminCommand::Configure(config));
        world.run(2_000_000 + 4 * micros(timing.interval()));
        assert_eq!(world.servers[PRIMARY].replies.get(&reply), Some(&Ok(AdminReply::Done)));
        assert_eq!(world.status_line(PRIMARY), "Ready");
        world
    }

    pub(crate) fn start(&mut self, at: usize) {
        let boot = self.rng.next();
        let now = self.clock(at);
        let server = &mut self.servers[at];
        server.boot = boot;
        server.exited = false;
        server.serving = false;
        server.gate = Gate::Closed;
        server.last_heard = None;
        server.heard_not_ready = None;
        server.renewal = None;
        server.services_told = None;
        server.paused_until = 0;
        server.node = Some(Node::new(server.config.clone(), server.disk.clone(), boot, now));
        let licenses = server.licenses.clone();
        let synced = server.time_synced;
        self.note(at, "starts");
        self.input(at, Input::Licenses(licenses));
        self.input(at, Input::TimeSynced(synced));
        self.measure(at);
    }

    /// The machine loses power: whatever was not persisted is gone.
    pub(crate) fn crash(&mut self, at: usize) {
        self.note(at, "CRASH");
        self.servers[at].node = None;
        self.servers[at].serving = false;
        self.servers[at].paused_until = 0;
        self.cut_flights(at);
        self.cut_flights(1 - at);
    }

    fn cut_flights(&mut self, from: usize) {
        self.links[from].generation += 1;
        self.links[from].last_arrival = 0;
    }

    pub(crate) fn set_cut(&mut self, from: usize, cut: bool) {
        if self.links[from].cut != cut {
            self.trace.push(format!("{} link from {from} cut={cut}", self.now));
        }
        self.links[from].cut = cut;
        if cut {
            self.invariants.interrupted();
            self.cut_flights(from);
        }
    }

    pub(crate) fn clock(&self, at: usize) -> Now {
        let server = &self.servers[at];
        let drifted = self.now as i64 + (self.now as i64 / 1_000_000) * server.drift_ppm;
        Now {
            mono: MonoTime(drifted as u64 + 7_000_000 * (at as u64 + 1)),
            wall: WallTime(1_700_000_000_000 + drifted / 1000 + server.wall_offset_ms),
        }
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), happening);
    }

    pub(crate) fn ask(&mut self, at: usize, command: AdminCommand) -> u64 {
        self.requests += 1;
        let request = self.requests;
        self.note(at, &format!("admin {request}: {command:?}"));
        self.input(at, Input::Admin(RequestId(request), command));
        request
    }

    /// The daemon ends and is started again at once.
    pub(crate) fn restart(&mut self, at: usize) {
        self.crash(at);
        self.start(at);
    }

    pub(crate) fn shut_down(&mut self, at: usize, how: Shutdown) {
        self.note(at, &format!("shutdown {how:?}"));
        self.input(at, Input::Shutdown(how));
    }

    pub(crate) fn up(&self, at: usize) -> bool {
        self.servers[at].node.is_some()
    }

    /// Runs and is not paused.
    pub(crate) fn awake(&self, at: usize) -> bool {
        self.up(at) && self.servers[at].paused_until <= self.now
    }

    pub(crate) fn role(&self, at: usize) -> Option<Role> {
        self.servers[at].node.as_ref().and_then(Node::role)
    }

    pub(crate) fn state(&self, at: usize) -> Option<NodeState> {
        self.shown(at).map(|(state, _)| state)
    }

    pub(crate) fn shown(&self, at: usize) -> Option<(NodeState, Reason)> {
        self.servers[at].node.as_ref().map(|node| node.state(self.clock(at)))
    }

    /// A pause that is on the disk is in force.
    pub(crate) fn paused(&self, at: usize) -> bool {
        let pause = &self.servers[at].disk.pause.pause;
        pause.as_ref().is_some_and(|pause| pause.until > self.clock(at).wall)
    }

    pub(crate) fn alarms(&self, at: usize) -> Vec<Alarm> {
        let clock = self.clock(at);
        self.servers[at].node.as_ref().map_or_else(Vec::new, |n| n.status(clock).alarms)
    }

    pub(crate) fn status(&self, at: usize) -> PairStatus {
        self.servers[at].node.as_ref().expect("it runs").status(self.clock(at))
    }

    /// Whether clients find this server by the addresses of the pair.
    pub(crate) fn is_found(&self, at: usize) -> bool {
        let now = self.clock(at).mono;
        self.servers[at].node.as_ref().is_some_and(|node| node.is_found(now))
    }

    /// Whether this server sends word of an alarm.
    pub(crate) fn sends(&self, at: usize, alarm: &Alarm) -> bool {
        let now = self.clock(at).mono;
        self.servers[at].node.as_ref().is_some_and(|node| node.sends(alarm, now))
    }

    pub(crate) fn status_line(&self, at: usize) -> String {
        let clock = self.clock(at);
        self.servers[at].node.as_ref().map_or_else(String::new, |n| n.status(clock).standby_status)
    }

    pub(crate) fn input(&mut self, at: usize, input: Input) {
        let now = self.clock(at);
        if let Some(node) = &mut self.servers[at].node {
            node.handle(now, input);
        }
        self.drain(at);
    }

    /// Carries out the outputs in order; a crash may come between any two.
    fn drain(&mut self, at: usize) {
        while let Some(output) = self.servers[at].node.as_mut().and_then(Node::poll_output) {
            if self.rng.chance(self.crash_per_mille) {
                return self.crash(at);
            }
            self.execute(at, output);
        }
        Invariants::after_step(self);
    }

    fn execute(&mut self, at: usize, output: Output) {
        match output {
            Output::Persist(state) => {
                Invariants::persisted(self, at, &state);
                self.servers[at].disk = *state;
            }
            Output::Send(control) => {
                Invariants::sent(self, at, &control);
                self.send(at, control);
            }
            Output::Reply(request, reply) => {
                self.note(at, &format!("reply {}: {reply:?}", request.0));
                self.servers[at].replies.insert(request.0, reply);
            }
            Output::Activate { .. } => {
                let result = self.attempt_activation(at);
                self.finish(at, 3_000, Input::Activated(result));
            }
            Output::Deactivate => {
                let result = self.attempt(at);
                self.finish(at, 3_000, Input::Deactivated(result));
            }
            Output::CloseWrites { limit } => {
                Invariants::closing(self, at);
                self.close_writes(at, limit);
            }
            Output::AskWitness { number, epoch, known, hold, keep } => {
                self.ask_witness(at, number, (epoch, known), (hold, keep));
            }
            Output::PingWitness { number } => self.ping_witness(at, number),
            Output::LeaveWitness { number } => self.leave_witness(at, number),
            Output::AllowWrites { until } => self.allow_writes(at, until),
            Output::Replicate(gate) => self.servers[at].gate = gate,
            Output::Record(Event::State { from, to, reason, epoch, .. }) => {
                assert!(machine::is_known(from, to), "the table has no {from} -> {to}");
                self.invariants.transitions.insert((from, to));
                self.note(at, &format!("{from} -> {to} ({reason}) epoch {epoch}"));
            }
            Output::Record(event) => {
                self.note(at, &format!("{event:?}"));
                if let Event::Raised { alarm } = event {
                    self.servers[at].raised.push(alarm);
                }
            }
            Output::Capture(on) => self.capture(at, on),
            Output::TrustChanged | Output::PinsChanged | Output::Compare(_) => {}
            Output::Exit => {
                self.note(at, "exits");
                let node = self.servers[at].node.as_mut();
                let after = node.and_then(Node::poll_output);
                assert_eq!(after, None, "nothing may follow the goodbye");
                self.servers[at].node = None;
                self.servers[at].serving = false;
                self.servers[at].exited = true;
            }
        }
    }

    fn send(&mut self, from: usize, control: Control) {
        let link = self.links[from];
        if link.cut || self.rng.chance(link.loss_per_mille) {
            return;
        }
        let delay = link.latency_us + self.rng.below(link.latency_us + 1);
        let arrival = (self.now + delay).max(link.last_arrival);
        self.links[from].last_arrival = arrival;
        let happening = Happening::Deliver {
            to: 1 - from,
            control: Box::new(control),
            generation: link.generation,
        };
        self.later(arrival - self.now, happening);
    }

    fn finish(&mut self, at: usize, delay: u64, input: Input) {
        let boot = self.servers[at].boot;
        self.later(delay, Happening::Done { at, boot, input });
    }

    /// Runs for `span` microseconds of true time.
    pub(crate) fn run(&mut self, span: u64) {
        let end = self.now + span;
        loop {
            let due = [0, 1].into_iter().filter_map(|at| self.due(at).map(|t| (t, at))).min();
            let next = self.queue.keys().next().copied();
            let queued = next.map_or(u64::MAX, |(at, _)| at);
            match due {
                Some((at_time, at)) if at_time < queued && at_time <= end => {
                    self.now = self.now.max(at_time);
                    let now = self.clock(at);
                    if let Some(node) = &mut self.servers[at].node {
                        node.handle_timeout(now);
                    }
                    self.drain(at);
                }
                _ if queued <= end => {
                    self.now = self.now.max(queued);
                    if let Some((_, happening)) = self.queue.pop_first() {
                        self.happen(happening);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// True time at which the node of `at` wants to be called.
    fn due(&self, at: usize) -> Option<u64> {
        let server = &self.servers[at];
        let (when, _) = server.node.as_ref()?.poll_timeout()?;
        let ahead = when.since(self.clock(at).mono);
        let scaled = ahead.as_micros() as i64 * (1_000_000 - server.drift_ppm) / 1_000_000;
        Some((self.now + scaled.max(0) as u64 + 1).max(server.paused_until))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { to, control, generation } => {
                let paused = self.servers[to].paused_until;
                if generation != self.links[1 - to].generation || !self.up(to) {
                    return;
                }
                if paused > self.now {
                    // It waits in the socket.
                    self.order += 1;
                    let at = (paused, self.order);
                    self.queue.insert(at, Happening::Deliver { to, control, generation });
                    return;
                }
                self.servers[to].last_heard = Some(self.clock(to).mono);
                if let Control::Beat(beat) = &*control {
                    self.servers[to].heard_not_ready = Some(beat.report.not_ready);
                    Invariants::told(self, to, &beat.report);
                }
                self.input(to, Input::Control(control));
            }
            Happening::Done { at, boot, input } => {
                let paused = self.servers[at].paused_until;
                if self.servers[at].boot != boot || !self.up(at) {
                    return;
                }
                if paused > self.now {
                    return self.finish(at, paused - self.now, input);
                }
                self.done(at, input);
            }
            Happening::AtWitness(word) => self.at_witness(word),
            Happening::Ship => {
                self.ship();
                self.later(10_000, Happening::Ship);
            }
            Happening::Measure => {
                self.measure(PRIMARY);
                self.measure(SECONDARY);
                self.later(100_000, Happening::Measure);
            }
        }
    }

    fn done(&mut self, at: usize, mut input: Input) {
        self.servers[at].services_told = None;
        match &input {
            Input::Activated(Ok(()) | Err(ActivationFailed { stage: Stage::Services, .. })) => {
                self.servers[at].fenced = false;
                self.servers[at].joining = false;
                self.servers[at].serving = true;
                Invariants::opened(self, at);
            }
            Input::Deactivated(Ok(())) => {
                self.servers[at].fenced = true;
                self.servers[at].joining = false;
                self.servers[at].serving = false;
            }
            Input::WritesClosed(Ok(())) if self.data_flows() => {
                self.ship();
                self.servers[at].fenced = true;
                self.servers[at].serving = false;
            }
            Input::WritesClosed(_) => {
                input = Input::WritesClosed(Err("the link was lost".to_owned()));
            }
            Input::Activated(Err(_))
            | Input::Deactivated(Err(_))
            | Input::Admin(..)
            | Input::Control(_)
            | Input::Heard
            | Input::LinkUp
            | Input::Data(_)
            | Input::Addresses(_)
            | Input::Directories(_)
            | Input::Services(_)
            | Input::TimeSynced(_)
            | Input::Licenses(_)
            | Input::Repaired
            | Input::Witness(..)
            | Input::Shutdown(_) => {}
        }
        self.input(at, input);
    }

    pub(crate) fn note(&mut self, at: usize, what: &str) {
        let name = ["alpha", "bravo"][at];
        self.trace.push(format!("{:>12} {name} {what}", self.now));
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

pub(crate) fn fast() -> Timing {
    Timing::new(Profile::Fast, Duration::from_millis(200), 5).expect("within the ranges")
}
