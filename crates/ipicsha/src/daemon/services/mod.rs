//! Services run on the active server only. Driver `exec` is a supervised child process, driver
//! `systemd` a unit. They are checked while they run, started again a few times, and what is down is
//! told to the core, which alone decides what follows.

mod check;
mod command;
mod condition;
mod exec;
mod leftover;
mod systemd;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ipicsha_core::{ServiceKind, id::ServerId};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

pub(crate) use self::check::split_url;
use self::{
    check::{Mender, Starting},
    condition::{Condition, Conditions, Health},
    exec::{Supervised, supervise},
    leftover::Mark,
    systemd::systemctl,
};
use super::event::Event;
use crate::{
    api::{ServiceOrder, ServiceRow},
    config::{Check, Config, ServiceFile, seconds},
    exit::{Failure, Kind},
};

/// So often it is looked whether a service that is stopped could be started.
const STOPPED_LOOK: Duration = Duration::from_secs(10);

/// All services of this server.
pub(crate) struct Services {
    all: Vec<Service>,
    conditions: Conditions,
    running: watch::Sender<Vec<Running>>,
    /// They were started and not stopped since: this server is active, or was when HA was unconfigured.
    serving: bool,
}

/// What is known of one service; the process of a child changes when it is started again.
#[derive(Clone)]
pub(crate) struct Running {
    driver: &'static str,
    unit_started: bool,
    pid: Option<watch::Receiver<Option<u32>>>,
    health: watch::Receiver<Vec<Health>>,
    index: usize,
}

impl Running {
    /// As of now.
    pub(crate) fn row(&self) -> ServiceRow {
        let pid = self.pid.as_ref().and_then(|pid| *pid.borrow());
        let health = self.health.borrow().get(self.index).cloned().unwrap_or_default();
        let trouble = health.trouble().map(|(_, cause)| cause.to_owned());
        ServiceRow {
            driver: self.driver.into(),
            running: self.unit_started || pid.is_some(),
            pid,
            critical: health.critical,
            stopped_by_administrator: health.held,
            trouble,
            name: health.name,
        }
    }
}

/// What runs of a service.
enum Driven {
    Nothing,
    Child(Supervised),
    Unit,
}

struct Service {
    file: ServiceFile,
    checks: Vec<Check>,
    log: PathBuf,
    mark: Mark,
    driven: Driven,
    condition: Condition,
    watches: Vec<AbortHandle>,
    /// An administrator stopped it: it waits for `service start` or the next role change.
    held: bool,
}

impl Services {
    /// The services of the configuration, none of them started.
    pub(crate) fn of(config: &Config, server: ServerId, events: mpsc::Sender<Event>) -> Self {
        let (files, logs) = (&config.file.services, config.state_file("services"));
        let log = |file: &ServiceFile| logs.join(format!("{}.log", file.name()));
        let health = |file: &ServiceFile| Health::new(file.name(), file.is_critical());
        let conditions = Conditions::new(files.iter().map(health).collect());
        let service = |(index, file): (usize, &ServiceFile)| Service {
            file: file.clone(),
            checks: file.checks().unwrap_or_default(), // checked with the configuration
            log: log(file),
            mark: Mark::new(&log(file), server.0),
            driven: Driven::Nothing,
            condition: conditions.of(index),
            watches: Vec::new(),
            held: false,
        };
        let all: Vec<Service> = files.iter().enumerate().map(service).collect();
        tokio::spawn(condition::tell(conditions.clone(), events));
        let mut services =
            Self { all, conditions, running: watch::Sender::new(Vec::new()), serving: false };
        services.all.iter_mut().for_each(Service::watch_stopped);
        services.publish();
        services
    }

    /// What runs, for the status.
    pub(crate) fn rows(&self) -> watch::Receiver<Vec<Running>> {
        self.running.subscribe()
    }

    /// Starts every service in order, but those an administrator stopped; goes on after a failure and
    /// reports the first of a critical one.
    pub(crate) async fn start_all(&mut self) -> Result<(), String> {
        self.serving = true;
        let mut result = Ok(());
        for service in self.all.iter_mut().filter(|service| !service.held) {
            if let Err(error) = service.start().await {
                tracing::error!(service = service.file.name(), %error, "the service does not start");
                if service.file.is_critical() {
                    result = result.and(Err(error));
                }
            }
        }
        self.publish();
        result
    }

    /// Stops every service in reverse order; goes on after a failure and reports the first.
    pub(crate) async fn stop_all(&mut self) -> Result<(), String> {
        self.serving = false;
        let mut result = Ok(());
        for service in self.all.iter_mut().rev() {
            service.hold(false);
            let stopped = service.stop().await;
            if let Err(error) = &stopped {
                tracing::error!(service = service.file.name(), %error, "the service does not stop");
            }
            result = result.and(stopped);
        }
        self.publish();
        result
    }

    /// What an administrator asks (spec D7, F3). Stopped services stay so, and are not down.
    ///
    /// # Errors
    /// No service has this name, this server does not serve, or one does not start or stop.
    pub(crate) async fn order(&mut self, order: ServiceOrder) -> Result<(), Failure> {
        let (name, stop, start) = match order {
            ServiceOrder::Start { name } => (name, false, true),
            ServiceOrder::Stop { name } => (name, true, false),
            ServiceOrder::Restart { name } => (name, true, true),
        };
        if !self.serving {
            let message = "this server does not serve: its services are not running";
            return Err(Failure::new(Kind::Refused, message)
                .hinted("they start when it becomes active: `ipicsha configure`, or `failover`"));
        }
        let chosen =
            |service: &&mut Service| name.as_ref().is_none_or(|name| service.file.name() == name);
        let mut result = Ok(());
        let mut found = name.is_none();
        if stop {
            for service in self.all.iter_mut().rev().filter(chosen) {
                found = true;
                service.hold(true);
                result = result.and(service.stop().await);
            }
        }
        if start && result.is_ok() {
            for service in self.all.iter_mut().filter(chosen) {
                found = true;
                service.hold(false);
                result = result.and(service.start().await);
            }
        }
        self.publish();
        if !found {
            let message = format!("no service is called {}", name.unwrap_or_default());
            return Err(
                Failure::new(Kind::Refused, message).hinted("`ipicsha service status` lists them")
            );
        }
        result.map_err(|cause| {
            Failure::new(Kind::Failed, cause).hinted("look at what it printed, and try again")
        })
    }

