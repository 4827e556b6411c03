//! Repair on a real pair: the plan, several at once, undo, and what outlives cuts and kills.

use std::thread;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Application, Pair, Server, Settings, Side, net, process::Ran, ready_pair, settings::BOARD,
};
use serde_json::Value;

const FAULTS: &str = "
    UPDATE calls SET what = 'older' WHERE id IN ('first', 'second');
    DELETE FROM duty; INSERT INTO units(id, name) VALUES(90, 'only on bravo');";

/// Names of the databases that are compared now.
fn pending(server: &Server) -> Result<Vec<String>> {
    let status = server.status()?;
    let rows = status.0["pending_repairs"].as_array().cloned().unwrap_or_default();
    Ok(rows.iter().filter_map(|row| row["database"].as_str().map(str::to_owned)).collect())
}

fn wait_pending(server: &Server, database: &str) -> Result<()> {
    let listed =
        |rows: &Value| rows.as_array().is_some_and(|r| r.iter().any(|r| r["database"] == database));
    server.wait("the repair is listed", |status| listed(&status.0["pending_repairs"]))?;
    Ok(())
}

/// Runs `during` while a repair asked for on `server` waits for bravo's database, then lets it go on.
fn while_repairing(
    pair: &mut Pair,
    side: Side,
    arguments: &[&str],
    during: impl FnOnce(&mut Pair) -> Result<()>,
) -> Result<Ran> {
    let holder = pair.bravo.application(BOARD)?;
    holder.execute("BEGIN IMMEDIATE")?;
    let mut waiting = pair.server(side).command_line(arguments)?;
    let waiting =
        thread::spawn(move || ipicsha_e2e::process::run(&mut waiting, ipicsha_e2e::wait::SOON * 4));
    let result = wait_pending(pair.server(side), BOARD).and_then(|()| during(pair));
    holder.execute("ROLLBACK")?;
    let ran = waiting.join().map_err(|_| anyhow::anyhow!("the waiting verb panicked"))??;
    result.map(|()| ran)
}

fn call(application: &Application, id: &str) -> Result<String> {
    application.call(id)?.context("the record")
}

#[test]
fn spec_d4_plan_several_at_once_and_undo() -> Result<()> {
    ready_pair(Settings::fast().databases(&[BOARD, "second"]), |pair| {
        pair.bravo.application(BOARD)?.fault(FAULTS)?;
        pair.bravo.application("second")?.fault("DELETE FROM duty")?;
        the_plan_is_seen_from_either_server(pair)?;
        let ran = while_repairing(
            pair,
            Side::Alpha,
            &["--json", "--yes", "repair", "--db", BOARD],
            |pair| {
                let other = pair.alpha.ask(&["repair", "--db", "second"])?;
                ensure!(other[0]["report"]["applied"] == true, "{other}");
                ensure!(pending(&pair.alpha)?.contains(&BOARD.to_owned()), "the first still runs");
                for server in [&pair.alpha, &pair.bravo] {
                    let again = server.cli(&["--yes", "repair", "--db", BOARD])?;
                    again.refused(3, "running already")?;
                }
                Ok(())
            },
        )?;
        let outcome = ran.json()?;
        ensure!(outcome[0]["error"].is_null(), "{outcome}");
        pair.wait_equal()?;
        let run = outcome[0]["run"].to_string();
        ensure!(run.len() <= 6, "{run} is too long to be typed");
        undone(pair, &run)
    })
}

fn the_plan_is_seen_from_either_server(pair: &Pair) -> Result<()> {
    for (side, here, there) in
        [(Side::Alpha, "only_here", "only_there"), (Side::Bravo, "only_there", "only_here")]
    {
        let plan = pair.server(side).ask(&["repair", "--dry-run", "--db", BOARD])?;
        let row = |table: &str| {
            let rows = plan[0]["plan"].as_array().cloned().unwrap_or_default();
            rows.into_iter().find(|row| row["table"] == table).with_context(|| plan.to_string())
        };
        ensure!(row("calls")?["differing"] == 2 && row("calls")?["kept_of"] == "alpha", "{plan}");
        ensure!(row("duty")?[here] == 1 && row("duty")?[there] == 0, "{plan}");
        ensure!(row("units")?[there] == 1 && row("units")?[here] == 0, "{plan}");
        ensure!(plan[0]["sides"]["here"] == side.name(), "{plan}");
    }
    let text = pair.alpha.cli(&["repair", "--dry-run"])?.ok()?;
    ensure!(text.contains("here is alpha, there is bravo"), "{text}");
    ensure!(
        text.contains("calls: 0 only here, 0 only there, 2 different (alpha's kept)"),
        "{text}"
    );
    let kept = call(&pair.bravo.application(BOARD)?, "first")?;
    ensure!(kept == "older", "a plan changes nothing: {kept}");
    Ok(())
}

