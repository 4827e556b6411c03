//! The reference's stories, each with exact outcomes.

use std::time::Duration;

use ipicsha_core::{
    DirectoryReport, Input, Shutdown,
    admin::{AdminCommand, AdminReply, Refusal},
    config::{HaConfig, PartitionPolicy, Profile, Timing},
    state::{NodeState, Reason, Role},
    status::{Alarm, LogForecast},
};

use crate::world::{PRIMARY, SECONDARY, World, fast, micros, pair_name};

const SECOND: u64 = 1_000_000;

fn pair() -> World {
    World::ready(2, fast(), PartitionPolicy::Availability)
}

fn failover() -> AdminCommand {
    AdminCommand::Failover { dry_run: false, accept_data_loss: false }
}

fn cut(world: &mut World, cut: bool) {
    world.set_cut(PRIMARY, cut);
    world.set_cut(SECONDARY, cut);
}

/// Writes on both sides of a cut link, until both are active.
fn split(world: &mut World) {
    cut(world, true);
    world.run(2 * SECOND);
    assert!(world.write(PRIMARY) && world.write(SECONDARY));
    cut(world, false);
}

#[test]
fn spec_b1_configure_makes_the_primary_active_and_the_standby_ready() {
    let world = pair();
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    assert!(world.servers[SECONDARY].fenced && !world.servers[PRIMARY].fenced);
}

#[test]
fn spec_b2_the_standby_takes_over_after_d_and_not_before() {
    let slowest = Timing::new(Profile::Standard, Duration::from_secs(5), 5).unwrap();
    let mut world = World::ready(4, slowest, PartitionPolicy::Availability);
    world.run(60 * SECOND);
    world.crash(PRIMARY);
    world.run(19 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby), "too early");
    world.run(7 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode));
}

#[test]
fn spec_b6_the_old_active_comes_back_as_standby() {
    let mut world = pair();
    world.crash(PRIMARY);
    world.run(2 * SECOND);
    world.start(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Standby));
    assert_eq!(world.state(PRIMARY), Some(NodeState::FailedOver));
    assert_eq!(world.status_line(SECONDARY), "Ready");
    assert!(world.servers[PRIMARY].fenced);
}

#[test]
fn a_restart_within_d_changes_no_role() {
    let mut world = pair();
    world.crash(PRIMARY);
    world.run(300_000);
    world.start(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
}

#[test]
fn an_announced_restart_has_ten_seconds_of_grace() {
    let mut world = pair();
    world.shut_down(PRIMARY, Shutdown::Restart);
    world.run(9 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    world.start(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    world.shut_down(PRIMARY, Shutdown::Restart);
    world.run(12 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active), "it did not come back");
}

#[test]
fn an_orderly_stop_hands_over_at_once() {
    let mut world = pair();
    world.write(PRIMARY);
    world.shut_down(PRIMARY, Shutdown::Stop);
    world.run(200_000);
    assert!(!world.up(PRIMARY));
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
    assert_eq!(world.status_line(SECONDARY), "Not Ready: its partner is not reachable");
    assert_eq!(world.servers[0].store.rows, world.servers[1].store.rows);
}

#[test]
fn spec_b5_failover_swaps_the_roles_and_back() {
    let mut world = pair();
    for (from, to) in [(PRIMARY, SECONDARY), (SECONDARY, PRIMARY)] {
        world.write(from);
        let request = world.ask(from, failover());
        world.run(SECOND);
        let reply = world.servers[from].replies[&request].clone();
        assert!(matches!(reply, Ok(AdminReply::FailedOver { .. })), "{reply:?}");
        assert_eq!(world.role(from), Some(Role::Standby));
        assert_eq!(world.role(to), Some(Role::Active));
        assert_eq!(world.servers[0].store.rows, world.servers[1].store.rows);
    }
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal));
}

#[test]
fn a_failover_that_loses_the_link_is_rolled_back() {
    let mut world = pair();
    let request = world.ask(PRIMARY, failover());
    cut(&mut world, true);
    world.run(500_000);
    cut(&mut world, false);
    world.run(3 * SECOND);
    let reply = &world.servers[PRIMARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::RolledBack(_))), "{reply:?}");
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert!(world.write(PRIMARY));
}

