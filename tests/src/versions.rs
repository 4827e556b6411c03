//! Records that are changed on both servers, and the judgement whether a version was lost.
//!
//! Every change writes down which version it replaced, in the same transaction, into a table that is
//! only added to. So it is known of every version whether somebody replaced it on purpose. One that
//! nobody replaced must stand in the record, or in a conflict journal.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::{
    net::Side,
    pair::Pair,
    server::Server,
    settings::BOARD,
    writers::{Seen, Writers},
};

const SCRIPT: &str = include_str!("python/versions.py");
/// How many versions a writer keeps in the table `passing`, and by how many the last may differ.
const KEPT: u64 = 5;
/// What stands in a record before anybody changes it.
const FIRST: &str = "first";

const SCHEMA: &str = "
PRAGMA journal_mode=WAL;
CREATE TABLE hot(id INTEGER PRIMARY KEY, version TEXT NOT NULL);
CREATE TABLE versions(version TEXT PRIMARY KEY, id INTEGER NOT NULL, parent TEXT NOT NULL);
CREATE TABLE passing(version TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO hot SELECT value, 'first' FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12]');";

/// What was acknowledged to all writers of a test.
#[derive(Debug, Default)]
pub struct Ledger {
    acked: Vec<String>,
    runs: u32,
    /// Versions that lost and are in a journal, as of the last check.
    pub losers: usize,
}

impl Ledger {
    /// Makes the tables on the active server, before the pair is ready.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn create(server: &Server) -> Result<Self> {
        server.application(BOARD)?.execute(SCHEMA)?;
        Ok(Self::default())
    }

    /// Starts a writer. On a standby it meets the fence, and tries again until it is gone.
    ///
    /// # Errors
    /// Python cannot be started.
    pub fn writer(&mut self, server: &Server) -> Result<Writers> {
        self.runs += 1;
        Writers::start_script(server, BOARD, &format!("{}w", self.runs), 1, SCRIPT)
    }

    /// Takes down what was acknowledged to a writer that has ended.
    pub fn take(&mut self, seen: Seen) {
        self.acked.extend(seen.acked);
    }

    /// How many writes were acknowledged.
    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// Nothing is lost: both servers are equal, every acknowledged write is there, and every version
    /// that nobody replaced stands in its record or in a journal. No writer may run.
    ///
    /// # Errors
    /// Something is lost; it is named.
    pub fn check(&mut self, pair: &Pair) -> Result<()> {
        pair.wait_equal()?;
        let application = pair.alpha.application(BOARD)?;
        let passing = application.rows("SELECT version FROM passing")?;
        let found = Found {
            hot: application.rows("SELECT id, version FROM hot")?,
            versions: application.rows("SELECT version, id, parent FROM versions")?,
            passing: passing.into_iter().flatten().collect(),
            journaled: journaled(pair)?,
        };
        self.losers = found.journaled.len();
        found.all_acked_are_there(&self.acked)?;
        found.the_last_few_of_each_run_pass(&self.acked)?;
        found.every_leaf_is_kept()
    }
}

/// What is found at the end: rows of the three tables, and the versions in the journals.
#[derive(Debug, Default)]
struct Found {
    /// Record and version.
    hot: Vec<Vec<String>>,
    /// Version, record, and the version it replaced.
    versions: Vec<Vec<String>>,
    passing: BTreeSet<String>,
    journaled: BTreeSet<String>,
}

impl Found {
    fn all_acked_are_there(&self, acked: &[String]) -> Result<()> {
        let known: BTreeSet<&String> = self.versions.iter().map(|row| &row[0]).collect();
        let lost: Vec<&String> = acked.iter().filter(|version| !known.contains(version)).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        Ok(())
    }

    /// A version that nobody replaced stands in its record, or in a journal; and what stands in a
    /// record was not replaced.
    fn every_leaf_is_kept(&self) -> Result<()> {
        let replaced: BTreeSet<(&str, &str)> =
            self.versions.iter().map(|row| (row[1].as_str(), row[2].as_str())).collect();
        let mut leaves: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for row in &self.versions {
            if !replaced.contains(&(&row[1], &row[0])) {
                leaves.entry(&row[1]).or_default().insert(&row[0]);
            }
        }
        for row in &self.hot {
            let Some(leaves) = leaves.get_mut(row[0].as_str()) else {
                ensure!(row[1] == FIRST, "record {} has {} out of nowhere", row[0], row[1]);
                continue;
            };
            ensure!(leaves.remove(row[1].as_str()), "record {} fell back to {}", row[0], row[1]);
            for leaf in leaves.iter() {
                let kept = self.journaled.contains(*leaf);
                ensure!(kept, "version {leaf} of record {} is lost, {} won", row[0], row[1]);
            }
        }
        Ok(())
    }

