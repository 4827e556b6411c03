//! What the command line and the daemon say to each other over the Unix socket: one JSON line each
//! way. Progress is looked at by a second request beside the one that is waited for. No front end decides anything, so no two of them can differ.

use std::{collections::BTreeMap, path::PathBuf};

use ipicsha_core::{
    admin::AdminReply,
    status::{LogForecast, PairStatus},
};
use ipicsha_files::replicate::{CompareReport, DirectoryStatus};
use ipicsha_records::{DatabaseStatus, LogCapacity};
use serde::{Deserialize, Serialize};

use crate::{
    config::DirectoryFile,
    daemon::{AddressRow, PlannedRow},
    exit::Failure,
    size::ByteSize,
};

/// A request of an administrator.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Answered at once.
    Look(Look),
    /// Done in a task of its own, as it waits for somebody.
    Work(Work),
    /// Protect a database.
    Protect {
        path: PathBuf,
        name: Option<String>,
        seed: bool,
        keep_journal_mode: bool,
        #[serde(default)]
        log_entries: Option<u64>,
        #[serde(default)]
        log_bytes: Option<ByteSize>,
    },
    /// Remove every trace of protection.
    Unprotect { name: String },
    /// Answered when the partner durably has everything committed before in this database, or in
    /// all; applications ask, too: the line is documented in README.md.
    Barrier {
        #[serde(default)]
        database: Option<String>,
        #[serde(default = "barrier_timeout")]
        timeout_seconds: f64,
    },
    /// Every table of all databases, or of one.
    Replication { database: Option<String> },
    /// The state number of every database on both servers.
    RuntimeState,
    /// Watch a directory.
    ProtectDirectory { file: DirectoryFile, create: bool },
    /// Do not watch it any more.
    UnprotectDirectory { name: String },
    /// What is asked of watched directories; all of them where none is named.
    Files(FilesRequest),
    /// The alarms of this server.
    Alarms(AlarmsRequest),
    /// A failover at a time; `None` ends the plan.
    Plan { at_unix_ms: Option<i64> },
}

/// What can be asked of alarms.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AlarmsRequest {
    List,
    /// One, or all.
    Acknowledge {
        id: Option<u64>,
        note: Option<String>,
    },
    /// Try every way that word of an alarm goes.
    Test,
}

/// What can be asked of watched directories.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FilesRequest {
    Trash { directory: Option<String>, limit: usize },
    Restore { directory: Option<String>, id: u64 },
    AcceptDeletions { directory: Option<String> },
    Compare { directory: Option<String>, apply: bool },
}

/// How the comparison of one directory ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DirectoryOutcome {
    pub(crate) directory: String,
    pub(crate) report: Option<CompareReport>,
    pub(crate) error: Option<String>,
    pub(crate) next_step: Option<String>,
}

/// How long a barrier waits unless it is told.
pub(crate) fn barrier_timeout() -> f64 {
    5.0
}

/// What can be looked at.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Look {
    Status,
    History { limit: usize },
    Trust,
    Licenses,
}

/// What takes its time.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    TrustPassword {
        password: String,
    },
    TrustSet {
        address: String,
        password: String,
    },
    TrustDelete {
        password: Option<String>,
    },
    LicenseInstall {
        texts: Vec<String>,
        replace: bool,
    },
    Configure {
        interval_seconds: Option<f64>,
        missed_count: Option<u32>,
    },
    Update {
        interval_seconds: Option<f64>,
        missed_count: Option<u32>,
    },
    Unconfigure {
        force: bool,
    },
    Failover {
        dry_run: bool,
        accept_data_loss: bool,
    },
    GoStandby,
    Life(LifeWork),
    Service(ServiceOrder),
    /// Both servers, and the link between them.
    CertificateRenew,
    Site,
    /// To the partner and back.
    Drill {
        stay_seconds: u64,
    },
    Repair {
        dry_run: bool,
        database: Option<String>,
    },
    RepairUndo {
        run: u64,
    },
    RepairList {
        database: Option<String>,
        limit: usize,
    },
    Conflicts(Conflicts),
}

