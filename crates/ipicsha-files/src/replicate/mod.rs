//! A watched directory that both servers have: what changes in one is in the other a moment later.
//!
//! One thread per directory, as each database has one. It decides when the truth on the disk goes
//! into the index, what is asked of the partner and when an arriving content gets its name; which of
//! two versions stays is decided by the core's `file_policy`. Must not know sockets, roles beyond the
//! licensed one, or what an application does with its files.

mod apply;
mod bottleneck;
mod children;
mod clear;
mod compare;
mod durable;
mod engine;
mod enter;
mod exchange;
mod fetch;
mod flush;
mod guard;
mod index;
mod kept;
mod look;
mod notice;
mod place_here;
mod reader;
mod remove;
mod report;
mod rescue;
mod row;
mod scan;
mod serve;
mod sieve;
mod status;
mod troubles;
mod worker;

use std::{
    any::Any,
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Weak,
    time::Duration,
};

use ipicsha_core::{file::DirectoryName, license::LicensedRole};
use serde::{Deserialize, Serialize};

pub use kept::{list_kept, restore_kept};
pub use status::{CompareProgress, DirectoryStatus, KeptUsage, Left, Trouble};
pub use worker::{CommandSender, Outlets, Worker};

/// What one directory needs.
#[derive(Clone, Debug)]
pub struct DirectoryConfig {
    /// Name common to both servers.
    pub name: DirectoryName,
    /// Where it lies here (spec C2).
    pub root: PathBuf,
    /// Folder of our own outside of the root: the index, and what is kept.
    pub state: PathBuf,
    /// This server's licensed role, which decides ties.
    pub rank: LicensedRole,
    /// Filter rules in rsync's words (`- *.tmp`, `+ /keep/***`), the first that fits counts. What
    /// does not take part is neither sent nor deleted.
    pub rules: Vec<String>,
    /// Name of files with patterns of what does not take part, as `.gitignore`; none if empty.
    pub ignore_file: String,
    /// How long and how much of what was deleted or lost is kept.
    pub keep: KeepLimits,
    /// From how many deletions by the partner on an administrator is asked.
    pub guard: GuardLimits,
}

/// How much of what was deleted, overwritten or lost against a newer version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepLimits {
    /// So long.
    pub age: Duration,
    /// So many bytes; beyond that the oldest go first.
    pub bytes: u64,
}

/// From when on deletions that the partner tells wait for an administrator: more than `percent` of
/// all files and more than `files_small` of them, or more than `files`, within an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardLimits {
    /// Share of all entries that had to go.
    pub percent: u32,
    /// Below so many the share does not count.
    pub files_small: u64,
    /// From so many on the share does not matter.
    pub files: u64,
}

impl Default for KeepLimits {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 3600), bytes: 1 << 30 }
    }
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self { percent: 50, files_small: 100, files: 1000 }
    }
}

/// May files travel?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Open,
    /// Changes are noticed and wait.
    Closed,
}

/// Why something cannot be done, in words for people, with the next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub next_step: String,
}

/// Called once with the outcome of a command.
pub type Done<T> = Box<dyn FnOnce(Result<T, Refused>) + Send>;

/// What a worker is told.
pub enum Command {
    /// Files may travel, or wait.
    SetGate(Gate),
    /// The outgoing connection for files came or went. What was under way is begun anew.
    Link(bool),
    /// The partner said this about the directory. The ticket is dropped when it is dealt with, so
    /// that who delivers can bound what waits.
    Received(ipicsha_core::file::File, Box<dyn Any + Send>),
    /// Answered when everything that changed here before the call is on the partner's disk.
    Flush { done: Done<()> },
    /// Deletions that the guard holds may happen.
    AcceptDeletions { done: Done<u64> },
    /// Compare both sides, contents read anew on both. With `apply`, what differs is repaired by the
    /// rules of spec D5, which only the primary may lead.
    /// It ends without an answer when who asks has dropped the other end of `asker`.
    Compare { apply: bool, asker: Weak<()>, done: Done<CompareReport> },
    /// HA is not configured any more: the index is removed, what is kept stays.
    Forget { done: Done<()> },
}

/// What a worker tells.
#[derive(Debug)]
pub enum Event {
    /// To the partner, small and bounded by the protocol: must be queued without waiting.
    Send(ipicsha_core::file::File),
    /// How it stands; after every change of it, at most some times a second.
    Status(Box<DirectoryStatus>),
    /// A version lost against another one, or was deleted by the partner, and is kept.
    Kept(KeptEntry),
    /// A line for the log to follow during a repair.
    Repairing(String),
}

/// Removes the index of a directory that has no worker, so that a later pair begins with a merge; what is
/// kept stays. `state` is [`DirectoryConfig::state`].
///
/// # Errors
/// The system refuses.
pub fn remove_index(state: &Path) -> io::Result<()> {
    index::remove(state)
}

/// Why something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptReason {
    /// The partner deleted it.
    Deleted,
    /// The partner's change took its place; both servers knew what they did.
    Replaced,
    /// Both servers changed it without knowing of each other, and the other version was newer.
    Conflict,
    /// A repair removed or replaced it.
    Repaired,
}

/// Something that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptEntry {
    /// Its number, for `trash restore`.
    pub id: u64,
    /// Where it was, beneath the root; escaped where it is no text.
    pub path: String,
    /// `file`, `symlink` or `directory`.
    pub kind: String,
    /// Bytes of content.
    pub bytes: u64,
    /// Seconds since 1970 when it was put aside.
    pub kept_unix: i64,
    /// Why.
    pub reason: KeptReason,
}

/// What a comparison found, seen from this server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareReport {
    /// Entries that were compared, and bytes of content.
    pub entries: u64,
    /// Bytes of content on this server.
    pub bytes: u64,
    /// Only here, by path (the first 1000).
    pub only_here: Vec<String>,
    /// Only at the partner.
    pub only_there: Vec<String>,
    /// On both, and different, with what differs (`content`, `mode`, `owner`, `mtime`, ...).
    pub differing: Vec<(String, String)>,
    /// Number of all differences, also those whose path is not listed.
    pub differences: u64,
    /// What a repair does or did: copied to the partner, copied here, deleted at the secondary.
    pub to_partner: u64,
    /// Copied here.
    pub to_here: u64,
    /// Deleted at the secondary, and kept there.
    pub deletions: u64,
    /// Whether it was applied.
    pub applied: bool,
    /// What cannot be made on one of the servers now, or waits for an administrator (the first 1000): it
    /// was not waited for.
    #[serde(default)]
    pub stuck: BTreeSet<String>,
    /// What takes no part: databases, kinds that do not travel.
    pub not_compared: BTreeSet<String>,
}

#[cfg(test)]
mod tests;
