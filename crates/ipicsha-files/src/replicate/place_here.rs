//! What is finished gets its name, many at a time.
//!
//! Decides when, and what becomes of what had the name before. The index says what is there only
//! after the disk has it for good. Must not know where a content came from.

use std::{sync::Arc, time::Instant};

use ipicsha_core::file::{Known, Version};
use rustix::io::Errno;

use super::{
    Event, KeptEntry, KeptReason,
    apply::{Made, Spot, quick_of},
    engine::{Engine, Step, now_unix, now_us},
    fetch::Outcome,
    row::{self, HELD_HERE, LEFT, Own, Quick, REPAIR, Row, SILENT},
};
use crate::{
    facts::{Facts, Unset},
    meta::{Kind, Meta},
    path::{Name, RelativePath},
    place::{Batch, Expected, Hold, PlaceError, Placed, Placement, Ready, Sparse, Temp},
    resolve::Dir,
};

/// So many bytes of finished files get their names together.
const BYTES_MAX: u64 = 64 << 20;

/// A finished file that waits for its name.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) path: RelativePath,
    pub(super) name: Name,
    pub(super) version: Version,
    pub(super) known: Known,
    /// What has the name now.
    pub(super) before: Option<Meta>,
    pub(super) ready: Ready,
    pub(super) unset: Vec<Unset>,
}

/// What is needed when it has its name.
struct Tag {
    path: RelativePath,
    version: Version,
    known: Known,
    unset: Vec<Unset>,
    /// The position of the row that was decided about.
    seq: Option<i64>,
}

impl Engine {
    /// A finished file waits for its name.
    pub(super) fn wait_for_name(&mut self, waiting: Waiting) {
        self.fetch.begun(&waiting.path);
        self.fetch.waiting_bytes += waiting.ready.length();
        self.fetch.waiting.push(waiting);
    }

    /// Gives names, if enough wait for them or nothing more comes.
    pub(super) fn place_waiting(&mut self, now: Instant) -> Step<()> {
        let many = self.fetch.waiting.len() >= self.fetch.waiting_max
            || self.fetch.waiting_bytes >= BYTES_MAX;
        if self.fetch.waiting.is_empty() || !many && !self.fetch.is_quiet() {
            return Ok(());
        }
        self.fetch.waiting_bytes = 0;
        let mut batch = Batch::default();
        let (mut paths, mut dirs) = (Vec::new(), Vec::new());
        for waiting in std::mem::take(&mut self.fetch.waiting) {
            self.fetch.ended(&waiting.path);
            let row = self.index.get(waiting.path.as_written())?.unwrap_or_default();
            // What came after it was asked for is decided anew.
            let is_wanted = row.told.as_ref().is_some_and(|told| told.known == waiting.known);
            if !is_wanted || row.want != row::Want::Take {
                self.fetch.wake();
                continue;
            }
            let dir = Arc::clone(waiting.ready.dir());
            let reason =
                self.reason_of(&row, &waiting.version).filter(|_| waiting.before.is_some());
            if let Err(errno) = self.keep_copy(&dir, &waiting.name, &waiting.path, reason) {
                self.failed(&waiting.path, "keep the old version of", errno);
                continue;
            }
            paths.push(waiting.path.clone());
            dirs.push(dir);
            let tag = Tag {
                path: waiting.path,
                version: waiting.version,
                known: waiting.known,
                unset: waiting.unset,
                seq: row.own.map(|own| own.seq),
            };
            let placement = match waiting.before {
                Some(_) if self.report.no_exchange => Placement::Replace,
                Some(before) => Placement::Exchange(Box::new(before)),
                None => Placement::New,
            };
            batch.push(waiting.ready, waiting.name, placement, tag, now);
        }
        let committed = self.kept.settle().and_then(|()| batch.commit());
        let outcomes = match committed {
            Ok(outcomes) => outcomes,
            Err(errno) => {
                self.none_placed(&paths, errno);
                return Ok(());
            }
        };
        if let Err(errno) = batch.settle() {
            // They have their names: what came out for them must be looked at all the same.
            dirs.iter().for_each(|dir| self.touch(dir));
            self.unsettled.refused(errno);
        }
        self.fetch.wake();
        outcomes.into_iter().try_for_each(|(tag, outcome)| self.placed(tag, outcome))
    }

    /// The disk did not take the contents: they are made again later.
    fn none_placed(&mut self, paths: &[RelativePath], errno: Errno) {
        self.unsettled.refused(errno);
        for path in paths {
            self.failed(path, "write", errno);
        }
        self.fetch.wake();
    }

