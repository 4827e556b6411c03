//! The whole life of a pair: services, fallback, recovery, maintenance, each with exact outcomes.

use std::time::Duration;

use ipicsha_core::{
    ServiceKind, Shutdown,
    admin::{AdminCommand, AdminReply, Refusal},
    config::{Automatic, PartitionPolicy, Profile, Timing},
    preflight::{Check, Outcome},
    state::{NodeState, Reason, Role},
    status::Alarm,
    time::WallTime,
};

use crate::world::{PRIMARY, SECONDARY, World, fast};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const FAILOVER: AdminCommand = AdminCommand::Failover { dry_run: false, accept_data_loss: false };
const FALLBACK: AdminCommand = AdminCommand::Fallback { dry_run: false };

fn pair() -> World {
    World::ready(2, fast(), PartitionPolicy::Availability)
}

fn pair_with_fallback_after(minutes: u64) -> World {
    let fallback_after = Some(Duration::from_secs(60 * minutes));
    let automatic = Automatic { fallback_after, ..Automatic::default() };
    World::ready_with(2, fast(), PartitionPolicy::Availability, automatic)
}

fn cut(world: &mut World, cut: bool) {
    world.set_cut(PRIMARY, cut);
    world.set_cut(SECONDARY, cut);
}

fn ask(world: &mut World, at: usize, command: AdminCommand) -> Result<AdminReply, Refusal> {
    let request = world.ask(at, command);
    world.run(SECOND);
    world.servers[at].replies.remove(&request).expect("every request is answered")
}

fn pause(limit: Duration) -> AdminCommand {
    AdminCommand::Pause { reason: "new kernel".into(), limit }
}

fn roles(world: &World) -> [Option<Role>; 2] {
    [PRIMARY, SECONDARY].map(|at| world.role(at))
}

const FIRST: [Option<Role>; 2] = [Some(Role::Active), Some(Role::Standby)];
const SWAPPED: [Option<Role>; 2] = [Some(Role::Standby), Some(Role::Active)];

/// The secondary is active, and the primary is back and well.
fn failed_over_and_back(mut world: World) -> World {
    world.crash(PRIMARY);
    world.run(2 * SECOND);
    world.start(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::FailedOver));
    world
}

fn service_down() -> Alarm {
    Alarm::CriticalServiceDown { service: "board".into(), cause: "it does not answer".into() }
}

#[test]
fn spec_b3_a_service_may_be_down_for_90_seconds_and_no_longer() {
    let mut world = pair();
    world.servers[PRIMARY].broken = Some(ServiceKind::Critical);
    world.run(89 * SECOND);
    assert_eq!(world.alarms(PRIMARY), [service_down()]);
    let next = world.status(PRIMARY).next;
    assert!(next.starts_with("board is down; hands over to bravo in "), "{next}");
    world.servers[PRIMARY].broken = None;
    world.run(10 * SECOND);
    assert_eq!(world.alarms(PRIMARY), []);
    assert_eq!(roles(&world), FIRST);
    world.servers[PRIMARY].broken = Some(ServiceKind::Critical);
    world.write(PRIMARY);
    world.run(89 * SECOND);
    assert_eq!(roles(&world), FIRST, "the delay starts anew");
    world.run(2 * SECOND);
    assert_eq!(roles(&world), SWAPPED);
    let [a, b] = &world.servers;
    assert_eq!(a.store.rows, b.store.rows, "nothing is lost");
    assert_eq!(world.status_line(SECONDARY), "Not Ready: its critical services cannot run");
}

#[test]
fn spec_b3_without_a_ready_partner_the_active_stays_and_hands_over_as_soon_as_there_is_one() {
    let mut world = pair();
    world.crash(SECONDARY);
    world.run(2 * SECOND);
    world.servers[PRIMARY].broken = Some(ServiceKind::Critical);
    world.run(100 * SECOND);
    let failed = Some((NodeState::RunningInFailedMode, Reason::CriticalServiceDown));
    assert_eq!(world.shown(PRIMARY), failed);
    world.start(SECONDARY);
    world.run(2 * SECOND);
    assert_eq!(roles(&world), SWAPPED);
}

