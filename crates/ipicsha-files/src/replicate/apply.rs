//! The partner's version of one entry is made here.
//!
//! Decides how: from what is here already, or with a content that is asked for. Before anything is
//! made, what is there must still be what the index says; if not, that is a change and is decided
//! first. Must not know which of two versions stays.

use std::sync::Arc;

use ipicsha_core::{
    file::{Contents, Version},
    file_policy::{FileDecision, decide},
};
use rustix::io::Errno;

use super::{
    KeptReason,
    engine::{Engine, Step},
    fetch::Outcome,
    look::{self, Care, Seen},
    notice::meta_of,
    place_here::Waiting,
    row::{self, HELD_HERE, Quick, REPAIR, Row, SILENT, Want},
};
use crate::{
    attributes::{Attributes, Scope},
    facts::{Facts, Unset},
    meta::{Kind, Meta},
    path::{Name, RelativePath},
    place::{PlaceError, Sparse, Temp, hold_new},
    resolve::{Dir, Root},
    sync::message::OwnerKind,
};

/// Files up to this size are written as they are: looking for holes is not worth it.
const FULL_BYTES_MAX: u64 = 64 * 1024;

/// What is to be made, and where.
pub(super) struct Spot {
    pub(super) path: RelativePath,
    pub(super) dir: Arc<Dir>,
    pub(super) name: Name,
    pub(super) row: Row,
    pub(super) version: Version,
    /// What is there now, as the index says.
    pub(super) before: Option<Meta>,
}

/// A result that either the system or the index spoils.
pub(super) type Made = Step<Result<Outcome, Errno>>;

impl Engine {
    /// Makes the partner's version of the entry at `path`.
    pub(super) fn take(&mut self, path: &RelativePath) -> Made {
        let Some(root) = self.root.clone() else { return Ok(Ok(Outcome::Later)) };
        let Some(row) = self.index.get(path.as_written())? else { return Ok(Ok(Outcome::Done)) };
        let (Want::Take, Some(told), Some((parent, name))) = (row.want, &row.told, path.split())
        else {
            return Ok(Ok(Outcome::Done));
        };
        if self.sieve.excludes(&root, path, told.version.contents.is_directory()) {
            self.acknowledge_left(path, &row)?;
            return Ok(Ok(Outcome::Done));
        }
        let dir = match root.dir(&parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return self.make_parent(&root, &parent),
            // Something else has the name of its directory until that is made.
            Err(Errno::NOTDIR | Errno::LOOP) if self.is_wanted(&parent)? => {
                return Ok(Ok(Outcome::Later));
            }
            Err(errno) => return Ok(Err(errno)),
        };
        let before = match self.as_indexed(&dir, &name, path, &row)? {
            Ok(Some(before)) => before,
            Ok(None) => return Ok(Ok(Outcome::Later)),
            Err(errno) => return Ok(Err(errno)),
        };
        let version = told.version.clone();
        let spot = Spot { path: path.clone(), dir, name, row, version, before };
        match &spot.version.contents {
            Contents::Absent => Ok(Ok(Outcome::Done)),
            Contents::Directory => self.make_directory(spot),
            Contents::Symlink { target } => {
                let target = target.clone();
                self.make_symlink(spot, &target)
            }
            Contents::File { size, hash } => {
                let (size, hash) = (*size, *hash);
                self.make_file(&root, spot, size, hash)
            }
        }
    }

    /// What is on the disk, if it is what the index says; else that is noticed first, and the
    /// answer is none.
    pub(super) fn as_indexed(
        &mut self,
        dir: &Arc<Dir>,
        name: &Name,
        path: &RelativePath,
        row: &Row,
    ) -> Step<Result<Option<Option<Meta>>, Errno>> {
        let now = match dir.find(name) {
            Ok(now) => now,
            Err(errno) => return Ok(Err(errno)),
        };
        let own = row.own.as_ref().filter(|_| row.is_present());
        let quick = own.and_then(|own| own.quick.as_ref());
        let as_indexed = match (&now, quick) {
            (None, None) => true,
            (None, Some(_)) => row.has(HELD_HERE),
            (Some(meta), Some(quick)) => quick.fits(meta),
            (Some(_), None) => false,
        };
        if as_indexed {
            return Ok(Ok(Some(now)));
        }
        let care = Care::Quick;
        let device = self.root.as_ref().map_or(0, |root| root.device());
        match look::look(dir, name, own, care, device, &self.owners) {
            Ok(Seen::Nothing) => {
                self.deleted_here(path, row)?;
                // What takes its name need not be a directory, and nobody would look beneath it.
                self.missing_beneath(path)?;
            }
            Ok(Seen::Large) | Ok(Seen::Changing) => self.scan.look_at(path.clone()),
            Ok(seen) => self.noticed(path, seen)?,
            Err(errno) => return Ok(Err(errno)),
        }
        self.fetch.wake();
        Ok(Ok(None))
    }

