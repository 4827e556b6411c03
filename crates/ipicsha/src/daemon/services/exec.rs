//! Driver `exec`: a child process with the task that starts it again when it ends, until it has ended
//! too often. What it prints goes to a file that is kept small.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    command,
    condition::Condition,
    leftover::{self, Mark},
};
use crate::config::{ExecFile, seconds};

/// A child that ends within this time did not start.
const STARTED_AFTER: Duration = Duration::from_millis(200);
/// A child that was started again is well when it has run for so long.
const WELL_AFTER: Duration = Duration::from_secs(5);
/// Pauses before an ended child is started again: doubled from the first to the last. One that ran
/// for longer than the last has its restarts back.
const RESTART_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The output of a service is set aside at this size; one older file is kept.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Its size is looked at this often, so that a flood cannot fill a disk in between.
const LOG_LOOK: Duration = Duration::from_millis(250);

/// A child with the task that watches it.
pub(super) struct Supervised {
    orders: mpsc::Sender<Order>,
    pub(super) pid: watch::Receiver<Option<u32>>,
}

/// What its task is told.
enum Order {
    Stop(oneshot::Sender<()>),
    /// It runs and does not do its work, or never did since it was started.
    Restart {
        was_well: bool,
    },
}

impl Supervised {
    /// Stops it; the process is gone afterwards.
    pub(super) async fn stop(self) {
        let (done, stopped) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            let _ = stopped.await; // the task ended: the child is gone either way
        }
    }

    /// Its task has given up: it ended too often.
    pub(super) fn gave_up(&self) -> bool {
        self.orders.is_closed()
    }

    /// How a check asks for a restart.
    pub(super) fn restarter(&self) -> Restarter {
        Restarter { orders: self.orders.clone(), pid: self.pid.clone() }
    }
}

/// Asks for a restart, which counts like an end of its own.
#[derive(Clone)]
pub(super) struct Restarter {
    orders: mpsc::Sender<Order>,
    pid: watch::Receiver<Option<u32>>,
}

impl Restarter {
    /// Whether it is another process than the last time.
    pub(super) fn has_started_anew(&mut self) -> bool {
        let changed = self.pid.has_changed().unwrap_or_default(); // it is given up
        changed && self.pid.borrow_and_update().is_some()
    }

    pub(super) fn restart(&self, was_well: bool) {
        let _ = self.orders.try_send(Order::Restart { was_well }); // it is being stopped or restarted already
    }
}

/// Starts the child and the task that restarts it when it ends.
pub(super) async fn supervise(
    file: ExecFile,
    log: PathBuf,
    mark: Mark,
    condition: Condition,
) -> Result<Supervised, String> {
    let mut child = spawn(&file, &log, &mark)?;
    let pid = child.id();
    if let Ok(ended) = tokio::time::timeout(STARTED_AFTER, child.wait()).await {
        let how = ended.map_or_else(|error| error.to_string(), describe);
        // One that forks away would serve on beside the partner's.
        end_group(&file, pid.unwrap_or_default(), Signal::KILL);
        mark.kill().await;
        return Err(format!("service {} ended at once: {how}; see {}", file.name, log.display()));
    }
    let (orders, orders_receiver) = mpsc::channel(4);
    let (pid_sender, pid) = watch::channel(child.id());
    tokio::spawn(async move {
        let keeper =
            Keeper { file, log, mark, condition, pid: pid_sender, orders: orders_receiver };
        keeper.keep(child).await;
    });
    Ok(Supervised { orders, pid })
}

/// Keeps one child running.
struct Keeper {
    file: ExecFile,
    log: PathBuf,
    mark: Mark,
    condition: Condition,
    pid: watch::Sender<Option<u32>>,
    orders: mpsc::Receiver<Order>,
}

impl Keeper {
    async fn keep(mut self, mut child: Child) {
        let (mut pause, mut restarts) = (RESTART_PAUSES.0, 0);
        loop {
            let since = Instant::now();
            let Some((how, was_well)) = self.until_it_ends(&mut child, since).await else { return };
            if was_well && since.elapsed() > RESTART_PAUSES.1 {
                (pause, restarts) = (RESTART_PAUSES.0, 0);
            }
            loop {
                let (name, limit) = (&self.file.name, self.file.restarts);
                if restarts >= limit {
                    let cause = format!("it ended ({how}) and was started again {limit} times");
                    tracing::error!(service = name, cause, "the service is given up");
                    self.condition.process(Some(cause));
                    return;
                }
                restarts += 1;
                tracing::warn!(service = name, how, "the service ended; it is started again");
                self.condition.process(Some(format!("it ended: {how}")));
                if self.stopped_within(pause).await {
                    return;
                }
                pause = (pause * 2).min(RESTART_PAUSES.1);
                match spawn(&self.file, &self.log, &self.mark) {
                    Ok(again) => {
                        child = again;
                        self.pid.send_replace(child.id());
                        break;
                    }
                    Err(error) => {
                        tracing::error!(service = self.file.name, error, "it does not start");
                    }
                }
            }
        }
    }

