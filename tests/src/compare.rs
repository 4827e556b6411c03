//! An independent look at two databases: every application table, every row, every column with its
//! type. Shares no code with the product.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags, types::ValueRef};

use crate::wait::wait_for;

/// More differences than this are not listed.
const SHOWN_MAX: usize = 20;

/// A value with its type; reals by their bits, so that nothing is rounded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Null,
    Integer(i64),
    Real(u64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// Columns and sorted rows of one table.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// All that differs between the two databases, one line each; empty when they are equal.
///
/// # Errors
/// A database cannot be read or is damaged.
pub fn differences(left: &Path, right: &Path) -> Result<Vec<String>> {
    let (left, right) = (read(left)?, read(right)?);
    ensure!(!left.is_empty(), "there is no table to compare");
    let mut found = Vec::new();
    for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
        match (left.get(name), right.get(name)) {
            (Some(left), Some(right)) if left.columns != right.columns => {
                found.push(format!("{name}: columns {:?} and {:?}", left.columns, right.columns));
            }
            (Some(left), Some(right)) => {
                found.extend(one_sided(name, "left", left, right));
                found.extend(one_sided(name, "right", right, left));
            }
            (Some(_), None) => found.push(format!("table {name} is on the left only")),
            (None, _) => found.push(format!("table {name} is on the right only")),
        }
    }
    found.truncate(SHOWN_MAX);
    Ok(found)
}

/// Waits until both databases are equal.
///
/// # Errors
/// They are not within `limit`; the differences are shown.
pub fn wait_equal(left: &Path, right: &Path, limit: Duration) -> Result<()> {
    let mut last = Vec::new();
    let equal = wait_for("both databases are equal", limit, || {
        last = differences(left, right).unwrap_or_else(|error| vec![format!("{error:#}")]);
        last.is_empty().then_some(())
    });
    equal.with_context(|| format!("{} and {}: {last:#?}", left.display(), right.display()))
}

fn one_sided(name: &str, side: &str, these: &Table, those: &Table) -> Vec<String> {
    let only = these.rows.iter().filter(|row| those.rows.binary_search(row).is_err());
    let mut lines: Vec<String> =
        only.take(SHOWN_MAX).map(|row| format!("{name}: {side} only: {}", show(row))).collect();
    if lines.is_empty() && these.rows.len() > those.rows.len() {
        lines.push(format!("{name}: {side} has more copies of a row"));
    }
    lines
}

fn show(row: &[Cell]) -> String {
    let cell = |cell: &Cell| match cell {
        Cell::Null => "NULL".into(),
        Cell::Integer(value) => value.to_string(),
        Cell::Real(bits) => format!("{:?}", f64::from_bits(*bits)),
        Cell::Text(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Cell::Blob(bytes) => format!("x{bytes:02x?}"),
    };
    row.iter().map(cell).collect::<Vec<_>>().join(", ")
}

fn read(path: &Path) -> Result<BTreeMap<String, Table>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db =
        Connection::open_with_flags(path, flags).with_context(|| path.display().to_string())?;
    db.busy_timeout(Duration::from_secs(5))?;
    let snapshot = db.transaction()?;
    let verdict: String = snapshot.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        bail!("{} is damaged: {verdict}", path.display());
    }
    let mut names = snapshot.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_' \
         AND substr(name, 1, 9) <> '_ipicsha_'",
    )?;
    let names = names.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    names.into_iter().map(|name| Ok((name.clone(), table(&snapshot, &name)?))).collect()
}

fn table(db: &Connection, name: &str) -> Result<Table> {
    let mut statement = db.prepare(&format!("SELECT * FROM \"{}\"", name.replace('"', "\"\"")))?;
    let columns: Vec<String> = statement.column_names().map(ToOwned::to_owned).collect();
    let mut cursor = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = cursor.next()? {
        let cells = (0..columns.len()).map(|at| Ok(cell(row.get_ref(at)?)));
        rows.push(cells.collect::<Result<Vec<Cell>>>()?);
    }
    rows.sort_unstable();
    Ok(Table { columns, rows })
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Integer(value),
        ValueRef::Real(value) => Cell::Real(value.to_bits()),
        ValueRef::Text(bytes) => Cell::Text(bytes.to_vec()),
        ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(left: &str, right: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, sql: &str| {
            let path = directory.path().join(name);
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
            path
        };
        differences(&path("left", left), &path("right", right)).unwrap()
    }

    #[test]
    fn equal_rows_in_any_order_are_equal_and_our_own_tables_do_not_count() {
        let left = "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 'x'), (2, NULL);
                    CREATE TABLE _ipicsha_log(x);";
        let right = "CREATE TABLE t(a, b); INSERT INTO t VALUES(2, NULL), (1, 'x');";
        assert!(compare(left, right).is_empty());
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let table = "CREATE TABLE t(a, b);";
        let with = |values: &str| format!("{table} INSERT INTO t VALUES{values};");
        for (left, right) in [
            (with("(1, 2)"), with("(1, 3)")),
            (with("(1, 2)"), with("(1, 2.0)")),
            (with("(1, 'x')"), with("(1, x'78')")),
            (with("(1, NULL)"), with("(1, '')")),
            (with("(1, 2)"), table.to_owned()),
            (with("(1, 2), (1, 2)"), with("(1, 2)")),
            (table.to_owned(), "CREATE TABLE t(a, c);".to_owned()),
            (table.to_owned(), "CREATE TABLE t(a, b); CREATE TABLE u(a);".to_owned()),
        ] {
            assert!(!compare(&left, &right).is_empty(), "{left} / {right}");
            assert!(!compare(&right, &left).is_empty(), "{right} / {left}");
        }
    }
}
