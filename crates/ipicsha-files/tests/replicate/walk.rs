//! What is in a directory, seen without anything of the engine.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use ipicsha_files::Hash;

/// What must be equal of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// Of a directory the time is not replicated: it changes with every entry.
    Directory {
        mode: u32,
        owner: (u32, u32),
    },
    Symlink {
        target: PathBuf,
        owner: (u32, u32),
    },
    File {
        mode: u32,
        owner: (u32, u32),
        mtime: (i64, i64),
        size: u64,
        hash: Hash,
        /// The first path of the same file.
        link: PathBuf,
    },
    /// Pipes and the like, which no writer of these tests makes.
    Other,
}

pub(crate) type Tree = BTreeMap<PathBuf, Fact>;

/// Everything beneath `root` but the engine's own files. What vanishes meanwhile is not there.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut links = HashMap::new();
    walk(root, Path::new(""), &mut |path, meta| {
        if let Ok(fact) = look(&root.join(path), path, meta, &mut links) {
            tree.insert(path.to_owned(), fact);
        }
    });
    tree
}

fn look(
    full: &Path,
    path: &Path,
    meta: &Metadata,
    links: &mut HashMap<u64, PathBuf>,
) -> io::Result<Fact> {
    // The setuid bit, and of files the setgid bit, do not travel.
    let bits = if meta.is_dir() { 0o3777 } else { 0o1777 };
    let (mode, owner) = (meta.mode() & bits, (meta.uid(), meta.gid()));
    if meta.is_dir() {
        return Ok(Fact::Directory { mode, owner });
    }
    if meta.is_symlink() {
        return Ok(Fact::Symlink { target: fs::read_link(full)?, owner });
    }
    if !meta.is_file() {
        return Ok(Fact::Other);
    }
    let bytes = fs::read(full)?;
    let link = links.entry(meta.ino()).or_insert_with(|| path.to_owned()).clone();
    let mtime = (meta.mtime(), meta.mtime_nsec());
    let (size, hash) = (bytes.len() as u64, Hash::of(&bytes));
    // Bits that let a program run as somebody else stay on the server where they were set.
    let mode = mode & 0o1777;
    Ok(Fact::File { mode, owner, mtime, size, hash, link })
}

/// In the order of names, a directory before what is in it.
fn walk(root: &Path, at: &Path, see: &mut impl FnMut(&Path, &Metadata)) {
    let Ok(list) = fs::read_dir(root.join(at)) else { return };
    let mut names: Vec<_> = list.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names.iter().filter(|name| !name.as_bytes().starts_with(b".ipicsha")) {
        let path = at.join(name);
        let Ok(meta) = fs::symlink_metadata(root.join(&path)) else { continue };
        see(&path, &meta);
        if meta.is_dir() {
            walk(root, &path, see);
        }
    }
}

impl Fact {
    /// Of a file that is not empty, because what is empty is nothing to lose.
    pub(crate) fn content(&self) -> Option<Hash> {
        match self {
            Self::File { size: 1.., hash, .. } => Some(*hash),
            Self::File { .. } | Self::Directory { .. } | Self::Symlink { .. } | Self::Other => None,
        }
    }
}

/// Contents of files, with one path of each.
pub(crate) fn contents(tree: &Tree) -> HashMap<Hash, PathBuf> {
    let content = |(path, fact): (&PathBuf, &Fact)| Some((fact.content()?, path.clone()));
    tree.iter().filter_map(content).collect()
}

/// What is not equal, in words; the first lines of it.
pub(crate) fn differences(a: &Tree, b: &Tree) -> Vec<String> {
    let mut paths: Vec<_> = a.keys().chain(b.keys()).collect();
    paths.sort();
    paths.dedup();
    let differing = paths.into_iter().filter(|path| a.get(*path) != b.get(*path));
    differing.map(|path| format!("{path:?}: {:?} | {:?}", a.get(path), b.get(path))).collect()
}
