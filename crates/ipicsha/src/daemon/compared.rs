//! What the last comparison found about each table. Remembered over a restart, so that the status
//! does not say that nothing was ever verified.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use ipicsha_core::{data::RepairReport, time::WallTime};

use super::persist;
use crate::replication::Compared;

/// By database and table.
type All = BTreeMap<String, BTreeMap<String, Compared>>;

/// The file with what is known.
pub(crate) struct Comparisons {
    path: PathBuf,
    all: All,
}

impl Comparisons {
    /// Reads the file; one that is damaged is as good as none, since a comparison makes it anew.
    pub(crate) fn open(path: PathBuf) -> Self {
        let all = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "past comparisons are forgotten");
                All::new()
            }),
            Err(_) => All::new(),
        };
        Self { path, all }
    }

    /// A comparison has ended; `protected` are the databases there are.
    pub(crate) fn note(&mut self, report: &RepairReport, at: WallTime, protected: &[String]) {
        let protected: BTreeSet<&String> = protected.iter().collect();
        self.all.retain(|database, _| protected.contains(database));
        let tables = self.all.entry(report.database.0.clone()).or_default();
        for table in &report.tables {
            let found = &table.differences;
            tables.insert(
                table.table.clone(),
                Compared {
                    at_unix_ms: at.0,
                    repaired: report.applied,
                    found: found.only_primary + found.only_secondary + found.differing,
                    left: found.remaining,
                },
            );
        }
        let bytes = serde_json::to_vec_pretty(&self.all).unwrap_or_default();
        if let Err(error) = persist::write_durably(&self.path, &bytes) {
            tracing::warn!(path = %self.path.display(), %error, "a comparison is not remembered");
        }
    }

    /// Tables of one database.
    pub(crate) fn of(&self, database: &str) -> BTreeMap<String, Compared> {
        self.all.get(database).cloned().unwrap_or_default()
    }

    /// The last comparison of one of these tables left differences.
    pub(crate) fn left(&self, database: &str, tables: &[String]) -> bool {
        self.all.get(database).is_some_and(|all| {
            tables.iter().filter_map(|table| all.get(table)).any(|compared| compared.left > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use ipicsha_core::{
        data::{Differences, TableReport},
        id::DatabaseName,
    };

    use super::*;

    fn report(database: &str, table: &str, differing: u64, remaining: u64) -> RepairReport {
        let differences = Differences { differing, remaining, ..Differences::default() };
        RepairReport {
            database: DatabaseName(database.into()),
            tables: vec![TableReport { table: table.into(), differences }],
            passes: 1,
            rows_compared: 5,
            applied: remaining == 0,
        }
    }

    #[test]
    fn the_last_comparison_of_each_table_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compared.json");
        let all = ["a".to_owned(), "b".to_owned()];
        let mut compared = Comparisons::open(path.clone());
        compared.note(&report("a", "x", 3, 3), WallTime(1), &all);
        compared.note(&report("a", "y", 2, 0), WallTime(2), &all);
        compared.note(&report("b", "z", 0, 0), WallTime(3), &all);
        let mut again = Comparisons::open(path.clone());
        let of_a = again.of("a");
        assert_eq!((of_a["x"].left, of_a["x"].repaired, of_a["x"].at_unix_ms), (3, false, 1));
        assert_eq!((of_a["y"].found, of_a["y"].left, of_a["y"].repaired), (2, 0, true));
        let tables = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        assert!(again.left("a", &tables(&["x", "y"])) && !again.left("a", &tables(&["y"])));
        assert!(!again.left("b", &tables(&["z"])) && !again.left("c", &tables(&["x"])));
        again.note(&report("a", "x", 3, 0), WallTime(4), &all[..1]);
        let again = Comparisons::open(path.clone());
        assert!(!again.left("a", &tables(&["x"])) && again.of("b").is_empty());
        std::fs::write(&path, "{").unwrap();
        assert!(Comparisons::open(path).of("a").is_empty());
    }
}
