//! An entry goes from one directory to another, also to another file system, and is never missing.
//!
//! Decides the order: one rename where that is possible, else a copy with all facts that is on the
//! disk before anything of the original is removed. Must not know what is kept or why.

use std::{collections::HashMap, os::fd::AsFd, sync::Arc};

use rustix::io::Errno;

use crate::{
    attributes::{Attributes, Scope},
    facts::{Facts, Unset},
    meta::{Kind, Meta, Node, Time},
    path::{Name, RelativePath},
    place::{self, PlaceError, Ready, Sparse, Temp},
    resolve::{Dir, Links, Mounts, Root},
    scan::{Found, Walk},
};

/// How an entry arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// As a whole, and nothing is left of the original.
    Moved,
    /// As a whole, but something of the original changed meanwhile and is still there.
    Copied(Errno),
}

/// What was copied, as it was then.
type Copied = HashMap<RelativePath, Meta>;

/// Moves `name` of `dir` to the free name `new` of `to`.
///
/// # Errors
/// The system refuses, or a file changed while it was copied ([`Errno::BUSY`]); nothing arrived.
pub(super) fn move_to(
    dir: &Arc<Dir>,
    name: &Name,
    to: &Arc<Dir>,
    new: &Name,
) -> Result<Arrived, Errno> {
    match dir.rename_new(name, to, new) {
        Err(Errno::XDEV) => {}
        other => return other.map(|()| Arrived::Moved),
    }
    let (temporary, copied) = copy_to(dir, name, to)?;
    finish(to, &temporary, new)?;
    Ok(remove_copied(dir, name, &copied).map_or_else(Arrived::Copied, |()| Arrived::Moved))
}

