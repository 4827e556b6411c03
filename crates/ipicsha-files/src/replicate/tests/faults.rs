//! Failures that no file system of a test machine can be made to show.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

static SYNC: Mutex<BTreeMap<PathBuf, Errno>> = Mutex::new(BTreeMap::new());

fn syncs() -> MutexGuard<'static, BTreeMap<PathBuf, Errno>> {
    SYNC.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a sync of this directory's disk says.
pub(crate) fn sync(root: &Path) -> Result<(), Errno> {
    syncs().get(root).map_or(Ok(()), |errno| Err(*errno))
}

/// Its disk refuses every sync until this is dropped.
pub(crate) struct NoSync(PathBuf);

impl NoSync {
    pub(crate) fn of(root: &Path, errno: Errno) -> Self {
        syncs().insert(root.to_owned(), errno);
        Self(root.to_owned())
    }
}

impl Drop for NoSync {
    fn drop(&mut self) {
        syncs().remove(&self.0);
    }
}
