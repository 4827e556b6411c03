//! What a transfer tells while it runs.
//!
//! Decides what is worth telling and what changed about an entry. Must not know how it is shown.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::message::Details;
use crate::{
    meta::{Kind, Time},
    path::RelativePath,
};

/// Takes what is told. Both halves tell, from their own threads.
pub trait Report: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The scan begins.
    Begun,
    /// An entry was made, changed, or found equal.
    Item(Box<Item>),
    /// An entry that is not at the source was deleted.
    Deleted {
        /// Where it was.
        path: RelativePath,
        /// What it was.
        kind: Kind,
    },
    /// `--list-only`: an entry of the source.
    Listed(Box<Item>),
    /// The destination did not exist and was made.
    CreatedDestination {
        /// As it was typed.
        path: Vec<u8>,
        /// With `--mkpath`: how many directories were made for it.
        directories: Option<u64>,
    },
    /// Something was left out, as asked.
    Skipped(Skipped),
    /// Something failed; the rest goes on.
    Problem {
        /// What, in words.
        text: String,
        /// It was only that something vanished.
        vanished: bool,
    },
    /// Worth knowing, but nothing failed.
    Notice(String),
    /// Bytes of a file have arrived.
    Progress(Progress),
}

/// Why something was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Skipped {
    /// A directory, without `-r` or `-d`.
    Directory(String),
    /// A link, device or pipe that is not preserved.
    NotRegular(RelativePath),
    /// It is smaller or larger than asked for, newer here, there already, or not there: only told
    /// when much is told.
    Quietly(String),
    /// A link that leads out of the tree.
    UnsafeLink {
        /// The link.
        path: RelativePath,
        /// Where it leads.
        target: Vec<u8>,
    },
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The file that is on its way.
    pub path: RelativePath,
    /// Bytes of it that are there.
    pub file_bytes: u64,
    /// Bytes it will have.
    pub file_size: u64,
    /// Whether it is complete.
    pub file_done: bool,
    /// Files that are complete.
    pub files_done: u64,
    /// Bytes of all files so far.
    pub bytes: u64,
    /// Bytes of all files that are to be transferred, as far as is known.
    pub planned_bytes: u64,
    /// Entries that are decided.
    pub checked: u64,
    /// Entries that are known.
    pub entries: u64,
    /// Whether all entries are known.
    pub scan_done: bool,
}

/// How an entry came to be what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// Its content did not have to be touched.
    #[default]
    None,
    /// Its content comes from the sender.
    Transfer,
    /// It was made here.
    Local,
    /// It became a further name of another file.
    HardLink,
}

/// Whether the time of an entry differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeChange {
    /// It does not.
    #[default]
    No,
    /// It is set to that of the source.
    Set,
    /// It becomes the time of the transfer.
    Now,
}

/// What differed between source and destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What was done.
    pub update: Update,
    /// It did not exist.
    pub new: bool,
    /// The content, or where a link leads.
    pub content: bool,
    /// The size.
    pub size: bool,
    /// The time.
    pub time: TimeChange,
    /// The permissions.
    pub perms: bool,
    /// The owner.
    pub owner: bool,
    /// The group.
    pub group: bool,
    /// The access list.
    pub access_lists: bool,
    /// The extended attributes.
    pub extended: bool,
}

impl Change {
    /// Whether there is anything to tell.
    pub fn is_significant(&self) -> bool {
        self.update == Update::Transfer
            || self.new
            || self.content
            || self.size
            || self.time != TimeChange::No
            || self.perms
            || self.owner
            || self.group
            || self.access_lists
            || self.extended
    }

    /// The eleven characters that rsync's users read: `>f+++++++++`, `.d..t......`, `hf`, `cL`.
    pub fn code(&self, kind: Kind) -> String {
        let update = match self.update {
            Update::None => '.',
            Update::Transfer => '>',
            Update::Local => 'c',
            Update::HardLink => 'h',
        };
        let letter = match kind {
            Kind::File => 'f',
            Kind::Directory => 'd',
            Kind::Symlink => 'L',
            Kind::Fifo | Kind::Socket => 'S',
            Kind::CharacterDevice | Kind::BlockDevice => 'D',
        };
        let mark = |set: bool, letter: char| if set { letter } else { '.' };
        let mut marks = [
            mark(self.content, 'c'),
            mark(self.size && kind != Kind::Symlink, 's'),
            match self.time {
                TimeChange::No => '.',
                TimeChange::Set => 't',
                TimeChange::Now => 'T',
            },
            mark(self.perms, 'p'),
            mark(self.owner, 'o'),
            mark(self.group, 'g'),
            '.',
            mark(self.access_lists, 'a'),
            mark(self.extended, 'x'),
        ];
        if self.new {
            marks.fill('+');
        } else if self.update != Update::Transfer && marks.iter().all(|mark| *mark == '.') {
            marks.fill(' ');
        }
        [update, letter].into_iter().chain(marks).collect()
    }
}