#[test]
fn spec_d1_both_stay_active_after_a_split_until_go_standby() {
    let mut world = pair();
    split(&mut world);
    world.run(10 * SECOND);
    for at in [PRIMARY, SECONDARY] {
        assert_eq!(world.state(at), Some(NodeState::SplitBrain));
    }
    let request = world.ask(SECONDARY, AdminCommand::GoStandby);
    world.run(2 * SECOND);
    assert_eq!(world.servers[SECONDARY].replies[&request], Ok(AdminReply::Done));
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    assert_eq!(world.servers[0].store.rows, world.servers[1].store.rows);
    let [a, b] = [0, 1].map(|at| world.servers[at].disk.epoch);
    assert_eq!(a, b, "the standby knows the epoch of the active");
}

#[test]
fn spec_d1_each_server_shows_what_both_did_in_a_split_brain() {
    let mut world = pair();
    world.restart(PRIMARY); // who is active stays so, and since when
    world.run(5 * SECOND);
    // Each tells of itself by its own clock.
    let [cut_alpha, cut_bravo] = [PRIMARY, SECONDARY].map(|at| world.clock(at).wall.0);
    cut(&mut world, true);
    world.run(2 * SECOND);
    world.restart(PRIMARY); // nobody tells it meanwhile
    world.run(150 * SECOND);
    assert!(world.write(PRIMARY) && world.write(SECONDARY));
    cut(&mut world, false);
    world.run(10 * SECOND);
    for at in [PRIMARY, SECONDARY] {
        let split = world.status(at).split_brain.expect("it is split");
        let [own, theirs] = &split.timelines[..] else { panic!("{:?}", split.timelines) };
        let (alpha, bravo) = if at == PRIMARY { (own, theirs) } else { (theirs, own) };
        assert_eq!((&*alpha.server, &*bravo.server), ("alpha", "bravo"));
        assert!(alpha.active_since_unix_ms.is_some_and(|since| since < cut_alpha), "{alpha:?}");
        assert!(bravo.active_since_unix_ms.is_some_and(|since| since > cut_bravo), "{bravo:?}");
        assert_eq!(bravo.active_because, Some(Reason::PeerDown));
        for (side, cut_at) in [(alpha, cut_alpha), (bravo, cut_bravo)] {
            assert_eq!(side.changes, 1, "{side:?}");
            assert!(side.first_change_unix_ms.is_some_and(|first| first > cut_at), "{side:?}");
            assert_eq!(side.first_change_unix_ms, side.last_change_unix_ms, "{side:?}");
        }
    }
}

#[test]
fn a_split_in_which_one_side_wrote_nothing_heals_by_itself() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(2 * SECOND);
    assert!(world.write(SECONDARY));
    cut(&mut world, false);
    world.run(3 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Standby));
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
    assert!(!world.servers[PRIMARY].disk.repair_due, "nothing is left to repair");
}

#[test]
fn a_one_way_cut_gives_the_same_verdict() {
    for from in [PRIMARY, SECONDARY] {
        let mut world = pair();
        world.set_cut(from, true);
        world.run(2 * SECOND);
        let expected = if from == PRIMARY { Role::Active } else { Role::Standby };
        assert_eq!(world.role(SECONDARY), Some(expected), "cut from {from}");
    }
}

