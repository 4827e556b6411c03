//! What the partner deleted goes here, too, and is kept for a while.
//!
//! Decides that only what is known goes: a directory only when nothing unknown is in it. The guard
//! may want to be asked first. Must not know why the partner deleted it.

use std::time::{Duration, Instant};

use ipicsha_core::file::Version;
use rustix::io::Errno;

use super::{
    apply::Made,
    engine::{Engine, Step},
    fetch::Outcome,
    guard::Verdict,
    look,
    row::{HELD_HERE, Own, Row, Want},
};
use crate::{
    path::RelativePath,
    place::{is_temporary, remove_temporary},
    resolve::Dir,
};

const SLICE: Duration = Duration::from_millis(40);
const PATHS: usize = 256;
/// Too many deletions are judged when for so long no fewer entries were to be made: the new name of a
/// renamed file may be among them.
const EXPLAINED: Duration = Duration::from_secs(5);

impl Engine {
    /// Deletes what the partner deleted, for a while.
    pub(super) fn remove_some(&mut self, now: Instant) -> Step<()> {
        // Before everything was looked at, it is not known what would be deleted.
        if !self.scan.once {
            return Ok(());
        }
        self.remove_these(Want::Accepted, now)?;
        if self.ask_guard(now)? == Verdict::Go {
            self.remove_these(Want::Remove, now)?;
        }
        self.remove_these(Want::RemoveDirectory, now)
    }

    fn ask_guard(&mut self, now: Instant) -> Step<Verdict> {
        let wanted = self.index.count_wanted(Want::Remove)?;
        if wanted == 0 {
            self.undecided = None;
            return Ok(Verdict::Go);
        }
        let held = self.index.count_wanted(Want::Held)?;
        let entries = self.index.counts.entries;
        if self.guard.may_delete(wanted + held, entries, now) == Verdict::Go {
            return Ok(Verdict::Go);
        }
        if !self.is_all_here(now)? {
            return Ok(Verdict::Hold);
        }
        self.undecided = None;
        let losses = self.losses_wanted()?;
        if losses == 0 || self.guard.may_delete(losses + held, entries, now) == Verdict::Go {
            return Ok(Verdict::Go);
        }
        self.index.turn_wanted(Want::Remove, Want::Held)?;
        self.report.changed();
        Ok(Verdict::Hold)
    }

    /// Whether nothing is still to be made that could turn deletions into renames.
    fn is_all_here(&mut self, now: Instant) -> Step<bool> {
        let takes = self.index.count_wanted(Want::Take)?;
        if takes == 0 {
            return Ok(true);
        }
        let (fewest, since) = *self.undecided.get_or_insert((takes, now));
        if takes < fewest || !self.is_connected() {
            self.undecided = Some((takes, now));
            return Ok(false);
        }
        Ok(now >= since + EXPLAINED)
    }

    /// When deletions that wait to be explained are judged at the latest; never while nothing is made.
    pub(super) fn judged_at(&self) -> Option<Instant> {
        let (_, since) = self.undecided.filter(|_| self.may_make())?;
        Some(since + EXPLAINED)
    }

    /// How many of the files to be deleted live on nowhere else.
    fn losses_wanted(&mut self) -> Step<u64> {
        let mut losses = 0;
        let mut after = Vec::new();
        loop {
            let paths = self.index.wanted(Want::Remove, &after, PATHS)?;
            let Some(last) = paths.last() else { return Ok(losses) };
            after.clone_from(last);
            for path in paths {
                let Some(row) = self.index.get(&path)? else { continue };
                losses += u64::from(self.is_loss(&row)?);
            }
        }
    }

    fn is_lost_with(&mut self, path: &RelativePath) -> Step<bool> {
        match self.index.get(path.as_written())? {
            Some(row) => self.is_loss(&row),
            None => Ok(false),
        }
    }

    fn is_loss(&mut self, row: &Row) -> Step<bool> {
        let Some(hash) = row.content() else { return Ok(true) };
        let others = self.index.with_content(hash)?;
        let lives_on = |other: &Row| !other.want.is_removal() && !other.has(HELD_HERE);
        Ok(!others.iter().any(|(_, other)| lives_on(other)))
    }

    fn remove_these(&mut self, want: Want, now: Instant) -> Step<()> {
        let mut before: Option<Vec<u8>> = None;
        loop {
            let paths = self.index.wanted_backwards(want, before.as_deref(), PATHS)?;
            let Some(last) = paths.last().cloned() else { return Ok(()) };
            before = Some(last);
            for path in paths {
                let Ok(path) = RelativePath::try_from(path) else { continue };
                if self.troubles.waits(&path, now) {
                    continue;
                }
                // What only changed its name is no deletion for the guard.
                let counts = want == Want::Remove && self.is_lost_with(&path)?;
                match self.remove(&path)? {
                    Ok(Outcome::Done) if counts => self.guard.done(1, now),
                    Ok(_) => {}
                    Err(errno) => self.failed(&path, "delete", errno),
                }
            }
            if now.elapsed() > SLICE {
                self.fetch.wake();
                return Ok(());
            }
        }
    }

