//! The write fence: triggers that refuse every write of the application.
//!
//! Decides nothing; they exist exactly while the server must not be written, so the active pays
//! nothing and a dead daemon leaves the fence standing. The daemon's own connection has triggers
//! off. Must not know why writes are closed.

use rusqlite::Connection;

use crate::{
    capture::{Captured, MS, render},
    schema::Table,
    value::quote,
};

/// What the application's program is told.
pub const REFUSAL: &str = "IPICSHA: this server is standby";

/// What the names of the fence's triggers begin with.
const PREFIX: &str = "_ipicsha_f";

/// The fence of one table.
pub(crate) fn triggers(t: u32, table: &Table) -> Vec<(String, String)> {
    before_writes(PREFIX, include_str!("sql/fence.sql"), t, table)
}

/// Triggers of one table, one before each kind of write; `prefix` is that of the template's names.
pub(crate) fn before_writes(
    prefix: &str,
    template: &str,
    t: u32,
    table: &Table,
) -> Vec<(String, String)> {
    let (number, quoted) = (t.to_string(), quote(&table.name));
    [("i", "INSERT"), ("u", "UPDATE"), ("d", "DELETE")]
        .into_iter()
        .map(|(name, event)| {
            let values = [
                ("t", number.as_str()),
                ("table", &quoted),
                ("name", name),
                ("event", event),
                ("ms", MS),
            ];
            (format!("{prefix}{t}{name}"), render(template, &values))
        })
        .collect()
}

/// Whether any part of the fence stands.
pub(crate) fn is_closed(db: &Connection) -> rusqlite::Result<bool> {
    Ok(!names(db, PREFIX)?.is_empty())
}

/// Puts the whole fence up, inside the caller's transaction.
pub(crate) fn close(db: &Connection, tables: &[Captured]) -> rusqlite::Result<()> {
    let existing = names(db, PREFIX)?;
    for (name, sql) in tables.iter().flat_map(|captured| triggers(captured.t, &captured.table)) {
        if !existing.contains(&name) {
            db.execute_batch(&sql)?;
        }
    }
    Ok(())
}

/// Takes it down, inside the caller's transaction.
pub(crate) fn open(db: &Connection) -> rusqlite::Result<()> {
    drop_all(db, PREFIX)
}

/// Drops the triggers whose names begin so.
pub(crate) fn drop_all(db: &Connection, prefix: &str) -> rusqlite::Result<()> {
    for name in names(db, prefix)? {
        db.execute_batch(&format!("DROP TRIGGER {}", quote(&name)))?;
    }
    Ok(())
}

/// The triggers whose names begin so.
pub(crate) fn names(db: &Connection, prefix: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(
        "SELECT name FROM sqlite_schema WHERE type='trigger' AND substr(name,1,length(?1))=?1",
    )?;
    let rows = statement.query_map([prefix], |row| row.get(0))?;
    rows.collect()
}
