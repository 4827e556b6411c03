//! `check` and the warnings of `configure`, on a real pair (spec A3, A11, A13).

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Pair, Settings, fresh_pair, net::can_cut, note, ready_pair};
use serde_json::Value;

/// The checks, each as `ok`, `warn` or `fail` with what was found.
fn checks(value: &Value) -> Result<Vec<(String, String)>> {
    let all = value["checks"].as_array().context("checks")?;
    let one = |check: &Value| {
        let outcome = &check["outcome"];
        let name = outcome.as_str().map(str::to_owned);
        let name = name.or_else(|| outcome.as_object()?.keys().next().cloned());
        (name.unwrap_or_default(), check["finding"].as_str().unwrap_or_default().to_owned())
    };
    Ok(all.iter().map(one).collect())
}

fn has(checks: &[(String, String)], outcome: &str, finding: &str) -> Result<()> {
    let found = checks.iter().any(|(o, f)| o == outcome && f.contains(finding));
    ensure!(found, "no {outcome} {finding:?}: {checks:#?}");
    Ok(())
}

#[test]
fn spec_a13_a_ready_pair_passes_every_check_and_a_lost_partner_is_named() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        for server in [&pair.alpha, &pair.bravo] {
            let ran = server.cli(&["check"])?;
            ensure!(ran.code == Some(0), "{ran:?}");
            for part in ["ok    round trip", "ok    the link carries", "ok    the standby is ready"]
            {
                ensure!(ran.stdout.contains(part), "{part}: {ran:?}");
            }
            ensure!(ran.stdout.matches("is valid for 109").count() == 2, "{ran:?}");
        }
        pair.bravo.kill();
        pair.alpha.wait("bravo is lost", |status| !status.partner_reachable())?;
        let ran = pair.alpha.cli(&["--json", "check"])?;
        ensure!(ran.code == Some(7), "{ran:?}");
        let checks = checks(&serde_json::from_str(&ran.stdout)?)?;
        has(&checks, "fail", "bravo is not reachable")?;
        has(&checks, "warn", "the bandwidth was not measured")?;
        pair.bravo.start()?;
        pair.wait_contact()
    })
}

#[test]
fn a_server_without_trust_or_license_is_told_what_comes_first() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.alpha.start()?;
        let ran = pair.alpha.cli(&["check"])?;
        ensure!(ran.code == Some(7), "{ran:?}");
        for part in
            ["FAIL  not trusted", "`ipicsha trust set PARTNER_ADDRESS`", "`ipicsha license install"]
        {
            ensure!(ran.stdout.contains(part), "{part}: {ran:?}");
        }
        Ok(())
    })
}

/// Lets 4 Mbit/s through from alpha; `false`: this kernel cannot.
fn make_narrow(pair: &Pair) -> Result<bool> {
    let words = "qdisc add dev eth0 root tbf rate 4mbit burst 32k latency 400ms";
    let mut tc: Command = pair.network.command(ipicsha_e2e::Side::Alpha, "tc");
    Ok(tc.args(words.split(' ')).status()?.success())
}

#[test]
fn spec_a11_a_narrow_link_is_a_warning_of_configure_and_of_check() -> Result<()> {
    if !can_cut("a narrow link")? {
        return Ok(());
    }
    fresh_pair(Settings::fast(), |pair| {
        if !make_narrow(pair)? {
            note("SKIPPED a narrow link: this kernel has no tbf");
            return Ok(());
        }
        pair.start()?;
        pair.license()?;
        pair.trust()?;
        pair.wait_contact()?;
        let configured = pair.alpha.ask(&["configure"])?;
        let warnings = configured["warnings"].to_string();
        ensure!(warnings.contains("Mbit/s (at least 10)"), "{configured}");
        let ran = pair.alpha.cli(&["--json", "check"])?;
        ensure!(ran.code == Some(7), "{ran:?}");
        has(&checks(&serde_json::from_str(&ran.stdout)?)?, "warn", "the link carries ")?;
        // The other direction is as wide as ever.
        let ran = pair.bravo.cli(&["--json", "check"])?;
        has(&checks(&serde_json::from_str(&ran.stdout)?)?, "ok", "the link carries ")
    })
}
