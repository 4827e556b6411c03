//! Room on the disk that is kept for closing the writes: where the disk is full the fence could not be
//! written otherwise, and nobody could take over in a planned way.
//!
//! Decides when there is enough to keep some, and when it is needed. Must not know why writes are closed.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags, fallocate, open, statvfs},
    io::Errno,
};

/// What follows the name of the database.
const SUFFIX: &str = ".ipicsha-room";
/// The fence of a thousand tables takes less.
const BYTES: u64 = 1 << 20;
/// Only so small a part of what is free is taken.
const PART: u64 = 4;
/// With less left on the disk the room is given.
const NEEDED: u64 = BYTES / 2;

fn room(database: &Path) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(SUFFIX);
    name.into()
}

fn left(database: &Path) -> Option<u64> {
    let disk = statvfs(database).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether the file system of a database refuses every change. Asked with a file without a name: that
/// touches no lock of SQLite's, and a disk that failed is not always shown as read-only.
pub(crate) fn is_read_only(database: &Path) -> bool {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let directory = database.parent().unwrap_or(database);
    open(directory, flags, Mode::RUSR).is_err_and(|error| error == Errno::ROFS)
}

/// Keeps room, if it is not there and the disk has plenty. Without it everything else works.
pub(crate) fn keep(database: &Path) {
    let path = room(database);
    let whole = fs::metadata(&path).is_ok_and(|meta| meta.len() >= BYTES);
    if whole || left(database).is_none_or(|left| left < BYTES * PART) {
        return;
    }
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false) // an end in the middle leaves an empty one
        .open(&path)
        .and_then(|file| Ok(fallocate(file.as_fd(), FallocateFlags::empty(), 0, BYTES)?));
    if let Err(error) = made {
        tracing::debug!(path = %path.display(), %error, "no room is kept for closing the writes");
        release(database);
    }
}

/// Gives the room where the disk is full. To be called with the write lock held, so that this database at
/// least does not take it for something else.
pub(crate) fn give(database: &Path) {
    if left(database).is_some_and(|left| left < NEEDED) && release(database) {
        tracing::warn!(database = %database.display(), "the disk is full; the room that was kept is used to close the writes");
    }
}

/// Leaves nothing behind; whether there was something.
pub(crate) fn release(database: &Path) -> bool {
    fs::remove_file(room(database)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_once_and_given_only_where_it_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("board.sqlite");
        fs::write(&database, "").unwrap();
        keep(&database);
        let length = |path: &Path| fs::metadata(path).map(|meta| meta.len()).ok();
        assert_eq!(length(&room(&database)), Some(BYTES));
        keep(&database);
        fs::write(room(&database), "").unwrap();
        keep(&database);
        assert_eq!(length(&room(&database)), Some(BYTES), "as after a crash");
        give(&database);
        assert_eq!(length(&room(&database)), Some(BYTES), "this disk is not full");
        assert!(release(&database) && !release(&database));
    }
}
