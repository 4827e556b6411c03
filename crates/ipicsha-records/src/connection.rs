//! Connections to an application's database: how they are opened, and how their locks are waited for.
//!
//! Must not know what is in the database.

use std::{
    ffi::CStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::error::{AtPath as _, Error, is_busy, unwritable};

/// Steps of the loop for the write lock; waiting by busy timeout starves among many writers.
const LOCK_STEP: Duration = Duration::from_micros(200);

/// How long a short piece of work waits for the lock before it is tried again later.
pub(crate) const SHORT: Duration = Duration::from_millis(200);

/// How long something asked for by the shell waits for the lock.
pub(crate) const PATIENT: Duration = Duration::from_secs(5);

/// One transaction of its own.
pub(crate) fn in_transaction<T>(
    db: &Connection,
    path: &Path,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, Error> {
    begin(db, path, PATIENT)?;
    let result = work(db).at(path).and_then(|value| commit(db, path, PATIENT).map(|()| value));
    if result.is_err() {
        rollback(db);
    }
    result
}

/// Refuses what cannot be a database before SQLite sees it.
pub(crate) fn check_file(path: &Path) -> Result<(), Error> {
    // Only `stat`: opening and closing the file would drop SQLite's POSIX locks on it.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(Error::Directory { path: path.into() }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Missing { path: path.into() })
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Error::NoPermission { path: path.into() })
        }
        Err(source) => Err(Error::Io { path: path.into(), source }),
    }
}

/// What tells a file from another one that took its name.
pub(crate) fn inode(path: &Path) -> Result<u64, Error> {
    fs::metadata(path).map(|metadata| metadata.ino()).at(path)
}

/// Opens one connection to an existing file.
pub(crate) fn open_connection(path: &Path) -> Result<Connection, Error> {
    open_with(path, None)
}

/// The same through a file system interface of SQLite's.
pub(crate) fn open_with(path: &Path, vfs: Option<&CStr>) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    };
    let db = db.map_err(|_| unwritable(path))?;
    if db.is_readonly(rusqlite::MAIN_DB).at(path)? {
        return Err(unwritable(path));
    }
    db.set_prepared_statement_cache_capacity(512);
    // The last one out would checkpoint with an exclusive lock just when the application may open.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).at(path)?;
    db.busy_timeout(SHORT).at(path)?;
    Ok(db)
}

pub(crate) fn switch_to_wal(db: &Connection, path: &Path) -> Result<(), Error> {
    let mode = journal_mode(db, path)?;
    if mode == "wal" {
        return Ok(());
    }
    let mode: String = retry(path, Duration::from_secs(2), || {
        db.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).at(path)
    })
    .map_err(|error| {
        if error.is_busy() {
            Error::NotWal { path: path.into(), mode: mode.clone() }
        } else {
            error
        }
    })?;
    if mode == "wal" { Ok(()) } else { Err(Error::NotWal { path: path.into(), mode }) }
}

/// The file's journal mode; the first real access, so it tells what kind of file it is.
pub(crate) fn journal_mode(db: &Connection, path: &Path) -> Result<String, Error> {
    retry(path, Duration::from_secs(2), || {
        // `journal_mode` alone does not read the header of the file.
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).at(path)?;
        db.query_row("PRAGMA journal_mode", [], |row| row.get(0)).at(path)
    })
}

/// Runs a statement that is needed again and again.
pub(crate) fn execute(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

/// Takes the write lock.
pub(crate) fn begin(db: &Connection, path: &Path, patience: Duration) -> Result<(), Error> {
    retry(path, patience, || execute(db, "BEGIN IMMEDIATE").at(path))
}

/// Commits. Without a WAL readers have to leave first: new ones are kept out meanwhile, and until
/// it gives up nothing is lost.
pub(crate) fn commit(db: &Connection, path: &Path, patience: Duration) -> Result<(), Error> {
    retry(path, patience, || execute(db, "COMMIT").at(path))
}

/// Tries until nobody else has the lock, at most for `patience`.
pub(crate) fn retry<T>(
    path: &Path,
    patience: Duration,
    mut work: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let deadline = Instant::now() + patience;
    loop {
        match work() {
            Err(Error::Sqlite { source, .. }) if is_busy(&source) => {
                let gives_up = Instant::now() >= deadline;
                #[cfg(test)]
                crate::fault::note_lock(!gives_up);
                if gives_up {
                    return Err(Error::Locked { path: path.into() });
                }
                thread::sleep(LOCK_STEP);
            }
            result => return result,
        }
    }
}

/// Ends a transaction, whatever its state.
pub(crate) fn rollback(db: &Connection) {
    if !db.is_autocommit()
        && let Err(error) = execute(db, "ROLLBACK")
    {
        tracing::warn!(%error, "a transaction could not be rolled back");
    }
}
