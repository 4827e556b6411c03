//! Answers of the daemon as text on the terminal, or as they are with `--json`.
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::process::ExitCode;

use ipicsha_core::{
    preflight::{Check, Outcome},
    state::NodeState,
    status::{Alarm, ServerStatus},
};
use serde_json::Value;

use crate::{
    api::{DatabaseRow, PatternRow, Status, TrustRow},
    daemon::HistoryEntry,
    exit::{Failure, Kind},
    size::ByteSize,
    wording,
};

/// Prints a failure: stderr in words, or one JSON object on stdout.
pub(crate) fn failure(failure: &Failure, json: bool) {
    if json {
        println!("{}", serde_json::json!({ "error": failure }));
        return;
    }
    eprint!("{}", failure_text(failure));
}

/// A failure in words.
pub(crate) fn failure_text(failure: &Failure) -> String {
    let next =
        failure.next_step.as_ref().map_or_else(String::new, |next| format!("next: {next}\n"));
    format!("error: {}\n{next}", failure.message)
}

/// Prints the JSON as it came.
pub(crate) fn raw(value: &Value) {
    println!("{value}");
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        Failure::new(Kind::Failed, format!("the answer of the daemon cannot be read: {error}"))
            .hinted("use the `ipicsha` of the same version as the daemon")
    })
}

/// `ha-status`; with `check` only the exit code: 0 healthy, 1 degraded, 2 critical.
pub(crate) fn status(value: Value, json: bool, check: bool) -> Result<ExitCode, Failure> {
    if json {
        raw(&value);
    }
    let status: Status = parse(value)?;
    if !json && !check {
        print!("{}", wording::status(&status));
    }
    Ok(if check { ExitCode::from(health(&status)) } else { ExitCode::SUCCESS })
}

fn health(status: &Status) -> u8 {
    if status.pair.config.is_none() {
        return 3;
    }
    // What is wrong with the partner is its alarm and not this server's.
    let failed = |server: &ServerStatus| server.state.is_some_and(NodeState::is_failed);
    let servers = &status.pair.servers;
    if status.pair.alarms.iter().any(Alarm::is_critical) || servers.iter().any(failed) {
        return 2;
    }
    u8::from(!status.pair.alarms.is_empty() || status.pair.standby_status != "Ready")
}

/// `history`.
pub(crate) fn history(value: Value) -> Result<(), Failure> {
    let entries: Vec<HistoryEntry> = parse(value)?;
    for entry in entries {
        println!("{}", wording::history(&entry));
    }
    Ok(())
}

/// `trust show`.
pub(crate) fn trust(value: Value) -> Result<(), Failure> {
    let rows: Vec<TrustRow> = parse(value)?;
    for (index, row) in rows.iter().enumerate() {
        let whose = if index == 0 { "this server" } else { "partner" };
        println!("{whose}: {} at {}", row.name, row.address.as_deref().unwrap_or("(any address)"));
        println!("  certificate {}", row.fingerprint);
        if let Some(expires) = row.expires_unix {
            println!("  valid until {}", wording::time(expires * 1000));
        }
    }
    if rows.len() < 2 {
        println!("partner: not trusted (set it up with `ipicsha trust set PARTNER_ADDRESS`)");
    }
    Ok(())
}

/// `license show`.
pub(crate) fn licenses(value: &Value) {
    for license in value["licenses"].as_array().into_iter().flatten() {
        let expires = license["expires"].as_i64().map_or_else(|| "never".into(), wording::time);
        let text = |key: &str| license[key].as_str().unwrap_or("").to_owned();
        println!(
            "{:<20} issued to {}, serial {}, expires {expires}",
            text("feature"),
            text("issued_to"),
            text("serial")
        );
    }
    match (value["role"].as_str(), &value["problem"]) {
        (Some(role), _) => println!("Licensed role: {role}"),
        (None, problem) => {
            println!("Licensed role: none ({})", problem[0].as_str().unwrap_or(""));
            println!("next: {}", problem[1].as_str().unwrap_or(""));
        }
    }
}

/// `failover`.
pub(crate) fn failover(value: Value, json: bool) -> Result<ExitCode, Failure> {
    if json {
        raw(&value);
        let checks: Vec<Check> = match value.get("checks") {
            Some(checks) => parse(checks.clone())?,
            None => Vec::new(),
        };
        let (_, possible) = judged(&checks);
        return Ok(if possible { ExitCode::SUCCESS } else { ExitCode::from(Kind::Refused.code()) });
    }
    if let Some(took) = value["took_seconds"].as_f64() {
        println!("Failed over in {}. This server is standby now.", wording::span(took));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(at) = value["at_unix_ms"].as_i64() {
        println!("Planned for {}. `ipicsha failover --cancel` ends it.", wording::time(at));
        return Ok(ExitCode::SUCCESS);
    }
    if value["result"] == "done" {
        done(&value);
        return Ok(ExitCode::SUCCESS);
    }
    if value["result"] == "took over" {
        println!(
            "This server took over and is active now. Changes that only the other one has are merged when it is back."
        );
        return Ok(ExitCode::SUCCESS);
    }
    let (_, possible) = checks(&value)?;
    println!(
        "{}",
        if possible {
            "Failover is possible. Nothing was changed."
        } else {
            "Failover is not possible now. Nothing was changed."
        }
    );
    Ok(if possible { ExitCode::SUCCESS } else { ExitCode::from(Kind::Refused.code()) })
}

/// `drill`.
pub(crate) fn drill(value: &Value) {
    let span = |key: &str| wording::span(value[key].as_f64().unwrap_or_default());
    println!(
        "The partner was active in {}, could hand over {} later, and this server is active again, in {}.",
        span("there_seconds"),
        span("away_seconds"),
        span("back_seconds")
    );
}

/// `check`.
pub(crate) fn site(value: &Value, json: bool) -> Result<ExitCode, Failure> {
    let (good, _) =
        if json { judged(&parse::<Vec<Check>>(value["checks"].clone())?) } else { checks(value)? };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(Kind::Attention.code()) })
}