    fn remove(&mut self, path: &RelativePath) -> Made {
        let Some(root) = self.root.clone() else { return Ok(Ok(Outcome::Later)) };
        let Some(row) = self.index.get(path.as_written())?.filter(|row| row.want.is_removal())
        else {
            return Ok(Ok(Outcome::Later));
        };
        let Some((parent, name)) = path.split() else { return Ok(Ok(Outcome::Later)) };
        let dir = match root.dir(&parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.removed(path, &row)?;
                return Ok(Ok(Outcome::Done));
            }
            Err(errno) => return Ok(Err(errno)),
        };
        let meta = match self.as_indexed(&dir, &name, path, &row)? {
            Ok(Some(Some(meta))) => meta,
            Ok(Some(None)) => {
                self.removed(path, &row)?;
                return Ok(Ok(Outcome::Done));
            }
            Ok(None) => return Ok(Ok(Outcome::Later)),
            Err(errno) => return Ok(Err(errno)),
        };
        if row.own.as_ref().is_some_and(|own| own.version.contents.is_directory()) {
            return self.remove_directory(&dir, path, &row);
        }
        if let Err(errno) = self.keep_deleted(&dir, &name, path, &meta) {
            return Ok(Err(errno));
        }
        self.touch(&dir);
        self.removed(path, &row)?;
        Ok(Ok(Outcome::Done))
    }

    fn remove_directory(
        &mut self,
        dir: &std::sync::Arc<Dir>,
        path: &RelativePath,
        row: &Row,
    ) -> Made {
        let Some(name) = path.name() else { return Ok(Ok(Outcome::Later)) };
        let mut waits = false;
        for beneath in self.index.beneath(path.as_written(), 64)? {
            let Some(beneath) = self.index.get(&beneath)? else { continue };
            if beneath.want.is_removal() || beneath.has(HELD_HERE) {
                waits = true;
            } else {
                return self.lives_on(path, row);
            }
        }
        if waits {
            return Ok(Ok(Outcome::Later));
        }
        match dir.remove_dir(&name) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => match dir.child(&name).and_then(|c| emptied(&c))
            {
                Ok(true) => match dir.remove_dir(&name) {
                    Ok(()) => {}
                    Err(errno) => return Ok(Err(errno)),
                },
                Ok(false) => {
                    self.scan.look_at(path.clone());
                    return self.lives_on(path, row);
                }
                Err(errno) => return Ok(Err(errno)),
            },
            Err(errno) => return Ok(Err(errno)),
        }
        if let Some(root) = &self.root {
            root.forget(path);
        }
        self.touch(dir);
        self.removed(path, row)?;
        Ok(Ok(Outcome::Done))
    }

    /// Something is in the directory that the partner does not know: it stays, as a change of this
    /// server that knows of the deletion.
    fn lives_on(&mut self, path: &RelativePath, row: &Row) -> Made {
        let Some(own) = row.own.clone() else { return Ok(Ok(Outcome::Done)) };
        let mut new = row.clone();
        let known = own.known.join(row.told_known());
        new.own = Some(Own { known, ..own.clone() });
        let version = Version { mtime_ns: look::now_ns(), ..own.version };
        self.index.put(path.as_written(), Some(row), &new)?;
        self.changed_here(path, Some(&new), version, own.quick)?;
        Ok(Ok(Outcome::Later))
    }

    /// It is gone here as it is there.
    pub(super) fn removed(&mut self, path: &RelativePath, row: &Row) -> Step<()> {
        let mut new = row.clone();
        let seq = self.index.next_seq();
        let known = row.known().join(row.told_known());
        let version = Version::absent(look::now_ns());
        new.own = Some(Own { seq, known, version, quick: None });
        new.bits = 0;
        self.troubles.remove(path);
        self.report.changed();
        self.fetch.wake();
        self.store(path, Some(row), new)
    }
}

/// Removes our own leftovers in a directory; whether nothing else is in it.
fn emptied(dir: &Dir) -> Result<bool, Errno> {
    let mut is_empty = true;
    for listed in dir.list()? {
        if is_temporary(listed.name.as_bytes()) {
            remove_temporary(dir, &listed.name)?;
        } else {
            is_empty = false;
        }
    }
    Ok(is_empty)
}