#[test]
fn spec_b3_a_service_that_works_again_ends_the_failed_mode_by_itself() {
    let mut world = pair();
    world.crash(SECONDARY);
    world.servers[PRIMARY].broken = Some(ServiceKind::Critical);
    world.run(100 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::RunningInFailedMode));
    world.servers[PRIMARY].broken = None;
    world.run(6 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::Normal), "it is tried again every 5 s");
}

#[test]
fn spec_b4_a_database_failure_has_its_own_reason() {
    let mut world = pair();
    world.servers[PRIMARY].broken = Some(ServiceKind::Database);
    world.run(92 * SECOND);
    let backup = Some((NodeState::RunningInBackupMode, Reason::DatabaseFailure));
    assert_eq!(world.shown(SECONDARY), backup);
}

#[test]
fn spec_b5_failover_needs_a_ready_standby() {
    let mut world = pair();
    world.servers[SECONDARY].broken = Some(ServiceKind::Critical);
    world.servers[SECONDARY].broken_when_stopped = true;
    world.run(SECOND);
    assert_eq!(world.status_line(PRIMARY), "Not Ready: its critical services cannot run");
    let refused = ask(&mut world, PRIMARY, FAILOVER);
    assert!(matches!(refused, Err(Refusal::Preflight(_))), "{refused:?}");
    assert_eq!(roles(&world), FIRST);
}

#[test]
fn spec_b5_a_primary_that_gave_up_stays_idle_over_restarts_until_a_fallback() {
    let mut world = pair_with_fallback_after(30);
    assert!(ask(&mut world, PRIMARY, FAILOVER).is_ok());
    for _ in 0..3 {
        world.restart(PRIMARY);
        world.run(40 * MINUTE);
        assert_eq!(world.state(PRIMARY), Some(NodeState::Idle));
        assert_eq!(roles(&world), SWAPPED, "no automatic fallback to a server that was relieved");
    }
    assert!(matches!(ask(&mut world, SECONDARY, FALLBACK), Ok(AdminReply::FailedOver { .. })));
    assert_eq!(roles(&world), FIRST);
    assert!(!world.servers[PRIMARY].disk.gave_up);
}

#[test]
fn spec_b6_automatic_fallback_is_off_by_default() {
    let mut world = failed_over_and_back(pair());
    world.run(120 * MINUTE);
    assert_eq!(roles(&world), SWAPPED);
}

#[test]
fn spec_b6_automatic_fallback_counts_from_the_primary_s_health() {
    let mut world = failed_over_and_back(pair_with_fallback_after(30));
    world.run(29 * MINUTE);
    let next = world.status(SECONDARY).next;
    assert_eq!(next, "falls back to alpha in 58 s if it stays healthy");
    world.crash(PRIMARY);
    world.run(5 * SECOND);
    world.start(PRIMARY);
    world.run(29 * MINUTE);
    assert_eq!(roles(&world), SWAPPED, "counted anew after an interruption");
    world.run(2 * MINUTE);
    assert_eq!(roles(&world), FIRST);
    assert_eq!(world.state(SECONDARY), Some(NodeState::Normal));
}

#[test]
fn spec_b7_fallback_belongs_to_the_active_secondary() {
    let mut world = pair();
    assert_eq!(ask(&mut world, PRIMARY, FALLBACK), Err(Refusal::NotInBackup));
    assert_eq!(ask(&mut world, SECONDARY, FALLBACK), Err(Refusal::NotActive("alpha".into())));
    let mut world = failed_over_and_back(world);
    assert_eq!(ask(&mut world, PRIMARY, FALLBACK), Err(Refusal::NotActive("bravo".into())));
    let list = ask(&mut world, SECONDARY, AdminCommand::Fallback { dry_run: true });
    let Ok(AdminReply::Preflight(checks)) = list else { panic!("{list:?}") };
    assert!(checks.iter().all(|check| check.failure().is_none()), "{checks:?}");
    assert_eq!(roles(&world), SWAPPED, "a dry run changes nothing");
    world.write(SECONDARY);
    assert!(ask(&mut world, SECONDARY, FALLBACK).is_ok());
    assert_eq!(roles(&world), FIRST);
    let [a, b] = &world.servers;
    assert_eq!(a.store.rows, b.store.rows);
    assert_eq!(world.status_line(PRIMARY), "Ready");
}

