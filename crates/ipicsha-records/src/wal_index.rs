//! The header of the WAL's index, read without a lock and without a system call.
//!
//! Every commit ends by writing it, in memory that all processes share (SQLite's `-shm` file, format
//! version 3007000), so whoever waits for a commit can look at it as often as he likes. It is only a
//! hint for when to read: what is there is what SQLite then says. Decides that what cannot be read tells
//! nothing, and that a half-written header is no commit yet.

use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use rusqlite::{
    Connection,
    ffi::{SQLITE_FCNTL_FILE_POINTER, SQLITE_OK, sqlite3_file, sqlite3_file_control},
};

/// Words of one of the two copies of the header.
const WORDS: usize = 12;
/// Which of them is the last page of the `-wal` (`mxFrame`).
const PAGES: usize = 4;
/// Bytes of a part of the index, as SQLite maps it.
const PART: c_int = 32768;

/// One copy of the header: it counts transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header([u32; WORDS]);

impl Header {
    /// Pages in the `-wal`.
    pub(crate) fn pages(&self) -> u32 {
        self.0[PAGES]
    }
}

/// The header, where it is whole. The connection must have read its file, and that must be in WAL mode:
/// then it has the index mapped until it is closed.
#[allow(unsafe_code)]
pub(crate) fn header(db: &Connection) -> Option<Header> {
    let mut file: *mut sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is valid as long as `db`, null names the main database, and the operation
    // stores a pointer.
    let asked = unsafe {
        sqlite3_file_control(
            db.handle(),
            ptr::null(),
            SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        )
    };
    if asked != SQLITE_OK {
        return None;
    }
    let mut part: *mut c_void = ptr::null_mut();
    // SAFETY: an open file has methods; version 2 has the one for the index. Nothing is extended.
    let mapped = unsafe {
        let methods = file.as_ref()?.pMethods.as_ref()?;
        let map = methods.xShmMap.filter(|_| methods.iVersion >= 2)?;
        map(file, 0, PART, 0, (&raw mut part).cast())
    };
    if mapped != SQLITE_OK || part.is_null() {
        return None;
    }
    // SAFETY: the part is mapped, longer than both copies and aligned to a page; other processes write
    // it at any time, hence atomics.
    let words = unsafe { &*part.cast::<[AtomicU32; 2 * WORDS]>() };
    let copy = |from: usize| {
        let mut copy = [0; WORDS];
        let words = words.iter().skip(from);
        copy.iter_mut().zip(words).for_each(|(to, word)| *to = word.load(Ordering::Relaxed));
        copy
    };
    // Written last to first, so read first to last.
    let first = copy(0);
    fence(Ordering::Acquire);
    (first == copy(WORDS)).then_some(Header(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::open_reader;

    #[test]
    fn a_commit_of_another_connection_shows_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
        let reader = open_reader(&path).unwrap();
        let count =
            || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count(), 0);
        let before = header(&reader).unwrap();
        writer.execute_batch("BEGIN; INSERT INTO t VALUES(1)").unwrap();
        assert_eq!(header(&reader), Some(before), "it is not committed");
        writer.execute_batch("COMMIT").unwrap();
        let after = header(&reader).unwrap();
        assert_ne!(after, before);
        assert!(after.pages() > before.pages(), "{before:?} {after:?}");
        assert_eq!(count(), 1);
        assert_eq!(header(&reader), Some(after), "reading changes nothing");
    }
}
