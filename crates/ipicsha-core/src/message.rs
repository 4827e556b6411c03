//! Everything the two servers say to each other on the control connection. Append-only: fields and
//! variants are added at the end, never moved, so that neighbouring versions understand each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::HaSetting,
    epoch::Epoch,
    id::{DatabaseName, PartingId, ServerId},
    license::LicensedRole,
    state::{NodeState, NotReady, PauseSetting, Reason, Role},
    status::LogForecast,
    time::{MonoTime, WallTime},
};

/// A message on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Heartbeat with the sender's whole report.
    Beat(Box<Beat>),
    /// The sender's word that the receiver may be active under this epoch.
    Handover {
        /// Epoch to activate under.
        epoch: Epoch,
        /// Why the receiver becomes active.
        reason: Reason,
    },
    /// The sender's daemon ends in an orderly way.
    Goodbye(Goodbye),
    /// The secondary asks the primary, which leads comparisons, to start one.
    RepairRequest(RepairRequest),
    /// The primary cannot compare one database.
    RepairRefused {
        /// Run of the request.
        run: u64,
        /// Name of the database; `None` is all of them.
        database: Option<String>,
        /// Why, for people.
        cause: String,
    },
    /// What the sender protects. A list too long for one message comes in several.
    Databases {
        /// Every protected database, or a part of them.
        list: Vec<DatabaseState>,
        /// Another part follows.
        more: bool,
    },
    /// An administrator asks both servers to start again what failed (spec B8).
    Recover,
    /// The standby asks the active server to hand over to it.
    AskHandover,
    /// It does not, and nothing has changed.
    HandoverRefused {
        /// Why, for people.
        cause: String,
    },
    /// A certificate of the sender that is about to be used, or is used already.
    Certificate {
        /// It (DER).
        certificate: Vec<u8>,
        /// It is used, and the one before is not any more.
        in_use: bool,
    },
    /// The sender accepts this certificate, durably.
    CertificateNoted {
        /// It (DER).
        certificate: Vec<u8>,
        /// And the one before not any more.
        in_use: bool,
    },
}

/// How the replication of one database stands on one server (spec C5); the numbers are those that
/// `dbreplication runtimestate` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReplicationState {
    /// 0: HA is not configured, or the set-up has not finished.
    SettingUp,
    /// 1: not everything that should be replicated is.
    Incomplete,
    /// 2: set up and good.
    Good,
    /// 3: tables differ, or cannot follow.
    Suspect,
    /// 4: the set-up failed, or nothing is exchanged.
    Dropped,
}

impl ReplicationState {
    /// The number administrators know it by.
    pub fn number(self) -> u8 {
        match self {
            Self::SettingUp => 0,
            Self::Incomplete => 1,
            Self::Good => 2,
            Self::Suspect => 3,
            Self::Dropped => 4,
        }
    }
}

/// One database of the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseState {
    /// Its name.
    pub name: DatabaseName,
    /// How its replication stands there.
    pub state: ReplicationState,
}

/// One comparison of databases, wanted by an administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRequest {
    /// Random number that the reports repeat.
    pub run: u64,
    /// Repair what differs; otherwise only show it.
    pub apply: bool,
    /// Only this database.
    pub database: Option<String>,
}

/// What an orderly end means for the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goodbye {
    /// It stays away: the standby takes over at once.
    Stop,
    /// It comes back: no takeover for the time given.
    Restart {
        /// How long to wait for it.
        grace: Duration,
    },
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Random number of this run of the daemon.
    pub boot: u64,
    /// Rises by one with every beat of a run; an older one is a leftover and ignored.
    pub number: u64,
    /// Sender's clocks when it was sent.
    pub sent: MonoTime,
    /// Sender's wall clock when it was sent.
    pub sent_wall: WallTime,
    /// Answer to the receiver's last beat, for the clock guard.
    pub echo: Option<Echo>,
    /// The sender as it sees itself.
    pub report: Report,
}

/// The part of the receiver's last beat that is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Run of the daemon that sent it.
    pub boot: u64,
    /// The receiver's clock when it sent that beat.
    pub sent: MonoTime,
    /// How long it was held.
    pub held: Duration,
}

/// One server as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Identity for life.
    pub server: ServerId,
    /// Name.
    pub name: String,
    /// Software version (spec A6).
    pub version: String,
    /// Licensed role, if the licenses give one (spec A4).
    pub licensed: Option<LicensedRole>,
    /// Agreed configuration as known there.
    pub ha: HaSetting,
    /// `None` while HA is not configured there.
    pub role: Option<Role>,
    /// Epoch known there.
    pub epoch: Epoch,
    /// It was the active one when it last stopped, and has not been told its role since.
    pub was_active: bool,
    /// State.
    pub state: NodeState,
    /// Reason of the state.
    pub reason: Reason,
    /// Why it could not take over now; `None` is ready.
    pub not_ready: Option<NotReady>,
    /// Its clock is synchronised (spec A5).
    pub time_synced: bool,
    /// Its databases.
    pub data: DataReport,
    /// How long ago it heard the receiver; `None` is never.
    pub hears_you: Option<Duration>,
    /// The last pause or resume known there (spec B13).
    pub pause: PauseSetting,
    /// The automatic takeovers of the pair that it knows of: the epoch, and how long ago.
    pub takeovers: Vec<(Epoch, Duration)>,
    /// It wants to end HA and go on alone.
    #[serde(default)]
    pub parting: Option<PartingId>,
    /// It will not take over, durably, so that the receiver can do so.
    #[serde(default)]
    pub yields: Option<PartingId>,
    /// What happened to it lately, for a split brain to be understood.
    pub timeline: Timeline,
}