/// Both fail: the secondary cannot serve, and the primary was relieved.
fn both_failed() -> World {
    let mut world = pair();
    assert!(ask(&mut world, PRIMARY, FAILOVER).is_ok());
    world.servers[SECONDARY].broken = Some(ServiceKind::Critical);
    world.run(92 * SECOND);
    for at in [PRIMARY, SECONDARY] {
        assert_eq!(world.state(at), Some(NodeState::RunningInFailedMode));
    }
    world
}

#[test]
fn spec_b8_recover_starts_again_what_failed_and_says_how_it_ended() {
    let mut world = both_failed();
    let again = ask(&mut world, SECONDARY, AdminCommand::Recover);
    assert_eq!(again, Err(Refusal::FailedAgain("the service does not start".into())));
    world.servers[SECONDARY].broken = None;
    assert_eq!(ask(&mut world, SECONDARY, AdminCommand::Recover), Ok(AdminReply::Done));
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode));
    assert_eq!(world.state(PRIMARY), Some(NodeState::Idle));
    assert_eq!(ask(&mut world, SECONDARY, AdminCommand::Recover), Err(Refusal::NotFailed));
}

#[test]
fn spec_b8_recover_works_from_the_standby_too() {
    let mut world = both_failed();
    world.servers[SECONDARY].broken = None;
    assert_eq!(ask(&mut world, PRIMARY, AdminCommand::Recover), Ok(AdminReply::Recovering));
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode));
}

#[test]
fn spec_b11_auto_recovery_only_to_a_primary_that_is_failed_over_and_well() {
    let mut world = failed_over_and_back(pair());
    world.servers[PRIMARY].broken = Some(ServiceKind::Critical);
    world.servers[PRIMARY].broken_when_stopped = true;
    world.servers[SECONDARY].broken = Some(ServiceKind::Critical);
    world.run(100 * SECOND);
    assert_eq!(roles(&world), SWAPPED, "the primary cannot run them either");
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInFailedMode));
    world.servers[PRIMARY].broken = None;
    world.run(2 * SECOND);
    assert_eq!(roles(&world), FIRST, "users move by themselves");
    assert_eq!(world.state(PRIMARY), Some(NodeState::BackupActivated));
    assert_eq!(world.state(SECONDARY), Some(NodeState::FailoverAffectedServices));
    world.run(80 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::BackupActivated));
    world.run(20 * SECOND);
    for at in [PRIMARY, SECONDARY] {
        assert_eq!(world.state(at), Some(NodeState::Normal), "well for the delay");
    }
}

#[test]
fn spec_b12_changes_wait_while_the_role_moves() {
    let mut world = pair();
    world.ask(PRIMARY, FAILOVER);
    let timing = Timing::new(Profile::Fast, Duration::from_millis(400), 4).unwrap();
    for command in [
        AdminCommand::Update(timing),
        AdminCommand::Unconfigure { force: false },
        FAILOVER,
        FALLBACK,
        AdminCommand::ServicesMended,
        pause(Duration::from_secs(60)),
    ] {
        let request = world.ask(PRIMARY, command);
        assert_eq!(world.servers[PRIMARY].replies[&request], Err(Refusal::Busy));
    }
    world.run(SECOND);
    assert_eq!(ask(&mut world, SECONDARY, AdminCommand::Update(timing)), Ok(AdminReply::Done));
}

