//! What can go wrong with an application's database, in the administrator's words.
//!
//! Decides the wording and the next step. Must not know what the shell does with it.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::room;

/// How the refusal of a second comparison ends; the partner gets it as text.
pub const RUNNING: &str = "is running already, and only one comparison of a database can";

/// Errors of the record engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is there.
    #[error("{path} does not exist")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A directory was named.
    #[error("{path} is a directory, not a database file")]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Not a database, or encrypted.
    #[error("{path} is not an SQLite database, or it is encrypted")]
    NotSqlite {
        /// The file.
        path: PathBuf,
    },
    /// Another program keeps it locked.
    #[error("{path} is locked by another program")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Cannot be opened for writing.
    #[error("{path} cannot be opened for reading and writing")]
    NoPermission {
        /// The file.
        path: PathBuf,
    },
    /// Mounted so, or made so by the system because the disk fails.
    #[error("{path} cannot be written: its file system is read-only")]
    ReadOnlyDisk {
        /// The file.
        path: PathBuf,
    },
    /// Prepared by another version of this program.
    #[error(
        "{path} was prepared by another version: its log has format {format}, this one reads up to {}",
        crate::capture::FORMAT
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it has.
        format: i64,
    },
    /// WAL mode could not be switched on.
    #[error("{path} stays in journal mode {mode}, records need WAL")]
    NotWal {
        /// The file.
        path: PathBuf,
        /// The mode it stays in.
        mode: String,
    },
    /// Put aside or replaced while it was open.
    #[error("{path} was replaced or deleted while it was protected")]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// SQLite failed.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A UNIQUE rule the engine cannot resolve.
    #[error("{path}: table {table} cannot take a record of the partner: {reason}")]
    Unplaceable {
        /// The file.
        path: PathBuf,
        /// The table.
        table: String,
        /// What SQLite said.
        reason: String,
    },
    /// Commits that may be lost at the next power cut.
    #[error("{path}: the disk failed to store changes: {cause}")]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// Tables that nobody has looked at yet.
    #[error("{path}: the application has just changed the schema")]
    Unseen {
        /// The file.
        path: PathBuf,
    },
    /// Rows that were believed to fit collide; handled where it happens.
    #[error("a record is there already")]
    Collision,
    /// A message that does not fit; the pair attaches again.
    #[error("the partner's message does not fit: {0}")]
    Mismatch(&'static str),
    /// The ring has overwritten entries nobody had received.
    #[error("the transaction log has overwritten entries the partner never received")]
    Overflow,
    /// A smaller log would be an alarm at once.
    #[error(
        "{entries} changes (about {bytes} bytes) wait for the partner: they would fill such a log to {percent} %"
    )]
    CapacityTooSmall {
        /// What waits.
        entries: u64,
        /// Their bytes.
        bytes: u64,
        /// How full the log would be.
        percent: u64,
    },
    /// A barrier cannot be waited for.
    #[error("not connected to the partner: {0}")]
    NotConnected(String),
    /// A barrier was waited for in vain.
    #[error("{}", unconfirmed(*.missing, .reason.as_deref()))]
    Unconfirmed {
        /// Changes the partner has not acknowledged.
        missing: u64,
        /// What else has to end first.
        reason: Option<String>,
    },
    /// The write fence refused.
    #[error("{path}: this server is standby, it does not write")]
    Fenced {
        /// The file.
        path: PathBuf,
    },
    /// `Commit` without a prepared switchover.
    #[error("no switchover is prepared: {0}")]
    NotPrepared(String),
    /// Not possible now.
    #[error("{0}")]
    NotReady(String),
    /// One at a time.
    #[error("{0} {RUNNING}")]
    Comparing(&'static str),
    /// Comparisons are led by the primary.
    #[error("a comparison is led by the primary")]
    NotLeader,
    /// A comparison ended early.
    #[error("the comparison was interrupted: {0}")]
    Interrupted(String),
    /// No such journal entry.
    #[error("the conflict journal has no entry {0}")]
    NoEntry(i64),
    /// No such repair.
    #[error("no repair of this database has the number {0}")]
    NoRepair(u64),
    /// A stored entry cannot be read.
    #[error("{path}: entry {id} of the conflict journal is damaged")]
    DamagedEntry {
        /// The journal.
        path: PathBuf,
        /// The entry.
        id: i64,
    },
    /// The thread of this database has ended.
    #[error("the records of this database are no longer served")]
    Stopped,
}

