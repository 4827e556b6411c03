//! Every directory beneath the root is listened to, whatever happens to directories.
//!
//! Decides what is listened to, in this order: cover a directory, list it, cover what is in it, give
//! the hint. An event only says which name to look at; what is there now counts. Must not know how
//! the kernel is asked ([`Ear`]), or what a file is.

use std::{
    collections::{BTreeSet, HashSet},
    hash::Hash,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    names, reach,
    shared::Shared,
    tree::{Id, ROOT, Tree},
};

/// Places that are polled; more of them are the whole root.
const BARE_MAX: usize = 256;

/// A directory that is not where it should be is looked for again after so long; its event comes any
/// moment.
const ASTRAY_AGAIN: Duration = Duration::from_millis(5);
/// After so long the tree is not believed any more. Time and not looks: while events pour in, one
/// look follows the other at once, and the event that explains it is still in the queue.
const ASTRAY_MAX: Duration = Duration::from_millis(200);

/// What the kernel is asked to listen to a directory.
pub(super) trait Ear {
    /// By which events name the directory.
    type Key: Clone + Eq + Hash;

    /// Listens to the directory from now on. Asked again, it gives the same key.
    fn cover(&mut self, dir: BorrowedFd<'_>) -> Result<Self::Key, Errno>;

    /// Listens to it no longer.
    fn uncover(&mut self, key: Self::Key);

    /// Takes events out of the kernel's queue while directories are listed, so that it does not fill.
    fn drain(&mut self);
}

/// What became of one name.
enum Seen {
    /// Nothing is there, or no directory, or none that may be looked into.
    Absent,
    /// A directory that was covered there before.
    Known(Id),
    /// A directory that was covered elsewhere, with all beneath it.
    Moved(Id),
    /// A directory that is covered from now on, and not listed yet.
    New(Id),
    /// A directory that cannot be covered: a limit is reached.
    Bare,
}

/// What an event says of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// It was made.
    Came,
    /// It was moved or removed, or nobody knows.
    Moved,
}

/// Which part of the tree is listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Directories that were not known.
    New,
    /// All, to find what events were lost for.
    All,
}

/// The covered tree.
pub(super) struct Cover<E: Ear> {
    pub(super) ear: E,
    pub(super) tree: Tree<E::Key>,
    root: OwnedFd,
    /// Directories that cannot be covered, topmost only.
    bare: BTreeSet<Vec<u8>>,
    /// Something contradicts the tree: list everything again.
    doubt: bool,
    round: u64,
    next_poll: Option<Instant>,
    /// Directories that were not where they should be when they were to be listed: they, or what
    /// they are in, were moved meanwhile, which is an event still to come.
    astray: BTreeSet<Id>,
    /// When it is enough, if some are astray.
    astray_until: Option<Instant>,
}

impl<E: Ear> Cover<E> {
    /// Covers the root and all beneath it.
    ///
    /// # Errors
    /// The root cannot be covered, or not even the directory of our own in it.
    pub(super) fn start(root: &OwnedFd, mut ear: E) -> Result<Self, Errno> {
        let tree = Tree::new(ear.cover(root.as_fd())?, inode(root)?);
        let root = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
        let mut cover = Self {
            ear,
            tree,
            root,
            bare: BTreeSet::new(),
            doubt: false,
            round: 0,
            next_poll: None,
            astray: BTreeSet::new(),
            astray_until: None,
        };
        // First of all, so that a limit does not leave us without cookies.
        let own = reach::directory(&cover.root, names::OWN);
        if matches!(cover.adopt(ROOT, names::OWN, own), Seen::Bare) {
            return Err(Errno::NOSPC);
        }
        cover.list(ROOT, Depth::New);
        Ok(cover)
    }

    /// Places that nothing listens to; the empty path is the root.
    pub(super) fn bare(&self) -> &BTreeSet<Vec<u8>> {
        &self.bare
    }

