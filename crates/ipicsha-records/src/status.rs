//! What the record engine reports: one value per database, and events.
//!
//! Decides nothing.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use ipicsha_core::{
    data::{Data, RepairReport},
    id::{DatabaseName, Seq},
};
use serde::Serialize;

use crate::{
    gauge::LogUse, identity::Identity, journal::JournalKind, schema::SkippedTable, worker::Writes,
};

/// The state of one database.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatabaseStatus {
    /// The name both servers use.
    pub name: DatabaseName,
    /// Where it lies here.
    pub path: PathBuf,
    /// Replicated tables.
    pub tables: Vec<String>,
    /// The others, with the reason.
    pub skipped_tables: Vec<SkippedTable>,
    /// How the records of each captured table are told apart.
    pub identities: BTreeMap<String, Identity>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
    /// Capture is installed.
    pub installed: bool,
    /// Changes are exchanged with the partner.
    pub attached: bool,
    /// Whether the application may write.
    pub writes: Writes,
    /// Journal mode of the file, once it is open.
    pub journal_mode: Option<String>,
    /// Log entries the partner has not acknowledged.
    pub queue_records: u64,
    /// How many the partner acknowledges in a second, once that is known.
    pub queue_per_second: Option<u64>,
    /// Time until the queue is empty if it goes on shrinking like this; `None` if it does not.
    pub queue_seconds_left: Option<u64>,
    /// Age of the oldest of them.
    pub lag_seconds: f64,
    /// When the first and the last of them were made, in milliseconds since 1970.
    pub queued_ms: Option<(i64, i64)>,
    /// Share of the log's capacity they take: the worse of entries and bytes.
    pub log_used_percent: f64,
    /// The same in numbers.
    pub log: LogUse,
    /// The initial comparison with this partner has finished; changes flow while `attached`, too.
    pub synced: bool,
    /// The file was never here: it is built from the partner's.
    pub seeding: bool,
    /// Why it cannot follow, and what to do.
    pub hold: Option<String>,
    /// A running comparison.
    pub repair: Option<Box<RepairProgress>>,
    /// Entries of the conflict journal.
    pub conflicts_total: u64,
    /// When the newest change of each table was made that came from the partner since the worker
    /// began, in milliseconds since 1970.
    pub applied_ms: BTreeMap<String, i64>,
    /// Newest own log entry.
    pub last_seq: Seq,
    /// Newest one the partner has durably.
    pub acked: Seq,
    /// Newest of the partner's this server has durably.
    pub applied: Seq,
}

impl DatabaseStatus {
    /// Tables that are captured and cannot follow, because the partner's are different.
    pub fn held_tables(&self) -> impl Iterator<Item = &SkippedTable> {
        self.skipped_tables.iter().filter(|table| self.identities.contains_key(&table.table))
    }

    /// Whether there is one.
    pub fn is_table_held(&self) -> bool {
        self.held_tables().next().is_some()
    }
}

/// How far a comparison is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairProgress {
    /// Number of the repair or comparison.
    pub run: u64,
    /// What it does now.
    pub stage: &'static str,
    /// On this table.
    pub table: Option<String>,
    /// Tables finished.
    pub tables_done: u32,
    /// Of so many.
    pub tables_total: u32,
    /// Records looked at.
    pub rows_compared: u64,
    /// Differences found so far.
    pub differences: u64,
    /// It waits until both databases are connected again.
    pub paused: bool,
    /// Records done in this pass (everything is compared again after a repair).
    pub rows_done: u64,
    /// Of so many; unknown in files too large to be counted on the way.
    pub rows_total: Option<u64>,
    /// Speed of the last seconds, once there is one.
    pub rows_per_second: Option<u64>,
    /// Time this pass still takes at that speed.
    pub seconds_left: Option<u64>,
}

impl RepairProgress {
    /// Of a run that has not begun here since the start of the daemon.
    pub(crate) fn waiting(run: u64) -> Self {
        Self {
            run,
            stage: PAUSED,
            table: None,
            tables_done: 0,
            tables_total: 0,
            rows_compared: 0,
            differences: 0,
            paused: true,
            rows_done: 0,
            rows_total: None,
            rows_per_second: None,
            seconds_left: None,
        }
    }

    /// The same while it cannot go on.
    pub(crate) fn paused(self) -> Self {
        Self { stage: PAUSED, paused: true, rows_per_second: None, seconds_left: None, ..self }
    }
}

/// What a run does that was cut off.
pub(crate) const PAUSED: &str = "cut off, goes on when the partner is back";

/// A version that has just been put into the conflict journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConflictSummary {
    /// The database.
    pub database: DatabaseName,
    /// The table.
    pub table: String,
    /// The key, for people to read.
    pub key: String,
    /// Why it lost.
    pub kind: JournalKind,
    /// Whether it was this server's version.
    pub loser_was_own: bool,
}

/// Where a worker says what it has to tell; must not wait for the worker.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// What a worker tells the shell.
#[derive(Debug)]
pub enum Event {
    /// To go on the data connection, in order.
    Send(Data),
    /// The state has changed.
    Status(Box<DatabaseStatus>),
    /// Something was put into the conflict journal.
    ConflictJournaled(ConflictSummary),
    /// A comparison has ended; reported on both servers.
    RepairFinished {
        /// Its number.
        run: u64,
        /// It was the initial comparison.
        initial: bool,
        /// The result, or why there is none.
        result: Result<RepairReport, String>,
    },
}