#[test]
fn a_paused_standby_does_not_take_over_when_it_wakes() {
    let mut world = pair();
    world.servers[SECONDARY].paused_until = world.now + 60 * SECOND;
    world.run(61 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
}

#[test]
fn both_dead_the_last_active_one_returns() {
    for first in [PRIMARY, SECONDARY] {
        let mut world = pair();
        world.crash(PRIMARY);
        world.crash(SECONDARY);
        world.run(SECOND);
        world.start(first);
        world.run(30 * SECOND);
        assert_eq!(world.role(first), Some(Role::Standby), "alone it waits");
        world.start(1 - first);
        world.run(2 * SECOND);
        assert_eq!(world.role(PRIMARY), Some(Role::Active));
        assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    }
}

#[test]
fn spec_b9_the_last_active_one_goes_on_alone_after_the_initialisation_timeout() {
    let mut world = pair();
    world.crash(PRIMARY);
    world.crash(SECONDARY);
    world.start(PRIMARY);
    world.run(119 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Standby));
    world.run(3 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    let mut world = pair();
    world.crash(PRIMARY);
    world.crash(SECONDARY);
    world.start(SECONDARY);
    world.run(300 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby), "it was standby: it waits for a word");
    let forced = AdminCommand::Failover { dry_run: false, accept_data_loss: true };
    let request = world.ask(SECONDARY, forced);
    world.run(SECOND);
    assert_eq!(world.servers[SECONDARY].replies[&request], Ok(AdminReply::TookOver));
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn policy_manual_waits_for_the_administrator() {
    let mut world = World::ready(2, fast(), PartitionPolicy::Manual);
    world.crash(PRIMARY);
    world.run(10 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    let refused = world.ask(SECONDARY, failover());
    assert_eq!(world.servers[SECONDARY].replies[&refused], Err(Refusal::DataLoss { known: 0 }));
    let forced = AdminCommand::Failover { dry_run: false, accept_data_loss: true };
    world.ask(SECONDARY, forced);
    world.run(SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn writes_that_do_not_close_or_open_are_tried_again() {
    let mut world = pair();
    world.crash(PRIMARY);
    world.servers[SECONDARY].stuck = true;
    world.run(3 * SECOND);
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInFailedMode));
    world.servers[PRIMARY].stuck = true;
    world.start(PRIMARY);
    world.run(3 * SECOND);
    assert!(!world.servers[PRIMARY].fenced, "the close failed");
    assert_eq!(world.status_line(SECONDARY), "Not Ready: its writes are not closed");
    for at in [PRIMARY, SECONDARY] {
        world.servers[at].stuck = false;
    }
    world.run(6 * SECOND);
    assert!(world.servers[PRIMARY].fenced && world.servers[SECONDARY].serving);
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode));
    assert_eq!(world.status_line(SECONDARY), "Ready");
}

#[test]
fn spec_d2_clocks_31_s_apart_hold_the_records_and_resume() {
    let mut world = pair();
    world.servers[SECONDARY].wall_offset_ms = world.servers[PRIMARY].wall_offset_ms + 31_500;
    world.run(SECOND);
    assert_eq!(world.status_line(PRIMARY), "Not Ready: the clocks do not agree");
    world.write(PRIMARY);
    world.run(SECOND);
    assert_ne!(world.servers[0].store.rows, world.servers[1].store.rows);
    let request = world.ask(PRIMARY, failover());
    let reply = &world.servers[PRIMARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::Preflight(_))), "{reply:?}");
    world.servers[SECONDARY].wall_offset_ms = world.servers[PRIMARY].wall_offset_ms;
    world.run(SECOND);
    assert_eq!(world.status_line(PRIMARY), "Ready");
    assert_eq!(world.servers[0].store.rows, world.servers[1].store.rows);
}

#[test]
fn spec_c4_at_90_percent_ha_unconfigures_itself_and_the_application_goes_on() {
    let mut world = pair();
    world.servers[PRIMARY].capacity = 100;
    world.crash(SECONDARY);
    world.run(2 * SECOND);
    for written in 1..=95 {
        assert!(world.write(PRIMARY), "write {written} was refused");
        world.run(SECOND / 2);
        assert_eq!(filling(&world).is_some(), (75..90).contains(&written), "{written}");
        assert_eq!(full(&world).is_some(), written >= 90, "{written}");
        assert_eq!(world.role(PRIMARY).is_none(), written >= 90, "{written}");
    }
    world.start(SECONDARY);
    world.run(3 * SECOND);
    assert_eq!(world.role(SECONDARY), None, "the partner learns of it");
    world.servers[PRIMARY].capacity = 1_000_000;
    world.ask(PRIMARY, AdminCommand::Configure(config()));
    world.run(3 * SECOND);
    assert_eq!(world.status_line(PRIMARY), "Ready");
    assert_eq!(full(&world), None);
}

/// Text of the alarm about a log that fills.
fn filling(world: &World) -> Option<String> {
    let alarms = world.alarms(PRIMARY);
    alarms.iter().find(|alarm| matches!(alarm, Alarm::LogFilling { .. })).map(Alarm::text)
}

/// Whether the log that ended HA had overflowed.
fn full(world: &World) -> Option<bool> {
    world.alarms(PRIMARY).iter().find_map(|alarm| {
        if let Alarm::LogFull { overflowed, .. } = alarm { Some(*overflowed) } else { None }
    })
}

