//! A file of our own that goes through the same queue as all changes before it.
//!
//! Decides when the hints are known to be complete. Must not know which backend reports it.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{FlushError, Method, names, reach, shared::Shared};

/// After so long another cookie is tried: the first one may have been made before its directory was
/// covered.
const AGAIN: Duration = Duration::from_millis(500);

/// Number of the next cookie, from now on expected.
pub(super) fn expect(shared: &Shared) -> u64 {
    let mut state = shared.lock();
    let number = state.next_cookie;
    state.next_cookie += 1;
    state.cookies.insert(number);
    number
}

/// Makes the cookie `number` and removes it again. Its directory stays, so that the times of the
/// root change once only.
pub(super) fn make(root: BorrowedFd<'_>, number: u64) -> Result<(), Errno> {
    let dir = own_directory(root)?;
    let name = name(number);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let made = rustix::fs::openat(&dir, &name, flags, Mode::RUSR | Mode::WUSR).map(drop);
    // Where one is in the way, removing it is reported as well.
    rustix::fs::unlinkat(&dir, &name, AtFlags::empty()).or(made)
}

/// Our directory in the root, without the cookies of a process that ended before it removed them.
pub(super) fn prepare(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let dir = own_directory(root)?;
    for name in reach::names(&dir, |_| true)? {
        if name.starts_with(names::COOKIE) {
            // It may be gone by now, which is what is wanted.
            let _ = rustix::fs::unlinkat(&dir, &*name, AtFlags::empty());
        }
    }
    Ok(())
}

fn name(number: u64) -> Vec<u8> {
    [names::COOKIE, format!("{}-{number}", std::process::id()).as_bytes()].concat()
}

/// Our directory in the root, made if it is missing.
fn own_directory(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(root, names::OWN, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => reach::directory(root, names::OWN),
        // A full disk or a read-only one may have the directory all the same.
        Err(errno) => reach::directory(root, names::OWN).map_err(|_| errno),
    }
}

/// See [`super::Watcher::flush`].
pub(super) fn flush(path: &Path, shared: &Shared, deadline: Instant) -> Result<(), FlushError> {
    let mut mine = Vec::new();
    let result = loop {
        let number = expect(shared);
        mine.push(number);
        if let Err(error) = announce(path, shared, number) {
            break Err(error);
        }
        let again = deadline.min(Instant::now() + AGAIN);
        let is_done = |cookies: &BTreeSet<u64>| mine.iter().any(|number| !cookies.contains(number));
        let state = shared.wait_until(again, |state| is_done(&state.cookies) || state.root_gone);
        if is_done(&state.cookies) {
            break Ok(());
        }
        if state.root_gone {
            break Err(FlushError::RootGone);
        }
        if Instant::now() >= deadline {
            break Err(FlushError::Late);
        }
    };
    let mut state = shared.lock();
    for number in mine {
        state.cookies.remove(&number);
        state.seen.remove(&number);
    }
    result
}

fn announce(path: &Path, shared: &Shared, number: u64) -> Result<(), FlushError> {
    let method = {
        let state = shared.lock();
        if state.root_gone {
            return Err(FlushError::RootGone);
        }
        state.status.method
    };
    // Nothing listens: the thread says to scan.
    if method != Method::Polling {
        let root = reach::root(path).map_err(|_| FlushError::RootGone)?;
        make(root.as_fd(), number).map_err(FlushError::Cookie)?;
    }
    shared.wake();
    Ok(())
}
