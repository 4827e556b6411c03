//! What goes into a [`Node`](crate::Node) and what comes out.

use std::time::Duration;

use crate::{
    admin::{AdminCommand, AdminReply, Refusal},
    epoch::Epoch,
    id::RequestId,
    license::License,
    message::{Control, DataReport, RepairRequest},
    state::{NodeState, PersistedState, Reason, Role},
    status::Alarm,
    time::WallTime,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// An administrator asks.
    Admin(RequestId, AdminCommand),
    /// The partner says something on the control connection.
    Control(Box<Control>),
    /// The partner sent anything else that is authenticated: a sign of life.
    Heard,
    /// A control connection to the partner was made.
    LinkUp,
    /// The databases were measured.
    Data(DataReport),
    /// Addresses that this server should have and has not, each with the reason.
    Addresses(Vec<(String, String)>),
    /// The watched directories were looked at: which are held and why, and deletions that wait.
    Directories(Vec<DirectoryReport>),
    /// The kernel's clock is synchronised, or not (spec A5).
    TimeSynced(bool),
    /// The licenses that are installed.
    Licenses(Vec<License>),
    /// Which critical services are down here now. On a standby: which could not run.
    Services(ServicesReport),
    /// [`Output::Activate`] ended.
    Activated(Result<(), ActivationFailed>),
    /// [`Output::Deactivate`] ended.
    Deactivated(Result<(), String>),
    /// [`Output::CloseWrites`] ended: closed with the tail at the partner, or rolled back.
    WritesClosed(Result<(), String>),
    /// A repair ended with both sides equal.
    Repaired,
    /// The daemon is asked to end.
    Shutdown(Shutdown),
    /// The answer to [`Output::AskWitness`] of this number.
    Witness(u64, WitnessAnswer),
}

/// What the witness says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessAnswer {
    /// The server has the role for the time it asked for, counted from the question.
    Granted,
    /// It was only asked whether it is there.
    Noted,
    /// It has not.
    Refused {
        /// The newest epoch the witness granted.
        epoch: Epoch,
        /// For how long the other server has the role still.
        left: Duration,
        /// It has it without end: HA ended there alone.
        kept: bool,
    },
    /// It cannot be asked; why, for people.
    Failed(String),
}

/// A watched directory that needs somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryReport {
    /// Its name.
    pub name: String,
    /// Why it is not replicated.
    pub hold: Option<String>,
    /// Deletions that wait for an administrator.
    pub held_deletions: u64,
    /// Why changes in it are noticed late, where something can be done about it.
    pub late: Option<String>,
}

/// What kind of critical service it is (spec B3, B4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// A process, or what answers at a port.
    Critical,
    /// A database.
    Database,
}

/// A critical service that does not run as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDown {
    /// Its name.
    pub name: String,
    /// What kind.
    pub kind: ServiceKind,
    /// What was found, for people.
    pub cause: String,
}

/// All critical services that are down; those an administrator stopped are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesReport {
    /// In the order of the configuration.
    pub down: Vec<ServiceDown>,
}

/// What part of an activation went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening the writes: the users cannot work.
    Writes,
    /// Starting the critical services.
    Services,
}

/// An activation that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivationFailed {
    /// Where.
    pub stage: Stage,
    /// Why, for people.
    pub cause: String,
}

/// How the daemon is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// For good: the partner takes over if this server is active.
    Stop,
    /// To come back at once: roles stay.
    Restart,
}

/// May records flow between the servers?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Open,
    /// They queue.
    Closed,
}

/// Something to be done, strictly in order. `Persist` is a barrier: nothing after it before it is
/// on the disk; a shell that cannot persist ends the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write the state durably.
    Persist(Box<PersistedState>),
    /// Send to the partner; lost if there is no connection.
    Send(Control),
    /// Answer a request.
    Reply(RequestId, Result<AdminReply, Refusal>),
    /// Trust changed: connect to this partner only, or to none.
    TrustChanged,
    /// It is the same partner, whose certificate is about to change, or has changed.
    PinsChanged,
    /// Install capture in the databases (true) or remove every trace of it (false).
    Capture(bool),
    /// Open the writes, then start the services; answered by [`Input::Activated`].
    Activate {
        /// The partner closed its writes and shipped everything before.
        drained: bool,
    },
    /// Close the writes, then stop the services; answered by [`Input::Deactivated`].
    Deactivate,
    /// Close the writes with nothing lost: hold them, ship the tail, wait for the partner's durable
    /// acknowledgement, close; then stop the services. Answered by [`Input::WritesClosed`].
    CloseWrites {
        /// Roll back if it takes longer.
        limit: Duration,
    },
    /// Ask the witness for the role under this epoch, for so long; answered by [`Input::Witness`].
    AskWitness {
        /// Of this question.
        number: u64,
        /// Epoch of the role.
        epoch: Epoch,
        /// The newest epoch this server knows of.
        known: Epoch,
        /// For how long, from when the witness hears of it.
        hold: Duration,
        /// Without end besides, until this server asks for a limited time again, or leaves.
        keep: bool,
    },
    /// Ask the witness whether it is there, and knows this server; answered by [`Input::Witness`].
    PingWitness {
        /// Of this question.
        number: u64,
    },
    /// Tell the witness that the role it granted is not used any more.
    LeaveWitness {
        /// Answered by [`Input::Witness`], if somebody waits for it.
        number: Option<u64>,
    },
    /// The databases that are open are to refuse writes by themselves from then on, also when this
    /// process is dead or frozen.
    AllowWrites {
        /// By this server's wall clock.
        until: WallTime,
    },
    /// Let records flow, or queue.
    Replicate(Gate),
    /// The partner asks this server, which leads comparisons, for one.
    Compare(RepairRequest),
    /// A change worth remembering.
    Record(Event),
    /// The daemon may end now.
    Exit,
}

/// What `ipicsha history` shows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Role, state or reason changed.
    State {
        /// Role now, `None` when HA is not configured.
        role: Option<Role>,
        /// State before.
        from: NodeState,
        /// State now.
        to: NodeState,
        /// Why.
        reason: Reason,
        /// Epoch in force.
        epoch: u64,
    },
    /// An alarm was raised.
    Raised {
        /// The alarm.
        alarm: Alarm,
    },
    /// An alarm was cleared.
    Cleared {
        /// The alarm.
        alarm: Alarm,
    },
    /// A database was repaired.
    Repaired {
        /// Number of the repair.
        run: u64,
        /// The database.
        database: String,
        /// Differences found.
        found: u64,
        /// Differences left.
        left: u64,
    },
    /// The service was moved to the partner and back (spec B5).
    Drill {
        /// Milliseconds until the partner was active.
        there_ms: u64,
        /// Milliseconds until it could hand over again.
        away_ms: u64,
        /// Milliseconds until this server was active again.
        back_ms: u64,
    },
    /// A failover at a time set before.
    Planned {
        /// Why it did not happen.
        error: Option<String>,
    },
    /// A repair was undone.
    RepairUndone {
        /// Number of the repair.
        run: u64,
        /// The database.
        database: String,
        /// Records put back.
        restored: u64,
        /// Records left as they are.
        skipped: u64,
    },
}