    /// Of what a writer added and removed again, the last few are there and nothing else is. The last
    /// one that was committed may not have been acknowledged.
    fn the_last_few_of_each_run_pass(&self, acked: &[String]) -> Result<()> {
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for version in acked {
            let (run, number) = split(version)?;
            let known = last.entry(run).or_default();
            *known = (*known).max(number);
        }
        for version in &self.passing {
            let (run, number) = split(version)?;
            let last = last.get(run).copied().unwrap_or_default();
            ensure!(number + KEPT > last, "{version} was removed and is back (last {last})");
        }
        for (run, last) in last {
            for number in (last + 2).saturating_sub(KEPT).max(1)..=last {
                let version = format!("{run}-{number}");
                ensure!(self.passing.contains(&version), "{version} is gone (last {last})");
            }
        }
        Ok(())
    }
}

/// The writer of a version and its number there.
fn split(version: &str) -> Result<(&str, u64)> {
    let (run, number) = version.rsplit_once('-').context("a version")?;
    Ok((run, number.parse()?))
}

/// Versions of the records that a journal of either server keeps.
fn journaled(pair: &Pair) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for side in Side::BOTH {
        let list = pair.server(side).ask(&["conflicts", "list", "--limit", "0"])?;
        for entry in list.as_array().context("no list")? {
            ensure!(entry["table"] == "hot", "{} had a conflict: {entry}", entry["table"]);
            let text = entry["loser_text"].as_str().context("no text")?;
            let version = text.lines().find_map(|line| line.strip_prefix("version = '"));
            let version = version.and_then(|rest| rest.strip_suffix('\''));
            found.insert(version.with_context(|| format!("no version in {entry}"))?.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect()
    }

    /// a-1 was replaced by both a-2 and b-1; b-1 won and a-2 is in a journal.
    fn found() -> Found {
        Found {
            hot: rows(&[&["1", "b-1"], &["2", FIRST]]),
            versions: rows(&[&["a-1", "1", FIRST], &["a-2", "1", "a-1"], &["b-1", "1", "a-1"]]),
            passing: ["a-1", "a-2", "b-1"].map(ToOwned::to_owned).into(),
            journaled: ["a-2".to_owned()].into(),
        }
    }

    fn acked(versions: &[&str]) -> Vec<String> {
        versions.iter().map(|&version| version.to_owned()).collect()
    }

    fn says<T: std::fmt::Debug>(result: Result<T>, words: &str) {
        let said = result.unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    }

    #[test]
    fn a_version_that_nobody_replaced_must_be_kept() {
        found().every_leaf_is_kept().unwrap();
        says(
            Found { journaled: BTreeSet::new(), ..found() }.every_leaf_is_kept(),
            "a-2 of record 1",
        );
        let back = Found { hot: rows(&[&["1", "a-1"]]), ..found() };
        says(back.every_leaf_is_kept(), "record 1 fell back to a-1");
        let odd = Found { hot: rows(&[&["2", "x-1"]]), ..found() };
        says(odd.every_leaf_is_kept(), "out of nowhere");
    }

    #[test]
    fn an_acknowledged_version_must_be_there() {
        found().all_acked_are_there(&acked(&["a-1", "a-2", "b-1"])).unwrap();
        says(found().all_acked_are_there(&acked(&["a-1", "a-3"])), "lost: [\"a-3\"]");
    }

    #[test]
    fn what_was_removed_stays_away_and_the_rest_stays() {
        found().the_last_few_of_each_run_pass(&acked(&["a-1", "a-2", "b-1"])).unwrap();
        // The second of b was committed, but its writer was killed before it knew.
        let mut unknown = found();
        unknown.passing.insert("b-2".into());
        unknown.the_last_few_of_each_run_pass(&acked(&["a-2", "b-1"])).unwrap();
        says(found().the_last_few_of_each_run_pass(&acked(&["a-6", "b-1"])), "a-1 was removed");
        says(found().the_last_few_of_each_run_pass(&acked(&["a-2", "b-2"])), "b-2 is gone");
    }
}
