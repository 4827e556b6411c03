//! The table at the end: printed, and kept as text and as JSON.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{Plan, machine::Machine};

/// One measurement.
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// Our figure: wall time or rate, and CPU.
    pub(crate) ours: [String; 2],
    /// What it stands beside.
    pub(crate) beside: [String; 2],
    /// The figure that is judged, how it reads, and the goal.
    pub(crate) judged: Option<(String, &'static str, bool)>,
    /// Every round.
    pub(crate) rounds: Value,
}

/// All of them.
pub(crate) struct Table {
    rows: Vec<Row>,
    plan: Plan,
}

const NONE: &str = "-";

impl Table {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { rows: Vec::new(), plan: plan.clone() }
    }

    /// Adds a measurement, and shows it at once.
    pub(crate) fn add(&mut self, row: Row) {
        println!("{}", self.cells(&row).join(" | "));
        self.rows.push(row);
    }

    fn cells(&self, row: &Row) -> [String; 8] {
        let cell = |text: &String| if text.is_empty() { NONE.to_owned() } else { text.clone() };
        let (judged, goal, met) = match &row.judged {
            Some((judged, goal, met)) => {
                let met = match (self.plan.quick, met) {
                    (true, _) => "too small to judge",
                    (false, true) => "met",
                    (false, false) => "MISSED",
                };
                (judged.clone(), (*goal).to_owned(), met.to_owned())
            }
            None => (NONE.into(), NONE.into(), NONE.into()),
        };
        let [ours, beside] = [&row.ours, &row.beside];
        [
            row.what.clone(),
            cell(&ours[0]),
            cell(&ours[1]),
            cell(&beside[0]),
            cell(&beside[1]),
            judged,
            goal,
            met,
        ]
    }

    /// The table as Markdown.
    pub(crate) fn text(&self) -> String {
        let heads = ["what", "ours", "CPU", "beside it", "CPU", "judged by", "goal", ""];
        let mut text = format!("| {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len()));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", self.cells(row).join(" | "));
        }
        text
    }

    /// Writes both files under `benches/results`.
    pub(crate) fn keep(&self, machine: &Machine) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        fs::create_dir_all(&folder)?;
        let stem = format!("{}-records", machine.date);
        let note = include_str!("note.md");
        let (rows, rounds) = (self.plan.rows, self.plan.rounds);
        let text = format!(
            "# Records, {}\n\n{}.\n{rows} records, medians of {rounds} rounds.\n\n{}\n{note}",
            machine.date,
            machine.text,
            self.text()
        );
        let each = self.rows.iter().map(|row| {
            json!({
                "what": row.what,
                "ours": row.ours,
                "beside": row.beside,
                "judged": row.judged.as_ref().map(|(judged, goal, met)| {
                    json!({ "by": judged, "goal": goal, "met": met })
                }),
                "rounds": row.rounds,
            })
        });
        let json = json!({
            "machine": machine.json, "rows": rows, "rounds": rounds,
            "measurements": each.collect::<Vec<_>>(),
        });
        fs::write(folder.join(format!("{stem}.md")), text)?;
        let json = serde_json::to_string_pretty(&json).context("results")?;
        fs::write(folder.join(format!("{stem}.json")), json + "\n")?;
        println!("kept as {stem}.md and {stem}.json under benches/results");
        Ok(())
    }
}

/// Microseconds with a sensible number of digits.
pub(crate) fn micros(seconds: f64) -> String {
    format!("{:.1} µs", seconds * 1e6)
}

/// Milliseconds.
pub(crate) fn millis(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1e3)
}

/// Thousands per second.
pub(crate) fn rate(count: u64, seconds: f64) -> String {
    format!("{:.1}k rows/s", count as f64 / seconds / 1e3)
}
