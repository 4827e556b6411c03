//! Connections that only read, and never hold the lock an application's write needs.
//!
//! A reader of SQLite that comes upon a half-written header of the WAL's index takes the write lock for
//! a moment to read it again (`walIndexReadHdr`), and an application without busy timeout is refused in
//! that moment. Commits are what wakes us, so we would come upon it often. Here that lock is refused to
//! the connection, which makes SQLite look again; only a header that stays half-written is repaired.
//! Decides for how long. The only module that knows SQLite's file system interface.

use std::{
    cell::Cell,
    ffi::{CStr, c_int},
    path::Path,
    ptr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use rusqlite::{
    Connection,
    ffi::{
        SQLITE_BUSY, SQLITE_ERROR, SQLITE_OK, SQLITE_OPEN_MAIN_DB, SQLITE_SHM_EXCLUSIVE,
        SQLITE_SHM_LOCK, SQLITE_SHM_SHARED, sqlite3_file, sqlite3_io_methods, sqlite3_vfs,
        sqlite3_vfs_find, sqlite3_vfs_register,
    },
};

use crate::{
    database::open_with,
    error::{AtPath as _, Error},
};

/// Our name of SQLite's own file system interface with the one change.
const NAME: &CStr = c"ipicsha-reader";

/// A header that is half-written for longer has lost its writer.
const HALF_WRITTEN: Duration = Duration::from_millis(100);

/// Numbers of the locks in the WAL's index: the format of SQLite's `-shm` file.
const WRITE_LOCK: c_int = 0;
const FIRST_READ_LOCK: c_int = 3;

thread_local! {
    /// Since when this thread has been reading a half-written header.
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Opens one connection that only reads to an existing file.
///
/// # Errors
/// Those of [`open_with`], and an SQLite without the interface of Unix.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, Error> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    if !REGISTERED.get_or_init(register) {
        return Err(Error::Mismatch("SQLite has no file system interface of this system"));
    }
    let db = open_with(path, Some(NAME))?;
    db.execute_batch("PRAGMA query_only=ON").at(path)?;
    Ok(db)
}

/// SQLite's own interface, and its locks of the WAL's index.
struct Original {
    vfs: *mut sqlite3_vfs,
    shm_lock: OnceLock<Methods>,
}

/// The methods of an open file with ours in its place.
struct Methods {
    changed: sqlite3_io_methods,
    original: *const sqlite3_io_methods,
    lock: ShmLock,
}

type ShmLock = unsafe extern "C" fn(*mut sqlite3_file, c_int, c_int, c_int) -> c_int;

static ORIGINAL: OnceLock<Original> = OnceLock::new();

// SAFETY: the pointers are to what SQLite registered for the life of the process and does not change.
#[allow(unsafe_code)]
unsafe impl Send for Original {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Original {}

/// Makes the interface known to SQLite.
#[allow(unsafe_code)]
fn register() -> bool {
    // SAFETY: null asks for the default, which stays valid until the process ends.
    let vfs = unsafe { sqlite3_vfs_find(ptr::null()) };
    if vfs.is_null() {
        return false;
    }
    // SAFETY: it is a valid structure of plain values; its functions do not compare its address.
    let mut ours = unsafe { ptr::read(vfs) };
    ours.zName = NAME.as_ptr();
    ours.pNext = ptr::null_mut();
    ours.xOpen = Some(open);
    ORIGINAL.get_or_init(|| Original { vfs, shm_lock: OnceLock::new() });
    // SAFETY: SQLite keeps the pointer, so the structure is leaked on purpose.
    unsafe { sqlite3_vfs_register(Box::leak(Box::new(ours)), 0) == SQLITE_OK }
}

/// `xOpen`: opens as ever, then puts our method into the file of the database.
#[allow(unsafe_code)]
unsafe extern "C" fn open(
    _vfs: *mut sqlite3_vfs,
    name: *const std::ffi::c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let Some(original) = ORIGINAL.get() else { return SQLITE_ERROR };
    // SAFETY: SQLite's own arguments for SQLite's own function; `file` has the size it asks for.
    unsafe {
        let Some(open) = (*original.vfs).xOpen else { return SQLITE_ERROR };
        let result = open(original.vfs, name, file, flags, out_flags);
        if result == SQLITE_OK && flags & SQLITE_OPEN_MAIN_DB != 0 {
            take_over(original, file);
        }
        result
    }
}

/// # Safety
/// `file` was opened by the original interface.
#[allow(unsafe_code)]
unsafe fn take_over(original: &Original, file: *mut sqlite3_file) {
    // SAFETY: an open file has methods that live as long as the process.
    unsafe {
        let methods = (*file).pMethods;
        let Some(lock) = methods.as_ref().and_then(|methods| methods.xShmLock) else { return };
        let ours = original.shm_lock.get_or_init(|| Methods {
            changed: sqlite3_io_methods { xShmLock: Some(shm_lock), ..*methods },
            original: methods,
            lock,
        });
        // Files of another kind (no locks, for one) stay as they are.
        if ptr::eq(ours.original, methods) {
            (*file).pMethods = &raw const ours.changed;
        }
    }
}

/// `xShmLock`: SQLite itself, except for the write lock.
#[allow(unsafe_code)]
unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    let Some(methods) = ORIGINAL.get().and_then(|original| original.shm_lock.get()) else {
        return SQLITE_ERROR;
    };
    let wants = |lock, how| first == lock && flags == SQLITE_SHM_LOCK | how;
    if wants(WRITE_LOCK, SQLITE_SHM_EXCLUSIVE) && count == 1 && !has_lost_its_writer() {
        return SQLITE_BUSY;
    }
    // SAFETY: SQLite's own arguments for SQLite's own function.
    let result = unsafe { (methods.lock)(file, first, count, flags) };
    if result == SQLITE_OK && first >= FIRST_READ_LOCK && wants(first, SQLITE_SHM_SHARED) {
        SINCE.set(None); // the header was read
    }
    result
}

fn has_lost_its_writer() -> bool {
    let now = Instant::now();
    let since = SINCE.get().unwrap_or(now);
    SINCE.set(Some(since));
    now - since >= HALF_WRITTEN
}
