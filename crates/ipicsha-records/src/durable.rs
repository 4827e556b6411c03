//! Makes the application's commits durable before they are sent.
//!
//! Decides nothing. `synchronous` belongs to each connection, so an application that commits with
//! NORMAL can lose commits at a power cut; the partner must never be ahead of a rebooted active.

use std::{
    cell::RefCell,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::{
    error::{AtPath as _, Error},
    rollback::DataFile,
};

/// The `-wal` file of one database, and the file itself where that stays in a rollback mode.
pub(crate) struct Wal {
    path: PathBuf,
    data: Option<DataFile>,
    /// Why the disk may have lost what was committed: the kernel says it once, and drops the pages.
    failed: RefCell<Option<String>>,
}

impl Wal {
    /// The `-wal` beside `database`.
    pub(crate) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), data: None, failed: RefCell::default() }
    }

    /// The database stays in a rollback mode: its file is to be synced as well.
    pub(crate) fn keep(&mut self, database: &Path) -> Result<(), Error> {
        self.data = Some(DataFile::open(database)?);
        Ok(())
    }

    /// Closes the database file; only while no connection of the worker is open.
    pub(crate) fn release(&mut self) {
        self.data = None;
    }

    /// Returns once everything committed before the call is on disk. The `-wal` carries no POSIX
    /// locks, so unlike the database file it may be opened and closed here.
    ///
    /// # Errors
    /// The disk failed; then every later call fails, too, for it would not tell the truth.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let failed = |cause| Err(Error::NotDurable { path: self.path.clone(), cause });
        if let Some(cause) = self.failed.borrow().clone() {
            return failed(cause);
        }
        let synced = self.data.as_ref().map_or(Ok(()), DataFile::sync).and_then(|()| {
            match File::open(&self.path) {
                // No -wal: everything is in the database file, where a checkpoint has synced it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error).at(&self.path),
                Ok(file) => file.sync_data().map_err(|error| Error::NotDurable {
                    path: self.path.clone(),
                    cause: error.to_string(),
                }),
            }
        });
        #[cfg(test)]
        counted::add(&self.path);
        if let Err(Error::NotDurable { cause, .. }) = &synced {
            *self.failed.borrow_mut() = Some(cause.clone());
        }
        synced
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
