//! The write fence: triggers that refuse every write of the application.
//!
//! Decides nothing; they exist exactly while the server must not be written, so the active pays
//! nothing and a dead daemon leaves the fence standing. The daemon's own connection has triggers
//! off. Must not know why writes are closed.

use rusqlite::Connection;

use crate::{
    capture::{Captured, render},
    schema::Table,
    value::quote,
};

/// What the application's program is told.
pub const REFUSAL: &str = "IPICSHA: this server is standby";

/// The fence of one table.
pub(crate) fn triggers(t: u32, table: &Table) -> Vec<(String, String)> {
    let (number, quoted) = (t.to_string(), quote(&table.name));
    [("i", "INSERT"), ("u", "UPDATE"), ("d", "DELETE")]
        .into_iter()
        .map(|(name, event)| {
            let values =
                [("t", number.as_str()), ("table", &quoted), ("name", name), ("event", event)];
            (format!("_ipicsha_f{t}{name}"), render(include_str!("sql/fence.sql"), &values))
        })
        .collect()
}

/// Whether any part of the fence stands.
pub(crate) fn is_closed(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE type='trigger' AND substr(name,1,10)='_ipicsha_f')",
        [],
        |row| row.get(0),
    )
}

/// Puts the whole fence up, inside the caller's transaction.
pub(crate) fn close(db: &Connection, tables: &[Captured]) -> rusqlite::Result<()> {
    let existing = names(db)?;
    for (name, sql) in tables.iter().flat_map(|captured| triggers(captured.t, &captured.table)) {
        if !existing.contains(&name) {
            db.execute_batch(&sql)?;
        }
    }
    Ok(())
}

/// Takes it down, inside the caller's transaction.
pub(crate) fn open(db: &Connection) -> rusqlite::Result<()> {
    for name in names(db)? {
        db.execute_batch(&format!("DROP TRIGGER {}", quote(&name)))?;
    }
    Ok(())
}

fn names(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(
        "SELECT name FROM sqlite_schema WHERE type='trigger' AND substr(name,1,10)='_ipicsha_f'",
    )?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}
