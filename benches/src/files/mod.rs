//! `just bench-files`: `ipicsha sync` with the partner, beside rsync with its daemon and over ssh.
//!
//! Decides the order of the measurements and how large they are. All of them carry the same trees
//! over the loopback interface (with `--veth` over a pair of network namespaces) from memory to memory, one
//! right after the other in every round, so that what else happens on the machine meets all of them.

mod copiers;
mod data;
mod measure;
mod table;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use ipicsha_e2e::{Settings, Side, fresh_pair};

use self::{
    copiers::{Copier, Ours, RsyncDaemon, Ssh},
    data::{Change, Trees, ensure_equal_trees},
    measure::Cost,
    table::Table,
};
use crate::machine;

const USAGE: &str = "usage: ipicsha-bench files [--quick] [--rounds N] [--no-ssh] [--veth] \
                     [--only fresh,extents,pages,insert,small,many]";

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Bytes of the large file.
    pub(super) big_bytes: u64,
    /// Directories of 100 small files each.
    pub(super) directories: usize,
    pub(super) rounds: usize,
    pub(super) quick: bool,
    ssh: bool,
    /// Between two network namespaces, as servers are.
    veth: bool,
    only: Vec<String>,
}

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut plan = Self {
            big_bytes: 2 << 30,
            directories: 1000,
            rounds: 3,
            quick: false,
            ssh: true,
            veth: false,
            only: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context(USAGE);
            match argument.as_str() {
                "--quick" => {
                    (plan.quick, plan.rounds) = (true, 1);
                    (plan.big_bytes, plan.directories) = (128 << 20, 50);
                }
                "--rounds" => plan.rounds = value()?.parse().context(USAGE)?,
                "--no-ssh" => plan.ssh = false,
                "--veth" => plan.veth = true,
                "--only" => plan.only = value()?.split(',').map(ToOwned::to_owned).collect(),
                _ => bail!("{argument} is not known\n{USAGE}"),
            }
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Only a whole run is kept.
    pub(super) fn is_whole(&self) -> bool {
        !self.quick && self.only.is_empty() && self.ssh && !self.veth
    }
}

/// Everything that was measured: by scenario, by copier, one per round.
type Measured = BTreeMap<&'static str, BTreeMap<&'static str, Vec<Cost>>>;

/// Runs all of it.
///
/// # Errors
/// Something cannot be started, or a copy is not equal to its source.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let plan = Plan::parse(arguments)?;
    let machine = machine::facts()?;
    println!("{}", machine.text);
    let folder = tempfile::Builder::new().prefix("ipicsha-bench-").tempdir_in("/dev/shm")?;
    let allow = format!("allow = [\"{}\"]", folder.path().display());
    let mut measured = Measured::new();
    let settings = Settings::fast().sync(Side::Bravo, &allow);
    fresh_pair(if plan.veth { settings } else { settings.over_loopback() }, |pair| {
        pair.start()?;
        pair.trust()?;
        let trees = Trees::make(folder.path(), &plan)?;
        let daemon = RsyncDaemon::start(pair, folder.path())?;
        let ours = Ours::new(pair);
        let ssh = if plan.ssh { Ssh::start(pair, folder.path())? } else { None };
        let mut copiers: Vec<&dyn Copier> = vec![&daemon, &ours];
        copiers.extend(ssh.as_ref().map(|ssh| ssh as &dyn Copier));
        for round in 0..plan.rounds {
            println!("round {}", round + 1);
            big(&plan, &trees, &copiers, &mut measured)?;
            if plan.wants("small") {
                small(&trees, &copiers, round, &mut measured)?;
            }
            copiers.rotate_left(1); // who comes first has a disadvantage, or an advantage
        }
        if plan.wants("many") {
            many(&trees, &[&daemon, &ours], &mut measured)?;
        }
        Ok(())
    })?;
    let table = Table::new(&plan, &measured);
    println!("\n{}", table.text());
    if plan.is_whole() {
        table.keep(&machine)
    } else {
        println!("not kept: a quick or partial run");
        Ok(())
    }
}

fn note(measured: &mut Measured, what: &'static str, copier: &dyn Copier, cost: Cost) {
    println!("{what:28} {:14} {cost}", copier.name());
    measured.entry(what).or_default().entry(copier.name()).or_default().push(cost);
}

/// The large file: fresh, then over an old version of itself.
fn big(plan: &Plan, trees: &Trees, copiers: &[&dyn Copier], measured: &mut Measured) -> Result<()> {
    for change in Change::ALL.into_iter().filter(|change| plan.wants(change.word())) {
        let source = trees.big(change)?;
        for copier in copiers {
            let to = trees.destination();
            fs::create_dir_all(&to)?;
            if change != Change::Fresh {
                // Whoever replaces it leaves the original alone.
                fs::hard_link(trees.base(), to.join("big"))?;
            }
            trees.warm_memory()?;
            let cost = copier.copy(&source, &to.join("big"))?;
            ensure_equal(&source, &to.join("big"))?;
            note(measured, change.title(), *copier, cost);
            fs::remove_dir_all(&to)?;
        }
        trees.forget(change)?;
    }
    Ok(())
}

fn ensure_equal(source: &Path, copy: &Path) -> Result<()> {
    let status = std::process::Command::new("cmp").arg("-s").arg(source).arg(copy).status()?;
    anyhow::ensure!(status.success(), "{} is not like its source", copy.display());
    Ok(())
}

/// The small files: fresh, unchanged, a hundredth of them changed.
fn small(
    trees: &Trees,
    copiers: &[&dyn Copier],
    round: usize,
    measured: &mut Measured,
) -> Result<()> {
    let to = |copier: &dyn Copier| trees.destination().join(copier.name().replace(' ', "-"));
    let source = trees.small();
    for copier in copiers {
        fs::create_dir_all(to(*copier))?;
        trees.warm_memory()?;
        note(measured, "small files, fresh", *copier, copier.copy(&source, &to(*copier))?);
    }
    for copier in copiers {
        note(measured, "small files, no change", *copier, copier.copy(&source, &to(*copier))?);
    }
    trees.change_small(round as u64)?;
    for copier in copiers {
        note(measured, "small files, 1 % changed", *copier, copier.copy(&source, &to(*copier))?);
        ensure_equal_trees(&source, &to(*copier))?;
    }
    fs::remove_dir_all(trees.destination())?;
    Ok(())
}

/// Ten times as many files, once: what it takes in memory.
fn many(trees: &Trees, copiers: &[&dyn Copier], measured: &mut Measured) -> Result<()> {
    let source = trees.make_many()?;
    for copier in copiers {
        let to = trees.destination();
        fs::create_dir_all(&to)?;
        note(measured, "a million files, fresh", *copier, copier.copy(&source, &to)?);
        note(measured, "a million files, no change", *copier, copier.copy(&source, &to)?);
        ensure_equal_trees(&source, &to)?;
        fs::remove_dir_all(&to)?;
    }
    trees.forget_many()
}