/// Gives `name` of `dir`, which is no directory, the further free name `new` of `to`, or copies it.
///
/// # Errors
/// As [`move_to`].
pub(super) fn link_to(dir: &Arc<Dir>, name: &Name, to: &Arc<Dir>, new: &Name) -> Result<(), Errno> {
    match dir.hard_link(name, to, new) {
        Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    let (temporary, _) = copy_to(dir, name, to)?;
    finish(to, &temporary, new)
}

/// Gives a copy its name, durably.
fn finish(to: &Arc<Dir>, temporary: &Name, new: &Name) -> Result<(), Errno> {
    let finished = to.rename_new(temporary, to, new).and_then(|()| to.sync());
    finished.inspect_err(|_| clear(to, temporary))
}

/// Copies an entry with everything beneath it to a temporary name in `to`, onto the disk.
///
/// # Errors
/// As [`move_to`].
pub(super) fn copy_to(dir: &Arc<Dir>, name: &Name, to: &Arc<Dir>) -> Result<(Name, Copied), Errno> {
    let meta = dir.entry(name)?;
    if meta.kind == Kind::Directory {
        return copy_tree(dir, name, to, &meta);
    }
    let temporary = copy_single(dir, name, to, &meta)?;
    Ok((temporary, Copied::from([(RelativePath::root(), meta)])))
}

fn copy_tree(
    dir: &Arc<Dir>,
    name: &Name,
    to: &Arc<Dir>,
    meta: &Meta,
) -> Result<(Name, Copied), Errno> {
    if meta.device != dir.meta()?.device {
        return Err(Errno::XDEV);
    }
    let temporary = place::hold_new(to, |temporary| to.make_dir(temporary, 0o700))?.release();
    let copied = copy_beneath(dir, name, to, &temporary, meta);
    let copied = copied.and_then(|copied| to.sync_all().map(|()| copied));
    match copied {
        Ok(copied) => Ok((temporary, copied)),
        Err(errno) => {
            clear(to, &temporary);
            Err(errno)
        }
    }
}

fn copy_beneath(
    dir: &Dir,
    name: &Name,
    to: &Dir,
    new: &Name,
    meta: &Meta,
) -> Result<Copied, Errno> {
    let from = Root::at(&dir.child(name)?, Links::Refuse, Mounts::Stay)?;
    let into = Root::at(&to.child(new)?, Links::Refuse, Mounts::Stay)?;
    let mut copied = Copied::from([(RelativePath::root(), meta.clone())]);
    let mut directories = vec![(RelativePath::root(), meta.clone())];
    for found in Walk::new(&from) {
        let (path, entry) = match found {
            Found::Entry(path, entry) => (path, entry),
            Found::Mount(_) => return Err(Errno::XDEV),
            Found::Problem(problem) => return Err(problem.errno),
        };
        let (source, target) = (from.parent(&path)?, into.parent(&path)?);
        if entry.meta.kind == Kind::Directory {
            target.make_dir(&entry.name, 0o700)?;
            directories.push((path.clone(), entry.meta.clone()));
        } else {
            let temporary = copy_single(&source, &entry.name, &target, &entry.meta)?;
            target.rename(&temporary, &target, &entry.name)?;
        }
        copied.insert(path, entry.meta);
    }
    // Filling a directory changes its time, so the deepest get their facts first.
    for (path, meta) in directories.iter().rev() {
        let (source, target) = (from.dir(path)?, into.dir(path)?);
        give_facts(&source.node()?, meta, &target.node()?)?;
    }
    Ok(copied)
}

/// Copies what is no directory to a temporary name; a file alone is on the disk then.
fn copy_single(dir: &Arc<Dir>, name: &Name, to: &Arc<Dir>, meta: &Meta) -> Result<Name, Errno> {
    match meta.kind {
        Kind::File => copy_file(dir, name, to, meta),
        Kind::Symlink => {
            let target = dir.read_link(name)?;
            copy_node(dir, name, to, meta, |new| to.make_symlink(new, &target))
        }
        Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => {
            let make = |new: &Name| to.make_node(new, meta.kind, 0o600, meta.node);
            copy_node(dir, name, to, meta, make)
        }
        Kind::Directory => Err(Errno::ISDIR),
    }
}

fn copy_node(
    dir: &Arc<Dir>,
    name: &Name,
    to: &Arc<Dir>,
    meta: &Meta,
    make: impl FnMut(&Name) -> Result<(), Errno>,
) -> Result<Name, Errno> {
    let hold = place::hold_new(to, make)?;
    give_facts(&dir.hold(name)?, meta, &to.hold(hold.name())?)?;
    Ok(hold.release())
}

fn copy_file(dir: &Arc<Dir>, name: &Name, to: &Arc<Dir>, meta: &Meta) -> Result<Name, Errno> {
    let file = dir.open_file(name)?;
    let sparse = if meta.is_sparse() { Sparse::Holes } else { Sparse::Full };
    let facts = facts_of(&Node::Open(file.as_fd()), meta)?;
    let copied = || -> Result<(Ready, Vec<Unset>), PlaceError> {
        let mut temp = Temp::create(to, sparse, false)?;
        temp.copy(&file, 0, meta.size)?;
        temp.finish(None, &facts)
    };
    let (ready, unset) = match copied() {
        Ok(copied) => copied,
        Err(PlaceError::Mismatch) => return Err(Errno::BUSY),
        Err(PlaceError::System(errno)) => return Err(errno),
    };
    tolerate(unset)?;
    if !Meta::of(&file)?.same_content_as(meta) {
        return Err(Errno::BUSY);
    }
    rustix::fs::fsync(ready.file())?;
    Ok(ready.release())
}

fn facts_of(node: &Node<'_>, meta: &Meta) -> Result<Facts, Errno> {
    let lists = (meta.kind != Kind::Symlink).then(|| Attributes::read(node, Scope::AccessLists));
    Ok(Facts {
        uid: Some(meta.uid),
        gid: Some(meta.gid),
        mode: Some(meta.mode),
        mtime: Some(meta.mtime),
        access_lists: lists.transpose()?,
        extended: Some(Attributes::read(node, Scope::Extended)?),
        user: None,
    })
}

fn give_facts(from: &Node<'_>, meta: &Meta, to: &Node<'_>) -> Result<(), Errno> {
    let facts = facts_of(from, meta)?;
    tolerate(facts.apply(to, &Meta::of(to.fd())?))
}

/// An owner that only root can set, or attributes that the file system does not have, are no reason
/// to keep nothing at all. A disk that is full or broken is.
fn tolerate(unset: Vec<Unset>) -> Result<(), Errno> {
    let mut serious = unset.into_iter().map(|(_, errno)| errno);
    let is_serious = |errno: &Errno| matches!(*errno, Errno::NOSPC | Errno::DQUOT | Errno::IO);
    serious.find(is_serious).map_or(Ok(()), Err)
}

/// Removes exactly what was copied; what changed since stays, with the directories above it.
pub(super) fn remove_copied(dir: &Arc<Dir>, name: &Name, copied: &Copied) -> Result<(), Errno> {
    let mut paths: Vec<&RelativePath> = copied.keys().filter(|path| !path.is_root()).collect();
    paths.sort_unstable_by_key(|path| std::cmp::Reverse(path.depth()));
    if !paths.is_empty() {
        let root = Root::at(&dir.child(name)?, Links::Refuse, Mounts::Stay)?;
        for path in paths {
            let Some((parent, name)) = path.split() else { continue };
            remove_same(&*root.dir(&parent)?, &name, &copied[path])?;
        }
    }
    remove_same(dir, name, &copied[&RelativePath::root()])
}

fn remove_same(dir: &Dir, name: &Name, meta: &Meta) -> Result<(), Errno> {
    if meta.kind == Kind::Directory {
        return dir.remove_dir(name);
    }
    match dir.find(name)? {
        Some(now) if now.same_content_as(meta) => dir.remove_file(name),
        Some(_) => Err(Errno::BUSY),
        None => Ok(()),
    }
}

/// Removes an entry with everything beneath it, but nothing on another file system.
///
/// # Errors
/// The system refuses; a part of it may be gone.
pub(super) fn remove(dir: &Dir, name: &Name) -> Result<(), Errno> {
    match dir.find(name)? {
        None => return Ok(()),
        Some(meta) if meta.kind != Kind::Directory => return dir.remove_file(name),
        Some(meta) => open_up(dir, name, &meta),
    }
    let root = Root::at(&dir.child(name)?, Links::Refuse, Mounts::Stay)?;
    let mut directories = Vec::new();
    let walk = Walk::selected(&root, |path, entry| {
        if let Ok(parent) = root.parent(path) {
            open_up(&parent, &entry.name, &entry.meta);
        }
        true
    });
    for found in walk {
        match found {
            Found::Entry(path, entry) if entry.meta.kind == Kind::Directory => {
                directories.push(path)
            }
            Found::Entry(path, entry) => root.parent(&path)?.remove_file(&entry.name)?,
            Found::Mount(_) => return Err(Errno::BUSY),
            Found::Problem(problem) => return Err(problem.errno),
        }
    }
    for path in directories.iter().rev() {
        let Some((parent, name)) = path.split() else { continue };
        root.dir(&parent)?.remove_dir(&name)?;
    }
    dir.remove_dir(name)
}

/// Removes what is of no use any more; an error before this one counts, and what stays under a
/// temporary name goes as every leftover.
pub(super) fn clear(dir: &Dir, temporary: &Name) {
    let _ = remove(dir, temporary);
}

/// A directory that its owner may not look into could not be removed by anyone but root.
fn open_up(dir: &Dir, name: &Name, meta: &Meta) {
    if meta.kind == Kind::Directory && meta.mode & 0o700 != 0o700 {
        // What cannot be opened is told when it is listed.
        let _ = dir.hold(name).and_then(|node| node.set_mode(meta.mode | 0o700));
    }
}

/// Bytes of content of an entry with everything beneath it, as far as they can be seen.
pub(super) fn bytes(dir: &Dir, name: &Name, meta: &Meta) -> u64 {
    let size = |meta: &Meta| if meta.kind == Kind::File { meta.size } else { 0 };
    if meta.kind != Kind::Directory {
        return size(meta);
    }
    let root = dir.child(name).and_then(|dir| Root::at(&dir, Links::Refuse, Mounts::Stay));
    let Ok(root) = root else { return 0 };
    let sizes = Walk::new(&root).map(|found| match found {
        Found::Entry(_, entry) => size(&entry.meta),
        Found::Mount(_) | Found::Problem(_) => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

/// Sets the times of an entry and of everything beneath it, the deepest first.
///
/// # Errors
/// The system refuses.
pub(super) fn set_times(dir: &Dir, name: &Name, time: Time) -> Result<(), Errno> {
    if dir.entry(name)?.kind == Kind::Directory {
        let root = Root::at(&dir.child(name)?, Links::Refuse, Mounts::Stay)?;
        for found in Walk::new(&root) {
            if let Found::Entry(path, entry) = found {
                root.parent(&path)?.hold(&entry.name)?.set_mtime(time)?;
            }
        }
    }
    dir.hold(name)?.set_mtime(time)
}
