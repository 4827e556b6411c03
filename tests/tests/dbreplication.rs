//! `dbreplication status` and `runtimestate` (spec C5) on a real pair.

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Server, Settings, Side, fresh_pair, ready_pair, settings::BOARD, wait::SOON, wait_for,
};
use rusqlite::Connection;
use serde_json::Value;

fn database(server: &Server, name: &str) -> Result<Value> {
    let answer = server.ask(&["dbreplication", "status", "--db", name])?;
    ensure!(answer["server"] == server.side.name(), "{answer}");
    let all = answer["databases"].as_array().context("no databases")?;
    ensure!(all.len() == 1, "not only {name}: {answer}");
    Ok(all[0].clone())
}

fn table(server: &Server, name: &str) -> Result<Value> {
    let database = database(server, BOARD)?;
    let tables = database["tables"].as_array().context("no tables")?;
    let found = tables.iter().find(|table| table["table"] == name);
    found.cloned().with_context(|| format!("no {name}: {database}"))
}

/// Runs `runtimestate`, and gives its exit code and answer.
fn runtime_state(server: &Server) -> Result<(Option<i32>, Value)> {
    let ran = server.cli(&["--json", "dbreplication", "runtimestate"])?;
    let answer = serde_json::from_str(&ran.stdout).with_context(|| format!("{ran:?}"))?;
    Ok((ran.code, answer))
}

fn wait_state(server: &Server, here: u8, partner: Option<u8>) -> Result<Value> {
    let mut last = Value::Null;
    let code = if (here, partner) == (2, Some(2)) { 0 } else { 7 };
    wait_for(&format!("{}: {here} and {partner:?}", server.side.name()), SOON, || {
        let (exit, answer) = runtime_state(server).ok()?;
        let database = answer["databases"].as_array()?.iter().find(|d| d["name"] == BOARD)?;
        let reached = database["here"] == here && database["partner"] == serde_json::json!(partner);
        last = answer.clone();
        (reached && exit == Some(code)).then_some(answer)
    })
    .with_context(|| format!("last: {last}"))
}

/// A fault on the standby: a row is changed although no program can.
fn force(pair: &Pair, sql: &str) -> Result<()> {
    let db = Connection::open(pair.bravo.database(BOARD))?;
    let names = "SELECT name FROM sqlite_schema WHERE type='trigger' AND tbl_name='calls' AND name LIKE '\\_ipicsha%' ESCAPE '\\'";
    let mut statement = db.prepare("SELECT sql FROM sqlite_schema WHERE name=?1")?;
    let mut list = db.prepare(names)?;
    let names = list.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let texts: Vec<String> = names
        .iter()
        .map(|name| statement.query_row([name], |row| row.get(0)))
        .collect::<Result<_, _>>()?;
    let drop: String = names.iter().map(|name| format!("DROP TRIGGER \"{name}\";")).collect();
    // In one transaction: the daemon never sees the table without its triggers.
    db.execute_batch(&format!("BEGIN IMMEDIATE; {drop} {sql}; {}; COMMIT", texts.join(";")))?;
    Ok(())
}

#[test]
fn spec_c5_a_forced_difference_is_found_by_verify_and_shown_until_it_is_repaired() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.application(BOARD)?.add_call("third", "gas")?;
        pair.wait_equal()?;
        for side in Side::BOTH {
            let server = pair.server(side);
            wait_state(server, 2, Some(2))?;
            let calls = table(server, "calls")?;
            ensure!(calls["rows"] == 3 && calls["rows_complete"] == true, "{calls}");
            ensure!(calls["identity"] == "PRIMARY KEY", "{calls}");
            ensure!(calls["last_change_unix_ms"].as_i64() > Some(0), "{}: {calls}", side.name());
            ensure!(calls["queue_records"] == 0 && calls["conflicts"] == 0, "{calls}");
            ensure!(table(server, "units")?["rows"] == 2, "units");
        }
        // The comparison at the beginning: the standby's rows came by it.
        ensure!(
            table(&pair.bravo, "calls")?["compared"]["left"] == 0,
            "{}",
            table(&pair.bravo, "calls")?
        );

        force(
            pair,
            "UPDATE calls SET what='tampered' WHERE id='first'; DELETE FROM calls WHERE id='second'",
        )?;
        wait_state(&pair.alpha, 2, Some(2))?;
        let verified = pair.alpha.cli(&["--yes", "verify"])?;
        ensure!(verified.code == Some(7), "verify: {verified:?}");
        for side in Side::BOTH {
            let server = pair.server(side);
            wait_state(server, 3, Some(3))?;
            let compared = table(server, "calls")?["compared"].clone();
            ensure!(compared["left"] == 2 && compared["repaired"] == false, "{compared}");
            ensure!(table(server, "units")?["compared"]["left"] == 0, "units");
            let text = server.cli(&["dbreplication", "status"])?.ok()?;
            ensure!(text.contains("state 3 (suspect)") && text.contains("2, verified "), "{text}");
        }
        // It is remembered over a restart of the daemon.
        pair.bravo.kill();
        pair.bravo.start()?;
        pair.wait_ready()?;
        wait_state(&pair.bravo, 3, Some(3))?;

        pair.bravo.ask(&["repair"])?;
        for side in Side::BOTH {
            wait_state(pair.server(side), 2, Some(2))?;
            let compared = table(pair.server(side), "calls")?["compared"].clone();
            ensure!(compared["left"] == 0 && compared["repaired"] == true, "{compared}");
            ensure!(compared["found"] == 2, "{compared}");
        }
        pair.wait_equal()
    })
}