/// When a server became active, and what it has that the partner has not; by its own wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Since when it is active, and why; `None` on a standby.
    pub active: Option<(WallTime, Reason)>,
    /// When the first and the last of its unacknowledged changes were made; `None` without any.
    pub changes: Option<(WallTime, WallTime)>,
}

/// All databases of one server in a few numbers; the bytes never pass through the core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataReport {
    /// Every database was readable when this was measured.
    pub measured: bool,
    /// Databases whose writes are open.
    pub writes_open: u32,
    /// Databases whose writes are closed.
    pub writes_closed: u32,
    /// All of them have been compared with the partner's once and follow since.
    pub synced: bool,
    /// The data connection stands and both sides agree where to go on.
    pub attached: bool,
    /// Changes here that the partner has not acknowledged.
    pub unacknowledged: u64,
    /// Fullest transaction log, in percent of its capacity.
    pub log_used_percent: u8,
    /// Databases that cannot follow and wait for an administrator.
    pub held: u32,
    /// More about the transaction logs, for this server only: it does not travel.
    #[serde(skip)]
    pub log: LogReport,
}

/// What a server knows of its transaction logs beyond how full they are (spec C4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Name of the database whose log has overflowed, else of the one whose log is fullest.
    pub database: String,
    /// When the first of all logs reaches 90 %.
    pub forecast: LogForecast,
    /// That log has overwritten changes the partner never had.
    pub overflowed: bool,
    /// When the first and the last of all unacknowledged changes were made.
    pub changes: Option<(WallTime, WallTime)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Pause;

    fn report() -> Report {
        let pause = Pause { reason: "r".into(), until: WallTime(9) };
        Report {
            server: ServerId(7),
            name: "alpha".into(),
            version: "0.1.0".into(),
            licensed: Some(LicensedRole::Primary),
            ha: HaSetting::default(),
            role: Some(Role::Active),
            epoch: Epoch(2),
            was_active: false,
            state: NodeState::Normal,
            reason: Reason::Normal,
            not_ready: Some(NotReady::ClocksApart),
            time_synced: true,
            data: DataReport { measured: true, writes_open: 1, ..Default::default() },
            hears_you: Some(Duration::from_millis(5)),
            pause: PauseSetting { number: 8, pause: Some(pause) },
            takeovers: vec![(Epoch(2), Duration::from_millis(10))],
            parting: None,
            yields: None,
            timeline: Timeline {
                active: Some((WallTime(1), Reason::PeerDown)),
                changes: Some((WallTime(2), WallTime(3))),
            },
        }
    }

    /// The bytes of every message; a change here is a change of the protocol.
    #[test]
    fn wire_bytes_are_pinned() {
        let report = report();
        let beat = Beat {
            boot: 1,
            number: 2,
            sent: MonoTime(3),
            sent_wall: WallTime(4),
            echo: Some(Echo { boot: 5, sent: MonoTime(6), held: Duration::from_micros(7) }),
            report,
        };
        let grace = Duration::from_secs(10);
        let states = [
            ReplicationState::SettingUp,
            ReplicationState::Incomplete,
            ReplicationState::Good,
            ReplicationState::Suspect,
            ReplicationState::Dropped,
        ];
        let states: Vec<DatabaseState> = states
            .into_iter()
            .map(|state| DatabaseState { name: DatabaseName("d".into()), state })
            .collect();
        for state in &states {
            let bytes = postcard::to_allocvec(&state.state).unwrap();
            assert_eq!(bytes, [state.state.number()], "the number is what is sent");
        }
        let messages = [
            Control::Beat(Box::new(beat)),
            Control::Handover { epoch: Epoch(3), reason: Reason::OnAdminRequest },
            Control::Goodbye(Goodbye::Stop),
            Control::Goodbye(Goodbye::Restart { grace }),
            Control::RepairRequest(RepairRequest { run: 1, apply: true, database: None }),
            Control::RepairRefused { run: 1, database: None, cause: "c".into() },
            Control::Databases { list: states, more: true },
            Control::Recover,
            Control::AskHandover,
            Control::HandoverRefused { cause: "c".into() },
            Control::Certificate { certificate: vec![1, 2], in_use: true },
            Control::CertificateNoted { certificate: vec![3], in_use: false },
        ];
        let mut hex = String::new();
        for message in messages {
            let bytes = postcard::to_allocvec(&message).unwrap();
            assert_eq!(postcard::from_bytes::<Control>(&bytes).unwrap(), message);
            hex.extend(bytes.iter().map(|byte| format!("{byte:02x}")));
            hex.push('\n');
        }
        insta::assert_snapshot!("control_messages", hex);
    }
}
