//! What is kept goes after a while, or when there is too much of it.
//!
//! Decides the order: what is too old, then the oldest. The newest entry stays however large it is,
//! until it is too old or another one comes. Must not know a clock.

use rustix::io::Errno;

use super::{Kept, Locked, record};

/// An entry takes at least so much of what is allowed, so that a million empty files have an end.
const ENTRY_BYTES: u64 = 4096;
/// After so many seconds it is looked anew, because others may have put something here.
const LOOK_SECONDS: i64 = 3600;
/// Entries that go in one call, so that nobody waits long for the store.
const REMOVED_MAX: u64 = 256;

impl Kept {
    /// Removes what is older than the limit and, beyond the limit of bytes, the oldest first. Costs
    /// nearly nothing where nothing is to be done, and never goes on for long: what is left to be
    /// removed goes at the next call. Gives the number of entries that went.
    ///
    /// # Errors
    /// The system refuses; the rest goes at the next call.
    pub(in super::super) fn expire(&self, now_unix: i64) -> Result<u64, Errno> {
        self.lock()?.expire(now_unix)
    }
}

impl Locked<'_> {
    /// When an entry kept at this time is too old.
    pub(super) fn too_old_at(&self, kept_unix: i64) -> i64 {
        let age = i64::try_from(self.limits.age.as_secs()).unwrap_or(i64::MAX);
        kept_unix.saturating_add(age).saturating_add(1)
    }

    fn is_too_much(&self) -> bool {
        let usage = self.totals.usage;
        let entries = usage.entries.saturating_mul(ENTRY_BYTES);
        usage.entries > 1 && usage.bytes.saturating_add(entries) > self.limits.bytes
    }

    fn expire(&mut self, now_unix: i64) -> Result<u64, Errno> {
        if !self.is_too_much() && now_unix < self.desk.look_again_unix {
            return Ok(0);
        }
        let mut removed = 0;
        let mut look_again_unix = now_unix.saturating_add(LOOK_SECONDS);
        let mut failed = None;
        for id in record::ids(self.store)? {
            let kept = self.record(id)?;
            let old_at = self.too_old_at(kept.kept_unix);
            if old_at > now_unix && !self.is_too_much() {
                look_again_unix = look_again_unix.min(old_at);
                continue;
            }
            if removed == REMOVED_MAX {
                look_again_unix = now_unix;
                break;
            }
            match self.remove(id, kept.bytes) {
                Ok(()) => removed += 1,
                // One that cannot be removed must not keep the others.
                Err(errno) => failed = Some(errno),
            }
        }
        self.desk.look_again_unix = look_again_unix;
        failed.map_or(Ok(removed), Err)
    }
}
