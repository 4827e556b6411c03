//! What was seen becomes a change, or is none.
//!
//! Decides when an own version is another one than before, which files are hard links of one
//! another, and which missing entries were deleted. Must not know the partner.

use std::{collections::BTreeSet, time::Instant};

use ipicsha_core::file::{Contents, Version};

use super::{
    engine::{Engine, Step},
    guard::Verdict,
    look::{self, Seen},
    row::{HELD_HERE, LEFT, Own, Row, SILENT, Want},
};
use crate::{
    meta::{Kind, Meta},
    path::RelativePath,
    resolve::Root,
};

/// An empty file this young may be one that somebody is about to write.
const JUST_NOW_NS: i64 = 300_000_000;
/// Paths read from the index at a time.
const PATHS: usize = 512;

impl Engine {
    /// Something was seen at `path`.
    pub(super) fn noticed(&mut self, path: &RelativePath, seen: Seen) -> Step<()> {
        let row = self.index.get(path.as_written())?;
        if !matches!(seen, Seen::Left(_)) {
            self.left.remove(path);
        }
        match seen {
            Seen::Nothing => {
                self.troubles_end(path, row.as_ref());
                match row {
                    Some(row) if row.is_present() => drop(self.scan.gone.insert(path.clone())),
                    Some(row) if row.has(LEFT) => self.take_part_again(path, &row)?,
                    // It came and went before it was seen itself; what was in it was perhaps seen.
                    _ => self.missing_beneath(path)?,
                }
            }
            Seen::Left(why) => {
                self.left.insert(path.clone(), why);
                self.leave(path, row.as_ref())?;
                if let Some(row) = self.index.get(path.as_written())?
                    && row.want == Want::Take
                {
                    self.acknowledge_left(path, &row)?;
                }
            }
            Seen::Same(meta) => {
                self.read_again(path, row.as_ref(), &meta);
                if let Some(row) = row {
                    self.same_here(path, &row, &meta)?;
                }
            }
            Seen::Version(found) => {
                let (version, meta, racy) = *found;
                self.read_again(path, row.as_ref(), &meta);
                self.found(path, row, version, &meta, racy)?;
            }
            Seen::Large | Seen::Changing => self.look_later(path),
        }
        Ok(())
    }

    /// Reading works again; what fails in making it is another matter.
    pub(super) fn troubles_end(&mut self, path: &RelativePath, row: Option<&Row>) {
        if row.is_none_or(|row| row.want == Want::Nothing) {
            self.troubles.remove(path);
        }
    }

    fn read_again(&mut self, path: &RelativePath, row: Option<&Row>, meta: &Meta) {
        if meta.kind != Kind::Directory || !self.troubles.is_unlisted(path) {
            self.troubles_end(path, row);
        }
    }

    /// The partner's version is taken as seen, because what is here takes no part.
    pub(super) fn acknowledge_left(&mut self, path: &RelativePath, row: &Row) -> Step<()> {
        let mut new = row.clone();
        self.acknowledge(&mut new);
        self.troubles.remove(path);
        self.store(path, Some(row), new)
    }

    fn same_here(&mut self, path: &RelativePath, row: &Row, meta: &Meta) -> Step<()> {
        self.scan.gone.remove(path);
        self.note_special_bits(path, meta);
        let Some(own) = row.own.as_ref() else { return Ok(()) };
        if meta.kind == Kind::File && meta.links > 1 {
            let link = self.link_of(path, meta)?;
            if link != own.version.link {
                let version = Version { link, ..own.version.clone() };
                return self.changed_here(path, Some(row), version, own.quick.clone());
            }
        }
        if row.has(HELD_HERE) {
            let mut new = row.clone();
            new.bits &= !HELD_HERE;
            self.fetch.wake();
            self.index.put(path.as_written(), Some(row), &new)?;
        }
        Ok(())
    }

    fn found(
        &mut self,
        path: &RelativePath,
        row: Option<Row>,
        mut version: Version,
        meta: &Meta,
        racy: bool,
    ) -> Step<()> {
        self.scan.gone.remove(path);
        self.note_special_bits(path, meta);
        if self.scan.audit {
            self.scan.audited_bytes += meta.size;
        }
        version.link = self.link_of(path, meta)?;
        let known = row.as_ref().filter(|row| !row.has(LEFT)).and_then(|row| row.own.clone());
        let quick = look::quick(meta, racy, known.as_ref());
        let is_new = known.as_ref().is_none_or(|own| own.version.contents.is_absent());
        if is_new && self.is_about_to_be_written(meta) {
            self.look_later(path);
            return Ok(());
        }
        if !version.contents.is_directory() {
            // Even when it is as it was: a directory may have had its name for a moment.
            self.missing_beneath(path)?;
        }
        let Some(own) = known else {
            let row = match row {
                Some(row) if row.has(LEFT) => {
                    self.take_part_again(path, &row)?;
                    self.index.get(path.as_written())?
                }
                other => other,
            };
            self.changed_here(path, row.as_ref(), version, Some(quick))?;
            return self.look_at_links(path, None, meta);
        };
        let row = row.unwrap_or_default();
        if own.version.is_same(&version) {
            return self.refresh(path, &row, own, quick);
        }
        let untouched = own.quick.as_ref().is_some_and(|old| old.fits(meta) && !old.racy);
        let is_content = own.version.contents != version.contents;
        if untouched && is_content && meta.kind == Kind::File {
            // Nobody wrote it, and yet it is another content: no change, but something to repair.
            let mut new = row.clone();
            new.own = Some(Own { version, quick: Some(quick), ..own });
            new.bits |= SILENT;
            return self.index.put(path.as_written(), Some(&row), &new);
        }
        if version.contents.is_directory() && own.version.contents.is_directory() {
            version.mtime_ns = look::now_ns();
        }
        let old_inode = own.quick.as_ref().map(|quick| quick.inode);
        self.changed_here(path, Some(&row), version, Some(quick))?;
        self.look_at_links(path, old_inode, meta)
    }