    /// Something contradicts what is known.
    pub(super) fn doubt(&mut self) {
        self.doubt = true;
    }

    /// The directory `id` is gone, as the kernel says.
    pub(super) fn forget(&mut self, id: Id) {
        for key in self.tree.remove(id) {
            self.ear.uncover(key);
        }
    }

    /// Looks what directory has the name now, and gives the hint.
    pub(super) fn look(&mut self, at: (Id, &[u8]), how: How, writer: Option<u32>, hints: &Shared) {
        let (parent, name) = at;
        let path = names::join(&self.tree.path(parent), name);
        let seen = match self.open(parent) {
            Ok(dir) => self.adopt(parent, name, reach::directory(dir, name)),
            Err(_) => Seen::Absent,
        };
        match seen {
            Seen::Known(_) if how == How::Came => hints.entry(&path, writer),
            Seen::Absent => hints.entry(&path, writer),
            // Also where it was before: in between somebody may have looked and not found it.
            Seen::Known(_) | Seen::Moved(_) => hints.subtree(&path),
            Seen::New(id) => {
                self.list(id, Depth::New);
                hints.subtree(&path);
            }
            Seen::Bare => {
                self.leave_bare(&path);
                hints.subtree(&path);
            }
        }
    }

    /// Opens a directory of the tree. One that is not where it should be is listed later, so that
    /// nothing is ever taken for being in a directory that it is not in.
    fn open(&mut self, id: Id) -> Result<OwnedFd, Errno> {
        let opened = reach::directory(&self.root, &self.tree.path(id));
        let is_it = |dir: &OwnedFd| inode(dir).is_ok_and(|inode| self.tree.is(id, inode));
        match opened {
            Ok(dir) if is_it(&dir) => Ok(dir),
            // It may not be read by us, wherever it is.
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => Err(errno),
            other => {
                self.astray.insert(id);
                Err(other.err().unwrap_or(Errno::STALE))
            }
        }
    }

    /// Lists directories that were astray, if they are where they should be by now.
    fn find_astray(&mut self, now: Instant, hints: &Shared) {
        for id in std::mem::take(&mut self.astray) {
            if self.tree.is_alive(id) && self.open(id).is_ok() {
                self.list(id, Depth::New);
                hints.subtree(&self.tree.path(id));
            }
        }
        if self.astray.is_empty() {
            self.astray_until = None;
        } else if now >= *self.astray_until.get_or_insert(now + ASTRAY_MAX) {
            self.doubt = true;
        }
    }

    /// Lists everything again if something contradicts what is known, and looks at what is not
    /// covered when it is time. Says when it will be time.
    pub(super) fn tend(
        &mut self,
        now: Instant,
        poll_every: Duration,
        hints: &Shared,
    ) -> Option<Instant> {
        if self.next_poll.is_some_and(|next| now >= next) {
            self.next_poll = None;
            self.retry_bare(hints);
        }
        self.find_astray(now, hints);
        if std::mem::take(&mut self.doubt) {
            self.list_all(hints);
        }
        if self.bare.is_empty() {
            self.next_poll = None;
        } else {
            self.next_poll.get_or_insert(now + poll_every);
        }
        let astray = (!self.astray.is_empty()).then_some(now + ASTRAY_AGAIN);
        [self.next_poll, astray].into_iter().flatten().min()
    }

    fn list_all(&mut self, hints: &Shared) {
        self.astray.clear();
        self.astray_until = None;
        self.round += 1;
        self.bare.clear();
        self.list(ROOT, Depth::All);
        for key in self.tree.sweep(self.round) {
            self.ear.uncover(key);
        }
        hints.everything();
        hints.all_cookies_seen();
    }

