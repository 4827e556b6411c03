//! What one copy takes: time, processor, bytes on the wire, memory.

use std::{
    fmt, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ipicsha_e2e::{Network, Side};

use crate::clock::process_cpu;

/// Between two looks at the memory of a program that runs.
const LOOK: Duration = Duration::from_millis(10);

/// What one copy took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Seconds by the clock on the wall.
    pub(super) wall: f64,
    /// Seconds of all processes of both ends.
    pub(super) cpu: f64,
    /// Bytes on the wire, both directions, with all headers.
    pub(super) wire: u64,
    /// Largest memory of one process, in bytes.
    pub(super) memory: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (wall, cpu, wire, memory) = (self.wall, self.cpu, mb(self.wire), mb(self.memory));
        write!(f, "{wall:7.3} s  CPU {cpu:6.2} s  wire {wire:8.1} MB  memory {memory:6.1} MB")
    }
}

/// Runs a program on alpha to its end. `other` is the process that answers it on bravo.
pub(super) fn run(network: &Network, command: &mut Command, other: u32) -> Result<Cost> {
    forget_peak(other);
    let before = (wire(network)?, own_children()?, process_cpu(other)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut memory = 0;
    let status = loop {
        memory = memory.max(peak(child.id()));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(LOOK.min(begin.elapsed() / 50));
    };
    let wall = begin.elapsed().as_secs_f64();
    if !status.success() {
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut said)?;
        }
        bail!("{command:?}: {status} {said}");
    }
    // The other end may have a child that is about to be waited for.
    let deadline = Instant::now() + Duration::from_secs(5);
    while has_children(other) && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    ensure!(!has_children(other), "the other end did not come to rest");
    let cpu = own_children()? - before.1 + process_cpu(other)? - before.2;
    let wire = wire(network)? - before.0;
    Ok(Cost { wall, cpu, wire, memory: memory.max(peak(other)) })
}

/// CPU seconds of children of this process that have ended.
fn own_children() -> Result<f64> {
    let own = |skip| -> Result<f64> {
        let text = fs::read_to_string("/proc/self/stat")?;
        let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks = fields.split(' ').skip(skip).take(2).filter_map(|n| n.parse::<u64>().ok());
        Ok(ticks.sum::<u64>() as f64 / 100.0)
    };
    own(13)
}

fn has_children(pid: u32) -> bool {
    let tasks = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    tasks.is_ok_and(|children| !children.trim().is_empty())
}

/// Largest memory a process has had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn forget_peak(pid: u32) {
    // Without it the peak is that of all copies so far.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Bytes that the interface of alpha has carried in both directions.
fn wire(network: &Network) -> Result<u64> {
    let text = network.command(Side::Alpha, Path::new("cat")).arg("/proc/net/dev").output()?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let loopback = network.is_loopback();
    let interface = if loopback { "lo:" } else { "eth0:" };
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface));
    let line = line.context("an interface")?;
    let counts: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // What loopback sends it receives as well.
    Ok(if loopback { counts[0] } else { counts[0] + counts[8] })
}
