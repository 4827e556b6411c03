//! The verbs of a pair's life beyond failover, with two daemons.

use std::time::Duration;

use anyhow::{Result, ensure};
use ipicsha_e2e::{Settings, Side, holds_for, net::can_cut, ready_pair, settings::BOARD};

#[test]
fn spec_b5_b7_a_relieved_primary_is_idle_over_a_restart_and_serves_again_after_a_fallback()
-> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.cli(&["--yes", "fallback"])?.refused(3, "there is nothing to fall back to")?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        pair.alpha.wait("it is idle", |status| status.state() == "Idle")?;
        ensure!(pair.alpha.status()?.reason() == "On Admin Request", "why");
        pair.alpha.kill();
        pair.alpha.start()?;
        pair.alpha.wait("it is still idle", |status| status.state() == "Idle")?;
        pair.wait_roles(Side::Bravo)?;
        pair.alpha.cli(&["--yes", "fallback"])?.refused(3, "bravo is active")?;
        let list = pair.bravo.ask(&["fallback", "--dry-run"])?;
        ensure!(list["result"] == "preflight", "{list}");
        let back = pair.bravo.ask(&["fallback"])?;
        ensure!(back["took_seconds"].is_number(), "{back}");
        pair.wait_roles(Side::Alpha)
    })
}

#[test]
fn spec_b13_a_paused_pair_does_not_take_over_until_it_is_resumed() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.cli(&["--yes", "resume"])?.refused(3, "HA is not paused")?;
        pair.alpha.ask(&["pause", "--reason", "new kernel", "--for", "1h"])?;
        pair.bravo.wait("it is paused too", |status| status.has_alarm("paused"))?;
        pair.alpha.kill();
        pair.bravo.wait("it misses its partner", |status| status.has_alarm("takeover_needed"))?;
        pair.bravo.kill();
        pair.bravo.start()?;
        pair.bravo.wait("a restart does not forget it", |status| status.has_alarm("paused"))?;
        ensure!(pair.bravo.status()?.role() == "standby", "nothing takes over");
        pair.alpha.start()?;
        pair.wait_roles(Side::Alpha)?;
        pair.alpha.ask(&["resume"])?;
        pair.bravo.wait("resumed", |status| !status.has_alarm("paused"))?;
        pair.alpha.kill();
        pair.bravo.wait("it takes over", |status| status.role() == "active")?;
        pair.bravo.cli(&["--yes", "recover"])?.refused(3, "nothing has failed")
    })
}

#[test]
fn spec_b9_both_boot_with_the_link_down_and_only_the_one_that_was_active_goes_on() -> Result<()> {
    if !can_cut("both boot with the link down")? {
        return Ok(());
    }
    let settings = Settings::fast().pair("initialization_timeout_seconds = 3.0");
    ready_pair(settings, |pair| {
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        pair.wait_equal()?;
        pair.network.cut()?;
        for side in Side::BOTH {
            pair.server_mut(side).kill();
        }
        for side in Side::BOTH {
            pair.server_mut(side).start()?;
        }
        pair.bravo.wait("it was active, and goes on alone", |status| status.role() == "active")?;
        pair.bravo.application(BOARD)?.add_call("after", "the power cut")?;
        let status = pair.alpha.wait("it says that nobody takes over here", |status| {
            status.has_alarm("takeover_needed")
        })?;
        ensure!(status.role() == "standby", "{status:?}");
        holds_for("the other one waits", Duration::from_secs(4), || {
            pair.alpha.status().is_ok_and(|status| status.role() == "standby")
        })?;
        pair.network.heal()?;
        pair.wait_roles(Side::Bravo)?;
        pair.wait_equal()
    })
}

#[test]
fn spec_b5_a_drill_moves_the_service_there_and_back_and_is_kept() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.bravo.cli(&["drill", "--yes"])?.refused(3, "begins on the active server")?;
        let drilled = pair.alpha.ask(&["drill", "--stay", "1"])?;
        for key in ["there_seconds", "away_seconds", "back_seconds"] {
            ensure!(drilled[key].as_f64().is_some(), "{key}: {drilled}");
        }
        ensure!(drilled["away_seconds"].as_f64() >= Some(1.0), "{drilled}");
        pair.wait_roles(Side::Alpha)?;
        pair.wait_ready()?;
        let kept = pair.alpha.history()?;
        ensure!(kept.iter().any(|entry| entry["event"] == "drill"), "{kept:?}");
        let text = pair.alpha.cli(&["history"])?.ok()?;
        ensure!(text.contains("drill: there in "), "{text}");
        pair.wait_equal()
    })
}

#[test]
fn a_planned_failover_happens_at_its_time_and_can_be_forgotten() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let at = |seconds: i64| {
            let now = std::time::SystemTime::now() + Duration::from_secs(seconds.unsigned_abs());
            let unix = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            // `date` writes what the verb reads.
            let ran = std::process::Command::new("date")
                .args(["-d", &format!("@{unix}"), "+%FT%T"])
                .output()?;
            Ok::<_, anyhow::Error>(String::from_utf8(ran.stdout)?.trim().to_owned())
        };
        pair.bravo.cli(&["failover", "--yes", "--at", &at(60)?])?.refused(3, "not active")?;
        let past = pair.alpha.cli(&["failover", "--yes", "--at", "2020-01-01 03:00"])?;
        past.refused(2, "the time is past")?;
        pair.alpha.ask(&["failover", "--at", &at(3600)?])?;
        let text = pair.alpha.cli(&["ha-status"])?.ok()?;
        ensure!(text.contains("Planned: failover at ") && text.contains("--cancel"), "{text}");
        pair.alpha.ask(&["failover", "--cancel"])?;
        ensure!(!pair.alpha.cli(&["ha-status"])?.ok()?.contains("Planned:"), "it is forgotten");
        pair.alpha.ask(&["failover", "--at", &at(3)?])?;
        // A restart of the daemon forgets nothing.
        pair.alpha.stop_by(rustix::process::Signal::USR1)?;
        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        let kept = pair.alpha.history()?;
        let planned = kept.iter().find(|entry| entry["event"] == "planned");
        ensure!(planned.is_some_and(|entry| entry["error"].is_null()), "{kept:?}");
        Ok(())
    })
}
