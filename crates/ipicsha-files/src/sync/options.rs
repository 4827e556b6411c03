//! What a transfer is to do, as values.
//!
//! Decides nothing; the words of the command line are read elsewhere. Names are rsync's, because
//! that is what people know them by.

use std::sync::{Arc, atomic::AtomicBool};

use serde::{Deserialize, Serialize};

use super::{chmod::Chmod, territory::Territory};
use crate::filter::Rules;

/// How deep directories are gone into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Depth {
    /// Directories are skipped.
    #[default]
    Files,
    /// `-d`: directories are made, and only the content of `dir/` is listed.
    Directories,
    /// `-r`.
    Recursive,
}

/// When what is not at the source is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delete {
    /// Before anything is transferred.
    Before,
    /// As each directory is gone through.
    During,
    /// Found as each directory is gone through, deleted at the end.
    Delay,
    /// Found and deleted at the end.
    After,
}

/// What the other directories of `--link-dest` and its like are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BasisUse {
    /// What is equal there is not made.
    Compare,
    /// What is equal there is copied.
    Copy,
    /// What is equal there is linked.
    Link,
}

/// `--append` and `--append-verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Append {
    /// What is there is taken to be right.
    Trust,
    /// The whole content is compared at the end.
    Verify,
}

/// Which metadata is carried over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preserve {
    /// `-l`.
    pub links: bool,
    /// `-p`.
    pub perms: bool,
    /// `-E`.
    pub executability: bool,
    /// `-t`.
    pub times: bool,
    /// `-o`.
    pub owner: bool,
    /// `-g`.
    pub group: bool,
    /// `--devices`.
    pub devices: bool,
    /// `--specials`.
    pub specials: bool,
    /// `-H`.
    pub hard_links: bool,
    /// `-A`.
    pub access_lists: bool,
    /// `-X`.
    pub extended: bool,
    /// `-O`.
    pub omit_dir_times: bool,
    /// `-J`.
    pub omit_link_times: bool,
    /// `--numeric-ids`.
    pub numeric_ids: bool,
}

/// One line of `--usermap` or `--groupmap`: who becomes whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerMap {
    /// Which owners.
    pub from: OwnerPattern,
    /// The number they get.
    pub to: u32,
}

/// Owners that an [`OwnerMap`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnerPattern {
    /// All of them.
    Any,
    /// Numbers from the first to the second.
    Numbers(u32, u32),
    /// Those whose name fits the shell pattern; the empty one is for those without a name.
    Name(String),
}

/// Everything that can be asked of a transfer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// How deep to go.
    pub depth: Depth,
    /// `-R`.
    pub relative: bool,
    /// `--no-implied-dirs`.
    pub no_implied_dirs: bool,
    /// `--mkpath`.
    pub make_path: bool,
    /// `-m`.
    pub prune_empty_dirs: bool,
    /// Number of `-x`.
    pub one_file_system: u8,
    /// What is preserved.
    pub preserve: Preserve,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--usermap` and the user of `--chown`.
    pub users: Vec<OwnerMap>,
    /// `--groupmap` and the group of `--chown`.
    pub groups: Vec<OwnerMap>,
    /// `-L`.
    pub copy_links: bool,
    /// `--copy-unsafe-links`.
    pub copy_unsafe_links: bool,
    /// `--safe-links`.
    pub safe_links: bool,
    /// `-k`.
    pub copy_dirlinks: bool,
    /// `-K`.
    pub keep_dirlinks: bool,
    /// `-S`.
    pub sparse: bool,
    /// `--preallocate`.
    pub preallocate: bool,
    /// `-n`.
    pub dry_run: bool,
    /// `--list-only`.
    pub list_only: bool,
    /// `-c`.
    pub checksum: bool,
    /// `-I`.
    pub ignore_times: bool,
    /// `--size-only`.
    pub size_only: bool,
    /// `--modify-window`: seconds that times may differ; negative compares nanoseconds.
    pub modify_window: i64,
    /// `-u`.
    pub update: bool,
    /// `--existing`.
    pub existing: bool,
    /// `--ignore-existing`.
    pub ignore_existing: bool,
    /// `--max-size`, in bytes.
    pub max_size: Option<u64>,
    /// `--min-size`, in bytes.
    pub min_size: Option<u64>,
    /// Whether and when to delete.
    pub delete: Option<Delete>,
    /// `--force`: directories in the way go with all they contain.
    pub force: bool,
    /// `--ignore-errors`.
    pub ignore_errors: bool,
    /// `--max-delete`.
    pub max_delete: Option<u64>,
    /// What the receiver deletes at most, whatever was asked for.
    #[serde(skip)]
    pub delete_guard: Option<u64>,
    /// The rules.
    pub rules: Rules,
    /// `-b`.
    pub backup: bool,
    /// `--backup-dir`.
    pub backup_dir: Option<Vec<u8>>,
    /// `--suffix`.
    pub suffix: Vec<u8>,
    /// `--inplace`.
    pub inplace: bool,
    /// `--append`.
    pub append: Option<Append>,
    /// `--partial`.
    pub partial: bool,
    /// `-W` or not; `None` leaves it to the distance.
    pub whole_file: Option<bool>,
    /// `-B`, in bytes.
    pub block_bytes: Option<u32>,
    /// `--link-dest` and its like.
    pub basis: Option<(BasisUse, Vec<Vec<u8>>)>,
    /// `--delay-updates`.
    pub delay_updates: bool,
    /// `--fsync`.
    pub fsync: bool,
    /// `--remove-source-files`.
    pub remove_source_files: bool,
    /// `--files-from`: the names, still as they were written.
    pub files_from: Option<Vec<Vec<u8>>>,
    /// `--bwlimit`, in bytes per second.
    pub bytes_per_second: Option<u64>,
    /// `--stop-after` and `--stop-at`; each half is told its own.
    #[serde(skip)]
    pub stop_at: Option<std::time::Instant>,
    /// Report entries that did not change too (`-vv`, `-ii`).
    pub report_unchanged: bool,
    /// Where this half may go.
    #[serde(skip)]
    pub territory: Territory,
    /// Set from outside to end early.
    #[serde(skip)]
    pub cancelled: Arc<AtomicBool>,
}

impl Options {
    /// Names are transferred with the directories they are in.
    pub fn keeps_paths(&self) -> bool {
        self.relative
    }

    /// Whether directories take part at all.
    pub fn takes_directories(&self) -> bool {
        self.depth != Depth::Files
    }
}