    /// Tries again to cover what could not be, and gives the hint to look there.
    fn retry_bare(&mut self, hints: &Shared) {
        for path in std::mem::take(&mut self.bare) {
            let (dir, name) = names::split(&path);
            match self.id_at(dir).filter(|_| !path.is_empty()) {
                Some(parent) => self.look((parent, name), How::Moved, None, hints),
                // The root stands for too many places, or the place is not where it was.
                None => self.doubt = true,
            }
        }
    }

    /// Gives the hint to look where nothing listens, and where it is not known what listens.
    pub(super) fn tell_uncertain(&self, hints: &Shared) {
        if self.doubt || !self.astray.is_empty() {
            hints.everything();
        }
        for path in &self.bare {
            hints.subtree(path);
        }
    }

    fn id_at(&self, path: &[u8]) -> Option<Id> {
        let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        names.try_fold(ROOT, |id, name| self.tree.child(id, name))
    }

    fn leave_bare(&mut self, path: &[u8]) {
        if self.bare.len() >= BARE_MAX {
            self.bare.clear();
            self.bare.insert(Vec::new());
        }
        if !self.bare.contains(&Vec::new()) {
            self.bare.insert(path.to_vec());
        }
    }

    fn list(&mut self, top: Id, depth: Depth) {
        let mut stack = vec![top];
        while let Some(id) = stack.pop() {
            self.ear.drain();
            if !self.tree.is_alive(id) {
                continue;
            }
            let path = self.tree.path(id);
            let opened = self.open(id);
            let listed = opened.and_then(|dir| Ok((reach::subdirectories(&dir)?, dir)));
            let (found, dir) = match listed {
                Ok(listed) => listed,
                Err(errno) if is_limit(errno) => {
                    // Forgotten, so that it is new, and listed, when it is tried again.
                    self.astray.remove(&id);
                    self.forget(id);
                    self.leave_bare(&path);
                    continue;
                }
                // It moved or went, which is an event of its own; or it may not be read by us.
                Err(_) => continue,
            };
            self.forget_missing(id, &found);
            for name in found {
                match self.adopt(id, &name, reach::directory(&dir, &name)) {
                    Seen::New(child) => stack.push(child),
                    Seen::Known(child) | Seen::Moved(child) if depth == Depth::All => {
                        stack.push(child);
                    }
                    Seen::Bare => self.leave_bare(&names::join(&path, &name)),
                    Seen::Known(_) | Seen::Moved(_) | Seen::Absent => {}
                }
            }
        }
    }

    /// Forgets children that are not in the directory any more. Where one moved to, another event
    /// says or said; kept here, it would be taken for covered wherever it is, and never be found.
    fn forget_missing(&mut self, id: Id, found: &[Box<[u8]>]) {
        let children = self.tree.children(id);
        if children.is_empty() {
            return;
        }
        let found: HashSet<&[u8]> = found.iter().map(|name| &**name).collect();
        for (_, child) in children.into_iter().filter(|(name, _)| !found.contains(&**name)) {
            self.forget(child);
        }
    }

    /// Brings the tree up to what was found at a name.
    fn adopt(&mut self, parent: Id, name: &[u8], opened: Result<OwnedFd, Errno>) -> Seen {
        let covered = opened.and_then(|dir| Ok((self.ear.cover(dir.as_fd())?, inode(&dir)?)));
        match covered {
            Ok((key, inode)) => self.place(parent, name, key, inode),
            Err(errno) => {
                if let Some(id) = self.tree.child(parent, name) {
                    self.forget(id);
                }
                if is_limit(errno) { Seen::Bare } else { Seen::Absent }
            }
        }
    }

