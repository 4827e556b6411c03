//! Random histories. Every test run drives 500 of them; a failing one prints how to replay it.

use std::{collections::BTreeSet, time::Duration};

use ipicsha_core::{
    Shutdown,
    admin::AdminCommand,
    config::{PartitionPolicy, Profile, Timing},
    state::{NodeState, Role},
};

use crate::world::{PRIMARY, SECONDARY, World, fast, micros};

const SEEDS: u64 = 500;
const STEPS: u64 = 400;

/// One thing that can happen to a pair.
fn disturb(world: &mut World) {
    let at = world.rng.below(2) as usize;
    match world.rng.below(40) {
        0..=2 => {
            let cut = world.rng.chance(500);
            world.set_cut(at, cut);
        }
        3..=4 => {
            let cut = world.rng.chance(400);
            world.set_cut(0, cut);
            world.set_cut(1, cut);
        }
        5 => world.links[at].loss_per_mille = [0, 0, 50, 300][world.rng.below(4) as usize],
        6 => world.links[at].latency_us = [200, 500, 20_000][world.rng.below(3) as usize],
        7 => world.crash(at),
        8..=10 => {
            for at in [0, 1] {
                if !world.up(at) && world.rng.chance(700) {
                    world.start(at);
                }
            }
        }
        11 if world.up(at) => {
            let pause = world.rng.below(4_000_000);
            let until = (world.now + pause).max(world.servers[at].paused_until);
            world.servers[at].paused_until = until;
            world.note(at, &format!("paused until {until}"));
        }
        12 => {
            let offset = world.rng.below(100_000) as i64 - 50_000;
            world.servers[at].wall_offset_ms = if world.rng.chance(700) { 0 } else { offset };
        }
        13 if world.awake(at) => world.shut_down(at, Shutdown::Restart),
        14 if world.awake(at) => world.shut_down(at, Shutdown::Stop),
        15..=17 if world.awake(at) => {
            let accept_data_loss = world.rng.chance(200);
            world.ask(at, AdminCommand::Failover { dry_run: false, accept_data_loss });
        }
        18..=19 if world.awake(at) => {
            world.ask(at, AdminCommand::GoStandby);
        }
        22 if world.awake(at) => {
            let interval = Duration::from_millis(200 + 100 * world.rng.below(8));
            let timing = Timing::new(Profile::Fast, interval, 5).expect("within the ranges");
            world.ask(at, AdminCommand::Update(timing));
        }
        22 if world.awake(at) => {
            let interval = Duration::from_millis(200 + 100 * world.rng.below(8));
            let timing = Timing::new(Profile::Fast, interval, 5).expect("within the ranges");
            world.ask(at, AdminCommand::Update(timing));
        }
        20 => world.crash_per_mille = [0, 0, 5][world.rng.below(3) as usize],
        21 => world.servers[at].stuck = world.rng.chance(500),
        _ => {
            for _ in 0..world.rng.below(4) {
                world.write(at);
            }
        }
    }
}

/// Everything works again; what is left must settle by itself, or by one go-standby.
fn recover(world: &mut World) {
    world.crash_per_mille = 0;
    for at in [0, 1] {
        world.set_cut(at, false);
        world.links[at].loss_per_mille = 0;
        world.links[at].latency_us = 500;
        world.servers[at].wall_offset_ms = 0;
        world.servers[at].stuck = false;
    }
    world.run(15_000_000); // an orderly stop that was asked for ends first
    for at in [0, 1] {
        if !world.up(at) {
            world.start(at);
        }
    }
    world.run(130_000_000);
    if [0, 1].iter().all(|at| world.state(*at) == Some(NodeState::SplitBrain)) {
        let request = world.ask(SECONDARY, AdminCommand::GoStandby);
        world.run(20_000_000);
        let reply = world.servers[SECONDARY].replies.get(&request);
        assert!(matches!(reply, Some(Ok(_))), "go-standby: {reply:?}");
    }
    world.run(20_000_000);
    let roles = [world.role(PRIMARY), world.role(SECONDARY)];
    let actives = roles.iter().filter(|role| **role == Some(Role::Active)).count();
    assert_eq!(actives, 1, "after recovery: {roles:?}");
    let active = usize::from(roles[SECONDARY] == Some(Role::Active));
    assert_eq!(world.status_line(active), "Ready");
}

/// Both sides hold the same, and no version is gone without a journal entry.
fn check_data(world: &World) {
    let [a, b] = &world.servers;
    assert_eq!(a.store.rows, b.store.rows, "the databases differ");
    let replaced: BTreeSet<u64> = world.parent.values().flatten().copied().collect();
    for id in world.parent.keys() {
        let kept = a.store.rows.values().any(|version| version.id == *id)
            || replaced.contains(id)
            || a.store.journal.contains(id)
            || b.store.journal.contains(id);
        assert!(kept, "version {id} was lost");
    }
}

pub(crate) fn history(seed: u64, trace: &mut Vec<String>) -> (u64, u64) {
    let policy = match seed % 5 {
        0 => PartitionPolicy::Manual,
        _ => PartitionPolicy::Availability,
    };
    let mut world = World::ready(seed, fast(), policy);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            disturb(&mut world);
            let span = world.rng.below(micros(world.timing.interval()));
            world.run(span);
        }
        recover(&mut world);
        check_data(&world);
    }));
    trace.append(&mut world.trace);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    (world.invariants.takeovers, world.invariants.splits)
}

/// Runs one seed and says how to replay it when it fails.
fn run_seed(seed: u64, show: bool) -> (u64, u64) {
    let mut trace = Vec::new();
    let result =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| history(seed, &mut trace)));
    if show || result.is_err() {
        let skip = if show { 0 } else { trace.len().saturating_sub(60) };
        for line in &trace[skip..] {
            eprintln!("{line}");
        }
    }
    match result {
        Ok(counts) => counts,
        Err(panic) => {
            eprintln!(
                "seed {seed} fails; replay it with: IPICSHA_SIM_SEED={seed} cargo nextest run -p \
                 ipicsha-core --test pair --no-capture one_seed"
            );
            std::panic::resume_unwind(panic)
        }
    }
}

#[test]
fn five_hundred_random_histories_keep_every_invariant() {
    let mut takeovers = 0;
    let mut splits = 0;
    for seed in 0..SEEDS {
        let counts = run_seed(seed, false);
        takeovers += counts.0;
        splits += counts.1;
    }
    eprintln!("SIM seeds={SEEDS} takeovers={takeovers} splits={splits} violations=0");
    // The histories must reach what they are for.
    assert!(takeovers > SEEDS / 2, "only {takeovers} takeovers");
    assert!(splits > SEEDS / 10, "only {splits} split brains");
}

/// Seeds that once failed stay for ever; `just sim SEED` replays one with its trace.
#[test]
#[allow(clippy::disallowed_methods)] // the seed to replay comes from `just sim`
fn one_seed() {
    if let Ok(seed) = std::env::var("IPICSHA_SIM_SEED") {
        run_seed(seed.parse().expect("IPICSHA_SIM_SEED is a number"), true);
    }
    for seed in include_str!("seeds.txt").lines().filter_map(|line| line.parse().ok()) {
        run_seed(seed, false);
    }
}