    /// A file that was made just now and is empty: only its content shows whether it is a database.
    fn is_about_to_be_written(&self, meta: &Meta) -> bool {
        let age = look::now_ns().saturating_sub(look::nanoseconds(meta.mtime));
        // Who waits for all that is here now does not wait for what will be.
        meta.kind == Kind::File && meta.size == 0 && age < JUST_NOW_NS && self.flushes.is_empty()
    }

    /// There is no directory any more, so that nothing is in it. It is said at once, because after a
    /// crash nobody would look there again; the partner's guard still sees how many they are.
    pub(super) fn missing_beneath(&mut self, path: &RelativePath) -> Step<()> {
        if let Some(root) = &self.root {
            root.forget(path);
        }
        self.scan.leave_beneath(path);
        let mut after = Vec::new();
        loop {
            let paths = self.index.beneath_after(path.as_written(), &after, PATHS)?;
            let Some(last) = paths.last() else { return Ok(()) };
            after.clone_from(last);
            for path in paths {
                let Some(row) = self.index.get(&path)?.filter(|row| !row.has(HELD_HERE)) else {
                    continue;
                };
                if let Ok(path) = RelativePath::try_from(path) {
                    self.scan.gone.remove(&path);
                    self.deleted_here(&path, &row)?;
                }
            }
        }
    }

    /// The same version with other facts to know it by.
    fn refresh(
        &mut self,
        path: &RelativePath,
        row: &Row,
        own: Own,
        quick: super::row::Quick,
    ) -> Step<()> {
        if own.quick.as_ref() == Some(&quick) && !row.has(HELD_HERE) {
            return Ok(());
        }
        let mut new = row.clone();
        new.own = Some(Own { quick: Some(quick), ..own });
        if new.has(HELD_HERE) {
            new.bits &= !HELD_HERE;
            self.fetch.wake();
        }
        self.index.put(path.as_written(), Some(row), &new)
    }

    fn note_special_bits(&mut self, path: &RelativePath, meta: &Meta) {
        if meta.kind == Kind::File && meta.mode & 0o6000 != 0 {
            let why = "its setuid and setgid bits do not travel; the file does";
            self.left.insert(path.clone(), why.into());
        }
    }

    /// The first path of the group of hard links that a file belongs to, unless it is that itself.
    fn link_of(&mut self, path: &RelativePath, meta: &Meta) -> Step<Option<Vec<u8>>> {
        if meta.kind != Kind::File || meta.links < 2 {
            return Ok(None);
        }
        let Some(root) = self.root.clone() else { return Ok(None) };
        for (other, row) in self.index.with_inode(meta.inode)? {
            if other.as_slice() == path.as_written() {
                continue;
            }
            let Ok(other) = RelativePath::try_from(other) else { continue };
            let Some(now) = meta_of(&root, &other).filter(|now| now.identity() == meta.identity())
            else {
                continue;
            };
            if other.as_written() < path.as_written() {
                return Ok(Some(other.into()));
            }
            // It was the first until now.
            let link = row.own.as_ref().and_then(|own| own.version.link.as_deref());
            let untold = link.is_none_or(|link| link > path.as_written());
            if untold || row.own.and_then(|own| own.quick).is_none_or(|quick| !quick.fits(&now)) {
                self.scan.look_at(other);
            }
        }
        Ok(None)
    }

    /// A change through one name of a file is one of all its names.
    fn look_at_links(
        &mut self,
        path: &RelativePath,
        old_inode: Option<u64>,
        meta: &Meta,
    ) -> Step<()> {
        if meta.kind != Kind::File {
            return Ok(());
        }
        let old = old_inode.filter(|inode| *inode != meta.inode);
        let now = Some(meta.inode).filter(|_| meta.links > 1);
        for inode in [old, now].into_iter().flatten() {
            for (other, row) in self.index.with_inode(inode)? {
                let ctime = row.own.and_then(|own| own.quick).map(|quick| quick.ctime);
                let is_known = inode == meta.inode && ctime == Some(meta.ctime);
                if other.as_slice() != path.as_written()
                    && !is_known
                    && let Ok(other) = RelativePath::try_from(other)
                {
                    self.scan.look_at(other);
                }
            }
        }
        Ok(())
    }

