//! Directories: entered, made, left, and given their facts at the very end.
//!
//! Decides what becomes of what is beneath a directory that could not be made. Must not look at
//! files.

use std::{collections::HashSet, sync::Arc};

use rustix::io::Errno;

use super::{Receiver, remove::Listing};
use crate::{
    Facts,
    error::{AtPath, Problem},
    filter::{Half, Level},
    marker,
    meta::{Kind, Meta, Node},
    path::{Name, RelativePath},
    resolve::{Dir, Root},
    sync::{
        Event,
        channel::Channel,
        event::{Change, Item, Skipped, Update},
        exit::{Exit, Fatal},
        message::{Details, Listed, ToReceiver, ToSender},
        options::Delete,
    },
};

/// Whether a directory of the transfer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is.
    There {
        /// It was made just now, so that nothing is in it.
        fresh: bool,
    },
    /// It would be made: nothing is in it.
    Missing,
    /// Something is wrong with it, or it is left out: nothing beneath it is done.
    Skipped,
}

/// A directory that is being gone through.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) path: RelativePath,
    pub(super) presence: Presence,
    /// Rules of what may be deleted.
    pub(super) level: Option<Level>,
    /// What the source has; kept only when something may be deleted.
    pub(super) names: HashSet<Name>,
    /// Its place among the directories whose facts are set at the end.
    pub(super) retouch: Option<usize>,
}

/// Facts of a directory that are set when nothing in it changes any more.
#[derive(Debug)]
pub(super) struct Retouch {
    path: RelativePath,
    facts: Facts,
    needed: bool,
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    /// A directory begins.
    pub(super) fn enter_dir(
        &mut self,
        path: RelativePath,
        details: Option<Details>,
    ) -> Result<(), Fatal> {
        while self.stack.last().is_some_and(|top| path == top.path || !path.is_within(&top.path)) {
            self.stack.pop();
        }
        let mut details = details;
        if let Some(details) = &mut details {
            self.may_be_made(&path, details);
            self.stats.entries.add(details.kind);
            self.progress.entries += 1;
            self.progress.checked += 1;
        }
        let above = self.stack.last().map(|top| (top.presence, top.level.clone()));
        let entered = match (&above, path.is_root()) {
            (_, true) => self.enter_root(details.as_ref()),
            (Some((Presence::Skipped, _)), _) => Ok((Presence::Skipped, None)),
            (Some((Presence::Missing, _)), _) => {
                if let Some(details) = &details {
                    self.tell_new(&path, details);
                }
                Ok((Presence::Missing, None))
            }
            (Some((Presence::There { .. }, _)), _) => self.enter_below(&path, details.as_ref()),
            (None, false) => return Err(out_of_order()),
        };
        let (presence, retouch) = entered.unwrap_or_else(|problem| {
            self.problem(&problem);
            (Presence::Skipped, None)
        });
        let level = self.level(&path, presence, above.and_then(|(_, level)| level));
        self.stack.push(Current { path, presence, level, names: HashSet::new(), retouch });
        Ok(())
    }

    /// The rules for what may be deleted in a directory.
    fn level(
        &mut self,
        path: &RelativePath,
        presence: Presence,
        above: Option<Level>,
    ) -> Option<Level> {
        self.options.delete?;
        let level = above.unwrap_or_else(|| {
            let root = self.options.territory.absolute(&self.destination.path);
            Level::new(&self.options.rules, Half::Receiver, &root)
        });
        // Afterwards the files with rules are read again, because they may have been transferred.
        let later = self.options.delete == Some(Delete::After);
        if later || !level.reads_directories() || !matches!(presence, Presence::There { .. }) {
            return Some(level);
        }
        let Some(dir) = self.root().and_then(|root| root.dir(path).ok()) else {
            return Some(level);
        };
        Some(self.enter_level(&level, path, &dir))
    }

    pub(super) fn enter_level(&mut self, level: &Level, path: &RelativePath, dir: &Dir) -> Level {
        if !level.reads_directories() {
            return level.clone();
        }
        let read = |name: &Name| crate::sync::read_merge_file(dir, name);
        let (level, errors) = level.enter(path, read);
        for error in errors {
            self.trouble(format!("in \"{path}\" of the destination: {error}"));
        }
        level
    }

