//! One held directory, and everything that can be done with its entries by name.
//!
//! Decides that no entry is followed when it is a link. Must not know where the directory is.

use std::{
    fs::File,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, StatxFlags},
    io::Errno,
};

use crate::{
    meta::{Kind, Meta, Node},
    path::Name,
};

/// Bytes read of a directory at a time.
const LIST_BYTES: usize = 32 * 1024;

/// One entry as a directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Whether it is a directory, where the file system says so without being asked for more.
    pub directory: Option<bool>,
}

/// A held directory. Names given to it are single components.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    follow: bool,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    pub(crate) fn new(fd: OwnedFd, follow: bool) -> Self {
        Self { fd, follow }
    }

    /// Facts about the directory itself.
    ///
    /// # Errors
    /// The system refuses.
    pub fn meta(&self) -> Result<Meta, Errno> {
        Meta::of(&self.fd)
    }

    /// For changing the facts of the directory itself.
    ///
    /// # Errors
    /// The system refuses.
    pub fn node(&self) -> Result<Node<'_>, Errno> {
        match rustix::fs::fcntl_getfl(&self.fd)? {
            flags if flags.contains(OFlags::PATH) => {
                Ok(Node::Held(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?))
            }
            _ => Ok(Node::Open(self.fd.as_fd())),
        }
    }

    /// Facts about an entry; of a link, the link's own.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn entry(&self, name: &Name) -> Result<Meta, Errno> {
        self.stat(name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Facts about an entry; of a link, of what it leads to, wherever that is.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn followed(&self, name: &Name) -> Result<Meta, Errno> {
        self.stat(name, AtFlags::empty())
    }

    fn stat(&self, name: &Name, flags: AtFlags) -> Result<Meta, Errno> {
        let flags = flags | AtFlags::NO_AUTOMOUNT;
        rustix::fs::statx(&self.fd, name.as_bytes(), flags, StatxFlags::BASIC_STATS).map(Meta::from)
    }

    /// Facts about an entry, or `None` when there is no such entry.
    ///
    /// # Errors
    /// The system refuses.
    pub fn find(&self, name: &Name) -> Result<Option<Meta>, Errno> {
        match self.entry(name) {
            Ok(meta) => Ok(Some(meta)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Names in the directory, in no order.
    ///
    /// # Errors
    /// The directory may not be read.
    pub fn list(&self) -> Result<Vec<Listed>, Errno> {
        // A description of its own: several may list the same directory at a time.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, c".", flags, Mode::empty())?;
        let mut buffer = vec![MaybeUninit::uninit(); LIST_BYTES];
        let mut raw = RawDir::new(fd, &mut buffer);
        let mut found = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let kind = entry.file_type();
            let directory = (kind != FileType::Unknown).then_some(kind == FileType::Directory);
            // `.` and `..` are no names, so they fall out here.
            if let Ok(name) = Name::new(entry.file_name().to_bytes()) {
                found.push(Listed { name, directory });
            }
        }
        Ok(found)
    }

    /// Opens a regular file for reading. Never waits for the writer of a pipe; anything that is no
    /// regular file is refused with [`Errno::INVAL`].
    ///
    /// # Errors
    /// There is none, it is a link or no regular file, or the system refuses.
    pub fn open_file(&self, name: &Name) -> Result<File, Errno> {
        self.open_with(name, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// Opens a regular file for reading and writing in place.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_for_writing(&self, name: &Name) -> Result<File, Errno> {
        self.open_with(name, OFlags::RDWR | OFlags::NONBLOCK)
    }

    fn open_with(&self, name: &Name, access: OFlags) -> Result<File, Errno> {
        let mut flags = access | OFlags::CLOEXEC | OFlags::NOCTTY;
        if !self.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let fd = rustix::fs::openat(&self.fd, name.as_bytes(), flags, Mode::empty())?;
        if Meta::of(&fd)?.kind != Kind::File {
            return Err(Errno::INVAL);
        }
        Ok(File::from(fd))
    }

    /// Creates a file that must not exist yet, for reading and writing.
    ///
    /// # Errors
    /// The name is taken, or the system refuses.
    pub fn create_file(&self, name: &Name, mode: u32) -> Result<File, Errno> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::openat(&self.fd, name.as_bytes(), flags, mode).map(File::from)
    }

    /// Holds a directory in this one.
    ///
    /// # Errors
    /// There is none, it is a link, or the system refuses.
    pub fn child(&self, name: &Name) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = super::readable(|access| {
            rustix::fs::openat(&self.fd, name.as_bytes(), flags | access, Mode::empty())
        });
        fd.map(|fd| Self::new(fd, self.follow)).map_err(|e| super::linked(e, self, name.as_bytes()))
    }

    /// Holds an entry of any kind, without opening it.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn hold(&self, name: &Name) -> Result<Node<'static>, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name.as_bytes(), flags, Mode::empty()).map(Node::Held)
    }

    /// Holds what a link leads to, wherever that is: only for what the user of this machine asked
    /// for.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn hold_followed(&self, name: &Name) -> Result<Node<'static>, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name.as_bytes(), flags, Mode::empty()).map(Node::Held)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// The name is taken, or the system refuses.
    pub fn make_dir(&self, name: &Name, mode: u32) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.fd, name.as_bytes(), Mode::from_raw_mode(mode))
    }

    /// Makes a pipe, a socket, or a device node.
    ///
    /// # Errors
    /// The name is taken, or the system refuses: only root makes device nodes.
    pub fn make_node(
        &self,
        name: &Name,
        kind: Kind,
        mode: u32,
        node: (u32, u32),
    ) -> Result<(), Errno> {
        let device = rustix::fs::makedev(node.0, node.1);
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::mknodat(&self.fd, name.as_bytes(), kind.file_type(), mode, device)
    }

    /// Makes a symbolic link. What it leads to is not looked at.
    ///
    /// # Errors
    /// The name is taken, or the system refuses.
    pub fn make_symlink(&self, name: &Name, target: &[u8]) -> Result<(), Errno> {
        rustix::fs::symlinkat(target, &self.fd, name.as_bytes())
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// It is none, or the system refuses.
    pub fn read_link(&self, name: &Name) -> Result<Vec<u8>, Errno> {
        let target = rustix::fs::readlinkat(&self.fd, name.as_bytes(), Vec::new())?;
        Ok(target.into_bytes())
    }

    /// Gives the entry `name` a further name. A link is not followed.
    ///
    /// # Errors
    /// The new name is taken, it is on another file system, or the system refuses.
    pub fn hard_link(&self, name: &Name, to: &Self, new: &Name) -> Result<(), Errno> {
        let (old, new) = (name.as_bytes(), new.as_bytes());
        rustix::fs::linkat(&self.fd, old, &to.fd, new, AtFlags::empty())
    }

    /// Moves an entry over whatever has the new name, except a directory that is not empty.
    ///
    /// # Errors
    /// The system refuses.
    pub fn rename(&self, name: &Name, to: &Self, new: &Name) -> Result<(), Errno> {
        rustix::fs::renameat(&self.fd, name.as_bytes(), &to.fd, new.as_bytes())
    }

    /// Moves an entry to a name that must be free.
    ///
    /// # Errors
    /// [`Errno::EXIST`], or the system refuses.
    pub fn rename_new(&self, name: &Name, to: &Self, new: &Name) -> Result<(), Errno> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.fd, name.as_bytes(), &to.fd, new.as_bytes(), flags) {
            // File systems without it: look, then move.
            Err(Errno::INVAL) => match to.find(new)? {
                Some(_) => Err(Errno::EXIST),
                None => self.rename(name, to, new),
            },
            other => other,
        }
    }

    /// Swaps two entries, so that neither is ever missing.
    ///
    /// # Errors
    /// One is missing, or the file system cannot ([`Errno::INVAL`]).
    pub fn exchange(&self, name: &Name, to: &Self, other: &Name) -> Result<(), Errno> {
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(&self.fd, name.as_bytes(), &to.fd, other.as_bytes(), flags)
    }

    /// Removes an entry that is no directory.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn remove_file(&self, name: &Name) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name.as_bytes(), AtFlags::empty())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// It is not empty, or the system refuses.
    pub fn remove_dir(&self, name: &Name) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name.as_bytes(), AtFlags::REMOVEDIR)
    }

    /// Makes names in this directory survive a loss of power.
    ///
    /// # Errors
    /// The device failed.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&self.fd)
    }

    /// Makes everything on this directory's file system survive a loss of power.
    ///
    /// # Errors
    /// The device failed.
    pub fn sync_all(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.fd)
    }
}
