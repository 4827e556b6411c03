//! What `repair` and `verify` print: plans, results, repairs of the past.
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::process::ExitCode;

use ipicsha_core::data::Differences;
use serde_json::Value;

use super::render::{parse, raw};
use crate::{
    daemon::{RepairOutcome, Sides},
    exit::{Failure, Kind},
    wording,
};

/// `repair`: what differed, by table; exit 7 when something is left.
pub(crate) fn outcomes(value: Value, json: bool, dry_run: bool) -> Result<ExitCode, Failure> {
    if json {
        raw(&value);
    }
    let outcomes: Vec<RepairOutcome> = parse(value)?;
    let mut left = false;
    for outcome in &outcomes {
        left |= outcome.error.is_some()
            || outcome.report.as_ref().is_some_and(|report| report.remaining() > 0 && !dry_run);
        if !json {
            print_outcome(outcome, dry_run);
        }
    }
    let changed = |o: &RepairOutcome| o.report.as_ref().is_some_and(|r| r.found() > 0);
    if let Some(outcome) = outcomes.iter().find(|o| !json && !dry_run && changed(o)) {
        println!("This was repair {0}. To undo it: ipicsha repair undo {0}", outcome.run);
    }
    if !json && outcomes.is_empty() {
        println!("No database is protected: nothing to compare.");
    }
    if !json && dry_run {
        println!(
            "Nothing was changed. A repair copies what only one server has to the other; where both have a record {}'s is kept, as it is the primary, and the other goes to the journal. Run: ipicsha repair",
            outcomes.first().map_or("the primary", |outcome| outcome.sides.winner())
        );
    }
    Ok(if left { ExitCode::from(Kind::Attention.code()) } else { ExitCode::SUCCESS })
}

/// `verify`: equal or not; exit 7 when something differs, or that should be equal was not compared.
pub(crate) fn verify(value: Value, json: bool) -> Result<ExitCode, Failure> {
    if json {
        raw(&value);
    }
    let outcomes: Vec<RepairOutcome> = parse(value)?;
    let attention = || Ok(ExitCode::from(Kind::Attention.code()));
    if outcomes.is_empty() {
        if !json {
            println!(
                "No database is protected: nothing was compared. Run: ipicsha protect db PATH"
            );
        }
        return attention();
    }
    let equal = |outcome: &RepairOutcome| outcome.report.as_ref().is_some_and(|r| r.found() == 0);
    for outcome in outcomes.iter().filter(|_| !json) {
        match &outcome.report {
            Some(report) if report.found() == 0 => {
                println!("{}: equal, {} rows compared", outcome.database, report.rows_compared);
                print_not_compared(outcome);
            }
            Some(_) | None => print_outcome(outcome, true),
        }
    }
    if !json && !outcomes.iter().all(equal) {
        println!("Nothing was changed. To mend it: ipicsha repair");
    }
    if is_equal(&outcomes) { Ok(ExitCode::SUCCESS) } else { attention() }
}

/// Whether everything that should be equal was compared and is.
pub(crate) fn is_equal(outcomes: &[RepairOutcome]) -> bool {
    let equal = |outcome: &RepairOutcome| outcome.report.as_ref().is_some_and(|r| r.found() == 0);
    let held = |outcome: &RepairOutcome| outcome.not_compared.iter().any(|table| table.held);
    outcomes.iter().all(|outcome| equal(outcome) && !held(outcome))
}

fn print_not_compared(outcome: &RepairOutcome) {
    for table in &outcome.not_compared {
        let what =
            if table.held { "held, so not compared" } else { "not replicated, so not compared" };
        println!("  {}: {what}: {}", table.table, table.reason);
    }
}

fn print_outcome(outcome: &RepairOutcome, dry_run: bool) {
    if let Some(error) = &outcome.error {
        println!("{}: not done: {error}", outcome.database);
        return;
    }
    let Some(report) = &outcome.report else { return };
    let verb = if dry_run { "differ" } else { "differed" };
    println!(
        "{}: {} rows compared, {} {verb}",
        outcome.database,
        report.rows_compared,
        report.found()
    );
    let Sides { here, there, .. } = &outcome.sides;
    if !outcome.plan.is_empty() {
        println!("  here is {here}, there is {there}");
    }
    for row in &outcome.plan {
        println!(
            "  {}: {} only here, {} only there, {} different ({}'s kept)",
            row.table, row.only_here, row.only_there, row.differing, row.kept_of
        );
    }
    let sum = |count: fn(&Differences) -> u64| -> u64 {
        report.tables.iter().map(|table| count(&table.differences)).sum()
    };
    if report.applied && report.found() > 0 {
        println!("  {} kept in the journal, {} left", sum(|d| d.journaled), sum(|d| d.remaining));
    }
    print_not_compared(outcome);
}

