//! Services run on the active server only. Driver `exec` is a supervised child process, driver
//! `systemd` a unit. Their health is not watched yet; a child that ends is started again.

use std::{
    fs::OpenOptions,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
};

use crate::{
    api::ServiceRow,
    config::{ExecFile, ServiceFile, seconds},
};

/// A child that ends within this time did not start.
const STARTED_AFTER: Duration = Duration::from_millis(200);
/// systemd's own limits are shorter, where a unit has any.
const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(100);
/// Pauses before an ended child is started again: doubled from the first to the last.
const RESTART_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// All services of this server.
pub(crate) struct Services {
    drivers: Vec<Driver>,
    running: watch::Sender<Vec<Running>>,
}

/// What is known of one service; the process of a child changes when it is started again.
#[derive(Clone)]
pub(crate) struct Running {
    name: String,
    driver: &'static str,
    unit_started: bool,
    pid: Option<watch::Receiver<Option<u32>>>,
}

impl Running {
    /// As of now.
    pub(crate) fn row(&self) -> ServiceRow {
        let pid = self.pid.as_ref().and_then(|pid| *pid.borrow());
        ServiceRow {
            name: self.name.clone(),
            driver: self.driver.into(),
            running: self.unit_started || pid.is_some(),
            pid,
        }
    }
}

enum Driver {
    Exec { file: ExecFile, log: PathBuf, child: Option<Supervised> },
    Systemd { name: String, unit: String, running: bool },
}

/// A child with the task that watches it.
struct Supervised {
    stop: mpsc::Sender<oneshot::Sender<()>>,
    pid: watch::Receiver<Option<u32>>,
}

impl Services {
    /// The services of the configuration, none of them started. `logs` receives what exec services
    /// print.
    pub(crate) fn new(files: &[ServiceFile], logs: &Path) -> Self {
        let driver = |file: &ServiceFile| match file {
            ServiceFile::Exec(exec) => {
                let log = logs.join(format!("{}.log", exec.name));
                Driver::Exec { file: exec.clone(), log, child: None }
            }
            ServiceFile::Systemd(systemd) => Driver::Systemd {
                name: systemd.name.clone(),
                unit: systemd.unit.clone(),
                running: false,
            },
        };
        let drivers: Vec<Driver> = files.iter().map(driver).collect();
        let services = Self { drivers, running: watch::Sender::new(Vec::new()) };
        services.publish();
        services
    }

    /// What runs, for the status.
    pub(crate) fn rows(&self) -> watch::Receiver<Vec<Running>> {
        self.running.subscribe()
    }

    /// Starts every service in order; goes on after a failure and reports the first.
    pub(crate) async fn start_all(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        for driver in &mut self.drivers {
            let started = driver.start().await;
            if let Err(error) = &started {
                tracing::error!(service = driver.name(), %error, "the service does not start");
            }
            result = result.and(started);
        }
        self.publish();
        result
    }

    /// Stops every service in reverse order; goes on after a failure and reports the first.
    pub(crate) async fn stop_all(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        for driver in self.drivers.iter_mut().rev() {
            let stopped = driver.stop().await;
            if let Err(error) = &stopped {
                tracing::error!(service = driver.name(), %error, "the service does not stop");
            }
            result = result.and(stopped);
        }
        self.publish();
        result
    }

    /// Stops the child processes only: units of systemd live on without the daemon.
    pub(crate) async fn stop_children(&mut self) {
        for driver in self.drivers.iter_mut().rev() {
            if let Driver::Exec { .. } = driver
                && let Err(error) = driver.stop().await
            {
                tracing::error!(service = driver.name(), %error, "the service does not stop");
            }
        }
        self.publish();
    }

    fn publish(&self) {
        self.running.send_replace(self.drivers.iter().map(Driver::running).collect());
    }
}

impl Driver {
    fn name(&self) -> &str {
        match self {
            Self::Exec { file, .. } => &file.name,
            Self::Systemd { name, .. } => name,
        }
    }

    fn running(&self) -> Running {
        match self {
            Self::Exec { file, child, .. } => Running {
                name: file.name.clone(),
                driver: "exec",
                unit_started: false,
                pid: child.as_ref().map(|child| child.pid.clone()),
            },
            Self::Systemd { name, running, .. } => {
                Running { name: name.clone(), driver: "systemd", unit_started: *running, pid: None }
            }
        }
    }

    async fn start(&mut self) -> Result<(), String> {
        match self {
            Self::Exec { child: Some(_), .. } => Ok(()),
            Self::Exec { file, log, child } => {
                *child = Some(supervise(file.clone(), log.clone()).await?);
                Ok(())
            }
            Self::Systemd { unit, running, .. } => {
                systemctl("start", unit).await?;
                *running = true;
                Ok(())
            }
        }
    }