    fn placed(&mut self, tag: Tag, outcome: Result<Placed, Errno>) -> Step<()> {
        let placed = match outcome {
            Ok(placed) => placed,
            Err(Errno::EXIST | Errno::NOENT) => {
                // Somebody made or removed something there: that is looked at first.
                self.scan.look_at(tag.path);
                return Ok(());
            }
            Err(Errno::INVAL) if !self.report.no_exchange => {
                self.report.no_exchange = true;
                return Ok(());
            }
            Err(errno) => {
                self.failed(&tag.path, "place", errno);
                return Ok(());
            }
        };
        let row = self.index.get(tag.path.as_written())?.unwrap_or_default();
        let changed_meanwhile = row.own.as_ref().map(|own| own.seq) != tag.seq;
        if let Some((hold, expected)) = placed.before {
            // What was to be kept was copied before; this is what nobody knew of.
            if expected == Expected::No || changed_meanwhile {
                self.keep_held(hold, &tag.path);
            }
        }
        if !self.is_at(&tag.path, &placed.meta) {
            // It got its name in a directory that was moved meanwhile.
            self.scan.look_at(tag.path);
            return Ok(());
        }
        let quick = self.as_made(&tag.version, &placed.meta, &tag.unset);
        self.took_as(&tag.path, row, (tag.version, tag.known), quick)
    }

    /// Something under a temporary name gets its own.
    pub(super) fn place_held(&mut self, spot: Spot, hold: Hold, unset: &[Unset]) -> Made {
        let dir = Arc::clone(&spot.dir);
        let reason = self.reason(&spot).filter(|_| spot.before.is_some());
        if let Err(errno) = self.keep_copy(&dir, &spot.name, &spot.path, reason) {
            return Ok(Err(errno));
        }
        if let Err(errno) = self.kept.settle() {
            return Ok(Err(errno));
        }
        let placed = match spot.before {
            None => dir.rename_new(hold.name(), &dir, &spot.name).map(|()| None),
            Some(_) => match dir.exchange(hold.name(), &dir, &spot.name) {
                // The file system cannot; for a moment the name is missing.
                Err(Errno::INVAL) => dir.rename(hold.name(), &dir, &spot.name).map(|()| None),
                other => other.map(Some),
            },
        };
        let hold = match placed {
            Ok(None) => {
                hold.release();
                None
            }
            Ok(Some(())) => Some(hold),
            Err(errno) => return Ok(Err(errno)),
        };
        self.touch(&dir);
        if let Some(hold) = hold {
            let out = dir.entry(hold.name());
            let facts = |m: &Meta| (m.inode, m.kind, m.size, m.mtime);
            let expected = out.ok().zip(spot.before.as_ref());
            let expected = expected.is_some_and(|(out, before)| facts(&out) == facts(before));
            if !expected {
                self.keep_held(hold, &spot.path);
            }
        }
        match dir.entry(&spot.name) {
            Ok(meta) => {
                self.took(&spot, &meta, unset)?;
                self.refresh_links(&spot.path, &meta)?;
                Ok(Ok(Outcome::Done))
            }
            Err(errno) => Ok(Err(errno)),
        }
    }

    /// A further name changes the facts that the others are known by.
    fn refresh_links(&mut self, path: &RelativePath, meta: &Meta) -> Step<()> {
        if meta.links < 2 {
            return Ok(());
        }
        for (other, row) in self.index.with_inode(meta.inode)? {
            let Some(own) = row.own.as_ref().filter(|_| other.as_slice() != path.as_written())
            else {
                continue;
            };
            let Some(quick) = own.quick.as_ref() else { continue };
            if (quick.size, quick.mtime) == (meta.size, meta.mtime) {
                let mut new = row.clone();
                let unset = quick.unset;
                let quick = Quick { unset, ..Quick::of(meta) };
                new.own = Some(Own { quick: Some(quick), ..own.clone() });
                self.index.put(&other, Some(&row), &new)?;
            }
        }
        Ok(())
    }

    /// What is about to be replaced is kept first, so that no crash can lose it.
    fn keep_copy(
        &mut self,
        dir: &Arc<Dir>,
        name: &Name,
        path: &RelativePath,
        reason: Option<KeptReason>,
    ) -> Result<(), Errno> {
        let Some(reason) = reason else { return Ok(()) };
        let entry = if has_other_names(&dir.entry(name)?) {
            let hold = apart(dir, name)?;
            self.kept.put_held(hold, path, reason, now_unix()).map_err(|not_kept| not_kept.errno)?
        } else {
            self.kept.put_copy(dir, name, path, reason, now_unix())?
        };
        self.tell_kept(entry);
        Ok(())
    }

    /// What the partner deleted goes, and is kept.
    pub(super) fn keep_deleted(
        &mut self,
        dir: &Arc<Dir>,
        name: &Name,
        path: &RelativePath,
        meta: &Meta,
    ) -> Result<(), Errno> {
        if has_other_names(meta) {
            self.keep_copy(dir, name, path, Some(KeptReason::Deleted))?;
            self.kept.settle()?;
            return dir.remove_file(name);
        }
        let entry = self.kept.put(dir, name, path, KeptReason::Deleted, now_unix())?;
        self.tell_kept(entry);
        Ok(())
    }

