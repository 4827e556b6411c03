//! What a service has started and left behind, wherever it went: in a session of its own, with another
//! parent. Known by a variable in its environment, as long as it keeps what it inherited.
//!
//! Decides who belongs to a service. Must not know why it is ended.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, getpgid, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;

/// Its value is the path of the log, which no other service of this server has, and the server.
pub(super) const VARIABLE: &str = "IPICSHA_SERVICE";
/// A process that is just starting another program shows nothing for a moment.
const PAUSE: Duration = Duration::from_millis(20);
/// What the kernel does not end within this is left to it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What marks the processes of one service.
#[derive(Clone, Debug)]
pub(super) struct Mark(OsString);

impl Mark {
    /// Of the service with this log, on the server with this number.
    pub(super) fn new(log: &Path, server: u64) -> Self {
        let mut value = log.as_os_str().to_owned();
        value.push(format!("@{server:016x}"));
        Self(value)
    }

    pub(super) fn value(&self) -> &OsString {
        &self.0
    }

    /// Sends `signal` to what belongs to the service, but not to this group; how many there were.
    pub(super) async fn signal(&self, signal: Signal, spared: Option<Pid>) -> usize {
        let mark = self.clone();
        in_time(move |late| mark.signal_now(signal, spared, late)).await.unwrap_or_default()
    }

    /// Kills until nothing is left.
    pub(super) async fn kill(&self) {
        let mark = self.clone();
        let killed = in_time(move |late| {
            let (begin, mut empty) = (Instant::now(), 0);
            while empty < 2 && begin.elapsed() < PATIENCE {
                match mark.signal_now(Signal::KILL, None, late) {
                    0 => empty += 1,
                    count => {
                        empty = 0;
                        tracing::debug!(mark = ?mark.0, count, "what it left behind is killed");
                    }
                }
                std::thread::sleep(PAUSE);
            }
            empty >= 2
        });
        if killed.await != Some(true) {
            tracing::warn!(mark = ?self.0, "what the service left behind does not end");
        }
    }

    fn signal_now(&self, signal: Signal, spared: Option<Pid>, late: &AtomicBool) -> usize {
        let mark = [VARIABLE.as_bytes(), b"=", self.0.as_bytes()].concat();
        let Ok(processes) = fs::read_dir("/proc") else { return 0 };
        let pids = processes.flatten().filter_map(|entry| number(&entry.file_name()));
        pids.filter(|pid| signal_one(*pid, &mark, signal, spared, late).is_some()).count()
    }
}

/// Looking at processes can take long where one of them hangs: nobody waits for that, not even the end of
/// the daemon, and what is done by then is told that it is late, since the service may run anew.
async fn in_time<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> Option<T> {
    let (late, (to, done)) = (Arc::new(AtomicBool::new(false)), oneshot::channel());
    let is_late = Arc::clone(&late);
    let run = move || {
        let _ = to.send(work(&is_late)); // nobody waits any more
    };
    std::thread::Builder::new().name("leftover".into()).spawn(run).ok()?;
    let result = tokio::time::timeout(PATIENCE * 2, done).await;
    late.store(true, Ordering::Release);
    result.ok()?.ok()
}

fn number(name: &OsString) -> Option<Pid> {
    Pid::from_raw(name.to_str()?.parse().ok()?)
}

fn signal_one(
    pid: Pid,
    mark: &[u8],
    signal: Signal,
    spared: Option<Pid>,
    late: &AtomicBool,
) -> Option<()> {
    if pid == rustix::process::getpid() {
        return None; // a daemon that was started from a service
    }
    // Held before it is looked at, so that the number cannot become somebody else's.
    let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let environment = fs::read(proc.join("environ")).ok()?;
    environment.split(|byte| *byte == 0).find(|variable| *variable == mark)?;
    let is_spared = spared.is_some() && getpgid(Some(pid)).ok() == spared;
    if is_spared || late.load(Ordering::Acquire) {
        return None;
    }
    pidfd_send_signal(held, signal).ok()
}
