//! Makes the application's commits durable before they are sent.
//!
//! Decides nothing. `synchronous` belongs to each connection, so an application that commits with
//! NORMAL can lose commits at a power cut; the partner must never be ahead of a rebooted active.

use std::{
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
}

impl Wal {
    /// The `-wal` beside `database`.
    pub(crate) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), data: None }
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
    pub(crate) fn sync(&self) -> Result<(), Error> {
        if let Some(data) = &self.data {
            data.sync()?;
        }
        match File::open(&self.path).and_then(|file| file.sync_data()) {
            // No -wal: everything is in the database file, where a checkpoint has synced it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.at(&self.path),
        }
    }
}