fn undone(pair: &Pair, run: &str) -> Result<()> {
    pair.bravo.cli(&["--yes", "repair", "undo", run])?.refused(3, "standby")?;
    pair.alpha.cli(&["--yes", "repair", "undo", "1"])?.refused(3, "no repair has the number")?;
    pair.alpha.application(BOARD)?.execute("UPDATE calls SET weight = 9 WHERE id = 'second'")?;
    let ran = pair.alpha.cli(&["--yes", "repair", "undo", run])?;
    ensure!(ran.code == Some(7), "something was left: {ran:?}");
    ensure!(ran.stdout.contains("1 put back") && ran.stdout.contains("'second'"), "{ran:?}");
    pair.wait_equal()?;
    for server in [&pair.alpha, &pair.bravo] {
        ensure!(call(&server.application(BOARD)?, "first")? == "older", "it is back");
        ensure!(call(&server.application(BOARD)?, "second")? != "older", "it was changed since");
        let list = server.ask(&["repair", "list", "--db", BOARD])?;
        let entry =
            list.as_array().and_then(|l| l.iter().find(|r| r["run"].as_u64() == run.parse().ok()));
        ensure!(entry.is_some_and(|entry| entry["undone"].is_i64()), "{list}");
    }
    let history = pair.alpha.cli(&["history"])?.ok()?;
    ensure!(history.contains(&format!("repair {run} of {BOARD}")), "{history}");
    Ok(())
}

#[test]
fn a_waiting_repair_outlives_a_kill_of_the_daemon_that_leads_it() -> Result<()> {
    ready_pair(Settings::slowest(), |pair| {
        pair.bravo.application(BOARD)?.fault(FAULTS)?;
        let ran = while_repairing(pair, Side::Bravo, &["--json", "--yes", "repair"], |pair| {
            pair.alpha.kill();
            pair.alpha.start()
        })?;
        let outcome = ran.json()?;
        ensure!(
            outcome[0]["error"].is_null() && outcome[0]["report"]["applied"] == true,
            "{outcome}"
        );
        pair.wait_roles(Side::Alpha)?;
        pair.wait_equal()?;
        ensure!(call(&pair.bravo.application(BOARD)?, "first")? != "older", "it is repaired");
        pair.alpha.wait("nothing is pending", |status| status.no_repair_pending())?;
        Ok(())
    })
}

#[test]
fn a_waiting_repair_outlives_a_cut_of_the_link_and_says_so() -> Result<()> {
    if !net::can_cut("repair over a cut")? {
        return Ok(());
    }
    ready_pair(Settings::slowest(), |pair| {
        pair.bravo.application(BOARD)?.fault(FAULTS)?;
        let ran = while_repairing(pair, Side::Alpha, &["--json", "--yes", "repair"], |pair| {
            pair.network.cut()?;
            pair.alpha
                .wait("it is cut off", |status| status.0["pending_repairs"][0]["paused"] == true)?;
            ipicsha_e2e::wait::holds_for("it waits", std::time::Duration::from_secs(2), || {
                pending(&pair.alpha).is_ok_and(|list| !list.is_empty())
            })?;
            pair.network.heal()
        })?;
        ensure!(ran.stderr.contains("goes on when the partner is back"), "{ran:?}");
        let outcome = ran.json()?;
        ensure!(
            outcome[0]["error"].is_null() && outcome[0]["report"]["applied"] == true,
            "{outcome}"
        );
        pair.wait_equal()
    })
}
