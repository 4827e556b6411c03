//! What is in a directory, and in a whole tree, in an order that never changes.
//!
//! Decides the order and what an entry that cannot be looked at means: it is named and the rest goes
//! on. Must not know why the tree is read. The truth about a tree is a scan, never an event.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    error::{AtPath, Problem},
    meta::{Kind, Meta},
    path::{self, Name, RelativePath},
    resolve::{Dir, Root},
};

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its facts; of a link, the link's own.
    pub meta: Meta,
    /// Where a symbolic link leads.
    pub target: Option<Vec<u8>>,
}

/// A directory as it was found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Ordered: everything else before directories.
    pub entries: Vec<Entry>,
    /// Entries that were listed and then could not be looked at.
    pub problems: Vec<Problem>,
}

impl Listing {
    /// Whether every entry is known: those that vanished meanwhile are not missed.
    pub fn is_complete(&self) -> bool {
        self.problems.iter().all(Problem::is_vanished)
    }
}

/// Reads the directory `dir`, which is at `at`.
///
/// # Errors
/// The directory cannot be listed; problems of single entries are in the listing.
pub fn list(dir: &Dir, at: &RelativePath) -> Result<Listing, Problem> {
    let mut listing = Listing::default();
    for listed in dir.list().at("list", at)? {
        match look(dir, at, &listed.name) {
            Ok(entry) => listing.entries.push(entry),
            Err(problem) => listing.problems.push(problem),
        }
    }
    let key = |entry: &Entry| entry.meta.kind == Kind::Directory;
    listing.entries.sort_unstable_by(|a, b| {
        path::order((a.name.as_bytes(), key(a)), (b.name.as_bytes(), key(b)))
    });
    Ok(listing)
}

/// Looks at one entry.
///
/// # Errors
/// It is gone, its path is too long, or the system refuses.
pub fn look(dir: &Dir, at: &RelativePath, name: &Name) -> Result<Entry, Problem> {
    let full = at
        .join(name)
        .map_err(|_| Problem::new("name", at.clone(), rustix::io::Errno::NAMETOOLONG))?;
    let meta = dir.entry(name).at("look at", &full)?;
    let is_link = meta.kind == Kind::Symlink;
    let target = is_link.then(|| dir.read_link(name).at("read the link", &full)).transpose()?;
    Ok(Entry { name: name.clone(), meta, target })
}

/// One finding of a [`Walk`].
#[derive(Debug)]
pub enum Found {
    /// An entry; the entries of a directory follow it, after those beside it that are none.
    Entry(RelativePath, Entry),
    /// A directory on another file system, which is not entered.
    Mount(RelativePath),
    /// Something could not be looked at; a directory that could not be listed is incomplete.
    Problem(Problem),
}

/// Whether an entry is told and, of a directory, entered.
type Select<'root> = dyn FnMut(&RelativePath, &Entry) -> bool + 'root;

/// Goes through a tree, a directory before its content, always in the same order.
pub struct Walk<'root> {
    root: &'root Root,
    /// Findings that are ready.
    ready: VecDeque<Found>,
    /// Directories to be read, the next one last.
    open: Vec<(RelativePath, Option<Entry>)>,
    select: Box<Select<'root>>,
}

impl<'root> Walk<'root> {
    /// Everything beneath `root`.
    pub fn new(root: &'root Root) -> Self {
        Self::selected(root, |_, _| true)
    }

    /// What `select` says of every entry decides whether it is told and, of a directory, entered.
    pub fn selected(
        root: &'root Root,
        select: impl FnMut(&RelativePath, &Entry) -> bool + 'root,
    ) -> Self {
        let open = vec![(RelativePath::root(), None)];
        Self { root, ready: VecDeque::new(), open, select: Box::new(select) }
    }

    fn read(&mut self, at: &RelativePath) {
        let dir: Result<Arc<Dir>, _> = self.root.dir(at).at("open", at);
        let listing = match dir.and_then(|dir| list(&dir, at)) {
            Ok(listing) => listing,
            Err(problem) => return self.ready.push_back(Found::Problem(problem)),
        };
        self.ready.extend(listing.problems.into_iter().map(Found::Problem));
        let mut below = Vec::new();
        for entry in listing.entries {
            // Looked at a moment ago, so the joined path is short enough.
            let Ok(path) = at.join(&entry.name) else { continue };
            if !(self.select)(&path, &entry) {
                continue;
            }
            if entry.meta.kind == Kind::Directory {
                below.push((path, Some(entry)));
            } else {
                self.ready.push_back(Found::Entry(path, entry));
            }
        }
        self.open.extend(below.into_iter().rev());
    }
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Some(found);
            }
            let (path, entry) = self.open.pop()?;
            let Some(entry) = entry else {
                self.read(&path);
                continue;
            };
            if entry.meta.device == self.root.device() {
                self.read(&path);
            } else {
                self.ready.push_back(Found::Mount(path.clone()));
            }
            return Some(Found::Entry(path, entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::resolve::{Links, Mounts};

    fn paths(walk: Walk<'_>) -> Vec<String> {
        walk.map(|found| match found {
            Found::Entry(path, _) => path.to_string(),
            Found::Mount(path) => format!("mount {path}"),
            Found::Problem(problem) => format!("! {problem}"),
        })
        .collect()
    }

    #[test]
    fn a_tree_is_read_in_one_order_and_links_are_not_entered() {
        let folder = tempfile::tempdir().expect("a folder");
        for directory in ["b/y", "a.x", "a/z"] {
            fs::create_dir_all(folder.path().join(directory)).expect("directories");
        }
        for file in ["zz", "b/f", "b/y/g", "a/z/h"] {
            fs::write(folder.path().join(file), "").expect("a file");
        }
        symlink("b", folder.path().join("link")).expect("a link");
        let root = Root::open(folder.path(), Links::Refuse, Mounts::Stay).expect("root");
        let all = ["link", "zz", "a.x", "a", "a/z", "a/z/h", "b", "b/f", "b/y", "b/y/g"];
        assert_eq!(paths(Walk::new(&root)), all);
        let without = Walk::selected(&root, |path, _| path.to_string() != "b");
        assert_eq!(paths(without), ["link", "zz", "a.x", "a", "a/z", "a/z/h"]);
        let link = look(root.top(), &RelativePath::root(), &Name::new(b"link").expect("a name"));
        assert_eq!(link.expect("facts").target, Some(b"b".to_vec()));
    }

    #[test]
    fn what_vanishes_is_told_apart_from_what_fails() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::open(folder.path(), Links::Refuse, Mounts::Stay).expect("root");
        let gone = Name::new(b"gone").expect("a name");
        let problem = look(root.top(), &RelativePath::root(), &gone).expect_err("it is not there");
        assert!(problem.is_vanished());
        assert_eq!(problem.to_string(), "cannot look at \"gone\": No such file or directory (2)");
        let refused = Problem::new("read", gone.into(), rustix::io::Errno::ACCESS);
        assert!(!refused.is_vanished());
    }

    #[test]
    fn another_file_system_is_named_and_not_entered() {
        // `/proc` is mounted wherever tests run.
        let root = Root::open("/", Links::Refuse, Mounts::Stay).expect("root");
        let only = |path: &RelativePath, _: &Entry| path.to_string().starts_with("proc");
        assert_eq!(paths(Walk::selected(&root, only)), ["proc", "mount proc"]);
        let proc = RelativePath::new(b"proc/self").expect("a path");
        assert_eq!(root.dir(&proc.parent()).map(drop), Err(rustix::io::Errno::XDEV));
    }
}
