//! The closed list of what can happen to a daemon.

use ipicsha_core::{
    Input, Shutdown,
    admin::{AdminCommand, AdminReply, Refusal},
    data::{Data, RepairReport},
    message::{Control, RepairRequest},
};
use tokio::sync::oneshot;

use super::patterns::{Outcome, PatternFile};
use crate::{
    api::{Answer, FilesRequest, Request},
    config::DatabaseFile,
    exit::Failure,
};

/// Something happened.
pub(crate) enum Event {
    /// An administrator asks over the socket.
    Request(Request, oneshot::Sender<Answer>),
    /// A task needs a decision of the core.
    Ask(AdminCommand, oneshot::Sender<Result<AdminReply, Refusal>>),
    /// Something for the core.
    Node(Input),
    /// A message of the partner on the control connection.
    Control(Control),
    /// A message of the partner on the data connection.
    Data(Data),
    /// The outgoing control connection is there.
    ControlUp,
    /// The outgoing data connection came or went.
    DataLink(bool),
    /// The outgoing connection for files came or went.
    FilesLink(bool),
    /// The worker of a watched directory reports.
    Directory(Box<ipicsha_files::replicate::DirectoryStatus>),
    /// Why the control connection cannot be made; `None` when it stands.
    LinkTrouble(Option<String>),
    /// A record of this database is too large to be sent.
    TooLarge(String),
    /// The worker of this database reports.
    Records(String, ipicsha_records::Event),
    /// A database without a worker was looked at.
    Inspected(String, Result<ipicsha_records::Inspection, String>),
    /// Our objects could not be removed from this database.
    NotRemoved(String, String),
    /// A comparison of one database ended.
    RepairEnded { run: u64, database: String, result: Result<RepairReport, String> },
    /// A comparison is wanted; the report goes to the sender when all databases are done.
    /// Hooks do not forbid what is asked of directories.
    FilesAllowed(FilesRequest, oneshot::Sender<Answer>),
    /// Something for the history.
    Happened(ipicsha_core::Event),
    /// How a planned failover ended.
    Planned(Result<(), String>),
    /// `repair` or `verify`.
    Repair(RepairRequest, oneshot::Sender<Result<Vec<RepairOutcome>, Failure>>),
    /// A repair was undone.
    RepairUndone(ipicsha_records::UndoReport),
    /// A database was checked and is to be protected.
    Protect(DatabaseFile, Option<ipicsha_records::Inspection>, oneshot::Sender<Answer>),
    /// A pattern was looked at and is to be protected.
    ProtectPattern(PatternFile, Box<Outcome>, oneshot::Sender<Answer>),
    /// Patterns were searched for new databases.
    Searched(Box<Outcome>),
    /// The transaction log of this database has another size now.
    LimitsSet(DatabaseFile, oneshot::Sender<Answer>),
    /// New licenses were installed.
    LicensesChanged,
    /// The certificate that was announced is to be used from now on.
    Renew(oneshot::Sender<Result<(), Failure>>),
    /// The daemon is asked to end.
    Shutdown(Shutdown),
}

/// How the comparison of one database ended.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct RepairOutcome {
    /// Number of the repair, for `repair undo`.
    pub(crate) run: u64,
    pub(crate) database: String,
    /// Where the command was given, and who the partner is.
    pub(crate) sides: Sides,
    /// The tables that differ, seen from here.
    pub(crate) plan: Vec<PlanRow>,
    pub(crate) report: Option<RepairReport>,
    pub(crate) error: Option<String>,
    /// Tables of this database that no comparison looks at.
    pub(crate) not_compared: Vec<NotCompared>,
}

/// A table that nothing is said about.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct NotCompared {
    pub(crate) table: String,
    pub(crate) reason: String,
    /// It should be replicated, and cannot follow at present.
    pub(crate) held: bool,
}

/// The two servers of a plan.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Sides {
    /// Name of this server.
    pub(crate) here: String,
    /// Name of its partner.
    pub(crate) there: String,
    /// This server is the primary: where both have a record, its version is kept.
    pub(crate) here_is_primary: bool,
}

impl Sides {
    /// Name of the server whose version is kept.
    pub(crate) fn winner(&self) -> &str {
        if self.here_is_primary { &self.here } else { &self.there }
    }
}

/// What differs in one table.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct PlanRow {
    pub(crate) table: String,
    /// Records that are copied to the partner.
    pub(crate) only_here: u64,
    /// Records that are copied to this server.
    pub(crate) only_there: u64,
    /// Records both have with different contents.
    pub(crate) differing: u64,
    /// Name of the server whose versions of these are kept: the primary.
    pub(crate) kept_of: String,
}

impl RepairOutcome {
    /// How a run ended for one database, as seen from this server.
    pub(crate) fn new(
        run: u64,
        database: String,
        sides: Sides,
        not_compared: Vec<NotCompared>,
        result: Result<RepairReport, String>,
    ) -> Self {
        let (report, error) = match result {
            Ok(report) => (Some(report), None),
            Err(error) => (None, Some(error)),
        };
        let tables = report.iter().flat_map(|report| &report.tables);
        let rows = tables.map(|table| {
            let d = &table.differences;
            let (only_here, only_there) = if sides.here_is_primary {
                (d.only_primary, d.only_secondary)
            } else {
                (d.only_secondary, d.only_primary)
            };
            let (table, kept_of) = (table.table.clone(), sides.winner().to_owned());
            PlanRow { table, only_here, only_there, differing: d.differing, kept_of }
        });
        let plan = rows.filter(|row| row.only_here + row.only_there + row.differing > 0).collect();
        Self { run, database, sides, plan, report, error, not_compared }
    }
}
