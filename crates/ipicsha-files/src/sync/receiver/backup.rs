//! What is replaced or deleted is kept (`-b`).
//!
//! Decides where to. Must not know why it goes.

use std::{path::PathBuf, sync::Arc};

use rustix::io::Errno;

use super::Receiver;
use crate::{
    Facts,
    error::{AtPath, Problem},
    meta::{Kind, Meta},
    path::{Name, RelativePath},
    place::{self, PlaceError, Sparse, Temp},
    resolve::{Dir, Links, Root},
    sync::{
        channel::Channel,
        exit::Fatal,
        message::{ToReceiver, ToSender},
        options::Delete,
    },
};

/// Where replaced files go.
#[derive(Debug)]
pub(super) enum Backup {
    /// Beside the new ones, with a suffix.
    Beside,
    /// Into a tree of their own, which is made when it is first needed.
    Tree { path: PathBuf, root: Option<Arc<Root>> },
}

/// What becomes of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It keeps its name until it is replaced, so that it is never missing.
    Original,
    /// It will be written over, so the backup must be a copy.
    Copy,
    /// It goes.
    Nothing,
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    pub(super) fn open_backup(&mut self) -> Result<(), Fatal> {
        if !self.options.backup {
            return Ok(());
        }
        self.backup = Some(match &self.options.backup_dir {
            None => Backup::Beside,
            Some(dir) => {
                let path = self.options.territory.join(&self.destination.path, dir);
                Backup::Tree { path, root: None }
            }
        });
        Ok(())
    }

    /// Whether an entry is itself a backup, which is not backed up again.
    pub(super) fn is_backup(&self, name: &Name) -> bool {
        let (name, suffix) = (name.as_bytes(), &self.options.suffix);
        matches!(self.backup, Some(Backup::Beside))
            && name.len() > suffix.len()
            && name.ends_with(suffix)
    }

    /// Whether an entry is the tree of backups, which is never deleted.
    pub(super) fn is_backup_tree(&self, meta: &Meta) -> bool {
        let Some(Backup::Tree { path, .. }) = &self.backup else { return false };
        let tree = self.options.territory.open(path, Links::Refuse);
        let tree = tree.and_then(|root| root.top().meta());
        tree.is_ok_and(|tree| tree.identity() == meta.identity())
    }

    /// Keeps the entry `name` of `dir`, which is at `parent`.
    pub(super) fn back_up(
        &mut self,
        dir: &Arc<Dir>,
        parent: &RelativePath,
        name: &Name,
        keep: Keep,
    ) -> Result<(), Problem> {
        let path = parent.join(name).unwrap_or_else(|_| parent.clone());
        let new = Name::new(&[name.as_bytes(), &self.options.suffix].concat());
        let new = new.map_err(|_| Errno::NAMETOOLONG).at("back up", &path)?;
        let to = match &self.backup {
            Some(Backup::Beside) => Arc::clone(dir),
            Some(Backup::Tree { .. }) => self.backup_dir(parent).at("back up", &path)?,
            None => return Ok(()),
        };
        move_or_copy(dir, name, &to, &new, keep).at("back up", &path)?;
        let meets = matches!(self.options.delete, Some(Delete::During | Delete::Delay));
        if let (true, Some(Backup::Beside), Ok(made)) = (meets, &self.backup, parent.join(&new)) {
            self.own_backups.insert(made);
        }
        Ok(())
    }

    /// The directory in the backup tree that stands for `parent`, made like the original.
    fn backup_dir(&mut self, parent: &RelativePath) -> Result<Arc<Dir>, Errno> {
        let Some(Backup::Tree { path, root }) = &mut self.backup else { return Err(Errno::NOENT) };
        let tree = match root {
            Some(tree) => Arc::clone(tree),
            None => {
                self.options.territory.make_dirs(path)?;
                let tree = Arc::new(self.options.territory.open(path, Links::Refuse)?);
                *root = Some(Arc::clone(&tree));
                tree
            }
        };
        let mut at = RelativePath::root();
        let mut dir = Arc::clone(tree.top());
        for name in parent.names() {
            at = at.join(&name).map_err(|_| Errno::NAMETOOLONG)?;
            match tree.dir(&at) {
                Ok(below) => dir = below,
                Err(Errno::NOENT) => {
                    let original = self.root().and_then(|root| root.dir(&at).ok());
                    let mode = original.and_then(|dir| dir.meta().ok()).map_or(0o755, |m| m.mode);
                    dir.make_dir(&name, mode & 0o777 | 0o700)?;
                    dir = tree.dir(&at)?;
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(dir)
    }
}

fn move_or_copy(
    dir: &Arc<Dir>,
    name: &Name,
    to: &Arc<Dir>,
    new: &Name,
    keep: Keep,
) -> Result<(), Errno> {
    let meta = dir.entry(name)?;
    if keep == Keep::Copy && meta.kind == Kind::File {
        return copy(dir, name, to, new, &meta);
    }
    let moved = match keep {
        Keep::Nothing => dir.rename(name, to, new),
        Keep::Original | Keep::Copy => {
            let hold = place::hold_new(to, |temporary| dir.hard_link(name, to, temporary));
            hold.and_then(|hold| {
                // A backup of the same file is there already, and renaming does nothing then.
                if to.find(new)?.is_some_and(|old| old.identity() == meta.identity()) {
                    return Ok(());
                }
                to.rename(hold.name(), to, new)?;
                hold.release();
                Ok(())
            })
        }
    };
    match moved {
        Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {
            if meta.kind != Kind::File {
                return dir.rename(name, to, new);
            }
            copy(dir, name, to, new, &meta)?;
            if keep == Keep::Nothing { dir.remove_file(name) } else { Ok(()) }
        }
        other => other,
    }
}

/// A copy with all facts.
pub(super) fn copy(
    dir: &Dir,
    name: &Name,
    to: &Arc<Dir>,
    new: &Name,
    meta: &Meta,
) -> Result<(), Errno> {
    let facts = Facts {
        uid: Some(meta.uid),
        gid: Some(meta.gid),
        mode: Some(meta.mode),
        mtime: Some(meta.mtime),
        ..Facts::default()
    };
    let file = dir.open_file(name)?;
    let sparse = if meta.is_sparse() { Sparse::Holes } else { Sparse::Full };
    let mut temp = Temp::create(to, sparse, false)?;
    let copied = temp.copy(&file, 0, meta.size).and_then(|()| temp.finish(None, &facts));
    match copied {
        Ok((ready, _)) => ready.replace(new),
        Err(PlaceError::Mismatch) => Err(Errno::BUSY),
        Err(PlaceError::System(errno)) => Err(errno),
    }
}