impl Error {
    /// What the administrator does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "start the application once so that it creates the file, or correct the path"
            }
            Self::Directory { .. } => "name the database file inside it",
            Self::NotSqlite { .. } => {
                "name the application's SQLite file; encrypted databases cannot be replicated"
            }
            Self::Locked { .. } => {
                "end the program that holds it, or set its locking_mode to NORMAL, then try again"
            }
            Self::NoPermission { .. } => {
                "give the user of the daemon read and write permission on the file and its directory"
            }
            Self::ReadOnlyDisk { .. } => {
                "the system does that to a disk that fails (`dmesg` tells): check it, mount it again and restart the daemon"
            }
            Self::Format { .. } => "install the same version on both servers, the newer of the two",
            Self::NotWal { .. } => {
                "stop the application for a moment and try again; the file must lie on a local file system"
            }
            Self::Replaced { .. } => {
                "put the file back, or take the new one over with `ipicsha unprotect db` and `ipicsha protect db`"
            }
            Self::Sqlite { .. } | Self::Io { .. } => {
                "read the cause, mend the file or the disk; it is tried again by itself"
            }
            Self::Unplaceable { .. } => {
                "compare it anew: `ipicsha unprotect db` and `ipicsha protect db` on this server"
            }
            Self::NotDurable { .. } => {
                "nothing is confirmed to the partner any more: look at the disk (`dmesg`), fail over to the other server, then restart this one"
            }
            Self::Unseen { .. } => "nothing was changed: try it again in a moment",
            Self::Mismatch(_) | Self::Collision => {
                "nothing: the databases are compared again by themselves"
            }
            Self::Overflow => {
                "HA is unconfigured by itself; give the log more room (`ipicsha protect db PATH --log-entries N`), then `ipicsha configure`"
            }
            Self::CapacityTooSmall { .. } => {
                "bring the partner back so that they are shipped, or choose a larger log"
            }
            Self::NotConnected(_) => "see `ipicsha ha-status`; the data is safe on this server",
            Self::Unconfirmed { .. } => {
                "ask again: the changes are on their way; `ipicsha ha-status` shows the queue"
            }
            Self::Fenced { .. } => "run this on the active server",
            Self::NotPrepared(_) => "nothing has changed: try the switchover again",
            Self::NotReady(_) => "wait until `ipicsha ha-status` shows Ready, then try again",
            Self::Comparing(_) => {
                "`ipicsha ha-status` shows how far it is; try again when it is done"
            }
            Self::NotLeader => "run it through the daemon, which asks the primary",
            Self::Interrupted(_) => "try again when both servers are connected",
            Self::NoEntry(_) => "see `ipicsha conflicts list`",
            Self::NoRepair(_) => "see `ipicsha repair list`",
            Self::DamagedEntry { .. } => "restore the conflict journal from a backup",
            Self::Stopped => "restart the daemon",
        }
    }

    /// Whether trying again soon can help: someone else has the lock.
    pub(crate) fn is_busy(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Unseen { .. } => true,
            Self::Sqlite { source, .. } => is_busy(source),
            Self::Missing { .. }
            | Self::Directory { .. }
            | Self::NotSqlite { .. }
            | Self::NoPermission { .. }
            | Self::ReadOnlyDisk { .. }
            | Self::Format { .. }
            | Self::NotWal { .. }
            | Self::Replaced { .. }
            | Self::Io { .. }
            | Self::Unplaceable { .. }
            | Self::NotDurable { .. }
            | Self::Collision
            | Self::Mismatch(_)
            | Self::Overflow
            | Self::CapacityTooSmall { .. }
            | Self::NotConnected(_)
            | Self::Unconfirmed { .. }
            | Self::Fenced { .. }
            | Self::NotPrepared(_)
            | Self::NotReady(_)
            | Self::Comparing(_)
            | Self::NotLeader
            | Self::Interrupted(_)
            | Self::NoEntry(_)
            | Self::NoRepair(_)
            | Self::DamagedEntry { .. }
            | Self::Stopped => false,
        }
    }

    /// Whether the pair finds together again by attaching anew.
    pub(crate) fn needs_attach(&self) -> bool {
        matches!(self, Self::Mismatch(_))
    }
}

/// What a barrier waited for in vain.
fn unconfirmed(missing: u64, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("not confirmed in time: {reason}"),
        None => format!("not confirmed in time: {missing} changes are not acknowledged yet"),
    }
}

/// `SQLITE_BUSY` and `SQLITE_LOCKED`, in all their extended forms.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

/// A violated rule of the schema or a trigger.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

/// A violated UNIQUE or PRIMARY KEY rule.
pub(crate) fn is_unique(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi;
    error.sqlite_error().is_some_and(|error| {
        matches!(
            error.extended_code,
            ffi::SQLITE_CONSTRAINT_UNIQUE
                | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_ROWID
        )
    })
}

/// What keeps a file from being written that may not be.
pub(crate) fn unwritable(path: &Path) -> Error {
    if room::is_read_only(path) {
        Error::ReadOnlyDisk { path: path.into() }
    } else {
        Error::NoPermission { path: path.into() }
    }
}

/// Puts the file's name to an error of SQLite.
pub(crate) trait AtPath<T> {
    /// The same, as an [`Error`] about `path`.
    fn at(self, path: &Path) -> Result<T, Error>;
}

impl<T> AtPath<T> for rusqlite::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        use rusqlite::ErrorCode;
        self.map_err(|source| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Error::NotSqlite { path: path.into() },
            Some(ErrorCode::SystemIoFailure) if room::is_read_only(path) => unwritable(path),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => unwritable(path),
            _ => Error::Sqlite { path: path.into(), source },
        })
    }
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { path: path.into(), source })
    }
}
