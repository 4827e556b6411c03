//! What users notice of every fault, on a real pair with heartbeats of 0.2 s and D = 1 s; the rows are those of
//! the table in README.md.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, faults::suffer, net::can_cut, process::signal, ready_pair, wait::SOON,
    wait_for,
};
use rustix::process::Signal;

/// The primary serves again and both are equal.
fn as_before(pair: &mut Pair) -> Result<()> {
    if pair.bravo.status()?.role() == "active" {
        pair.bravo.wait("the standby is ready", |status| status.standby_status() == "Ready")?;
        pair.bravo.ask(&["failover"])?;
    }
    pair.wait_roles(Side::Alpha)?;
    pair.wait_ready()
}

/// Both have written: the secondary gives up, and its writes are merged.
fn end_split(pair: &mut Pair) -> Result<()> {
    wait_for("both know of one another", SOON, || {
        let (alpha, bravo) = (pair.alpha.status().ok()?, pair.bravo.status().ok()?);
        let one = [alpha.role(), bravo.role()].contains(&"standby") && bravo.partner_reachable();
        (one || bravo.is_split()).then_some(())
    })?;
    if pair.bravo.status()?.is_split() {
        pair.bravo.ask(&["go-standby"])?;
        pair.wait_roles(Side::Alpha)?;
    }
    as_before(pair)
}

#[test]
fn spec_b5_a_planned_failover() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let noticed = suffer(
            pair,
            "planned failover",
            |pair| pair.alpha.ask(&["failover"]).map(drop),
            as_before,
        )?;
        ensure!(noticed.twice_active == 0, "{noticed:?}");
        Ok(())
    })
}

#[test]
fn the_active_is_stopped_in_order() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let stop = |pair: &mut Pair| pair.alpha.stop_by(Signal::TERM).map(drop);
        let noticed = suffer(pair, "orderly stop of the active", stop, |pair| {
            pair.alpha.start()?;
            as_before(pair)
        })?;
        ensure!(noticed.twice_active == 0, "{noticed:?}");
        Ok(())
    })
}

#[test]
fn spec_b2_the_daemon_of_the_active_is_killed() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let kill = |pair: &mut Pair| {
            pair.alpha.kill();
            pair.bravo.wait("it takes over", |status| status.role() == "active")?;
            pair.alpha.start()
        };
        suffer(pair, "kill -9 of the active's daemon, started again after D", kill, |pair| {
            end_split(pair)
        })?;
        Ok(())
    })
}

#[test]
fn the_daemon_of_the_active_is_frozen() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let freeze = |pair: &mut Pair| {
            signal(pair.alpha.pid()?, Signal::STOP);
            pair.bravo.wait("it takes over", |status| status.role() == "active")?;
            signal(pair.alpha.pid()?, Signal::CONT);
            Ok(())
        };
        suffer(pair, "SIGSTOP of the active's daemon until it was replaced", freeze, |pair| {
            end_split(pair)
        })?;
        Ok(())
    })
}

#[test]
fn spec_d1_the_link_is_cut_both_ways() -> Result<()> {
    if !can_cut("the link is cut both ways")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        suffer(
            pair,
            "link cut both ways (policy availability)",
            |pair| pair.network.cut(),
            |pair| {
                pair.network.heal()?;
                end_split(pair)
            },
        )?;
        Ok(())
    })
}

#[test]
fn the_link_is_cut_one_way() -> Result<()> {
    if !can_cut("the link is cut one way")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        suffer(
            pair,
            "link cut from the active only",
            |pair| pair.network.cut_from(Side::Alpha),
            |pair| {
                pair.network.heal()?;
                end_split(pair)
            },
        )?;
        Ok(())
    })
}

#[test]
fn the_link_flaps() -> Result<()> {
    if !can_cut("the link flaps")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        let flap = |pair: &mut Pair| {
            for _ in 0..10 {
                pair.network.cut()?;
                thread::sleep(Duration::from_millis(300));
                pair.network.heal()?;
                thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        };
        suffer(pair, "link that flaps 10 times, 0.3 s each", flap, end_split)?;
        Ok(())
    })
}
