//! Role changes and alarms of the past: one JSON line each, the oldest cut off by size.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
};

use ipicsha_core::{Event, time::WallTime};
use serde::{Deserialize, Serialize};

/// At this size the older half is dropped.
const BYTES_MAX: u64 = 4 << 20;

/// One line of the history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Milliseconds since 1970.
    pub(crate) at_unix_ms: i64,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// The file with the history.
pub(crate) struct History {
    path: PathBuf,
}

impl History {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Adds one entry and logs it. A history that cannot be written stops nothing.
    pub(crate) fn add(&self, at: WallTime, event: Event) {
        log(&event);
        let entry = Entry { at_unix_ms: at.0, event };
        if let Err(error) = self.append(&entry) {
            tracing::warn!(path = %self.path.display(), %error, "the history cannot be written");
        }
    }

    fn append(&self, entry: &Entry) -> std::io::Result<()> {
        self.cut()?;
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let mut line = serde_json::to_string(entry)?;
        line.push('\n');
        file.write_all(line.as_bytes())
    }

    fn cut(&self) -> std::io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|meta| meta.len() > BYTES_MAX) {
            let text = fs::read_to_string(&self.path)?;
            let half = text.len() / 2;
            let start =
                text.bytes().skip(half).position(|b| b == b'\n').map_or(0, |at| half + at + 1);
            crate::daemon::persist::write_durably(&self.path, &text.as_bytes()[start..])?;
        }
        Ok(())
    }

    /// The newest entries, oldest first. A line that cannot be read is left out.
    pub(crate) fn newest(&self, limit: usize) -> Vec<Entry> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut entries: Vec<Entry> = text
            .lines()
            .rev()
            .filter_map(|line| serde_json::from_str(line).ok())
            .take(limit)
            .collect();
        entries.reverse();
        entries
    }
}

fn log(event: &Event) {
    match event {
        Event::State { role, from, to, reason, epoch } => {
            let role = role.map_or_else(|| "none".into(), |role| role.to_string());
            tracing::info!(%role, %from, %to, %reason, epoch, "state changed");
        }
        Event::Raised { alarm } => tracing::warn!(alarm = %alarm.text(), "alarm raised"),
        Event::Cleared { alarm } => tracing::info!(alarm = %alarm.text(), "alarm cleared"),
        Event::Repaired { run, database, found, left } => {
            tracing::info!(run, database, found, left, "database repaired");
        }
        Event::Drill { there_ms, away_ms, back_ms } => {
            tracing::info!(there_ms, away_ms, back_ms, "drill");
        }
        Event::Planned { error: None } => tracing::info!("planned failover done"),
        Event::Planned { error: Some(error) } => {
            tracing::warn!(error, "the planned failover did not happen");
        }
        Event::RepairUndone { run, database, restored, skipped } => {
            tracing::info!(run, database, restored, skipped, "repair undone");
        }
    }
}
