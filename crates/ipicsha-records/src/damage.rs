//! A conflict journal that cannot be read any more.
//!
//! Decides whether the file is damaged, and where it is kept for the administrator. A damaged
//! journal must neither stop replication nor be lost: it is put aside and a new one is begun.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{AtPath as _, Error};

/// Files SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

/// Puts the conflict journal at `path` aside if it is damaged, and says where it lies now. To be
/// called before any worker has opened it.
///
/// # Errors
/// The file system refuses, or another program keeps the journal locked.
pub fn set_aside_if_damaged(path: &Path) -> Result<Option<PathBuf>, Error> {
    if !path.exists() || !is_damaged(path)? {
        return Ok(None);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let aside = with_suffix(path, &format!(".damaged-{since}"));
    for companion in COMPANIONS {
        let from = with_suffix(path, companion);
        if from.exists() {
            fs::rename(&from, with_suffix(&aside, companion)).at(&from)?;
        }
    }
    Ok(Some(aside))
}

fn is_damaged(path: &Path) -> Result<bool, Error> {
    let check = || -> rusqlite::Result<bool> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok(verdict != "ok")
    };
    match check() {
        Ok(damaged) => Ok(damaged),
        Err(error) if tells_damage(&error) => Ok(true),
        Err(source) => Err(Error::Sqlite { path: path.into(), source }),
    }
}

/// The file is no database, or its contents contradict each other.
pub(crate) fn tells_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
