//! Every row of the reference's table of node states (spec B10, `node-states.csv`): two servers are
//! driven there by what happens to real ones, and must show the states, the reasons and the action.

use std::time::Duration;

use ipicsha_core::{
    ServiceKind, Shutdown,
    admin::AdminCommand,
    config::{Automatic, HaConfig, PartitionPolicy},
    state::{NodeState, Reason},
};

use crate::world::{PRIMARY, SECONDARY, World, fast, pair_name};

const TABLE: &str = include_str!("node-states.csv");
const SECOND: u64 = 1_000_000;
const FAILOVER: AdminCommand = AdminCommand::Failover { dry_run: false, accept_data_loss: false };
const FALLBACK: AdminCommand = AdminCommand::Fallback { dry_run: false };

type Shown = Option<(NodeState, Reason)>;

/// One row: what both nodes show (`None`: down), and the reference's action.
#[derive(Debug)]
struct Row {
    nodes: [Shown; 2],
    action: &'static str,
}

fn rows() -> Vec<Row> {
    let parse = |line: &'static str| {
        let fields: Vec<&str> = line.split(',').collect();
        let [state1, reason1, state2, reason2, _, action] = fields[..] else {
            panic!("{line} has {} fields", fields.len())
        };
        Row { nodes: [shown(state1, reason1), shown(state2, reason2)], action }
    };
    TABLE.lines().skip(1).map(parse).collect()
}

/// The table leaves the reason of `Unknown` empty.
fn shown(state: &str, reason: &str) -> Shown {
    let reason = if reason.is_empty() { "Unknown" } else { reason };
    let state = NodeState::ALL.iter().find(|known| known.to_string() == state)?;
    let known = Reason::ALL.iter().find(|known| known.to_string() == reason);
    Some((*state, *known.unwrap_or_else(|| panic!("no reason is called {reason}"))))
}

/// Our words for each action of the table.
fn action_words(action: &str) -> &'static [&'static str] {
    match action {
        "none" => &["none"],
        "wait" => &["wait"],
        "fallback when wanted" => &["when the primary is to serve again: `ipicsha fallback`"],
        "manual fallback" | "manual fallback when node 1 is up with its services running" => {
            &["`ipicsha fallback`"]
        }
        "start the services on node 1; else reboot it; then manual fallback" => {
            &["`ipicsha service start`", "else reboot", "then `ipicsha fallback`"]
        }
        "reboot node 1; then manual fallback" => &["reboot", "then `ipicsha fallback`"],
        "recover; else reboot that node; then manual fallback" => {
            &["`ipicsha recover`", "else reboot the active server", "then `ipicsha fallback`"]
        }
        "recover; else reboot the node" => &["`ipicsha recover`", "else reboot the active server"],
        "recover; else reboot both" => &["`ipicsha recover`", "else reboot both"],
        "repair the network; recover if failed; start the manager on node 1; power it up; manual fallback when healthy" => {
            &["repair the link", "power up", "start its daemon", "`ipicsha fallback`"]
        }
        "repair and power up node 1; manual fallback when healthy" => {
            &["repair and power up", "when it is healthy: `ipicsha fallback`"]
        }
        "restart the manager on both nodes" => &["restart the daemon on both servers"],
        other => panic!("no words for {other:?}"),
    }
}

fn pair() -> World {
    World::ready(2, fast(), PartitionPolicy::Availability)
}

/// Runs in small steps until both show what the row says; whatever else they show meanwhile.
fn reach(world: &mut World, row: &Row, limit: u64) {
    let end = world.now + limit;
    let mut seen = Vec::new();
    while world.now < end {
        let now = [PRIMARY, SECONDARY].map(|at| world.shown(at));
        let wrong = wrong_action(world, row);
        if now == row.nodes && wrong.is_none() {
            return;
        }
        if seen.last() != Some(&(now, wrong.clone())) {
            seen.push((now, wrong));
        }
        world.run(500);
    }
    panic!("never reached {row:?}; seen {seen:#?}");
}

/// An action that is shown and is not the reference's.
fn wrong_action(world: &World, row: &Row) -> Option<String> {
    let mut actions = [PRIMARY, SECONDARY]
        .into_iter()
        .filter(|at| world.up(*at))
        .map(|at| world.status(at).recommended_action);
    actions.find(|action| action_words(row.action).iter().any(|words| !action.contains(words)))
}

fn wait_for(world: &mut World, at: usize, state: NodeState) {
    let end = world.now + 10 * SECOND;
    while world.state(at) != Some(state) {
        assert!(world.now < end, "{at} never shows {state}: {:?}", world.state(at));
        world.run(200);
    }
}

