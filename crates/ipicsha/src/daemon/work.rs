//! Requests that wait for somebody, each in a task of its own: the core is asked through events.

use std::time::Duration;

use ipicsha_core::{
    admin::{AdminCommand, AdminReply},
    config::{HaConfig, PairName, Timing},
    license::licensed_role,
    message::RepairRequest,
    trust::Partner,
};
use ipicsha_link::{AdminPassword, Fingerprint, TrustAction};
use ipicsha_records::{CommandSender, Journal, JournalEntry, JournalFilter};
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    clock,
    event::Event,
    licenses::{self, LicenseFile},
    past, trust,
    verbs::{records_failure, value},
};
use crate::{
    api::{Answer, Conflicts, LifeWork, ServiceOrder, Work, reply_value},
    config::{Config, WitnessAt, seconds},
    exit::{Failure, Kind},
};

/// An entry of the journal with its typed values and, beside them, the words for people.
fn readable(entry: &JournalEntry) -> serde_json::Value {
    let mut value = serde_json::to_value(entry).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("key_text".into(), entry.describe_key().into());
        fields.insert("loser_text".into(), entry.describe(&entry.loser).into());
        fields.insert("winner_text".into(), entry.describe(&entry.winner).into());
    }
    value
}

/// One request with what it needs, away from the event loop.
pub(crate) struct Task {
    pub(crate) events: tokio::sync::mpsc::Sender<Event>,
    pub(crate) config: Config,
    pub(crate) context: super::link::LinkContext,
    pub(crate) advertised: Option<String>,
    pub(crate) partner: Option<Partner>,
    pub(crate) timing: Option<Timing>,
    pub(crate) databases: Vec<(String, std::path::PathBuf)>,
    pub(crate) workers: Vec<(String, CommandSender)>,
    pub(crate) active: bool,
    pub(crate) roles: tokio::sync::mpsc::Sender<super::roles::RoleChange>,
    pub(crate) hooks: super::hooks::Hooks,
    pub(crate) told: super::hooks::Told,
    pub(crate) witness: Option<(WitnessAt, PairName)>,
}

fn life(work: LifeWork) -> AdminCommand {
    match work {
        LifeWork::Fallback { dry_run } => AdminCommand::Fallback { dry_run },
        LifeWork::Recover => AdminCommand::Recover,
        LifeWork::Pause { reason, seconds } => {
            AdminCommand::Pause { reason, limit: Duration::from_secs(seconds) }
        }
        LifeWork::Resume => AdminCommand::Resume,
    }
}

impl Task {
    pub(crate) async fn run(self, work: Work) -> Answer {
        self.ask_hooks(&work).await?;
        match work {
            Work::TrustPassword { password } => self.set_password(password).await,
            Work::TrustSet { address, password } => {
                self.exchange(address, password, TrustAction::Set).await
            }
            Work::TrustDelete { password: Some(password) } => {
                let partner = self.partner.as_ref();
                let address = partner.map(|p| p.address.clone()).unwrap_or_default();
                self.exchange(address, password, TrustAction::Delete).await
            }
            Work::TrustDelete { password: None } => self.core(AdminCommand::DeleteTrust).await,
            Work::LicenseInstall { texts, replace } => self.install(&texts, replace).await,
            Work::Configure { interval_seconds, missed_count } => {
                let timing = self.timing(self.config.timing, interval_seconds, missed_count)?;
                let config = HaConfig {
                    pair: self.config.pair.clone(),
                    timing,
                    policy: self.config.file.pair.partition_policy,
                    auto_heal: self.config.file.pair.auto_heal,
                };
                let done = self.core(AdminCommand::Configure(config)).await?;
                Ok(super::site::with_warnings(&self, done).await)
            }
            Work::Update { interval_seconds, missed_count } => {
                let base = self.timing.unwrap_or(self.config.timing);
                let timing = self.timing(base, interval_seconds, missed_count)?;
                self.core(AdminCommand::Update(timing)).await
            }
            Work::Unconfigure { force } => self.core(AdminCommand::Unconfigure { force }).await,
            Work::Failover { dry_run, accept_data_loss } => {
                self.core(AdminCommand::Failover { dry_run, accept_data_loss }).await
            }
            Work::GoStandby => self.core(AdminCommand::GoStandby).await,
            Work::Life(work) => self.core(life(work)).await,
            Work::Drill { stay_seconds } => super::drill::run(&self, stay_seconds).await,
            Work::CertificateRenew => self.renew_certificate().await,
            Work::Site => super::site::check(&self).await,
            Work::Service(order) => self.service(order).await,
            Work::Repair { dry_run, database } => self.repair(dry_run, database).await,
            Work::RepairUndo { run } => past::undo(&self, run).await,
            Work::RepairList { database, limit } => past::list(&self, database, limit).await,
            Work::Conflicts(conflicts) => self.conflicts(conflicts).await,
        }
    }

    /// On a standby nothing is started: it is noted that its services may run again (spec F3).
    async fn service(&self, order: ServiceOrder) -> Answer {
        if !self.active {
            if let ServiceOrder::Stop { .. } = order {
                let message = "this server is standby: its services do not run";
                return Err(Failure::new(Kind::Refused, message)
                    .hinted("stop them on the active server, see `ipicsha ha-status`"));
            }
            trust::ask(&self.events, AdminCommand::ServicesMended).await?;
            return Ok(json!({
                "result": "done",
                "note": "this server is standby: its services may run again, and start when it is active",
            }));
        }
        let (sender, receiver) = oneshot::channel();
        let ending = || Failure::new(Kind::Unreachable, "the daemon is ending");
        let change = super::roles::RoleChange::Service(order, sender);
        self.roles.send(change).await.map_err(|_| ending())?;
        receiver.await.map_err(|_| ending())??;
        Ok(json!({ "result": "done" }))
    }

