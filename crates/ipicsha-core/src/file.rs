//! What the partners say about watched directories, and what a version of an entry is.
//!
//! Decides the shape of the messages and when two versions are the same (spec C2). Must not know
//! how a message travels or where a directory lies. Append-only, as `data` is: a variant or field
//! never changes its place.

use serde::{Deserialize, Serialize};

use crate::{id::Seq, license::LicensedRole};

/// Name under which both servers know one watched directory; the paths may differ (spec C2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DirectoryName(pub String);

impl std::fmt::Display for DirectoryName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One unbroken index of one directory: positions mean something only within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IndexId(pub [u8; 16]);

/// A user or group: known by its name where both servers have one, else by its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its number on the server that says it.
    pub id: u32,
    /// Its name there.
    pub name: Option<String>,
}

impl Owner {
    /// Whether both are the same user or group.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.name, &other.name) {
            (Some(mine), Some(theirs)) => mine == theirs,
            (None, _) | (_, None) => self.id == other.id,
        }
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// It was there and is deleted, or never was.
    Absent,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// BLAKE3 of all of them.
        hash: [u8; 32],
    },
    /// A directory.
    Directory,
    /// A symbolic link, never followed.
    Symlink {
        /// Where it points, as stored.
        target: Vec<u8>,
    },
}

impl Contents {
    /// Whether nothing is there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }
}

/// One version of an entry, everything that is replicated of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// What it is.
    pub contents: Contents,
    /// Permission bits (07777); 0 for links and what is absent.
    pub mode: u32,
    /// Its user.
    pub user: Owner,
    /// Its group.
    pub group: Owner,
    /// Last modification in nanoseconds since 1970; of what is absent: when that was noticed.
    pub mtime_ns: i64,
    /// Extended attributes and ACLs, sorted by name.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first path of the group of hard links it belongs to, unless it is that itself.
    pub link: Option<Vec<u8>>,
}

impl Version {
    /// Nothing, noticed at this time.
    pub fn absent(mtime_ns: i64) -> Self {
        let nobody = Owner { id: 0, name: None };
        Self {
            contents: Contents::Absent,
            mode: 0,
            user: nobody.clone(),
            group: nobody,
            mtime_ns,
            attributes: Vec::new(),
            link: None,
        }
    }

    /// Whether nothing of it would have to be changed to become `other`. The time of a directory
    /// follows from what happens in it, so it makes no difference.
    pub fn is_same(&self, other: &Self) -> bool {
        if self.contents.is_absent() || other.contents.is_absent() {
            return self.contents == other.contents;
        }
        self.contents == other.contents
            && self.mode == other.mode
            && self.user.is_same(&other.user)
            && self.group.is_same(&other.group)
            && (self.mtime_ns == other.mtime_ns || self.contents.is_directory())
            && self.attributes == other.attributes
            && self.link == other.link
    }
}

/// The last changes of an entry that a version knows: one counter for each server. A counter only
/// grows, so that of two versions one knows the other, or both were made without knowing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Newest change made at the primary.
    pub primary: u64,
    /// Newest change made at the secondary.
    pub secondary: u64,
}

impl Known {
    /// Whether everything in `other` is in this, too.
    pub fn covers(self, other: Self) -> bool {
        self.primary >= other.primary && self.secondary >= other.secondary
    }

    /// What both know.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            primary: self.primary.max(other.primary),
            secondary: self.secondary.max(other.secondary),
        }
    }

    /// After a change made at the server with this licensed role; `counter` is larger than all
    /// that it has given out.
    #[must_use]
    pub fn changed(self, role: LicensedRole, counter: u64) -> Self {
        match role {
            LicensedRole::Primary => Self { primary: counter, ..self },
            LicensedRole::Secondary => Self { secondary: counter, ..self },
        }
    }
}

/// One entry of a directory as one server has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Beneath the watched directory, components divided by `/`, no UTF-8 promised.
    pub path: Vec<u8>,
    /// Position of its last change in the sender's index.
    pub seq: Seq,
    /// As it is there now.
    pub version: Version,
    /// Which changes that knows.
    pub known: Known,
}

/// A piece of a file's contents, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Take these bytes of the version the receiver has.
    Copy {
        /// From there.
        offset: u64,
        /// So many.
        length: u64,
    },
    /// These bytes.
    Data {
        /// Perhaps compressed.
        bytes: Vec<u8>,
        /// By zstd.
        compressed: bool,
    },
    /// Zeros that need no room.
    Hole {
        /// So many.
        length: u64,
    },
    /// All of it was sent.
    End,
    /// It cannot be sent; why, for people.
    Refused(String),
    /// These bytes, and that was all: of a small file, everything in one message.
    Last {
        /// Perhaps compressed.
        bytes: Vec<u8>,
        /// By zstd.
        compressed: bool,
    },
}