    fn is_wanted(&self, path: &RelativePath) -> Step<bool> {
        Ok(self.index.get(path.as_written())?.is_some_and(|row| row.want == Want::Take))
    }

    /// The directory above something that is wanted is missing.
    fn make_parent(&mut self, root: &Root, path: &RelativePath) -> Made {
        if self.is_wanted(path)? {
            return Ok(Ok(Outcome::Later));
        }
        let row = self.index.get(path.as_written())?;
        // It was deleted here while the partner worked in it: work is worth more.
        let Some((parent, name)) = path.split() else { return Ok(Err(Errno::NOENT)) };
        let dir = match root.dir(&parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return self.make_parent(root, &parent),
            Err(errno) => return Ok(Err(errno)),
        };
        let told = row.and_then(|row| row.told).map(|told| told.version);
        let mode = told.filter(|version| version.contents.is_directory()).map(|v| v.mode);
        match dir.make_dir(&name, mode.unwrap_or(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Ok(Err(errno)),
        }
        self.touch(&dir);
        let row = self.index.get(path.as_written())?;
        self.look(&dir, &name, path, row)?;
        self.fetch.wake();
        Ok(Ok(Outcome::Later))
    }

    fn make_directory(&mut self, spot: Spot) -> Made {
        let is_directory = spot.before.as_ref().is_some_and(|m| m.kind == Kind::Directory);
        if let (true, Some(before)) = (is_directory, &spot.before) {
            let facts = self.facts(&spot.version, Some(before));
            let result = spot.dir.child(&spot.name).and_then(|child| {
                let unset = facts.apply(&child.node()?, before);
                Ok((child.meta()?, unset))
            });
            let (meta, unset) = match result {
                Ok(result) => result,
                Err(errno) => return Ok(Err(errno)),
            };
            self.touch_facts(&spot.dir);
            self.mended(&spot, &meta, &unset)?;
            return Ok(Ok(Outcome::Done));
        }
        let facts = self.facts(&spot.version, None);
        let made = make_new_directory(&spot.dir, &facts);
        let (temporary, unset) = match made {
            Ok(made) => made,
            Err(errno) => return Ok(Err(errno)),
        };
        let put_aside = match spot.before {
            Some(_) => self.put_aside(&spot),
            None => Ok(()),
        };
        let placed = put_aside
            .and_then(|()| spot.dir.rename_new(&temporary, &spot.dir, &spot.name))
            .and_then(|()| spot.dir.entry(&spot.name));
        match placed {
            Ok(meta) => {
                self.touch(&spot.dir);
                self.took(&spot, &meta, &unset)?;
                Ok(Ok(Outcome::Done))
            }
            Err(errno) => {
                // An empty directory of ours; it is removed as a leftover if not now.
                let _ = spot.dir.remove_dir(&temporary);
                Ok(Err(errno))
            }
        }
    }

    fn make_symlink(&mut self, mut spot: Spot, target: &[u8]) -> Made {
        match self.clear_directory(&mut spot)? {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(Outcome::Later)),
            Err(errno) => return Ok(Err(errno)),
        }
        let facts = self.facts(&spot.version, None);
        let made =
            hold_new(&spot.dir, |name| spot.dir.make_symlink(name, target)).and_then(|hold| {
                let node = spot.dir.hold(hold.name())?;
                let unset = facts.apply(&node, &Meta::of(node.fd())?);
                Ok((hold, unset))
            });
        match made {
            Ok((hold, unset)) => self.place_held(spot, hold, &unset),
            Err(errno) => Ok(Err(errno)),
        }
    }

