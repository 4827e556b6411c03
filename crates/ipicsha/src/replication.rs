//! What `dbreplication` shows: the answers of the daemon, and what the state numbers mean (spec C5).
//!
//! Decides the wording of the states. Must not know where the values come from.

use ipicsha_core::message::ReplicationState;
use serde::{Deserialize, Serialize};

/// How the last comparison with the partner's found a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compared {
    /// Milliseconds since 1970.
    pub(crate) at_unix_ms: i64,
    /// Differences were repaired; else only looked for.
    pub(crate) repaired: bool,
    /// Records that differed, or that only one server had.
    pub(crate) found: u64,
    /// How many of them still do.
    pub(crate) left: u64,
}

/// One replicated table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TableStatus {
    pub(crate) table: String,
    /// `PRIMARY KEY`, `UNIQUE index` or `rowid`.
    pub(crate) identity: String,
    /// `None`: they could not be counted.
    pub(crate) rows: Option<u64>,
    /// `false`: there are at least `rows`.
    pub(crate) rows_complete: bool,
    /// Newest change known here, in milliseconds since 1970.
    pub(crate) last_change_unix_ms: Option<i64>,
    pub(crate) queue_records: u64,
    pub(crate) lag_seconds: f64,
    pub(crate) conflicts: u64,
    /// `None`: not verified yet.
    pub(crate) compared: Option<Compared>,
    /// Why it cannot follow.
    pub(crate) held: Option<String>,
}

/// A table that is not replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) table: String,
    pub(crate) reason: String,
}

/// One database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DatabaseStatus {
    pub(crate) name: String,
    pub(crate) path: String,
    /// See [`meaning`].
    pub(crate) state: u8,
    pub(crate) queue_records: u64,
    pub(crate) lag_seconds: f64,
    pub(crate) conflicts: u64,
    pub(crate) hold: Option<String>,
    /// Why its tables could not be counted.
    pub(crate) error: Option<String>,
    pub(crate) tables: Vec<TableStatus>,
    pub(crate) skipped_tables: Vec<Skipped>,
}

/// The answer to `dbreplication status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Replication {
    /// `ipicsha.dbreplication/1`.
    pub(crate) schema: String,
    pub(crate) server: String,
    /// `active` or `standby`.
    pub(crate) role: Option<String>,
    /// When it was asked for, in milliseconds since 1970.
    pub(crate) seen_unix_ms: i64,
    pub(crate) databases: Vec<DatabaseStatus>,
}

/// The state of one database on both servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatabaseState {
    pub(crate) name: String,
    /// On this server.
    pub(crate) here: u8,
    /// On the partner; `None`: it does not say.
    pub(crate) partner: Option<u8>,
}

/// The answer to `dbreplication runtimestate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuntimeState {
    /// `ipicsha.runtimestate/1`.
    pub(crate) schema: String,
    pub(crate) server: String,
    pub(crate) partner: Option<String>,
    /// The lowest number of a server is not its state: each database has its own.
    pub(crate) databases: Vec<DatabaseState>,
    /// Every database is in state 2 on both servers.
    pub(crate) good: bool,
}

/// What a state number means; the numbers are the reference's.
pub(crate) fn meaning(state: u8) -> &'static str {
    let all = [
        ReplicationState::SettingUp,
        ReplicationState::Incomplete,
        ReplicationState::Good,
        ReplicationState::Suspect,
        ReplicationState::Dropped,
    ];
    match all.into_iter().find(|known| known.number() == state) {
        Some(ReplicationState::SettingUp) => "being set up",
        Some(ReplicationState::Incomplete) => "incomplete",
        Some(ReplicationState::Good) => "good",
        Some(ReplicationState::Suspect) => "suspect",
        Some(ReplicationState::Dropped) => "dropped",
        None => "unknown",
    }
}
