//! One entry after the other: is it there, is it equal, what is to be done.
//!
//! Decides by kind. Must not read contents.

use std::sync::Arc;

use super::{Receiver, directory::Presence};
use crate::{
    attributes::Attributes,
    error::{AtPath, Problem},
    meta::{Kind, Meta},
    path::{Name, RelativePath},
    resolve::Dir,
    sync::{
        Event,
        channel::Channel,
        event::Skipped,
        exit::{Exit, Fatal},
        message::{Details, Entry, EntryId, ToReceiver, ToSender},
        safe_link,
    },
};

/// Where an entry belongs.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// In the transfer.
    pub(super) path: RelativePath,
    /// The directory it is in.
    pub(super) parent: RelativePath,
    /// The name it gets there.
    pub(super) name: Name,
    /// That directory; `None` when it does not exist in a dry run.
    pub(super) dir: Option<Arc<Dir>>,
    /// Its number among the directories whose facts are set at the end.
    pub(super) directory: Option<usize>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is there, or would be.
    Settled,
    /// Its content is asked for.
    Waiting,
    /// It is left out.
    LeftOut,
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    /// One entry that is no directory.
    pub(super) fn entry(&mut self, id: EntryId, entry: Entry) -> Result<(), Fatal> {
        let Entry { name, mut details } = entry;
        self.stats.entries.add(details.kind);
        let size = if details.kind == Kind::Directory { 0 } else { details.size };
        self.stats.total_bytes = self.stats.total_bytes.saturating_add(size);
        self.progress.entries += 1;
        self.progress.checked += 1;
        let Some(current) = self.stack.last_mut() else {
            return Err(Fatal::new(Exit::Protocol, "an entry came before its directory"));
        };
        if self.options.delete.is_some() {
            current.names.insert(name.clone());
        }
        let (parent, presence) = (current.path.clone(), current.presence);
        let directory = current.retouch;
        let path = match parent.join(&name) {
            Ok(path) => path,
            Err(error) => {
                self.trouble(format!("\"{parent}/{name}\" cannot be transferred: {error}"));
                return Ok(());
            }
        };
        if !self.may_be_made(&path, &mut details) {
            return Ok(());
        }
        let name = self.destination.rename.clone().unwrap_or(name);
        let fresh = match presence {
            Presence::Skipped => return Ok(()),
            Presence::Missing => true,
            Presence::There { fresh } => fresh,
        };
        let dir = match (presence, self.root()) {
            (Presence::There { .. }, Some(root)) => root.dir(&parent).at("open", &parent).map(Some),
            _ => Ok(None),
        };
        let looked = dir.and_then(|dir| {
            let existing = match &dir {
                Some(dir) if !fresh => dir.find(&name).at("look at", &path)?,
                _ => None,
            };
            Ok((Spot { path, parent, name, dir, directory }, existing))
        });
        match looked {
            Ok((spot, Some(_)))
                if spot
                    .dir
                    .as_ref()
                    .is_some_and(|dir| self.is_own(dir, &spot.name, &spot.path)) =>
            {
                Ok(())
            }
            Ok((spot, existing)) => self.decide(id, &spot, &details, existing),
            Err(problem) => {
                self.problem(&problem);
                Ok(())
            }
        }
    }

    /// Somebody else's files get no power here that their content does not have. Whether the entry
    /// may be made at all.
    pub(super) fn may_be_made(&mut self, path: &RelativePath, details: &mut Details) -> bool {
        if !self.options.territory.is_confined() {
            return true;
        }
        if details.kind.is_device() && self.options.preserve.devices {
            self.trouble(format!("\"{path}\" is a device, which is not made for a partner"));
            return false;
        }
        if details.kind == Kind::File && details.mode & 0o6000 != 0 && self.options.preserve.perms {
            details.mode &= !0o6000;
            let text = format!("\"{path}\" would run as its owner, which is not set for a partner");
            self.trouble(text);
        }
        if details.extended.as_mut().is_some_and(Attributes::keep_only_of_users) {
            let text =
                format!("\"{path}\" has attributes of the system, which are not set for a partner");
            self.trouble(text);
        }
        true
    }

    pub(super) fn decide(
        &mut self,
        id: EntryId,
        spot: &Spot,
        details: &Details,
        existing: Option<Meta>,
    ) -> Result<(), Fatal> {
        if self.is_quietly_left_out(spot, details, existing.as_ref()) {
            return Ok(());
        }
        if self.joins_group(id, spot, details, existing.as_ref())? {
            return Ok(());
        }
        let decided = self.by_kind(id, spot, details, existing);
        let decision = match decided {
            Ok(decision) => decision,
            Err(problem) if problem.is_full() => return Err(self.full(&problem)),
            Err(problem) => {
                self.problem(&problem);
                Decision::LeftOut
            }
        };
        if decision == Decision::Settled {
            self.saved(id)?;
        }
        self.group_decided(id, spot, details, decision);
        Ok(())
    }

    fn by_kind(
        &mut self,
        id: EntryId,
        spot: &Spot,
        details: &Details,
        existing: Option<Meta>,
    ) -> Result<Decision, Problem> {
        let preserve = self.options.preserve;
        let kind = details.kind;
        let is_device = kind.is_special() && preserve.specials
            || kind.is_device() && preserve.devices && self.owners.is_privileged();
        if kind == Kind::File {
            self.file(id, spot, details, existing)
        } else if kind == Kind::Symlink && preserve.links {
            self.symlink(spot, details, existing)
        } else if is_device {
            self.device(spot, details, existing)
        } else {
            let skipped = Skipped::NotRegular(spot.path.clone());
            self.report.event(Event::Skipped(skipped));
            Ok(Decision::LeftOut)
        }
    }

    /// A full disk ends everything: nothing else would fit either.
    pub(super) fn full(&self, problem: &Problem) -> Fatal {
        Fatal::new(Exit::FileIo, format!("{problem}: free some space and try again"))
    }

    fn is_quietly_left_out(
        &mut self,
        spot: &Spot,
        details: &Details,
        existing: Option<&Meta>,
    ) -> bool {
        let options = self.options;
        let path = &spot.path;
        let file = details.kind == Kind::File;
        let newer = |existing: &Meta| {
            let seconds = details.mtime.seconds.saturating_sub(existing.mtime.seconds);
            match options.modify_window {
                window if window < 0 => details.mtime < existing.mtime,
                window => seconds < -window,
            }
        };
        let text = if options.existing && existing.is_none() {
            format!("not creating new file \"{path}\"")
        } else if options.ignore_existing && existing.is_some() {
            format!("{path} exists")
        } else if file && options.max_size.is_some_and(|most| details.size > most) {
            format!("{path} is over max-size")
        } else if file && options.min_size.is_some_and(|least| details.size < least) {
            format!("{path} is under min-size")
        } else if file && options.update && existing.is_some_and(newer) {
            format!("{path} is newer")
        } else {
            return false;
        };
        self.report.event(Event::Skipped(Skipped::Quietly(text)));
        true
    }

    /// The target of a link, when it may be made.
    pub(super) fn link_target<'d>(
        &mut self,
        spot: &Spot,
        details: &'d Details,
    ) -> Option<&'d [u8]> {
        let target = details.target.as_deref()?;
        if self.options.safe_links && safe_link::is_unsafe(&spot.path, target) {
            let skipped = Skipped::UnsafeLink { path: spot.path.clone(), target: target.to_vec() };
            self.report.event(Event::Skipped(skipped));
            return None;
        }
        Some(target)
    }
}
