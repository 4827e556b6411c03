//! What all databases together look like: numbers for the core, rows for the status.

use std::collections::BTreeMap;

use ipicsha_core::message::DataReport;
use ipicsha_records::{DatabaseStatus, TableInfo, Writes};

use super::{Databases, Protected};
use crate::api::{DatabaseRow, PendingRepair, SkippedRow};

impl Databases {
    /// All of it in a few numbers for the core.
    pub(crate) fn report(&self) -> DataReport {
        let statuses: Vec<&DatabaseStatus> =
            self.all.values().filter_map(|p| p.status.as_ref()).collect();
        let count = |wanted: &dyn Fn(&DatabaseStatus) -> bool| {
            u32::try_from(statuses.iter().filter(|s| wanted(s)).count()).unwrap_or(u32::MAX)
        };
        let complete = statuses.len() == self.all.len();
        let held = statuses.iter().filter(|s| s.hold.is_some()).count()
            + self.all.values().filter(|p| p.failure.is_some()).count()
            + self.unknown.len();
        let fullest = statuses.iter().map(|s| s.log_used_percent).fold(0.0, f64::max);
        DataReport {
            measured: complete && statuses.iter().all(|s| s.installed),
            writes_open: count(&|s| s.installed && s.writes == Writes::Open),
            writes_closed: count(&|s| s.installed && s.writes == Writes::Closed),
            synced: complete && self.unknown.is_empty() && statuses.iter().all(|s| s.synced),
            attached: statuses.iter().all(|s| s.attached),
            unacknowledged: statuses.iter().map(|s| s.queue_records).sum(),
            log_used_percent: fullest.clamp(0.0, 255.0) as u8,
            held: u32::try_from(held).unwrap_or(u32::MAX),
        }
    }

    /// For the status.
    pub(crate) fn rows(&self) -> Vec<DatabaseRow> {
        let known = self.all.iter().map(|(name, protected)| {
            let mut row = match protected.status.as_ref().filter(|_| self.rank.is_some()) {
                Some(status) => DatabaseRow::from(status),
                None => row_without_worker(name, protected),
            };
            let still_there = protected.not_removed.as_ref();
            let still_there = still_there.map(|cause| {
                format!("ipicsha's own triggers could not be removed yet (tried again each second): {cause}")
            });
            row.hold = row.hold.or_else(|| protected.failure.clone()).or(still_there);
            row.warnings.extend(self.surroundings.journal_notice.clone());
            row
        });
        let unknown = self.unknown.keys().map(|name| DatabaseRow {
            hold: Some(format!(
                "protected on the partner only: run `ipicsha protect db PATH --name {name} --seed` here"
            )),
            ..empty_row(name)
        });
        known.chain(unknown).collect()
    }

    pub(crate) fn pending_repairs(&self) -> Vec<PendingRepair> {
        let pending = |status: &DatabaseStatus| {
            let repair = status.repair.as_ref()?;
            Some(PendingRepair {
                run: repair.run,
                paused: repair.paused,
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
}

fn empty_row(name: &str) -> DatabaseRow {
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
        lag_seconds: 0.0,
        log_used_percent: 0.0,
        conflicts_total: 0,
        hold: None,
        warnings: Vec::new(),
    }
}

fn row_without_worker(name: &str, protected: &Protected) -> DatabaseRow {
    let mut row =
        DatabaseRow { path: protected.file.path.display().to_string(), ..empty_row(name) };
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
