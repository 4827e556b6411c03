//! What the source does not have is deleted.
//!
//! Decides what may be deleted: only in directories that were listed as a whole, only when nothing
//! failed, only what no rule protects, and not more than the limit. Must not know why entries are
//! missing at the source.

use std::{collections::HashSet, sync::Arc};

use rustix::io::Errno;

use super::{Receiver, backup::Keep};
use crate::{
    error::{AtPath, Problem},
    filter::{Half, Level, Verdict},
    marker,
    meta::{Kind, Meta},
    path::{self, Name, RelativePath},
    place,
    resolve::{Dir, Root},
    sync::{
        Event,
        channel::Channel,
        exit::Fatal,
        message::{Listed, ToReceiver, ToSender},
    },
};

/// A temporary file is somebody's work for so long.
const TEMPORARY_SECONDS: u64 = 86_400;

/// A directory of the source as a whole, and the rules for what else may be here.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) path: RelativePath,
    pub(super) names: HashSet<Name>,
    pub(super) level: Level,
    /// Its number among the directories whose facts are set at the end.
    pub(super) directory: Option<usize>,
}

/// An entry that is to be deleted.
#[derive(Debug)]
struct Extra {
    parent: RelativePath,
    name: Name,
    level: Level,
    directory: Option<usize>,
}

/// Deletions, done and to be done.
#[derive(Debug, Default)]
pub(super) struct Removals {
    pub(super) scan_complete: bool,
    pub(super) listings: Vec<Listing>,
    extra: Vec<Extra>,
    pub(super) deleted: u64,
    /// Entries that are left because of the limit.
    pub(super) left: u64,
}

/// What became of an entry that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removed {
    Yes,
    /// It, or something in it, stays.
    No,
}

