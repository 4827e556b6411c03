//! Regular files: equal, to be mended, or to be asked for.
//!
//! Decides what is asked of the sender, and gives finished files their names. Must not receive bytes.

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    Receiver,
    decide::{Decision, Spot},
    old::Old,
};
use crate::{
    delta,
    error::{AtPath, Problem},
    meta::{Kind, Meta},
    path::{Name, RelativePath},
    place::Ready,
    resolve::Dir,
    sync::{
        channel::Channel,
        event::{Change, Item, Update},
        exit::Fatal,
        message::{Details, EntryId, ToReceiver, ToSender, Want},
    },
};

/// A file whose content is asked for.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) spot: Spot,
    pub(super) details: Details,
    pub(super) existing: Option<Meta>,
    /// What it is made from, when the difference is asked for.
    pub(super) old: Option<Old>,
    pub(super) want: Want,
    /// What it is written over is kept already.
    pub(super) backed_up: bool,
}

/// A finished file that gets its name at the end.
#[derive(Debug)]
pub(super) struct Delayed {
    spot: Spot,
    id: EntryId,
    temporary: Name,
    replaces: bool,
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    pub(super) fn file(
        &mut self,
        id: EntryId,
        spot: &Spot,
        details: &Details,
        existing: Option<Meta>,
    ) -> Result<Decision, Problem> {
        let existing = self.only_kind(spot, existing, |kind| kind == Kind::File)?;
        let decision = self.file_from_basis(spot, details, existing.as_ref())?;
        if let Some(decision) = decision {
            return Ok(decision);
        }
        if let (Some(dir), Some(meta)) = (&spot.dir, &existing) {
            let same = self.is_same_content(details, dir, &spot.name, meta);
            if same.at("compare", &spot.path)? {
                self.mend(spot, details, meta)?;
                return Ok(Decision::Settled);
            }
            if self.options.append.is_some() && meta.size >= details.size {
                return Ok(Decision::LeftOut);
            }
        }
        self.want(id, spot, details, existing)
    }

    /// What exists when it is of a fitting kind; anything else makes room.
    pub(super) fn only_kind(
        &mut self,
        spot: &Spot,
        existing: Option<Meta>,
        fits: impl Fn(Kind) -> bool,
    ) -> Result<Option<Meta>, Problem> {
        match (&spot.dir, existing) {
            (Some(dir), Some(meta)) if !fits(meta.kind) => {
                if !self.options.dry_run {
                    let dir = Arc::clone(dir);
                    self.make_room(&dir, &spot.name, &spot.path, &meta)?;
                    self.changed_in(spot.directory);
                }
                Ok(None)
            }
            (_, existing) => Ok(existing),
        }
    }

    /// The content is equal; the facts are made equal.
    pub(super) fn mend(
        &mut self,
        spot: &Spot,
        details: &Details,
        existing: &Meta,
    ) -> Result<(), Problem> {
        let Some(dir) = &spot.dir else { return Ok(()) };
        let node = self.held(dir, &spot.name);
        let change = self.change(details, existing, node.as_ref(), Update::None);
        self.tell_item(Item::of(spot.path.clone(), details, change));
        if self.options.dry_run {
            return Ok(());
        }
        let facts = self.facts_to_mend(details, existing);
        let needed = change.access_lists
            || change.extended
            || facts.uid.is_some_and(|uid| uid != existing.uid)
            || facts.gid.is_some_and(|gid| gid != existing.gid)
            || facts.mode.is_some_and(|mode| mode != existing.mode)
            || facts.mtime.is_some_and(|mtime| mtime != existing.mtime);
        if needed {
            let node = match node {
                Some(node) => node,
                None => dir.hold(&spot.name).at("hold", &spot.path)?,
            };
            let unset = facts.apply(&node, existing);
            self.tell_unset(&spot.path, unset);
        }
        Ok(())
    }

    /// Asks for the content.
    pub(super) fn want(
        &mut self,
        id: EntryId,
        spot: &Spot,
        details: &Details,
        existing: Option<Meta>,
    ) -> Result<Decision, Problem> {
        let change = match (&spot.dir, &existing) {
            (Some(dir), Some(meta)) => {
                let node = self.held(dir, &spot.name);
                let change = self.change(details, meta, node.as_ref(), Update::Transfer);
                Change { content: self.options.checksum, ..change }
            }
            _ => match self.nearest_change(&spot.path, details) {
                Some(change) => Change { update: Update::Transfer, ..change },
                None => Change { update: Update::Transfer, new: true, ..Change::default() },
            },
        };
        let item = Item::of(spot.path.clone(), details, change);
        if self.options.dry_run {
            self.count_transfer(details, existing.is_none());
            self.tell_item(item);
            return Ok(Decision::Settled);
        }
        self.progress.planned_bytes = self.progress.planned_bytes.saturating_add(details.size);
        self.outputs.wait(id, item);
        let (want, old) = self.way(spot, details, existing.as_ref());
        let spot = Spot { dir: None, ..spot.clone() };
        let details = details.clone();
        let pending = Pending { spot, details, existing, old: None, want, backed_up: false };
        self.wants.push((id, want));
        self.pending.insert(id, pending);
        if let Some(old) = old {
            let sent = self.send_sums(id, old, want);
            let old = sent.map_err(|_| gone(&RelativePath::root()))?;
            if let Some(pending) = self.pending.get_mut(&id) {
                pending.old = Some(old);
            }
        }
        Ok(Decision::Waiting)
    }

