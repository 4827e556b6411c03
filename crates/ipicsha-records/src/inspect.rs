//! A look at an application's database before it is protected.
//!
//! Decides whether it can be, and says what is left out. Must not change anything.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    database::{begin, check_file, journal_mode, open_connection, rollback},
    error::{AtPath as _, Error},
    identity::Identity,
    rollback::{Journaling, beside},
    schema::{self, SkippedTable},
};

/// What `protect` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Its journal mode now; anything but `wal` is switched when capture is installed, unless it is
    /// to be kept.
    pub journal_mode: String,
    /// Tables that are replicated.
    pub tables: Vec<TableInfo>,
    /// Tables that are not.
    pub skipped: Vec<SkippedTable>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// A table that is replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// How its records are told apart.
    pub identity: Identity,
}

/// Looks at the database at `path`.
///
/// # Errors
/// It is missing, a directory, not SQLite, encrypted, locked, or cannot be written.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    inspect_as(path, Journaling::Wal)
}

/// The same for a file whose journal mode may be kept.
///
/// # Errors
/// Those of [`inspect`].
pub fn inspect_as(path: &Path, journaling: Journaling) -> Result<Inspection, Error> {
    check_file(path)?;
    let _beside = beside();
    let db = open_connection(path)?;
    let journal_mode = journal_mode(&db, path)?;
    begin(&db, path, std::time::Duration::from_secs(2))?;
    let schema = schema::read(&db).at(path);
    rollback(&db);
    let schema = schema?;
    let mut warnings = schema.warnings;
    warnings.extend(journaling.warning(&journal_mode));
    Ok(Inspection {
        path: path.into(),
        journal_mode,
        tables: schema
            .tables
            .into_values()
            .map(|table| TableInfo { name: table.name, identity: table.identity })
            .collect(),
        skipped: schema.skipped,
        warnings,
    })
}