/// Planned failover, complete.
fn failed_over(mut world: World) -> World {
    world.ask(PRIMARY, FAILOVER);
    world.run(SECOND);
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode));
    world
}

/// The primary's services fail for longer than the delay.
fn services_failed(kind: ServiceKind) -> World {
    let mut world = pair();
    world.servers[PRIMARY].broken = Some(kind);
    world.run(92 * SECOND);
    world
}

/// The secondary is active, and the primary is back and well.
fn failed_over_and_back() -> World {
    let mut world = pair();
    world.crash(PRIMARY);
    world.run(2 * SECOND);
    world.start(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(world.state(PRIMARY), Some(NodeState::FailedOver));
    world
}

/// The secondary starts alone after both were down, and the primary follows.
fn started_alone(broken: bool) -> World {
    let mut world = failed_over(pair());
    world.crash(PRIMARY);
    world.servers[PRIMARY].disk.gave_up = false; // it went down as Failed Over
    world.crash(SECONDARY);
    world.start(SECONDARY);
    world.run(122 * SECOND);
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode));
    world.servers[PRIMARY].broken = broken.then_some(ServiceKind::Critical);
    world.servers[PRIMARY].broken_when_stopped = broken;
    world.start(PRIMARY);
    world
}

/// The services of the active secondary fail, and the primary, which gave up on request, is no help.
fn both_failed() -> World {
    let mut world = failed_over(pair());
    world.servers[SECONDARY].broken = Some(ServiceKind::Critical);
    world.run(92 * SECOND);
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInFailedMode));
    world
}

fn auto_recovered(kind: ServiceKind) -> World {
    let mut world = failed_over_and_back();
    world.servers[SECONDARY].broken = Some(kind);
    world.run(91 * SECOND);
    world
}

#[test]
fn row_01_a_healthy_pair() {
    reach(&mut pair(), &rows()[0], SECOND);
}

#[test]
fn rows_02_and_03_manual_failover_under_way_and_complete() {
    let mut world = pair();
    world.ask(PRIMARY, FAILOVER);
    reach(&mut world, &rows()[1], SECOND);
    reach(&mut world, &rows()[2], SECOND);
}

#[test]
fn row_04_manual_fallback() {
    let mut world = failed_over(pair());
    world.ask(SECONDARY, FALLBACK);
    reach(&mut world, &rows()[3], SECOND);
    reach(&mut world, &rows()[0], SECOND);
}

#[test]
fn row_05_restart_of_an_idle_primary() {
    let mut world = failed_over(pair());
    world.shut_down(PRIMARY, Shutdown::Restart);
    world.run(SECOND / 2);
    world.start(PRIMARY);
    reach(&mut world, &rows()[4], SECOND);
}

#[test]
fn row_06_restart_of_both_during_manual_failover_mode() {
    let mut world = failed_over(pair());
    world.restart(PRIMARY);
    world.restart(SECONDARY);
    reach(&mut world, &rows()[5], 2 * SECOND);
}

#[test]
fn row_07_restart_of_the_secondary_in_backup_mode() {
    let mut world = failed_over(pair());
    world.restart(SECONDARY);
    reach(&mut world, &rows()[6], SECOND);
}

#[test]
fn row_08_restart_of_the_secondary_while_it_takes_over() {
    let mut world = pair();
    world.ask(PRIMARY, FAILOVER);
    wait_for(&mut world, SECONDARY, NodeState::TakingOver);
    world.restart(SECONDARY);
    reach(&mut world, &rows()[7], SECOND);
    reach(&mut world, &rows()[6], SECOND);
}

#[test]
fn row_09_restart_of_the_primary_while_it_takes_back() {
    let mut world = failed_over(pair());
    world.ask(SECONDARY, FALLBACK);
    wait_for(&mut world, PRIMARY, NodeState::TakingBack);
    world.restart(PRIMARY);
    reach(&mut world, &rows()[8], SECOND);
    reach(&mut world, &rows()[0], SECOND); // "both end Normal"
}

#[test]
fn row_10_automatic_fallback() {
    let half_an_hour = Duration::from_secs(1_800);
    let automatic = Automatic { fallback_after: Some(half_an_hour), ..Automatic::default() };
    let mut world = World::ready_with(2, fast(), PartitionPolicy::Availability, automatic);
    world.crash(PRIMARY);
    world.run(2 * SECOND);
    world.start(PRIMARY);
    world.run(1_799 * SECOND);
    assert_eq!(world.state(SECONDARY), Some(NodeState::RunningInBackupMode), "too early");
    reach(&mut world, &rows()[9], 5 * SECOND);
    reach(&mut world, &rows()[0], SECOND);
}

