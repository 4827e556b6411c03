//! Wall time and CPU time of a piece of work, of a thread, of a process.
//!
//! Decides nothing. CPU time is what a loaded machine still tells truly.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// What something took, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// By the clock on the wall.
    pub(crate) wall: f64,
    /// On a processor.
    pub(crate) cpu: f64,
}

impl Cost {
    /// Per one of `count`.
    pub(crate) fn per(self, count: u64) -> Self {
        Self { wall: self.wall / count as f64, cpu: self.cpu / count as f64 }
    }
}

/// Runs `work` on this thread.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let (wall, cpu) = (Instant::now(), own_cpu());
    let value = work()?;
    let cost = Cost { wall: wall.elapsed().as_secs_f64(), cpu: own_cpu() - cpu };
    Ok((value, cost))
}

fn own_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU seconds of the thread of this process whose name begins like this.
pub(crate) fn thread_cpu(name: &str) -> Result<f64> {
    for entry in fs::read_dir("/proc/self/task")? {
        let folder = entry?.path();
        if fs::read_to_string(folder.join("comm"))?.starts_with(name) {
            let text = fs::read_to_string(folder.join("schedstat"))?;
            let ran = text.split(' ').next().unwrap_or_default();
            return Ok(ran.parse::<u64>().context("schedstat")? as f64 / 1e9);
        }
    }
    anyhow::bail!("no thread is called {name}")
}

/// Ticks of a second in `/proc`, on every Linux of the architectures we know.
const USER_HZ: f64 = 100.0;

/// CPU seconds of a process, with those of its children that have ended.
pub(crate) fn process_cpu(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may hold anything.
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = fields.split(' ').skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / USER_HZ)
}

/// The value in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of all values lies.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Looks every `step` until `condition` holds.
pub(crate) fn poll(
    what: &str,
    step: Duration,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition()? {
        anyhow::ensure!(Instant::now() < deadline, "waited {} s in vain: {what}", limit.as_secs());
        std::thread::sleep(step);
    }
    Ok(())
}
