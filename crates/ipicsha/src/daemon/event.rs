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
    api::{Answer, Request},
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
    Repair(RepairRequest, oneshot::Sender<Result<Vec<RepairOutcome>, Failure>>),
    /// A repair was undone.
    RepairUndone(ipicsha_records::UndoReport),
    /// A database was checked and is to be protected.
    Protect(DatabaseFile, Option<ipicsha_records::Inspection>, oneshot::Sender<Answer>),
    /// A pattern was looked at and is to be protected.
    ProtectPattern(PatternFile, Box<Outcome>, oneshot::Sender<Answer>),
    /// Patterns were searched for new databases.
    Searched(Box<Outcome>),
    /// New licenses were installed.
    LicensesChanged,
    /// The daemon is asked to end.
    Shutdown(Shutdown),
}

/// How the comparison of one database ended.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct RepairOutcome {
    /// Number of the repair, for `repair undo`.
    pub(crate) run: u64,
    pub(crate) database: String,
    pub(crate) report: Option<RepairReport>,
    pub(crate) error: Option<String>,
}