    async fn core(&self, command: AdminCommand) -> Answer {
        trust::ask(&self.events, command).await.map(|reply| reply_value(&reply))
    }

    /// The heartbeat that was asked for, on top of what is configured.
    fn timing(
        &self,
        base: Timing,
        interval: Option<f64>,
        count: Option<u32>,
    ) -> Result<Timing, Failure> {
        let wrong = |why: String| {
            Failure::new(Kind::Usage, why).hinted(
                "interval 5 to 600 s and count 5 to 30; smaller ones need `profile = \"fast\"` in the configuration file",
            )
        };
        let interval = match interval {
            Some(interval) => seconds(interval).map_err(wrong)?,
            None => base.interval(),
        };
        let count = count.unwrap_or(base.missed_count());
        Timing::new(self.config.file.heartbeat.profile, interval, count)
            .map_err(|error| wrong(error.to_string()))
    }

    async fn set_password(&self, password: String) -> Answer {
        let directory = self.config.file.server.state_directory.clone();
        let set = tokio::task::spawn_blocking(move || AdminPassword::set(&directory, &password));
        match set.await {
            Ok(Ok(_)) => Ok(json!({ "result": "done" })),
            Ok(Err(error)) => Err(trust::failure(&error)),
            Err(error) => Err(Failure::new(Kind::Failed, error.to_string())),
        }
    }

    async fn exchange(self, address: String, password: String, action: TrustAction) -> Answer {
        let partner =
            trust::request(self.context, self.advertised, address, password, action, self.events)
                .await?;
        Ok(json!({
            "result": "done",
            "partner": partner.name,
            "address": partner.address,
            "fingerprint": Fingerprint::of(&partner.certificate).to_string(),
        }))
    }

    async fn install(&self, texts: &[String], replace: bool) -> Answer {
        let files: Vec<LicenseFile> =
            texts.iter().map(|text| LicenseFile::parse(text)).collect::<Result<_, _>>()?;
        let directory = self.config.state_file("licenses");
        let planned = licenses::plan(&directory, &files, replace)?;
        let role = licensed_role(&planned, clock::wall());
        trust::ask(&self.events, AdminCommand::AskLicenses(role.clone())).await?;
        licenses::install(&directory, &files, replace)?;
        let _ = self.events.send(Event::LicensesChanged).await; // the daemon ends
        Ok(json!({ "result": "done", "role": role.ok() }))
    }

    async fn repair(&self, dry_run: bool, database: Option<String>) -> Answer {
        let reply = trust::ask(&self.events, AdminCommand::Repair { dry_run }).await?;
        if reply != AdminReply::RepairMayStart {
            return Ok(reply_value(&reply));
        }
        let journal = self.config.state_file("journal.db");
        let numbered = tokio::task::spawn_blocking(move || Journal::open(&journal)?.new_run());
        let run = numbered.await.map_err(anyhow::Error::from)?;
        let run = run.map_err(|error| records_failure(&error))?;
        let request = RepairRequest { run, apply: !dry_run, database };
        let (sender, receiver) = oneshot::channel();
        let ending = || Failure::new(Kind::Unreachable, "the daemon is ending");
        self.events.send(Event::Repair(request, sender)).await.map_err(|_| ending())?;
        value(&receiver.await.map_err(|_| ending())??)
    }

    async fn conflicts(self, request: Conflicts) -> Answer {
        let work = tokio::task::spawn_blocking(move || self.conflicts_blocking(request));
        work.await.unwrap_or_else(|error| Err(Failure::new(Kind::Failed, error.to_string())))
    }

    fn conflicts_blocking(&self, request: Conflicts) -> Answer {
        let journal = Journal::open(&self.config.state_file("journal.db"))
            .map_err(|error| records_failure(&error))?;
        let unknown = |id: i64| {
            Failure::new(Kind::Refused, format!("the journal has no entry {id}"))
                .hinted("`ipicsha conflicts list` shows the entries")
        };
        match request {
            Conflicts::List { database, table, limit } => {
                let filter = JournalFilter { database, table, limit };
                let entries = journal.list(&filter).map_err(|error| records_failure(&error))?;
                Ok(entries.iter().map(readable).collect())
            }
            Conflicts::Show { id } => {
                let entry = journal.show(id).map_err(|error| records_failure(&error))?;
                Ok(readable(&entry.ok_or_else(|| unknown(id))?))
            }
            Conflicts::Restore { id } => {
                let entry = journal.show(id).map_err(|error| records_failure(&error))?;
                let entry = entry.ok_or_else(|| unknown(id))?;
                if !self.active {
                    let message = "this server is standby; a restored version is an ordinary write";
                    return Err(Failure::new(Kind::Refused, message)
                        .hinted("look for the same entry with `ipicsha conflicts list` on the active server and restore it there"));
                }
                let database = entry.database.clone();
                let path = self.databases.iter().find(|(name, _)| *name == database);
                let (_, path) = path.ok_or_else(|| {
                    Failure::new(Kind::Refused, format!("{database} is not protected any more"))
                        .hinted("protect it again, then restore")
                })?;
                journal.restore(id, path).map_err(|error| records_failure(&error))?;
                Ok(json!({ "result": "done" }))
            }
        }
    }
}
