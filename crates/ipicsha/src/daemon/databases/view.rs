//! What all databases together look like: numbers for the core, rows for the status.

use std::collections::{BTreeMap, BTreeSet};

use ipicsha_core::{
    message::{DataReport, LogReport},
    status::LogForecast,
    time::WallTime,
};
use ipicsha_records::{DatabaseStatus, LogCapacity, TableInfo, Writes};

use super::{Databases, Protected, Surroundings};
use crate::{
    api::{DatabaseRow, LogRow, PendingRepair, SkippedRow},
    config::DatabaseFile,
    daemon::{NotCompared, limits},
};

impl Databases {
    /// All of it in a few numbers for the core.
    pub(crate) fn report(&self) -> DataReport {
        let statuses: Vec<&DatabaseStatus> =
            self.all.values().filter_map(|p| p.status.as_ref()).collect();
        let count = |wanted: &dyn Fn(&DatabaseStatus) -> bool| {
            u32::try_from(statuses.iter().filter(|s| wanted(s)).count()).unwrap_or(u32::MAX)
        };
        let complete = statuses.len() == self.all.len();
        let held = self.all.values().filter(|p| p.is_held()).count()
            + self.all.values().filter(|p| p.failure.is_some()).count()
            + self.patterns.problems()
            + self.unknown.len();
        let order = |a: &&&DatabaseStatus, b: &&&DatabaseStatus| {
            let overflowed = a.log.overflowed.cmp(&b.log.overflowed);
            overflowed.then(a.log_used_percent.total_cmp(&b.log_used_percent))
        };
        let fullest = statuses.iter().max_by(order);
        let wall = |(first, last)| (WallTime(first), WallTime(last));
        let spans = statuses.iter().filter_map(|s| s.queued_ms.map(wall));
        let forecasts = statuses.iter().map(|s| s.log.forecast);
        DataReport {
            measured: complete && self.all.values().all(Protected::is_measured),
            writes_open: count(&|s| s.installed && s.writes == Writes::Open),
            writes_closed: count(&|s| s.installed && s.writes == Writes::Closed),
            synced: self.is_in_sync(),
            attached: statuses.iter().all(|s| s.attached),
            unacknowledged: statuses.iter().map(|s| s.queue_records).sum(),
            log_used_percent: fullest.map_or(0.0, |s| s.log_used_percent).clamp(0.0, 255.0) as u8,
            held: u32::try_from(held).unwrap_or(u32::MAX),
            log: LogReport {
                database: fullest.map_or_else(String::new, |s| s.name.to_string()),
                forecast: forecasts.fold(LogForecast::Unknown, LogForecast::soonest),
                overflowed: fullest.is_some_and(|s| s.log.overflowed),
                changes: spans.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1))),
            },
        }
    }

    /// How long the oldest record waits for the partner.
    pub(crate) fn lag(&self) -> std::time::Duration {
        let lags = self.all.values().filter_map(|p| p.status.as_ref()).map(|s| s.lag_seconds);
        let longest = lags.fold(0.0, f64::max);
        std::time::Duration::try_from_secs_f64(longest).unwrap_or_default()
    }

    /// Everything has been compared with the partner's once and follows since.
    pub(crate) fn is_in_sync(&self) -> bool {
        let late = |p: &Protected| p.member.as_ref().is_some_and(|member| member.late);
        let synced = |p: &Protected| p.status.as_ref().is_some_and(|status| status.synced);
        // What a pattern should have here, only the partner can tell.
        (self.patterns.is_empty() || self.partner.is_known())
            && self.unknown.is_empty()
            && self.all.values().all(|p| late(p) || synced(p))
    }

    /// For the status.
    pub(crate) fn rows(&self) -> Vec<DatabaseRow> {
        let known = self.all.iter().map(|(name, protected)| {
            let mut row = match protected.status.as_ref().filter(|_| self.rank.is_some()) {
                Some(status) => DatabaseRow::from(status),
                None => row_without_worker(name, protected, &self.surroundings),
            };
            let still_there = protected.not_removed.as_ref();
            let still_there = still_there.map(|cause| {
                format!("ipicsha's own triggers could not be removed yet (tried again each second): {cause}")
            });
            row.hold = row.hold.or_else(|| protected.failure.clone()).or(still_there);
            row.warnings.extend(self.surroundings.journal_notice.clone());
            if protected.is_deleted() {
                row.hold = Some(deleted(name));
            }
            row.pattern = protected.member.as_ref().map(|member| member.pattern.clone());
            row
        });
        let unknown = self
            .unknown
            .keys()
            .map(|name| (name, empty_row(name, None, &self.surroundings)))
            .map(|(name, row)| DatabaseRow { hold: Some(self.only_there(name)), ..row });
        known.chain(unknown).collect()
    }

    fn only_there(&self, name: &str) -> String {
        match self.patterns.excluded_path(name) {
            Some(path) => format!(
                "protected on the partner only: run `ipicsha unprotect db {name}` there, too, or take it back with `ipicsha protect db {}` here",
                path.display()
            ),
            None => format!(
                "protected on the partner only: run `ipicsha protect db PATH --name {name} --seed` here"
            ),
        }
    }

    pub(crate) fn pending_repairs(&self) -> Vec<PendingRepair> {
        let pending = |status: &DatabaseStatus| {
            let repair = status.repair.as_ref()?;
            Some(PendingRepair {
                run: repair.run,
                paused: repair.paused,
                rows_done: repair.rows_done,
                rows_total: repair.rows_total,
                rows_per_second: repair.rows_per_second,
                seconds_left: repair.seconds_left,
                database: status.name.to_string(),
                stage: repair.stage.to_string(),
                table: repair.table.clone(),
                tables_done: repair.tables_done,
                tables_total: repair.tables_total,
                rows_compared: repair.rows_compared,
                differences: repair.differences,
            })
        };
        self.all.values().filter_map(|p| p.status.as_ref().and_then(pending)).collect()
    }

    /// Tables of a database that no comparison looks at, with the reasons.
    pub(crate) fn not_compared(&self, database: &str) -> Vec<NotCompared> {
        let mut of = self.all.values().filter_map(|protected| protected.status.as_ref());
        let Some(status) = of.find(|status| status.name.0 == database) else { return Vec::new() };
        let held: BTreeSet<&str> = status.held_tables().map(|held| held.table.as_str()).collect();
        let skipped = status.skipped_tables.iter().map(|skipped| NotCompared {
            table: skipped.table.clone(),
            reason: skipped.reason.to_string(),
            held: held.contains(skipped.table.as_str()),
        });
        skipped.collect()
    }
}

