//! What `ha-status` shows, as programs read it.

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Settings, Side, process::Background, ready_pair, settings::BOARD, wait::SOON, wait_for,
};
use serde_json::Value;

fn has_fields(object: &Value, fields: &[&str]) -> Result<()> {
    for field in fields {
        ensure!(object.get(field).is_some(), "{field} is missing in {object}");
    }
    Ok(())
}

#[test]
fn ha_status_as_json_has_every_promised_field() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        for side in Side::BOTH {
            let status = pair.server(side).status()?.0;
            has_fields(&status, &["ha", "trust", "epoch", "servers", "databases"])?;
            has_fields(
                &status,
                &["pending_repairs", "split_brain", "recommended_action", "alarms"],
            )?;
            let servers = status["servers"].as_array().context("servers")?;
            ensure!(servers.len() == 2, "{status}");
            for server in servers {
                has_fields(server, &["name", "license", "role", "state", "reason", "reachable"])?;
                has_fields(server, &["heartbeat_age_seconds", "clock_offset_seconds"])?;
            }
            let database = &status["databases"][0];
            has_fields(database, &["path", "tables", "skipped_tables", "queue_records"])?;
            has_fields(database, &["lag_seconds", "log_used_percent"])?;
            ensure!(status["time_source"] == "assume-synced", "it must be shown: {status}");
        }
        pair.bravo.kill();
        let status = pair.alpha.wait("bravo is lost", |status| !status.partner_reachable())?.0;
        ensure!(
            status["servers"][1]["name"] == "bravo",
            "an unreachable partner is a row: {status}"
        );
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)
    })
}

#[test]
fn a_table_that_cannot_be_replicated_is_named_never_skipped_in_silence() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let application = pair.alpha.application("odd")?;
        application
            .execute("CREATE TABLE keyless(a, b); CREATE VIRTUAL TABLE search USING fts5(text)")?;
        let path = pair.alpha.database("odd").display().to_string();
        let said = pair.alpha.cli(&["protect", "db", &path, "--name", "odd"])?.ok()?;
        ensure!(said.contains("search"), "protect does not name it: {said}");
        let status = pair.alpha.wait("the database is there", |status| {
            status.0["databases"].as_array().is_some_and(|rows| rows.len() == 2)
        })?;
        let rows = status.0["databases"].as_array().context("databases")?;
        let odd = rows.iter().find(|row| row["name"] == "odd").context("its row")?;
        let skipped = odd["skipped_tables"].as_array().context("its skipped tables")?;
        let search = skipped.iter().find(|row| row["table"] == "search").context("search")?;
        ensure!(search["reason"].is_string(), "{odd}");
        let tables = odd["tables"].as_array().context("its tables")?;
        ensure!(tables.iter().any(|name| name == "keyless"), "no key is needed: {odd}");
        let board = rows.iter().find(|row| row["name"] == BOARD).context("the board's row")?;
        ensure!(board["skipped_tables"] == serde_json::json!([]), "{board}");

        // Protected here only: the pair says so instead of calling the standby ready.
        pair.bravo.wait("it asks for the database", |status| {
            status.standby_status().starts_with("Not Ready")
                && status.0.to_string().contains("--name odd")
        })?;
        let path = pair.bravo.database("odd").display().to_string();
        pair.bravo.ask(&["protect", "db", &path, "--name", "odd", "--seed"])?;
        pair.wait_ready()
    })
}

#[test]
fn a_watched_status_shows_what_changes_and_a_daemon_that_is_down() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let (path, output) = pair.bravo.create("watched")?;
        let (_, errors) = pair.bravo.create("watched.err")?;
        let words = ["ha-status", "--watch", "0.2"];
        let watching = Background::spawn(&mut pair.bravo.command_line(&words)?, output, errors)?;
        let shows = |what: &'static str| {
            wait_for(&format!("{what} is shown"), SOON, || {
                let text = std::fs::read_to_string(&path).ok()?;
                let last = text.rsplit("\n\n").find(|screen| !screen.trim().is_empty())?;
                last.contains(what).then_some(())
            })
        };
        shows("bravo")?;
        pair.alpha.kill();
        shows("the partner is down or not reachable")?;
        pair.bravo.kill();
        shows("error: the daemon does not answer")?;
        pair.bravo.start()?;
        shows("bravo")?;
        drop(watching);
        let refused = pair.bravo.cli(&["ha-status", "--watch", "0"])?;
        ensure!(refused.code == Some(2), "{refused:?}");
        pair.alpha.start()?;
        pair.wait_contact()
    })
}
