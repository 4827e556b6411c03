//! HA ends under policy `witness` while the active one serves on: the partner never takes over then.

use std::{collections::BTreeSet, time::Duration};

use ipicsha_core::{
    admin::{AdminCommand, AdminReply, Refusal},
    config::PartitionPolicy,
    state::{NodeState, Role},
    status::Alarm,
};

use crate::world::{PRIMARY, SECONDARY, World, fast};

const SECOND: u64 = 1_000_000;
const FORCE: AdminCommand = AdminCommand::Failover { dry_run: false, accept_data_loss: true };

fn pair() -> World {
    World::ready(2, fast(), PartitionPolicy::Witness)
}

fn cut(world: &mut World, cut: bool) {
    world.set_cut(PRIMARY, cut);
    world.set_cut(SECONDARY, cut);
}

fn fill_log(world: &mut World) {
    world.servers[PRIMARY].capacity = 10;
    for _ in 0..12 {
        assert!(world.write(PRIMARY));
    }
}

/// The witness keeps the role for the active one, which did not hear of it; HA goes on, and only the way to
/// the witness is still cut there.
fn kept_in_vain() -> World {
    let mut world = pair();
    cut(&mut world, true);
    world.run(3 * SECOND);
    fill_log(&mut world);
    while !world.servers[PRIMARY].disk.kept {
        world.run(100);
    }
    world.witness.cut[PRIMARY] = true;
    world.run(3 * SECOND);
    assert!(world.witness.keeps(), "the question arrived, the answer did not");
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    world.servers[PRIMARY].capacity = 1_000_000;
    world.run(SECOND / 2);
    cut(&mut world, false);
    world.run(3 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal), "HA goes on");
    world
}

/// HA begins anew between the two.
fn configure_again(world: &mut World) {
    world.servers[PRIMARY].capacity = 1_000_000;
    let config = world.agreed(PartitionPolicy::Witness, true);
    let request = world.ask(PRIMARY, AdminCommand::Configure(config));
    world.run(5 * SECOND);
    assert_eq!(world.servers[PRIMARY].replies.get(&request), Some(&Ok(AdminReply::Done)));
    assert_eq!(world.status_line(PRIMARY), "Ready");
}

#[test]
fn a_full_log_ends_ha_without_a_second_active() {
    let mut world = pair();
    world.servers[PRIMARY].capacity = 10;
    cut(&mut world, true);
    world.run(3 * SECOND);
    for _ in 0..12 {
        assert!(world.write(PRIMARY));
    }
    world.run(20 * SECOND);
    assert_eq!(world.role(PRIMARY), None, "the application would be blocked in the end");
    assert!(world.is_writable(PRIMARY) && !world.is_writable(SECONDARY));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    cut(&mut world, false);
    world.run(5 * SECOND);
    assert_eq!(world.role(SECONDARY), None, "it hears of it");
    assert!(!world.servers[PRIMARY].disk.kept, "the witness keeps it for ever");
}

#[test]
fn a_full_log_ends_nothing_where_the_witness_does_not_answer() {
    let mut world = pair();
    world.servers[PRIMARY].capacity = 10;
    world.witness.down = true;
    cut(&mut world, true);
    for _ in 0..8 {
        assert!(world.write(PRIMARY));
    }
    world.run(SECOND);
    world.servers[PRIMARY].capacity = 4;
    world.run(20 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    assert!(!world.is_writable(PRIMARY));
}

#[test]
fn unconfiguring_a_lone_active_goes_by_the_witness() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(3 * SECOND);
    let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
    world.run(20 * SECOND);
    assert_eq!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::Unconfirmed));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    let request = world.ask(SECONDARY, FORCE);
    world.run(SECOND);
    let reply = &world.servers[SECONDARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::NoRight(_))), "{reply:?}");
}