    /// Whether all of a file is asked for, its end, or the difference.
    fn way(&self, spot: &Spot, details: &Details, existing: Option<&Meta>) -> (Want, Option<Old>) {
        use crate::sync::options::Append;
        let (Some(dir), Some(existing)) = (&spot.dir, existing) else { return (Want::Whole, None) };
        if self.options.append == Some(Append::Trust) {
            return (Want::From(existing.size), None);
        }
        let verify = self.options.append == Some(Append::Verify);
        let asked = self.options.whole_file == Some(false);
        let worthwhile = delta::is_worthwhile(existing.size, details.size);
        if existing.size == 0 || !(verify || asked && worthwhile) {
            return (Want::Whole, None);
        }
        let size = existing.size;
        let wanted = self.options.block_bytes.unwrap_or_else(|| delta::block_bytes(size));
        let block_bytes = delta::bearable_block_bytes(wanted, size);
        match (block_bytes, dir.open_file(&spot.name)) {
            (Some(block_bytes), Ok(file)) => {
                (Want::Delta { block_bytes, size }, Some(Old::new(file, block_bytes)))
            }
            // It cannot be read, or is longer than can be compared: no basis.
            _ => (Want::Whole, None),
        }
    }

    pub(super) fn count_transfer(&mut self, details: &Details, new: bool) {
        self.stats.transferred += 1;
        let stats = &mut self.stats;
        stats.transferred_bytes = stats.transferred_bytes.saturating_add(details.size);
        if new {
            self.stats.created.add(details.kind);
        }
    }

    /// A finished file gets its name.
    pub(super) fn give_name(
        &mut self,
        id: EntryId,
        pending: &Pending,
        ready: Ready,
    ) -> Result<(), Problem> {
        let spot = &pending.spot;
        if self.options.fsync {
            ready.sync().at("sync", &spot.path)?;
        }
        if self.options.delay_updates {
            let temporary = ready.release();
            let replaces = pending.existing.is_some();
            self.delayed.push(Delayed { spot: spot.clone(), id, temporary, replaces });
            return Ok(());
        }
        let dir = Arc::clone(ready.dir());
        if pending.existing.is_some() {
            self.back_up_before_replacing(&dir, spot)?;
        }
        ready.replace(&spot.name).at("rename", &spot.path)?;
        if self.options.fsync {
            dir.sync().at("sync", &spot.parent)?;
        }
        self.changed_in(spot.directory);
        Ok(())
    }

    fn back_up_before_replacing(&mut self, dir: &Arc<Dir>, spot: &Spot) -> Result<(), Problem> {
        if !self.options.backup {
            return Ok(());
        }
        self.back_up(dir, &spot.parent, &spot.name, super::backup::Keep::Original)
    }

    /// Updates that waited get their names, one right after the other.
    pub(super) fn place_delayed(&mut self) -> Result<(), Fatal> {
        for delayed in std::mem::take(&mut self.delayed) {
            let Delayed { spot, id, temporary, replaces } = delayed;
            let placed = self.place_one(&spot, &temporary, replaces);
            match placed {
                Ok(()) => {
                    self.changed_in(spot.directory);
                    self.saved(id)?;
                }
                Err(problem) => self.problem(&problem),
            }
        }
        Ok(())
    }

    fn place_one(&mut self, spot: &Spot, temporary: &Name, replaces: bool) -> Result<(), Problem> {
        let dir = self.parent_dir(spot)?;
        if replaces {
            self.back_up_before_replacing(&dir, spot)?;
        }
        dir.rename(temporary, &dir, &spot.name).at("rename", &spot.path)
    }

    /// It ends early: nothing is left of updates that waited.
    pub(super) fn drop_delayed(&mut self) {
        for delayed in std::mem::take(&mut self.delayed) {
            if let Ok(dir) = self.parent_dir(&delayed.spot) {
                // Nobody is left to be told.
                let _ = dir.remove_file(&delayed.temporary);
            }
        }
    }

    /// The directory that an entry belongs in.
    pub(super) fn parent_dir(&self, spot: &Spot) -> Result<Arc<Dir>, Problem> {
        let root = self.root().ok_or_else(|| gone(&spot.parent))?;
        root.dir(&spot.parent).at("open", &spot.parent)
    }
}

fn gone(path: &RelativePath) -> Problem {
    Problem::new("open", path.clone(), Errno::NOENT)
}
