//! From hints to the truth on the disk, and from there into the index.
//!
//! Decides where to look and in which order; what is found missing is judged only when all looking
//! is done. A directory that could not be read to its end says nothing about what is missing in it.
//! Must not know the partner.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    children::Children,
    engine::{Engine, Step},
    look::{self, Care, Seen},
    notice::meta_of,
    reader::Task,
    row::{LEFT, Row},
};
use crate::{
    error::Said,
    meta::Meta,
    path::{Name, RelativePath},
    place,
    resolve::{Dir, Listed, Root},
    watch::Hint,
};

/// A turn looks around for so long at most.
const SLICE: Duration = Duration::from_millis(40);
/// A file that changed while it was read is looked at again after this.
const CHANGING: Duration = Duration::from_millis(400);
/// Deletions are judged when no more were seen for so long, so that the guard sees all of them.
const DELETING: Duration = Duration::from_millis(100);
/// Unfinished files that nobody went on with for so long are removed.
const LEFTOVER: Duration = Duration::from_secs(24 * 3600);
/// Paths that wait; more are everything.
const PATHS_MAX: usize = 100_000;

/// How far below a directory to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// At its entries only.
    Entries,
    /// At everything beneath it.
    All,
}

/// A directory that is being gone through.
#[derive(Debug)]
struct Open {
    at: RelativePath,
    dir: Arc<Dir>,
    depth: Depth,
    /// In order, as the rows are.
    listed: std::vec::IntoIter<Listed>,
    rows: Children,
}

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Scan {
    open: Option<Open>,
    directories: Vec<(RelativePath, Depth)>,
    paths: VecDeque<(RelativePath, Depth)>,
    waiting: HashSet<RelativePath>,
    /// Large files that are being read, and whether to look again then.
    reading: HashMap<RelativePath, bool>,
    later: Vec<(Instant, RelativePath)>,
    /// Seen to be missing.
    pub(super) gone: BTreeSet<RelativePath>,
    /// How many they were when, at the last change of that.
    gone_at: Option<(usize, Instant)>,
    /// Everything is being looked at.
    full: bool,
    /// Everything was looked at once.
    pub(super) once: bool,
    /// Contents are read anew.
    pub(super) audit: bool,
    /// Bytes read in an audit.
    pub(super) audited_bytes: u64,
}

impl Scan {
    /// Everything is to be looked at.
    pub(super) fn everything(&mut self) {
        self.open = None;
        self.paths.clear();
        self.waiting.clear();
        self.directories = vec![(RelativePath::root(), Depth::All)];
        self.full = true;
    }

    /// An entry is to be looked at.
    pub(super) fn look_at(&mut self, path: RelativePath) {
        self.push(path, Depth::Entries);
    }

    fn push(&mut self, path: RelativePath, depth: Depth) {
        if self.paths.len() >= PATHS_MAX {
            return self.everything();
        }
        if depth == Depth::All || self.waiting.insert(path.clone()) {
            self.paths.push_back((path, depth));
        }
    }

    /// What was to be looked at later is looked at now.
    pub(super) fn look_now(&mut self) {
        for (_, path) in std::mem::take(&mut self.later) {
            self.look_at(path);
        }
    }

    /// There is no directory at `path` any more: what is being gone through beneath it is elsewhere.
    pub(super) fn leave_beneath(&mut self, path: &RelativePath) {
        if let Some(open) = self.open.take_if(|open| open.at.is_within(path)) {
            self.directories.push((open.at, open.depth));
        }
    }

    /// Whether there is something to look at now.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        self.is_walking()
            || self.full && self.reading.is_empty() && self.gone.is_empty()
            || self.next_due().is_some_and(|due| due <= now)
    }

    fn is_walking(&self) -> bool {
        self.open.is_some() || !self.directories.is_empty() || !self.paths.is_empty()
    }

    /// Whether everything that was hinted at is in the index, except files that keep changing.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_walking() && self.reading.is_empty() && self.gone.is_empty() && !self.full
    }

    /// When something is to be looked at again, or judged.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let judged = self.gone_at.map(|(_, at)| at + DELETING);
        self.later.iter().map(|(due, _)| *due).chain(judged).min()
    }

    fn is_time_to_judge(&mut self, now: Instant) -> bool {
        let count = self.gone.len();
        match self.gone_at {
            _ if count == 0 => false,
            Some((known, at)) if known == count => now >= at + DELETING,
            _ => {
                self.gone_at = Some((count, now));
                false
            }
        }
    }
}

