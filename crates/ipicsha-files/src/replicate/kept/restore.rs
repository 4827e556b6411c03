//! What is kept is listed, and put back.
//!
//! Decides that putting back is an ordinary change: what is there now is kept in its place, and the
//! times of what comes back are those of now, so that it is newer than everything the partner has.
//! Must not know whether a worker runs: it sees the change as every other.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;

use super::{
    super::{DirectoryConfig, KeptEntry, KeptReason, Refused},
    FOLDER, Kept, Locked, Take, carry,
    record::{self, Record, content_name},
    refused,
};
use crate::{
    facts::Facts,
    meta::{Kind, Time},
    path::{Name, RelativePath},
    resolve::{Dir, Links, Mounts, Root},
};

/// How often something may take the name again while an entry is put back.
const AGAIN_MAX: usize = 8;
const CHECK_STATE: &str = "check the disk and the permissions of the state folder";
const CHECK_ROOT: &str = "check the disk and the permissions of the directory, then try again";

/// What is kept of a directory, newest first. `state` is [`DirectoryConfig::state`].
///
/// # Errors
/// It cannot be read.
pub fn list_kept(state: &Path) -> Result<Vec<KeptEntry>, Refused> {
    list(&state.join(FOLDER)).map_err(|errno| {
        let doing = format!("cannot read the folder {}", state.join(FOLDER).display());
        refused(&doing, errno, CHECK_STATE)
    })
}

fn list(folder: &Path) -> Result<Vec<KeptEntry>, Errno> {
    let store = match Root::open(folder, Links::Refuse, Mounts::Stay) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let mut entries = Vec::new();
    for id in record::ids(store.top())?.into_iter().rev() {
        // One without a record just goes, or gets one when the store is opened.
        if let Some(record) = record::read(store.top(), id)? {
            entries.push(record.entry(id));
        }
    }
    Ok(entries)
}

/// Puts one back where it was, as an ordinary change of this server, and gives the path.
///
/// Directories above it that are missing are made again, like the one they are in. What is there
/// now is kept in its place; an empty directory that is there again only gets its facts back. The
/// content comes back with its owner, permissions and attributes; the times of all of it become
/// those of now.
///
/// # Errors
/// There is none of that number, its directory is gone, or the system refuses.
pub fn restore_kept(config: &DirectoryConfig, id: u64) -> Result<String, Refused> {
    let root = Root::open(&config.root, Links::Refuse, Mounts::Stay).map_err(|errno| {
        let doing = format!("cannot open the directory {}", config.root.display());
        refused(&doing, errno, "mount or create it, then try again")
    })?;
    let kept = Kept::open(&config.state, config.keep)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Time {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: now.subsec_nanos(),
    };
    let mut locked =
        kept.lock().map_err(|errno| refused("cannot lock the store", errno, CHECK_STATE))?;
    let path = locked.restore(&root, id, now)?.to_string();
    drop(locked);
    kept.settle().map_err(|errno| refused("cannot write to the disk", errno, CHECK_STATE))?;
    Ok(path)
}