    /// How it ended, and whether it did its work before; `None` when it was to be stopped.
    async fn until_it_ends(&mut self, child: &mut Child, since: Instant) -> Option<(String, bool)> {
        let well = tokio::time::sleep_until(since + WELL_AFTER);
        tokio::pin!(well);
        let mut waits = true;
        let how = loop {
            tokio::select! {
                ended = child.wait() => {
                    break ended.map_or_else(|error| error.to_string(), describe);
                }
                () = &mut well, if waits => {
                    waits = false;
                    self.condition.process(None);
                }
                order = self.orders.recv() => {
                    terminate(&self.file, &self.mark, child).await;
                    match order {
                        Some(Order::Restart { was_well }) => {
                            // Nothing is left, and its number may be somebody else's by now.
                            self.pid.send_replace(None);
                            return Some(("its check failed".into(), was_well));
                        }
                        Some(Order::Stop(done)) => {
                            self.pid.send_replace(None);
                            let _ = done.send(()); // nobody waits any more
                            return None;
                        }
                        None => {
                            self.pid.send_replace(None);
                            return None;
                        }
                    }
                }
            }
        };
        // What it left behind would hold its ports, and serve on when this server does not.
        end_group(&self.file, self.pid.borrow().unwrap_or_default(), Signal::KILL);
        self.mark.kill().await;
        self.pid.send_replace(None);
        Some((how, true))
    }

    /// Waits before the next start; true when it is to be stopped meanwhile.
    async fn stopped_within(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                order = self.orders.recv() => match order {
                    Some(Order::Restart { .. }) => {} // it is being restarted
                    Some(Order::Stop(done)) => {
                        let _ = done.send(()); // nobody waits any more
                        return true;
                    }
                    None => return true,
                },
            }
        }
    }
}

/// Keeps the output of a child small until its task is ended.
pub(super) async fn keep_small(log: PathBuf) {
    loop {
        tokio::time::sleep(LOG_LOOK).await;
        let path = log.clone();
        let rotated = tokio::task::spawn_blocking(move || rotate_at(&path, LOG_BYTES_MAX)).await;
        if let Ok(Err(error)) = rotated {
            tracing::warn!(log = %log.display(), %error, "the output cannot be set aside");
        }
    }
}

