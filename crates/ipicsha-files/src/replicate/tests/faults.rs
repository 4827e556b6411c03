//! Failures that no file system of a test machine can be made to show.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use crate::path::RelativePath;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    /// Making durable what is in a root.
    Sync,
    /// Listing a directory.
    List,
}

static REFUSED: Mutex<BTreeMap<(Call, PathBuf), Errno>> = Mutex::new(BTreeMap::new());

fn refused() -> MutexGuard<'static, BTreeMap<(Call, PathBuf), Errno>> {
    REFUSED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(call: Call, at: PathBuf) -> Result<(), Errno> {
    refused().get(&(call, at)).map_or(Ok(()), |errno| Err(*errno))
}

/// What making durable what is in a root is to say.
pub(crate) fn sync(root: &Path) -> Result<(), Errno> {
    check(Call::Sync, root.to_owned())
}

/// What listing a directory is to say.
pub(crate) fn list(root: &Path, at: &RelativePath) -> Result<(), Errno> {
    check(Call::List, root.join(at.to_string()))
}

/// The call fails there until this is dropped.
pub(crate) struct Fault(Call, PathBuf);

impl Fault {
    pub(crate) fn new(call: Call, at: &Path, errno: Errno) -> Self {
        refused().insert((call, at.to_owned()), errno);
        Self(call, at.to_owned())
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        refused().remove(&(self.0, self.1.clone()));
    }
}
