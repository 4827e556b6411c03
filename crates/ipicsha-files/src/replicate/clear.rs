//! A directory with something in it that is to become a file or a link.
//!
//! Decides that all of it goes to what is kept as a whole, and that the guard is asked as for
//! deletions. Must not know what takes its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    KeptReason,
    apply::Spot,
    engine::{Engine, Step, now_unix},
    guard::Verdict,
    row::Row,
};
use crate::{meta::Kind, path::RelativePath, place::is_temporary};

/// A held directory is judged again after this, if nothing is heard of it.
const AGAIN: Duration = Duration::from_secs(60);

/// Directories that the guard holds: files that would go, and when that was judged; `None` when it is
/// to be judged again.
#[derive(Debug, Default)]
pub(super) struct HeldTrees {
    by_path: BTreeMap<RelativePath, (u64, Option<Instant>)>,
}

impl HeldTrees {
    /// Files that would go with all of them.
    pub(super) fn files(&self) -> u64 {
        self.by_path.values().map(|(files, _)| files).sum()
    }

    fn holds(&self, path: &RelativePath) -> bool {
        self.by_path.get(path).is_some_and(|(_, judged)| judged.is_some())
    }

    /// Lets those be judged again that were judged long ago; whether there are some.
    fn release_old(&mut self, now: Instant) -> bool {
        let old = |judged: &Option<Instant>| judged.is_some_and(|at| now >= at + AGAIN);
        let released = self.by_path.values_mut().filter(|(_, judged)| old(judged));
        released.map(|(_, judged)| *judged = None).count() > 0
    }

    /// Something else is wanted of it, or nothing any more.
    pub(super) fn remove(&mut self, path: &RelativePath) {
        self.by_path.remove(path);
    }

    /// An administrator lets all of them go. Gives the number of files.
    pub(super) fn take(&mut self) -> u64 {
        std::mem::take(self).files()
    }
}

impl Engine {
    /// What the guard holds may be fewer by now.
    pub(super) fn see_held_trees(&mut self, now: Instant) {
        if self.held_trees.release_old(now) {
            self.fetch.wake();
        }
    }

    /// Whether a directory that is to become something else is out of the way.
    pub(super) fn clear_directory(&mut self, spot: &mut Spot) -> Step<Result<bool, Errno>> {
        let is_directory = spot.before.as_ref().is_some_and(|m| m.kind == Kind::Directory);
        if !is_directory {
            return Ok(Ok(true));
        }
        // Before everything was looked at, it is not known what would go.
        if !self.scan.once || self.held_trees.holds(&spot.path) {
            return Ok(Ok(false));
        }
        let mut beneath = BTreeSet::new();
        self.with_all_beneath(&spot.path, &mut beneath, |_| true)?;
        beneath.remove(&spot.path);
        for path in &beneath {
            let row = self.index.get(path.as_written())?;
            if row.is_some_and(|row| row.want.is_removal()) {
                // It goes by itself, and is kept by itself.
                return Ok(Ok(false));
            }
        }
        let (losses, now) = (self.losses(&beneath)?, Instant::now());
        if self.guard.may_delete(losses, self.index.counts.entries, now) == Verdict::Hold {
            self.held_trees.by_path.insert(spot.path.clone(), (losses, Some(now)));
            self.report.changed();
            return Ok(Ok(false));
        }
        if let Some(other) = self.unknown_beneath(&spot.path)? {
            // Rules leave it out, or nobody has seen it yet: it is no part of what may go.
            let problem = format!(
                "the directory that is here holds \"{other}\", which takes no part: move it away"
            );
            self.troubles.add(&spot.path, problem, now);
            self.scan.look_at(other);
            return Ok(Ok(false));
        }
        if let Err(errno) = self.put_aside(spot) {
            return Ok(Err(errno));
        }
        self.held_trees.remove(&spot.path);
        self.guard.done(losses, now);
        for path in &beneath {
            let row = self.index.get(path.as_written())?.unwrap_or_default();
            self.deleted_here(path, &row)?;
        }
        spot.before = None;
        Ok(Ok(true))
    }

    /// Something in a directory of which the index knows nothing.
    fn unknown_beneath(&mut self, path: &RelativePath) -> Step<Option<RelativePath>> {
        let Some(root) = self.root.clone() else { return Ok(Some(path.clone())) };
        let mut open = vec![path.clone()];
        while let Some(at) = open.pop() {
            let Ok(listed) = root.dir(&at).and_then(|dir| dir.list()) else {
                return Ok(Some(at));
            };
            for one in listed.into_iter().filter(|one| !is_temporary(one.name.as_bytes())) {
                let Ok(path) = at.join(&one.name) else { return Ok(Some(at)) };
                let row = self.index.get(path.as_written())?.filter(Row::is_present);
                match row.and_then(|row| row.own) {
                    None => return Ok(Some(path)),
                    Some(own) if own.version.contents.is_directory() => open.push(path),
                    Some(_) => {}
                }
            }
        }
        Ok(None)
    }

    /// What is there goes to what is kept.
    pub(super) fn put_aside(&mut self, spot: &Spot) -> Result<(), Errno> {
        if spot.dir.remove_dir(&spot.name).is_ok() {
            return Ok(());
        }
        let reason = match self.reason(spot) {
            Some(reason) => reason,
            None => KeptReason::Replaced,
        };
        let entry = self.kept.put(&spot.dir, &spot.name, &spot.path, reason, now_unix())?;
        self.tell_kept(entry);
        Ok(())
    }
}