#[test]
fn spec_c4_the_alarm_follows_the_forecast_and_is_raised_once() {
    let mut world = pair();
    world.servers[PRIMARY].capacity = 100;
    world.crash(SECONDARY);
    world.run(2 * SECOND);
    for _ in 0..80 {
        assert!(world.write(PRIMARY));
    }
    let expected = [
        (LogForecast::Unknown, "its rate is not known yet"),
        (LogForecast::Full { seconds: 720 }, "90 % in about 12 min at the present rate"),
        (LogForecast::Full { seconds: 30 }, "90 % in about 30 s at the present rate"),
        (LogForecast::None, "not growing"),
    ];
    for (forecast, text) in expected {
        world.servers[PRIMARY].forecast = forecast;
        world.run(SECOND);
        let shown = filling(&world).expect("80 % is an alarm");
        assert_eq!(shown, format!("the transaction log of board is filled to 80 %: {text}"));
    }
    // 72 %: still the same alarm; 66 %: it is over.
    for (capacity, raised) in [(111, true), (120, false), (111, false), (105, true)] {
        world.servers[PRIMARY].capacity = capacity;
        world.run(SECOND);
        assert_eq!(filling(&world).is_some(), raised, "capacity {capacity}");
    }
    let raised = &world.servers[PRIMARY].raised;
    let times = raised.iter().filter(|alarm| matches!(alarm, Alarm::LogFilling { .. })).count();
    assert_eq!(times, 2, "once, and once more after it was over: {raised:?}");
}

#[test]
fn spec_c4_an_overflow_while_the_daemon_was_dead_ends_ha_when_it_starts() {
    for partner_lives in [false, true] {
        let mut world = World::ready(2, fast(), PartitionPolicy::Manual);
        world.servers[PRIMARY].capacity = 100;
        if !partner_lives {
            world.crash(SECONDARY);
        }
        world.crash(PRIMARY);
        world.write_orphaned(PRIMARY, 300);
        world.start(PRIMARY);
        world.run(SECOND);
        assert_eq!(world.role(PRIMARY), None, "it is not compared in silence");
        assert_eq!(full(&world), Some(true), "the alarm says that it overflowed");
        let raised = |alarm: &Alarm| matches!(alarm, Alarm::LogFull { overflowed: true, .. });
        assert!(world.servers[PRIMARY].raised.iter().any(raised), "the history has it");
        assert!(world.servers[PRIMARY].disk.log_full.is_some(), "a restart does not forget it");
        if !partner_lives {
            world.start(SECONDARY);
        }
        world.run(3 * SECOND);
        assert_eq!(world.role(SECONDARY), None, "the partner learns of it");
        world.servers[PRIMARY].capacity = 1_000_000;
        world.ask(PRIMARY, AdminCommand::Configure(config()));
        world.run(3 * SECOND);
        assert_eq!(world.status_line(PRIMARY), "Ready");
        assert_eq!(full(&world), None);
    }
}

#[test]
fn refusals_change_nothing_and_say_what_to_do() {
    let mut world = pair();
    for (at, command) in [
        (SECONDARY, failover()),
        (PRIMARY, AdminCommand::GoStandby),
        (SECONDARY, AdminCommand::GoStandby),
        (SECONDARY, AdminCommand::Unconfigure { force: false }),
        (PRIMARY, AdminCommand::DeleteTrust),
    ] {
        let before = world.servers[at].disk.clone();
        let request = world.ask(at, command.clone());
        let reply = world.servers[at].replies[&request].clone();
        let refusal = reply.expect_err("refused");
        assert!(!refusal.next_step().is_empty());
        assert_eq!(world.servers[at].disk, before, "{command:?} changed something");
    }
    world.crash(SECONDARY);
    world.run(2 * SECOND);
    for command in [failover(), AdminCommand::Repair { dry_run: false }] {
        let request = world.ask(PRIMARY, command);
        assert!(world.servers[PRIMARY].replies[&request].is_err());
    }
}

fn config() -> HaConfig {
    HaConfig {
        pair: pair_name(),
        timing: fast(),
        policy: PartitionPolicy::Availability,
        auto_heal: true,
    }
}

#[test]
fn spec_a5_a6_d2_configure_checks_time_and_distance() {
    let mut world = World::new(3, fast());
    world.servers[SECONDARY].time_synced = false;
    world.crash(SECONDARY);
    world.start(SECONDARY);
    world.run(3 * SECOND);
    let request = world.ask(PRIMARY, AdminCommand::Configure(config()));
    let refusal = world.servers[PRIMARY].replies[&request].clone().unwrap_err();
    assert_eq!(refusal, Refusal::TimeNotSynced("bravo".into()));
    world.servers[SECONDARY].wall_offset_ms = world.servers[PRIMARY].wall_offset_ms + 31_000;
    world.run(3 * SECOND);
    let request = world.ask(PRIMARY, AdminCommand::Configure(config()));
    let refusal = world.servers[PRIMARY].replies[&request].clone().unwrap_err();
    assert!(matches!(refusal, Refusal::ClocksApart { .. }), "{refusal:?}");
    assert_eq!(world.role(PRIMARY), None);
}