/// Why an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The source does not have it.
    Extra,
    /// It is in the way of something else: told and counted by that.
    Room,
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    /// Remembers what a directory has that the source has not.
    pub(super) fn find_extra(&mut self, listing: &Listing) {
        let Some(root) = self.root().map(Arc::clone) else { return };
        match root.dir(&listing.path).at("open", &listing.path) {
            Ok(dir) => match self.extra_in(listing, &dir) {
                Ok(extra) => self.removals.extra.extend(extra),
                Err(problem) => self.problem(&problem),
            },
            Err(problem) if problem.is_vanished() => {}
            Err(problem) => self.problem(&problem),
        }
    }

    fn extra_in(&self, listing: &Listing, dir: &Dir) -> Result<Vec<Extra>, Problem> {
        let mut found = Vec::new();
        for listed in dir.list().at("list", &listing.path)? {
            if listing.names.contains(&listed.name) {
                continue;
            }
            let Ok(path) = listing.path.join(&listed.name) else { continue };
            let Ok(meta) = dir.entry(&listed.name) else { continue };
            let directory = meta.kind == Kind::Directory;
            let protected = listing.level.excludes(&path, directory);
            let other_system = self.options.one_file_system > 0
                && self.root().is_some_and(|root| root.device() != meta.device);
            let backup = self.own_backups.contains(&path) || self.is_backup_tree(&meta);
            let kept = protected || other_system || backup;
            if kept || is_in_use(&listed.name, &meta) || marker::is_own(dir, &listed.name) {
                continue;
            }
            found.push((listed.name, directory));
        }
        // The last one first, as in a directory whose end is shortened.
        found.sort_by(|a, b| path::order((b.0.as_bytes(), b.1), (a.0.as_bytes(), a.1)));
        let extra = |(name, _)| Extra {
            parent: listing.path.clone(),
            name,
            level: listing.level.clone(),
            directory: listing.directory,
        };
        Ok(found.into_iter().map(extra).collect())
    }

    /// With `--delete-before`: everything that was told is looked through first.
    pub(super) fn remove_before(&mut self, messages: &[ToReceiver]) -> Result<(), Fatal> {
        let (mut levels, mut at) = (Vec::new(), RelativePath::root());
        let mut names = HashSet::new();
        for message in messages {
            match message {
                ToReceiver::Dir { path, .. } => {
                    at = path.clone();
                    names = HashSet::new();
                }
                ToReceiver::Entries { entries, .. } => {
                    names.extend(entries.iter().map(|entry| entry.name.clone()));
                }
                ToReceiver::DirEnd { directories, listed: Listed::Whole } => {
                    names.extend(directories.iter().cloned());
                    let level = self.level_at(&mut levels, &at);
                    let (path, names) = (at.clone(), std::mem::take(&mut names));
                    self.find_extra(&Listing { path, names, level, directory: None });
                }
                ToReceiver::Begin(_)
                | ToReceiver::Owners(_)
                | ToReceiver::DirEnd { .. }
                | ToReceiver::ScanEnd { .. }
                | ToReceiver::Pack(_)
                | ToReceiver::Open { .. }
                | ToReceiver::Data(_)
                | ToReceiver::Hole(_)
                | ToReceiver::Copy { .. }
                | ToReceiver::End(_)
                | ToReceiver::Again
                | ToReceiver::Failed(_)
                | ToReceiver::Done => {}
            }
        }
        self.remove_extra();
        Ok(())
    }

    /// The rules in a directory, with those of the directories above it as they are now. `levels`
    /// are those of the directories from the top to the last one that was asked for.
    fn level_at(&mut self, levels: &mut Vec<(RelativePath, Level)>, path: &RelativePath) -> Level {
        while levels.last().is_some_and(|(at, _)| !path.is_within(at)) {
            levels.pop();
        }
        if levels.is_empty() {
            let (top, root) = (self.top_level(), RelativePath::root());
            let dir = self.root().map(|root| Arc::clone(root.top()));
            let level = dir.map_or(top.clone(), |dir| self.enter_level(&top, &root, &dir));
            levels.push((root, level));
        }
        let known = levels.last().map_or(0, |(at, _)| at.depth());
        for name in path.names().skip(known) {
            let Some((above, level)) = levels.last().cloned() else { break };
            let Ok(at) = above.join(&name) else { break };
            let dir = self.root().and_then(|root| root.dir(&at).ok());
            let level = dir.map_or(level.clone(), |dir| self.enter_level(&level, &at, &dir));
            levels.push((at, level));
        }
        levels.last().map_or_else(|| self.top_level(), |(_, level)| level.clone())
    }

    fn top_level(&self) -> Level {
        let root = self.options.territory.absolute(&self.destination.path);
        Level::new(&self.options.rules, Half::Receiver, &root)
    }

    /// Everything has arrived: now the rest goes.
    pub(super) fn remove_after(&mut self) -> Result<(), Fatal> {
        let mut levels = Vec::new();
        for mut listing in std::mem::take(&mut self.removals.listings) {
            listing.level = self.level_at(&mut levels, &listing.path);
            self.find_extra(&listing);
        }
        self.remove_extra();
        Ok(())
    }

    fn remove_extra(&mut self) {
        let extra = std::mem::take(&mut self.removals.extra);
        if extra.is_empty() {
            return;
        }
        if !self.removals.scan_complete && !self.options.ignore_errors {
            let text = "there were errors, so nothing is deleted (--ignore-errors deletes anyway)";
            return self.report.event(Event::Notice(text.to_owned()));
        }
        let Some(root) = self.root().map(Arc::clone) else { return };
        for Extra { parent, name, level, directory } in extra {
            let Ok(path) = parent.join(&name) else { continue };
            let removed = root.dir(&parent).and_then(|dir| {
                let meta = dir.entry(&name)?;
                Ok((dir, meta))
            });
            match removed {
                Ok((dir, meta)) => {
                    let removed = self.remove(&root, &dir, &path, &meta, &level, Reason::Extra);
                    if removed == Removed::Yes {
                        self.changed_in(directory);
                    }
                }
                Err(Errno::NOENT) => {}
                Err(errno) => self.problem(&Problem::new("delete", path, errno)),
            }
        }
    }

    /// Removes an entry with everything in it that no rule protects.
    fn remove(
        &mut self,
        root: &Root,
        dir: &Arc<Dir>,
        path: &RelativePath,
        meta: &Meta,
        level: &Level,
        reason: Reason,
    ) -> Removed {
        let Some((parent, name)) = path.split() else { return Removed::No };
        if meta.kind == Kind::Directory {
            if meta.device != root.device() {
                let text = format!("\"{path}\" is on another file system and is not deleted");
                self.report.event(Event::Notice(text));
                return Removed::No;
            }
            if self.remove_content(root, path, level) == Removed::No {
                let text = format!("cannot delete non-empty directory: {path}");
                self.report.event(Event::Notice(text));
                return Removed::No;
            }
        }
        let limits = [self.options.max_delete, self.options.delete_guard];
        if reason == Reason::Extra
            && limits.into_iter().flatten().any(|most| self.removals.deleted >= most)
        {
            self.removals.left += 1;
            return Removed::No;
        }
        if !self.options.dry_run {
            let backed_up = self.options.backup && !self.is_backup(&name);
            let removed = if meta.kind == Kind::Directory {
                dir.remove_dir(&name).at("delete", path)
            } else if backed_up {
                self.back_up(dir, &parent, &name, Keep::Nothing)
            } else {
                dir.remove_file(&name).at("delete", path)
            };
            if meta.kind == Kind::Directory {
                root.forget(path);
            }
            match removed {
                Ok(()) => {}
                // Backups beside the files are left in it.
                Err(problem) if problem.errno == Errno::NOTEMPTY => {
                    let text = format!("cannot delete non-empty directory: {path}");
                    self.report.event(Event::Notice(text));
                    return Removed::No;
                }
                Err(problem) => {
                    self.problem(&problem);
                    return Removed::No;
                }
            }
        }
        if reason == Reason::Extra {
            self.removals.deleted += 1;
            self.stats.deleted.add(meta.kind);
            self.tell(Event::Deleted { path: path.clone(), kind: meta.kind });
        }
        Removed::Yes
    }

    fn remove_content(&mut self, root: &Root, path: &RelativePath, level: &Level) -> Removed {
        let listed = root.dir(path).and_then(|dir| Ok((dir.list()?, dir)));
        let (listed, dir) = match listed.at("list", path) {
            Ok(listed) => listed,
            Err(problem) => {
                self.problem(&problem);
                return Removed::No;
            }
        };
        let level = self.enter_level(level, path, &dir);
        let mut entries = Vec::new();
        let mut removed = Removed::Yes;
        for entry in listed {
            let below = path.join(&entry.name).map_err(|_| Errno::NAMETOOLONG);
            match below.and_then(|below| Ok((below, dir.entry(&entry.name)?))) {
                Ok((below, meta)) => entries.push((entry.name, below, meta)),
                Err(Errno::NOENT) => {}
                Err(_) => removed = Removed::No,
            }
        }
        let directory = |meta: &Meta| meta.kind == Kind::Directory;
        entries.sort_by(|a, b| {
            path::order((b.0.as_bytes(), directory(&b.2)), (a.0.as_bytes(), directory(&a.2)))
        });
        for (name, below, meta) in entries {
            let verdict = level.check_inside_deleted(&below, directory(&meta));
            let gone = verdict != Some(Verdict::Exclude)
                && !marker::is_own(&dir, &name)
                && self.remove(root, &dir, &below, &meta, &level, Reason::Extra) == Removed::Yes;
            if !gone {
                removed = Removed::No;
            }
        }
        removed
    }

    /// Something else needs the name. A directory that is not empty goes only when deleting was
    /// asked for.
    pub(super) fn make_room(
        &mut self,
        dir: &Arc<Dir>,
        name: &Name,
        path: &RelativePath,
        meta: &Meta,
    ) -> Result<(), Problem> {
        let Some(root) = self.root().map(Arc::clone) else { return Ok(()) };
        // The name at the destination, which a single file may have been given.
        let place = path.parent().join(name).unwrap_or_else(|_| path.clone());
        let whole = self.options.delete.is_some() || self.options.force;
        if meta.kind == Kind::Directory && !whole {
            root.forget(&place);
            return dir.remove_dir(name).at("make way for", path);
        }
        let level = self.top_level();
        match self.remove(&root, dir, &place, meta, &level, Reason::Room) {
            Removed::Yes => Ok(()),
            Removed::No => Err(Problem::new("make way for", path.clone(), Errno::NOTEMPTY)),
        }
    }
}

/// Whether another transfer may be writing this file right now.
fn is_in_use(name: &Name, meta: &Meta) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let written = u64::try_from(meta.mtime.seconds).unwrap_or_default();
    place::is_temporary(name.as_bytes()) && now.saturating_sub(written) < TEMPORARY_SECONDS
}
