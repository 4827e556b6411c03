//! The secondary's side of a comparison.
//!
//! Decides nothing but what differs: which question comes next is the primary's business, what
//! happens to rows that of `repair`.

use std::{collections::HashMap, sync::Arc, time::Instant};

use ipicsha_core::{
    data::{BriefHash, CompareStep, Differences, Key, Range},
    id::Seq,
};

use crate::{
    compare::{ANSWER_KEYS, DRAIN, FILL_ROWS, stage},
    database::Database,
    error::{AtPath as _, Error},
    log::{BATCH_BYTES, read_row},
    pace::{self, Pace},
    scan::{self, Span},
    schema::Table,
    session::Authorities,
    stamps::Stamps,
    status::RepairProgress,
};

/// The secondary's side.
pub(crate) struct Follower {
    pub(crate) run: u64,
    pub(crate) apply: bool,
    pub(crate) initial: bool,
    pub(crate) tables: Vec<String>,
    pub(crate) authorities: Authorities,
    mark: Seq,
    deadline: Instant,
    ready: bool,
    current: u32,
    rows_compared: u64,
    differences: u64,
    /// As the primary tells it.
    pass: u32,
    rows_done: u64,
    total: Option<u64>,
    pace: Pace,
    /// The last question moved whole rows.
    filling: bool,
    /// When records were written, in a first comparison.
    stamps: Option<Arc<Stamps>>,
}

impl Follower {
    /// Answers comparison `run`, once the own log is acknowledged up to `mark`.
    pub(crate) fn new(
        run: u64,
        apply: bool,
        initial: bool,
        tables: Vec<String>,
        mark: Seq,
        authorities: Authorities,
    ) -> Self {
        Self {
            run,
            apply,
            initial,
            tables,
            authorities,
            mark,
            deadline: Instant::now() + DRAIN,
            ready: false,
            current: 0,
            rows_compared: 0,
            differences: 0,
            pass: 1,
            rows_done: 0,
            total: None,
            pace: Pace::default(),
            filling: false,
            stamps: None,
        }
    }

    /// When records of this server were written, where that decides.
    pub(crate) fn stamps(&mut self, database: &Database) -> Result<Option<Arc<Stamps>>, Error> {
        if self.initial && self.stamps.is_none() {
            self.stamps = Some(Arc::new(Stamps::read(database)?));
        }
        Ok(self.stamps.clone())
    }

    /// The primary tells how far it is.
    pub(crate) fn note_progress(&mut self, pass: u32, rows: u64, total: Option<u64>) {
        (self.pass, self.rows_done, self.total) = (pass, rows, total);
        self.pace.note(Instant::now(), rows);
    }

    /// The question moves whole rows, or it does not.
    pub(crate) fn note_filling(&mut self, filling: bool) {
        self.filling = filling;
    }

    /// `Ready`, once.
    pub(crate) fn next(&mut self, acked: Seq) -> Option<CompareStep> {
        let now = !self.ready && (acked >= self.mark || Instant::now() >= self.deadline);
        self.ready |= now;
        now.then_some(CompareStep::Ready)
    }

    /// Index of the table of the last question.
    pub(crate) fn current(&self) -> u32 {
        self.current
    }

    /// Name of the table with this index.
    pub(crate) fn table(&mut self, index: u32) -> Result<String, Error> {
        self.current = index;
        self.tables
            .get(index as usize)
            .cloned()
            .ok_or(Error::Mismatch("a comparison of an unknown table"))
    }

    /// Notes what a step has found.
    pub(crate) fn note(&mut self, found: &Differences) {
        self.differences += found.only_primary + found.only_secondary + found.differing;
    }

    /// Answers `Ranges`.
    pub(crate) fn ranges(
        &mut self,
        database: &Database,
        table: &Table,
        after: Option<Key>,
        ranges: Vec<Range>,
    ) -> Result<CompareStep, Error> {
        let mut differing = Vec::new();
        let mut after = after;
        database.snapshot(|db| {
            for (index, range) in ranges.into_iter().enumerate() {
                let span = Span { after: after.take(), upto: range.upto };
                let (count, hash) = scan::digest(db, table, &span).at(&database.path)?;
                self.rows_compared += count;
                if (count, hash) != (range.count, range.hash) {
                    differing.push((index as u32, count));
                }
                after = span.upto;
            }
            Ok(())
        })?;
        Ok(CompareStep::DifferingRanges(differing))
    }

    /// Answers `Rows`: own keys in order, at most `ANSWER_KEYS`, behind those only the primary has.
    pub(crate) fn rows(
        database: &Database,
        table: &Table,
        span: &Span,
        theirs: Vec<(Key, BriefHash)>,
    ) -> Result<CompareStep, Error> {
        let captured = database.table(&table.name);
        let captured = captured.ok_or(Error::Mismatch("a table that is not replicated here"))?;
        let mut theirs: HashMap<Arc<[u8]>, (Key, BriefHash)> =
            theirs.into_iter().map(|row| (table.identity_of(&row.0), row)).collect();
        database.snapshot(|db| {
            let own = scan::rows(db, table, span, ANSWER_KEYS).at(&database.path)?;
            let full = own.len() >= ANSWER_KEYS;
            let mut keys = Vec::new();
            let mut own_keys = Vec::new();
            for (key, hash) in own {
                let same = theirs.remove(&table.identity_of(&key)).is_some_and(|row| row.1 == hash);
                // A cut answer ends with the key to go on behind, even if that row is equal.
                if !same || full {
                    own_keys.push(key);
                }
            }
            for (_, (key, _)) in theirs {
                if read_row(db, captured, &key).at(&database.path)?.is_none() {
                    keys.push(key);
                }
            }
            keys.append(&mut own_keys);
            Ok(CompareStep::DifferingKeys(keys))
        })
    }

    /// Answers `Fetch`: own rows of one span, as many as fit into a message.
    pub(crate) fn fetched(
        database: &Database,
        table: &Table,
        span: &Span,
    ) -> Result<CompareStep, Error> {
        let base = database.meta.applied.map_or(Seq(0), |applied| applied.seq);
        let part = database.snapshot(|db| {
            scan::contents(db, table, span, FILL_ROWS, BATCH_BYTES).at(&database.path)
        })?;
        Ok(CompareStep::Fetched { base, rows: part.rows, more: part.more })
    }

    /// What the status shows.
    pub(crate) fn progress(&self) -> RepairProgress {
        let rate = self.pace.per_second(Instant::now());
        let left = self.total.map(|total| total.saturating_sub(self.rows_done));
        RepairProgress {
            run: self.run,
            paused: false,
            rows_done: self.rows_done,
            rows_total: self.total,
            rows_per_second: rate,
            seconds_left: left.and_then(|left| pace::seconds(left, rate)),
            stage: stage(self.ready, self.pass, self.apply, self.filling),
            table: self.tables.get(self.current as usize).cloned(),
            tables_done: self.current,
            tables_total: self.tables.len() as u32,
            rows_compared: self.rows_compared,
            differences: self.differences,
        }
    }
}
