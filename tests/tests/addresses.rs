//! The address of a pair moves with the role, in real networks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, fresh_pair, holds_for, net::can_cut, process::run, process::signal,
    ready_pair, settings::BOARD, wait::SOON, wait_for,
};
use rustix::process::Signal;

const ADDRESS: &str = "10.77.0.100";

fn settings() -> Settings {
    let block = format!("[[address]]\naddress = \"{ADDRESS}/24\"\ninterface = \"eth0\"\n");
    Settings::fast().service(Side::Alpha, &block).service(Side::Bravo, &block)
}

/// What `ip` says on a server.
fn ip(pair: &Pair, side: Side, words: &str) -> Result<String> {
    let mut command = pair.network.command(side, "ip");
    run(command.args(words.split(' ')), SOON)?.ok()
}

fn has_it(pair: &Pair, side: Side) -> Result<bool> {
    Ok(ip(pair, side, "-o address show dev eth0")?.contains(&format!(" {ADDRESS}/24 ")))
}

fn wait_for_it(pair: &Pair, side: Side) -> Result<()> {
    wait_for(&format!("{} alone has the address", side.name()), SOON, || {
        let here = has_it(pair, side).ok()?;
        let there = has_it(pair, side.other()).ok()?;
        (here && !there).then_some(())
    })
}

/// For longer than it is given for.
fn stays(pair: &Pair, side: Side) -> Result<()> {
    holds_for("the address stays", Duration::from_secs(4), || has_it(pair, side).unwrap_or(false))
}

/// Hardware address of a server.
fn mac(pair: &Pair, side: Side) -> Result<String> {
    let text = ip(pair, side, "-o link show dev eth0")?;
    let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
    mac.map(str::to_owned).context("a hardware address")
}

#[test]
fn the_address_moves_with_a_failover_and_the_network_is_told() -> Result<()> {
    if !can_cut("the address moves")? {
        return Ok(());
    }
    ready_pair(settings(), |pair| {
        wait_for_it(pair, Side::Alpha)?;
        // A host that has talked to alpha knows a hardware address that will be wrong.
        let old = format!("neigh replace {ADDRESS} lladdr 02:00:00:00:00:99 dev eth0 nud stale");
        ip(pair, Side::Alpha, &old)?;
        pair.alpha.ask(&["failover"])?;
        wait_for_it(pair, Side::Bravo)?;
        let new = mac(pair, Side::Bravo)?;
        wait_for("the network knows who has it", SOON, || {
            let known = ip(pair, Side::Alpha, &format!("neigh show {ADDRESS} dev eth0")).ok()?;
            known.contains(&new).then_some(())
        })?;
        let status = pair.bravo.status()?.0;
        ensure!(status["addresses"][0]["here"] == true, "{status}");
        let text = pair.alpha.cli(&["ha-status"])?.ok()?;
        ensure!(text.contains(&format!("Address {ADDRESS}/24 on eth0: not here")), "{text}");
        // An orderly end: nobody may reach a server that is not active.
        pair.wait_ready()?;
        pair.bravo.stop_by(Signal::TERM)?;
        wait_for_it(pair, Side::Alpha)?;
        // Alone, a daemon that is started again does not know its role at once; its users notice nothing.
        pair.alpha.kill();
        pair.alpha.start()?;
        stays(pair, Side::Alpha)
    })
}

#[test]
fn a_frozen_daemon_loses_the_address_to_the_one_that_takes_over() -> Result<()> {
    if !can_cut("a frozen daemon")? {
        return Ok(());
    }
    ready_pair(settings(), |pair| {
        wait_for_it(pair, Side::Alpha)?;
        signal(pair.alpha.pid()?, Signal::STOP);
        pair.bravo.wait("bravo takes over", |status| status.role() == "active")?;
        wait_for_it(pair, Side::Bravo)?;
        signal(pair.alpha.pid()?, Signal::CONT);
        pair.alpha.wait("alpha knows", |status| status.role() == "standby" || status.is_split())?;
        ensure!(has_it(pair, Side::Bravo)?, "the one that serves keeps it");
        ensure!(!has_it(pair, Side::Alpha)?, "two servers have it");
        Ok(())
    })
}

#[test]
fn an_address_that_somebody_else_has_is_an_alarm_until_he_gives_it_back() -> Result<()> {
    if !can_cut("an address in use")? {
        return Ok(());
    }
    fresh_pair(settings(), |pair| {
        pair.start()?;
        ip(pair, Side::Bravo, &format!("address add {ADDRESS}/32 dev lo"))?;
        pair.license()?;
        pair.trust()?;
        pair.wait_contact()?;
        pair.alpha.ask(&["configure"])?;
        let status =
            pair.alpha.wait("it is an alarm", |status| status.has_alarm("address_missing"))?;
        ensure!(status.role() == "active", "the role does not depend on it: {}", status.0);
        let told = status.0["alarms"].to_string();
        ensure!(told.contains(&mac(pair, Side::Bravo)?), "whose it is: {told}");
        ensure!(!has_it(pair, Side::Alpha)?, "two servers have it");
        ip(pair, Side::Bravo, &format!("address delete {ADDRESS}/32 dev lo"))?;
        pair.alpha.wait("the alarm is over", |status| !status.has_alarm("address_missing"))?;
        wait_for_it(pair, Side::Alpha)?;
        // Who served goes on, alone.
        pair.alpha.ask(&["unconfigure"])?;
        stays(pair, Side::Alpha)
    })
}

#[test]
fn of_two_active_servers_one_has_the_address_and_the_network_is_told_when_it_is_over() -> Result<()>
{
    if !can_cut("an address in a split brain")? {
        return Ok(());
    }
    ready_pair(settings(), |pair| {
        wait_for_it(pair, Side::Alpha)?;
        // Nobody is asked for addresses over a link that is cut as a whole.
        ip(pair, Side::Alpha, "link set dev eth0 arp off")?;
        pair.network.cut()?;
        wait_for("both have it", SOON, || {
            Side::BOTH.iter().all(|side| has_it(pair, *side).unwrap_or(false)).then_some(())
        })?;
        ip(pair, Side::Alpha, "link set dev eth0 arp on")?;
        // With writes on both sides it does not heal by itself.
        for side in Side::BOTH {
            pair.server(side).application(BOARD)?.add_call(side.name(), "during the cut")?;
        }
        pair.network.heal()?;
        pair.alpha.wait("the split is seen", |status| status.is_split())?;
        wait_for_it(pair, Side::Bravo)?;
        stays(pair, Side::Bravo)?;
        // A host that has talked to the other one meanwhile is told who goes on.
        let old = format!("neigh replace {ADDRESS} lladdr 02:00:00:00:00:99 dev eth0 nud stale");
        ip(pair, Side::Alpha, &old)?;
        pair.alpha.ask(&["go-standby"])?;
        pair.wait_roles(Side::Bravo)?;
        let winner = mac(pair, Side::Bravo)?;
        wait_for("the network knows who has it", SOON, || {
            let known = ip(pair, Side::Alpha, &format!("neigh show {ADDRESS} dev eth0")).ok()?;
            known.contains(&winner).then_some(())
        })?;
        wait_for_it(pair, Side::Bravo)
    })
}