#[test]
fn queue_lag_and_states_tell_of_a_partner_that_is_away() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        wait_state(&pair.alpha, 2, Some(2))?;
        pair.bravo.kill();
        pair.alpha.wait("it sees the loss", |status| status.has_alarm("partner_down"))?;
        let application = pair.alpha.application(BOARD)?;
        application.add_call("while away", "1")?;
        application.execute(
            "UPDATE calls SET weight=2 WHERE id='first'; INSERT INTO duty VALUES(2, 'x', 1)",
        )?;
        wait_state(&pair.alpha, 4, None)?;
        let calls = wait_for("the queue is shown", SOON, || {
            let calls = table(&pair.alpha, "calls").ok()?;
            (calls["queue_records"] == 2).then_some(calls)
        })?;
        ensure!(calls["lag_seconds"].as_f64() > Some(0.0), "{calls}");
        ensure!(table(&pair.alpha, "duty")?["queue_records"] == 1, "duty");
        ensure!(table(&pair.alpha, "units")?["queue_records"] == 0, "units");
        ensure!(database(&pair.alpha, BOARD)?["queue_records"] == 3, "the database");
        let text = pair.alpha.cli(&["dbreplication", "runtimestate"])?;
        ensure!(text.code == Some(7), "{text:?}");
        ensure!(text.stdout.contains("4 dropped") && text.stdout.contains("- unknown"), "{text:?}");
        pair.bravo.start()?;
        for side in Side::BOTH {
            wait_state(pair.server(side), 2, Some(2))?;
        }
        ensure!(table(&pair.alpha, "calls")?["queue_records"] == 0, "the queue is not empty");
        Ok(())
    })
}

#[test]
fn held_and_skipped_tables_and_what_only_one_server_protects_are_named() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.start()?;
        let (exit, answer) = runtime_state(&pair.alpha)?;
        ensure!(exit == Some(7) && answer["good"] == false, "nothing is set up: {answer}");
        pair.alpha.application(BOARD)?.create()?;
        pair.alpha.application(BOARD)?.execute("CREATE VIRTUAL TABLE words USING fts5(body)")?;
        pair.make_ready_from_started()?;
        wait_state(&pair.alpha, 2, Some(2))?;
        let board = database(&pair.alpha, BOARD)?;
        let skipped = board["skipped_tables"].to_string();
        ensure!(skipped.contains("words"), "{board}");

        let path = pair.alpha.database("lonely");
        pair.alpha.application("lonely")?.create()?;
        pair.alpha.ask(&["protect", "db", &path.display().to_string(), "--name", "lonely"])?;
        for (server, here, partner) in [(&pair.alpha, 1, 1), (&pair.bravo, 1, 1)] {
            wait_for(&format!("{} tells of it", server.side.name()), SOON, || {
                let (exit, answer) = runtime_state(server).ok()?;
                let all = answer["databases"].as_array()?;
                let lonely = all.iter().find(|database| database["name"] == "lonely")?;
                let told = lonely["here"] == here && lonely["partner"] == partner;
                (told && exit == Some(7)).then_some(())
            })?;
        }
        pair.alpha.ask(&["unprotect", "db", "lonely"])?;
        wait_state(&pair.alpha, 2, Some(2))?;
        pair.alpha
            .cli(&["dbreplication", "status", "--db", "lonely"])?
            .refused(3, "no database")?;

        pair.alpha.ask(&["unconfigure"])?;
        for side in Side::BOTH {
            pair.server(side).wait("HA is not configured", |s| s.ha() == "not configured")?;
            let (exit, answer) = runtime_state(pair.server(side))?;
            ensure!(exit == Some(7) && answer["databases"][0]["here"] == 0, "{answer}");
        }
        let calls = table(&pair.alpha, "calls")?;
        ensure!(calls["rows"] == 2 && calls["queue_records"] == 0, "{calls}");
        Ok(())
    })
}
