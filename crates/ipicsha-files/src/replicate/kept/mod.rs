//! What was deleted, replaced or lost, for a while.
//!
//! Decides that an entry is either still in its directory or here as a whole, and what goes when
//! there is too much of it. Must not know why an entry goes, or what the two servers agreed on.
//!
//! A record is written before its content is moved here, so after a kill there is never a content
//! that nobody knows of. After a loss of power there may be one; it is kept under a name of its own.

mod carry;
mod expire;
mod record;
mod restore;

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use self::{
    carry::Arrived,
    record::{Part, Record, content_name, record_name},
};
use super::{KeepLimits, KeptEntry, KeptReason, KeptUsage, Refused};
use crate::{
    error::Said,
    path::{Name, RelativePath},
    place::{self, Hold},
    resolve::{Dir, Links, Mounts, Root},
};

pub use restore::{list_kept, restore_kept};

/// Folder in the state folder of a directory.
const FOLDER: &str = "kept";
/// File in it that says the last number and how much there is, and is locked by whoever changes
/// the store.
const TOTALS: &[u8] = b"totals";
/// Up to so many records are made durable one by one.
const SINGLE_MAX: usize = 64;

/// The store of one directory. Several may be open at a time, also in several processes.
#[derive(Debug)]
pub(super) struct Kept {
    store: Arc<Dir>,
    limits: KeepLimits,
    desk: Mutex<Desk>,
}

/// What only one thread at a time uses.
#[derive(Debug)]
struct Desk {
    totals: File,
    /// Entries that a loss of power may separate from their records.
    unsettled: Vec<u64>,
    /// Before this time nothing gets too old, in seconds since 1970.
    look_again_unix: i64,
}

/// How much there is, and the last number that was given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    last: u64,
    usage: KeptUsage,
}

/// How an entry comes to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    /// It goes from its directory.
    Away,
    /// It stays there as well.
    Copy,
}

/// What could not be put aside, and is still under its temporary name.
#[derive(Debug)]
pub(super) struct NotKept {
    /// Must not be dropped before the content is safe elsewhere.
    pub(super) hold: Hold,
    /// Why.
    pub(super) errno: Errno,
}

