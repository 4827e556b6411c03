//! From a root and a relative path to a held directory, without ever leaving the root.
//!
//! Decides how a directory is reached: in one call by the kernel (`openat2`), or name by name where
//! the kernel does not have it; directories in use stay held in a small cache. Must not know what is
//! done in the directory.

mod dir;

use std::{
    collections::BTreeMap,
    ops::Bound,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};

pub use dir::{Dir, Listed};

use crate::{meta::Meta, path::RelativePath};

/// Directories held at a time, far below the limit of open files.
const CACHE_MAX: usize = 256;
/// `openat2` says so when a directory was moved while it looked; it is asked again.
const AGAIN_MAX: usize = 8;

/// What is done with symbolic links between the root and the last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They are refused. Right for every path that somebody else named.
    Refuse,
    /// They are followed while they stay beneath the root.
    Beneath,
    /// They are followed anywhere: only for what the user of this machine asked for by option.
    Follow,
}

/// Whether a path may cross into another file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// It may.
    Cross,
    /// It may not.
    Stay,
}

/// A directory that nothing is ever done outside of.
#[derive(Debug)]
pub struct Root {
    top: Arc<Dir>,
    device: u64,
    links: Links,
    mounts: Mounts,
    /// Cleared for good when the kernel does not know `openat2`.
    whole: AtomicBool,
    cache: Mutex<BTreeMap<RelativePath, (u64, Arc<Dir>)>>,
    clock: AtomicU64,
}

