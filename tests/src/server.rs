//! One server of the pair: its files, its daemon, and its command line.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    application::Application,
    binary,
    net::{Network, Side},
    process::{self, Ran, end_of, run},
    status::Status,
    wait::{SOON, wait_for},
};

/// No verb of the command line takes longer than this.
const VERB_LIMIT: Duration = Duration::from_secs(60);

/// How a daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Shifts its wall clock by this many seconds.
    pub clock_offset_seconds: Option<i32>,
    /// Another program than the one under test, such as another version of it.
    pub program: Option<PathBuf>,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    /// Which one.
    pub side: Side,
    /// Folder with all its files.
    pub home: PathBuf,
    network: Arc<Network>,
    daemon: Option<Child>,
}

impl Server {
    pub(crate) fn new(side: Side, home: PathBuf, network: Arc<Network>) -> Result<Self> {
        fs::create_dir_all(home.join("data"))?;
        Ok(Self { side, home, network, daemon: None })
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.home.join("ipicsha.toml")
    }

    /// Its state file.
    pub fn state_file(&self) -> PathBuf {
        self.home.join("state/state.json")
    }

    /// The state file as it is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn state_bytes(&self) -> Result<Vec<u8>> {
        fs::read(self.state_file()).context("the state file")
    }

    /// The file of a protected database.
    pub fn database(&self, name: &str) -> PathBuf {
        self.home.join(format!("data/{name}.sqlite"))
    }

    /// A watched directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.home.join("files").join(name)
    }

    /// A database, opened as an application does.
    ///
    /// # Errors
    /// SQLite cannot open it.
    pub fn application(&self, name: &str) -> Result<Application> {
        let db = Connection::open(self.database(name))?;
        Application::over(db)
    }

    /// Writes a file of this server.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.home.join(name);
        fs::write(&path, contents).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer.
    pub fn start(&mut self) -> Result<()> {
        self.launch(&Launch::default())
    }

    /// Starts the daemon in a special way and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer.
    pub fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.spawn_as(launch)?;
        wait_for(&format!("the daemon of {} answers", self.side.name()), SOON, || {
            self.status().ok()
        })?;
        Ok(())
    }

    /// Starts the daemon and waits for its end, for daemons that must not start.
    ///
    /// # Errors
    /// It goes on running.
    pub fn start_and_end(&mut self) -> Result<(ExitStatus, String)> {
        let before = self.log().len();
        self.spawn()?;
        let status = self.end(SOON)?;
        Ok((status, self.log().split_off(before)))
    }

    /// Starts the daemon and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        self.spawn_as(&Launch::default())
    }

    fn spawn_as(&mut self, launch: &Launch) -> Result<()> {
        ensure!(self.daemon.is_none(), "{} runs already", self.side.name());
        let program = launch.program.clone().map_or_else(binary::ipicsha, Ok)?;
        let mut command = self.command("env");
        if let Some(offset) = launch.clock_offset_seconds {
            command.arg(format!("LD_PRELOAD={}", binary::faketime_library()?.display()));
            command.arg(format!("FAKETIME={offset:+}s")).arg("FAKETIME_DONT_FAKE_MONOTONIC=1");
        }
        command.arg(program).arg("--config").arg(self.config_path()).arg("daemon");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.process_group(0);
        self.daemon = Some(command.spawn().context("cannot start the daemon")?);
        Ok(())
    }

    /// Process id of the daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the daemon does not run")?.id())
    }

    /// Sends a signal to the daemon and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop_by(&mut self, signal: Signal) -> Result<ExitStatus> {
        process::signal(self.pid()?, signal);
        self.end(SOON)
    }

    fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = self.daemon.as_mut().context("the daemon does not run")?;
        let status = end_of(child, limit)
            .with_context(|| format!("the end of the daemon of {}", self.side.name()))?;
        self.daemon = None;
        Ok(status)
    }

    /// `kill -9` of everything on this server: daemon, services, applications.
    ///
    /// # Errors
    /// The daemon does not run.
    pub fn kill_everything(&mut self) -> Result<()> {
        let services = self.status().map(|status| status.service_pids()).unwrap_or_default();
        process::signal(self.pid()?, Signal::KILL); // first: it must not restart what dies next
        for pid in self.network.pids(self.side).into_iter().chain(services) {
            process::signal(pid, Signal::KILL);
        }
        self.kill();
        Ok(())
    }

    /// `kill -9` of the daemon alone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            process::kill_group(&mut child);
        }
    }

    /// A program that will run on this server.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.network.command(self.side, program)
    }

    /// Runs a verb of the command line.
    ///
    /// # Errors
    /// It cannot be started or hangs. A verb that fails is no error here.
    pub fn cli(&self, arguments: &[&str]) -> Result<Ran> {
        run(&mut self.command_line(arguments)?, VERB_LIMIT)
    }

    /// A verb of the command line, to be run.
    ///
    /// # Errors
    /// There is no binary.
    pub fn command_line(&self, arguments: &[&str]) -> Result<Command> {
        // The command line needs the daemon's socket, not the network.
        let mut command = Command::new(binary::ipicsha()?);
        command.arg("--config").arg(self.config_path()).args(arguments);
        Ok(command)
    }

    /// `ipicsha sync` as typed on this server in `folder`, to be run.
    ///
    /// # Errors
    /// There is no binary.
    pub fn sync_command(&self, folder: &Path, words: &[&str]) -> Result<Command> {
        let mut command = self.command(binary::ipicsha()?);
        command.arg("--config").arg(self.config_path()).arg("sync").args(words);
        command.current_dir(folder);
        Ok(command)
    }

    /// Runs `ipicsha sync` as typed on this server in `folder`.
    ///
    /// # Errors
    /// It cannot be started or hangs. A transfer that fails is no error here.
    pub fn sync(&self, folder: &Path, words: &[&str]) -> Result<Ran> {
        run(&mut self.sync_command(folder, words)?, VERB_LIMIT)
    }

    /// Runs a verb that must succeed, and gives its answer.
    ///
    /// # Errors
    /// It fails, or its answer is no JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["--json", "--yes"], arguments].concat();
        self.cli(&arguments)?.json().with_context(|| format!("{}: {arguments:?}", self.side.name()))
    }

    /// The pair as this server sees it.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&self) -> Result<Status> {
        let ran = self.cli(&["--json", "ha-status"])?;
        let value = serde_json::from_str(&ran.stdout).with_context(|| format!("{ran:?}"))?;
        let status = Status(value);
        ensure!(!status.ha().is_empty(), "no status: {ran:?}");
        Ok(status)
    }

    /// Waits until the status is as wanted.
    ///
    /// # Errors
    /// It is not within half a minute; the last status is shown.
    pub fn wait(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = None;
        let found = wait_for(&format!("{}: {what}", self.side.name()), SOON, || {
            last = self.status().ok();
            last.clone().filter(|status| condition(status))
        });
        found.with_context(|| format!("last status of {}: {last:#?}", self.side.name()))
    }

    /// When this server last heard its partner, in milliseconds since 1970. Exact while the partner
    /// is silent, else soon outdated.
    ///
    /// # Errors
    /// The daemon does not answer, or never heard the partner.
    pub fn heard_partner_ms(&self) -> Result<i64> {
        let status = self.status()?;
        let age = status.heartbeat_age_ms().context("the partner was never heard")?;
        Ok(status.seen_ms().context("no time in the status")? - age.ceil() as i64)
    }

    /// Entries of the history, oldest first.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn history(&self) -> Result<Vec<Value>> {
        let answer = self.ask(&["history", "--limit", "1000"])?;
        Ok(answer.as_array().context("the history is no list")?.clone())
    }

    /// When this server last entered a state, in milliseconds since 1970 by its own clock.
    ///
    /// # Errors
    /// It never did.
    pub fn entered_ms(&self, state: &str) -> Result<i64> {
        let entered = |entry: &Value| (entry["to"] == state).then(|| entry["at_unix_ms"].as_i64());
        let last = self.history()?.iter().rev().find_map(entered).flatten();
        last.with_context(|| format!("{} was never {state}", self.side.name()))
    }

    /// How long the partner had been silent when this server took over, by this server's own word.
    ///
    /// # Errors
    /// It never took over, or the partner is back.
    pub fn silence_before_takeover_ms(&self) -> Result<i64> {
        let (heard, taken) = (self.heard_partner_ms()?, self.entered_ms("Taking Over")?);
        ensure!(heard <= taken, "the partner was heard after the takeover");
        Ok(taken - heard)
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("daemon.log")
    }

    /// All that the daemon has logged.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log, for a test that failed.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// An empty file in this server's folder, for programs to write to.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn create(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.home.join(name);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok((path, file))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