/// `repair list`.
pub(crate) fn list(value: Value, json: bool) -> Result<ExitCode, Failure> {
    if json {
        raw(&value);
        return Ok(ExitCode::SUCCESS);
    }
    let repairs: Vec<Value> = parse(value)?;
    if repairs.is_empty() {
        println!("Nothing was repaired.");
    }
    for repair in &repairs {
        println!("{}", past(repair));
    }
    Ok(ExitCode::SUCCESS)
}

/// One line: number, time, database, counts, what became of it.
fn past(repair: &Value) -> String {
    let tables = repair["report"]["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sum = |key: &str| tables.iter().filter_map(|t| t["differences"][key].as_u64()).sum::<u64>();
    let what = if repair["initial"] == true { "first comparison" } else { "repair" };
    let outcome = match (repair["ended"].as_i64(), repair["failure"].as_str()) {
        (None, _) => "not finished".to_owned(),
        (Some(_), Some(failure)) => format!("failed: {failure}"),
        (Some(_), None) => format!(
            "{} copied, {} replaced, {} left",
            sum("only_primary") + sum("only_secondary"),
            sum("differing"),
            sum("remaining")
        ),
    };
    let undone = repair["undone"].as_i64().map(|at| format!(", undone {}", wording::time(at)));
    format!(
        "{:>6}  {}  {:<16} {}: {outcome}{}",
        repair["run"],
        repair["started"].as_i64().map(wording::time).unwrap_or_default(),
        what,
        repair["database"].as_str().unwrap_or(""),
        undone.unwrap_or_default()
    )
}

/// `repair undo`; exit 7 when something was left as it is.
pub(crate) fn undone(value: Value, json: bool) -> Result<ExitCode, Failure> {
    let outcomes: Vec<Value> = parse(value.clone())?;
    let left = |o: &Value| !o["error"].is_null() || o["report"]["skipped"].as_u64() != Some(0);
    let code = if outcomes.iter().any(left) { Kind::Attention.code() } else { 0 };
    if json {
        raw(&value);
        return Ok(ExitCode::from(code));
    }
    for outcome in &outcomes {
        print_undone(outcome);
    }
    Ok(ExitCode::from(code))
}

fn print_undone(outcome: &Value) {
    let database = outcome["database"].as_str().unwrap_or("");
    if let Some(error) = outcome["error"].as_str() {
        println!("{database}: not undone: {error}");
        println!("  next: {}", outcome["next_step"].as_str().unwrap_or("try again"));
        return;
    }
    let report = &outcome["report"];
    println!(
        "{database}: {} put back, {} were back already, {} left as they are",
        report["restored"], report["already"], report["skipped"]
    );
    let rows = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    for record in rows("left") {
        let text = |key: &str| record[key].as_str().unwrap_or("").to_owned();
        println!("  left: {} [{}]: {}", text("table"), text("key"), text("reason"));
    }
    for copied in rows("stays") {
        println!(
            "  {}: {} copied to the secondary and {} copied to the primary stay on both",
            copied["table"].as_str().unwrap_or(""),
            copied["to_secondary"],
            copied["to_primary"]
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exit_of(outcomes: &Value) -> String {
        format!("{:?}", verify(outcomes.clone(), false).unwrap())
    }

    #[test]
    fn verify_says_equal_only_of_what_it_has_compared() {
        let outcome = |held: bool| {
            json!([{
                "run": 1, "database": "board", "plan": [], "error": null,
                "sides": { "here": "a", "there": "b", "here_is_primary": true },
                "report": { "database": "board", "tables": [], "passes": 1, "rows_compared": 5, "applied": false },
                "not_compared": [{ "table": "notes", "reason": "its schema differs", "held": held }],
            }])
        };
        let (good, attention) = (ExitCode::SUCCESS, ExitCode::from(Kind::Attention.code()));
        assert_eq!(exit_of(&outcome(false)), format!("{good:?}"));
        assert_eq!(exit_of(&outcome(true)), format!("{attention:?}"));
        assert_eq!(exit_of(&json!([])), format!("{attention:?}"));
    }
}
