//! Certificates are renewed while the pair serves.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side,
    dice::Dice,
    net::can_cut,
    ready_pair,
    settings::BOARD,
    wait::SOON,
    wait_for,
    witness::{own_certificate, witness_pair},
    writers::Writers,
};
use rustix::process::Signal;

/// What this server's partner accepts of it.
fn known_to_partner(pair: &Pair, side: Side) -> Result<String> {
    let rows = pair.server(side.other()).ask(&["trust", "show"])?;
    Ok(rows[1]["fingerprint"].as_str().context("a fingerprint")?.to_owned())
}

fn wait_known(pair: &Pair, side: Side) -> Result<()> {
    wait_for("the partner has forgotten the old certificate", SOON, || {
        let (own, known) = (own_certificate(pair, side).ok()?, known_to_partner(pair, side).ok()?);
        (own == known).then_some(())
    })
}

#[test]
fn spec_a3_certificates_are_renewed_on_both_servers_while_records_flow() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let writers = Writers::start(&pair.alpha, BOARD, "alpha", 2)?;
        writers.wait_acked(50)?;
        let changes = |pair: &Pair| -> Result<usize> {
            let history = pair.alpha.history()?;
            Ok(history.iter().filter(|entry| entry["event"]["event"] == "state").count())
        };
        let before = changes(pair)?;
        for side in Side::BOTH {
            let old = own_certificate(pair, side)?;
            let answer = pair.server(side).ask(&["certificate", "renew"])?;
            let new = own_certificate(pair, side)?;
            ensure!(new != old && answer["fingerprint"] == new.as_str(), "{answer}");
            wait_known(pair, side)?;
            pair.wait_ready()?;
        }
        ensure!(changes(pair)? == before, "a role or state changed");
        let acked = writers.acked();
        writers.wait_acked(acked + 50)?;
        writers.stop()?;
        pair.wait_equal()?;
        for side in Side::BOTH {
            pair.server_mut(side).stop_by(Signal::USR1)?;
            pair.server_mut(side).start()?;
        }
        pair.wait_ready()?;
        pair.wait_equal()
    })
}

#[test]
fn without_the_partner_the_old_certificate_stays() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let old = own_certificate(pair, Side::Alpha)?;
        pair.bravo.kill();
        pair.alpha.wait("it is alone", |status| !status.partner_reachable())?;
        pair.alpha.cli(&["--yes", "certificate", "renew"])?.refused(4, "not reachable")?;
        ensure!(own_certificate(pair, Side::Alpha)? == old, "it was renewed");
        pair.bravo.start()?;
        pair.wait_ready()?;
        pair.alpha.ask(&["certificate", "renew"])?;
        wait_known(pair, Side::Alpha)?;
        pair.wait_ready()
    })
}

#[test]
fn a_daemon_that_dies_at_any_moment_of_it_is_known_afterwards() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let mut dice = Dice::new("a daemon dies while it renews its certificate");
        for _ in 0..10 {
            let mut renewing = pair.alpha.command_line(&["--yes", "certificate", "renew"])?;
            let mut renewing = renewing.stderr(std::process::Stdio::null()).spawn()?;
            thread::sleep(Duration::from_millis(dice.below(80)));
            pair.alpha.kill();
            renewing.wait()?;
            pair.alpha.start()?;
            pair.alpha.wait("it hears its partner", |status| status.partner_reachable())?;
            pair.bravo.wait("it hears its partner", |status| status.partner_reachable())?;
            wait_known(pair, Side::Alpha)?;
        }
        pair.alpha.ask(&["certificate", "renew"])?;
        wait_known(pair, Side::Alpha)
    })
}

#[test]
fn a_witness_has_to_know_the_new_certificate_first() -> Result<()> {
    if !can_cut("a renewal under policy witness")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, witness| {
        let (old, other) =
            (own_certificate(pair, Side::Alpha)?, own_certificate(pair, Side::Bravo)?);
        let ran = pair.alpha.cli(&["--yes", "--json", "certificate", "renew"])?;
        let error: serde_json::Value = serde_json::from_str(&ran.stdout)?;
        ensure!(ran.code == Some(3), "{error}");
        let next = error["error"]["next_step"].as_str().context("a next step")?;
        let new = next.split('"').nth(1).context("a fingerprint")?.to_owned();
        ensure!(own_certificate(pair, Side::Alpha)? == old, "it was renewed");
        witness.configure_certificates(&[vec![old, new.clone(), other]])?;
        pair.alpha.ask(&["certificate", "renew"])?;
        ensure!(own_certificate(pair, Side::Alpha)? == new, "another one was made");
        wait_known(pair, Side::Alpha)?;
        pair.wait_ready()?;
        // What it granted to the old certificate ends first.
        let granted = || witness.log().contains(&format!("certificate={new}")).then_some(());
        wait_for("the witness grants it under a later epoch", SOON, granted)?;
        pair.network.cut()?;
        ipicsha_e2e::holds_for("the active stays", Duration::from_secs(3), || {
            pair.alpha.status().is_ok_and(|status| status.role() == "active")
        })?;
        pair.network.heal()?;
        pair.wait_ready()
    })
}
