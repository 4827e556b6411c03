//! An independent look at a directory: what `find` and `getfattr` would say.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// What is compared of one entry.
pub(super) type Facts = (String, u32, u32, u32, i128, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65_536];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return Vec::new() };
    let names = names[..length].split(|b| *b == 0);
    let mut found = Vec::new();
    for name in names.filter(|n| n.starts_with(b"user.") || n.starts_with(b"system.posix_acl")) {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        found.push((name.to_vec(), value[..length].to_vec()));
    }
    found.sort();
    found
}

fn walk(top: &Path, at: &Path, found: &mut BTreeMap<Vec<u8>, Facts>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().as_bytes();
        if name == b".ipicsha" || crate::place::is_temporary(name) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let (kind, mtime, content) = if meta.is_dir() {
            walk(top, &path, found);
            ("directory", 0, Vec::new())
        } else if meta.is_symlink() {
            ("link", mtime, fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else if meta.is_file() {
            ("file", mtime, blake3::hash(&fs::read(&path).unwrap()).as_bytes().to_vec())
        } else {
            ("other", 0, Vec::new())
        };
        let below = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
        let facts =
            (kind.into(), meta.mode(), meta.uid(), meta.gid(), mtime, content, attributes(&path));
        found.insert(below, facts);
    }
}

/// Everything beneath a directory.
pub(super) fn tree(top: &Path) -> BTreeMap<Vec<u8>, Facts> {
    let mut found = BTreeMap::new();
    walk(top, top, &mut found);
    found
}

/// Paths that share an inode.
pub(super) fn groups(top: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut by_inode: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for path in tree(top).into_keys() {
        let full = top.join(std::ffi::OsStr::from_bytes(&path));
        let meta = fs::symlink_metadata(full).unwrap();
        if meta.is_file() && meta.nlink() > 1 {
            by_inode.entry(meta.ino()).or_default().push(path);
        }
    }
    let mut groups: Vec<_> = by_inode.into_values().collect();
    groups.sort();
    groups
}
