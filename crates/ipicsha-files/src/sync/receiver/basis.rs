//! Other directories that may have what is missing (`--link-dest`, `--copy-dest`,
//! `--compare-dest`).
//!
//! Decides which of them is nearest to an entry. Must not know the sender.

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    Receiver, backup,
    decide::{Decision, Spot},
};
use crate::{
    error::{AtPath, Problem, Said},
    meta::Meta,
    path::{Name, RelativePath, escape},
    place,
    resolve::{Dir, Links, Root},
    sync::{
        Event,
        channel::Channel,
        event::{Change, Item, Update},
        message::{Details, ToReceiver, ToSender},
        options::BasisUse,
    },
};

/// One of the other directories.
#[derive(Debug)]
pub(super) struct Basis {
    root: Root,
}

/// An entry of another directory that may serve.
struct Candidate {
    dir: Arc<Dir>,
    meta: Meta,
    /// What would differ besides the content.
    change: Change,
    /// Whether the content is equal.
    same: bool,
}

/// What the other directories give for an entry that is no file.
pub(super) enum FromBasis {
    /// Nothing has to be made.
    Settled,
    /// It is made, and differs so much from the nearest one.
    Near(Change),
    /// They have nothing of that kind.
    Nothing,
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    pub(super) fn open_basis(&mut self) {
        let Some((_, paths)) = &self.options.basis else { return };
        for path in paths {
            let full = self.options.territory.join(&self.destination.path, path);
            match self.options.territory.open(&full, Links::Refuse) {
                Ok(root) => self.basis.push(Basis { root }),
                Err(errno) => {
                    let shown = escape(path);
                    let text =
                        format!("cannot use the other directory \"{shown}\": {}", Said(errno));
                    self.report.event(Event::Notice(text));
                }
            }
        }
    }

    /// Entries of that kind at the same place in the other directories; the nearest one comes first.
    fn candidates(
        &self,
        path: &RelativePath,
        details: &Details,
        same: impl Fn(&Dir, &Name, &Meta) -> bool,
    ) -> Vec<Candidate> {
        let Some((parent, name)) = path.split() else { return Vec::new() };
        let look = |basis: &Basis| {
            let dir = basis.root.dir(&parent).ok()?;
            let meta = dir.entry(&name).ok().filter(|meta| meta.kind == details.kind)?;
            let node = self.held(&dir, &name);
            let change = self.change(details, &meta, node.as_ref(), Update::None);
            let same = same(&dir, &name, &meta);
            Some(Candidate { dir, meta, change, same })
        };
        let mut found: Vec<Candidate> = self.basis.iter().filter_map(look).collect();
        // The order in which they were named decides between equally near ones.
        found.sort_by_key(|found| (!found.same, found.change.is_significant()));
        found
    }

    /// A file that another directory has; `None` when it has to come from the sender.
    pub(super) fn file_from_basis(
        &mut self,
        spot: &Spot,
        details: &Details,
        existing: Option<&Meta>,
    ) -> Result<Option<Decision>, Problem> {
        let Some((wanted, _)) = &self.options.basis else { return Ok(None) };
        let wanted = *wanted;
        // A copy is not made in place of a file that is there.
        if existing.is_some() && wanted == BasisUse::Copy {
            return Ok(None);
        }
        let same = |dir: &Dir, name: &Name, meta: &Meta| {
            self.is_same_content(details, dir, name, meta).unwrap_or(false)
        };
        let candidates = self.candidates(&spot.path, details, same);
        let Some(found) = candidates.into_iter().next().filter(|found| found.same) else {
            return Ok(None);
        };
        let equal = !found.change.is_significant();
        let update = match (wanted, equal) {
            (_, false) if existing.is_some() => return Ok(None),
            (BasisUse::Compare, true) => {
                self.remove_equal(spot, existing)?;
                Update::None
            }
            (BasisUse::Link, true) => {
                let linked = existing.is_some_and(|meta| meta.identity() == found.meta.identity());
                if !linked && !self.link_from_basis(spot, &found)? {
                    self.copy_from_basis(spot, details, &found)?;
                }
                Update::HardLink
            }
            (BasisUse::Compare | BasisUse::Link | BasisUse::Copy, _) => {
                self.copy_from_basis(spot, details, &found)?;
                Update::Local
            }
        };
        let change = Change { update, ..found.change };
        self.tell_item(Item::of(spot.path.clone(), details, change));
        Ok(Some(Decision::Settled))
    }