    fn place(&mut self, parent: Id, name: &[u8], key: E::Key, inode: u64) -> Seen {
        let there = self.tree.child(parent, name);
        let seen = match self.tree.id_of(&key) {
            Some(id) if there == Some(id) => Seen::Known(id),
            // A directory in itself: names changed faster than they could be followed.
            Some(id) if self.tree.is_within(parent, id) => {
                self.doubt = true;
                Seen::Absent
            }
            Some(id) => {
                for gone in self.tree.move_to(id, parent, name) {
                    self.ear.uncover(gone);
                }
                Seen::Moved(id)
            }
            None => {
                if let Some(id) = there {
                    self.forget(id);
                }
                Seen::New(self.tree.insert((parent, name), key, inode, self.round))
            }
        };
        if let Seen::Known(id) | Seen::Moved(id) | Seen::New(id) = seen {
            self.tree.see(id, self.round);
        }
        seen
    }
}

fn inode(dir: &OwnedFd) -> Result<u64, Errno> {
    rustix::fs::fstat(dir).map(|stat| stat.st_ino)
}

/// More of something would be needed than the system gives.
fn is_limit(errno: Errno) -> bool {
    [Errno::NOSPC, Errno::NOMEM, Errno::MFILE, Errno::NFILE].contains(&errno)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tempfile::TempDir;

    use super::*;
    use crate::watch::{Hint, Options};

    /// Knows directories by inode, and hears nothing: tests say what happened.
    struct Deaf;

    impl Ear for Deaf {
        type Key = u64;

        fn cover(&mut self, dir: BorrowedFd<'_>) -> Result<u64, Errno> {
            Ok(rustix::fs::fstat(dir)?.st_ino)
        }

        fn uncover(&mut self, _: u64) {}

        fn drain(&mut self) {}
    }

    const EVERY: Duration = Duration::from_secs(10);

    /// A covered root with `a/b` in it, and a folder beside it.
    fn covered() -> (TempDir, Cover<Deaf>, Shared) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("root/a/b")).expect("directories");
        fs::create_dir(folder.path().join("beside")).expect("a folder");
        let root = reach::root(&folder.path().join("root")).expect("a root");
        let cover = Cover::start(&root, Deaf).expect("covered");
        let shared = Shared::new(&Options::default()).expect("an eventfd");
        (folder, cover, shared)
    }

    fn rename(folder: &Path, from: &str, to: &str) {
        fs::rename(folder.join(from), folder.join(to)).expect("renamed");
    }

    #[test]
    fn a_directory_that_left_unseen_is_forgotten_when_its_parent_is_found() {
        let (folder, mut cover, hints) = covered();
        let a = cover.tree.child(ROOT, b"a").expect("known");
        let b = cover.tree.child(a, b"b").expect("known");
        rename(folder.path(), "root/a", "root/x");
        rename(folder.path(), "root/x/b", "beside/b");
        // That `b` left is heard of before it is known where `a` is.
        cover.look((a, b"b"), How::Moved, None, &hints);
        assert!(cover.tree.is_alive(b));
        cover.look((ROOT, b"x"), How::Moved, None, &hints);
        cover.tend(Instant::now(), EVERY, &hints);
        assert_eq!((cover.tree.path(a), cover.tree.is_alive(b)), (b"x".to_vec(), false));
        assert!(!hints.take().contains(&Hint::Everything));
        assert_eq!(cover.tend(Instant::now(), EVERY, &hints), None);
    }

    #[test]
    fn a_directory_is_looked_for_until_its_event_came_and_not_for_ever() {
        let (folder, mut cover, hints) = covered();
        let a = cover.tree.child(ROOT, b"a").expect("known");
        rename(folder.path(), "root/a", "beside/a");
        cover.look((a, b"b"), How::Moved, None, &hints);
        let now = Instant::now();
        for _ in 0..100 {
            let again = cover.tend(now, EVERY, &hints);
            assert_eq!(again, Some(now + ASTRAY_AGAIN), "many events in a row are no reason");
        }
        assert!(!hints.take().contains(&Hint::Everything));
        assert_eq!(cover.tend(now + ASTRAY_MAX, EVERY, &hints), None);
        assert!(hints.take().contains(&Hint::Everything));
        assert!(!cover.tree.is_alive(a));
    }
}
