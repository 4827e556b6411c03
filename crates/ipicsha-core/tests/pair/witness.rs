//! Policy `witness`: never two servers that can be written to, and losing only the witness changes
//! nothing.

use ipicsha_core::{
    Shutdown, WitnessAnswer,
    admin::{AdminCommand, AdminReply, Refusal},
    config::PartitionPolicy,
    epoch::Epoch,
    state::{NodeState, Role},
    status::Alarm,
};

use crate::world::{PRIMARY, SECONDARY, World, fast};

const SECOND: u64 = 1_000_000;

fn pair() -> World {
    World::ready(2, fast(), PartitionPolicy::Witness)
}

fn cut(world: &mut World, cut: bool) {
    world.set_cut(PRIMARY, cut);
    world.set_cut(SECONDARY, cut);
}

fn has(world: &World, at: usize, is: impl Fn(&Alarm) -> bool) -> bool {
    world.alarms(at).iter().any(is)
}

fn is_down(alarm: &Alarm) -> bool {
    matches!(alarm, Alarm::WitnessDown { .. })
}

#[test]
fn a_cut_between_the_servers_leaves_the_active_active() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(30 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    assert!(world.write(PRIMARY) && !world.write(SECONDARY));
    cut(&mut world, false);
    world.run(5 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal));
    assert_eq!(world.status_line(PRIMARY), "Ready");
    assert_eq!(world.invariants.splits, 0);
}

/// Each was active last by what it knows itself: alpha by the word of bravo, which alpha lost power over
/// before anybody heard of it, bravo by the witness's grant after that.
#[test]
fn a_server_that_restarts_gives_its_word_only_when_its_own_right_has_lapsed() {
    let mut world = pair();
    world.crash(PRIMARY);
    world.run(10 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
    let later = Epoch(world.servers[SECONDARY].disk.epoch.0 + 1);
    world.servers[PRIMARY].disk.epoch = later;
    world.crash(SECONDARY);
    world.start(PRIMARY);
    world.start(SECONDARY);
    // That never both can be written to is looked at after every step.
    world.run(300_000);
    assert!(world.is_writable(SECONDARY), "an application writes on beside its dead daemon");
    assert!(!world.is_writable(PRIMARY));
    world.run(20 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert_eq!(world.status_line(PRIMARY), "Ready");
}

#[test]
fn a_fenced_active_does_not_serve_beside_a_partner_that_restarts_with_a_right() {
    let mut world = pair();
    cut(&mut world, true);
    world.witness.cut[PRIMARY] = true;
    while world.role(SECONDARY) != Some(Role::Active) {
        world.run(10_000);
    }
    world.run(100_000);
    assert!(world.is_writable(SECONDARY) && !world.is_writable(PRIMARY));
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    cut(&mut world, false);
    world.restart(SECONDARY);
    // That never both can be written to is looked at after every step.
    world.run(20 * SECOND);
    let active = [PRIMARY, SECONDARY].map(|at| world.role(at) == Some(Role::Active));
    assert_eq!(active.iter().filter(|active| **active).count(), 1, "{active:?}");
}

#[test]
fn an_active_that_is_cut_off_from_both_is_fenced_before_the_standby_takes_over() {
    let mut world = pair();
    cut(&mut world, true);
    world.witness.cut[PRIMARY] = true;
    let d = 1_000;
    for _ in 0..d + 500 {
        world.run(1_000);
        let writable = [PRIMARY, SECONDARY].map(|at| world.is_writable(at));
        assert_ne!(writable, [true, true]);
    }
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    assert!(has(&world, PRIMARY, |alarm| *alarm == Alarm::Fenced));
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode));
    assert!(world.write(SECONDARY) && !world.write(PRIMARY));
    // Also with the way to the witness, who has granted the role to the other one.
    world.witness.cut[PRIMARY] = false;
    world.run(10 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    cut(&mut world, false);
    world.run(3 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::FailedOver));
    assert_eq!(world.status_line(SECONDARY), "Ready");
}

#[test]
fn without_the_witness_alone_no_role_changes() {
    let mut world = pair();
    world.witness.down = true;
    world.run(60 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal));
    assert!(world.write(PRIMARY));
    assert!(has(&world, PRIMARY, is_down), "the active asks it all the time");
    let request =
        world.ask(PRIMARY, AdminCommand::Failover { dry_run: false, accept_data_loss: false });
    world.run(2 * SECOND);
    let reply = &world.servers[PRIMARY].replies[&request];
    assert!(matches!(reply, Ok(AdminReply::FailedOver { .. })), "{reply:?}");
    world.run(10 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active), "the partner's word is enough");
    world.restart_witness();
    world.run(2 * SECOND);
    assert!(!has(&world, SECONDARY, is_down));
}

#[test]
fn the_standby_takes_over_from_a_dead_active_after_d_and_a_little() {
    let mut world = pair();
    world.crash(PRIMARY);
    world.run(1_500_000);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
    assert!(!world.is_writable(PRIMARY), "its databases refuse writes by themselves");
    world.start(PRIMARY);
    world.run(3 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::FailedOver));
}