impl Locked<'_> {
    pub(super) fn restore(
        &mut self,
        root: &Root,
        id: u64,
        now: Time,
    ) -> Result<RelativePath, Refused> {
        let doing = format!("cannot read what is kept as {id}");
        let found = self.store.find(&content_name(id));
        if found.map_err(|errno| refused(&doing, errno, CHECK_STATE))?.is_none() {
            return Err(Refused {
                message: format!("nothing is kept under the number {id}"),
                next_step: "see the numbers with `ipicsha trash list`".to_owned(),
            });
        }
        let record = self.record(id).map_err(|errno| refused(&doing, errno, CHECK_STATE))?;
        let Some((parent, name)) = record.path.split() else {
            return Err(Refused {
                message: format!("what is kept as {id} is the whole directory"),
                next_step: "copy what you need of it out of the state folder".to_owned(),
            });
        };
        let dir = make_parents(root, &parent).map_err(|errno| {
            let doing = format!("cannot make the directory {parent}");
            refused(&doing, errno, "move away what is in its place, then try again")
        })?;
        let restored = self.put_back(&dir, &name, id, &record, now);
        restored.map_err(|errno| {
            refused(&format!("cannot put back {}", record.path), errno, CHECK_ROOT)
        })?;
        Ok(record.path)
    }

    fn put_back(
        &mut self,
        dir: &Arc<Dir>,
        name: &Name,
        id: u64,
        record: &Record,
        now: Time,
    ) -> Result<(), Errno> {
        if self.gives_facts_only(dir, name, id)? {
            return self.remove(id, record.bytes);
        }
        let content = content_name(id);
        for _ in 0..AGAIN_MAX {
            if dir.find(name)?.is_some() {
                let why = (&record.path, KeptReason::Replaced, now.seconds);
                self.add(dir, name, Take::Away, why)?;
            }
            match self.move_out(dir, name, &content, now) {
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
                Ok(()) => {
                    dir.sync()?;
                    return self.remove(id, record.bytes);
                }
            }
        }
        Err(Errno::EXIST)
    }

    /// Where there is a directory again, an empty one must not take its place.
    fn gives_facts_only(&self, dir: &Dir, name: &Name, id: u64) -> Result<bool, Errno> {
        let content = content_name(id);
        let kept = self.store.entry(&content)?;
        let is_directory = |kind| kind == Kind::Directory;
        if !is_directory(kept.kind) || !dir.find(name)?.is_some_and(|meta| is_directory(meta.kind))
        {
            return Ok(false);
        }
        if !self.store.child(&content)?.list()?.is_empty() {
            return Ok(false);
        }
        let (uid, gid) = (Some(kept.uid), Some(kept.gid));
        let facts = Facts { uid, gid, mode: Some(kept.mode), ..Facts::default() };
        let node = dir.hold(name)?;
        let unset = facts.apply(&node, &dir.entry(name)?);
        unset.into_iter().next().map_or(Ok(true), |(_, errno)| Err(errno))
    }

    /// The content gets its times before its name, so that it is one change.
    fn move_out(
        &self,
        dir: &Arc<Dir>,
        name: &Name,
        content: &Name,
        now: Time,
    ) -> Result<(), Errno> {
        if self.store.meta()?.device == dir.meta()?.device {
            carry::set_times(self.store, content, now)?;
            match self.store.rename_new(content, dir, name) {
                Err(Errno::XDEV) => {}
                other => return other,
            }
        }
        let (temporary, _) = carry::copy_to(self.store, content, dir)?;
        let placed = carry::set_times(dir, &temporary, now)
            .and_then(|()| dir.rename_new(&temporary, dir, name));
        placed.inspect_err(|_| carry::clear(dir, &temporary))
    }
}

/// The directory at `path`; what is missing of it is made like the directory it is in.
fn make_parents(root: &Root, path: &RelativePath) -> Result<Arc<Dir>, Errno> {
    let mut at = RelativePath::root();
    let mut dir = Arc::clone(root.top());
    for name in path.names() {
        at = at.join(&name).map_err(|_| Errno::NAMETOOLONG)?;
        let above = dir;
        dir = match root.dir(&at) {
            Err(Errno::NOENT) => {
                make_like(&above, &name)?;
                root.dir(&at)?
            }
            other => other?,
        };
    }
    Ok(dir)
}

fn make_like(above: &Dir, name: &Name) -> Result<(), Errno> {
    let like = above.meta()?;
    match above.make_dir(name, 0o700) {
        Err(Errno::EXIST) => return Ok(()),
        other => other?,
    }
    let facts = Facts {
        uid: Some(like.uid),
        gid: Some(like.gid),
        mode: Some(like.mode),
        ..Facts::default()
    };
    let unset = facts.apply(&above.hold(name)?, &above.entry(name)?);
    unset.into_iter().next().map_or(Ok(()), |(_, errno)| Err(errno))
}