/// Sets the output aside when it has grown too large: the child goes on writing to the same file.
fn rotate_at(log: &Path, limit: u64) -> std::io::Result<()> {
    match std::fs::metadata(log) {
        Ok(facts) if facts.len() > limit => {
            let mut from = File::options().read(true).write(true).open(log)?;
            // Of a flood the end tells most.
            from.seek(SeekFrom::Start(facts.len() - limit))?;
            let mut aside = File::create(log.with_extension("log.1"))?;
            std::io::copy(&mut (&from).take(limit), &mut aside)?;
            from.set_len(0)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn end_group(file: &ExecFile, pid: u32, signal: Signal) {
    let Some(group) = Pid::from_raw(pid.cast_signed()) else { return };
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!(service = file.name, %error, "no process of the group is left");
    }
}

/// The child leads its own process group and dies with the daemon (`setpriv --pdeathsig`).
fn spawn(file: &ExecFile, log: &Path, mark: &Mark) -> Result<Child, String> {
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
    command.env(leftover::VARIABLE, mark.value());
    if let Some(directory) = &file.directory {
        command.current_dir(directory);
    }
    command.spawn().map_err(|error| failed(program, error))
}

/// Stop command, TERM to the group, then KILL after the limit.
async fn terminate(file: &ExecFile, mark: &Mark, child: &mut Child) {
    let limit = seconds(file.stop_timeout_seconds).unwrap_or(Duration::from_secs(10));
    if !file.stop.is_empty() {
        match command::run(&file.stop, limit).await {
            Ok(status) if status.success() => {}
            Ok(status) => {
                tracing::warn!(service = file.name, how = describe(status), "stop command")
            }
            Err(error) => tracing::warn!(service = file.name, error, "stop command"),
        }
    }
    let Some(group) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return };
    let signal = |signal: Signal| {
        if let Err(error) = kill_process_group(group, signal) {
            tracing::debug!(service = file.name, %error, "no process of the group is left");
        }
    };
    signal(Signal::TERM);
    mark.signal(Signal::TERM, Some(group)).await; // twice would be once too often
    if tokio::time::timeout(limit, child.wait()).await.is_err() {
        tracing::warn!(service = file.name, "it did not stop in time and is killed");
    }
    signal(Signal::KILL); // also whatever the child left behind in its group
    mark.kill().await;
    if let Err(error) = child.wait().await {
        tracing::warn!(service = file.name, %error, "the child cannot be reaped");
    }
}

pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::condition::{Conditions, Health};
    use super::*;

    fn file(script: &str, restarts: u32) -> ExecFile {
        let start = ["sh", "-c", script].map(str::to_owned);
        let text = format!("name = \"app\"\nstart = []\nrestarts = {restarts}\n");
        ExecFile { start: start.into(), ..toml::from_str(&text).unwrap() }
    }

    fn condition() -> (Conditions, Condition) {
        let all = Conditions::new(vec![Health::new("app", true)]);
        let one = all.of(0);
        one.wanted(&[]);
        (all, one)
    }

    #[tokio::test]
    async fn a_service_that_exits_at_once_has_not_started() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("app.log");
        let (_all, one) = condition();
        let started = supervise(file("echo no; exit 3", 3), log.clone(), mark(&log), one).await;
        assert!(started.err().unwrap().contains("ended at once: exit code 3"));
        assert_eq!(std::fs::read_to_string(log).unwrap(), "no\n");
    }

    fn mark(log: &Path) -> Mark {
        Mark::new(log, 1)
    }

    /// Waits until nothing that belongs to the service runs any more; touches nothing.
    async fn nothing_is_left(mark: &Mark) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while mark.signal(Signal::CONT, None).await > 0 {
            assert!(Instant::now() < deadline, "something runs on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_service_that_forks_away_at_once_leaves_nothing_running() {
        for script in ["sleep 100000 & exit 0", "setsid sleep 100000 & exit 0"] {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("app.log");
            let (_all, one) = condition();
            assert!(supervise(file(script, 3), log.clone(), mark(&log), one).await.is_err());
            nothing_is_left(&mark(&log)).await;
        }
    }

    #[tokio::test]
    async fn stopping_ends_what_went_into_a_session_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("app.log");
        let (_all, one) = condition();
        let script = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & exec sleep 100000";
        let child = supervise(file(script, 3), log.clone(), mark(&log), one).await.unwrap();
        assert!(mark(&log).signal(Signal::CONT, None).await >= 2, "both run");
        child.stop().await;
        nothing_is_left(&mark(&log)).await;
    }

    /// A service that forks away leaves its parent's end behind: it counts as ended, and what it left
    /// in its group is ended too.
    #[tokio::test]
    async fn a_service_that_keeps_ending_or_forks_away_is_given_up() {
        for script in ["sleep 0.3; exit 7", "sleep 100000 & sleep 0.3"] {
            let folder = tempfile::tempdir().unwrap();
            let (all, one) = condition();
            let log = folder.path().join("app.log");
            let child = supervise(file(script, 1), log.clone(), mark(&log), one).await.unwrap();
            let mut seen = all.subscribe();
            let given_up = seen.wait_for(|all| {
                all[0]
                    .trouble()
                    .is_some_and(|(_, cause)| cause.contains("was started again 1 times"))
            });
            tokio::time::timeout(Duration::from_secs(60), given_up).await.unwrap().unwrap();
            tokio::time::timeout(Duration::from_secs(60), child.orders.closed()).await.unwrap();
            assert!(child.gave_up());
            nothing_is_left(&mark(&log)).await;
            child.stop().await; // nothing is left to stop
        }
    }

    #[tokio::test]
    async fn a_check_that_fails_restarts_it_and_stopping_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let (_all, one) = condition();
        let log = folder.path().join("app.log");
        let script = file("exec sleep 100000", 5);
        let child = supervise(script, log.clone(), mark(&log), one).await.unwrap();
        let first = *child.pid.borrow();
        child.restarter().restart(true);
        let mut pid = child.pid.clone();
        let another = pid.wait_for(|now| now.is_some() && *now != first);
        let another =
            *tokio::time::timeout(Duration::from_secs(60), another).await.unwrap().unwrap();
        child.stop().await;
        let gone = |pid: Option<u32>| !Path::new(&format!("/proc/{}", pid.unwrap())).exists();
        assert!(gone(first) && gone(another));
    }

    #[test]
    fn output_that_floods_is_set_aside_and_the_file_goes_on() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("app.log");
        rotate_at(&log, 10).unwrap(); // nothing is there yet
        let mut output = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        output.write_all(b"0123456789+").unwrap();
        rotate_at(&log, 10).unwrap();
        output.write_all(b"more").unwrap();
        rotate_at(&log, 10).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "more");
        let aside = std::fs::read_to_string(folder.path().join("app.log.1")).unwrap();
        assert_eq!(aside, "123456789+", "no more than may be");
    }
}