    fn enter_root(
        &mut self,
        details: Option<&Details>,
    ) -> Result<(Presence, Option<usize>), Problem> {
        let path = RelativePath::root();
        let created = self.destination.created;
        let Some(root) = self.root().map(Arc::clone) else {
            if let Some(details) = details {
                self.tell_new(&path, details);
            }
            return Ok((Presence::Missing, None));
        };
        let presence = Presence::There { fresh: created && self.destination.rename.is_none() };
        let Some(details) = details else { return Ok((presence, None)) };
        let dir = root.top();
        let existing = dir.meta().at("look at", &path)?;
        if created {
            self.tell_new_dir(&path, details);
        } else {
            self.tell_changed(&path, details, &existing, dir.node().ok().as_ref());
        }
        let retouch = self.retouch_later(&path, details, &existing, created);
        self.make_usable(&existing, &|mode| dir.node()?.set_mode(mode));
        Ok((presence, retouch))
    }

    fn enter_below(
        &mut self,
        path: &RelativePath,
        details: Option<&Details>,
    ) -> Result<(Presence, Option<usize>), Problem> {
        // The caller has seen that it is not the root.
        let Some(((above, name), root)) = path.split().zip(self.root().map(Arc::clone)) else {
            return Ok((Presence::Skipped, None));
        };
        let parent = root.dir(&above).at("open", &above)?;
        let existing = self.look_for_dir(&parent, &name).at("look at", path)?;
        if self.is_own(&parent, &name, path) {
            return Ok((Presence::Skipped, None));
        }
        let Some(details) = details else {
            return self.on_the_way(&parent, &name, path, existing.as_ref());
        };
        if self.is_left_out(path, existing.as_ref()) {
            return Ok((Presence::Skipped, None));
        }
        let existing = match existing {
            Some(meta) if meta.kind != Kind::Directory => {
                if !self.options.dry_run {
                    self.make_room(&parent, &name, path, &meta)?;
                }
                None
            }
            other => other,
        };
        if let Some(existing) = existing {
            let node = self.held(&parent, &name);
            self.tell_changed(path, details, &existing, node.as_ref());
            let retouch = self.retouch_later(path, details, &existing, false);
            self.make_usable(&existing, &|mode| parent.hold(&name)?.set_mode(mode));
            return Ok((Presence::There { fresh: false }, retouch));
        }
        self.tell_new_dir(path, details);
        if self.options.dry_run {
            return Ok((Presence::Missing, None));
        }
        self.make_dir(&root, &parent, &name, path, details)
    }

    /// The marker of a watched directory is that of this server and stays as it is.
    pub(super) fn is_own(&self, parent: &Dir, name: &Name, path: &RelativePath) -> bool {
        let own = marker::is_own(parent, name);
        if own {
            let text = format!("{path} is of the directory that is watched here");
            self.report.event(Event::Skipped(Skipped::Quietly(text)));
        }
        own
    }

    /// A link to a directory counts as one when that was asked for.
    fn look_for_dir(&self, parent: &Dir, name: &Name) -> Result<Option<Meta>, Errno> {
        let found = parent.find(name)?;
        if self.options.keep_dirlinks
            && found.as_ref().is_some_and(|meta| meta.kind == Kind::Symlink)
            && let Ok(behind) = parent.followed(name)
            && behind.kind == Kind::Directory
        {
            return Ok(Some(behind));
        }
        Ok(found)
    }

    fn is_left_out(&mut self, path: &RelativePath, existing: Option<&Meta>) -> bool {
        let text = match existing {
            None if self.options.existing => format!("not creating new directory \"{path}\""),
            Some(meta) if self.options.ignore_existing && meta.kind != Kind::Directory => {
                format!("{path} exists")
            }
            _ => return false,
        };
        self.report.event(Event::Skipped(Skipped::Quietly(text)));
        true
    }

    /// A directory that is only on the way to an entry.
    fn on_the_way(
        &mut self,
        parent: &Dir,
        name: &Name,
        path: &RelativePath,
        existing: Option<&Meta>,
    ) -> Result<(Presence, Option<usize>), Problem> {
        if existing.is_some_and(|meta| meta.kind == Kind::Directory) {
            return Ok((Presence::There { fresh: false }, None));
        }
        if self.options.dry_run {
            return Ok((Presence::Missing, None));
        }
        parent.make_dir(name, 0o777).at("make the directory", path)?;
        self.changed_in_current();
        Ok((Presence::There { fresh: true }, None))
    }

    fn make_dir(
        &mut self,
        root: &Root,
        parent: &Dir,
        name: &Name,
        path: &RelativePath,
        details: &Details,
    ) -> Result<(Presence, Option<usize>), Problem> {
        let made = parent.make_dir(name, details.mode & 0o777 | 0o700);
        made.at("make the directory", path)?;
        self.changed_in_current();
        self.stats.created.add(Kind::Directory);
        // A directory of that name may have been here before and gone since.
        root.forget(path);
        let meta = root.dir(path).and_then(|dir| dir.meta()).at("look at", path)?;
        let retouch = self.retouch_later(path, details, &meta, true);
        Ok((Presence::There { fresh: true }, retouch))
    }

