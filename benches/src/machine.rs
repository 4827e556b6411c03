//! What the figures were measured on, and whether anything else was running.

use std::{fs, process::Command};

use anyhow::Result;
use serde_json::{Value, json};

/// The machine at the start of the run.
pub(crate) struct Machine {
    pub(crate) text: String,
    pub(crate) json: Value,
    /// Today, as 2026-01-31.
    pub(crate) date: String,
}

/// Looks at the machine.
pub(crate) fn facts() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism()?.get();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1).map(ToOwned::to_owned))
        .unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let sqlite = rusqlite::version();
    let folder = std::env::temp_dir();
    let filesystem = said(Command::new("stat").args(["-f", "-c", "%T"]).arg(&folder));
    let load = read("/proc/loadavg");
    let busy = load.split(' ').next().and_then(|one| one.parse::<f64>().ok()).unwrap_or(f64::NAN);
    let idle = busy < 0.3;
    let date = said(Command::new("date").args(["-u", "+%F"]));
    let text = format!(
        "{date}: {cores} cores ({cpu}), Linux {kernel}, SQLite {sqlite}, files on {filesystem}, \
         load before the run {busy} ({})",
        if idle { "otherwise idle" } else { "NOT idle: wall times are upper bounds" }
    );
    let json = json!({
        "date": date, "cores": cores, "cpu": cpu, "kernel": kernel, "sqlite": sqlite,
        "filesystem": filesystem, "loadavg": load, "idle": idle,
    });
    Ok(Machine { text, json, date })
}

fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