    async fn stop(&mut self) -> Result<(), String> {
        match self {
            Self::Exec { child, .. } => {
                if let Some(child) = child.take() {
                    let (done, stopped) = oneshot::channel();
                    if child.stop.send(done).await.is_ok() {
                        let _ = stopped.await; // the task ended: the child is gone either way
                    }
                }
                Ok(())
            }
            Self::Systemd { unit, running, .. } => {
                systemctl("stop", unit).await?;
                *running = false;
                Ok(())
            }
        }
    }
}

async fn systemctl(verb: &str, unit: &str) -> Result<(), String> {
    let mut command = Command::new("systemctl");
    command.args([verb, "--", unit]).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(SYSTEMCTL_LIMIT, command.output())
        .await
        .map_err(|_| format!("systemctl {verb} {unit} takes longer than {SYSTEMCTL_LIMIT:?}"))?
        .map_err(|error| format!("systemctl: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("systemctl {verb} {unit}: {why}"))
}

/// Starts the child and the task that restarts it when it ends.
async fn supervise(file: ExecFile, log: PathBuf) -> Result<Supervised, String> {
    let mut child = spawn(&file, &log)?;
    if let Ok(ended) = tokio::time::timeout(STARTED_AFTER, child.wait()).await {
        let how = ended.map_or_else(|error| error.to_string(), describe);
        return Err(format!("service {} ended at once: {how}; see {}", file.name, log.display()));
    }
    let (stop, stops) = mpsc::channel(1);
    let (pid_sender, pid) = watch::channel(child.id());
    tokio::spawn(watch_child(file, log, child, stops, pid_sender));
    Ok(Supervised { stop, pid })
}

async fn watch_child(
    file: ExecFile,
    log: PathBuf,
    mut child: Child,
    mut stops: mpsc::Receiver<oneshot::Sender<()>>,
    pid: watch::Sender<Option<u32>>,
) {
    let mut pause = RESTART_PAUSES.0;
    loop {
        let since = tokio::time::Instant::now();
        tokio::select! {
            ended = child.wait() => {
                pid.send_replace(None);
                let how = ended.map_or_else(|error| error.to_string(), describe);
                tracing::warn!(service = file.name, how, "the service ended; it is started again");
            }
            stop = stops.recv() => {
                terminate(&file, &mut child).await;
                pid.send_replace(None);
                if let Some(done) = stop {
                    let _ = done.send(()); // nobody waits any more
                }
                return;
            }
        }
        if since.elapsed() > RESTART_PAUSES.1 {
            pause = RESTART_PAUSES.0;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                stop = stops.recv() => {
                    if let Some(done) = stop {
                        let _ = done.send(());
                    }
                    return;
                }
            }
            pause = (pause * 2).min(RESTART_PAUSES.1);
            match spawn(&file, &log) {
                Ok(again) => {
                    child = again;
                    pid.send_replace(child.id());
                    break;
                }
                Err(error) => tracing::error!(service = file.name, error, "it does not start"),
            }
        }
    }
}

/// The child leads its own process group and dies with the daemon (`setpriv --pdeathsig`).
fn spawn(file: &ExecFile, log: &Path) -> Result<Child, String> {
    let failed =
        |what: &str, error: std::io::Error| format!("service {}: {what}: {error}", file.name);
    let (program, arguments) = file
        .start
        .split_first()
        .ok_or_else(|| format!("service {}: `start` is empty", file.name))?;
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory).map_err(|error| failed("log directory", error))?;
    }
    let output = OpenOptions::new().create(true).append(true).open(log);
    let output = output.map_err(|error| failed("log file", error))?;
    let errors = output.try_clone().map_err(|error| failed("log file", error))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", program]).args(arguments);
    command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
    if let Some(directory) = &file.directory {
        command.current_dir(directory);
    }
    command.spawn().map_err(|error| failed(program, error))
}

/// Stop command, TERM to the group, then KILL after the limit.
async fn terminate(file: &ExecFile, child: &mut Child) {
    let limit = seconds(file.stop_timeout_seconds).unwrap_or(Duration::from_secs(10));
    if let Some((program, arguments)) = file.stop.split_first() {
        let stop = Command::new(program).args(arguments).stdin(Stdio::null()).status();
        match tokio::time::timeout(limit, stop).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => {
                tracing::warn!(service = file.name, how = describe(status), "stop command")
            }
            Ok(Err(error)) => tracing::warn!(service = file.name, %error, "stop command"),
            Err(_) => tracing::warn!(service = file.name, "the stop command takes too long"),
        }
    }
    let Some(group) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return };
    let signal = |signal: Signal| {
        if let Err(error) = kill_process_group(group, signal) {
            tracing::debug!(service = file.name, %error, "no process of the group is left");
        }
    };
    signal(Signal::TERM);
    if tokio::time::timeout(limit, child.wait()).await.is_err() {
        tracing::warn!(service = file.name, "it did not stop in time and is killed");
    }
    signal(Signal::KILL); // also whatever the child left behind in its group
    if let Err(error) = child.wait().await {
        tracing::warn!(service = file.name, %error, "the child cannot be reaped");
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
