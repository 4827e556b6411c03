//! Verbs in the wrong state: refused with the next step, and nothing changes.

use anyhow::{Result, ensure};
use ipicsha_e2e::{Pair, Settings, Side, ready_pair, settings::BOARD};

fn refused(pair: &Pair, side: Side, verb: &[&str], code: i32, reason: &str) -> Result<()> {
    let before = pair.states()?;
    let server = pair.server(side);
    server.cli(&[&["--yes"], verb].concat())?.refused(code, reason)?;
    let json = server.cli(&[&["--yes", "--json"], verb].concat())?;
    let value: serde_json::Value = serde_json::from_str(&json.stdout)?;
    ensure!(json.code == Some(code) && json.stderr.is_empty(), "{json:?}");
    ensure!(value["error"]["message"].is_string(), "{json:?}");
    ensure!(value["error"]["next_step"].is_string(), "{json:?}");
    ensure!(pair.states()? == before, "{verb:?} on {} changed something", side.name());
    Ok(())
}

#[test]
fn spec_f2_verbs_of_another_state_are_refused_while_the_pair_is_ready() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        refused(pair, Side::Alpha, &["go-standby"], 3, "no split brain")?;
        refused(pair, Side::Bravo, &["go-standby"], 3, "no split brain")?;
        refused(pair, Side::Bravo, &["failover"], 3, "alpha is active")?;
        refused(pair, Side::Bravo, &["unconfigure"], 3, "alpha is active")?;
        refused(pair, Side::Alpha, &["trust", "delete", "--local-only"], 3, "HA is configured")?;
        refused(pair, Side::Alpha, &["conflicts", "restore", "4711"], 3, "no entry 4711")?;
        // Confirmation without a terminal is not assumed.
        let ran = pair.alpha.cli(&["failover"])?;
        ran.refused(2, "confirmation")?;
        pair.wait_roles(Side::Alpha)
    })
}

#[test]
fn failover_and_repair_are_refused_while_the_partner_is_lost() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.bravo.kill();
        pair.alpha.wait("the standby is lost", |status| {
            status.has_alarm("partner_down") && status.standby_status().starts_with("Not Ready")
        })?;
        refused(pair, Side::Alpha, &["failover"], 3, "failover is not possible now")?;
        refused(pair, Side::Alpha, &["repair"], 4, "bravo is not reachable")?;
        let dry = pair.alpha.cli(&["failover", "--dry-run"])?;
        ensure!(dry.code == Some(3) && dry.stdout.contains("FAIL"), "{dry:?}");
        let check = pair.alpha.cli(&["ha-status", "--check"])?;
        ensure!(check.code == Some(1), "degraded is 1: {check:?}");
        // A daemon that is down shows nothing green.
        let down = pair.bravo.cli(&["ha-status"])?;
        down.refused(4, "does not answer")?;
        ensure!(pair.bravo.cli(&["ha-status", "--check"])?.code == Some(3), "unknown is 3");
        pair.alpha.application(BOARD)?.add_call("alone", "on alpha")?;
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        ensure!(pair.alpha.cli(&["ha-status", "--check"])?.code == Some(0), "healthy is 0");
        pair.wait_equal()
    })
}

#[test]
fn spec_a10_unconfigure_leaves_no_trace_in_the_databases() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.ask(&["unconfigure"])?;
        for side in Side::BOTH {
            let server = pair.server(side);
            server.wait("HA is not configured", |status| status.ha() == "not configured")?;
            let application = server.application(BOARD)?;
            ipicsha_e2e::wait_for("our objects are gone", ipicsha_e2e::wait::SOON, || {
                application.objects_of("_ipicsha_").ok().filter(Vec::is_empty)
            })?;
            application.add_call(side.name(), "both are on their own")?;
        }
        pair.alpha.ask(&["configure"])?;
        pair.wait_ready()?;
        pair.wait_equal()?;
        let merged = pair.alpha.application(BOARD)?.call("bravo")?;
        ensure!(merged.is_some(), "spec A7: data on either server is merged");
        Ok(())
    })
}
