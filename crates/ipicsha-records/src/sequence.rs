//! AUTOINCREMENT: ids given out by one server are not given out again by the other.
//!
//! Decides what of `sqlite_sequence` travels and when it rises; it never falls. No trigger can
//! watch that table, so its values go with the batches of their tables, and with every attach.

use ipicsha_core::data::TableState;
use rusqlite::{Connection, OptionalExtension as _};

use crate::{
    database::{Database, PATIENT},
    error::{AtPath as _, Error},
};

/// Ids left out at a takeover. The lost active may have given out ids whose records never arrived
/// here; an application that shows ids must not meet one of them again.
pub(crate) const LEFT_OUT: i64 = 10_000;

/// The largest id given out in a table, if it is AUTOINCREMENT and has ever given out one.
fn read(db: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name=?1")?
        .query_row([table], |row| row.get(0))
        .optional()
}

/// For the tables of a batch, in its snapshot.
pub(crate) fn of_batch(
    db: &Connection,
    database: &Database,
    tables: &[String],
) -> rusqlite::Result<Vec<(u32, i64)>> {
    let mut found = Vec::new();
    for (index, name) in tables.iter().enumerate() {
        if database.table(name).is_some_and(|captured| captured.table.autoincrement) {
            found.extend(read(db, name)?.map(|last| (index as u32, last)));
        }
    }
    Ok(found)
}

/// For an attach.
pub(crate) fn read_into(
    db: &Connection,
    database: &Database,
    tables: &mut [TableState],
) -> rusqlite::Result<()> {
    for state in tables {
        if database.table(&state.name).is_some_and(|captured| captured.table.autoincrement) {
            state.sequence = read(db, &state.name)?;
        }
    }
    Ok(())
}

/// Raises own sequences to the partner's in a transaction of its own, if one is lower.
pub(crate) fn raise(database: &mut Database, theirs: &[(String, i64)]) -> Result<(), Error> {
    let mut lower = Vec::new();
    for (table, last) in theirs {
        let own = read(&database.reader, table).at(&database.path)?;
        if own.is_none_or(|own| own < *last) {
            lower.push((table.as_str(), *last));
        }
    }
    if lower.is_empty() {
        return Ok(());
    }
    database.transaction(PATIENT, |database| {
        lower
            .iter()
            .try_for_each(|(table, last)| rise(&database.writer, table, *last))
            .at(&database.path)
    })
}

/// Raises one sequence, in the caller's transaction.
pub(crate) fn rise(db: &Connection, table: &str, to: i64) -> rusqlite::Result<()> {
    let raised = db
        .prepare_cached("UPDATE sqlite_sequence SET seq=max(seq, ?2) WHERE name=?1")?
        .execute((table, to))?;
    if raised == 0 {
        db.prepare_cached("INSERT INTO sqlite_sequence(name, seq) VALUES(?1, ?2)")?
            .execute((table, to))?;
    }
    Ok(())
}

/// Leaves ids out in every AUTOINCREMENT table, in the caller's transaction.
pub(crate) fn leave_out(database: &Database) -> Result<(), Error> {
    let tables = database.tables.values().filter(|captured| captured.table.autoincrement);
    for captured in tables {
        let db = &database.writer;
        let last = read(db, &captured.table.name).at(&database.path)?.unwrap_or(0);
        let to = last.saturating_add(LEFT_OUT);
        rise(db, &captured.table.name, to).at(&database.path)?;
    }
    Ok(())
}
