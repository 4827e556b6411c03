//! What was made here is on the disk for good before anybody is told.
//!
//! Decides what is made durable how, and what follows when the disk refuses: what it has no room for
//! is tried again, after an error of the device nothing is said any more. Must not know what was made.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    Event,
    engine::{Engine, Step},
};
use crate::{error::Said, resolve::Dir};

/// After the disk refused, the directory is entered again.
const DISK_RETRY: Duration = Duration::from_secs(5);
/// From so many directories on, the whole file system is made durable at once.
const DIRECTORIES_MAX: usize = 16;

/// What the disk does not have for good yet.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Directories whose names are not durable.
    directories: HashMap<u64, Arc<Dir>>,
    /// Facts of entries were changed in place.
    facts: bool,
    /// The disk refused, and why.
    refused: Option<Errno>,
    /// It is not tried before.
    until: Option<Instant>,
}

impl Unsettled {
    /// The disk refused. An error of the device stays: what it lost cannot be written again.
    pub(super) fn refused(&mut self, errno: Errno) {
        if !self.has_failed() {
            self.refused = Some(errno);
        }
    }

    /// Whether the device failed, so that nobody knows what it has.
    pub(super) fn has_failed(&self) -> bool {
        self.refused == Some(Errno::IO)
    }

    fn settle(&mut self) -> Result<(), Errno> {
        let mut directories = self.directories.values();
        let many = self.facts || directories.len() > DIRECTORIES_MAX;
        match directories.next().filter(|_| many) {
            Some(any) => any.sync_all()?,
            None => self.directories.values().try_for_each(|dir| dir.sync())?,
        }
        (self.facts, self.refused, self.until) = (false, None, None);
        self.directories.clear();
        Ok(())
    }
}

impl Engine {
    /// Disk first, then the index, then the partner's ears. Where the disk refuses, neither of the
    /// others hears of it: after a loss of power it would look deleted.
    pub(super) fn make_durable(&mut self) -> Step<()> {
        let is_early = self.unsettled.until.is_some_and(|until| Instant::now() < until);
        if self.unsettled.has_failed() && self.hold.is_some() {
            self.outbox.clear(); // it would be told after a restart only, and then anew
            return Ok(());
        }
        if is_early {
            return Ok(());
        }
        if let Err(errno) = self.settle_disk() {
            self.hold_for_disk(errno);
            return Ok(());
        }
        if self.index.is_dirty() {
            self.index.commit()?;
        }
        for file in std::mem::take(&mut self.outbox) {
            (self.events)(Event::Send(file));
        }
        Ok(())
    }

    fn settle_disk(&mut self) -> Result<(), Errno> {
        #[cfg(test)]
        super::tests::faults::sync(&self.config.root)?;
        self.kept.settle()?;
        if self.unsettled.has_failed() {
            return Err(Errno::IO);
        }
        self.unsettled.settle()
    }

    fn hold_for_disk(&mut self, errno: Errno) {
        self.unsettled.refused(errno);
        let said = Said(errno);
        self.hold_for(if self.unsettled.has_failed() {
            format!("the disk cannot be written: {said}; check it, then restart the daemon")
        } else {
            format!("the disk cannot be written: {said}; free space on it, or check it")
        });
        let until = Instant::now() + DISK_RETRY;
        self.unsettled.until = Some(until);
        self.next_root = until;
        self.root = None;
        self.report.changed();
    }

    /// Names in this directory are to be durable before the index says so.
    pub(super) fn touch(&mut self, dir: &Arc<Dir>) {
        if let Ok(meta) = dir.meta() {
            self.unsettled.directories.insert(meta.inode, Arc::clone(dir));
        }
    }

    /// Facts of an entry in this directory were changed in place.
    pub(super) fn touch_facts(&mut self, dir: &Arc<Dir>) {
        self.touch(dir);
        self.unsettled.facts = true;
    }
}