#[test]
fn rows_11_and_13_a_critical_service_fails_and_is_back_after_a_reboot() {
    let mut world = services_failed(ServiceKind::Critical);
    reach(&mut world, &rows()[12], SECOND);
    world.servers[PRIMARY].broken = None;
    world.restart(PRIMARY);
    reach(&mut world, &rows()[10], SECOND);
}

#[test]
fn row_12_the_administrator_starts_the_services() {
    let mut world = services_failed(ServiceKind::Critical);
    world.servers[PRIMARY].broken = None;
    world.run(60 * SECOND);
    reach(&mut world, &rows()[12], SECOND); // being well is not enough
    world.ask(PRIMARY, AdminCommand::ServicesMended);
    reach(&mut world, &rows()[11], SECOND);
}

#[test]
fn row_14_the_database_fails() {
    reach(&mut services_failed(ServiceKind::Database), &rows()[13], SECOND);
}

#[test]
fn row_15_services_do_not_start_while_the_primary_takes_back() {
    let mut world = failed_over(pair());
    world.servers[PRIMARY].broken = Some(ServiceKind::Critical);
    world.ask(SECONDARY, FALLBACK);
    reach(&mut world, &rows()[14], 2 * SECOND);
}

#[test]
fn row_16_services_fail_on_the_backup_node() {
    reach(&mut both_failed(), &rows()[15], SECOND);
}

#[test]
fn row_17_the_primary_is_silent() {
    let mut world = pair();
    world.crash(PRIMARY);
    reach(&mut world, &rows()[16], 3 * SECOND);
}

#[test]
fn row_18_the_primary_is_shut_down() {
    let mut world = pair();
    world.shut_down(PRIMARY, Shutdown::Stop);
    reach(&mut world, &rows()[17], SECOND);
}

#[test]
fn row_19_the_secondary_started_alone_and_the_services_of_the_primary_do_not_run() {
    reach(&mut started_alone(true), &rows()[18], SECOND);
}

#[test]
fn row_20_the_secondary_started_alone() {
    reach(&mut started_alone(false), &rows()[19], SECOND);
}

#[test]
fn row_21_the_secondary_cannot_open_its_writes() {
    let mut world = pair();
    world.servers[SECONDARY].stuck = true;
    world.ask(PRIMARY, FAILOVER);
    reach(&mut world, &rows()[20], 2 * SECOND);
}

#[test]
fn row_22_the_primary_cannot_open_its_writes() {
    let mut world = failed_over(pair());
    world.servers[PRIMARY].stuck = true;
    world.ask(SECONDARY, FALLBACK);
    reach(&mut world, &rows()[21], 2 * SECOND);
}

#[test]
fn row_23_a_restart_while_the_pair_is_failed() {
    for restarted in [PRIMARY, SECONDARY] {
        let mut world = both_failed();
        world.restart(restarted);
        reach(&mut world, &rows()[22], 3 * SECOND);
    }
}

#[test]
fn row_24_auto_recovery_from_a_database_failure() {
    let mut world = auto_recovered(ServiceKind::Database);
    reach(&mut world, &rows()[23], SECOND);
    world.run(95 * SECOND);
    reach(&mut world, &rows()[0], SECOND);
}

#[test]
fn row_25_auto_recovery_from_a_critical_service() {
    reach(&mut auto_recovered(ServiceKind::Critical), &rows()[24], SECOND);
}

/// Seen by the server that knows: neither state can be told.
#[test]
fn row_26_the_servers_do_not_agree_that_ha_is_configured() {
    let row = &rows()[25];
    let mut world = World::new(2, fast());
    world.run(3 * SECOND);
    world.set_cut(PRIMARY, true);
    let config = HaConfig {
        pair: pair_name(),
        timing: fast(),
        policy: PartitionPolicy::Availability,
        auto_heal: true,
    };
    world.ask(PRIMARY, AdminCommand::Configure(config));
    world.run(2 * SECOND);
    let status = world.status(PRIMARY);
    for (server, expected) in status.servers.iter().zip(row.nodes) {
        assert_eq!(server.state.zip(server.reason), expected);
    }
    assert!(status.recommended_action.contains(action_words(row.action)[0]));
    world.set_cut(PRIMARY, false);
    reach(&mut world, &rows()[0], 3 * SECOND);
}

#[test]
fn every_row_has_its_test() {
    assert_eq!(rows().len(), 26, "a new row needs a test here");
    for row in rows() {
        assert!(!action_words(row.action).is_empty());
    }
}

/// The copy here is the reference's table, where that is at hand.
#[test]
#[allow(clippy::disallowed_methods)] // it compares two files
fn the_table_is_the_one_of_the_specification() {
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/spec/node-states.csv");
    if let Ok(theirs) = std::fs::read_to_string(shared) {
        assert_eq!(theirs, TABLE);
    }
}
