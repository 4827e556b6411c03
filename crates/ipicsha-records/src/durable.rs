//! Makes the application's commits durable before they are sent.
//!
//! Decides nothing. `synchronous` belongs to each connection, so an application that commits with
//! NORMAL can lose commits at a power cut; the partner must never be ahead of a rebooted active.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use crate::{
    error::{AtPath as _, Error},
    rollback::DataFile,
};

/// Bytes a `-wal` is shortened to once it was checkpointed, as a rule and while much is applied.
const SHORTENED: i64 = 64 << 20;
const LONG: i64 = 256 << 20;

/// The `-wal` file of one database, and the file itself where that stays in a rollback mode.
pub(crate) struct Wal {
    path: PathBuf,
    data: Option<DataFile>,
    /// The `-wal`, with its inode: opening it for each commit would be an event for who watches it.
    wal: RefCell<Option<(u64, File)>>,
    /// It is not shortened at present.
    keeps_length: Cell<bool>,
    /// Why the disk may have lost what was committed: the kernel says it once, and drops the pages.
    failed: RefCell<Option<String>>,
}

impl Wal {
    /// The `-wal` beside `database`.
    pub(crate) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            data: None,
            wal: RefCell::default(),
            keeps_length: Cell::new(false),
            failed: RefCell::default(),
        }
    }

    /// The database stays in a rollback mode: its file is to be synced as well.
    pub(crate) fn keep(&mut self, database: &Path) -> Result<(), Error> {
        self.data = Some(DataFile::open(database)?);
        Ok(())
    }

    /// Closes the database file; only while no connection of the worker is open.
    pub(crate) fn release(&mut self) {
        self.data = None;
        self.keeps_length.set(false); // a limit belongs to its connection
    }

    /// While much is applied the `-wal` keeps its length: writing over what is there costs a tenth less
    /// than shortening it after each checkpoint and letting it grow again.
    pub(crate) fn keep_length(&self, writer: &Connection, keep: bool) -> Result<(), Error> {
        if self.keeps_length.replace(keep) == keep {
            return Ok(());
        }
        let limit = if keep { LONG } else { SHORTENED };
        writer.pragma_update(None, "journal_size_limit", limit).at(&self.path)
    }

    /// Returns once everything committed before the call is on disk. The `-wal` carries no POSIX
    /// locks, so unlike the database file it may be closed beside them.
    ///
    /// # Errors
    /// The disk failed; then every later call fails, too, for it would not tell the truth.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let failed = |cause| Err(Error::NotDurable { path: self.path.clone(), cause });
        if let Some(cause) = self.failed.borrow().clone() {
            return failed(cause);
        }
        let synced =
            self.data.as_ref().map_or(Ok(()), DataFile::sync).and_then(|()| self.sync_wal());
        #[cfg(test)]
        counted::add(&self.path);
        if let Err(Error::NotDurable { cause, .. }) = &synced {
            *self.failed.borrow_mut() = Some(cause.clone());
        }
        synced
    }

    fn sync_wal(&self) -> Result<(), Error> {
        let mut wal = self.wal.borrow_mut();
        let inode = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.ino(),
            // No -wal: everything is in the database file, where a checkpoint has synced it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *wal = None;
                return Ok(());
            }
            Err(error) => return Err(error).at(&self.path),
        };
        let (open, file) = match wal.take() {
            Some(known) if known.0 == inode => known,
            Some(_) | None => {
                let file = File::open(&self.path).at(&self.path)?;
                (file.metadata().at(&self.path)?.ino(), file)
            }
        };
        let synced = file.sync_data();
        *wal = Some((open, file));
        synced.map_err(|error| Error::NotDurable {
            path: self.path.clone(),
            cause: error.to_string(),
        })
    }
}

/// How often each file was synced.
#[cfg(test)]
pub(crate) mod counted {
    use std::{
        collections::BTreeMap,
        path::{Path, PathBuf},
        sync::Mutex,
    };

    static SYNCED: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

    pub(super) fn add(wal: &Path) {
        *SYNCED.lock().unwrap().entry(wal.into()).or_default() += 1;
    }

    /// Of the database at `path`.
    pub(crate) fn of(path: &Path) -> u64 {
        let wal = super::Wal::of(path).path;
        SYNCED.lock().unwrap().get(&wal).copied().unwrap_or_default()
    }
}
