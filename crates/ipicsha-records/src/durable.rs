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
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{
    error::{AtPath as _, Error},
    rollback::DataFile,
    witness::Witness,
};

/// Bytes a `-wal` is shortened to once it was checkpointed, as a rule and while much is applied.
const SHORTENED: i64 = 64 << 20;
const LONG: i64 = 256 << 20;

/// A pause after which an application that writes a small transaction is done with it, and how many
/// of them are waited for: the pages come some microseconds after each other.
const SETTLED: Duration = Duration::from_micros(10);
const SETTLES: usize = 5;

/// The `-wal` file of one database, and the file itself where that stays in a rollback mode.
pub(crate) struct Wal {
    path: PathBuf,
    data: Option<DataFile>,
    /// The `-wal`: opening it for each commit would be an event for who watches it.
    wal: RefCell<Option<Open>>,
    /// It is not shortened at present.
    keeps_length: Cell<bool>,
    /// Why the disk may have lost what was committed: the kernel says it once, and drops the pages.
    failed: RefCell<Option<String>>,
    /// The last sync took so long.
    took: Cell<Duration>,
}

/// The `-wal` that is open.
struct Open {
    inode: u64,
    file: File,
    /// `None`: the system gives none, and nothing is known to be synced already.
    witness: Option<Witness>,
    /// The last sync went well.
    synced: bool,
}

impl Open {
    fn at(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).at(path)?;
        let inode = file.metadata().at(path)?.ino();
        Ok(Self { inode, witness: Witness::of(&file), file, synced: false })
    }

    fn sync(&mut self) -> io::Result<()> {
        // First asked, then synced: what is written in between is a write after the sync.
        self.witness.iter().for_each(Witness::forget);
        let synced = self.file.sync_data();
        self.synced = synced.is_ok();
        synced
    }

    /// Everything written before this call is on disk.
    fn is_synced(&self) -> bool {
        self.synced && self.witness.as_ref().is_some_and(Witness::saw_nothing)
    }
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
            took: Cell::default(),
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
        let begin = Instant::now();
        let synced =
            self.data.as_ref().map_or(Ok(()), DataFile::sync).and_then(|()| self.sync_wal());
        self.took.set(begin.elapsed());
        #[cfg(test)]
        counted::add(&self.path);
        if let Err(Error::NotDurable { cause, .. }) = &synced {
            *self.failed.borrow_mut() = Some(cause.clone());
        }
        synced
    }

    /// The same without asking the disk again where it is known that nothing was written since the
    /// last sync began. To be called behind the read whose contents have to be durable.
    ///
    /// # Errors
    /// As [`Wal::sync`].
    pub(crate) fn sync_unless_synced(&self) -> Result<(), Error> {
        if self.data.is_none() && self.failed.borrow().is_none() && self.is_synced()? {
            return Ok(());
        }
        self.sync()
    }

    /// How long the disk took at last.
    pub(crate) fn took(&self) -> Duration {
        self.took.get()
    }

    /// The disk may have lost what was committed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// Waits until nothing was written for a moment, but not for long.
    pub(crate) fn settle(&self) {
        let mut wal = self.wal.borrow_mut();
        let Some(open) = wal.as_mut() else { return };
        if let Some(witness) = &open.witness {
            // What the witness forgets here was not synced.
            open.synced = false;
            for _ in 0..SETTLES {
                witness.forget();
                thread::sleep(SETTLED);
                if witness.saw_nothing() {
                    break;
                }
            }
        }
    }

    /// Nothing was written since the last sync: a hint that comes now is an old one.
    pub(crate) fn is_quiet(&self) -> bool {
        self.data.is_none() && self.is_synced().is_ok_and(|synced| synced)
    }

    fn is_synced(&self) -> Result<bool, Error> {
        let inode = self.inode()?;
        let wal = self.wal.borrow();
        Ok(wal.as_ref().is_some_and(|open| Some(open.inode) == inode && open.is_synced()))
    }

    /// Of the file that has the name now.
    fn inode(&self) -> Result<Option<u64>, Error> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(Some(metadata.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at(&self.path),
        }
    }

    fn sync_wal(&self) -> Result<(), Error> {
        let mut wal = self.wal.borrow_mut();
        let Some(inode) = self.inode()? else {
            // No -wal: everything is in the database file, where a checkpoint has synced it (but with
            // `synchronous=OFF`, which asks for that).
            *wal = None;
            return Ok(());
        };
        let open = match wal.take() {
            Some(known) if known.inode == inode => wal.insert(known),
            Some(_) | None => wal.insert(Open::at(&self.path)?),
        };
        open.sync().map_err(|error| Error::NotDurable {
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
