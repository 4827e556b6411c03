//! What an idle pair costs.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Settings, Side, note, ready_pair};

/// Ticks per second of `/proc/PID/stat` on Linux, whatever the kernel's own tick.
const TICKS_PER_SECOND: f64 = 100.0;
const SPAN: Duration = Duration::from_secs(10);
const MEMORY_KIB_MAX: u64 = 30 * 1024;

/// CPU time of a process so far, user and system, in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = (ticks(11).context("utime")?, ticks(12).context("stime")?);
    Ok((user + system) / TICKS_PER_SECOND)
}

/// Memory of a process that is in RAM.
fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[test]
fn an_idle_daemon_uses_under_1_percent_of_a_core_and_under_30_mb() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let pids = [pair.alpha.pid()?, pair.bravo.pid()?];
        let before = [cpu_seconds(pids[0])?, cpu_seconds(pids[1])?];
        thread::sleep(SPAN); // the span that is measured, not a wait for something
        for (side, (pid, before)) in Side::BOTH.into_iter().zip(pids.into_iter().zip(before)) {
            let percent = (cpu_seconds(pid)? - before) / SPAN.as_secs_f64() * 100.0;
            let resident = resident_kib(pid)?;
            note(&format!("idle {}: {percent:.2} % of a core, {resident} KiB", side.name()));
            ensure!(percent < 1.0, "{} uses {percent:.2} % of a core", side.name());
            ensure!(resident < MEMORY_KIB_MAX, "{} uses {resident} KiB", side.name());
        }
        pair.wait_ready()
    })
}