    /// Stops the child processes only: units of systemd live on without the daemon.
    pub(crate) async fn stop_children(&mut self) {
        for service in self.all.iter_mut().rev() {
            if let Driven::Child(_) = service.driven
                && let Err(error) = service.stop().await
            {
                tracing::error!(service = service.file.name(), %error, "the service does not stop");
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let running = |(index, service): (usize, &Service)| Running {
            driver: match service.file {
                ServiceFile::Exec(_) => "exec",
                ServiceFile::Systemd(_) => "systemd",
            },
            unit_started: matches!(service.driven, Driven::Unit),
            pid: match &service.driven {
                Driven::Child(child) => Some(child.pid.clone()),
                Driven::Nothing | Driven::Unit => None,
            },
            health: self.conditions.subscribe(),
            index,
        };
        self.running.send_replace(self.all.iter().enumerate().map(running).collect());
    }
}

impl ServiceFile {
    /// Why it could not be started, as far as that can be seen without doing it.
    async fn unstartable(&self) -> Option<String> {
        match self {
            Self::Exec(file) => {
                let program = Path::new(file.start.first()?);
                let missing = program.is_absolute() && !program.exists();
                missing.then(|| format!("its program {} is missing", program.display()))
            }
            Self::Systemd(file) => systemd::unstartable(&file.unit, STOPPED_LOOK).await,
        }
    }
}

impl Service {
    fn hold(&mut self, held: bool) {
        self.held = held;
        self.condition.change(|health| health.held = held);
    }

    async fn start(&mut self) -> Result<(), String> {
        match &self.driven {
            Driven::Child(child) if !child.gave_up() => return Ok(()),
            Driven::Unit if self.watches.iter().any(|watch| !watch.is_finished()) => {
                return self.start_unit_again().await;
            }
            Driven::Child(_) | Driven::Nothing | Driven::Unit => {}
        }
        let kinds: Vec<ServiceKind> = self.checks.iter().map(check::kind).collect();
        self.end_watches();
        self.condition.wanted(&kinds);
        let started = self.drive().await;
        match &started {
            Ok(mender) => {
                if let Driven::Unit = self.driven {
                    self.condition.process(None); // of a child its supervisor says so
                }
                self.begin_watches(mender);
            }
            Err(cause) => self.condition.process(Some(cause.clone())),
        }
        started.map(drop)
    }

    /// A unit that is down is started; of one that runs systemd knows that nothing is to be done.
    async fn start_unit_again(&mut self) -> Result<(), String> {
        self.drive().await.map(drop)
    }

    async fn drive(&mut self) -> Result<Mender, String> {
        match &self.file {
            ServiceFile::Exec(file) => {
                let condition = self.condition.clone();
                let child = supervise(file.clone(), self.log.clone(), self.mark.clone(), condition);
                let child = child.await?;
                let mender = Mender::Child(child.restarter());
                self.driven = Driven::Child(child);
                Ok(mender)
            }
            ServiceFile::Systemd(file) => {
                let limit = seconds(file.start_timeout_seconds).unwrap_or_default();
                systemctl("start", &file.unit, limit).await?;
                self.driven = Driven::Unit;
                let (unit, restarts) = (file.unit.clone(), file.restarts);
                Ok(Mender::Unit { unit, restarts, left: restarts, limit })
            }
        }
    }

    fn begin_watches(&mut self, mender: &Mender) {
        for (number, check) in self.checks.iter().enumerate() {
            let starting = Starting::new(self.file.start_timeout(), &check.probe);
            let (check, condition) = (check.clone(), self.condition.clone());
            let watch = check::watch(number, check, condition, mender.clone(), starting);
            self.watches.push(tokio::spawn(watch).abort_handle());
        }
        if let Driven::Child(_) = self.driven {
            let watch = exec::keep_small(self.log.clone());
            self.watches.push(tokio::spawn(watch).abort_handle());
        }
    }

    /// While it is stopped: whether it could be started.
    fn watch_stopped(&mut self) {
        let (file, condition) = (self.file.clone(), self.condition.clone());
        let watch = async move {
            loop {
                condition.startable(file.unstartable().await);
                tokio::time::sleep(STOPPED_LOOK).await;
            }
        };
        self.watches.push(tokio::spawn(watch).abort_handle());
    }

    fn end_watches(&mut self) {
        self.watches.drain(..).for_each(|watch| watch.abort());
    }

    async fn stop(&mut self) -> Result<(), String> {
        self.end_watches();
        self.condition.stopped();
        self.watch_stopped();
        match std::mem::replace(&mut self.driven, Driven::Nothing) {
            Driven::Child(child) => child.stop().await,
            Driven::Nothing | Driven::Unit => {}
        }
        // A unit may have been started by somebody else.
        let ServiceFile::Systemd(file) = &self.file else { return Ok(()) };
        let limit = seconds(file.start_timeout_seconds).unwrap_or_default();
        systemd::stop(&file.unit, limit).await
    }
}
