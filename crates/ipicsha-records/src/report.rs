//! What is shown of one database, and when.
//!
//! Decides how often a status is worth an event. Reads only, and only when something happened.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipicsha_core::{
    data::{Batch, Origin},
    id::Seq,
};

use crate::{
    database::{Database, rollback},
    engine::{Engine, Session},
    error::{AtPath as _, Error},
    gauge::{Gauge, LogUse},
    journal::Acked,
    log,
    pace::{self, Pace},
    schema::null_key_warning,
    status::{DatabaseStatus, Event},
    worker::Writes,
};

/// At most this often.
const SOONEST: Duration = Duration::from_millis(100);
/// At least this often while something is queued or a comparison runs.
const LATEST: Duration = Duration::from_secs(1);
/// How often the acknowledged position is remembered.
const SAVE: Duration = Duration::from_secs(2);
/// The same in parts of the log's capacity.
const SAVE_PART: u64 = 16;

/// When the next status is due.
pub(crate) struct Reporter {
    pub(crate) conflicts_total: u64,
    pub(crate) gauge: Gauge,
    /// When the newest change of each table was made that came from the partner.
    applied_ms: BTreeMap<String, i64>,
    touched: bool,
    sent_at: Instant,
    last: Option<DatabaseStatus>,
    saved: Option<(Origin, Seq)>,
    /// The acknowledged position is not remembered yet.
    pub(crate) unsaved: bool,
    saved_at: Instant,
    /// Of the partner's acknowledgements, and of what is written, while something is queued.
    acked: Pace,
    written: Pace,
}

impl Reporter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            conflicts_total: 0,
            gauge: Gauge::default(),
            applied_ms: BTreeMap::new(),
            touched: true,
            sent_at: now.checked_sub(SOONEST).unwrap_or(now),
            last: None,
            saved: None,
            unsaved: false,
            saved_at: now,
            acked: Pace::default(),
            written: Pace::default(),
        }
    }

    /// Changes of the partner's are in the database.
    pub(crate) fn note_applied(&mut self, batch: &Batch) {
        for row in &batch.rows {
            let name = usize::try_from(row.table).ok().and_then(|index| batch.tables.get(index));
            if let Some(name) = name {
                let newest = self.applied_ms.entry(name.clone()).or_insert(row.wall.0);
                *newest = row.wall.0.max(*newest);
            }
        }
    }

    /// Something may have changed.
    pub(crate) fn touch(&mut self) {
        self.touched = true;
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        let moving =
            self.last.as_ref().is_some_and(|last| last.queue_records > 0 || last.repair.is_some());
        match (self.touched, moving) {
            (true, _) => Some(self.sent_at + SOONEST),
            (false, true) => Some(self.sent_at + LATEST),
            // The last of a burst, before a long silence.
            (false, false) => self.unsaved.then(|| self.saved_at + SAVE),
        }
    }
}

impl Reporter {
    /// How fast the queue shrinks, while there is one.
    fn catch_up(&mut self, now: Instant, status: &mut DatabaseStatus) {
        if status.queue_records == 0 || !status.attached {
            self.acked.clear();
            self.written.clear();
            return;
        }
        self.acked.note(now, status.acked.0.max(0).cast_unsigned());
        self.written.note(now, status.last_seq.0.max(0).cast_unsigned());
        status.queue_per_second = self.acked.per_second(now);
        let shrinks = status
            .queue_per_second
            .and_then(|acked| acked.checked_sub(self.written.per_second(now).unwrap_or(0)));
        status.queue_seconds_left = pace::seconds(status.queue_records, shrinks);
    }
}

impl Engine {
    /// Sends the status if it is due and different.
    pub(crate) fn report(&mut self, now: Instant) {
        if self.reporter.due().is_none_or(|due| now < due) {
            return;
        }
        if now >= self.reporter.saved_at + SAVE {
            self.save_acked();
            self.reporter.saved_at = now;
        }
        self.reporter.touched = false;
        self.reporter.sent_at = now;
        let status = match self.status() {
            Ok(mut status) => {
                self.reporter.catch_up(now, &mut status);
                status
            }
            Err(error) => {
                tracing::debug!(database = %self.config.name, %error, "no status this time");
                self.reporter.touched = true;
                return;
            }
        };
        if self.reporter.last.as_ref() != Some(&status) {
            (self.events)(Event::Status(Box::new(status.clone())));
            self.reporter.last = Some(status);
        }
    }

    /// The same before so much was acknowledged that a small log could seem to have overflowed after
    /// a crash.
    pub(crate) fn save_acked_in_time(&mut self) {
        let saved = self.reporter.saved.map_or(0, |(_, saved)| saved.0);
        let capacity = self.database.as_ref().map_or(0, Database::capacity);
        if (self.acked.0 - saved).max(0).cast_unsigned() >= capacity / SAVE_PART {
            self.save_acked();
        }
    }

