//! Requests from the socket: what the core decides goes to the core; the rest is done here.

use ipicsha_core::{
    admin::AdminCommand,
    config::{PairName, PartitionPolicy},
    id::RequestId,
    license::licensed_role,
};
use ipicsha_link::Fingerprint;
use ipicsha_records::{Command, Inspection};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    clock,
    event::Event,
    event_loop::{Daemon, Waiter},
    licenses, limits,
    patterns::{PatternFile, verbs::means_pattern},
    persist,
    services::Running,
    work::Task,
};
use crate::{
    api::{Answer, Look, Request, Status, TrustRow, Work},
    config::{Config, DatabaseFile, WitnessAt},
    exit::{Failure, Kind},
};

/// `databases.json`: what `protect` added, and what the configuration file named when it was last
/// read, so that a block that is taken out there is noticed.
#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    added: Vec<DatabaseFile>,
    configured: Vec<DatabaseFile>,
    /// Of both; one stays until it is unprotected.
    #[serde(default)]
    patterns: Vec<PatternFile>,
}

/// Databases of the configuration file and those that `protect` added.
///
/// # Errors
/// Two of them share a name or a path, or one was taken out of the file without `unprotect`.
pub(crate) fn protected_files(
    config: &Config,
) -> Result<(Vec<DatabaseFile>, Vec<PatternFile>), Failure> {
    let (wanted, configured): (Vec<_>, Vec<_>) =
        config.file.databases.iter().cloned().partition(|file| means_pattern(&file.path));
    let path = config.state_file("databases.json");
    let remembered: Remembered = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(Kind::Config, format!("{} is damaged: {error}", path.display()))
                .hinted("move it away, start the daemon, and protect the databases again")
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Remembered::default(),
        Err(error) => {
            return Err(Failure::new(Kind::Failed, format!("{}: {error}", path.display())));
        }
    };
    let mut files = limits::newest(&configured, remembered.added, &remembered.configured);
    // Taken out of the file: it keeps its triggers, and maybe its fence, until it is unprotected.
    let same =
        |a: &DatabaseFile, b: &DatabaseFile| a.common_name() == b.common_name() || a.path == b.path;
    for gone in remembered.configured {
        if !files.iter().any(|file| same(file, &gone)) {
            tracing::warn!(
                database = gone.common_name(),
                "it is not in the configuration file any more and stays protected until `ipicsha unprotect db`"
            );
            files.push(gone);
        }
    }
    for (index, file) in files.iter().enumerate() {
        if let Some(other) = files[..index].iter().find(|other| same(other, file)) {
            let message = format!(
                "two databases share a name or a path: {} ({}) and {} ({})",
                other.common_name(),
                other.path.display(),
                file.common_name(),
                file.path.display()
            );
            return Err(
                Failure::new(Kind::Config, message).hinted("give each its own `name` and `path`")
            );
        }
    }
    let mut patterns = remembered.patterns;
    for pattern in wanted.iter().map(PatternFile::of) {
        match patterns.iter().find(|known| known.pattern == pattern.pattern) {
            None => patterns.push(pattern),
            Some(known)
                if known.name == pattern.name
                    && known.keep_journal_mode == pattern.keep_journal_mode
                    && (known.log_entries, known.log_bytes)
                        == (pattern.log_entries, pattern.log_bytes) => {}
            Some(_) => tracing::warn!(
                pattern = pattern.pattern,
                "it stays as it was protected first; `ipicsha unprotect db` it to take over the configuration file"
            ),
        }
    }
    save_protected(config, &files, &patterns)?;
    Ok((files, patterns))
}

pub(crate) fn save_protected(
    config: &Config,
    files: &[DatabaseFile],
    patterns: &[PatternFile],
) -> Result<(), Failure> {
    let blocks = &config.file.databases;
    let added = files.iter().filter(|file| !blocks.contains(file)).cloned().collect();
    let kept = |block: &&DatabaseFile| files.iter().any(|file| file.path == block.path);
    let configured = blocks.iter().filter(kept).cloned().collect();
    let bytes =
        serde_json::to_vec_pretty(&Remembered { added, configured, patterns: patterns.to_vec() });
    let path = config.state_file("databases.json");
    persist::write_durably(&path, &bytes.map_err(anyhow::Error::from)?)
        .map_err(|error| Failure::new(Kind::Failed, format!("{}: {error}", path.display())))
}