#[test]
fn spec_b13_a_paused_pair_changes_no_role_by_itself_and_resumes_by_itself() {
    let mut world = pair();
    let ten_minutes = Duration::from_secs(600);
    assert_eq!(ask(&mut world, PRIMARY, pause(ten_minutes)), Ok(AdminReply::Done));
    for at in [PRIMARY, SECONDARY] {
        let shown = world.status(at).pause.expect("both show it");
        assert_eq!(shown.reason, "new kernel");
        assert!(world.status(at).next.contains("HA is paused"), "{}", world.status(at).next);
    }
    // Back-to-back restarts: the active first, longer than D; then the standby; then both.
    world.shut_down(PRIMARY, Shutdown::Stop);
    world.run(MINUTE);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby), "an orderly stop does not move it");
    world.start(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(roles(&world), FIRST);
    world.crash(SECONDARY);
    world.crash(PRIMARY);
    world.start(SECONDARY);
    world.run(MINUTE);
    world.start(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(roles(&world), FIRST);
    world.servers[PRIMARY].broken = Some(ServiceKind::Critical);
    world.run(100 * SECOND);
    assert_eq!(roles(&world), FIRST, "services are suspended too");
    world.servers[PRIMARY].broken = None;
    world.run(5 * SECOND);
    world.crash(PRIMARY);
    world.run(5 * MINUTE);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby));
    world.run(2 * MINUTE);
    assert_eq!(world.role(SECONDARY), Some(Role::Active), "the pause is over");
    assert_eq!(world.status(SECONDARY).pause, None);
}

#[test]
fn spec_b13_a_split_does_not_heal_by_itself_while_the_pair_is_paused() {
    let mut world = pair();
    for at in [PRIMARY, SECONDARY] {
        world.set_cut(at, true);
    }
    world.run(2 * SECOND);
    assert!(world.write(SECONDARY));
    for at in [PRIMARY, SECONDARY] {
        let done = ask(&mut world, at, pause(Duration::from_secs(60)));
        assert_eq!(done, Ok(AdminReply::Unconfirmed), "nobody is there to be told");
        assert!(world.is_found(at), "it is alone");
    }
    for at in [PRIMARY, SECONDARY] {
        world.set_cut(at, false);
    }
    world.run(10 * SECOND);
    assert_eq!(roles(&world), [Some(Role::Active), Some(Role::Active)], "nothing moves by itself");
    let found = [PRIMARY, SECONDARY].map(|at| world.is_found(at));
    assert_eq!(found, [false, true], "one of two has the addresses");
    world.run(60 * SECOND);
    assert_eq!(roles(&world), [Some(Role::Standby), Some(Role::Active)]);
    assert!(world.is_found(SECONDARY));
}

#[test]
fn spec_b13_silence_is_counted_anew_from_the_end_of_a_pause() {
    let slow = Timing::new(Profile::Standard, Duration::from_secs(5), 5).unwrap();
    let mut world = World::ready(2, slow, PartitionPolicy::Availability);
    world.ask(SECONDARY, pause(Duration::from_secs(60)));
    world.run(SECOND);
    world.crash(PRIMARY);
    world.run(80 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby), "D starts with the end of the pause");
    world.run(10 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn spec_b13_resume_ends_it_and_verbs_work_meanwhile() {
    let mut world = pair();
    let resume = AdminCommand::Resume;
    assert_eq!(ask(&mut world, PRIMARY, resume.clone()), Err(Refusal::NotPaused));
    for limit in [Duration::ZERO, Duration::from_secs(8 * 86_400)] {
        assert_eq!(ask(&mut world, PRIMARY, pause(limit)), Err(Refusal::PauseLimit));
    }
    assert!(ask(&mut world, SECONDARY, pause(Duration::from_secs(3_600))).is_ok());
    assert!(ask(&mut world, PRIMARY, FAILOVER).is_ok(), "administrators are not held");
    assert_eq!(ask(&mut world, PRIMARY, resume), Ok(AdminReply::Done));
    world.crash(SECONDARY);
    world.run(2 * SECOND);
    assert_eq!(world.role(PRIMARY), Some(Role::Active));
}

#[test]
fn spec_b13_the_newer_word_counts_when_the_servers_meet_again() {
    let mut world = pair();
    assert!(ask(&mut world, PRIMARY, pause(Duration::from_secs(3_600))).is_ok());
    cut(&mut world, true);
    world.run(2 * SECOND);
    let request = world.ask(SECONDARY, AdminCommand::Resume);
    let reply = &world.servers[SECONDARY].replies[&request];
    assert_eq!(reply, &Ok(AdminReply::Unconfirmed));
    world.run(900_000);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby), "D is counted from the resume");
    assert!(world.status(PRIMARY).pause.is_some());
    cut(&mut world, false);
    world.run(2 * SECOND);
    for at in [PRIMARY, SECONDARY] {
        assert_eq!(world.status(at).pause, None, "resumed on {at}");
    }
}

