//! `just bench-records`: what replication of records costs and how fast it is, beside plain SQLite
//! and PostgreSQL's logical replication in the same run. `just bench-files` is the part `files`.
//!
//! Decides the order of the measurements and how large they are. Every ratio comes from rounds that
//! alternate between the two sides, so that what else happens on the machine meets both.

#![allow(clippy::print_stdout)] // the table is what this program is for

mod apply;
mod capture;
mod clock;
mod daemons;
mod files;
mod machine;
mod pg_client;
mod postgres;
mod replication;
mod table;
mod workload;

use anyhow::{Context, Result, bail};

use crate::table::Table;

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Records in the large databases, and changes to catch up with.
    pub(crate) rows: u64,
    /// How often each measurement is repeated; the median counts.
    pub(crate) rounds: u64,
    /// Small enough for a look in passing: nothing is judged and nothing is kept.
    pub(crate) quick: bool,
    /// Names of the parts to run; empty: all.
    only: Vec<String>,
}

const USAGE: &str = "usage: ipicsha-bench [--quick] [--rows N] [--rounds N] \
                     [--only capture,apply,compare,latency,catch-up]";

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut plan = Self { rows: 1_000_000, rounds: 5, quick: false, only: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context(USAGE);
            match argument.as_str() {
                "--quick" => (plan.quick, plan.rows, plan.rounds) = (true, 20_000, 1),
                "--rows" => plan.rows = value()?.parse().context(USAGE)?,
                "--rounds" => plan.rounds = value()?.parse().context(USAGE)?,
                "--only" => plan.only = value()?.split(',').map(ToOwned::to_owned).collect(),
                _ => bail!("{argument} is not known\n{USAGE}"),
            }
        }
        // Later rounds delete other records than earlier ones, a tenth of them each.
        if plan.rows < 10_000
            || !plan.rows.is_multiple_of(10_000)
            || !(1..=5).contains(&plan.rounds)
        {
            bail!("rows must be a multiple of 10000, rounds 1 to 5\n{USAGE}");
        }
        Ok(plan)
    }

    /// Whether this part was asked for.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Smaller in a quick run.
    pub(crate) fn scaled(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "files").is_some() {
        return files::run(arguments);
    }
    let plan = Plan::parse(arguments)?;
    let machine = machine::facts()?;
    println!("{}", machine.text);
    let mut table = Table::new(&plan);
    if plan.wants("capture") {
        capture::measure(&plan, &mut table).context("capture")?;
    }
    if plan.wants("apply") {
        apply::measure(&plan, &mut table).context("apply")?;
    }
    if replication::PARTS.iter().any(|part| plan.wants(part)) {
        replication::measure(&plan, &mut table).context("daemons")?;
    }
    println!("\n{}", table.text());
    if plan.quick || !plan.only.is_empty() {
        println!("not kept: a quick or partial run");
    } else {
        table.keep(&machine)?;
    }
    Ok(())
}