impl Kept {
    /// Opens the store in the folder `state`, made if it is missing, and removes what a crash left
    /// unfinished in it.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn open(state: &Path, limits: KeepLimits) -> Result<Self, Refused> {
        let opened = Self::open_folder(&state.join(FOLDER), limits);
        opened.map_err(|errno| {
            let doing = format!("cannot open the folder {}", state.join(FOLDER).display());
            refused(&doing, errno, "check the disk and the permissions of the state folder")
        })
    }

    fn open_folder(folder: &Path, limits: KeepLimits) -> Result<Self, Errno> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| place::errno_of(&error))?;
        let root = Root::open(folder, Links::Refuse, Mounts::Stay)?;
        let store = Arc::clone(root.top());
        store.node()?.set_mode(0o700)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let totals = rustix::fs::openat(&store, TOTALS, flags, Mode::from_raw_mode(0o600))?;
        let desk = Desk { totals: totals.into(), unsettled: Vec::new(), look_again_unix: i64::MIN };
        let kept = Self { store, limits, desk: Mutex::new(desk) };
        kept.lock()?.tidy()?;
        Ok(kept)
    }

    /// Moves the entry `name` of `dir`, which is at `at` beneath the root, here: a file, a link, or
    /// a directory with everything in it. It survives a kill at any moment; a loss of power after
    /// [`Self::settle`].
    ///
    /// # Errors
    /// The system refuses: it is still in its directory, as a whole, and, on another file system,
    /// perhaps here, too. [`Errno::BUSY`] or [`Errno::NOTEMPTY`]: it changes just now.
    pub(super) fn put(
        &self,
        dir: &Arc<Dir>,
        name: &Name,
        at: &RelativePath,
        reason: KeptReason,
        now_unix: i64,
    ) -> Result<KeptEntry, Errno> {
        self.lock()?.add(dir, name, Take::Away, (at, reason, now_unix))
    }

    /// Keeps the entry `name` of `dir`, which is no directory, and leaves it where it is: so that it
    /// is safe before something else takes its name.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(super) fn put_copy(
        &self,
        dir: &Arc<Dir>,
        name: &Name,
        at: &RelativePath,
        reason: KeptReason,
        now_unix: i64,
    ) -> Result<KeptEntry, Errno> {
        self.lock()?.add(dir, name, Take::Copy, (at, reason, now_unix))
    }

    /// Moves here what an exchange brought out.
    ///
    /// # Errors
    /// As [`Self::put`]; the hold comes back.
    pub(super) fn put_held(
        &self,
        hold: Hold,
        at: &RelativePath,
        reason: KeptReason,
        now_unix: i64,
    ) -> Result<KeptEntry, NotKept> {
        match self.put(hold.dir(), hold.name(), at, reason, now_unix) {
            Ok(entry) => {
                hold.release();
                Ok(entry)
            }
            Err(errno) => Err(NotKept { hold, errno }),
        }
    }

    /// How much there is.
    pub(super) fn usage(&self) -> KeptUsage {
        let desk = self.desk();
        Totals::read(&desk.totals).usage
    }

    /// Makes everything that was put here survive a loss of power.
    ///
    /// # Errors
    /// The device failed; it is tried again at the next call.
    pub(super) fn settle(&self) -> Result<(), Errno> {
        // The disk is waited for without the lock.
        let ids = std::mem::take(&mut self.desk().unsettled);
        if ids.is_empty() {
            return Ok(());
        }
        let synced = if ids.len() > SINGLE_MAX {
            self.store.sync_all()
        } else {
            ids.iter()
                .try_for_each(|id| record::sync(&self.store, *id))
                .and_then(|()| self.store.sync())
        };
        synced.inspect_err(|_| self.desk().unsettled.extend(ids))
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else changes the store.
    fn lock(&self) -> Result<Locked<'_>, Errno> {
        let desk = self.desk();
        loop {
            match rustix::fs::flock(&desk.totals, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(()) => break,
            }
        }
        let totals = Totals::read(&desk.totals);
        Ok(Locked { store: &self.store, limits: self.limits, desk, totals })
    }
}

impl Totals {
    /// A file that is new or damaged says nothing; opening the store counts anew.
    fn read(file: &File) -> Self {
        let mut bytes = [0; 24];
        if file.read_exact_at(&mut bytes, 0).is_err() {
            return Self::default();
        }
        let (words, _) = bytes.as_chunks::<8>();
        let [last, entries, bytes] = [0, 1, 2].map(|at| u64::from_le_bytes(words[at]));
        Self { last, usage: KeptUsage { entries, bytes } }
    }

    fn write(self, file: &File) -> Result<(), Errno> {
        let KeptUsage { entries, bytes } = self.usage;
        let words = [self.last, entries, bytes].map(u64::to_le_bytes);
        file.write_all_at(words.as_flattened(), 0).map_err(|error| place::errno_of(&error))
    }
}

/// The store, changed by nobody else.
struct Locked<'kept> {
    store: &'kept Arc<Dir>,
    limits: KeepLimits,
    desk: MutexGuard<'kept, Desk>,
    totals: Totals,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing the file would unlock it, too.
        let _ = rustix::fs::flock(&self.desk.totals, FlockOperation::Unlock);
    }
}