/// The life of a pair beyond failover.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LifeWork {
    Fallback { dry_run: bool },
    Recover,
    Pause { reason: String, seconds: u64 },
    Resume,
}

/// What is asked of the services of this server (spec F3); all of them where none is named.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceOrder {
    Start { name: Option<String> },
    Stop { name: Option<String> },
    Restart { name: Option<String> },
}

/// The conflict journal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Conflicts {
    List { database: Option<String>, table: Option<String>, limit: usize },
    Show { id: i64 },
    Restore { id: i64 },
}

/// The daemon's answer.
pub(crate) type Answer = Result<serde_json::Value, Failure>;

/// A database that is compared or repaired now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PendingRepair {
    /// Number of the repair or comparison.
    #[serde(default)]
    pub(crate) run: u64,
    pub(crate) database: String,
    pub(crate) stage: String,
    pub(crate) table: Option<String>,
    pub(crate) tables_done: u32,
    pub(crate) tables_total: u32,
    pub(crate) rows_compared: u64,
    pub(crate) differences: u64,
    /// It waits until both databases are connected again.
    #[serde(default)]
    pub(crate) paused: bool,
    /// Rows done in this pass, of so many; `null` while it is not known, as the time left is.
    #[serde(default)]
    pub(crate) rows_done: u64,
    #[serde(default)]
    pub(crate) rows_total: Option<u64>,
    #[serde(default)]
    pub(crate) rows_per_second: Option<u64>,
    #[serde(default)]
    pub(crate) seconds_left: Option<u64>,
}

/// A table that is not replicated, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SkippedRow {
    pub(crate) table: String,
    pub(crate) reason: String,
}

/// The transaction log of one database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogRow {
    /// Changes the partner does not have.
    pub(crate) used_entries: u64,
    pub(crate) capacity_entries: u64,
    /// Estimated from a sample of the entries.
    pub(crate) used_bytes: u64,
    pub(crate) capacity_bytes: u64,
    /// When 90 % is reached at the present rate.
    pub(crate) forecast: LogForecast,
    /// It has overwritten changes the partner never had.
    pub(crate) overflowed: bool,
}

impl LogRow {
    /// Of a database that is not replicated now.
    pub(crate) fn empty(capacity: LogCapacity) -> Self {
        Self {
            used_entries: 0,
            capacity_entries: capacity.entries,
            used_bytes: 0,
            capacity_bytes: capacity.bytes,
            forecast: LogForecast::Unknown,
            overflowed: false,
        }
    }
}

/// One protected database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DatabaseRow {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) tables: Vec<String>,
    /// By which each table's records are known: `PRIMARY KEY`, a UNIQUE index, or the rowid.
    #[serde(default)]
    pub(crate) identities: BTreeMap<String, String>,
    pub(crate) skipped_tables: Vec<SkippedRow>,
    pub(crate) synced: bool,
    pub(crate) writes: String,
    /// `wal`, `delete` and so on; not known before the file was opened.
    #[serde(default)]
    pub(crate) journal_mode: Option<String>,
    pub(crate) queue_records: u64,
    /// Acknowledged by the partner in a second; `null` while it is not known.
    #[serde(default)]
    pub(crate) queue_records_per_second: Option<u64>,
    /// Until the queue is empty; `null` while it is not known or the queue grows.
    #[serde(default)]
    pub(crate) queue_seconds_left: Option<u64>,
    pub(crate) lag_seconds: f64,
    /// The worse of entries and bytes.
    pub(crate) log_used_percent: f64,
    pub(crate) log: LogRow,
    pub(crate) conflicts_total: u64,
    pub(crate) hold: Option<String>,
    pub(crate) warnings: Vec<String>,
    /// The pattern it belongs to.
    #[serde(default)]
    pub(crate) pattern: Option<String>,
}

/// A pattern of databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PatternRow {
    pub(crate) pattern: String,
    /// What the names of its databases begin with.
    pub(crate) name: String,
    pub(crate) keep_journal_mode: bool,
    pub(crate) databases: usize,
    pub(crate) databases_max: usize,
    /// The first files that match and are not taken, with the reason.
    pub(crate) left: Vec<(String, String)>,
    pub(crate) left_total: usize,
    /// Taken out by `unprotect`, as paths below its directory.
    pub(crate) excluded: Vec<String>,
    /// Why not everything that matches is protected.
    pub(crate) problem: Option<String>,
}

