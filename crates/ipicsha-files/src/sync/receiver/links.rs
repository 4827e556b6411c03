//! Several names of one file.
//!
//! Decides which name gets the content; the others are linked to it when it is there. Must not
//! receive bytes.

use std::sync::Arc;

use super::{
    Receiver,
    backup::Keep,
    decide::{Decision, Spot},
    files::Pending,
};
use crate::{
    error::{AtPath, Problem},
    meta::{Kind, Meta},
    path::RelativePath,
    place,
    sync::{
        channel::Channel,
        event::{Change, Item, Update},
        exit::Fatal,
        message::{Details, EntryId, ToReceiver, ToSender},
    },
};

/// All names of one file.
#[derive(Debug)]
pub(super) enum Group {
    /// The content is on its way; these names wait for it.
    Waiting(Vec<(EntryId, Spot, Details)>),
    /// It is here.
    There(Spot),
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    /// Whether the entry is a further name of a file that is here or on its way.
    pub(super) fn joins_group(
        &mut self,
        id: EntryId,
        spot: &Spot,
        details: &Details,
        existing: Option<&Meta>,
    ) -> Result<bool, Fatal> {
        let Some(identity) = details.identity.filter(|_| self.options.preserve.hard_links) else {
            return Ok(false);
        };
        match self.groups.get_mut(&identity) {
            None => Ok(false),
            Some(Group::Waiting(followers)) => {
                let waiting = Spot { dir: None, ..spot.clone() };
                followers.push((id, waiting, details.clone()));
                Ok(true)
            }
            Some(Group::There(leader)) => {
                let leader = leader.clone();
                self.link_or_tell(id, &leader, spot, details, existing)?;
                Ok(true)
            }
        }
    }

    /// The first name of a file is decided.
    pub(super) fn group_decided(
        &mut self,
        _id: EntryId,
        spot: &Spot,
        details: &Details,
        decision: Decision,
    ) {
        let Some(identity) = details.identity.filter(|_| self.options.preserve.hard_links) else {
            return;
        };
        let spot = Spot { dir: None, ..spot.clone() };
        let group = match decision {
            Decision::Settled => Group::There(spot),
            Decision::Waiting => Group::Waiting(Vec::new()),
            Decision::LeftOut => return,
        };
        self.groups.insert(identity, group);
    }

    /// The content of a file with several names is here.
    pub(super) fn leader_arrived(&mut self, _: EntryId, pending: &Pending) -> Result<(), Fatal> {
        let Some(identity) = pending.details.identity else { return Ok(()) };
        let leader = pending.spot.clone();
        let Some(Group::Waiting(followers)) =
            self.groups.insert(identity, Group::There(leader.clone()))
        else {
            return Ok(());
        };
        for (id, mut spot, details) in followers {
            let looked = self.look_again(&mut spot);
            match looked {
                Ok(existing) => {
                    self.link_or_tell(id, &leader, &spot, &details, existing.as_ref())?;
                }
                Err(problem) => self.problem(&problem),
            }
        }
        Ok(())
    }

    /// The content does not come under this name: the next name asks for it.
    pub(super) fn leader_failed(&mut self, _: EntryId, pending: &Pending) -> Result<(), Fatal> {
        let Some(identity) = pending.details.identity else { return Ok(()) };
        let Some(Group::Waiting(followers)) = self.groups.remove(&identity) else { return Ok(()) };
        for (id, mut spot, details) in followers {
            match self.look_again(&mut spot) {
                Ok(existing) => self.decide(id, &spot, &details, existing)?,
                Err(problem) => self.problem(&problem),
            }
        }
        self.ask()
    }

    fn look_again(&self, spot: &mut Spot) -> Result<Option<Meta>, Problem> {
        let dir = self.parent_dir(spot)?;
        let existing = dir.find(&spot.name).at("look at", &spot.path)?;
        spot.dir = Some(dir);
        Ok(existing)
    }

    fn link_or_tell(
        &mut self,
        id: EntryId,
        leader: &Spot,
        spot: &Spot,
        details: &Details,
        existing: Option<&Meta>,
    ) -> Result<(), Fatal> {
        match self.link(leader, spot, details, existing) {
            Ok(()) => self.saved(id),
            Err(problem) if problem.is_full() => Err(self.full(&problem)),
            Err(problem) => {
                self.problem(&problem);
                Ok(())
            }
        }
    }

    fn link(
        &mut self,
        leader: &Spot,
        spot: &Spot,
        details: &Details,
        existing: Option<&Meta>,
    ) -> Result<(), Problem> {
        let update = Update::HardLink;
        let Some(dir) = &spot.dir else {
            self.tell_link(
                spot,
                details,
                &leader.path,
                Change { update, new: true, ..Change::default() },
            );
            return Ok(());
        };
        let from = self.parent_dir(leader)?;
        let target = from.find(&leader.name).at("look at", &leader.path)?;
        if let (Some(existing), Some(target)) = (existing, &target)
            && existing.identity() == target.identity()
        {
            let item = Item::of(spot.path.clone(), details, Change { update, ..Change::default() });
            self.tell_item(item);
            return Ok(());
        }
        let existing = existing.filter(|meta| meta.kind == details.kind);
        let change = match existing {
            Some(meta) => {
                let node = self.held(dir, &spot.name);
                self.change(details, meta, node.as_ref(), update)
            }
            None => Change { update, new: true, ..Change::default() },
        };
        if !self.options.dry_run {
            let dir = Arc::clone(dir);
            if let Some(meta) = dir.find(&spot.name).at("look at", &spot.path)?
                && meta.kind == Kind::Directory
            {
                self.make_room(&dir, &spot.name, &spot.path, &meta)?;
            } else if existing.is_some() && self.options.backup {
                self.back_up(&dir, &spot.parent, &spot.name, Keep::Original)?;
            }
            let hold = place::hold_new(&dir, |name| from.hard_link(&leader.name, &dir, name));
            let hold = hold.at("link", &spot.path)?;
            dir.rename(hold.name(), &dir, &spot.name).at("rename", &spot.path)?;
            hold.release();
            self.changed_in(spot.directory);
        }
        if existing.is_none() {
            self.stats.created.add(details.kind);
        }
        self.tell_link(spot, details, &leader.path, change);
        Ok(())
    }

    fn tell_link(&mut self, spot: &Spot, details: &Details, leader: &RelativePath, change: Change) {
        let mut item = Item::of(spot.path.clone(), details, change);
        item.linked_to = Some(leader.clone());
        self.tell_item(item);
    }
}