impl Engine {
    /// A hint of the watcher.
    pub(super) fn hint(&mut self, hint: Hint) -> Step<()> {
        match hint {
            Hint::Method(status) => self.report.method(&status),
            Hint::RootGone => {
                self.enter_root_soon();
                self.hold_for("the directory is missing; mount or create it".into());
            }
            Hint::Everything if self.root.is_none() || self.hold.is_some() => {
                self.enter_root_soon();
                self.scan.everything();
            }
            Hint::Everything => {
                self.sieve.forget();
                self.scan.everything();
            }
            Hint::Subtree(path) => self.scan.push(path, Depth::All),
            Hint::Directory(path) => self.scan.directories.push((path, Depth::Entries)),
            Hint::Entry { path, .. } => self.scan.look_at(path),
        }
        Ok(())
    }

    /// Looks around for a while.
    pub(super) fn scan_some(&mut self, now: Instant) -> Step<()> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        self.take_due(now);
        self.leave_moved_directory(&root);
        while now.elapsed() < SLICE {
            if let Some((path, depth)) = self.scan.paths.pop_front() {
                self.scan.waiting.remove(&path);
                self.look_at_path(&root, &path, depth)?;
            } else if let Some(mut open) = self.scan.open.take() {
                if self.next_entry(&root, &mut open)? {
                    self.scan.open = Some(open);
                }
            } else if let Some((path, depth)) = self.scan.directories.pop() {
                self.open_directory(&root, path, depth)?;
            } else {
                break;
            }
        }
        if !self.scan.is_walking() && self.scan.reading.is_empty() {
            if self.scan.is_time_to_judge(now) || !self.flushes.is_empty() {
                self.scan.gone_at = None;
                self.judge_missing(&root, now)?;
            }
            if self.scan.gone.is_empty() && std::mem::take(&mut self.scan.full) {
                self.scan.once = true;
                self.fetch.wake();
            }
        }
        Ok(())
    }

    /// A directory that was moved while it is gone through is not what its path says any more.
    fn leave_moved_directory(&mut self, root: &Root) {
        let is_there = |open: &Open| {
            let now = root.dir(&open.at).and_then(|dir| dir.meta());
            let held = open.dir.meta();
            now.and_then(|now| Ok(now.identity() == held?.identity())).unwrap_or(false)
        };
        if let Some(open) = self.scan.open.take_if(|open| !is_there(open)) {
            self.scan.directories.push((open.at, open.depth));
        }
    }

    fn take_due(&mut self, now: Instant) {
        let (due, later) =
            std::mem::take(&mut self.scan.later).into_iter().partition(|(at, _)| *at <= now);
        self.scan.later = later;
        let due: Vec<(Instant, RelativePath)> = due;
        let due = due.into_iter().map(|(_, path)| path);
        for path in due.chain(self.troubles.due(now)) {
            let unlisted = self.troubles.is_unlisted(&path);
            self.scan.push(path, if unlisted { Depth::All } else { Depth::Entries });
            self.fetch.wake();
        }
    }

    fn look_at_path(&mut self, root: &Root, path: &RelativePath, depth: Depth) -> Step<()> {
        let Some((parent, name)) = path.split() else {
            self.scan.directories.push((RelativePath::root(), depth));
            return Ok(());
        };
        if self.sieve.is_rules(path) {
            self.rules_changed()?;
        }
        let dir = match root.dir(&parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                // What is missing is the directory, and all beneath it.
                self.scan.look_at(parent);
                let row = self.index.get(path.as_written())?;
                self.troubles_end(path, row.as_ref());
                return Ok(());
            }
            Err(errno) => return self.unreadable(path, "open the directory of", errno),
        };
        let row = self.index.get(path.as_written())?;
        let is_directory = dir.entry(&name).is_ok_and(|m| m.kind == crate::Kind::Directory);
        if self.sieve.excludes(root, path, is_directory) {
            return self.leave(path, row.as_ref());
        }
        let known = row.as_ref().is_some_and(|row| {
            row.is_present()
                && row.own.as_ref().is_some_and(|own| own.version.contents.is_directory())
        });
        if is_directory && (depth == Depth::All || !known) {
            self.scan.directories.push((path.clone(), Depth::All));
        }
        self.look(&dir, &name, path, row)
    }

    fn open_directory(&mut self, root: &Root, at: RelativePath, depth: Depth) -> Step<()> {
        if !at.is_root() && self.sieve.excludes(root, &at, true) {
            return Ok(());
        }
        let dir = match root.dir(&at) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.scan.look_at(at);
                return Ok(());
            }
            Err(Errno::XDEV) => return Ok(()),
            Err(errno) => return self.unlisted(&at, "open", errno),
        };
        let listed = dir.list();
        #[cfg(test)]
        let listed = super::tests::faults::list(&self.config.root, &at).and(listed);
        let mut listed = match listed {
            Ok(listed) => listed,
            Err(errno) => return self.unlisted(&at, "list", errno),
        };
        self.troubles.listed(&at);
        listed.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        if self.scan.full && listed.iter().any(|one| place::is_temporary(one.name.as_bytes())) {
            // What cannot be removed now can be an hour later.
            let _ = place::remove_leftovers(&dir, LEFTOVER, &self.rescue.names());
        }
        let rows = Children::new(at.clone());
        self.scan.open = Some(Open { at, dir, depth, listed: listed.into_iter(), rows });
        Ok(())
    }

    /// What was not listed before `listed`, or at all, is missing.
    fn see_missing(
        &mut self,
        root: &Root,
        open: &mut Open,
        listed: Option<&RelativePath>,
    ) -> Step<()> {
        while let Some((path, row)) = open.rows.next_before(&self.index, listed)? {
            let Ok(path) = RelativePath::try_from(path) else { continue };
            let is_directory =
                row.own.as_ref().is_some_and(|own| own.version.contents.is_directory());
            if self.sieve.excludes_in(root, &open.at, &path, is_directory) {
                self.leave(&path, Some(&row))?;
            } else {
                self.scan.gone.insert(path);
            }
        }
        Ok(())
    }

    /// The next entry of a directory.
    fn next_entry(&mut self, root: &Root, open: &mut Open) -> Step<bool> {
        let Some(listed) = open.listed.next() else {
            self.see_missing(root, open, None)?;
            return Ok(false);
        };
        let Ok(path) = open.at.join(&listed.name) else {
            let shown = format!("{}/{}", open.at, listed.name);
            self.report.path_too_long(shown);
            return Ok(true);
        };
        self.see_missing(root, open, Some(&path))?;
        let row = open.rows.take(&self.index, &path)?;
        let is_directory = listed.directory.unwrap_or_else(|| {
            open.dir.entry(&listed.name).is_ok_and(|meta| meta.kind == crate::Kind::Directory)
        });
        if self.sieve.excludes_in(root, &open.at, &path, is_directory) {
            self.leave(&path, row.as_ref())?;
            return Ok(true);
        }
        if is_directory && (open.depth == Depth::All || row.is_none()) {
            self.scan.directories.push((path.clone(), Depth::All));
        }
        let row = match row {
            Some(row) => Some(row),
            None => self.index.get(path.as_written())?,
        };
        self.look(&open.dir, &listed.name, &path, row)?;
        Ok(true)
    }

    /// Looks at one entry.
    pub(super) fn look(
        &mut self,
        dir: &Arc<Dir>,
        name: &Name,
        path: &RelativePath,
        row: Option<Row>,
    ) -> Step<()> {
        if let Some(again) = self.scan.reading.get_mut(path) {
            *again = true;
            return Ok(());
        }
        let own = row.as_ref().filter(|row| !row.has(LEFT)).and_then(|row| row.own.as_ref());
        let care = if self.scan.audit { Care::Anew } else { Care::Quick };
        let device = self.root.as_ref().map_or(0, |root| root.device());
        match look::look(dir, name, own, care, device, &self.owners) {
            Ok(Seen::Large) => {
                self.scan.reading.insert(path.clone(), false);
                let own = own.cloned().map(Box::new);
                let (path, dir, name) = (path.clone(), Arc::clone(dir), name.clone());
                self.reader.push(Task::Look { path, dir, name, own });
                Ok(())
            }
            Ok(seen) => self.noticed(path, seen),
            Err(Errno::NOENT) => self.noticed(path, Seen::Nothing),
            Err(errno) => self.unreadable(path, "read", errno),
        }
    }

    /// A large file was read.
    pub(super) fn looked(&mut self, path: &RelativePath, seen: Result<Seen, Errno>) -> Step<()> {
        let again = self.scan.reading.remove(path);
        if again == Some(true) {
            self.scan.look_at(path.clone());
        }
        match seen {
            Ok(Seen::Version(found)) if again.is_some() && !self.is_at(path, &found.1) => {
                // Its directory was moved, or it has another name by now.
                self.scan.look_at(path.clone());
                Ok(())
            }
            Ok(seen) if again.is_some() => self.noticed(path, seen),
            Ok(_) => Ok(()),
            Err(errno) => self.unreadable(path, "read", errno),
        }
    }

    /// Whether this very file has this path now.
    pub(super) fn is_at(&self, path: &RelativePath, meta: &Meta) -> bool {
        let now = self.root.as_ref().and_then(|root| meta_of(root, path));
        now.is_some_and(|now| now.identity() == meta.identity())
    }

    /// Looks at it again a little later.
    pub(super) fn look_later(&mut self, path: &RelativePath) {
        if !self.scan.later.iter().any(|(_, waiting)| waiting == path) {
            self.scan.later.push((Instant::now() + CHANGING, path.clone()));
        }
        if let Some(watcher) = &self.watcher {
            watcher.recheck(path);
        }
    }

    fn unreadable(&mut self, path: &RelativePath, doing: &str, errno: Errno) -> Step<()> {
        let problem = format!("cannot {doing} it: {}", Said(errno));
        self.troubles.add(path, problem, Instant::now());
        Ok(())
    }

    fn unlisted(&mut self, at: &RelativePath, doing: &str, errno: Errno) -> Step<()> {
        let problem = format!("cannot {doing} it: {}", Said(errno));
        self.troubles.add_unlisted(at, problem, Instant::now());
        Ok(())
    }

    /// It takes no part any more, because of a rule: nothing is told of it.
    pub(super) fn leave(&mut self, path: &RelativePath, row: Option<&Row>) -> Step<()> {
        self.scan.gone.remove(path);
        self.troubles.remove(path);
        let Some(row) = row.filter(|row| row.is_present()) else { return Ok(()) };
        let is_directory = row.own.as_ref().is_some_and(|own| own.version.contents.is_directory());
        let beneath = if is_directory {
            self.index.beneath(path.as_written(), usize::MAX >> 1)?
        } else {
            Vec::new()
        };
        for path in std::iter::once(path.as_written().to_vec()).chain(beneath) {
            let Some(old) = self.index.get(&path)? else { continue };
            let Ok(path) = RelativePath::try_from(path) else { continue };
            let mut new = old.clone();
            new.bits |= LEFT;
            self.store(&path, Some(&old), new)?;
        }
        Ok(())
    }

    /// Other rules hold from now on: everything is to be looked at, and what took no part may now.
    pub(super) fn rules_changed(&mut self) -> Step<()> {
        self.sieve.forget();
        self.scan.everything();
        let Some(root) = self.root.clone() else { return Ok(()) };
        for path in self.index.with_bits(LEFT)? {
            let Ok(path) = RelativePath::try_from(path) else { continue };
            let Some(row) = self.index.get(path.as_written())? else { continue };
            let is_directory = [
                row.own.as_ref().map(|own| &own.version),
                row.told.as_ref().map(|told| &told.version),
            ]
            .into_iter()
            .flatten()
            .any(|version| version.contents.is_directory());
            if !self.sieve.excludes(&root, &path, is_directory) && !self.left.contains_key(&path) {
                self.take_part_again(&path, &row)?;
            }
        }
        Ok(())
    }

    /// What stands in the index for something that took no part is void.
    pub(super) fn take_part_again(&mut self, path: &RelativePath, row: &Row) -> Step<()> {
        let mut new = row.clone();
        new.own = None;
        new.bits &= !LEFT;
        self.store(path, Some(row), new)
    }
}
