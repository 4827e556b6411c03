//! Somebody who swaps a directory of the root for a link to the outside, and back.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// At least so many, as the specification of the tests wants it.
pub(crate) const SWAPS: u64 = 100_000;

/// What the one who swaps and the one who works know of each other.
#[derive(Default)]
pub(crate) struct Hammer {
    swaps: AtomicU64,
    stop: AtomicBool,
}

impl Hammer {
    /// Whether it was swapped often enough.
    pub(crate) fn is_enough(&self) -> bool {
        self.swaps.load(Ordering::Relaxed) >= SWAPS
    }

    /// No more swaps.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Swaps `victim` with links to `outside`, and back, until it is stopped. `stash` is a folder on
    /// the same file system.
    pub(crate) fn swap(&self, victim: &Path, stash: &Path, outside: &Path) {
        let link = stash.join("link");
        while !self.stop.load(Ordering::Relaxed) {
            if !fs::symlink_metadata(&link).is_ok_and(|meta| meta.is_symlink()) {
                // A directory was made in the place of the link, and that came out; perhaps
                // something is still made in it.
                let _ = fs::remove_dir_all(&link);
                if symlink(outside, &link).is_err() {
                    continue;
                }
            }
            // In, and out again.
            for _ in 0..2 {
                match renameat_with(CWD, victim, CWD, &link, RenameFlags::EXCHANGE) {
                    Ok(()) => drop(self.swaps.fetch_add(1, Ordering::Relaxed)),
                    // One was removed just now: the other takes its place.
                    Err(_) => drop(renameat_with(CWD, &link, CWD, victim, RenameFlags::NOREPLACE)),
                }
            }
        }
    }
}

/// Stops the swaps also when the work ends by a panic.
pub(crate) struct StopAtEnd<'h>(pub(crate) &'h Hammer);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
