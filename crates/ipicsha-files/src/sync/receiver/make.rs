//! Links, pipes, sockets and devices: made under a temporary name, then renamed.
//!
//! Decides when one is equal. Must not know regular files.

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    Receiver,
    backup::Keep,
    basis::FromBasis,
    decide::{Decision, Spot},
};
use crate::{
    error::{AtPath, Problem},
    meta::{Kind, Meta},
    path::Name,
    place,
    resolve::Dir,
    sync::{
        channel::Channel,
        event::{Change, Item, Update},
        message::{Details, ToReceiver, ToSender},
    },
};

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    pub(super) fn symlink(
        &mut self,
        spot: &Spot,
        details: &Details,
        existing: Option<Meta>,
    ) -> Result<Decision, Problem> {
        let Some(target) = self.link_target(spot, details) else { return Ok(Decision::LeftOut) };
        let existing = self.only_kind(spot, existing, |kind| kind != Kind::Directory)?;
        if let (Some(dir), Some(meta)) = (&spot.dir, &existing)
            && meta.kind == Kind::Symlink
            && dir.read_link(&spot.name).at("read the link", &spot.path)? == target
        {
            self.mend(spot, details, meta)?;
            return Ok(Decision::Settled);
        }
        let same = |dir: &Dir, name: &Name, meta: &Meta| {
            meta.kind == Kind::Symlink && dir.read_link(name).is_ok_and(|link| link == target)
        };
        let Some(near) = self.near(spot, details, existing.as_ref(), same)? else {
            return Ok(Decision::Settled);
        };
        self.make(spot, details, existing, near, |dir, name| dir.make_symlink(name, target))
    }

    pub(super) fn device(
        &mut self,
        spot: &Spot,
        details: &Details,
        existing: Option<Meta>,
    ) -> Result<Decision, Problem> {
        let existing = self.only_kind(spot, existing, |kind| kind != Kind::Directory)?;
        let is_same = |meta: &Meta| {
            meta.kind == details.kind && (details.kind.is_special() || meta.node == details.device)
        };
        if let Some(meta) = existing.as_ref().filter(|meta| is_same(meta)) {
            self.mend(spot, details, meta)?;
            return Ok(Decision::Settled);
        }
        let same = |_: &Dir, _: &Name, meta: &Meta| is_same(meta);
        let Some(near) = self.near(spot, details, existing.as_ref(), same)? else {
            return Ok(Decision::Settled);
        };
        let mode = self.wanted_mode(details, None).unwrap_or_default();
        self.make(spot, details, existing, near, |dir, name| {
            dir.make_node(name, details.kind, mode & 0o777, details.device)
        })
    }

    /// What is told of an entry that has to be made; `None` when another directory gives it.
    fn near(
        &mut self,
        spot: &Spot,
        details: &Details,
        existing: Option<&Meta>,
        same: impl Fn(&Dir, &Name, &Meta) -> bool,
    ) -> Result<Option<Change>, Problem> {
        let new = Change { new: true, ..Change::default() };
        if existing.is_some() {
            return Ok(Some(new));
        }
        Ok(match self.other_from_basis(spot, details, same)? {
            FromBasis::Settled => None,
            FromBasis::Near(change) => Some(change),
            FromBasis::Nothing => Some(new),
        })
    }

    /// Makes an entry in the place of what may be there.
    fn make(
        &mut self,
        spot: &Spot,
        details: &Details,
        existing: Option<Meta>,
        near: Change,
        make: impl Fn(&Dir, &Name) -> Result<(), Errno>,
    ) -> Result<Decision, Problem> {
        let change = match existing.as_ref().filter(|meta| meta.kind == details.kind) {
            Some(meta) => {
                let change = self.change(details, meta, None, Update::Local);
                Change { content: true, ..change }
            }
            None => Change { update: Update::Local, ..near },
        };
        let item = Item::of(spot.path.clone(), details, change);
        if let Some(dir) = spot.dir.as_ref().filter(|_| !self.options.dry_run) {
            self.make_there(spot, dir, details, existing.as_ref(), make)?;
        }
        if existing.is_none() {
            self.stats.created.add(details.kind);
        }
        self.tell_item(item);
        Ok(Decision::Settled)
    }

    fn make_there(
        &mut self,
        spot: &Spot,
        dir: &Arc<Dir>,
        details: &Details,
        existing: Option<&Meta>,
        make: impl Fn(&Dir, &Name) -> Result<(), Errno>,
    ) -> Result<(), Problem> {
        let hold = place::hold_new(dir, |name| make(dir, name)).at("make", &spot.path)?;
        let facts = self.facts(details, None);
        let node = dir.hold(hold.name()).at("hold", &spot.path)?;
        let now = Meta::of(node.fd()).at("look at", &spot.path)?;
        let unset = facts.apply(&node, &now);
        self.tell_unset(&spot.path, unset);
        if existing.is_some() && self.options.backup {
            self.back_up(dir, &spot.parent, &spot.name, Keep::Original)?;
        }
        dir.rename(hold.name(), dir, &spot.name).at("rename", &spot.path)?;
        hold.release();
        self.changed_in(spot.directory);
        Ok(())
    }
}
