//! What the two halves of a transfer say to each other.
//!
//! Decides what is said, in an order that works between two threads as between two servers. Must not
//! know how it is carried. Paths and names are checked where they are made from bytes, so no message
//! can name anything outside the root of the half that receives it.

use serde::{Deserialize, Serialize};

use crate::{
    attributes::Attributes,
    delta::BlockSum,
    hash::Hash,
    meta::{Kind, Time},
    path::{Name, RelativePath},
};

/// Number of an entry that is no directory, counted through the transfer from 0.
pub type EntryId = u64;

/// Entries in one [`ToReceiver::Entries`].
pub const ENTRIES_MAX: usize = if cfg!(test) { 4 } else { 512 };
/// Files up to this size travel whole in packs.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// A pack is sent when its contents reach this.
pub const PACK_BYTES: usize = 256 * 1024;
/// Bytes of one [`ToReceiver::Data`].
pub const DATA_BYTES: usize = 256 * 1024;

/// One entry of a directory, as the sender has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Everything else.
    pub details: Details,
}

/// What the sender knows of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Its kind.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner at the sender.
    pub uid: u32,
    /// Group at the sender.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Bytes of content.
    pub size: u64,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Where a symbolic link leads.
    pub target: Option<Vec<u8>>,
    /// What all names of a file with several names share.
    pub identity: Option<(u64, u64)>,
    /// Of the content, when contents are to be compared.
    pub hash: Option<Hash>,
    /// Access lists, when they are preserved.
    pub access_lists: Option<Attributes>,
    /// Extended attributes, when they are preserved.
    pub extended: Option<Attributes>,
}

/// Whether a number names a user or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OwnerKind {
    /// A user.
    User,
    /// A group.
    Group,
}

/// Name of an owner at the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerName {
    /// User or group.
    pub kind: OwnerKind,
    /// Number at the sender.
    pub id: u32,
    /// Name at the sender.
    pub name: String,
}

/// How much of a directory is in its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listed {
    /// Everything that takes part: what is not named does not exist.
    Whole,
    /// Not everything, because something failed or the directory was not gone into.
    Part,
}

/// What the sources are, before anything else: decides what the destination must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Number of entries at the top.
    pub entries: u64,
    /// Whether one of them is a directory.
    pub directories: bool,
}

/// A whole small file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Small {
    /// Which.
    pub id: EntryId,
    /// All its bytes.
    #[serde(with = "crate::bytes")]
    pub content: Vec<u8>,
    /// Their hash.
    pub hash: Hash,
}

/// From the half that has the files to the half that makes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToReceiver {
    /// First of all.
    Begin(Begin),
    /// A directory begins. Directories come before their content, in the order of the scan.
    Dir {
        /// Its path.
        path: RelativePath,
        /// Itself; `None` when only its content is told.
        itself: Option<Box<Details>>,
    },
    /// Owners that the next entries mention for the first time.
    Owners(Vec<OwnerName>),
    /// Entries of the directory that are no directories. The first one has number `first`.
    Entries {
        /// Number of the first entry.
        first: EntryId,
        /// In order.
        entries: Vec<Entry>,
    },
    /// The directory's entries are all told.
    DirEnd {
        /// Directories in it; their own `Dir` follows.
        directories: Vec<Name>,
        /// Whether nothing is missing.
        listed: Listed,
    },
    /// All directories are told. Whether nothing failed, so that deleting is safe.
    ScanEnd {
        /// No source was unreadable.
        complete: bool,
    },
    /// Small files, whole.
    Pack(Vec<Small>),
    /// A larger file begins.
    Open {
        /// Which.
        id: EntryId,
        /// Where in the file the first bytes belong.
        offset: u64,
    },
    /// Its next bytes.
    Data(#[serde(with = "crate::bytes")] Vec<u8>),
    /// Its next bytes are zero and take no space.
    Hole(u64),
    /// Its next bytes are these of the old content.
    Copy {
        /// Where in the old content.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// It ends: the hash of everything since `Open`.
    End(Hash),
    /// It changed while it was read: everything since `Open` is void, and it begins anew.
    Again,
    /// A file that was asked for does not come.
    Failed(EntryId),
    /// Everything that was asked for is sent.
    Done,
}

/// What the receiver wants of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// All of it.
    Whole,
    /// Everything from this byte on.
    From(u64),
    /// The difference to an old content whose sums follow.
    Delta {
        /// Bytes of a block.
        block_bytes: u32,
        /// Bytes of the old content.
        size: u64,
    },
}

/// So many entries are told ahead of those that have come: both halves remember them. Few in tests, so that
/// every one of them meets the end of it.
pub const AHEAD_MAX: u64 = if cfg!(test) { 8 } else { 32 * 1024 };
/// That so many more have come is told, although nothing is wanted.
pub const SETTLED_TOLD: u64 = if cfg!(test) { 3 } else { 1024 };
const _: () = assert!(SETTLED_TOLD <= AHEAD_MAX, "who waits must be told");

/// From the half that makes the files to the half that has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSender {
    /// Files that are wanted, and that nothing else below `decided` will be.
    Need {
        /// In the order of their numbers.
        wants: Vec<(EntryId, Want)>,
        /// Everything below is decided.
        decided: EntryId,
    },
    /// Sums of the old content of the last file that is wanted as a difference.
    Sums(Vec<BlockSum>),
    /// These files are at their places: the sources may go.
    Saved(Vec<EntryId>),
    /// Nothing more will be wanted.
    NoMore,
}

impl ToReceiver {
    /// Bytes it is likely to take on a wire.
    pub fn weight(&self) -> u64 {
        let entry = |entry: &Entry| 24 + entry.name.as_bytes().len() as u64;
        match self {
            Self::Entries { entries, .. } => 8 + entries.iter().map(entry).sum::<u64>(),
            Self::Dir { path, itself } => {
                8 + path.as_written().len() as u64 + itself.as_ref().map_or(0, |_| 24)
            }
            Self::DirEnd { directories, .. } => {
                4 + directories.iter().map(|name| 1 + name.as_bytes().len() as u64).sum::<u64>()
            }
            Self::Pack(files) => files.iter().map(|file| 40 + file.content.len() as u64).sum(),
            Self::Data(bytes) => 4 + bytes.len() as u64,
            Self::Owners(names) => names.iter().map(|name| 8 + name.name.len() as u64).sum(),
            Self::End(_) => 36,
            Self::Begin(_)
            | Self::ScanEnd { .. }
            | Self::Open { .. }
            | Self::Hole(_)
            | Self::Copy { .. }
            | Self::Again
            | Self::Failed(_)
            | Self::Done => 12,
        }
    }
}

impl ToSender {
    /// Bytes it is likely to take on a wire.
    pub fn weight(&self) -> u64 {
        match self {
            Self::Need { wants, .. } => 12 + 6 * wants.len() as u64,
            Self::Sums(sums) => 4 + 20 * sums.len() as u64,
            Self::Saved(ids) => 4 + 4 * ids.len() as u64,
            Self::NoMore => 4,
        }
    }
}