    /// Judges what was seen to be missing: deleted, unless the guard wants to be asked.
    pub(super) fn judge_missing(&mut self, root: &Root, now: Instant) -> Step<()> {
        let gone = std::mem::take(&mut self.scan.gone);
        // What is beneath a missing directory is often seen to be missing by itself as well.
        let mut missing = BTreeSet::new();
        for path in gone {
            if missing.contains(&path) {
                continue;
            }
            if is_missing(root, &path) {
                self.with_all_beneath(&path, &mut missing, |row| !row.has(HELD_HERE))?;
            } else {
                self.scan.look_at(path);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let losses = self.losses(&missing)?;
        let held = self.index.counts.held_here;
        match self.guard_here.may_delete(losses + held, self.index.counts.entries, now) {
            Verdict::Go => {
                self.guard_here.done(losses, now);
                for path in &missing {
                    let row = self.index.get(path.as_written())?.unwrap_or_default();
                    self.deleted_here(path, &row)?;
                }
            }
            Verdict::Hold => {
                for path in &missing {
                    let row = self.index.get(path.as_written())?.unwrap_or_default();
                    let mut new = row.clone();
                    new.bits |= HELD_HERE;
                    self.index.put(path.as_written(), Some(&row), &new)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn with_all_beneath(
        &mut self,
        path: &RelativePath,
        missing: &mut BTreeSet<RelativePath>,
        counts: impl Fn(&Row) -> bool,
    ) -> Step<()> {
        let mut after = Vec::new();
        let mut paths = vec![path.as_written().to_vec()];
        while !paths.is_empty() {
            for path in paths {
                let Ok(path) = RelativePath::try_from(path) else { continue };
                let row = self.index.get(path.as_written())?;
                if row.is_some_and(|row| row.is_present() && counts(&row)) {
                    missing.insert(path);
                }
            }
            paths = self.index.beneath_after(path.as_written(), &after, PATHS)?;
            after = paths.last().cloned().unwrap_or_default();
        }
        Ok(())
    }

    /// How many files are lost with these: what lives on under another name is not.
    pub(super) fn losses(&mut self, missing: &BTreeSet<RelativePath>) -> Step<u64> {
        let gone: std::collections::HashSet<&[u8]> =
            missing.iter().map(RelativePath::as_written).collect();
        let mut losses = 0;
        for path in missing {
            let Some(row) = self.index.get(path.as_written())? else { continue };
            let is_lost = match row.content() {
                Some(hash) => {
                    let others = self.index.with_content(hash)?;
                    !others.iter().any(|(path, other)| {
                        !gone.contains(path.as_slice()) && !other.has(HELD_HERE)
                    })
                }
                None => row
                    .own
                    .as_ref()
                    .is_some_and(|own| matches!(own.version.contents, Contents::Symlink { .. })),
            };
            losses += u64::from(is_lost);
        }
        Ok(losses)
    }

    /// It was deleted here.
    pub(super) fn deleted_here(&mut self, path: &RelativePath, row: &Row) -> Step<()> {
        let inode = row.own.as_ref().and_then(|own| own.quick.as_ref()).map(|quick| quick.inode);
        self.changed_here(path, Some(row), Version::absent(look::now_ns()), None)?;
        self.troubles.remove(path);
        let Some(inode) = inode.filter(|_| row.content().is_some()) else { return Ok(()) };
        for (other, _) in self.index.with_inode(inode)? {
            if let Ok(other) = RelativePath::try_from(other) {
                self.scan.look_at(other);
            }
        }
        Ok(())
    }

    /// What the guards hold may happen. Gives the number.
    pub(super) fn accept_deletions(&mut self) -> Step<u64> {
        if std::mem::take(&mut self.marker_missing) {
            self.index.meta.marker = None;
            self.enter_root_soon();
        }
        let refused = std::mem::take(&mut self.comparing.refused);
        let at_once = refused + self.held_trees.take();
        if at_once > 0 {
            self.guard.accept(at_once, Instant::now());
        }
        let mut count = self.index.turn_wanted(Want::Held, Want::Accepted)?;
        for path in self.index.with_bits(HELD_HERE)? {
            let Ok(path) = RelativePath::try_from(path) else { continue };
            if let Some(row) = self.index.get(path.as_written())? {
                self.deleted_here(&path, &row)?;
                count += 1;
            }
        }
        self.fetch.wake();
        Ok(count + at_once)
    }
}

/// The entry at `path`, if its directory can be reached.
pub(super) fn meta_of(root: &Root, path: &RelativePath) -> Option<Meta> {
    let (parent, name) = path.split()?;
    root.dir(&parent).ok()?.entry(&name).ok()
}

fn is_missing(root: &Root, path: &RelativePath) -> bool {
    use rustix::io::Errno;
    let Some((parent, name)) = path.split() else { return false };
    match root.dir(&parent) {
        Ok(dir) => matches!(dir.find(&name), Ok(None)),
        Err(errno) => matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP),
    }
}