#[test]
fn nobody_takes_over_without_the_witness() {
    let mut world = pair();
    world.witness.cut[SECONDARY] = true;
    world.crash(PRIMARY);
    world.run(30 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    assert!(has(&world, SECONDARY, is_down));
    let force = AdminCommand::Failover { dry_run: false, accept_data_loss: true };
    let request = world.ask(SECONDARY, force.clone());
    world.run(SECOND);
    let reply = &world.servers[SECONDARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::NoRight(_))), "{reply:?}");
    world.witness.cut[SECONDARY] = false;
    world.run(2 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn an_administrator_does_not_outvote_a_witness_who_knows_that_the_other_is_active() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(3 * SECOND);
    let force = AdminCommand::Failover { dry_run: false, accept_data_loss: true };
    let request = world.ask(SECONDARY, force);
    world.run(SECOND);
    let reply = &world.servers[SECONDARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::NoRight(_))), "{reply:?}");
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
}

#[test]
fn a_fenced_active_serves_again_when_the_witness_is_back() {
    let mut world = pair();
    world.witness.down = true;
    world.run(2 * SECOND);
    cut(&mut world, true);
    world.run(5 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    world.witness.cut[SECONDARY] = true;
    world.restart_witness();
    world.run(3 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert!(world.write(PRIMARY));
}

#[test]
fn a_fenced_active_serves_again_when_the_partner_is_back() {
    let mut world = pair();
    world.witness.down = true;
    cut(&mut world, true);
    world.run(5 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    cut(&mut world, false);
    world.run(3 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal));
    assert_eq!(world.status_line(PRIMARY), "Ready");
}

#[test]
fn a_daemon_that_is_frozen_leaves_databases_that_refuse_writes() {
    let mut world = pair();
    world.servers[PRIMARY].paused_until = world.now + 20 * SECOND;
    world.run(3 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
    assert!(!world.is_writable(PRIMARY) && world.write(SECONDARY));
    world.run(25 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::FailedOver));
}

#[test]
fn an_orderly_stop_hands_over_at_once_also_without_the_witness() {
    let mut world = pair();
    world.witness.down = true;
    world.run(2 * SECOND);
    world.shut_down(PRIMARY, Shutdown::Stop);
    world.run(300_000);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
    // Alone without the witness it is fenced as any other.
    world.run(5 * SECOND);
    assert_eq!(world.state(SECONDARY), Some(NodeState::Fenced));
}

#[test]
fn a_witness_that_lies_about_its_epoch_is_as_good_as_none() {
    let mut world = pair();
    let (epoch, left) = (Epoch(u64::MAX), std::time::Duration::ZERO);
    world.witness.lie = Some(WitnessAnswer::Refused { epoch, left, kept: false });
    world.run(10 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal));
    assert!(has(&world, PRIMARY, is_down));
    world.witness.lie = None;
    world.run(2 * SECOND);
    assert!(!has(&world, PRIMARY, is_down));
    assert!(world.servers[PRIMARY].disk.epoch < Epoch(100));
}

#[test]
fn a_witness_that_has_forgotten_everything_stops_nobody() {
    let mut world = pair();
    world.witness = Default::default();
    world.run(3 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal));
    world.crash(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn an_orderly_stop_leaves_a_partner_that_serves_on() {
    let mut world = pair();
    world.run(2 * SECOND);
    world.shut_down(PRIMARY, Shutdown::Stop);
    for _ in 0..100 {
        world.run(100_000);
        assert_eq!(world.role(SECONDARY), Some(Role::Active), "it was fenced meanwhile");
    }
    world.start(PRIMARY);
    world.run(5 * SECOND);
    assert_eq!(world.status_line(SECONDARY), "Ready");
}

#[test]
fn a_server_that_was_replaced_does_not_serve_its_old_data() {
    let mut world = pair();
    cut(&mut world, true);
    world.witness.cut[PRIMARY] = true;
    world.run(3 * SECOND);
    assert!(world.write(SECONDARY));
    world.crash(SECONDARY);
    world.witness.cut[PRIMARY] = false;
    world.run(30 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    world.restart(PRIMARY);
    world.run(300 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Standby), "a restart forgets nothing");
    let force = AdminCommand::Failover { dry_run: false, accept_data_loss: true };
    let request = world.ask(PRIMARY, force);
    world.run(2 * SECOND);
    assert_eq!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::TookOver));
}

#[test]
fn a_lone_active_whose_daemon_restarts_serves_again_at_once() {
    let mut world = pair();
    world.crash(SECONDARY);
    world.run(5 * SECOND);
    world.restart(PRIMARY);
    world.run(3 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
}

#[test]
fn a_pause_keeps_no_server_fenced() {
    let mut world = pair();
    let limit = std::time::Duration::from_secs(600);
    world.ask(PRIMARY, AdminCommand::Pause { reason: "work".into(), limit });
    world.run(2 * SECOND);
    world.witness.down = true;
    cut(&mut world, true);
    world.run(5 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    world.restart_witness();
    world.run(5 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
}

#[test]
fn a_standby_says_that_its_witness_does_not_answer() {
    let mut world = pair();
    world.run(SECOND);
    assert_eq!(world.status(SECONDARY).witness.as_deref(), Some(""));
    world.witness.cut[SECONDARY] = true;
    world.run(SECOND);
    assert!(has(&world, SECONDARY, is_down) && !has(&world, PRIMARY, is_down));
    world.witness.cut[SECONDARY] = false;
    world.run(SECOND);
    assert!(!has(&world, SECONDARY, is_down));
}

#[test]
fn a_wall_clock_that_is_set_ends_no_right() {
    let mut world = pair();
    let until = world.servers[PRIMARY].allowed_until;
    world.servers[PRIMARY].wall_offset_ms -= 20_000;
    world.run(150_000);
    assert!(world.servers[PRIMARY].allowed_until >= until, "it is told again by the new clock");
    world.run(SECOND);
    assert!(world.is_writable(PRIMARY));
}