impl Locked<'_> {
    fn add(
        &mut self,
        dir: &Arc<Dir>,
        name: &Name,
        take: Take,
        (at, reason, kept_unix): (&RelativePath, KeptReason, i64),
    ) -> Result<KeptEntry, Errno> {
        let meta = dir.entry(name)?;
        let bytes = carry::bytes(dir, name, &meta);
        let record = Record { path: at.clone(), kind: meta.kind, bytes, kept_unix, reason };
        self.totals.last += 1;
        let id = self.totals.last;
        self.save()?;
        record::write(self.store, id, &record)?;
        if meta.device != self.store.meta()?.device {
            // A copy is on the disk before the original goes, and so is what it was.
            record::sync(self.store, id)?;
        }
        let content = content_name(id);
        let arrived = match take {
            Take::Away => carry::move_to(dir, name, self.store, &content),
            Take::Copy => carry::link_to(dir, name, self.store, &content).map(|()| Arrived::Moved),
        };
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(errno) => {
                // A record without a content is no entry; it goes when the store is opened.
                let _ = self.store.remove_file(&record_name(id));
                return Err(errno);
            }
        };
        self.count(bytes, 1);
        self.save()?;
        self.desk.unsettled.push(id);
        self.desk.look_again_unix = self.desk.look_again_unix.min(self.too_old_at(kept_unix));
        match arrived {
            Arrived::Moved => Ok(record.entry(id)),
            Arrived::Copied(errno) => Err(errno),
        }
    }

    fn count(&mut self, bytes: u64, entries: u64) {
        let usage = &mut self.totals.usage;
        usage.bytes = usage.bytes.saturating_add(bytes);
        usage.entries = usage.entries.saturating_add(entries);
    }

    fn save(&self) -> Result<(), Errno> {
        self.totals.write(&self.desk.totals)
    }

    /// The record of an entry; of one that lost it, what can be said.
    fn record(&self, id: u64) -> Result<Record, Errno> {
        if let Some(record) = record::read(self.store, id)? {
            return Ok(record);
        }
        let name = content_name(id);
        let meta = self.store.entry(&name)?;
        Ok(Record::recovered(id, &meta, carry::bytes(self.store, &name, &meta)))
    }

    /// Removes an entry. Its content gets a temporary name first, so that a crash leaves no half.
    fn remove(&mut self, id: u64, bytes: u64) -> Result<(), Errno> {
        let (store, content) = (self.store, content_name(id));
        let moved = place::hold_new(store, |new| store.rename_new(&content, store, new));
        let temporary = match moved {
            Ok(hold) => Some(hold.release()),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        self.forget(id, bytes)?;
        temporary.map_or(Ok(()), |name| carry::remove(store, &name))
    }

    /// The content of an entry is not here any more.
    fn forget(&mut self, id: u64, bytes: u64) -> Result<(), Errno> {
        let usage = &mut self.totals.usage;
        usage.bytes = usage.bytes.saturating_sub(bytes);
        usage.entries = usage.entries.saturating_sub(1);
        self.save()?;
        match self.store.remove_file(&record_name(id)) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Removes what a crash left unfinished, and counts what there is.
    fn tidy(&mut self) -> Result<(), Errno> {
        let (mut ids, mut records) = (Vec::new(), Vec::new());
        for listed in self.store.list()? {
            match record::part(&listed.name) {
                Some(Part::Content(id)) => ids.push(id),
                Some(Part::Record(id)) => records.push(id),
                None if place::is_temporary(listed.name.as_bytes()) => {
                    // Something that cannot be removed is no reason to keep nothing more.
                    let _ = carry::remove(self.store, &listed.name);
                }
                None => {}
            }
        }
        ids.sort_unstable();
        let last = ids.iter().chain(&records).max().copied().unwrap_or_default();
        self.totals = Totals { last: self.totals.last.max(last), ..Totals::default() };
        for id in records.into_iter().filter(|id| ids.binary_search(id).is_err()) {
            self.store.remove_file(&record_name(id))?;
        }
        for id in ids {
            let record = self.record(id)?;
            if record::read(self.store, id)?.is_none() {
                record::write(self.store, id, &record)?;
            }
            self.count(record.bytes, 1);
        }
        self.save()
    }
}

fn refused(doing: &str, errno: Errno, next_step: &str) -> Refused {
    Refused { message: format!("{doing}: {}", Said(errno)), next_step: next_step.to_owned() }
}

#[cfg(test)]
mod kills;
#[cfg(test)]
mod tests;
