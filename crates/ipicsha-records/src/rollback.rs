//! Databases that stay in a rollback-journal mode.
//!
//! Decides what is different without a WAL: what has to be synced before a change is durable, and
//! how short a read has to be, since a reader holds up the application's commit there. Must not
//! know the partner.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::error::{AtPath as _, Error};

/// What becomes of the journal mode of a protected file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Journaling {
    /// It is switched to WAL, which persists in the file.
    #[default]
    Wal,
    /// It stays as the application has it.
    Keep,
}

impl Journaling {
    /// What the administrator should know about a file in this mode.
    pub(crate) fn warning(self, mode: &str) -> Option<String> {
        match self {
            _ if mode == "wal" => None,
            Self::Wal => Some(format!(
                "the file is in journal mode {mode}: it is switched to WAL, which persists"
            )),
            Self::Keep => Some(format!(
                "the file stays in journal mode {mode}: an application without a busy timeout can see SQLITE_BUSY while records are read; set a busy timeout there, and `PRAGMA synchronous=EXTRA`, or a power cut can undo its last commits"
            )),
        }
    }
}

/// How often to look for a commit after an event: every look takes the file's read lock.
pub(crate) const ALARM_STEP: Duration = Duration::from_millis(4);
/// Rows read for a batch in one go.
pub(crate) const BATCH_ROWS: usize = 100;
/// Ranges hashed for one question of a comparison.
pub(crate) const QUESTION: usize = 1;

/// Side connections hold it while they read, and [`DataFile`] takes it alone to close its file.
static BESIDE: RwLock<()> = RwLock::new(());

/// For as long as a connection outside the worker may hold a lock on a database file: closing any
/// descriptor of a file drops all POSIX locks this process has on it.
pub(crate) fn beside() -> RwLockReadGuard<'static, ()> {
    BESIDE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The database file itself, open for syncing. It must not be dropped while the worker's
/// connections are in a transaction: see [`beside`].
pub(crate) struct DataFile {
    path: PathBuf,
    journal: PathBuf,
    file: Option<File>,
}

impl DataFile {
    /// Opens the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut journal = path.as_os_str().to_owned();
        journal.push("-journal");
        let file = File::open(path).at(path)?;
        Ok(Self { path: path.into(), journal: journal.into(), file: Some(file) })
    }

    /// Returns once everything committed before the call is on disk: the pages, and the end of the
    /// journal, be it zeroed, truncated or deleted. A journal that comes back after a power cut
    /// would undo the commit.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        if let Some(file) = &self.file {
            file.sync_data().map_err(not_durable(&self.path))?;
        }
        match File::open(&self.journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            journal => journal.at(&self.journal)?.sync_all().map_err(not_durable(&self.journal))?,
        }
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        File::open(directory).at(directory)?.sync_all().map_err(not_durable(directory))
    }
}

/// The kernel says it once: the next sync would say that all is well.
fn not_durable(path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::NotDurable { path: path.into(), cause: error.to_string() }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        let _alone = BESIDE.write().unwrap_or_else(PoisonError::into_inner);
        drop(self.file.take());
    }
}

/// Whether the application has put a database there: a file with at least one table. An empty file
/// is one that is being made, and a connection of ours would get in the way of its first settings.
///
/// # Errors
/// The file is locked, or cannot be opened.
pub fn is_database(path: &Path) -> Result<bool, Error> {
    let size = fs::metadata(path).at(path)?.len();
    // By SQLite, not by reading its head: closing the file would drop the locks of other
    // connections of this process, whatever name they know it by.
    if size < 512 {
        return Ok(false);
    }
    let _beside = beside();
    let db = crate::reader::open_reader(path)?;
    let tables: rusqlite::Result<i64> =
        db.query_row("SELECT count(*) FROM sqlite_schema WHERE type='table'", [], |row| row.get(0));
    match tables.at(path) {
        Ok(tables) => Ok(tables > 0),
        Err(Error::NotSqlite { .. }) => Ok(false),
        Err(error) if error.is_busy() => Err(Error::Locked { path: path.into() }),
        Err(error) => Err(error),
    }
}