impl Protected {
    fn is_held(&self) -> bool {
        let late = self.member.as_ref().is_some_and(|member| member.late);
        // A new one of the partner's that is being built is on its way to be in sync.
        self.status.as_ref().is_some_and(|s| s.hold.is_some() && !(late && s.seeding))
    }

    /// It was here, and its file has gone while it was protected.
    fn is_deleted(&self) -> bool {
        let held = self.status.as_ref().is_some_and(|s| s.hold.is_some() && !s.installed);
        held && self.member.as_ref().is_some_and(|m| m.seen) && !self.file.path.exists()
    }

    /// What is not there holds nothing that was not counted.
    fn is_measured(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.installed) || self.is_deleted()
    }
}

fn deleted(name: &str) -> String {
    format!(
        "its file was deleted here while it was protected; it is not deleted on the partner: put the file back, or forget the database with `ipicsha unprotect db {name}` on both servers"
    )
}

fn empty_row(name: &str, file: Option<&DatabaseFile>, surroundings: &Surroundings) -> DatabaseRow {
    let defaults = LogCapacity {
        entries: surroundings.log.capacity_entries,
        bytes: surroundings.log.capacity_bytes.0,
    };
    let capacity = file.map_or(defaults, |file| limits::capacity_of(file, &surroundings.log));
    DatabaseRow {
        name: name.to_owned(),
        path: String::new(),
        tables: Vec::new(),
        identities: BTreeMap::new(),
        skipped_tables: Vec::new(),
        synced: false,
        writes: "open".into(),
        journal_mode: None,
        queue_records: 0,
        queue_records_per_second: None,
        queue_seconds_left: None,
        lag_seconds: 0.0,
        log_used_percent: 0.0,
        log: LogRow::empty(capacity),
        conflicts_total: 0,
        hold: None,
        warnings: Vec::new(),
        pattern: None,
    }
}

fn row_without_worker(
    name: &str,
    protected: &Protected,
    surroundings: &Surroundings,
) -> DatabaseRow {
    let path = protected.file.path.display().to_string();
    let mut row = DatabaseRow { path, ..empty_row(name, Some(&protected.file), surroundings) };
    match &protected.inspection {
        None => {}
        Some(Ok(inspection)) => {
            row.tables = inspection.tables.iter().map(|table| table.name.clone()).collect();
            let identity = |t: &TableInfo| (t.name.clone(), t.identity.name().to_owned());
            row.identities = inspection.tables.iter().map(identity).collect();
            row.warnings.clone_from(&inspection.warnings);
            row.journal_mode = Some(inspection.journal_mode.clone());
            row.skipped_tables = inspection
                .skipped
                .iter()
                .map(|s| SkippedRow { table: s.table.clone(), reason: s.reason.clone() })
                .collect();
        }
        Some(Err(error)) => row.warnings = vec![error.clone()],
    }
    row
}
