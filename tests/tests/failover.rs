//! Takeover and planned failover, with applications that write meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Server, Settings, Side, holds_for, note, ready_pair, settings::BOARD, writers::Writers,
};
use rustix::process::Signal;

const PER_SERVER: usize = 4;

/// Every id stands in the database of the server.
fn all_there(server: &Server, acked: &[String]) -> Result<()> {
    let application = server.application(BOARD)?;
    for id in acked {
        let found = application.call(id)?;
        found.with_context(|| {
            format!("{id} was acknowledged and is lost on {}", server.side.name())
        })?;
    }
    Ok(())
}

#[test]
fn spec_b5_planned_failover_there_and_back_loses_no_acknowledged_write() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let on_alpha = Writers::start(&pair.alpha, BOARD, "a", PER_SERVER)?;
        let on_bravo = Writers::start(&pair.bravo, BOARD, "b", PER_SERVER)?;
        on_alpha.wait_acked(50)?;
        ensure!(on_bravo.acked() == 0, "the standby accepted writes");

        let there = pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        on_bravo.wait_acked(50)?;
        let at_handover = on_alpha.acked();
        let back = pair.bravo.ask(&["failover"])?;
        pair.wait_roles(Side::Alpha)?;
        on_alpha.wait_acked(50 + at_handover / PER_SERVER)?;

        let (alphas, bravos) = (on_alpha.stop()?, on_bravo.stop()?);
        pair.wait_equal()?;
        for server in [&pair.alpha, &pair.bravo] {
            all_there(server, &alphas.acked)?;
            all_there(server, &bravos.acked)?;
        }
        ensure!(alphas.refused > 0 && bravos.refused > 0, "nobody met the fence");
        note(&format!(
            "failover under {PER_SERVER} writers took {} s, back {} s; {} acknowledged writes, 0 lost",
            there["took_seconds"],
            back["took_seconds"],
            alphas.acked.len() + bravos.acked.len()
        ));
        Ok(())
    })
}

#[test]
fn spec_b2_b6_after_kill_9_the_standby_takes_over_after_d_and_the_old_active_follows() -> Result<()>
{
    ready_pair(Settings::fast(), |pair| {
        let writers = Writers::start(&pair.alpha, BOARD, "a", 2)?;
        writers.wait_acked(30)?;
        pair.alpha.kill_everything()?;
        let before = writers.after_kill();

        let status = pair.bravo.wait("it has taken over", |status| {
            status.role() == "active" && status.state() != "Taking Over"
        })?;
        ensure!(status.state() == "Running in Backup Mode", "{status:?}");
        ensure!(status.reason() == "Peer Down", "{status:?}");
        let (silence, d) =
            (pair.bravo.silence_before_takeover_ms()?, pair.settings.takeover_after_ms());
        note(&format!(
            "takeover after kill -9: {silence} ms after the last heartbeat (D = {d} ms)"
        ));
        ensure!(silence >= d, "too early: {silence} ms");
        pair.bravo.application(BOARD)?.add_call("after the takeover", "on bravo")?;

        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        ensure!(pair.alpha.status()?.state() == "Failed Over", "{:?}", pair.alpha.status());
        pair.alpha.application(BOARD)?.must_be_fenced()?;
        pair.wait_equal()?;
        for server in [&pair.alpha, &pair.bravo] {
            all_there(server, &before.acked)?;
            all_there(server, &["after the takeover".into()])?;
        }
        Ok(())
    })
}

#[test]
fn an_orderly_stop_of_the_active_is_taken_over_at_once() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.application(BOARD)?.add_call("last words", "on alpha")?;
        let status = pair.alpha.stop_by(Signal::TERM)?;
        ensure!(status.success(), "{status}");
        let status = pair.bravo.wait("it is active", |status| status.role() == "active")?;
        // Handed over, or at least told: in both cases bravo did not wait for D of silence.
        let told = ["On Admin Request", "Peer Reboot"].contains(&status.reason());
        ensure!(told, "it waited for silence: {status:?}");
        all_there(&pair.bravo, &["last words".into()])?;
        pair.alpha.application(BOARD)?.must_be_fenced()?;
        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        pair.wait_equal()
    })
}

#[test]
fn an_announced_restart_changes_no_role() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        for side in Side::BOTH {
            pair.server_mut(side).stop_by(Signal::USR1)?;
            let other = pair.server(side.other());
            let role = if side == Side::Alpha { "standby" } else { "active" };
            // Three times D: without the announcement the standby would take over.
            holds_for("the partner keeps its role", Duration::from_secs(3), || {
                other.status().is_ok_and(|status| status.role() == role)
            })?;
            pair.server_mut(side).start()?;
            pair.wait_roles(Side::Alpha)?;
        }
        ensure!(pair.bravo.entered_ms("Taking Over").is_err(), "bravo was active in between");
        pair.alpha.application(BOARD)?.add_call("after the restarts", "on alpha")?;
        pair.wait_equal()
    })
}

#[test]
fn the_standby_refuses_writes_also_with_its_daemon_killed() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.bravo.application(BOARD)?.must_be_fenced()?;
        pair.bravo.kill();
        let stubborn = Writers::start(&pair.bravo, BOARD, "b", 1)?;
        pair.bravo.application(BOARD)?.must_be_fenced()?;
        pair.alpha.application(BOARD)?.add_call("meanwhile", "on alpha")?;
        pair.alpha.wait("it sees the loss", |status| status.has_alarm("partner_down"))?;
        let seen = stubborn.stop()?;
        ensure!(seen.acked.is_empty() && seen.refused > 0, "{seen:?}");
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        pair.wait_equal()
    })
}

#[test]
fn both_killed_the_last_active_one_returns_with_everything() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        pair.bravo.application(BOARD)?.add_call("before the blackout", "on bravo")?;
        pair.bravo.kill_everything()?;
        pair.alpha.kill_everything()?;
        pair.alpha.start()?;
        pair.bravo.start()?;
        pair.wait_roles(Side::Bravo)?;
        pair.wait_equal()?;
        all_there(&pair.alpha, &["before the blackout".into()])
    })
}

#[test]
fn an_application_that_outlives_its_daemon_loses_nothing() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let orphans = Writers::start(&pair.alpha, BOARD, "a", 2)?;
        orphans.wait_acked(20)?;
        pair.alpha.kill();
        pair.bravo.wait("it takes over", |status| status.role() == "active")?;
        let served = Writers::start(&pair.bravo, BOARD, "b", 2)?;
        served.wait_acked(20)?;
        // Nobody told the application on alpha; its writes are still acknowledged there.
        orphans.wait_acked(20 + orphans.acked())?;
        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        let (orphans, served) = (orphans.stop()?, served.stop()?);
        ensure!(orphans.refused > 0, "the returned daemon did not close the writes");
        pair.wait_equal()?;
        for server in [&pair.alpha, &pair.bravo] {
            all_there(server, &orphans.acked)?;
            all_there(server, &served.acked)?;
        }
        Ok(())
    })
}