impl Root {
    /// Holds the directory at `path`, which may itself be reached through links.
    ///
    /// # Errors
    /// It is no directory, or may not be searched.
    pub fn open(path: impl AsRef<Path>, links: Links, mounts: Mounts) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = readable(|access| {
            rustix::fs::openat(CWD, path.as_ref(), flags | access, Mode::empty())
        })?;
        Self::of(fd, links, mounts)
    }

    /// The root that `dir` becomes, with its own rules.
    ///
    /// # Errors
    /// The system refuses.
    pub fn at(dir: &Dir, links: Links, mounts: Mounts) -> Result<Self, Errno> {
        Self::of(rustix::io::fcntl_dupfd_cloexec(dir, 0)?, links, mounts)
    }

    fn of(fd: OwnedFd, links: Links, mounts: Mounts) -> Result<Self, Errno> {
        let device = Meta::of(&fd)?.device;
        Ok(Self {
            top: Arc::new(Dir::new(fd, links == Links::Follow)),
            device,
            links,
            mounts,
            whole: AtomicBool::new(true),
            cache: Mutex::default(),
            clock: AtomicU64::new(0),
        })
    }

    /// The root directory itself.
    pub fn top(&self) -> &Arc<Dir> {
        &self.top
    }

    /// File system of the root.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Holds the directory at `path`.
    ///
    /// # Errors
    /// A part of it is missing, no directory, a link that is not allowed, or on another file system
    /// where that is not allowed ([`Errno::XDEV`]).
    pub fn dir(&self, path: &RelativePath) -> Result<Arc<Dir>, Errno> {
        if path.is_root() {
            return Ok(Arc::clone(&self.top));
        }
        if let Some(dir) = self.cached(path) {
            return Ok(dir);
        }
        let dir = Arc::new(Dir::new(self.reach(path)?, self.links == Links::Follow));
        self.keep(path.clone(), &dir);
        Ok(dir)
    }

    /// Holds the directory that `path` is in.
    ///
    /// # Errors
    /// As [`Self::dir`].
    pub fn parent(&self, path: &RelativePath) -> Result<Arc<Dir>, Errno> {
        self.dir(&path.parent())
    }

    /// Lets go of the directory at `path` and of all beneath it, because they moved or went away.
    pub fn forget(&self, path: &RelativePath) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if path.is_root() {
            return cache.clear();
        }
        // All that begins with it comes right behind it, among others of which only the name does.
        let behind = cache.range((Bound::Included(path), Bound::Unbounded)).map(|(held, _)| held);
        let with_prefix =
            behind.take_while(|held| held.as_written().starts_with(path.as_written()));
        let gone: Vec<RelativePath> = with_prefix.filter(|p| p.is_within(path)).cloned().collect();
        gone.iter().for_each(|held| drop(cache.remove(held)));
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn cached(&self, path: &RelativePath) -> Option<Arc<Dir>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, dir) = cache.get_mut(path)?;
        *used = self.tick();
        Some(Arc::clone(dir))
    }

    /// Keeps a directory; of a full cache the half that was not used for longest goes.
    fn keep(&self, path: RelativePath, dir: &Arc<Dir>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_MAX {
            let mut used: Vec<u64> = cache.values().map(|(used, _)| *used).collect();
            used.sort_unstable();
            let middle = used[used.len() / 2];
            cache.retain(|_, (used, _)| *used > middle);
        }
        cache.insert(path, (self.tick(), Arc::clone(dir)));
    }

    /// From the nearest directory that is held.
    fn reach(&self, path: &RelativePath) -> Result<OwnedFd, Errno> {
        if let Some((parent, name)) = path.split() {
            let held =
                if parent.is_root() { Some(Arc::clone(&self.top)) } else { self.cached(&parent) };
            // A link that leaves its directory but not the root can be judged from the root only.
            if let Some(held) = held.filter(|_| self.links != Links::Beneath) {
                return self.step(&held, name.as_bytes());
            }
        }
        if self.whole.load(Ordering::Relaxed) && path.as_bytes().len() < 4096 {
            match self.at_once(path) {
                // Sandboxes that do not know the call refuse it with EPERM.
                Err(Errno::NOSYS | Errno::PERM) => self.whole.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        self.walk(path)
    }

    /// One name below a held directory; a single name needs no confinement but that of links.
    fn step(&self, held: &Dir, name: &[u8]) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.links != Links::Follow {
            flags |= OFlags::NOFOLLOW;
        }
        let open = |access| rustix::fs::openat(held, name, flags | access, Mode::empty());
        let fd = readable(open).map_err(|errno| linked(errno, held, name))?;
        self.check_mount(&fd)?;
        Ok(fd)
    }

    fn check_mount(&self, fd: &OwnedFd) -> Result<(), Errno> {
        match self.mounts {
            Mounts::Stay if Meta::of(fd)?.device != self.device => Err(Errno::XDEV),
            Mounts::Stay | Mounts::Cross => Ok(()),
        }
    }

    fn at_once(&self, path: &RelativePath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut resolve = ResolveFlags::NO_MAGICLINKS;
        match self.links {
            Links::Refuse => resolve |= ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Links::Beneath => resolve |= ResolveFlags::BENEATH,
            Links::Follow => {}
        }
        if self.mounts == Mounts::Stay {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let open = |access| {
            let (flags, path) = (flags | access, path.as_bytes());
            rustix::fs::openat2(&*self.top, path, flags, Mode::empty(), resolve)
        };
        let mut result = readable(open);
        for _ in 0..AGAIN_MAX {
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
            result = readable(open);
        }
        result
    }

    /// Name by name, for kernels and sandboxes without `openat2`. Links are refused here except
    /// where they may lead anywhere: only the kernel can follow them and stay beneath.
    fn walk(&self, path: &RelativePath) -> Result<OwnedFd, Errno> {
        let mut held = Arc::clone(&self.top);
        for name in path.names() {
            let fd = self.step(&held, name.as_bytes())?;
            held = Arc::new(Dir::new(fd, self.links == Links::Follow));
        }
        rustix::io::fcntl_dupfd_cloexec(&*held, 0)
    }
}

/// Opens for reading; a directory that may be searched but not read is still good for its entries.
fn readable(open: impl Fn(OFlags) -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    match open(OFlags::RDONLY) {
        Err(Errno::ACCESS) => open(OFlags::PATH),
        other => other,
    }
}

/// A link where a directory was expected is said as what it is: the kernel says `ENOTDIR`.
fn linked(errno: Errno, held: &Dir, name: &[u8]) -> Errno {
    let is_link = || rustix::fs::readlinkat(held, name, Vec::new()).is_ok();
    if errno == Errno::NOTDIR && is_link() { Errno::LOOP } else { errno }
}

#[cfg(test)]
mod tests;