/// The active dies, and comes back as standby once the other one has taken over.
fn flap(world: &mut World) {
    let active = usize::from(world.role(SECONDARY) == Some(Role::Active));
    world.crash(active);
    world.run(2 * SECOND);
    world.start(active);
    world.run(2 * SECOND);
}

#[test]
fn the_third_automatic_takeover_within_ten_minutes_is_held() {
    let mut world = pair();
    flap(&mut world);
    flap(&mut world);
    assert_eq!(roles(&world), FIRST, "twice, there and back");
    world.crash(PRIMARY);
    world.run(60 * SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Standby), "held");
    let held = |alarm: &Alarm| matches!(alarm, Alarm::TakeoversHeld { .. });
    let alarm = world.alarms(SECONDARY).into_iter().find(held).expect("an alarm");
    assert!(alarm.text().contains("is held for 9 min"), "{}", alarm.text());
    world.run(9 * MINUTE);
    assert_eq!(world.role(SECONDARY), Some(Role::Active), "released ten minutes after the first");
    assert!(!world.alarms(SECONDARY).iter().any(held));
}

#[test]
fn manual_verbs_and_an_orderly_stop_are_never_held() {
    let mut world = pair();
    flap(&mut world);
    flap(&mut world);
    assert!(ask(&mut world, PRIMARY, FAILOVER).is_ok());
    assert!(ask(&mut world, SECONDARY, FALLBACK).is_ok());
    world.shut_down(PRIMARY, Shutdown::Stop);
    world.run(SECOND);
    assert_eq!(world.role(SECONDARY), Some(Role::Active));
}

#[test]
fn services_that_fail_on_both_do_not_throw_the_role_to_and_fro() {
    let mut world = pair();
    for at in [PRIMARY, SECONDARY] {
        world.servers[at].broken = Some(ServiceKind::Critical);
    }
    world.run(92 * SECOND);
    assert_eq!(roles(&world), SWAPPED);
    world.run(60 * MINUTE);
    assert_eq!(roles(&world), SWAPPED, "the primary lost it for its services, and stays so");
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInFailedMode));
}

#[test]
fn spec_f4_of_what_both_see_exactly_one_sends_word() {
    let sending =
        |world: &World, alarm: &Alarm| [PRIMARY, SECONDARY].map(|at| world.sends(at, alarm));
    let (paused, own) =
        (Alarm::Paused { reason: "new kernel".into(), seconds: 60 }, Alarm::TimeNotSynced);
    let mut world = pair();
    assert_eq!(sending(&world, &paused), [true, false], "the active one");
    assert_eq!(sending(&world, &own), [true, true], "what is only here");
    assert!(ask(&mut world, PRIMARY, FAILOVER).is_ok());
    world.run(2 * SECOND);
    assert_eq!(sending(&world, &paused), [false, true]);
    cut(&mut world, true);
    world.run(20 * SECOND);
    assert_eq!(sending(&world, &paused), [true, true], "nobody knows whether the other one can");
    cut(&mut world, false);
    let mut world = pair();
    cut(&mut world, true);
    world.run(20 * SECOND);
    for at in [PRIMARY, SECONDARY] {
        assert!(world.write(at));
    }
    cut(&mut world, false);
    world.run(5 * SECOND);
    assert_eq!(roles(&world), [Some(Role::Active); 2]);
    assert_eq!(
        sending(&world, &Alarm::SplitBrain),
        [true, false],
        "of two active ones the primary"
    );
}

