//! The table at the end, judged by the goals, printed and kept.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;
use serde_json::json;

use super::{Measured, Plan, measure::Cost};
use crate::{clock::median, machine::Machine};

/// What is asked of one scenario: ratios to rsync's daemon and to rsync over ssh, and memory in bytes.
struct Goal {
    what: &'static str,
    wall: Option<f64>,
    wall_ssh: Option<f64>,
    wire: Option<f64>,
    memory: f64,
}

impl Goal {
    const fn new(what: &'static str, wall: f64, wall_ssh: f64, wire: f64) -> Self {
        let (wall, wall_ssh, wire) = (Some(wall), Some(wall_ssh), Some(wire));
        Self { what, wall, wall_ssh, wire, memory: 100e6 }
    }

    /// Of which only memory is asked.
    const fn many(what: &'static str) -> Self {
        Self { what, wall: None, wall_ssh: None, wire: None, memory: 250e6 }
    }
}

const GOALS: [Goal; 9] = [
    Goal::new("large file, fresh", 1.2, 0.4, 1.2),
    Goal::new("large file, 1 % in extents", 0.7, 0.6, 1.2),
    Goal::new("large file, 1 % in pages", 0.2, 0.3, 1.0),
    Goal::new("large file, 1 MiB in front", 0.75, 0.7, 3.0),
    Goal::new("small files, fresh", 0.55, 0.35, 1.2),
    Goal::new("small files, no change", 0.45, 0.3, 1.2),
    Goal::new("small files, 1 % changed", 0.3, 0.3, 1.2),
    Goal::many("a million files, fresh"),
    Goal::many("a million files, no change"),
];

const DAEMON: &str = "rsync daemon";
const SSH: &str = "rsync over ssh";

/// All measurements with their judgement.
pub(super) struct Table<'a> {
    plan: &'a Plan,
    measured: &'a Measured,
}

impl<'a> Table<'a> {
    pub(super) fn new(plan: &'a Plan, measured: &'a Measured) -> Self {
        Self { plan, measured }
    }

    fn median(&self, what: &str, copier: &str, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        let rounds = self.measured.get(what)?.get(copier)?;
        Some(median(rounds.iter().map(of)))
    }

    /// The ratio of each round to another copier, and of those the one in the middle.
    fn ratio(&self, what: &str, other: &str, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        let copiers = self.measured.get(what)?;
        let (ours, theirs) = (copiers.get("ipicsha")?, copiers.get(other)?);
        Some(median(ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs))))
    }

    fn cell(&self, what: &str, copier: &str) -> String {
        let of = |of: fn(&Cost) -> f64| self.median(what, copier, of);
        let all = (of(|c| c.wall), of(|c| c.cpu), of(|c| c.wire as f64 / 1e6));
        match all {
            (Some(wall), Some(cpu), Some(wire)) => {
                format!("{wall:.2} s, CPU {cpu:.2} s, {wire:.1} MB")
            }
            _ => "-".to_owned(),
        }
    }

    fn judged(&self, ratio: Option<f64>, goal: Option<f64>) -> String {
        match (ratio, goal) {
            (None, _) => "-".to_owned(),
            (Some(ratio), None) => format!("{ratio:.2}"),
            (Some(ratio), Some(_)) if self.plan.quick => {
                format!("{ratio:.2} (too small to judge)")
            }
            (Some(ratio), Some(goal)) if ratio <= goal => {
                format!("{ratio:.2} (at most {goal}: met)")
            }
            (Some(ratio), Some(goal)) => format!("{ratio:.2} (at most {goal}: MISSED)"),
        }
    }

    /// The table as Markdown.
    pub(super) fn text(&self) -> String {
        let heads = [
            "what",
            "ours",
            "rsync daemon",
            "rsync over ssh",
            "wall x daemon",
            "wall x ssh",
            "CPU x daemon",
            "wire x daemon",
            "memory of ours",
        ];
        let mut text = format!("| {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len()));
        for goal in GOALS.iter().filter(|goal| self.measured.contains_key(goal.what)) {
            let what = goal.what;
            let memory = self.median(what, "ipicsha", |cost| cost.memory as f64).unwrap_or(0.0);
            let most = goal.memory / 1e6;
            let within = if memory <= goal.memory { "met" } else { "MISSED" };
            let cpu = self.ratio(what, DAEMON, |cost| cost.cpu).unwrap_or(f64::NAN);
            let cells = [
                what.to_owned(),
                self.cell(what, "ipicsha"),
                self.cell(what, DAEMON),
                self.cell(what, SSH),
                self.judged(self.ratio(what, DAEMON, |cost| cost.wall), goal.wall),
                self.judged(self.ratio(what, SSH, |cost| cost.wall), goal.wall_ssh),
                format!("{cpu:.2}"),
                self.judged(self.ratio(what, DAEMON, |cost| cost.wire as f64), goal.wire),
                format!("{:.0} MB (at most {most:.0}: {within})", memory / 1e6),
            ];
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }

    /// Writes both files under `benches/results`.
    pub(super) fn keep(&self, machine: &Machine) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        fs::create_dir_all(&folder)?;
        let stem = format!("{}-files", machine.date);
        let (rounds, note) = (self.plan.rounds, include_str!("note.md"));
        let files = self.plan.directories * 100;
        let size = self.plan.big_bytes >> 20;
        let text = format!(
            "# Files, {}\n\n{}.\nA file of {size} MiB and {files} files of 4 KiB, medians of {rounds} \
             rounds.\n\n{}\n{note}",
            machine.date,
            machine.text,
            self.text()
        );
        let each = self.measured.iter().map(|(what, copiers)| {
            let copiers = copiers.iter().map(|(copier, rounds)| {
                let rounds = rounds.iter().map(|cost| {
                    json!({
                        "wall_seconds": cost.wall, "cpu_seconds": cost.cpu,
                        "wire_bytes": cost.wire, "memory_bytes": cost.memory,
                    })
                });
                ((*copier).to_owned(), rounds.collect())
            });
            let copiers: serde_json::Map<String, serde_json::Value> = copiers.collect();
            json!({ "what": what, "copiers": copiers })
        });
        let json = json!({
            "machine": machine.json, "big_bytes": self.plan.big_bytes, "files": files,
            "measurements": each.collect::<Vec<_>>(),
        });
        fs::write(folder.join(format!("{stem}.md")), text)?;
        fs::write(
            folder.join(format!("{stem}.json")),
            serde_json::to_string_pretty(&json)? + "\n",
        )?;
        println!("kept as {stem}.md and {stem}.json under benches/results");
        Ok(())
    }
}
