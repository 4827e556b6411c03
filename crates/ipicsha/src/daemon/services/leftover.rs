//! What a service has started and left behind, wherever it went: in its group, in a session of its own,
//! with another parent. Known by a variable in its environment that it inherited.
//!
//! Decides who belongs to a service. Must not know why it is ended.

use std::{ffi::OsString, fs, os::unix::ffi::OsStrExt as _, path::Path};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Its value is the path of the log, which no other service of this machine has.
pub(super) const MARK: &str = "IPICSHA_SERVICE_LOG";
/// A process that is just forking is met in the next round.
const ROUNDS_MAX: usize = 10;

/// Sends `signal` to everything that belongs to the service with this log; how many there were.
pub(super) fn signal(log: &Path, signal: Signal) -> usize {
    let mark = [MARK.as_bytes(), b"=", log.as_os_str().as_bytes()].concat();
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let names = processes.flatten().map(|entry| entry.file_name());
    names.filter(|name| signal_one(name, &mark, signal).is_some()).count()
}

/// Kills until nothing is left.
pub(super) fn kill(log: &Path) {
    for _ in 0..ROUNDS_MAX {
        match signal(log, Signal::KILL) {
            0 => return,
            count => tracing::debug!(log = %log.display(), count, "what it left behind is killed"),
        }
    }
}

fn signal_one(name: &OsString, mark: &[u8], signal: Signal) -> Option<()> {
    let pid = Pid::from_raw(name.to_str()?.parse().ok()?)?;
    // Held before it is looked at, so that the number cannot become somebody else's.
    let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let environment = fs::read(Path::new("/proc").join(name).join("environ")).ok()?;
    environment.split(|byte| *byte == 0).find(|variable| *variable == mark)?;
    pidfd_send_signal(held, signal).ok()
}
