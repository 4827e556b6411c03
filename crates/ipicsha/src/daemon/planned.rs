//! A failover at a time that an administrator has set. It survives a restart; one whose time has passed while
//! no daemon ran does not happen.

use std::path::PathBuf;

use ipicsha_core::{Event as Happened, state::Role};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use super::{clock, event::Event, event_loop::Daemon, persist};
use crate::{
    api::{Answer, Work},
    exit::{Failure, Kind},
};

/// Milliseconds a failover may be late.
const LATE: i64 = 5 * 60_000;
/// Milliseconds ahead, at most.
const AHEAD: i64 = 30 * 86_400_000;

/// What is planned, as shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedRow {
    /// When; `None`: nothing is planned.
    pub(crate) at_unix_ms: Option<i64>,
    /// Why the last one did not happen.
    pub(crate) last_error: Option<String>,
}

/// The plan of this server.
pub(crate) struct Planned {
    path: PathBuf,
    row: PlannedRow,
}

impl Planned {
    pub(crate) fn open(path: PathBuf) -> Self {
        // One that cannot be read is no plan: nothing happens by mistake.
        let read = std::fs::read(&path).ok();
        let row = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, row }
    }

    pub(crate) fn row(&self) -> Option<PlannedRow> {
        (self.row != PlannedRow::default()).then(|| self.row.clone())
    }

    fn set(&mut self, row: PlannedRow) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(&row).map_err(anyhow::Error::from)?;
        persist::write_durably(&self.path, &bytes).map_err(|error| {
            Failure::new(Kind::Failed, format!("{}: {error}", self.path.display()))
        })?;
        self.row = row;
        Ok(())
    }
}

impl Daemon {
    /// `failover --at`, `failover --cancel`.
    pub(crate) fn plan(&mut self, at_unix_ms: Option<i64>) -> Answer {
        let Some(at) = at_unix_ms else {
            let was = self.planned.row.at_unix_ms;
            self.planned.set(PlannedRow::default())?;
            let note = was.is_none().then_some("nothing was planned");
            return Ok(json!({ "result": "done", "note": note }));
        };
        let ahead = at.saturating_sub(clock::wall().0);
        if !(0..=AHEAD).contains(&ahead) {
            return Err(Failure::new(Kind::Usage, "the time is past, or more than 30 days ahead")
                .hinted("give a time to come, for example --at 03:00"));
        }
        if self.node.role() != Some(Role::Active) {
            return Err(Failure::new(Kind::Refused, "this server is not active")
                .hinted("plan it on the active server, see `ipicsha ha-status`"));
        }
        self.planned.set(PlannedRow { at_unix_ms: Some(at), last_error: None })?;
        Ok(json!({ "result": "planned", "at_unix_ms": at }))
    }

    /// To be called every second.
    pub(crate) fn run_planned(&mut self) {
        let Some(at) = self.planned.row.at_unix_ms else { return };
        let late = clock::wall().0.saturating_sub(at);
        if late < 0 || self.node.is_booting() {
            return;
        }
        // Forgotten first: whatever happens, it does not happen twice.
        if let Err(failure) = self.planned.set(PlannedRow::default()) {
            tracing::error!(
                error = failure.message,
                "the plan cannot be ended: it is not carried out"
            );
            self.planned.row = PlannedRow::default();
            return;
        }
        if late > LATE {
            return self.planned_ended(Err("its time had passed when the daemon started".into()));
        }
        if self.node.role() != Some(Role::Active) {
            return self.planned_ended(Err("this server was not active any more".into()));
        }
        let (answer, answered) = oneshot::channel::<Answer>();
        self.spawn_work(Work::Failover { dry_run: false, accept_data_loss: false }, answer);
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = match answered.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(failure)) => Err(failure.message),
                Err(_) => Err("the daemon ended".into()),
            };
            let _ = events.send(Event::Planned(result)).await; // the daemon ends
        });
    }

    pub(crate) fn planned_ended(&mut self, result: Result<(), String>) {
        let error = result.err();
        let row = PlannedRow { at_unix_ms: self.planned.row.at_unix_ms, last_error: error.clone() };
        if let Err(failure) = self.planned.set(row) {
            tracing::warn!(error = failure.message, "how the plan ended is not remembered");
        }
        self.record(Happened::Planned { error });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_a_restart_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("planned.json");
        let mut planned = Planned::open(path.clone());
        assert_eq!(planned.row(), None);
        let row = PlannedRow { at_unix_ms: Some(5), last_error: None };
        planned.set(row.clone()).unwrap();
        assert_eq!(Planned::open(path.clone()).row(), Some(row));
        std::fs::write(&path, "{\"at_unix_ms\":").unwrap();
        assert_eq!(Planned::open(path).row(), None);
    }
}
