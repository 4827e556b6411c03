//! When hooks run: before what an administrator asks for, and after what has happened. What happens by
//! itself waits for no hook.

use ipicsha_core::{Event, Input, state::Role, status::Alarm};

use super::{
    alarms::{Sender, kind},
    clock,
    event_loop::Daemon,
    hooks::{Failed, Moment, Told},
    work::Task,
};
use crate::{
    api::{LifeWork, Work},
    exit::{Failure, Kind},
};

impl Daemon {
    /// Something worth remembering has happened: the history, the log, and the hooks that wait for it.
    pub(crate) fn record(&mut self, event: Event) {
        match &event {
            Event::Raised { alarm } => self.queue_alarm("raised", alarm),
            Event::Cleared { alarm } => self.queue_alarm("cleared", alarm),
            Event::Repaired { run, database, .. } => {
                let mut told = self.told();
                told.insert("IPICSHA_REPAIR", run.to_string());
                told.insert("IPICSHA_DATABASE", database.clone());
                self.hooks.queue(Moment::PostRepair, told);
            }
            Event::State { .. }
            | Event::Drill { .. }
            | Event::Planned { .. }
            | Event::RepairUndone { .. } => {}
        }
        let of_alarms = matches!(event, Event::Raised { .. } | Event::Cleared { .. });
        self.history.add(clock::wall(), event);
        if of_alarms {
            self.tell_alarms();
        }
    }

    /// Takes over what is wrong now, and tells whom it concerns.
    pub(crate) fn tell_alarms(&mut self) {
        let (now, sender) = (clock::now(), self.sender());
        let node = &self.node;
        let sends = |alarm: &Alarm| node.sends(alarm, now.mono);
        self.alarms.update(now.wall, node.alarms(), sends, &sender);
    }

    /// Who tells it.
    pub(crate) fn sender(&self) -> Sender {
        let state = self.node.persisted();
        Sender {
            server: self.config.file.server.name.clone(),
            partner: state
                .partner
                .as_ref()
                .map_or_else(|| "the partner".into(), |p| p.name.clone()),
            pair: self.config.pair.to_string(),
            role: self.node.role().map_or_else(|| "none".into(), |role| role.to_string()),
        }
    }

    fn queue_alarm(&self, what: &str, alarm: &Alarm) {
        let mut told = self.told();
        told.insert("IPICSHA_ALARM", what.into());
        told.insert("IPICSHA_ALARM_TEXT", alarm.text());
        told.insert("IPICSHA_ALARM_KIND", kind(alarm));
        self.hooks.queue(Moment::Alarm, told);
    }

    /// How a role change ended, or a fact about this server. One that is tried again runs its hooks once.
    pub(crate) fn handle_node(&mut self, input: Input) {
        let changed = moment_after(&input);
        self.input(input);
        let Some((moment, role)) = changed else { return };
        let epoch = self.node.persisted().epoch.0;
        if self.hooked.replace((role, epoch)) != Some((role, epoch)) {
            self.hooks.queue(moment, self.told());
        }
    }

    /// What every hook is told.
    pub(crate) fn told(&self) -> Told {
        let state = self.node.persisted();
        let partner = state.partner.as_ref();
        Told::from([
            ("IPICSHA_SERVER", self.config.file.server.name.clone()),
            ("IPICSHA_PARTNER", partner.map(|p| p.name.clone()).unwrap_or_default()),
            ("IPICSHA_ROLE", self.node.role().map(|r| r.to_string()).unwrap_or_default()),
            ("IPICSHA_REASON", state.role_reason.to_string()),
            ("IPICSHA_EPOCH", state.epoch.0.to_string()),
        ])
    }
}

/// The moment that comes when a role change was carried out, and the role after it.
fn moment_after(input: &Input) -> Option<(Moment, Role)> {
    match input {
        Input::Activated(Ok(())) => Some((Moment::PostTakeover, Role::Active)),
        Input::WritesClosed(Ok(())) => Some((Moment::PostRelease, Role::Standby)),
        Input::Deactivated(Ok(())) => Some((Moment::PostStandby, Role::Standby)),
        Input::Activated(Err(_))
        | Input::WritesClosed(Err(_))
        | Input::Deactivated(Err(_))
        | Input::Admin(..)
        | Input::Control(_)
        | Input::Heard
        | Input::LinkUp
        | Input::Data(_)
        | Input::Addresses(_)
        | Input::Directories(_)
        | Input::Services(_)
        | Input::TimeSynced(_)
        | Input::Licenses(_)
        | Input::Repaired
        | Input::Witness(..)
        | Input::Shutdown(_) => None,
    }
}

impl Task {
    /// Runs the hooks that can veto what an administrator asks for.
    ///
    /// # Errors
    /// One of them does; nothing has changed.
    pub(crate) async fn ask_hooks(&self, work: &Work) -> Result<(), Failure> {
        let moment = match work {
            Work::Failover { dry_run: false, accept_data_loss: false } => Moment::PreRelease,
            // Of an active server it is a switchover like any other.
            Work::Failover { dry_run: false, accept_data_loss: true } if self.active => {
                Moment::PreRelease
            }
            Work::Failover { dry_run: false, accept_data_loss: true } => Moment::PreTakeover,
            Work::Life(LifeWork::Fallback { dry_run: false }) | Work::Drill { .. } => {
                Moment::PreRelease
            }
            Work::GoStandby => Moment::PreStandby,
            Work::Repair { dry_run: false, .. } | Work::RepairUndo { .. } => Moment::PreRepair,
            Work::Failover { dry_run: true, .. }
            | Work::Life(_)
            | Work::Service(_)
            | Work::Site
            | Work::CertificateRenew
            | Work::Repair { dry_run: true, .. }
            | Work::TrustPassword { .. }
            | Work::TrustSet { .. }
            | Work::TrustDelete { .. }
            | Work::LicenseInstall { .. }
            | Work::Configure { .. }
            | Work::Update { .. }
            | Work::Unconfigure { .. }
            | Work::RepairList { .. }
            | Work::Conflicts(_) => return Ok(()),
        };
        self.hooks.run(moment, &self.told).await.map_err(|failed| vetoed(&failed))
    }
}

/// A hook forbids what an administrator asks for.
pub(crate) fn vetoed(failed: &Failed) -> Failure {
    Failure::new(Kind::Refused, format!("vetoed, nothing was changed: {failed}"))
        .hinted("remove the cause, or move the hook away, and try again")
}
