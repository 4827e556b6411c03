//! The verbs of everyday administration, on a real pair, from `update` to `trust delete`.

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Pair, Settings, Side, pair::PASSWORD, ready_pair, settings::BOARD, wait_for};

fn interval_ms(pair: &Pair, side: Side) -> Result<i64> {
    let status = pair.server(side).status()?;
    status.0["config"]["timing"]["interval_millis"].as_i64().context("the interval")
}

#[test]
fn spec_a8_update_reaches_both_servers() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.ask(&["update", "--interval", "0.3"])?;
        for side in Side::BOTH {
            ensure!(interval_ms(pair, side)? == 300, "{} has another interval", side.name());
        }
        pair.alpha.cli(&["update"])?.refused(2, "nothing to update")?;
        pair.wait_roles(Side::Alpha)?;
        pair.wait_ready()
    })
}

#[test]
fn unprotect_leaves_no_trace_and_the_pair_is_ready_without_the_database() -> Result<()> {
    ready_pair(Settings::fast().databases(&[BOARD, "second"]), |pair| {
        for side in Side::BOTH {
            let server = pair.server(side);
            server.ask(&["unprotect", "db", "second"])?;
            server.cli(&["unprotect", "db", "second"])?.refused(3, "no database is called")?;
            let application = server.application("second")?;
            ensure!(application.objects_of("_ipicsha_")?.is_empty(), "{}", side.name());
            application.add_call(side.name(), "nothing refuses it")?;
        }
        pair.wait_ready()?;
        pair.alpha.application(BOARD)?.add_call("still", "replicated")?;
        wait_for("the other database goes on", ipicsha_e2e::wait::SOON, || {
            pair.bravo.application(BOARD).ok()?.call("still").ok().flatten()
        })?;
        Ok(())
    })
}

#[test]
fn spec_a2_trust_is_shown_and_deleted_on_both_servers_with_the_password() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let [ours, theirs] = Side::BOTH.map(|side| pair.server(side).ask(&["trust", "show"]));
        let (ours, theirs) = (ours?, theirs?);
        ensure!(ours[0]["fingerprint"] == theirs[1]["fingerprint"], "{ours} {theirs}");
        ensure!(ours[1]["fingerprint"] == theirs[0]["fingerprint"], "{ours} {theirs}");
        let roles = Side::BOTH.map(|side| pair.server(side).ask(&["license", "show"]));
        for (answer, role) in roles.into_iter().zip(["primary", "secondary"]) {
            ensure!(answer?["role"] == role, "licensed as {role}");
        }
        let delete = |password: &str| -> Result<_> {
            let file = pair.alpha.write("delete-password", password)?.display().to_string();
            pair.alpha.cli(&["--yes", "trust", "delete", "--password-file", &file])
        };
        delete(PASSWORD)?.refused(3, "HA is configured")?;
        pair.alpha.ask(&["unconfigure"])?;
        for side in Side::BOTH {
            pair.server(side).wait("HA is not configured", |s| s.ha() == "not configured")?;
        }
        delete("not the password")?.refused(6, "password wrong")?;
        ensure!(pair.alpha.status()?.trust() == "trusted", "a wrong password deleted it");
        delete(PASSWORD)?.ok()?;
        for side in Side::BOTH {
            pair.server(side).wait("trust is gone", |s| s.trust() == "not trusted")?;
        }
        pair.trust()?;
        pair.wait_contact()
    })
}