    /// Remembers how far the partner is, for the queue shown after a restart.
    pub(crate) fn save_acked(&mut self) {
        let (Some(database), Some(journal)) = (&self.database, &self.journal) else { return };
        let position = (database.meta.origin, self.acked);
        self.reporter.unsaved = false;
        // What was not learned from the partner must not be taken for its word later.
        if !self.position.known || self.reporter.saved == Some(position) {
            return;
        }
        let written_at = log::written_at(&database.reader, self.acked).at(&database.path);
        let saved = written_at.and_then(|ms| {
            journal.save_acked(&self.config.name, position.0, Acked { seq: self.acked, ms })
        });
        match saved {
            Ok(()) => self.reporter.saved = Some(position),
            Err(error) => {
                tracing::warn!(database = %self.config.name, %error,
                    "the acknowledged position could not be remembered");
            }
        }
    }

    /// All that is read, with one lock: without a WAL each would hold up the application's commits.
    fn status(&mut self) -> Result<DatabaseStatus, Error> {
        if let Some(database) = &self.database {
            database.reader.execute_batch("BEGIN").at(&database.path)?;
        }
        let status = self.log_use().and_then(|log| self.status_with(log));
        if let Some(database) = &self.database {
            rollback(&database.reader);
        }
        status
    }

    fn status_with(&mut self, log: LogUse) -> Result<DatabaseStatus, Error> {
        let attached = match &self.session {
            Session::Attached(attached) => Some(attached),
            Session::Detached | Session::Attaching(_) => None,
        };
        let mut status = DatabaseStatus {
            name: self.config.name.clone(),
            path: self.config.path.clone(),
            tables: Vec::new(),
            skipped_tables: Vec::new(),
            identities: BTreeMap::new(),
            warnings: Vec::new(),
            installed: self.database.is_some(),
            attached: attached.is_some(),
            writes: self.writes.unwrap_or(Writes::Open),
            journal_mode: None,
            queue_records: 0,
            queue_per_second: None,
            queue_seconds_left: None,
            lag_seconds: 0.0,
            queued_ms: None,
            log_used_percent: 0.0,
            log,
            synced: false,
            seeding: self.missing,
            hold: self.hold.clone(),
            repair: match (&self.leading, &self.follower) {
                (Some(leading), _) => Some(Box::new(leading.leader.progress())),
                (None, Some(follower)) => Some(Box::new(follower.progress())),
                (None, None) => self.paused.as_ref().map(|p| Box::new(p.progress.clone())),
            },
            conflicts_total: self.reporter.conflicts_total,
            applied_ms: self.reporter.applied_ms.clone(),
            last_seq: Seq(0),
            acked: self.acked,
            applied: Seq(0),
        };
        let Some(database) = &self.database else { return Ok(status) };
        status.skipped_tables.clone_from(&database.skipped);
        let held = attached.map_or(&[][..], |attached| &attached.held);
        status.skipped_tables.extend(held.iter().cloned());
        status.tables = database
            .tables
            .values()
            .map(|captured| captured.table.name.clone())
            .filter(|name| held.iter().all(|held| held.table != *name))
            .collect();
        status.tables.sort();
        let mode = database.journal_mode()?;
        status.warnings = self.warnings(database, &mode);
        status.journal_mode = Some(mode);
        status.identities = database
            .tables
            .values()
            .map(|captured| (captured.table.name.clone(), captured.table.identity))
            .collect();
        status.writes = if database.fence_closed { Writes::Closed } else { Writes::Open };
        status.synced = database.meta.synced;
        status.applied = database.meta.applied.map_or(Seq(0), |applied| applied.seq);
        self.note_log(&mut status)?;
        Ok(status)
    }

    fn warnings(&self, database: &Database, mode: &str) -> Vec<String> {
        let mut warnings = database.warnings.clone();
        warnings.extend(self.config.journaling.warning(mode));
        let nameless = self.dirty.nameless().filter_map(|t| database.tables.get(&t));
        for warning in nameless.map(|captured| null_key_warning(&captured.table.name)) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// What the log holds, and where that goes.
    fn note_log(&mut self, status: &mut DatabaseStatus) -> Result<(), Error> {
        status.log_used_percent = status.log.percent();
        status.log.forecast = self.reporter.gauge.forecast(Instant::now(), status.log_used_percent);
        status.last_seq = status.log.last;
        let queued = (status.last_seq.0 - self.acked.0).max(0);
        status.queue_records = queued.cast_unsigned();
        if queued > 0 {
            status.queued_ms = self.queued_ms()?;
        }
        status.lag_seconds = status.queued_ms.map_or(0.0, |(oldest, _)| age(oldest));
        Ok(())
    }

    /// When the first and the last change were made that the partner has not acknowledged.
    fn queued_ms(&self) -> Result<Option<(i64, i64)>, Error> {
        let Some(database) = &self.database else { return Ok(None) };
        log::span_behind(&database.reader, self.acked).at(&database.path)
    }
}

/// How long ago that was, in seconds.
fn age(unix_ms: i64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(unix_ms.max(0).cast_unsigned())).as_secs_f64()
}
