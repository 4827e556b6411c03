//! The table at the end, judged by the goals, printed and kept.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;
use serde_json::json;

use super::{Measured, Plan, measure::Cost};
use crate::{clock::median, machine::Machine};

/// What is asked of one scenario: wall time and bytes on the wire, as ratios to rsync's daemon.
struct Goal {
    what: &'static str,
    wall: f64,
    wire: f64,
}

const GOALS: [Goal; 7] = [
    Goal { what: "large file, fresh", wall: 1.2, wire: 1.2 },
    Goal { what: "large file, 1 % in extents", wall: 0.7, wire: 1.2 },
    Goal { what: "large file, 1 % in pages", wall: 0.2, wire: 1.0 },
    Goal { what: "large file, 1 MiB in front", wall: 0.75, wire: 3.0 },
    Goal { what: "small files, fresh", wall: 0.55, wire: 1.2 },
    Goal { what: "small files, no change", wall: 0.45, wire: 1.2 },
    Goal { what: "small files, 1 % changed", wall: 0.3, wire: 1.2 },
];
/// Memory of ours with 100 000 files, in bytes.
const MEMORY_MAX: f64 = 100e6;

/// All measurements with their judgement.
pub(super) struct Table<'a> {
    plan: &'a Plan,
    measured: &'a Measured,
}

impl<'a> Table<'a> {
    pub(super) fn new(plan: &'a Plan, measured: &'a Measured) -> Self {
        Self { plan, measured }
    }

    fn median(&self, what: &str, peer: &str, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        let rounds = self.measured.get(what)?.get(peer)?;
        Some(median(rounds.iter().map(of)))
    }

    /// The ratio of each round, and of those the one in the middle.
    fn ratio(&self, what: &str, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        let peers = self.measured.get(what)?;
        let (ours, theirs) = (peers.get("ipicsha")?, peers.get("rsync daemon")?);
        Some(median(ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs))))
    }

    fn cell(&self, what: &str, peer: &str) -> String {
        let of = |of: fn(&Cost) -> f64| self.median(what, peer, of);
        let all = (of(|c| c.wall), of(|c| c.cpu), of(|c| c.wire as f64 / 1e6));
        match all {
            (Some(wall), Some(cpu), Some(wire)) => {
                format!("{wall:.2} s, CPU {cpu:.2} s, {wire:.1} MB")
            }
            _ => "-".to_owned(),
        }
    }

    fn judged(&self, ratio: Option<f64>, goal: f64) -> String {
        match ratio {
            None => "-".to_owned(),
            Some(ratio) if self.plan.quick => format!("{ratio:.2} (too small to judge)"),
            Some(ratio) if ratio <= goal => format!("{ratio:.2} (at most {goal}: met)"),
            Some(ratio) => format!("{ratio:.2} (at most {goal}: MISSED)"),
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
            "CPU x daemon",
            "wire x daemon",
            "memory of ours",
        ];
        let mut text = format!("| {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len()));
        for goal in GOALS.iter().filter(|goal| self.measured.contains_key(goal.what)) {
            let what = goal.what;
            let memory = self.median(what, "ipicsha", |cost| cost.memory as f64).unwrap_or(0.0);
            let within = if memory <= MEMORY_MAX { "" } else { " (at most 100: MISSED)" };
            let cpu = self.ratio(what, |cost| cost.cpu).unwrap_or(f64::NAN);
            let cells = [
                what.to_owned(),
                self.cell(what, "ipicsha"),
                self.cell(what, "rsync daemon"),
                self.cell(what, "rsync over ssh"),
                self.judged(self.ratio(what, |cost| cost.wall), goal.wall),
                format!("{cpu:.2}"),
                self.judged(self.ratio(what, |cost| cost.wire as f64), goal.wire),
                format!("{:.0} MB{within}", memory / 1e6),
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
        let each = self.measured.iter().map(|(what, peers)| {
            let peers = peers.iter().map(|(peer, rounds)| {
                let rounds = rounds.iter().map(|cost| {
                    json!({
                        "wall_seconds": cost.wall, "cpu_seconds": cost.cpu,
                        "wire_bytes": cost.wire, "memory_bytes": cost.memory,
                    })
                });
                ((*peer).to_owned(), rounds.collect())
            });
            let peers: serde_json::Map<String, serde_json::Value> = peers.collect();
            json!({ "what": what, "peers": peers })
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
