//! The checks of a service that runs: made at their interval, each with a limit, and believed only
//! after some failures in a row. A check that hangs has failed.

use std::{
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use ipicsha_core::ServiceKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{command, condition::Condition, exec::Restarter, systemd::systemctl};
use crate::config::{Check, Probe};

/// What a check may do about a service that fails it.
#[derive(Clone)]
pub(super) enum Mender {
    /// A child process: it is restarted, and its restarts are counted.
    Child(Restarter),
    /// A unit: restarted so many times at most, until it was well for a while.
    Unit { unit: String, restarts: u32, left: u32, limit: Duration },
}

/// The kind of trouble that a failing check is.
pub(super) fn kind(check: &Check) -> ServiceKind {
    match check.probe {
        Probe::Sqlite { .. } => ServiceKind::Database,
        Probe::Process { .. }
        | Probe::Tcp { .. }
        | Probe::Http { .. }
        | Probe::Exec { .. }
        | Probe::Unit { .. } => ServiceKind::Critical,
    }
}

/// A unit whose check succeeds for so long has its restarts back, as a child process has.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// With less room on its disk a database cannot be written for long.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// The time that a start may take: a check that fails meanwhile says nothing.
pub(super) struct Starting {
    limit: Duration,
    since: Instant,
    is_over: bool,
    /// The check has succeeded since.
    was_well: bool,
}

impl Starting {
    /// What does not depend on the service counts from the begin.
    pub(super) fn new(limit: Duration, probe: &Probe) -> Self {
        let limit = match probe {
            Probe::Process { .. } | Probe::Tcp { .. } | Probe::Http { .. } | Probe::Exec { .. } => {
                limit
            }
            Probe::Sqlite { .. } | Probe::Unit { .. } => Duration::ZERO,
        };
        Self { limit, since: Instant::now(), is_over: false, was_well: false }
    }

    fn begins_anew(&mut self) {
        (self.since, self.is_over, self.was_well) = (Instant::now(), false, false);
    }

    fn goes_on(&mut self) -> bool {
        self.is_over |= self.since.elapsed() >= self.limit;
        !self.is_over
    }
}

/// Makes one check until its task is ended.
pub(super) async fn watch(
    number: usize,
    check: Check,
    condition: Condition,
    mut mender: Mender,
    mut starting: Starting,
) {
    let (interval, limit) = (check.interval, check.limit);
    let (mut failures, mut well_since) = (0, Instant::now());
    loop {
        tokio::time::sleep(interval).await;
        let result = match tokio::time::timeout(limit, probe(&check.probe, limit)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", limit.as_secs_f64())),
        };
        if mender.has_started_anew() {
            starting.begins_anew();
        }
        match result {
            Ok(()) => {
                (starting.is_over, starting.was_well) = (true, true);
                failures = 0;
                condition.check(number, None);
                if well_since.elapsed() >= WELL_AFTER {
                    mender.replenish();
                }
            }
            Err(cause) if starting.goes_on() => {
                (failures, well_since) = (0, Instant::now());
                tracing::debug!(cause, "a check fails while the service starts");
            }
            Err(cause) => {
                failures += 1;
                well_since = Instant::now();
                tracing::debug!(cause, failures, "a check failed");
                if failures >= check.failures {
                    condition.check(number, Some(cause));
                }
                // Again after as many failures more: a restart needs its time.
                if failures % check.failures == 0 && kind(&check) == ServiceKind::Critical {
                    mend(&mut mender, starting.was_well).await;
                    starting.begins_anew();
                    well_since = Instant::now(); // a restart may take long
                }
            }
        }
    }
}

impl Mender {
    /// Since it was asked last; a unit says nothing of that.
    fn has_started_anew(&mut self) -> bool {
        match self {
            Self::Child(restarter) => restarter.has_started_anew(),
            Self::Unit { .. } => false,
        }
    }

    /// It was well for long enough: what happened before does not count any more.
    fn replenish(&mut self) {
        match self {
            Self::Child(_) => {} // it counts itself
            Self::Unit { restarts, left, .. } => *left = *restarts,
        }
    }
}

async fn mend(mender: &mut Mender, was_well: bool) {
    match mender {
        Mender::Child(restarter) => restarter.restart(was_well),
        Mender::Unit { left: 0, .. } => {}
        Mender::Unit { unit, left, limit, .. } => {
            *left -= 1;
            tracing::warn!(unit, "its check failed; it is restarted");
            if let Err(error) = systemctl("restart", unit, *limit).await {
                tracing::error!(unit, error, "the unit does not restart");
            }
        }
    }
}

async fn probe(probe: &Probe, limit: Duration) -> Result<(), String> {
    match probe {
        Probe::Process { pid_file } => process(pid_file),
        Probe::Tcp { address } => connect(address).await.map(drop),
        Probe::Http { url } => http(url).await,
        Probe::Exec { command } => exec(command, limit).await,
        Probe::Unit { unit } => systemctl("is-active", unit, limit).await,
        Probe::Sqlite { path } => {
            let path = path.clone();
            let looked = tokio::task::spawn_blocking(move || sqlite(&path, limit)).await;
            looked.map_err(|error| error.to_string())?
        }
    }
}

/// The process that a pid file names, of a service that forks away.
fn process(pid_file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(pid_file)
        .map_err(|error| format!("{}: {error}", pid_file.display()))?;
    let number: Option<i32> = text.trim().parse().ok().filter(|number| *number > 0);
    let pid = number.and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{} holds no process id", pid_file.display()))?;
    match rustix::process::test_kill_process(pid) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(()), // another user's runs all the same
        Err(_) => Err(format!("process {} does not run", pid.as_raw_nonzero())),
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
}

/// One GET over plain HTTP/1.1; an answer of 200 to 399 is well.
async fn http(url: &str) -> Result<(), String> {
    let (address, host, path) = split_url(url)?;
    let failed = |error: std::io::Error| format!("{url}: {error}");
    let mut stream = connect(&address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ipicsha\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < 1024 {
        if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("{url}: status {status}")),
        None => Err(format!("{url}: the answer is not HTTP")),
    }
}

/// Where to connect to, the host as it is named, and the path.
pub(crate) fn split_url(url: &str) -> Result<(String, String, String), String> {
    let rest = url.strip_prefix("http://").ok_or("a URL begins with http://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    if host.is_empty() || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a URL is http://HOST:PORT/PATH".into());
    }
    let named = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if named { host.to_owned() } else { format!("{host}:80") };
    Ok((address, host.to_owned(), path.to_owned()))
}