/// One entry, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Where it is in the transfer.
    pub path: RelativePath,
    /// What it is.
    pub kind: Kind,
    /// What changed.
    pub change: Change,
    /// Permission bits of the source.
    pub mode: u32,
    /// Owner at the source.
    pub uid: u32,
    /// Group at the source.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// Time of the source.
    pub mtime: Time,
    /// Where a symbolic link leads.
    pub target: Option<Vec<u8>>,
    /// The file it became a further name of.
    pub linked_to: Option<RelativePath>,
}

impl Item {
    /// The entry at `path`, of which `details` are told.
    pub(super) fn of(path: RelativePath, details: &Details, change: Change) -> Self {
        Self {
            path,
            kind: details.kind,
            change,
            mode: details.mode,
            uid: details.uid,
            gid: details.gid,
            size: details.size,
            mtime: details.mtime,
            target: details.target.clone(),
            linked_to: None,
        }
    }
}

/// Numbers of a kind of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Device nodes.
    pub devices: u64,
    /// Pipes and sockets.
    pub specials: u64,
}

impl Counts {
    /// One more.
    pub fn add(&mut self, kind: Kind) {
        *match kind {
            Kind::File => &mut self.files,
            Kind::Directory => &mut self.directories,
            Kind::Symlink => &mut self.links,
            Kind::CharacterDevice | Kind::BlockDevice => &mut self.devices,
            Kind::Fifo | Kind::Socket => &mut self.specials,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.files + self.directories + self.links + self.devices + self.specials
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("reg", self.files),
            ("dir", self.directories),
            ("link", self.links),
            ("dev", self.devices),
            ("special", self.specials),
        ];
        let shown: Vec<String> = parts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name}: {count}"))
            .collect();
        if shown.is_empty() { Ok(()) } else { write!(f, " ({})", shown.join(", ")) }
    }
}

/// What a transfer was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Entries of the source.
    pub entries: Counts,
    /// Entries that did not exist.
    pub created: Counts,
    /// Entries that were deleted.
    pub deleted: Counts,
    /// Files whose content was transferred.
    pub transferred: u64,
    /// Bytes of all entries.
    pub total_bytes: u64,
    /// Bytes of the files whose content was transferred.
    pub transferred_bytes: u64,
    /// Bytes of content that were sent.
    pub literal_bytes: u64,
    /// Bytes of content that were already there.
    pub matched_bytes: u64,
    /// Bytes to the receiver.
    pub sent_bytes: u64,
    /// Bytes to the sender.
    pub received_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_as_rsync_shows_them() {
        let transfer = Change { update: Update::Transfer, ..Change::default() };
        let local = Change { update: Update::Local, ..Change::default() };
        let table = [
            (Change { new: true, ..transfer }, Kind::File, ">f+++++++++"),
            (Change { new: true, ..local }, Kind::Directory, "cd+++++++++"),
            (Change { new: true, ..local }, Kind::Symlink, "cL+++++++++"),
            (transfer, Kind::File, ">f........."),
            (Change { size: true, time: TimeChange::Set, ..transfer }, Kind::File, ">f.st......"),
            (Change { time: TimeChange::Set, ..Change::default() }, Kind::Directory, ".d..t......"),
            (Change { content: true, ..local }, Kind::Symlink, "cLc........"),
            (Change { update: Update::HardLink, ..Change::default() }, Kind::File, "hf         "),
            (
                Change { perms: true, owner: true, group: true, ..Change::default() },
                Kind::Fifo,
                ".S...pog...",
            ),
            (
                Change { access_lists: true, extended: true, ..Change::default() },
                Kind::File,
                ".f.......ax",
            ),
            (
                Change { time: TimeChange::Now, content: true, ..transfer },
                Kind::File,
                ">fc.T......",
            ),
        ];
        for (change, kind, code) in table {
            assert_eq!(change.code(kind), code);
        }
        assert!(!local.is_significant() && transfer.is_significant());
    }
}
