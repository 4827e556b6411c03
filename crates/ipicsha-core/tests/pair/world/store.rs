//! What the shell does for a node: writes, records and services of the simulated servers.

use std::time::Duration;

use ipicsha_core::{
    ActivationFailed, Gate, Input, ServiceDown, ServicesReport, Stage,
    message::{DataReport, LogReport},
};

use super::{Link, PRIMARY, Server, World, micros};
use crate::invariants::Invariants;

impl World {
    pub(super) fn attempt(&self, at: usize) -> Result<(), String> {
        if self.servers[at].stuck { Err("database is locked".into()) } else { Ok(()) }
    }

    pub(super) fn attempt_activation(&self, at: usize) -> Result<(), ActivationFailed> {
        let failed = |stage, cause: &str| Err(ActivationFailed { stage, cause: cause.into() });
        if self.servers[at].stuck {
            return failed(Stage::Writes, "database is locked");
        }
        match self.servers[at].broken {
            Some(_) => failed(Stage::Services, "the service does not start"),
            None => Ok(()),
        }
    }

    pub(super) fn close_writes(&mut self, at: usize, limit: Duration) {
        if self.data_flows() {
            self.finish(at, 20_000, Input::WritesClosed(Ok(())));
        } else {
            let result = Err("the partner did not acknowledge".to_owned());
            self.finish(at, micros(limit), Input::WritesClosed(result));
        }
    }

    /// Records can be shipped and acknowledged now.
    pub(super) fn data_flows(&self) -> bool {
        let whole = |link: &Link| !link.cut;
        let awake =
            |s: &Server| s.node.is_some() && s.gate == Gate::Open && s.paused_until <= self.now;
        self.links.iter().all(whole) && self.servers.iter().all(awake)
    }

    pub(super) fn ship(&mut self) {
        if !self.data_flows() {
            return;
        }
        self.servers.iter_mut().for_each(|server| server.synced = true);
        if self.servers.iter().all(|s| s.store.is_shipped()) {
            return;
        }
        Invariants::shipping(self);
        for (from, to) in [(0, 1), (1, 0)] {
            let batch = self.servers[from].store.batch();
            let applied = self.servers[to].store.apply(&batch, to == PRIMARY);
            self.servers[from].store.acked = applied;
        }
    }

    pub(super) fn measure(&mut self, at: usize) {
        if !self.awake(at) {
            return;
        }
        let queued = self.servers[at].store.unacknowledged();
        let report = DataReport {
            measured: true,
            writes_open: u32::from(!self.servers[at].fenced),
            writes_closed: u32::from(self.servers[at].fenced),
            synced: self.servers[at].synced,
            attached: true,
            unacknowledged: queued,
            log_used_percent: (queued * 100 / self.servers[at].capacity).min(255) as u8,
            held: 0,
            log: LogReport {
                database: "board".into(),
                forecast: self.servers[at].forecast,
                // The ring has gone over what the partner never had.
                overflowed: queued > self.servers[at].capacity,
                changes: self.servers[at].store.unacknowledged_span(),
            },
        };
        self.input(at, Input::Data(report));
        self.check_services(at);
    }

    /// Checks of the services, as the shell makes them: told when they change.
    pub(crate) fn check_services(&mut self, at: usize) {
        let server = &self.servers[at];
        let seen = server.serving || server.broken_when_stopped;
        let down = server.broken.filter(|_| seen).map(|kind| ServiceDown {
            name: "board".into(),
            kind,
            cause: "it does not answer".into(),
        });
        let report = ServicesReport { down: down.into_iter().collect() };
        if self.servers[at].services_told.as_ref() != Some(&report) {
            self.servers[at].services_told = Some(report.clone());
            self.input(at, Input::Services(report));
        }
    }

    /// An application writes where it can.
    pub(crate) fn write(&mut self, at: usize) -> bool {
        let clock = self.clock(at);
        let key = self.rng.below(8) as u8;
        if !self.is_writable(at) || !self.servers[at].serving {
            return false;
        }
        let server = &mut self.servers[at];
        self.versions += 1;
        let id = self.versions;
        let version = crate::data::Version { id, stamp: clock.wall.0 };
        let replaced = server.store.write(key, version);
        self.parent.insert(id, replaced);
        true
    }

    /// An application that nobody stopped writes on while its daemon is dead.
    pub(crate) fn write_orphaned(&mut self, at: usize, count: u64) {
        assert!(!self.up(at) && !self.servers[at].fenced, "nothing is orphaned");
        self.servers[at].serving = true;
        for _ in 0..count {
            assert!(self.write(at), "an orphaned write was refused");
        }
        self.servers[at].serving = false;
    }
}