    /// A user who is not root needs to be able to work in it until its facts are set.
    fn make_usable(&mut self, existing: &Meta, set_mode: &dyn Fn(u32) -> Result<(), Errno>) {
        let usable = existing.mode | 0o700;
        if !self.owners.is_privileged() && usable != existing.mode && !self.options.dry_run {
            // When it fails, so will what is done in it, and that is told.
            let _ = set_mode(usable);
            if let Some(last) = self.retouch.last_mut() {
                last.needed = true;
            }
        }
    }

    fn retouch_later(
        &mut self,
        path: &RelativePath,
        details: &Details,
        existing: &Meta,
        created: bool,
    ) -> Option<usize> {
        if self.options.dry_run {
            return None;
        }
        let mut facts = self.facts(details, (!created).then_some(existing));
        facts.mode = facts.mode.or(Some(existing.mode));
        let differs = facts.mtime.is_some_and(|time| time != existing.mtime)
            || facts.mode.is_some_and(|mode| mode != existing.mode)
            || facts.uid.is_some_and(|uid| uid != existing.uid)
            || facts.gid.is_some_and(|gid| gid != existing.gid)
            || facts.access_lists.is_some()
            || facts.extended.is_some();
        self.retouch.push(Retouch { path: path.clone(), facts, needed: created || differs });
        Some(self.retouch.len() - 1)
    }

    fn tell_new(&mut self, path: &RelativePath, details: &Details) {
        let change = Change { update: Update::Local, new: true, ..Change::default() };
        if self.options.dry_run || path.is_root() {
            self.stats.created.add(details.kind);
        }
        self.tell_item(Item::of(path.clone(), details, change));
    }

    /// A directory that the other directories have is told as what differs from there.
    fn tell_new_dir(&mut self, path: &RelativePath, details: &Details) {
        match self.nearest_change(path, details) {
            Some(change) => {
                let change = Change { update: Update::Local, ..change };
                self.tell_item(Item::of(path.clone(), details, change));
            }
            None => self.tell_new(path, details),
        }
    }

    fn tell_changed(
        &mut self,
        path: &RelativePath,
        details: &Details,
        existing: &Meta,
        node: Option<&Node<'_>>,
    ) {
        let change = self.change(details, existing, node, Update::None);
        self.tell_item(Item::of(path.clone(), details, change));
    }

    /// Something was made, replaced or removed in a directory, so that its time changed.
    pub(super) fn changed_in(&mut self, directory: Option<usize>) {
        if let Some(retouch) = directory.and_then(|index| self.retouch.get_mut(index)) {
            retouch.needed = true;
        }
    }

    fn changed_in_current(&mut self) {
        self.changed_in(self.stack.last().and_then(|current| current.retouch));
    }

    /// The directory's entries are all told.
    pub(super) fn end_dir(&mut self, directories: Vec<Name>, listed: Listed) -> Result<(), Fatal> {
        let Some(current) = self.stack.last_mut() else { return Err(out_of_order()) };
        let Some(when) = self.options.delete else { return Ok(()) };
        let there = matches!(current.presence, Presence::There { fresh: false });
        if listed != Listed::Whole || !there || when == Delete::Before {
            return Ok(());
        }
        let mut names = std::mem::take(&mut current.names);
        names.extend(directories);
        let Some(level) = current.level.clone() else { return Ok(()) };
        let listing =
            Listing { path: current.path.clone(), names, level, directory: current.retouch };
        match when {
            Delete::After => self.removals.listings.push(listing),
            // Deleted at the end as well: what fails later in the scan must prevent it.
            Delete::During | Delete::Delay => self.find_extra(&listing),
            Delete::Before => {}
        }
        Ok(())
    }

    /// Sets the facts of directories, the deepest first.
    pub(super) fn touch_directories(&mut self) {
        let Some(root) = self.root().map(Arc::clone) else { return };
        for retouch in std::mem::take(&mut self.retouch).into_iter().rev() {
            if !retouch.needed {
                continue;
            }
            let touched = root.dir(&retouch.path).and_then(|dir| {
                let meta = dir.meta()?;
                Ok(retouch.facts.apply(&dir.node()?, &meta))
            });
            match touched.at("open", &retouch.path) {
                Ok(unset) => self.tell_unset(&retouch.path, unset),
                // It was deleted meanwhile.
                Err(problem) if problem.is_vanished() => {}
                Err(problem) => self.problem(&problem),
            }
        }
    }
}

fn out_of_order() -> Fatal {
    Fatal::new(Exit::Protocol, "a directory came before the one it is in")
}