/// Whether all are good, and whether none forbids to go on.
fn judged(checks: &[Check]) -> (bool, bool) {
    let good = checks.iter().all(|check| check.outcome == Outcome::Ok);
    (good, checks.iter().all(|check| check.failure().is_none()))
}

/// Prints a list of checks; as [`judged`].
fn checks(value: &Value) -> Result<(bool, bool), Failure> {
    let checks: Vec<Check> = parse(value["checks"].clone())?;
    for check in &checks {
        match &check.outcome {
            Outcome::Ok => println!("ok    {}", check.finding),
            Outcome::Warn { fix } => println!("warn  {}\n      {fix}", check.finding),
            Outcome::Fail { fix } => println!("FAIL  {}\n      {fix}", check.finding),
        }
    }
    Ok(judged(&checks))
}

/// `conflicts list`.
pub(crate) fn conflicts(value: &Value) {
    let entries = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.is_empty() {
        println!("No version has lost.");
    }
    for entry in entries {
        println!(
            "{:>6}  {}  {:<10} {} {} [{}]",
            entry["id"],
            entry["at"].as_i64().map(wording::time).unwrap_or_default(),
            entry["kind"].as_str().unwrap_or(""),
            entry["database"].as_str().unwrap_or(""),
            entry["table"].as_str().unwrap_or(""),
            entry["key_text"].as_str().unwrap_or("")
        );
    }
}

/// `conflicts show`.
pub(crate) fn conflict(entry: &Value) {
    let text = |key: &str| entry[key].as_str().unwrap_or("").to_owned();
    println!("{} {} [{}], {}", text("database"), text("table"), text("key_text"), text("kind"));
    println!(
        "-- lost ({}):",
        if entry["loser_was_own"] == true { "this server's" } else { "the partner's" }
    );
    println!("{}", text("loser_text"));
    println!("-- kept:");
    println!("{}", text("winner_text"));
    println!("Put the lost version back with: ipicsha conflicts restore {}", entry["id"]);
}

/// `protect db PATTERN`.
pub(crate) fn pattern(value: &Value) -> Result<(), Failure> {
    let databases: Vec<DatabaseRow> = parse(value["databases"].clone())?;
    let row: PatternRow = parse(value["pattern"].clone())?;
    let text = wording::patterns::protected(&row, &databases);
    print!("{text}");
    Ok(())
}

/// `protect db`.
pub(crate) fn protected(row: &Value) {
    let tables = |key: &str| row[key].as_array().map_or(0, Vec::len);
    println!(
        "{} is protected as {}: {} tables{}",
        row["path"].as_str().unwrap_or(""),
        row["name"].as_str().unwrap_or(""),
        tables("tables"),
        if tables("skipped_tables") > 0 { ", some are not replicated:" } else { "" }
    );
    for (table, identity) in row["identities"].as_object().into_iter().flatten() {
        println!("  {table}: known by its {}", identity.as_str().unwrap_or(""));
    }
    for skipped in row["skipped_tables"].as_array().into_iter().flatten() {
        println!(
            "  {}: {}",
            skipped["table"].as_str().unwrap_or(""),
            skipped["reason"].as_str().unwrap_or("")
        );
    }
    for warning in row["warnings"].as_array().into_iter().flatten() {
        println!("  warning: {}", warning.as_str().unwrap_or(""));
    }
    println!(
        "  transaction log: {} changes, {}",
        row["log"]["capacity_entries"],
        ByteSize(row["log"]["capacity_bytes"].as_u64().unwrap_or_default())
    );
    println!("Protect the same database on the partner, with the same name.");
}

/// `barrier`.
pub(crate) fn barrier(value: &Value) {
    let took = wording::span(value["took_seconds"].as_f64().unwrap_or_default());
    for row in value["confirmed"].as_array().into_iter().flatten() {
        let name = row["database"].as_str().unwrap_or("");
        println!("{name}: the partner has everything that was committed ({took})");
        for note in row["not_covered"].as_array().into_iter().flatten() {
            println!("  not replicated: {}", note.as_str().unwrap_or(""));
        }
    }
}

/// Anything that is simply done.
pub(crate) fn done(value: &Value) {
    match (value["partner"].as_str(), value["fingerprint"].as_str()) {
        (Some(partner), Some(fingerprint)) => {
            println!("Done: partner {partner}, certificate {fingerprint}");
        }
        _ => println!("Done."),
    }
    if let Some(note) = value["note"].as_str() {
        println!("Note: {note}");
    }
    for warning in value["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        println!("Warning: {warning}");
    }
}
