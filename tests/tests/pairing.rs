//! Set-up with bad input: licenses, heartbeat, configuration file, trust, clocks, time, versions.
//! Each attempt ends with its exit code, its reason and a next step, and changes nothing.

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Launch, Pair, Ran, Settings, Side, binary, compare, fresh_pair, pair::PASSWORD, process::run,
    settings::BOARD, wait::SOON, wait_for,
};
use std::{process::Command, time::Duration};

/// `attempt` is refused like this, and neither server's state has changed.
fn refused(
    pair: &Pair,
    code: i32,
    reason: &str,
    attempt: impl FnOnce(&Pair) -> Result<Ran>,
) -> Result<()> {
    let before = pair.states()?;
    let ran = attempt(pair)?;
    ran.refused(code, reason)?;
    ensure!(pair.states()? == before, "the refusal changed something: {ran:?}");
    Ok(())
}

fn configure(pair: &Pair) -> Result<Ran> {
    pair.alpha.cli(&["--yes", "configure"])
}

#[test]
fn spec_a4_licenses_decide_the_role_and_bad_sets_are_refused() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.start()?;
        pair.trust()?;
        pair.wait_contact()?;
        refused(pair, 3, "no license", configure)?;
        refused(pair, 3, "High Availability", |pair| {
            pair.install(Side::Alpha, &["base", "high-availability"])
        })?;
        let shown = pair.alpha.ask(&["license", "show"])?;
        ensure!(shown["licenses"] == serde_json::json!([]), "something was installed: {shown}");

        pair.install(Side::Alpha, &["base", "policy-engine-base"])?.ok()?;
        refused(pair, 3, "High Availability", |pair| {
            pair.install(Side::Alpha, &["high-availability"])
        })?;
        pair.install(Side::Bravo, &["base", "policy-engine-base"])?.ok()?;
        pair.alpha.wait("it knows bravo's license", |status| {
            status.0.pointer("/servers/1/license").is_some_and(|license| license == "primary")
        })?;
        refused(pair, 3, "both servers are licensed as primary", configure)?;
        let text = pair.bravo.write("nonsense.toml", "feature = \"everything\"\n")?;
        let path = text.display().to_string();
        refused(pair, 1, "no license file", |pair| pair.bravo.cli(&["license", "install", &path]))
    })
}

#[test]
fn spec_a8_heartbeat_values_out_of_range_are_refused() -> Result<()> {
    fresh_pair(Settings::slowest(), |pair| {
        let good = std::fs::read_to_string(pair.alpha.config_path())?;
        for (key, value, other) in [
            ("interval_seconds", "5.0", "4"),
            ("interval_seconds", "5.0", "601"),
            ("missed_count", "5", "4"),
            ("missed_count", "5", "31"),
        ] {
            let bad = good.replace(&format!("{key} = {value}"), &format!("{key} = {other}"));
            ensure!(bad != good, "the value was not found");
            let path = pair.alpha.write("bad.toml", bad)?.display().to_string();
            let mut check = Command::new(binary::ipicsha()?);
            check.args(["--config", &path, "config", "check"]);
            run(&mut check, Duration::from_secs(10))?.refused(78, "out of range")?;
        }
        pair.alpha.cli(&["config", "check"])?.ok()?;
        pair.start()?;
        pair.license()?;
        pair.trust()?;
        for arguments in
            [["--interval", "4"], ["--interval", "601"], ["--count", "4"], ["--count", "31"]]
        {
            refused(pair, 2, "out of range", |pair| {
                pair.alpha.cli(&[&["--yes", "configure"], &arguments[..]].concat())
            })?;
        }
        ensure!(pair.alpha.status()?.ha() == "not configured", "it was configured");
        Ok(())
    })
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_the_nearest_key() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        let good = std::fs::read_to_string(pair.alpha.config_path())?;
        let bad = good.replace("missed_count", "mised_count");
        let line =
            1 + bad.lines().position(|l| l.starts_with("mised_count")).context("the line")?;
        let path = pair.alpha.write("ipicsha.toml", bad)?.display().to_string();
        let ran = pair.alpha.cli(&["config", "check"])?;
        ran.refused(78, &format!("{path}:{line}:"))?;
        ensure!(ran.stderr.contains("next: did you mean `missed_count`?"), "{ran:?}");
        let (status, log) = pair.alpha.start_and_end()?;
        ensure!(status.code() == Some(78), "the daemon started: {status}");
        ensure!(log.contains("mised_count") && log.contains("next: "), "{log}");
        ensure!(!pair.alpha.state_file().exists(), "it left a state behind");
        Ok(())
    })
}