#[test]
fn a_shorter_d_does_not_judge_the_silence_of_the_longer_one() {
    let slow = Timing::new(Profile::Standard, Duration::from_secs(60), 5).unwrap();
    let mut world = World::ready(2, slow, PartitionPolicy::Availability);
    world.run(58 * SECOND);
    let timing = Timing::new(Profile::Standard, Duration::from_secs(5), 5).unwrap();
    world.ask(SECONDARY, AdminCommand::Update(timing));
    world.run(30 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
}

#[test]
fn unconfigure_without_the_partner_is_done_and_reaches_it_later() {
    let mut world = pair();
    world.crash(SECONDARY);
    world.run(2 * SECOND);
    let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
    assert_eq!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::Unconfirmed));
    world.start(SECONDARY);
    world.run(3 * SECOND);
    assert_eq!(world.role(SECONDARY), None);
}

#[test]
fn spec_a8_a10_update_and_unconfigure_reach_both() {
    let mut world = pair();
    let timing = Timing::new(Profile::Fast, Duration::from_millis(400), 4).unwrap();
    world.ask(PRIMARY, AdminCommand::Update(timing));
    world.run(2 * SECOND);
    let theirs = world.servers[SECONDARY].disk.ha.config.clone().unwrap();
    assert_eq!(theirs.timing, timing);
    let request = world.ask(PRIMARY, AdminCommand::Unconfigure { force: false });
    world.run(2 * SECOND);
    assert_eq!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::Done));
    for at in [PRIMARY, SECONDARY] {
        assert_eq!(world.role(at), None);
        assert_eq!(world.state(at), Some(NodeState::NotConfigured));
    }
    let again = world.ask(SECONDARY, AdminCommand::Configure(config()));
    world.run(2 * SECOND);
    assert_eq!(world.servers[SECONDARY].replies[&again], Ok(AdminReply::Done));
    assert_eq!(world.role(PRIMARY), Some(Role::Active), "licenses decide the first role");
    assert!(micros(timing.interval()) > 0);
}

#[test]
fn a_held_directory_and_held_deletions_are_alarms_once_and_until_they_are_over() {
    let mut world = pair();
    let report = |hold: Option<&str>, held_deletions| {
        let (name, hold) = ("uploads".to_owned(), hold.map(str::to_owned));
        Input::Directories(vec![DirectoryReport { name, hold, held_deletions, late: None }])
    };
    let before = world.servers[PRIMARY].raised.len();
    for input in [report(Some("its root is missing"), 0), report(None, 7), report(None, 9)] {
        world.input(PRIMARY, input);
        world.run(SECOND);
    }
    let alarm = Alarm::DeletionsHeld { directory: "uploads".into(), count: 9 };
    assert_eq!(world.alarms(PRIMARY), [alarm]);
    assert_eq!(world.status_line(PRIMARY), "Ready", "records do not wait for files");
    world.input(PRIMARY, report(None, 0));
    world.run(SECOND);
    assert_eq!(world.alarms(PRIMARY), []);
    let raised = world.servers[PRIMARY].raised.len() - before;
    assert_eq!(raised, 2, "figures that change raise nothing anew");
}

#[test]
fn a_directory_whose_changes_are_noticed_late_is_an_alarm_until_it_is_mended() {
    let mut world = pair();
    let report = |late: Option<&str>| {
        let (name, late) = ("uploads".to_owned(), late.map(str::to_owned));
        Input::Directories(vec![DirectoryReport { name, hold: None, held_deletions: 0, late }])
    };
    let before = world.servers[PRIMARY].raised.len();
    for late in ["9 directories are not watched", "8 directories are not watched"] {
        world.input(PRIMARY, report(Some(late)));
        world.run(SECOND);
    }
    let cause = "8 directories are not watched".to_owned();
    assert_eq!(world.alarms(PRIMARY), [Alarm::ChangesLate { directory: "uploads".into(), cause }]);
    assert_eq!(world.servers[PRIMARY].raised.len() - before, 1, "raised once");
    world.input(PRIMARY, report(None));
    world.run(SECOND);
    assert_eq!(world.alarms(PRIMARY), []);
}