#[test]
fn spec_a11_a13_the_site_is_judged_by_what_the_servers_say_of_themselves() {
    let judged = |world: &mut World, at: usize| {
        let Ok(AdminReply::Preflight(checks)) = ask(world, at, AdminCommand::Site) else {
            panic!("a list is answered");
        };
        let bad = |check: &Check| check.outcome != Outcome::Ok;
        let bad = checks.iter().filter(|check| bad(check)).map(|check| check.finding.clone());
        (checks.len(), bad.collect::<Vec<_>>())
    };
    let mut world = pair();
    for at in [PRIMARY, SECONDARY] {
        assert_eq!(judged(&mut world, at), (14, Vec::new()));
    }
    assert!(ask(&mut world, PRIMARY, pause(Duration::from_secs(3_600))).is_ok());
    assert_eq!(judged(&mut world, SECONDARY).1, ["HA is paused"]);
    assert!(ask(&mut world, PRIMARY, AdminCommand::Resume).is_ok());
    cut(&mut world, true);
    world.run(20 * SECOND);
    let (count, bad) = judged(&mut world, PRIMARY);
    assert_eq!((count, bad.len()), (4, 1), "what is not known is not judged: {bad:?}");
    assert!(bad[0].ends_with("is not reachable"));
    let mut world = pair();
    world.links.iter_mut().for_each(|link| link.latency_us = 40_000);
    world.run(20 * SECOND);
    let bad = judged(&mut world, PRIMARY).1;
    assert!(matches!(&bad[..], [trip] if trip.starts_with("round trip ")), "{bad:?}");
}

#[test]
fn spec_a3_a_certificate_that_ends_soon_is_an_alarm() {
    let mut world = pair();
    let day = 86_400_000;
    for (days, alarm) in [(31, None), (29, Some(28)), (-1, Some(-2))] {
        let end = world.clock(SECONDARY).wall.0 + days * day;
        world.servers[SECONDARY].config.certificate_end = Some(WallTime(end));
        world.restart(SECONDARY);
        world.run(20 * SECOND);
        let raised: Vec<Alarm> = world.alarms(SECONDARY);
        let expected: Vec<Alarm> =
            alarm.map(|days| Alarm::CertificateEnds { days }).into_iter().collect();
        assert_eq!(raised, expected, "{days} days before");
    }
    assert!(world.alarms(PRIMARY).is_empty(), "it is the other one's");
}

#[test]
fn spec_d6_after_five_days_of_split_brain_another_method_is_advised() {
    let mut world = pair();
    cut(&mut world, true);
    world.run(20 * SECOND);
    for at in [PRIMARY, SECONDARY] {
        assert!(world.write(at));
    }
    cut(&mut world, false);
    world.run(5 * SECOND);
    let advice = |world: &World| [PRIMARY, SECONDARY].map(|at| world.status(at).recommended_action);
    for action in advice(&world) {
        assert!(action.contains("ipicsha go-standby"), "{action}");
    }
    for server in &mut world.servers {
        server.wall_offset_ms += 5 * 86_400_000;
    }
    world.run(5 * SECOND);
    for action in advice(&world) {
        assert!(action.contains("5 days") && action.contains("ipicsha compare"), "{action}");
    }
}

#[test]
fn spec_b5_a_ready_standby_is_handed_the_role_when_it_asks() {
    let mut world = pair();
    assert_eq!(ask(&mut world, PRIMARY, AdminCommand::TakeBack), Err(Refusal::AlreadyActive));
    let reply = ask(&mut world, SECONDARY, AdminCommand::TakeBack);
    assert!(matches!(reply, Ok(AdminReply::FailedOver { .. })), "{reply:?}");
    assert_eq!(roles(&world), [Some(Role::Standby), Some(Role::Active)]);
    world.run(2 * SECOND);
    assert!(ask(&mut world, PRIMARY, AdminCommand::TakeBack).is_ok());
    assert_eq!(roles(&world), [Some(Role::Active), Some(Role::Standby)]);
}

#[test]
fn a_standby_that_asks_in_vain_is_told_why_and_nothing_changes() {
    let mut world = pair();
    world.servers[SECONDARY].wall_offset_ms += 60_000;
    world.run(5 * SECOND);
    let reply = ask(&mut world, SECONDARY, AdminCommand::TakeBack);
    assert!(matches!(reply, Err(Refusal::NotReady(_))), "{reply:?}");
    world.servers[SECONDARY].wall_offset_ms -= 60_000;
    world.run(20 * SECOND);
    cut(&mut world, true);
    let request = world.ask(SECONDARY, AdminCommand::TakeBack);
    world.run(30 * SECOND);
    let reply = world.servers[SECONDARY].replies.remove(&request);
    assert!(reply.is_some(), "it is answered also when the link is cut");
}
