//! What is known of one entry, here and at the partner.
//!
//! Decides what a row means. Must not know how it is stored.

use ipicsha_core::file::{Contents, Known, Version};
use serde::{Deserialize, Serialize};

use crate::meta::{Kind, Meta, Time};

/// It is missing here, but that is not told yet: the guard holds it.
pub(super) const HELD_HERE: u32 = 1;
/// It takes no part here, though the partner has it.
pub(super) const LEFT: u32 = 2;
/// Its content is not what it was though nobody changed it: only an audit found that.
pub(super) const SILENT: u32 = 4;
/// The partner's version is to be taken whatever is known here: a repair.
pub(super) const REPAIR: u32 = 8;

/// What has to be done here to have what the partner has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i64)]
pub(super) enum Want {
    /// Nothing.
    #[default]
    Nothing = 0,
    /// Make it.
    Take = 1,
    /// Delete a file or a link.
    Remove = 2,
    /// The same, and the guard holds it.
    Held = 3,
    /// Delete a directory, when nothing is in it any more.
    RemoveDirectory = 4,
    /// Delete a file or a link; an administrator said so.
    Accepted = 5,
}

impl Want {
    pub(super) fn of(number: i64) -> Self {
        match number {
            1 => Self::Take,
            2 => Self::Remove,
            3 => Self::Held,
            4 => Self::RemoveDirectory,
            5 => Self::Accepted,
            _ => Self::Nothing,
        }
    }

    /// Whether something is to be deleted.
    pub(super) fn is_removal(self) -> bool {
        matches!(self, Self::Remove | Self::Held | Self::RemoveDirectory | Self::Accepted)
    }
}

/// Facts by which an entry is known to be unchanged without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quick {
    /// What it is.
    pub(super) kind: Kind,
    /// Its number in the file system.
    pub(super) inode: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Last change of the content.
    pub(super) mtime: Time,
    /// Last change of anything.
    pub(super) ctime: Time,
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// It was looked at so soon after its change that a further one may not show.
    pub(super) racy: bool,
    /// Facts of the version that the system did not take, see [`UNSET_OWNER`].
    pub(super) unset: u8,
}

/// The owner, group, or both of the version could not be set.
pub(super) const UNSET_OWNER: u8 = 1;
/// The permissions.
pub(super) const UNSET_MODE: u8 = 2;
/// The attributes or access lists.
pub(super) const UNSET_ATTRIBUTES: u8 = 4;
/// The time.
pub(super) const UNSET_TIME: u8 = 8;

impl Quick {
    /// Of an entry as it is.
    pub(super) fn of(meta: &Meta) -> Self {
        Self {
            kind: meta.kind,
            inode: meta.inode,
            size: meta.size,
            mtime: meta.mtime,
            ctime: meta.ctime,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            racy: false,
            unset: 0,
        }
    }

    /// Whether the entry is still the one it was, untouched.
    pub(super) fn fits(&self, meta: &Meta) -> bool {
        let now = Self { racy: self.racy, unset: self.unset, ..Self::of(meta) };
        if meta.kind == Kind::Directory {
            // Its times and size change with every entry; attributes show in the ctime alone.
            return (self.kind, self.inode, self.mode, self.uid, self.gid)
                == (now.kind, now.inode, now.mode, now.uid, now.gid);
        }
        *self == now
    }
}

/// An entry as it is here.
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// Position of its last change.
    pub(super) seq: i64,
    /// What it knows.
    pub(super) known: Known,
    /// As it is.
    pub(super) version: Version,
    /// To know it by; none of what is absent.
    pub(super) quick: Option<Quick>,
}

/// An entry as the partner told it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What it knows.
    pub(super) known: Known,
    /// As it is there.
    pub(super) version: Version,
}

/// One entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// Here; `None` when it never was.
    pub(super) own: Option<Own>,
    /// There; `None` when the partner never told it.
    pub(super) told: Option<Told>,
    /// What is to be done here.
    pub(super) want: Want,
    /// Whether the partner does not have it yet as it is here.
    pub(super) pending: bool,
    /// See [`HELD_HERE`], [`LEFT`], [`SILENT`], [`REPAIR`].
    pub(super) bits: u32,
}

impl Row {
    /// Whether it exists here and takes part.
    pub(super) fn is_present(&self) -> bool {
        let exists = self.own.as_ref().is_some_and(|own| !own.version.contents.is_absent());
        exists && !self.has(LEFT)
    }