    /// What is equal in a directory to compare with is not kept here.
    fn remove_equal(&mut self, spot: &Spot, existing: Option<&Meta>) -> Result<(), Problem> {
        let Some(dir) = spot.dir.as_ref().filter(|_| existing.is_some() && !self.options.dry_run)
        else {
            return Ok(());
        };
        dir.remove_file(&spot.name).at("remove", &spot.path)?;
        self.changed_in(spot.directory);
        Ok(())
    }

    /// A link, pipe or device that the destination lacks: whether nothing has to be made, and else
    /// what differs from the nearest one.
    pub(super) fn other_from_basis(
        &mut self,
        spot: &Spot,
        details: &Details,
        same: impl Fn(&Dir, &Name, &Meta) -> bool,
    ) -> Result<FromBasis, Problem> {
        let Some((wanted, _)) = &self.options.basis else { return Ok(FromBasis::Nothing) };
        let wanted = *wanted;
        let candidates = self.candidates(&spot.path, details, same);
        let Some(found) = candidates.into_iter().next() else { return Ok(FromBasis::Nothing) };
        let content = Change { content: !found.same, ..found.change };
        if !found.same || found.change.is_significant() || wanted == BasisUse::Copy {
            return Ok(FromBasis::Near(content));
        }
        if wanted == BasisUse::Link && !self.link_from_basis(spot, &found)? {
            return Ok(FromBasis::Near(content));
        }
        let update = if wanted == BasisUse::Link { Update::HardLink } else { Update::None };
        let change = Change { update, ..found.change };
        self.tell_item(Item::of(spot.path.clone(), details, change));
        Ok(FromBasis::Settled)
    }

    /// What differs from the nearest entry of that kind in the other directories.
    pub(super) fn nearest_change(&self, path: &RelativePath, details: &Details) -> Option<Change> {
        if path.is_root() {
            let of = |basis: &Basis| {
                let top = basis.root.top();
                let node = top.node().ok();
                Some(self.change(details, &top.meta().ok()?, node.as_ref(), Update::None))
            };
            let mut changes: Vec<Change> = self.basis.iter().filter_map(of).collect();
            changes.sort_by_key(Change::is_significant);
            return changes.first().copied();
        }
        let candidates = self.candidates(path, details, |_, _, _| true);
        candidates.first().map(|found| found.change)
    }

    /// Whether it could be linked: not across file systems.
    fn link_from_basis(&mut self, spot: &Spot, found: &Candidate) -> Result<bool, Problem> {
        let Some((dir, name)) = self.to_be_made(spot) else { return Ok(true) };
        let hold = place::hold_new(&dir, |temporary| found.dir.hard_link(&name, &dir, temporary));
        let hold = match hold {
            Ok(hold) => hold,
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => return Ok(false),
            Err(errno) => return Err(Problem::new("link", spot.path.clone(), errno)),
        };
        dir.rename(hold.name(), &dir, &spot.name).at("rename", &spot.path)?;
        hold.release();
        self.changed_in(spot.directory);
        Ok(true)
    }

    fn copy_from_basis(
        &mut self,
        spot: &Spot,
        details: &Details,
        found: &Candidate,
    ) -> Result<(), Problem> {
        let Some((dir, name)) = self.to_be_made(spot) else { return Ok(()) };
        backup::copy(&found.dir, &name, &dir, &spot.name, &found.meta).at("copy", &spot.path)?;
        let node = dir.hold(&spot.name).at("hold", &spot.path)?;
        let now = Meta::of(node.fd()).at("look at", &spot.path)?;
        let unset = self.facts(details, Some(&now)).apply(&node, &now);
        self.tell_unset(&spot.path, unset);
        self.stats.created.add(details.kind);
        self.changed_in(spot.directory);
        Ok(())
    }

    /// Where an entry is to be made, and its name in the other directories; nothing in a dry run.
    fn to_be_made(&self, spot: &Spot) -> Option<(Arc<Dir>, Name)> {
        let dir = spot.dir.as_ref().filter(|_| !self.options.dry_run)?;
        Some((Arc::clone(dir), spot.path.name()?))
    }
}