#[test]
fn spec_a1_trust_needs_the_right_password_and_a_partner() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.start()?;
        pair.license()?;
        let bravo = pair.network.address(Side::Bravo);
        refused(pair, 6, "no admin password is set on bravo", |pair| {
            pair.ask_trust(PASSWORD, &bravo)
        })?;
        pair.set_password(Side::Bravo)?;
        refused(pair, 6, "not trusted", configure)?;
        refused(pair, 6, "password wrong, or this is not your partner", |pair| {
            pair.ask_trust("wrong horse battery", &bravo)
        })?;
        let closed = format!("{}:9", pair.network.host(Side::Bravo));
        refused(pair, 4, "cannot reach", |pair| pair.ask_trust(PASSWORD, &closed))?;
        let itself = pair.network.address(Side::Alpha);
        refused(pair, 1, "this server itself", |pair| pair.ask_trust(PASSWORD, &itself))?;
        for side in Side::BOTH {
            ensure!(pair.server(side).status()?.trust() == "not trusted", "{} trusts", side.name());
        }
        pair.ask_trust(PASSWORD, &bravo)?.ok()?;
        refused(pair, 3, "already trusts bravo", |pair| pair.ask_trust(PASSWORD, &bravo))
    })
}

#[test]
fn spec_a9_ready_is_said_only_when_the_databases_are_in_sync() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.start()?;
        pair.license()?;
        pair.trust()?;
        let board = pair.alpha.application(BOARD)?;
        board.create()?;
        board.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
             INSERT INTO calls(id, what) SELECT 'call ' || i, 'text ' || i FROM n",
        )?;
        pair.wait_contact()?;
        pair.protect()?;
        configure(pair)?.ok()?; // at once, while everything about the databases is still to be done
        for side in Side::BOTH {
            pair.server(side).wait("it says Ready", |status| {
                status.standby_status() == "Ready" && !status.role().is_empty()
            })?;
            let left = pair.alpha.database(BOARD);
            let found = compare::differences(&left, &pair.bravo.database(BOARD))
                .with_context(|| format!("{} says Ready, but", side.name()))?;
            ensure!(found.is_empty(), "{} says Ready, but: {found:#?}", side.name());
        }
        Ok(())
    })
}

/// Sets up all but `configure`, which is refused; after `cure` it succeeds.
fn configure_refused_until(
    settings: Settings,
    obstacle: Launch,
    reason: &str,
    cure: impl FnOnce(&mut Pair) -> Result<()>,
) -> Result<()> {
    fresh_pair(settings, |pair| {
        pair.alpha.start()?;
        pair.bravo.launch(&obstacle)?;
        pair.license()?;
        pair.trust()?;
        pair.protect()?;
        pair.wait_contact()?;
        refused(pair, 3, reason, configure)?;
        ensure!(pair.alpha.status()?.ha() == "not configured", "it was configured");
        cure(pair)?;
        // What alpha knows of bravo is renewed by heartbeats.
        wait_for("configure goes through", SOON, || {
            configure(pair).ok().filter(|ran| ran.code == Some(0))
        })?;
        pair.wait_ready()
    })
}

fn restart_bravo(pair: &mut Pair) -> Result<()> {
    pair.bravo.kill();
    pair.bravo.start()
}

#[test]
fn spec_d2_configure_is_refused_with_clocks_31_s_apart() -> Result<()> {
    let shifted = Launch { clock_offset_seconds: Some(31), ..Launch::default() };
    configure_refused_until(Settings::fast(), shifted, "s apart, more than 30 s", restart_bravo)
}

#[test]
fn spec_a5_configure_is_refused_without_time_synchronisation() -> Result<()> {
    for side in Side::BOTH {
        let settings = Settings::fast().time_source(side, "none");
        let reason = format!("{} has no time synchronisation", side.name());
        configure_refused_until(settings, Launch::default(), &reason, |pair| {
            let server = pair.server_mut(side);
            let text = std::fs::read_to_string(server.config_path())?;
            server.write("ipicsha.toml", text.replace("\"none\"", "\"assume-synced\""))?;
            server.kill();
            server.start()
        })?;
    }
    Ok(())
}

#[test]
fn spec_a6_configure_is_refused_with_different_versions() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let other = folder.path().join("ipicsha");
    let version = binary::with_other_version(&other)?;
    let launch = Launch { program: Some(other), ..Launch::default() };
    let reason = format!("different versions: {} here, {version}", binary::VERSION);
    configure_refused_until(Settings::fast(), launch, &reason, restart_bravo)
}