async fn exec(words: &[String], limit: Duration) -> Result<(), String> {
    let status = command::run(words, limit).await?;
    if status.success() {
        Ok(())
    } else {
        let program = words.first().map_or("", String::as_str);
        Err(format!("{program}: {}", super::exec::describe(status)))
    }
}

/// A disk that is nearly full: the application's next commits fail, one sooner and one later.
fn room(path: &Path) -> Result<(), String> {
    let disk = rustix::fs::statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let left = disk.f_bavail.saturating_mul(disk.f_frsize);
    if left >= ROOM_BYTES_MIN {
        return Ok(());
    }
    Err(format!("{}: its disk is full, {} KiB are left", path.display(), left / 1024))
}

/// Integrity, and whether a write could begin; nothing is written. That somebody else writes is well.
fn sqlite(path: &Path, limit: Duration) -> Result<(), String> {
    use rusqlite::{Connection, ErrorCode, OpenFlags};
    let failed = |error: rusqlite::Error| format!("{}: {error}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    room(path)?;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    let interrupt = connection.get_interrupt_handle();
    let (_ended, end) = channel::<()>();
    std::thread::spawn(move || {
        if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            interrupt.interrupt(); // a large file on a slow disk: nobody waits for it any more
        }
    });
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if verdict != "ok" {
        return Err(format!("{}: {verdict}", path.display()));
    }
    match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::DatabaseBusy => {
            Ok(())
        }
        result => result.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/healthz", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let result = http(&url).await;
        server.await.unwrap();
        result
    }

    #[tokio::test]
    async fn http_is_well_from_200_to_399() {
        assert_eq!(answered("HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        assert_eq!(answered("HTTP/1.0 302 Found\r\n\r\n").await, Ok(()));
        assert!(answered("HTTP/1.1 503 Busy\r\n\r\n").await.unwrap_err().ends_with("status 503"));
        assert!(answered("SSH-2.0\r\n").await.unwrap_err().ends_with("is not HTTP"));
    }

    #[test]
    fn a_url_names_a_host_and_perhaps_a_port_and_a_path() {
        let parts = |url| split_url(url).unwrap();
        assert_eq!(parts("http://a").0, "a:80");
        assert_eq!(parts("http://a:81/x/y").0, "a:81");
        assert_eq!(parts("http://[::1]:81/").2, "/");
        for bad in ["https://a", "a:80", "http:///x", "http://a/b c", "http://a/\r\nX: y"] {
            assert!(split_url(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_command_is_well_when_it_exits_with_0() {
        let run = |words: &[&str]| {
            let command: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            async move { exec(&command, Duration::from_secs(60)).await }
        };
        assert_eq!(run(&["true"]).await, Ok(()));
        assert_eq!(run(&["false"]).await, Err("false: exit code 1".into()));
        assert!(run(&["/no/such/program"]).await.is_err());
    }

    #[test]
    fn a_database_is_looked_at_and_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let limit = Duration::from_secs(10);
        assert!(sqlite(&path, limit).is_err(), "it is not created");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert_eq!(sqlite(&path, limit), Ok(()));
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(sqlite(&path, limit), Ok(()), "another writer is well");
        connection.execute_batch("ROLLBACK").unwrap();
        drop(connection);
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let mut damaged = before;
        let half = damaged.len() / 2;
        damaged[half..].fill(0xff);
        std::fs::write(&path, damaged).unwrap();
        assert!(sqlite(&path, limit).is_err());
    }

    #[test]
    fn a_pid_file_names_a_process_that_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        assert!(process(&path).is_err());
        std::fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        assert_eq!(process(&path), Ok(()));
        for bad in ["", "0", "x", "-4"] {
            std::fs::write(&path, bad).unwrap();
            assert!(process(&path).is_err(), "{bad}");
        }
    }
}
