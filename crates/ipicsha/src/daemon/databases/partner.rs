//! What the partner says it protects, and what this server tells it.
//!
//! Decides the state number of each database (spec C5).

use std::time::{Duration, Instant};

use ipicsha_core::{
    Gate,
    id::DatabaseName,
    message::{Control, DatabaseState, ReplicationState},
};

use super::{Databases, Protected};
use crate::daemon::{VERSION, clock, event_loop::Daemon, replication::Known};

/// Without news for this long nothing is known about the partner's databases now.
const FRESH: Duration = Duration::from_secs(15);
/// Told anew this often, in ticks of a second, even when nothing has changed.
const TELL_TICKS: u32 = 5;
/// Bytes of names in one message; a frame holds 64 KiB.
const PART_BYTES: usize = 32 * 1024;

/// The partner's list as it was last heard as a whole.
#[derive(Default)]
pub(crate) struct PartnerDatabases {
    parts: Vec<DatabaseState>,
    list: Option<(Vec<DatabaseState>, Instant)>,
}

impl PartnerDatabases {
    pub(crate) fn take(&mut self, part: Vec<DatabaseState>, more: bool) {
        self.parts.extend(part);
        if !more {
            self.list = Some((std::mem::take(&mut self.parts), Instant::now()));
        }
    }

    /// It was heard at least once since HA was configured, or since the start.
    pub(crate) fn is_known(&self) -> bool {
        self.list.is_some()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let list = self.list.iter().flat_map(|(list, _)| list);
        list.map(|database| database.name.0.clone()).collect()
    }
}

impl PartnerDatabases {
    /// The states as of now; `None` when they are not known.
    pub(crate) fn states(&self) -> Option<&[DatabaseState]> {
        let fresh = self.list.as_ref().filter(|(_, heard)| heard.elapsed() < FRESH);
        fresh.map(|(list, _)| list.as_slice())
    }
}

/// What was last told to the partner.
#[derive(Default)]
pub(crate) struct Told {
    list: Vec<DatabaseState>,
    ticks: u32,
}

impl Daemon {
    /// Once a second: tells the partner what is protected here, when it has changed or is old.
    pub(crate) fn tell_databases(&mut self) {
        let configured = self.node.persisted().ha.config.is_some();
        let status = self.node.status(clock::now());
        // Another version may not know the message.
        let knows = status.servers.get(1).and_then(|s| s.version.as_deref()) == Some(VERSION);
        let Some(link) = self.link.as_ref().filter(|_| configured && knows) else { return };
        let list = self.databases.states();
        self.databases.told.ticks = self.databases.told.ticks.saturating_sub(1);
        if self.databases.told.ticks > 0 && self.databases.told.list == list {
            return;
        }
        let parts = parts(&list);
        let last = parts.len() - 1;
        let sent = parts.into_iter().enumerate().all(|(index, part)| {
            let message = Control::Databases { list: part, more: index < last };
            link.control.try_send(message).is_ok()
        });
        if sent {
            (self.databases.told.list, self.databases.told.ticks) = (list, TELL_TICKS);
        }
    }
}

/// Pieces that fit into one message each; at least one.
fn parts(list: &[DatabaseState]) -> Vec<Vec<DatabaseState>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for database in list {
        bytes += database.name.0.len() + 8;
        if bytes > PART_BYTES {
            parts.push(Vec::new());
            bytes = database.name.0.len() + 8;
        }
        if let Some(part) = parts.last_mut() {
            part.push(database.clone());
        }
    }
    parts
}

impl Databases {
    /// How the replication of every database stands here (spec C5).
    pub(crate) fn states(&self) -> Vec<DatabaseState> {
        let state = |(name, protected): (&String, &Protected)| DatabaseState {
            name: DatabaseName(name.clone()),
            state: self.state(name, protected),
        };
        self.all.iter().map(state).collect()
    }

    /// What is known of all databases, or of one, before anything is counted.
    pub(crate) fn known(&self, only: Option<&str>) -> Vec<Known> {
        let mut rows = self.rows();
        rows.retain(|row| only.is_none_or(|only| only == row.name));
        let known = rows.into_iter().filter_map(|row| {
            let protected = self.all.get(&row.name)?;
            let state = self.state(&row.name, protected);
            let (path, worker) = (protected.file.path.clone(), protected.status.as_ref());
            let worker = worker.filter(|_| self.rank.is_some());
            let mut known = Known::new(&row.name, path, state, worker, self.compared.of(&row.name));
            known.status.hold = row.hold;
            Some(known)
        });
        known.collect()
    }

    fn state(&self, name: &str, protected: &Protected) -> ReplicationState {
        use ReplicationState::{Dropped, Good, Incomplete, SettingUp, Suspect};
        let Some(status) = protected.status.as_ref().filter(|_| self.rank.is_some()) else {
            return if protected.failure.is_some() { Dropped } else { SettingUp };
        };
        let waits = status.hold.is_some() && !status.seeding;
        let list = self.partner.states();
        let alone = list.is_some_and(|list| list.iter().all(|database| database.name.0 != name));
        if protected.failure.is_some() || waits || !self.link_up || self.gate == Gate::Closed {
            Dropped
        } else if !status.attached && alone {
            Incomplete
        } else if !status.attached || !status.synced {
            SettingUp
        } else if status.is_table_held() || self.compared.left(name, &status.tables) {
            Suspect
        } else {
            Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(name: String) -> DatabaseState {
        DatabaseState { name: DatabaseName(name), state: ReplicationState::Good }
    }

    #[test]
    fn a_long_list_travels_in_parts_and_counts_when_it_is_whole() {
        let list: Vec<_> = (0..3000).map(|n| database(format!("/srv/some/path/{n}.db"))).collect();
        let parts = parts(&list);
        assert!(parts.len() > 1);
        let mut partner = PartnerDatabases::default();
        let last = parts.len() - 1;
        for (index, part) in parts.into_iter().enumerate() {
            let bytes: usize = part.iter().map(|d| d.name.0.len() + 8).sum();
            assert!(bytes <= PART_BYTES, "{bytes}");
            assert!(!partner.is_known());
            partner.take(part, index < last);
        }
        assert_eq!(partner.states().unwrap(), list);
        assert_eq!(super::parts(&[]), [Vec::new()], "an empty list is told, too");
    }
}