#[test]
fn what_the_witness_kept_does_not_come_back_with_its_restart() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(3 * SECOND);
    fill_log(&mut world);
    world.run(3 * SECOND);
    assert_eq!(world.role(PRIMARY), None);
    cut(&mut world, false);
    world.run(3 * SECOND);
    assert!(!world.servers[PRIMARY].disk.kept);
    world.restart_witness();
    configure_again(&mut world);
    world.crash(PRIMARY);
    world.run(3 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn a_witness_whose_word_was_lost_keeps_nothing_while_ha_goes_on() {
    let mut world = kept_in_vain();
    world.witness.cut[PRIMARY] = false;
    world.run(3 * SECOND);
    assert!(!world.witness.keeps() && !world.servers[PRIMARY].disk.kept);
    world.crash(PRIMARY);
    world.run(3 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn a_standby_for_whom_the_witness_keeps_the_role_gives_it_back() {
    let mut world = kept_in_vain();
    let request =
        world.ask(PRIMARY, AdminCommand::Failover { dry_run: false, accept_data_loss: false });
    world.run(3 * SECOND);
    assert!(matches!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::FailedOver { .. })));
    assert!(world.witness.keeps());
    world.witness.cut[PRIMARY] = false;
    world.run(3 * SECOND);
    assert!(!world.witness.keeps() && !world.servers[PRIMARY].disk.kept);
    cut(&mut world, true);
    world.run(5 * SECOND);
    assert!(world.write(SECONDARY), "the witness answers it");
}

#[test]
fn without_the_witness_the_partner_promises_not_to_take_over() {
    let mut seen = BTreeSet::new();
    for cut_after_us in (0..40_000).step_by(500) {
        let mut world = pair();
        world.witness.down = true;
        world.run(2 * SECOND);
        let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
        world.run(cut_after_us);
        cut(&mut world, true);
        world.witness.down = false;
        world.witness.cut[PRIMARY] = true;
        world.run(5 * SECOND);
        // Whoever has heard what: only one of them may be written to, which the invariants watch.
        cut(&mut world, false);
        world.run(5 * SECOND);
        let roles = [PRIMARY, SECONDARY].map(|at| world.role(at));
        let reply = world.servers[PRIMARY].replies.get(&request);
        let done = reply == Some(&Ok(AdminReply::Done)) && roles == [None, None];
        let refused = matches!(reply, Some(Err(Refusal::NoRight(_))));
        let actives = roles.iter().filter(|role| **role == Some(Role::Active)).count();
        assert!(done || refused && actives == 1, "{reply:?}, {roles:?} after {cut_after_us} us");
        assert!([PRIMARY, SECONDARY].iter().any(|at| world.servers[*at].serving));
        seen.insert((done, roles));
    }
    assert_eq!(seen.len(), 3, "before, between and after the two words: {seen:?}");
}

#[test]
fn a_server_that_promised_and_is_left_alone_is_told_what_helps() {
    let mut world = pair();
    world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
    while world.servers[SECONDARY].disk.yields.is_none() {
        world.run(100);
    }
    world.crash(PRIMARY);
    world.run(10 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby), "the other one may go on alone");
    let needed = |alarm: &Alarm| matches!(alarm, Alarm::TakeoverNeeded { .. });
    let alarm = world.alarms(SECONDARY).into_iter().find(needed).expect("an alarm");
    let action = alarm.action().unwrap();
    assert!(action.contains("unconfigure --force") && !action.contains("failover"), "{action}");
    let failover = world.ask(SECONDARY, FORCE);
    let unconfigure = world.ask(SECONDARY, AdminCommand::Unconfigure { force: true });
    world.run(10 * SECOND);
    let reply = |request| world.servers[SECONDARY].replies.get(&request);
    assert!(matches!(reply(failover), Some(Err(Refusal::Yields(_)))), "{:?}", reply(failover));
    assert_eq!(reply(unconfigure), Some(&Ok(AdminReply::Unconfirmed)));
    assert_eq!(world.role(SECONDARY), None);
}

#[test]
fn unconfigure_needs_no_witness_where_the_partner_answers() {
    for down in [false, true] {
        let mut world = pair();
        world.witness.down = down;
        world.run(2 * SECOND);
        let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
        world.run(SECOND);
        assert_eq!(world.servers[PRIMARY].replies.get(&request), Some(&Ok(AdminReply::Done)));
        assert_eq!([world.role(PRIMARY), world.role(SECONDARY)], [None, None]);
        assert!(!world.witness.keeps());
    }
}