/// Everything the two servers say about watched directories.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum File {
    /// Where the sender stands; the beginning of every exchange, repeated until answered.
    Hello {
        /// The directory.
        directory: DirectoryName,
        /// The sender's index.
        index: IndexId,
        /// Newest position in it.
        last: Seq,
        /// How much of the partner's index the sender has durably, and of which index.
        noted: Option<(IndexId, Seq)>,
        /// Whether the sender wants a `Hello` back.
        answer: bool,
    },
    /// Changed entries, oldest first.
    Entries {
        /// The directory.
        directory: DirectoryName,
        /// The sender's index.
        index: IndexId,
        /// After this position.
        from: Seq,
        /// Up to this one: nothing in between is left out.
        to: Seq,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The sender has these entries durably in its index, though perhaps not on its disk yet: that
    /// an entry is there, it says with an entry of its own.
    Noted {
        /// The directory.
        directory: DirectoryName,
        /// The partner's index.
        index: IndexId,
        /// Up to here.
        to: Seq,
    },
    /// The contents of a version are wanted.
    Request {
        /// The directory.
        directory: DirectoryName,
        /// Chosen by the sender, unique within the connection.
        id: u64,
        /// The entry.
        path: Vec<u8>,
        /// BLAKE3 of the version that is wanted.
        hash: [u8; 32],
        /// Bytes of it that the sender has already, of an interrupted transfer.
        from: u64,
        /// Signature of the version the sender has; empty: it has none worth comparing.
        signature: Vec<u8>,
    },
    /// A part of the answer.
    Part {
        /// The directory.
        directory: DirectoryName,
        /// That of the request.
        id: u64,
        /// It.
        part: Part,
    },
    /// The sender does not want the rest of an answer any more.
    Cancel {
        /// The directory.
        directory: DirectoryName,
        /// That of the request.
        id: u64,
    },
    /// All contents are to be read anew, and what is not as the receiver's index says is to be told.
    Audit {
        /// The directory.
        directory: DirectoryName,
        /// Chosen by the sender.
        id: u64,
    },
    /// What an `Audit` found.
    Audited {
        /// The directory.
        directory: DirectoryName,
        /// That of the audit.
        id: u64,
        /// Newest position in the sender's index at its end.
        to: Seq,
        /// Entries that are not what they were told to be, though nobody changed them: as they are,
        /// with the knowledge of what they should be.
        found: Vec<Entry>,
        /// Whether nothing follows.
        last: bool,
    },
}

impl File {
    /// The directory a message is about.
    pub fn directory(&self) -> &DirectoryName {
        match self {
            Self::Hello { directory, .. }
            | Self::Entries { directory, .. }
            | Self::Noted { directory, .. }
            | Self::Request { directory, .. }
            | Self::Part { directory, .. }
            | Self::Cancel { directory, .. }
            | Self::Audit { directory, .. }
            | Self::Audited { directory, .. } => directory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> DirectoryName {
        DirectoryName("d".into())
    }

    fn version() -> Version {
        let owner = |name: &str| Owner { id: 5, name: Some(name.into()) };
        Version {
            contents: Contents::File { size: 3, hash: [2; 32] },
            mode: 0o644,
            user: owner("u"),
            group: owner("g"),
            mtime_ns: -1,
            attributes: vec![(b"n".to_vec(), vec![255])],
            link: Some(b"a".to_vec()),
        }
    }

    fn messages() -> Vec<File> {
        let index = IndexId([1; 16]);
        let known = Known { primary: 300, secondary: 1 };
        let entry = Entry { path: b"p".to_vec(), seq: Seq(2), version: version(), known };
        let found = vec![entry.clone()];
        let part = |part| File::Part { directory: directory(), id: 7, part };
        vec![
            File::Hello {
                directory: directory(),
                index,
                last: Seq(3),
                noted: Some((index, Seq(2))),
                answer: true,
            },
            File::Entries {
                directory: directory(),
                index,
                from: Seq(1),
                to: Seq(2),
                entries: vec![entry],
            },
            File::Noted { directory: directory(), index, to: Seq(1) },
            File::Request {
                directory: directory(),
                id: 7,
                path: b"p".to_vec(),
                hash: [2; 32],
                from: 4,
                signature: vec![9],
            },
            part(Part::Copy { offset: 1, length: 2 }),
            part(Part::Data { bytes: vec![1, 2], compressed: false }),
            part(Part::Hole { length: 300 }),
            part(Part::End),
            part(Part::Refused("r".into())),
            File::Cancel { directory: directory(), id: 7 },
            part(Part::Last { bytes: vec![1, 2], compressed: false }),
            File::Audit { directory: directory(), id: 7 },
            File::Audited { directory: directory(), id: 7, to: Seq(2), found, last: true },
        ]
    }

    #[test]
    fn the_bytes_of_every_message_stay_as_they_are() {
        let mut text = String::new();
        for message in messages() {
            assert_eq!(message.directory(), &directory());
            let bytes = postcard::to_stdvec(&message).unwrap();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{hex}\n");
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_later_change_covers_what_it_knew_and_concurrent_ones_cover_nothing() {
        let old = Known { primary: 1, secondary: 1 };
        let here = old.changed(LicensedRole::Primary, 7);
        let there = old.changed(LicensedRole::Secondary, 5);
        assert!(here.covers(old) && there.covers(old) && !old.covers(here));
        assert!(!here.covers(there) && !there.covers(here));
        assert_eq!(here.join(there), Known { primary: 7, secondary: 5 });
    }

    #[test]
    fn owners_are_compared_by_name_where_both_have_one() {
        let owner = |id, name: Option<&str>| Owner { id, name: name.map(str::to_owned) };
        assert!(owner(1, Some("www")).is_same(&owner(2, Some("www"))));
        assert!(!owner(1, Some("www")).is_same(&owner(1, Some("git"))));
        assert!(owner(1, Some("www")).is_same(&owner(1, None)));
        assert!(!owner(1, None).is_same(&owner(2, None)));
    }

    #[test]
    fn everything_that_is_replicated_makes_a_version_another_one() {
        let base = version();
        assert!(base.is_same(&base.clone()));
        let changes: [fn(&mut Version); 7] = [
            |v| v.contents = Contents::Directory,
            |v| v.mode = 0o600,
            |v| v.user.name = Some("x".into()),
            |v| v.group.name = Some("x".into()),
            |v| v.mtime_ns += 1,
            |v| v.attributes.clear(),
            |v| v.link = None,
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert!(!base.is_same(&other) && !other.is_same(&base));
        }
        assert!(Version::absent(1).is_same(&Version::absent(2)), "nothing is nothing");
        assert!(!Version::absent(1).is_same(&base));
    }
}
