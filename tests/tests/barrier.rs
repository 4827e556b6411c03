//! A write that was confirmed by a barrier survives the loss of the server that made it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Server, Settings, Side, fresh_pair, note, process::run, ready_pair, settings::BOARD,
    wait_for, writers::Writers,
};

/// Exit code of a barrier that was not confirmed.
const NOT_CONFIRMED: i32 = 8;

/// An application that asks for barriers and, at the last answer, kills the daemon and itself.
const SCRIPT: &str = include_str!("../src/python/barrier.py");
/// How many writes it has confirmed then.
const CONFIRMED: usize = 9000;

/// Runs it to its end on the active server; the ids that were confirmed.
fn write_and_die(server: &Server, round: usize) -> Result<Vec<String>> {
    let confirmed = server.home.join(format!("confirmed-{round}"));
    let mut application = server.command("python3");
    application.args(["-c", SCRIPT]).arg(server.database(BOARD)).arg(BOARD);
    application.arg(server.home.join("ipicsha.sock")).arg(server.pid()?.to_string());
    application.arg(format!("round{round}")).arg(&confirmed);
    let ran = run(&mut application, Duration::from_secs(60))?;
    ensure!(ran.code.is_none(), "it did not come to its end: {ran:?}");
    Ok(std::fs::read_to_string(&confirmed)?.lines().map(ToOwned::to_owned).collect())
}

#[test]
fn every_write_behind_a_barrier_survives_kill_9_of_daemon_and_application() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let [mut active, mut standby] = [Side::Alpha, Side::Bravo];
        let mut total = 0;
        for round in 0..3 {
            let confirmed = write_and_die(pair.server(active), round)?;
            pair.server_mut(active).kill_everything()?;
            ensure!(confirmed.len() == CONFIRMED, "{} were confirmed", confirmed.len());
            let survivor = pair.server(standby);
            survivor.wait("it is active", |status| status.role() == "active")?;
            let there = survivor.application(BOARD)?;
            for id in &confirmed {
                there.call(id)?.with_context(|| format!("{id} was confirmed and is lost"))?;
            }
            total += confirmed.len();
            pair.server_mut(active).start()?;
            pair.wait_roles(standby)?;
            pair.wait_equal()?;
            (active, standby) = (standby, active);
        }
        note(&format!("{total} writes behind barriers, 3 times kill -9 at the answer: 0 lost"));
        Ok(())
    })
}

fn refused(pair: &Pair, side: Side, arguments: &[&str], reason: &str) -> Result<serde_json::Value> {
    let server = pair.server(side);
    server.cli(arguments)?.refused(NOT_CONFIRMED, reason)?;
    let json = server.cli(&[&["--json"], arguments].concat())?;
    ensure!(json.code == Some(NOT_CONFIRMED), "{json:?}");
    Ok(serde_json::from_str::<serde_json::Value>(&json.stdout)?["error"].take())
}

#[test]
fn barrier_says_what_is_confirmed_and_what_is_not() -> Result<()> {
    ready_pair(Settings::fast().databases(&[BOARD, "second"]), |pair| {
        for name in [BOARD, "second"] {
            pair.alpha.application(name)?.add_call("before", "the barrier")?;
        }
        let answer = pair.alpha.ask(&["barrier"])?;
        ensure!(answer["result"] == "confirmed", "{answer}");
        ensure!(answer["confirmed"].as_array().is_some_and(|all| all.len() == 2), "{answer}");
        for name in [BOARD, "second"] {
            let there = pair.bravo.application(name)?.call("before")?;
            there.with_context(|| format!("confirmed and not there: {name}"))?;
        }
        let path = pair.alpha.database("second").display().to_string();
        let said = pair.alpha.cli(&["barrier", "--db", &path, "--timeout", "500ms"])?.ok()?;
        ensure!(said.starts_with("second: the partner has everything"), "{said}");
        pair.alpha.cli(&["barrier", "--db", "third"])?.refused(3, "no database is called third")?;
        for wrong in ["5 parsecs", "-1s", "2h", "7200s"] {
            let timeout = format!("--timeout={wrong}");
            ensure!(pair.alpha.cli(&["barrier", &timeout])?.code == Some(2), "{wrong}");
        }
        refused(pair, Side::Bravo, &["barrier"], "this server is standby")?;

        // One of two cannot follow: both are named, each on its side.
        pair.bravo.ask(&["unprotect", "db", "second"])?;
        pair.alpha.ask(&["unprotect", "db", "second"])?;
        pair.alpha.ask(&["protect", "db", &path, "--name", "second"])?;
        pair.alpha.application("second")?.add_call("alone", "nobody has it")?;
        let error = refused(
            pair,
            Side::Alpha,
            &["barrier", "--timeout", "300ms"],
            "second: not confirmed",
        )?;
        ensure!(error["details"]["confirmed"][0]["database"] == BOARD, "{error}");
        ensure!(error["details"]["not_confirmed"][0]["database"] == "second", "{error}");
        ensure!(
            error["message"].as_str().is_some_and(|m| m.ends_with("confirmed: board")),
            "{error}"
        );
        pair.alpha.ask(&["barrier", "--db", BOARD])?;

        pair.bravo.kill();
        refused(
            pair,
            Side::Alpha,
            &["barrier", "--db", BOARD, "--timeout", "2s"],
            "not confirmed",
        )?;
        pair.alpha.application(BOARD)?.add_call("nobody waits", "for the partner")
    })
}

#[test]
fn a_barrier_without_ha_is_not_confirmed() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.start()?;
        refused(pair, Side::Alpha, &["barrier"], "no database is protected")?;
        pair.license()?;
        pair.trust()?;
        pair.protect()?;
        refused(pair, Side::Alpha, &["barrier"], "HA is not configured")?;
        pair.alpha.kill();
        pair.alpha.cli(&["barrier"])?.refused(4, "does not answer")
    })
}

#[test]
fn a_barrier_holds_while_writers_and_a_restart_of_the_standby_interfere() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let writers = Writers::start(&pair.alpha, BOARD, "a", 2)?;
        for round in 0..3 {
            writers.wait_acked(20 * (round + 1))?;
            let id = format!("round {round}");
            pair.alpha.application(BOARD)?.add_call(&id, "behind a barrier")?;
            wait_for("it is confirmed", ipicsha_e2e::wait::SOON, || {
                pair.alpha.cli(&["barrier"]).ok().filter(|ran| ran.code == Some(0))
            })?;
            ensure!(pair.bravo.application(BOARD)?.call(&id)?.is_some(), "confirmed too early");
            pair.bravo.kill();
            pair.bravo.start()?;
        }
        let seen = writers.stop()?;
        ensure!(seen.acked.len() >= 120, "the writers were held up");
        pair.wait_ready()?;
        pair.wait_equal()
    })
}