#[test]
fn nothing_else_begins_while_ha_is_about_to_end() {
    let mut world = pair();
    world.servers[SECONDARY].paused_until = world.now + SECOND / 2;
    let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
    world.run(1_000);
    let planned = AdminCommand::Failover { dry_run: false, accept_data_loss: false };
    let failover = world.ask(PRIMARY, planned);
    assert_eq!(world.servers[PRIMARY].replies.get(&failover), Some(&Err(Refusal::Busy)));
    world.run(5 * SECOND);
    assert!(world.servers[PRIMARY].replies[&request].is_ok());
}

#[test]
fn unconfigure_is_refused_when_neither_the_partner_nor_the_witness_answers() {
    let mut world = pair();
    world.witness.down = true;
    cut(&mut world, true);
    world.run(3 * SECOND);
    let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
    world.run(5 * SECOND);
    let reply = &world.servers[PRIMARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::NoRight(_))), "{reply:?}");
    cut(&mut world, false);
    world.run(5 * SECOND);
    assert_eq!(world.status_line(PRIMARY), "Ready");
}

#[test]
fn a_standby_that_is_alone_leaves_the_pair_by_the_witness_or_by_force() {
    for (witness, force) in [(true, false), (false, false), (false, true)] {
        let mut world = pair();
        world.witness.down = !witness;
        // Its partner is switched off while an administrator's pause keeps the roles.
        let pause = AdminCommand::Pause { reason: "work".into(), limit: Duration::from_secs(600) };
        world.ask(SECONDARY, pause);
        world.run(SECOND);
        world.crash(PRIMARY);
        world.run(2 * SECOND);
        let request = world.ask(SECONDARY, AdminCommand::Unconfigure { force });
        world.run(20 * SECOND);
        let reply = &world.servers[SECONDARY].replies[&request];
        if witness || force {
            assert_eq!(reply, &Ok(AdminReply::Unconfirmed));
            assert_eq!(world.role(SECONDARY), None);
            assert_eq!(world.witness.keeps(), witness);
        } else {
            assert!(matches!(reply, Err(Refusal::NoRight(_))), "{reply:?}");
            assert_eq!(world.role(SECONDARY), Some(Role::Standby));
        }
    }
}

#[test]
fn a_standby_does_not_leave_while_the_other_one_is_active() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(3 * SECOND);
    let request = world.ask(SECONDARY, AdminCommand::Unconfigure { force: false });
    world.run(20 * SECOND);
    let reply = &world.servers[SECONDARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::NoRight(_))), "{reply:?}");
    assert!(world.write(PRIMARY));
}

#[test]
fn a_certificate_for_which_the_witness_keeps_the_role_is_not_renewed() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(3 * SECOND);
    fill_log(&mut world);
    world.run(3 * SECOND);
    world.witness.down = true;
    cut(&mut world, false);
    world.run(3 * SECOND);
    assert_eq!(world.role(SECONDARY), None);
    let renew = AdminCommand::AnnounceCertificate(vec![1]);
    let request = world.ask(PRIMARY, renew.clone());
    assert_eq!(world.servers[PRIMARY].replies.get(&request), Some(&Err(Refusal::KeptByWitness)));
    world.witness.down = false;
    world.run(3 * SECOND);
    let request = world.ask(PRIMARY, renew);
    world.run(3 * SECOND);
    assert!(world.servers[PRIMARY].replies[&request].is_ok());
}

#[test]
fn a_log_that_fills_on_a_server_that_is_fenced_does_not_leave_its_services_stopped() {
    let mut world = pair();
    world.witness.down = true;
    cut(&mut world, true);
    fill_log(&mut world);
    world.run(5 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Fenced));
    cut(&mut world, false);
    world.run(5 * SECOND);
    // Once the partner has the changes there is room again.
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal));
    assert!(world.servers[PRIMARY].serving && world.write(PRIMARY));
}

#[test]
fn a_full_log_that_cannot_end_ha_blocks_no_administrator() {
    let mut world = pair();
    world.witness.down = true;
    world.servers[SECONDARY].stuck = true;
    world.run(2 * SECOND);
    world.servers[SECONDARY].fenced = false; // it could not close
    world.run(SECOND);
    fill_log(&mut world);
    world.run(SECOND / 2);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: true });
    world.run(20 * SECOND);
    assert!(world.servers[PRIMARY].replies[&request].is_ok());
    assert_eq!(world.role(PRIMARY), None);
}