    /// What had the name before without anybody knowing is kept.
    pub(super) fn keep_held(&mut self, hold: Hold, path: &RelativePath) {
        match self.kept.put_held(hold, path, KeptReason::Conflict, now_unix()) {
            Ok(entry) => self.tell_kept(entry),
            Err(not_kept) => self.rescue(not_kept, path),
        }
    }

    /// Something was kept.
    pub(super) fn tell_kept(&mut self, entry: KeptEntry) {
        if entry.reason == KeptReason::Conflict {
            self.index.meta.conflicts += 1;
        }
        self.report.kept_changed();
        (self.events)(Event::Kept(entry));
    }

    /// The partner's version is here, newly made.
    pub(super) fn took(&mut self, spot: &Spot, meta: &Meta, unset: &[Unset]) -> Step<()> {
        let quick = self.as_made(&spot.version, meta, unset);
        self.took_spot(spot, quick)
    }

    /// What was here already has become the partner's version. Somebody may have changed it in the
    /// same moment, which its times do not show any more: whoever looks next reads it.
    pub(super) fn mended(&mut self, spot: &Spot, meta: &Meta, unset: &[Unset]) -> Step<()> {
        self.took_spot(spot, Quick { racy: true, ..quick_of(meta, unset) })
    }

    fn took_spot(&mut self, spot: &Spot, quick: Quick) -> Step<()> {
        let known = spot.row.told_known();
        let row = self.index.get(spot.path.as_written())?.unwrap_or_default();
        self.took_as(&spot.path, row, (spot.version.clone(), known), quick)
    }

    /// What a new entry is known by. When somebody changed it as soon as it had its name, it is not
    /// as it was made, and whoever looks next reads it.
    fn as_made(&self, version: &Version, meta: &Meta, unset: &[Unset]) -> Quick {
        let quick = quick_of(meta, unset);
        let facts = self.facts(version, None);
        let is = |bit, wanted: Option<u32>, now: u32| {
            quick.unset & bit != 0 || wanted.is_none_or(|wanted| wanted == now)
        };
        let special = if version.contents.is_directory() { 0 } else { 0o6000 };
        let is_as_made = is(row::UNSET_OWNER, facts.uid, meta.uid)
            && is(row::UNSET_OWNER, facts.gid, meta.gid)
            && is(row::UNSET_MODE, facts.mode, meta.mode & !special)
            && (quick.unset & row::UNSET_TIME != 0 || facts.mtime.is_none_or(|t| t == meta.mtime))
            && (meta.kind != Kind::File || row::size(version) == meta.size);
        Quick { racy: !is_as_made, ..quick }
    }

    fn took_as(
        &mut self,
        path: &RelativePath,
        row: Row,
        (version, known): (Version, Known),
        quick: Quick,
    ) -> Step<()> {
        if !version.contents.is_directory() {
            self.missing_beneath(path)?;
        }
        let mut known = row.known().join(known);
        if row.has(REPAIR) {
            known = known.changed(self.config.rank, self.index.next_counter(now_us()));
        }
        let seq = self.index.next_seq();
        let mut new = row.clone();
        new.own = Some(Own { seq, known, version, quick: Some(quick) });
        new.bits &= !(HELD_HERE | LEFT | SILENT | REPAIR);
        self.troubles.remove(path);
        self.left.remove(path);
        self.fetch.wake();
        self.report.changed();
        self.store(path, Some(&row), new)
    }
}

/// Whether it can change under another name. A symbolic link never changes.
fn has_other_names(meta: &Meta) -> bool {
    meta.kind == Kind::File && meta.links > 1
}

/// A copy of a file with several names, under a temporary one: what is kept must not change with the
/// names that stay.
fn apart(dir: &Arc<Dir>, name: &Name) -> Result<Hold, Errno> {
    let file = dir.open_file(name)?;
    let meta = Meta::of(&file)?;
    let facts = Facts {
        uid: Some(meta.uid),
        gid: Some(meta.gid),
        mode: Some(meta.mode),
        mtime: Some(meta.mtime),
        ..Facts::default()
    };
    let mut temp = Temp::create(dir, Sparse::Holes, false)?;
    let copied = temp.copy(&file, 0, meta.size).and_then(|()| temp.finish(None, &facts));
    match copied {
        Ok((ready, _)) => Ok(ready.into_hold()),
        Err(PlaceError::Mismatch) => Err(Errno::BUSY),
        Err(PlaceError::System(errno)) => Err(errno),
    }
}