    fn make_file(&mut self, root: &Root, mut spot: Spot, size: u64, hash: [u8; 32]) -> Made {
        let same_content = spot.row.is_present() && spot.row.content() == Some(&hash);
        let link = spot.row.own.as_ref().and_then(|own| own.version.link.clone());
        if same_content
            && link == spot.version.link
            && !spot.row.has(SILENT)
            && let Some(before) = spot.before.clone()
        {
            return self.mend(spot, &before);
        }
        match self.clear_directory(&mut spot)? {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(Outcome::Later)),
            Err(errno) => return Ok(Err(errno)),
        }
        if let Some(first) = spot.version.link.clone() {
            match self.link_to(root, &spot, first, &hash)? {
                Ok(Some(hold)) => return self.place_held(spot, hold, &[]),
                Ok(None) => {}
                Err(None) => return Ok(Ok(Outcome::Later)),
                Err(Some(errno)) => return Ok(Err(errno)),
            }
        }
        if size == 0 {
            let temp = Temp::create(&spot.dir, Sparse::Full, true);
            return Ok(temp.and_then(|temp| self.finish_local(&spot, temp, hash)));
        }
        if let Some(result) = self.take_from_here(root, &spot, size, hash)? {
            return Ok(result);
        }
        let before = spot.before.clone();
        Ok(self.ask(&spot.path, &spot.dir, &spot.name, &spot.row, before))
    }

    /// Only facts differ: they are changed where the file is.
    fn mend(&mut self, spot: Spot, before: &Meta) -> Made {
        let facts = self.facts(&spot.version, Some(before));
        let result = spot.dir.hold(&spot.name).and_then(|node| {
            if Meta::of(node.fd())?.identity() != before.identity() {
                return Err(Errno::STALE);
            }
            let unset = facts.apply(&node, before);
            Ok((Meta::of(node.fd())?, unset))
        });
        let (meta, unset) = match result {
            Ok(result) => result,
            Err(errno) => return Ok(Err(errno)),
        };
        self.touch_facts(&spot.dir);
        self.mended(&spot, &meta, &unset)?;
        Ok(Ok(Outcome::Done))
    }

    /// A further name for the first file of the group, under a temporary one. `Err(None)`: the first
    /// is still to come.
    fn link_to(
        &mut self,
        root: &Root,
        spot: &Spot,
        first: Vec<u8>,
        hash: &[u8; 32],
    ) -> Step<Result<Option<crate::place::Hold>, Option<Errno>>> {
        let Ok(first) = RelativePath::try_from(first) else { return Ok(Ok(None)) };
        let Some(row) = self.index.get(first.as_written())? else { return Ok(Ok(None)) };
        if row.want == Want::Take || self.fetch.is_busy(&first) {
            return Ok(Err(None));
        }
        let quick = row.own.as_ref().and_then(|own| own.quick.as_ref());
        let is_there = meta_of(root, &first).zip(quick).is_some_and(|(meta, q)| q.fits(&meta));
        let (Some((parent, name)), true) = (first.split(), is_there && row.content() == Some(hash))
        else {
            return Ok(Ok(None));
        };
        let held = root
            .dir(&parent)
            .and_then(|from| hold_new(&spot.dir, |new| from.hard_link(&name, &spot.dir, new)));
        match held {
            Ok(hold) => Ok(Ok(Some(hold))),
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => Ok(Ok(None)),
            Err(errno) => Ok(Err(Some(errno))),
        }
    }

    /// The content is here already, under another name: it is moved where that one is to be deleted,
    /// and copied else.
    fn take_from_here(
        &mut self,
        root: &Root,
        spot: &Spot,
        size: u64,
        hash: [u8; 32],
    ) -> Step<Option<Result<Outcome, Errno>>> {
        for (other, row) in self.index.with_content(&hash)? {
            let Ok(other) = RelativePath::try_from(other) else { continue };
            let quick = row.own.as_ref().and_then(|own| own.quick.as_ref());
            let meta = meta_of(root, &other).zip(quick).filter(|(meta, q)| q.fits(meta));
            let (Some((meta, _)), Some((parent, name))) = (meta, other.split()) else { continue };
            if other == spot.path || row.has(SILENT) {
                continue;
            }
            let Ok(from) = root.dir(&parent) else { continue };
            let goes = matches!(row.want, Want::Remove | Want::Accepted) && meta.links == 1;
            if goes && spot.before.is_none() {
                return Ok(Some(self.move_here(spot, &from, &name, (&other, &row))?));
            }
            let sparse = if size > FULL_BYTES_MAX { Sparse::Holes } else { Sparse::Full };
            let copied = from.open_file(&name).map_err(PlaceError::from).and_then(|file| {
                let mut temp = Temp::create(&spot.dir, sparse, true)?;
                temp.copy(&file, 0, size)?;
                Ok(temp)
            });
            match copied {
                Ok(temp) => match self.finish_local(spot, temp, hash) {
                    // It is not what the index says; the partner has the right one.
                    Err(Errno::ILSEQ) => self.scan.look_at(other),
                    done => return Ok(Some(done)),
                },
                Err(PlaceError::System(errno @ (Errno::NOSPC | Errno::DQUOT))) => {
                    return Ok(Some(Err(errno)));
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn move_here(
        &mut self,
        spot: &Spot,
        from: &Arc<Dir>,
        name: &Name,
        (other, row): (&RelativePath, &Row),
    ) -> Made {
        if let Err(errno) = from.rename_new(name, &spot.dir, &spot.name) {
            return Ok(Err(errno));
        }
        self.touch(from);
        self.touch(&spot.dir);
        self.removed(other, row)?;
        let placed = spot.dir.hold(&spot.name).and_then(|node| {
            let before = Meta::of(node.fd())?;
            let unset = self.facts(&spot.version, Some(&before)).apply(&node, &before);
            Ok((Meta::of(node.fd())?, unset))
        });
        match placed {
            Ok((meta, unset)) => {
                self.touch_facts(&spot.dir);
                self.mended(spot, &meta, &unset)?;
                Ok(Ok(Outcome::Done))
            }
            Err(errno) => Ok(Err(errno)),
        }
    }

    /// A content from here is verified and waits for its name; [`Errno::ILSEQ`] when it is another.
    fn finish_local(&mut self, spot: &Spot, temp: Temp, hash: [u8; 32]) -> Result<Outcome, Errno> {
        let facts = self.facts(&spot.version, None);
        match temp.finish(Some(crate::hash::Hash::from_bytes(hash)), &facts) {
            Ok((ready, unset)) => {
                self.wait_for_name(Waiting {
                    path: spot.path.clone(),
                    name: spot.name.clone(),
                    version: spot.version.clone(),
                    known: spot.row.told_known(),
                    before: spot.before.clone(),
                    ready,
                    unset,
                });
                Ok(Outcome::UnderWay)
            }
            Err(PlaceError::Mismatch) => Err(Errno::ILSEQ),
            Err(PlaceError::System(errno)) => Err(errno),
        }
    }

    /// The facts that a version gets here. `before` is what it has, if it is there.
    pub(super) fn facts(&self, version: &Version, before: Option<&Meta>) -> Facts {
        let is_root = rustix::process::geteuid().is_root();
        let id = |kind, owner: &ipicsha_core::file::Owner| {
            owner.name.as_deref().and_then(|name| self.owners.id(kind, name)).unwrap_or(owner.id)
        };
        let is_link = matches!(version.contents, Contents::Symlink { .. });
        let is_directory = version.contents.is_directory();
        // Bits that never travel stay as an administrator of this server set them.
        let special = before.map_or(0, |meta| if is_directory { 0 } else { meta.mode & 0o6000 });
        let pairs = &version.attributes;
        Facts {
            uid: is_root.then(|| id(OwnerKind::User, &version.user)),
            gid: Some(id(OwnerKind::Group, &version.group)),
            mode: (!is_link).then_some(version.mode | special),
            mtime: (!is_directory).then(|| look::time_of(version.mtime_ns)),
            access_lists: (!is_link).then(|| Attributes::of(pairs, Scope::AccessLists)),
            user: (!is_link).then(|| Attributes::of(pairs, Scope::User)),
            extended: None,
        }
    }

    /// Why what is there has to be kept when it is replaced, if it has to.
    pub(super) fn reason(&self, spot: &Spot) -> Option<KeptReason> {
        self.reason_of(&spot.row, &spot.version)
    }

    pub(super) fn reason_of(&self, row: &Row, version: &Version) -> Option<KeptReason> {
        let own = row.own.as_ref().filter(|_| row.is_present())?;
        if row.has(SILENT) || row.has(REPAIR) {
            return Some(KeptReason::Repaired);
        }
        let told = row.told_known();
        let decision = decide((&own.version, own.known), (version, told), self.config.rank);
        let is_content = own.version.contents != version.contents;
        let reason = if decision == FileDecision::Lose {
            KeptReason::Conflict
        } else {
            KeptReason::Replaced
        };
        is_content.then_some(reason)
    }
}

fn make_new_directory(dir: &Arc<Dir>, facts: &Facts) -> Result<(Name, Vec<Unset>), Errno> {
    let hold = hold_new(dir, |name| dir.make_dir(name, 0o700))?;
    let name = hold.release();
    let made = dir.child(&name).and_then(|child| Ok(facts.apply(&child.node()?, &child.meta()?)));
    match made {
        Ok(unset) => Ok((name, unset)),
        Err(errno) => {
            let _ = dir.remove_dir(&name);
            Err(errno)
        }
    }
}

/// What of the facts could not be set, for the index.
pub(super) fn unset_bits(unset: &[Unset]) -> u8 {
    let bit = |(doing, _): &Unset| match *doing {
        "change the owner of" => row::UNSET_OWNER,
        "set the permissions of" => row::UNSET_MODE,
        "set the time of" => row::UNSET_TIME,
        _ => row::UNSET_ATTRIBUTES,
    };
    unset.iter().map(bit).fold(0, |all, bit| all | bit)
}

/// Facts of an entry that was just made.
pub(super) fn quick_of(meta: &Meta, unset: &[Unset]) -> Quick {
    Quick { unset: unset_bits(unset), ..Quick::of(meta) }
}
