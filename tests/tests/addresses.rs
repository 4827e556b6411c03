//! The address of a pair moves with the role, in real networks.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, fresh_pair, holds_for, net::can_cut, note, process::run, process::signal,
    ready_pair, settings::BOARD, wait::SOON, wait_for,
};
use rustix::process::Signal;

/// An address that moves, and the length of its network.
#[derive(Clone, Copy)]
struct Moves(&'static str, u8);

const ADDRESS: Moves = Moves("10.77.0.100", 24);
const ADDRESS_IPV6: Moves = Moves("fd77::100", 64);

impl Moves {
    fn settings(self) -> Settings {
        let Self(ip, length) = self;
        let block = format!("[[address]]\naddress = \"{ip}/{length}\"\ninterface = \"eth0\"\n");
        Settings::fast().service(Side::Alpha, &block).service(Side::Bravo, &block)
    }

    fn is_here(self, pair: &Pair, side: Side) -> Result<bool> {
        let Self(ip, length) = self;
        let shown = ip_says(pair, side, "-o address show dev eth0")?;
        Ok(shown.contains(&format!(" {ip}/{length} ")))
    }

    /// The machine has a network of this kind.
    fn is_possible(self, what: &str) -> Result<bool> {
        if self.0.contains(':') && !Path::new("/proc/sys/net/ipv6").exists() {
            note(&format!("{what}: NOT TESTED, this machine has no IPv6"));
            return Ok(false);
        }
        can_cut(what)
    }

    fn wait_for(self, pair: &Pair, side: Side) -> Result<()> {
        wait_for(&format!("{} alone has the address", side.name()), SOON, || {
            let here = self.is_here(pair, side).ok()?;
            let there = self.is_here(pair, side.other()).ok()?;
            (here && !there).then_some(())
        })
    }
}

/// What `ip` says on a server.
fn ip_says(pair: &Pair, side: Side, words: &str) -> Result<String> {
    let mut command = pair.network.command(side, "ip");
    run(command.args(words.split(' ')), SOON)?.ok()
}

fn has_it(pair: &Pair, side: Side) -> Result<bool> {
    ADDRESS.is_here(pair, side)
}

fn wait_for_it(pair: &Pair, side: Side) -> Result<()> {
    ADDRESS.wait_for(pair, side)
}

/// For longer than it is given for.
fn stays(address: Moves, pair: &Pair, side: Side) -> Result<()> {
    holds_for("the address stays", Duration::from_secs(4), || {
        address.is_here(pair, side).unwrap_or(false)
    })
}

/// Hardware address of a server.
fn mac(pair: &Pair, side: Side) -> Result<String> {
    let text = ip_says(pair, side, "-o link show dev eth0")?;
    let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
    mac.map(str::to_owned).context("a hardware address")
}

#[test]
fn the_address_moves_with_a_failover_and_the_network_is_told() -> Result<()> {
    moves(ADDRESS)
}

#[test]
fn an_address_of_ipv6_moves_with_a_failover_and_the_network_is_told() -> Result<()> {
    moves(ADDRESS_IPV6)
}

fn moves(address: Moves) -> Result<()> {
    if !address.is_possible("the address moves")? {
        return Ok(());
    }
    let Moves(ip, length) = address;
    ready_pair(address.settings(), |pair| {
        address.wait_for(pair, Side::Alpha)?;
        // A host that has talked to alpha knows a hardware address that will be wrong.
        let old = format!("neigh replace {ip} lladdr 02:00:00:00:00:99 dev eth0 nud stale");
        ip_says(pair, Side::Alpha, &old)?;
        pair.alpha.ask(&["failover"])?;
        address.wait_for(pair, Side::Bravo)?;
        let new = mac(pair, Side::Bravo)?;
        wait_for("the network knows who has it", SOON, || {
            let known = ip_says(pair, Side::Alpha, &format!("neigh show {ip} dev eth0")).ok()?;
            known.contains(&new).then_some(())
        })?;
        let status = pair.bravo.status()?.0;
        ensure!(status["addresses"][0]["here"] == true, "{status}");
        let text = pair.alpha.cli(&["ha-status"])?.ok()?;
        ensure!(text.contains(&format!("Address {ip}/{length} on eth0: not here")), "{text}");
        // An orderly end: nobody may reach a server that is not active.
        pair.wait_ready()?;
        pair.bravo.stop_by(Signal::TERM)?;
        address.wait_for(pair, Side::Alpha)?;
        // Alone, a daemon that is started again does not know its role at once; its users notice nothing.
        pair.alpha.kill();
        pair.alpha.start()?;
        stays(address, pair, Side::Alpha)
    })
}

#[test]
fn a_frozen_daemon_loses_the_address_to_the_one_that_takes_over() -> Result<()> {
    if !can_cut("a frozen daemon")? {
        return Ok(());
    }
    ready_pair(ADDRESS.settings(), |pair| {
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
    is_an_alarm_while_somebody_else_has_it(ADDRESS, "10.77.0.100/32 dev lo")
}

#[test]
fn an_address_of_ipv6_that_somebody_else_has_is_an_alarm_until_he_gives_it_back() -> Result<()> {
    is_an_alarm_while_somebody_else_has_it(ADDRESS_IPV6, "fd77::100/128 dev eth0 nodad")
}

fn is_an_alarm_while_somebody_else_has_it(address: Moves, theirs: &str) -> Result<()> {
    if !address.is_possible("an address in use")? {
        return Ok(());
    }
    fresh_pair(address.settings(), |pair| {
        pair.start()?;
        ip_says(pair, Side::Bravo, &format!("address add {theirs}"))?;
        pair.license()?;
        pair.trust()?;
        pair.wait_contact()?;
        pair.alpha.ask(&["configure"])?;
        let status =
            pair.alpha.wait("it is an alarm", |status| status.has_alarm("address_missing"))?;
        ensure!(status.role() == "active", "the role does not depend on it: {}", status.0);
        let told = status.0["alarms"].to_string();
        ensure!(told.contains(&mac(pair, Side::Bravo)?), "whose it is: {told}");
        ensure!(!address.is_here(pair, Side::Alpha)?, "two servers have it");
        ip_says(pair, Side::Bravo, &format!("address delete {theirs}"))?;
        pair.alpha.wait("the alarm is over", |status| !status.has_alarm("address_missing"))?;
        address.wait_for(pair, Side::Alpha)?;
        // Who served goes on, alone.
        pair.alpha.ask(&["unconfigure"])?;
        stays(address, pair, Side::Alpha)
    })
}

#[test]
fn of_two_active_servers_one_has_the_address_and_the_network_is_told_when_it_is_over() -> Result<()>
{
    if !can_cut("an address in a split brain")? {
        return Ok(());
    }
    let Moves(ip, _) = ADDRESS;
    ready_pair(ADDRESS.settings(), |pair| {
        wait_for_it(pair, Side::Alpha)?;
        // Nobody is asked for addresses over a link that is cut as a whole.
        ip_says(pair, Side::Alpha, "link set dev eth0 arp off")?;
        pair.network.cut()?;
        wait_for("both have it", SOON, || {
            Side::BOTH.iter().all(|side| has_it(pair, *side).unwrap_or(false)).then_some(())
        })?;
        ip_says(pair, Side::Alpha, "link set dev eth0 arp on")?;
        // With writes on both sides it does not heal by itself.
        for side in Side::BOTH {
            pair.server(side).application(BOARD)?.add_call(side.name(), "during the cut")?;
        }
        pair.network.heal()?;
        pair.alpha.wait("the split is seen", |status| status.is_split())?;
        wait_for_it(pair, Side::Bravo)?;
        stays(ADDRESS, pair, Side::Bravo)?;
        // A host that has talked to the other one meanwhile is told who goes on.
        let old = format!("neigh replace {ip} lladdr 02:00:00:00:00:99 dev eth0 nud stale");
        ip_says(pair, Side::Alpha, &old)?;
        pair.alpha.ask(&["go-standby"])?;
        pair.wait_roles(Side::Bravo)?;
        let winner = mac(pair, Side::Bravo)?;
        wait_for("the network knows who has it", SOON, || {
            let known = ip_says(pair, Side::Alpha, &format!("neigh show {ip} dev eth0")).ok()?;
            known.contains(&winner).then_some(())
        })?;
        wait_for_it(pair, Side::Bravo)
    })
}
