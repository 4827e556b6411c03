//! How the replication of one directory stands.

use std::path::PathBuf;

use ipicsha_core::file::DirectoryName;
use serde::{Deserialize, Serialize};

/// Everything that is shown of one directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryStatus {
    /// Its name.
    pub name: DirectoryName,
    /// Where it lies here.
    pub root: PathBuf,
    /// How changes are noticed: `fanotify`, `inotify`, ...; empty before the first scan.
    pub method: String,
    /// Why not better, with the remedy.
    pub alarm: Option<String>,
    /// Entries in the index that exist.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Both servers have compared their indexes once in this state of both, and nothing is missing.
    pub synced: bool,
    /// The first scan is still under way.
    pub scanning: bool,
    /// Entries the partner does not have yet as they are here.
    pub to_send: u64,
    /// Entries that are to come from the partner.
    pub to_fetch: u64,
    /// Bytes of content that are to come.
    pub to_fetch_bytes: u64,
    /// Content that arrived per second, while something arrives.
    pub bytes_per_second: Option<u64>,
    /// Until all of it has arrived.
    pub seconds_left: Option<u64>,
    /// Deletions by the partner that wait for `--accept-deletions`.
    pub held_deletions: u64,
    /// What is kept.
    pub kept: KeptUsage,
    /// Versions that lost against a newer one, since the index was made.
    pub conflicts_total: u64,
    /// What takes no part, and why: databases, devices.
    pub left: Vec<Left>,
    /// Number of all of them.
    pub left_total: u64,
    /// Entries that failed and are tried again.
    pub troubles: Vec<Trouble>,
    /// Number of all of them.
    pub troubles_total: u64,
    /// Why nothing is done, with the next step: the root is missing, its disk is full.
    pub hold: Option<String>,
    /// Seconds since 1970 of the last change that was noticed or arrived.
    pub last_change_unix: Option<i64>,
    /// A comparison that runs.
    pub compare: Option<CompareProgress>,
}

impl DirectoryStatus {
    /// Of a directory that nobody works on.
    pub fn idle(name: DirectoryName, root: PathBuf) -> Self {
        Self {
            name,
            root,
            method: String::new(),
            alarm: None,
            entries: 0,
            bytes: 0,
            synced: false,
            scanning: false,
            to_send: 0,
            to_fetch: 0,
            to_fetch_bytes: 0,
            bytes_per_second: None,
            seconds_left: None,
            held_deletions: 0,
            kept: KeptUsage::default(),
            conflicts_total: 0,
            left: Vec::new(),
            left_total: 0,
            troubles: Vec::new(),
            troubles_total: 0,
            hold: None,
            last_change_unix: None,
            compare: None,
        }
    }
}

/// What is kept of one directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUsage {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// Something that takes no part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Left {
    /// Its path, escaped where it is no text.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Something that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Trouble {
    /// Its path, escaped where it is no text.
    pub path: String,
    /// What happened.
    pub problem: String,
    /// Seconds until it is tried again.
    pub retry_seconds: u64,
}

/// How far a comparison is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareProgress {
    /// Bytes read here so far.
    pub bytes_done: u64,
    /// Of so many.
    pub bytes_total: u64,
    /// Waits for the partner to have read its own.
    pub waiting_for_partner: bool,
}
