//! What is known of one file besides its content, and how it is given to another.
//!
//! Decides which facts there are. Must not know paths: everything is read from and written to a
//! handle that is already held, so that no name can be swapped in between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, Uid,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// Permission bits with setuid, setgid and sticky.
pub const MODE_BITS: u32 = 0o7777;

/// Kind of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link, never followed.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket of a Unix domain.
    Socket,
    /// Character device.
    CharacterDevice,
    /// Block device.
    BlockDevice,
}

impl Kind {
    fn from_mode(mode: u32) -> Self {
        match FileType::from_raw_mode(mode) {
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharacterDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::RegularFile | FileType::Unknown => Self::File,
        }
    }

    /// Device nodes.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharacterDevice | Self::BlockDevice)
    }

    /// Pipes and sockets.
    pub fn is_special(self) -> bool {
        matches!(self, Self::Fifo | Self::Socket)
    }

    /// For making a node of this kind.
    pub(crate) fn file_type(self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Directory => FileType::Directory,
            Self::Symlink => FileType::Symlink,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
            Self::CharacterDevice => FileType::CharacterDevice,
            Self::BlockDevice => FileType::BlockDevice,
        }
    }
}

/// A point in time, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

impl From<StatxTimestamp> for Time {
    fn from(time: StatxTimestamp) -> Self {
        Self { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
    }
}

/// What the file system says about one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Kind of entry.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything; cannot be set, so it shows edits that hide behind an old mtime.
    pub ctime: Time,
    /// Last reading.
    pub atime: Time,
    /// Bytes of content; length of the target of a symbolic link.
    pub size: u64,
    /// Blocks of 512 bytes that are really used.
    pub blocks: u64,
    /// File system it is on.
    pub device: u64,
    /// Number in that file system.
    pub inode: u64,
    /// Names it has.
    pub links: u64,
    /// Major and minor number, of device nodes.
    pub node: (u32, u32),
}

impl Meta {
    /// Of an open file, directory, or path-only handle.
    ///
    /// # Errors
    /// The system refuses.
    pub fn of(fd: impl AsFd) -> Result<Self, Errno> {
        rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(Self::from)
    }

    /// Whether fewer blocks are used than the size needs: there are holes.
    pub fn is_sparse(&self) -> bool {
        self.kind == Kind::File && self.blocks.saturating_mul(512) < self.size
    }

    /// Whether content may have changed between two looks at what should be the same file.
    pub fn same_content_as(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size, self.mtime, self.ctime)
            == (other.device, other.inode, other.size, other.mtime, other.ctime)
    }

    /// Identity that all hard links of a file share.
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

impl From<Statx> for Meta {
    fn from(stat: Statx) -> Self {
        let mode = u32::from(stat.stx_mode);
        Self {
            kind: Kind::from_mode(mode),
            mode: mode & MODE_BITS,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mtime: stat.stx_mtime.into(),
            ctime: stat.stx_ctime.into(),
            atime: stat.stx_atime.into(),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            links: u64::from(stat.stx_nlink),
            node: (stat.stx_rdev_major, stat.stx_rdev_minor),
        }
    }
}

/// A held entry whose facts can be changed.
#[derive(Debug)]
pub enum Node<'fd> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'fd>),
    /// Held by its path only (`O_PATH`): links, pipes, devices, and files without read permission.
    /// The system offers changes of these through `/proc/self/fd` alone.
    Held(OwnedFd),
}

impl Node<'_> {
    /// The handle.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => *fd,
            Self::Held(fd) => fd.as_fd(),
        }
    }

    /// The name under which the system offers the very entry that is held.
    pub(crate) fn own_path(fd: &OwnedFd) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    /// Sets the permission bits. Symbolic links have none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode & MODE_BITS);
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Held(fd) => rustix::fs::chmod(Self::own_path(fd), mode),
        }
    }

    /// Sets owner, group, or both.
    ///
    /// # Errors
    /// The system refuses: only root gives files away.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(self.fd(), c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    /// Sets the time of the last change of the content; the access time stays.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_mtime(&self, time: Time) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec {
                tv_sec: time.seconds,
                tv_nsec: i64::from(time.nanoseconds) as _,
            },
        };
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times),
            Self::Held(fd) => {
                let path = Self::own_path(fd);
                rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty())
            }
        }
    }
}