    /// Whether a bit is set.
    pub(super) fn has(&self, bit: u32) -> bool {
        self.bits & bit != 0
    }

    /// Bytes of content here.
    pub(super) fn size(&self) -> u64 {
        self.own.as_ref().map_or(0, |own| size(&own.version))
    }

    /// Bytes of content there.
    pub(super) fn told_size(&self) -> u64 {
        self.told.as_ref().map_or(0, |told| size(&told.version))
    }

    /// Hash of the content here.
    pub(super) fn content(&self) -> Option<&[u8; 32]> {
        self.own.as_ref().and_then(|own| content(&own.version))
    }

    /// What it knows here.
    pub(super) fn known(&self) -> Known {
        self.own.as_ref().map(|own| own.known).unwrap_or_default()
    }

    /// What the partner's knows.
    pub(super) fn told_known(&self) -> Known {
        self.told.as_ref().map(|told| told.known).unwrap_or_default()
    }
}

/// Bytes of content of a version.
pub(super) fn size(version: &Version) -> u64 {
    match &version.contents {
        Contents::File { size, .. } => *size,
        Contents::Absent | Contents::Directory | Contents::Symlink { .. } => 0,
    }
}

/// Hash of a file's content.
pub(super) fn content(version: &Version) -> Option<&[u8; 32]> {
    match &version.contents {
        Contents::File { hash, .. } => Some(hash),
        Contents::Absent | Contents::Directory | Contents::Symlink { .. } => None,
    }
}

/// Sums over all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Entries that exist here.
    pub(super) entries: u64,
    /// Bytes of content here.
    pub(super) bytes: u64,
    /// Entries the partner does not have.
    pub(super) pending: u64,
    /// Entries that are to come or to go.
    pub(super) wanted: u64,
    /// Bytes of content that are to come.
    pub(super) wanted_bytes: u64,
    /// Entries whose deletion here is held.
    pub(super) held_here: u64,
}

impl Counts {
    fn of(row: &Row) -> Self {
        let present = u64::from(row.is_present());
        let wanted = u64::from(row.want != Want::Nothing);
        Self {
            entries: present,
            bytes: present * row.size(),
            pending: u64::from(row.pending),
            wanted,
            wanted_bytes: wanted * row.told_size(),
            held_here: u64::from(row.has(HELD_HERE)),
        }
    }

    pub(super) fn add(&mut self, row: &Row) {
        let one = Self::of(row);
        self.entries = self.entries.saturating_add(one.entries);
        self.bytes = self.bytes.saturating_add(one.bytes);
        self.pending = self.pending.saturating_add(one.pending);
        self.wanted = self.wanted.saturating_add(one.wanted);
        self.wanted_bytes = self.wanted_bytes.saturating_add(one.wanted_bytes);
        self.held_here = self.held_here.saturating_add(one.held_here);
    }

    pub(super) fn remove(&mut self, row: &Row) {
        let one = Self::of(row);
        self.entries = self.entries.saturating_sub(one.entries);
        self.bytes = self.bytes.saturating_sub(one.bytes);
        self.pending = self.pending.saturating_sub(one.pending);
        self.wanted = self.wanted.saturating_sub(one.wanted);
        self.wanted_bytes = self.wanted_bytes.saturating_sub(one.wanted_bytes);
        self.held_here = self.held_here.saturating_sub(one.held_here);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_with_the_number_of_a_removed_file_is_not_that_file() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Meta::of(fs::File::open(folder.path()).unwrap()).unwrap();
        let file = Meta { kind: Kind::File, ..directory.clone() };
        assert!(Quick::of(&directory).fits(&directory));
        assert!(!Quick::of(&file).fits(&directory));
        assert!(!Quick::of(&directory).fits(&file));
    }
    #[test]
    fn sizes_that_cannot_be_are_no_sum_that_cannot_be() {
        let contents = Contents::File { size: u64::MAX, hash: [0; 32] };
        let version = Version { contents, ..Version::absent(0) };
        let own = Own { seq: 1, known: Known::default(), version, quick: None };
        let row = Row { own: Some(own), ..Row::default() };
        let mut counts = Counts::default();
        counts.add(&row);
        counts.add(&row);
        assert_eq!((counts.entries, counts.bytes), (2, u64::MAX));
    }
}