impl From<&DatabaseStatus> for DatabaseRow {
    fn from(status: &DatabaseStatus) -> Self {
        let skipped = |s: &ipicsha_records::SkippedTable| SkippedRow {
            table: s.table.clone(),
            reason: s.reason.clone(),
        };
        Self {
            name: status.name.to_string(),
            path: status.path.display().to_string(),
            tables: status.tables.clone(),
            identities: status
                .identities
                .iter()
                .map(|(table, identity)| (table.clone(), identity.name().to_owned()))
                .collect(),
            skipped_tables: status.skipped_tables.iter().map(skipped).collect(),
            synced: status.synced,
            writes: match status.writes {
                ipicsha_records::Writes::Open => "open".into(),
                ipicsha_records::Writes::Closed => "closed".into(),
            },
            journal_mode: status.journal_mode.clone(),
            queue_records: status.queue_records,
            queue_records_per_second: status.queue_per_second,
            queue_seconds_left: status.queue_seconds_left,
            lag_seconds: status.lag_seconds,
            log_used_percent: status.log_used_percent,
            log: LogRow {
                used_entries: status.log.entries,
                capacity_entries: status.log.capacity.entries,
                used_bytes: status.log.bytes,
                capacity_bytes: status.log.capacity.bytes,
                forecast: status.log.forecast,
                overflowed: status.log.overflowed,
            },
            conflicts_total: status.conflicts_total,
            hold: status.hold.clone(),
            warnings: status.warnings.clone(),
            pattern: None,
        }
    }
}

/// A service as this server has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRow {
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) running: bool,
    pub(crate) pid: Option<u32>,
    /// The role moves when it is down for too long.
    #[serde(default)]
    pub(crate) critical: bool,
    /// It waits for `service start` or the next role change.
    #[serde(default)]
    pub(crate) stopped_by_administrator: bool,
    /// What is wrong with it.
    #[serde(default)]
    pub(crate) trouble: Option<String>,
}

/// Everything `ha-status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// `ipicsha.status/1`.
    pub(crate) schema: String,
    #[serde(flatten)]
    pub(crate) pair: PairStatus,
    pub(crate) databases: Vec<DatabaseRow>,
    #[serde(default)]
    pub(crate) patterns: Vec<PatternRow>,
    #[serde(default)]
    pub(crate) directories: Vec<DirectoryStatus>,
    /// A failover at a time set before, or why it did not happen.
    #[serde(default)]
    pub(crate) planned: Option<PlannedRow>,
    #[serde(default)]
    pub(crate) addresses: Vec<AddressRow>,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) pending_repairs: Vec<PendingRepair>,
    /// Why there is no connection to the partner, as last seen.
    pub(crate) link_error: Option<String>,
    /// `auto`, `assume-synced` or `none`.
    pub(crate) time_source: String,
}

/// What `trust show` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TrustRow {
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    pub(crate) fingerprint: String,
    /// Seconds since 1970.
    pub(crate) expires_unix: Option<i64>,
}

/// Result of `failover`, `go-standby` and the like.
pub(crate) fn reply_value(reply: &AdminReply) -> serde_json::Value {
    match reply {
        AdminReply::Done => serde_json::json!({ "result": "done" }),
        AdminReply::FailedOver { took } => {
            serde_json::json!({ "result": "failed over", "took_seconds": took.as_secs_f64() })
        }
        AdminReply::Unconfirmed => serde_json::json!({
            "result": "done",
            "note": "in force here; the partner did not confirm and adopts it when it is reached",
        }),
        AdminReply::TookOver => serde_json::json!({ "result": "took over" }),
        AdminReply::Preflight(checks) => {
            serde_json::json!({ "result": "preflight", "checks": checks })
        }
        AdminReply::RepairMayStart => serde_json::json!({ "result": "repair may start" }),
        AdminReply::Recovering => serde_json::json!({
            "result": "recovering",
            "note": "the partner starts again what failed; `ipicsha ha-status` shows how it ends",
        }),
    }
}