impl Daemon {
    pub(crate) fn handle_request(&mut self, request: Request, answer: oneshot::Sender<Answer>) {
        let result = match request {
            Request::Look(look) => self.look(look),
            Request::Unprotect { name } => return self.unprotect(&name, answer),
            Request::Protect { path, name, seed, keep_journal_mode, log_entries, log_bytes } => {
                let file = DatabaseFile { path, name, keep_journal_mode, log_entries, log_bytes };
                if means_pattern(&file.path) {
                    return self.check_pattern(&file, answer);
                }
                return self.check_and_protect(file, seed, answer);
            }
            Request::Barrier { database, timeout_seconds } => {
                return self.barrier(database.as_deref(), timeout_seconds, answer);
            }
            Request::Work(work) => return self.spawn_work(work, answer),
            Request::Replication { database } => {
                return self.replication(database.as_deref(), answer);
            }
            Request::RuntimeState => self.runtime_state(),
            Request::ProtectDirectory { file, create } => self.protect_directory(file, create),
            Request::UnprotectDirectory { name } => self.unprotect_directory(&name),
            Request::Files(request) => return self.files_request(request, answer),
            Request::Plan { at_unix_ms } => self.plan(at_unix_ms),
            Request::Alarms(request) => return self.alarms_request(request, answer),
        };
        let _ = answer.send(result); // the command line went away
    }

    fn look(&self, look: Look) -> Answer {
        match look {
            Look::Status => self.status(),
            Look::History { limit } => value(&self.history.newest(limit)),
            Look::Trust => self.trust_rows(),
            Look::Licenses => self.license_rows(),
        }
    }

    /// Requests that wait for somebody run in a task of their own.
    pub(crate) fn spawn_work(&self, work: Work, answer: oneshot::Sender<Answer>) {
        let task = Task {
            events: self.events.clone(),
            config: self.config.clone(),
            context: self.link_context.clone(),
            advertised: super::advertised(&self.config, self.listener.as_ref()),
            partner: self.node.persisted().partner.clone(),
            timing: self.node.persisted().ha.config.as_ref().map(|config| config.timing),
            databases: self
                .databases
                .names(None)
                .into_iter()
                .filter_map(|name| self.databases.path(&name).map(|path| (name, path)))
                .collect(),
            workers: self.databases.senders(),
            roles: self.roles.clone(),
            active: self.node.role() != Some(ipicsha_core::state::Role::Standby),
            hooks: self.hooks.clone(),
            told: self.told(),
            witness: self.witness_in_force(),
        };
        tokio::spawn(async move {
            let result = Box::pin(task.run(work)).await;
            let _ = answer.send(result); // the command line went away
        });
    }

    /// Where the witness is, while the pair has one.
    fn witness_in_force(&self) -> Option<(WitnessAt, PairName)> {
        let config = self.node.persisted().ha.config.as_ref()?;
        let at =
            self.config.witness.clone().filter(|_| config.policy == PartitionPolicy::Witness)?;
        Some((at, config.pair.clone()))
    }

