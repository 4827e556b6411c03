//! Directories beneath the root, as they are on the disk now.
//!
//! Decides how a directory is opened and listed for being covered: nothing is cached, no link and no
//! mount is crossed. Must not know what covers it.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags},
    io::Errno,
};

/// `openat2` says `EAGAIN` when a directory was moved while it looked.
const AGAIN_MAX: usize = 8;

/// Opens the root, which may itself be reached by links.
pub(super) fn root(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Opens the directory `path` beneath `at`, for listing.
pub(super) fn directory(at: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    beneath(at, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Holds the entry `path` beneath `at`, whatever it is, without opening it.
pub(super) fn entry(at: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    beneath(at, path, OFlags::PATH | OFlags::NOFOLLOW)
}

fn beneath(at: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    // A symbolic link at the end is held as itself, which the kernel allows with both flags only.
    let mut result = Err(Errno::AGAIN);
    for _ in 0..AGAIN_MAX {
        result = rustix::fs::openat2(&at, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

/// Names in a directory that may be directories.
pub(super) fn subdirectories(dir: impl AsFd) -> Result<Vec<Box<[u8]>>, Errno> {
    names(dir, |kind| matches!(kind, FileType::Directory | FileType::Unknown))
}

/// Names in a directory of entries of some kind.
pub(super) fn names(
    dir: impl AsFd,
    select: impl Fn(FileType) -> bool,
) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && select(entry.file_type()) {
            names.push(name.into());
        }
    }
    Ok(names)
}