    pub(crate) fn ask(&mut self, command: AdminCommand, waiter: Waiter) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.waiting.insert(request, waiter);
        self.input(ipicsha_core::Input::Admin(request, command));
    }

    fn status(&self) -> Answer {
        let source = toml::Value::try_from(self.config.file.time.source).ok();
        value(&Status {
            schema: "ipicsha.status/1".into(),
            pair: self.node.status(clock::now()),
            databases: self.databases.rows(),
            patterns: self.databases.patterns.rows(),
            directories: self.directories.rows(),
            planned: self.planned.row(),
            addresses: self.addresses.rows(),
            services: self.service_rows.borrow().iter().map(Running::row).collect(),
            link_error: self.link_error.clone(),
            pending_repairs: self.databases.pending_repairs(),
            time_source: source
                .and_then(|source| source.as_str().map(str::to_owned))
                .unwrap_or_default(),
        })
    }

    fn trust_rows(&self) -> Answer {
        let own = &self.link_context.identity;
        let mut rows = vec![TrustRow {
            name: self.config.file.server.name.clone(),
            address: super::advertised(&self.config, self.listener.as_ref()),
            fingerprint: own.fingerprint().to_string(),
            expires_unix: Some(own.not_after()),
        }];
        if let Some(partner) = &self.node.persisted().partner {
            rows.push(TrustRow {
                name: partner.name.clone(),
                address: Some(partner.address.clone()),
                fingerprint: Fingerprint::of(&partner.certificate).to_string(),
                expires_unix: ipicsha_link::not_after(&partner.certificate),
            });
        }
        value(&rows)
    }

    fn license_rows(&self) -> Answer {
        let licenses = licenses::load(&self.config.state_file("licenses"))?;
        let role = licensed_role(&licenses, clock::wall());
        let (role, problem) = match role {
            Ok(role) => (Some(role), None),
            Err(error) => (None, Some((error.to_string(), error.next_step()))),
        };
        value(&json!({ "licenses": licenses, "role": role, "problem": problem }))
    }

    /// Looks at the file first; the event loop does not wait for a locked database.
    fn check_and_protect(
        &mut self,
        file: DatabaseFile,
        seed: bool,
        answer: oneshot::Sender<Answer>,
    ) {
        let events = self.events.clone();
        if !file.path.is_absolute() {
            let failure = Failure::new(Kind::Usage, "the path of a database must be absolute");
            let _ = answer.send(Err(failure.hinted("give the whole path, from /")));
            return;
        }
        if let Err(failure) = limits::check(&file) {
            let _ = answer.send(Err(failure)); // the command line went away
            return;
        }
        if self.databases.knows(&file) && (file.log_entries, file.log_bytes) != (None, None) {
            return self.change_limits(&file, answer);
        }
        if self.databases.knows(&file) {
            let message = format!("{} is already protected", file.common_name());
            let _ = answer.send(Err(Failure::new(Kind::Refused, message)
                .hinted("`ipicsha ha-status` shows it; another file needs another --name")));
            return;
        }
        tokio::spawn(async move {
            let (path, journaling) = (file.path.clone(), file.journaling());
            let inspect = move || ipicsha_records::inspect_as(&path, journaling);
            let inspected = tokio::task::spawn_blocking(inspect).await;
            let seedable = seed && !file.path.exists();
            if let Ok(Err(error)) = &inspected
                && !seedable
            {
                let failure = records_failure(error);
                let _ = answer.send(Err(failure)); // the command line went away
                return;
            }
            let inspection = inspected.ok().and_then(Result::ok);
            let _ = events.send(Event::Protect(file, inspection, answer)).await; // the daemon ends
        });
    }

    /// The file is good: remember it and, with HA configured, take it in.
    pub(crate) fn protect(&mut self, file: DatabaseFile, inspection: Option<Inspection>) -> Answer {
        let name = file.common_name();
        if self.databases.knows(&file) {
            let message = format!("{name} is already protected");
            return Err(Failure::new(Kind::Refused, message).hinted("`ipicsha ha-status` shows it"));
        }
        if let Some(answer) = self.protect_member(&file) {
            return answer;
        }
        let mut files = self.databases.files();
        files.push(file.clone());
        save_protected(&self.config, &files, &self.databases.patterns.files())?;
        self.databases.add(file, self.node.role());
        if let Some(inspection) = inspection {
            self.databases.inspected(&name, Ok(inspection));
        }
        self.measure();
        let row = self.databases.rows().into_iter().find(|row| row.name == name);
        value(&row)
    }

    /// Remembers what is protected.
    pub(crate) fn save_protected(&self) -> Result<(), Failure> {
        save_protected(&self.config, &self.databases.files(), &self.databases.patterns.files())
    }

    fn unprotect(&mut self, name: &str, answer: oneshot::Sender<Answer>) {
        if let Some(pattern) = self.databases.patterns.find(name) {
            return self.unprotect_pattern(&pattern, answer);
        }
        let Some(name) = self.databases.find(name) else {
            let failure = Failure::new(Kind::Refused, format!("no database is called {name}"));
            let _ = answer.send(Err(failure.hinted("`ipicsha ha-status` lists them")));
            return;
        };
        let in_file = |file: &DatabaseFile| file.common_name() == name;
        let note = self.config.file.databases.iter().any(in_file).then_some(
            "it stands in the configuration file too: remove it there, or it is protected again at the next start",
        );
        let mut files = self.databases.files();
        files.retain(|file| file.common_name() != name);
        if let Some(member) = self.databases.member(&name) {
            self.exclude(&member);
        }
        let patterns = self.databases.patterns.files();
        if let Err(failure) = save_protected(&self.config, &files, &patterns) {
            let _ = answer.send(Err(failure)); // the command line went away
            return;
        }
        let worker = self.databases.take(&name).flatten();
        self.measure();
        let done = json!({ "result": "done", "note": note });
        let Some(worker) = worker else {
            let _ = answer.send(Ok(done)); // the command line went away
            return;
        };
        worker.send(Command::Remove {
            done: Box::new(move |result| {
                let result = result.map(|()| done).map_err(|error| records_failure(&error));
                let _ = answer.send(result); // the command line went away
            }),
        });
        std::thread::spawn(move || worker.join());
    }
}

pub(crate) fn value<T: Serialize>(value: &T) -> Answer {
    Ok(serde_json::to_value(value).map_err(anyhow::Error::from)?)
}

pub(crate) fn records_failure(error: &ipicsha_records::Error) -> Failure {
    Failure::new(Kind::Failed, error.to_string()).hinted(error.next_step())
}
