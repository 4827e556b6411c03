//! The comparison of two databases, as the primary leads it and the secondary answers.
//!
//! Decides which question comes next: ranges of 4096 rows, of 64 rows, keys, then versions of the
//! keys that differ. Must not know how a step is read from or written to SQLite's tables beyond
//! `scan`, nor how messages travel. One question at a time, so the worker stays responsive and
//! changes go on flowing between the steps.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{CompareStep, Differences, Key, PrimaryVersion, RepairReport, TableReport},
    id::{DatabaseName, Seq},
};

use crate::{
    database::Database,
    error::{AtPath as _, Error},
    log::{BATCH_BYTES, read_row},
    rollback,
    runs::Reached,
    scan::{self, Span},
    schema::Table,
    session::{Authorities, Authority},
    status::RepairProgress,
    value,
};

const LARGE: u64 = 4096;
const SMALL: u64 = 64;
/// Large ranges in one question.
const QUESTION: usize = 8;
/// Versions in one step.
const FIX_ROWS: usize = 500;
/// Rows in one step where the other side has none.
pub(crate) const FILL_ROWS: usize = 10_000;
/// Keys in one answer.
pub(crate) const ANSWER_KEYS: usize = 2000;
/// How far a comparison is gets remembered after so many rows, or so much time.
const SAVE_ROWS: u64 = 16_384;
const SAVE: Duration = Duration::from_secs(1);
/// How often everything is compared until nothing differs.
const PASSES: u32 = 5;
/// How long both logs may take to drain before the comparison begins.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

/// What the leader wants to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Ask this.
    Ask(CompareStep),
    /// Nothing until an answer comes or the log is drained.
    Wait,
    /// Finished.
    Done(RepairReport),
}

/// The primary's side.
pub(crate) struct Leader {
    pub(crate) run: u64,
    pub(crate) apply: bool,
    pub(crate) initial: bool,
    name: DatabaseName,
    tables: Vec<String>,
    /// Own log position that has to be acknowledged first.
    mark: Seq,
    deadline: Instant,
    asked: Asked,
    begun: bool,
    ready: bool,
    pass: u32,
    pass_found: u64,
    current: usize,
    /// Where the large ranges of the current table go on; `None`: they are through.
    level: Option<Span>,
    spans: Vec<(Span, u64, u64)>,
    keys: VecDeque<(Key, bool)>,
    /// Keys reported since the last question about large ranges.
    reported: HashSet<Arc<[u8]>>,
    authorities: Authorities,
    reports: Vec<Differences>,
    remaining: Vec<u64>,
    rows_compared: u64,
    /// Table and key before which everything is done, with the rows compared up to there.
    place: Option<(u32, Option<Key>)>,
    rows_before: u64,
    /// Rows compared since a place was last remembered, and when that was.
    rows_since: u64,
    saved_at: Instant,
}

/// What is to be compared.
pub(crate) struct Plan {
    pub(crate) run: u64,
    pub(crate) apply: bool,
    pub(crate) initial: bool,
    pub(crate) tables: Vec<String>,
    /// Own log position that has to be acknowledged first.
    pub(crate) mark: Seq,
    pub(crate) authorities: Authorities,
}

/// The question that is being answered.
enum Asked {
    Nothing,
    Begin,
    Ranges(Vec<(Span, u64)>),
    Rows(Span),
    Fetch(Span),
    Fix,
}

impl Leader {
    /// A comparison that begins, or goes on where an earlier attempt was.
    pub(crate) fn new(name: DatabaseName, plan: Plan, reached: Option<Reached>) -> Self {
        let Plan { run, apply, initial, tables, mark, authorities } = plan;
        let count = tables.len();
        let reached = reached.filter(|r| r.reports.len() == count && r.remaining.len() == count);
        let reached = reached.unwrap_or_else(|| Reached {
            pass: 1,
            pass_found: 0,
            table: 0,
            after: None,
            reports: vec![Differences::default(); count],
            remaining: vec![0; count],
            rows_compared: 0,
        });
        Self {
            run,
            apply,
            initial,
            name,
            mark,
            deadline: Instant::now() + DRAIN,
            asked: Asked::Nothing,
            begun: false,
            ready: false,
            pass: reached.pass,
            pass_found: reached.pass_found,
            current: reached.table as usize,
            level: Some(Span { after: reached.after, upto: None }),
            spans: Vec::new(),
            keys: VecDeque::new(),
            reported: HashSet::new(),
            authorities,
            reports: reached.reports,
            remaining: reached.remaining,
            rows_compared: reached.rows_compared,
            place: None,
            rows_before: reached.rows_compared,
            rows_since: 0,
            saved_at: Instant::now(),
            tables,
        }
    }

    /// The tables, the index of the one that is being compared, and the key before which it is done;
    /// in later passes all are.
    pub(crate) fn done(&self) -> Option<(Vec<String>, usize, Option<Key>)> {
        if self.pass > 1 {
            return Some((self.tables.clone(), self.tables.len(), None));
        }
        let (table, after) = self.place.clone()?;
        Some((self.tables.clone(), table as usize, after))
    }

    /// How far it is, when that is worth remembering.
    pub(crate) fn take_reached(&mut self) -> Option<Reached> {
        let due = self.rows_since >= SAVE_ROWS || self.saved_at.elapsed() >= SAVE;
        let (table, after) = self.place.take_if(|_| due)?;
        (self.rows_since, self.saved_at) = (0, Instant::now());
        Some(Reached {
            pass: self.pass,
            pass_found: self.pass_found,
            table,
            after,
            reports: self.reports.clone(),
            remaining: self.remaining.clone(),
            rows_compared: self.rows_before,
        })
    }

    /// The table the next fix is about.
    pub(crate) fn table(&self) -> Option<&str> {
        self.tables.get(self.current).map(String::as_str)
    }

    /// Whether the partner's contents of this table count as a whole.
    pub(crate) fn yields(&self, table: &str) -> bool {
        self.authorities.get(table) == Some(&Authority::Theirs)
    }

    /// The next question. `acked` is how far the partner has our log, `flushed` whether everything
    /// written so far has been sent: versions must not overtake the changes they came from.
    pub(crate) fn next(
        &mut self,
        database: &Database,
        acked: Seq,
        flushed: bool,
    ) -> Result<Next, Error> {
        if !matches!(self.asked, Asked::Nothing) {
            return Ok(Next::Wait);
        }
        if !self.begun {
            self.begun = true;
            self.asked = Asked::Begin;
            let (apply, initial) = (self.apply, self.initial);
            return Ok(Next::Ask(CompareStep::Begin {
                apply,
                initial,
                tables: self.tables.clone(),
            }));
        }
        let drained = acked >= self.mark || Instant::now() >= self.deadline;
        if !self.ready || !drained {
            return Ok(Next::Wait);
        }
        loop {
            let Some(name) = self.table().map(str::to_owned) else {
                match self.end_of_pass() {
                    Some(report) => return Ok(Next::Done(report)),
                    None => continue,
                }
            };
            let captured = database
                .table(&name)
                .ok_or_else(|| Error::Interrupted(format!("table {name} has gone")))?;
            if !self.keys.is_empty() {
                return if flushed {
                    self.ask_fix(database, &captured.table)
                } else {
                    Ok(Next::Wait)
                };
            }
            if let Some((span, mine, theirs)) = self.spans.pop() {
                if self.fills(mine, theirs) && !flushed {
                    self.spans.push((span, mine, theirs));
                    return Ok(Next::Wait);
                }
                if let Some(question) =
                    self.descend(database, &captured.table, span, mine, theirs)?
                {
                    return Ok(Next::Ask(question));
                }
                continue;
            }
            let Some(span) = self.level.take() else {
                self.current += 1;
                self.level = Some(Span::default());
                continue;
            };
            return self.ask_large(database, &captured.table, span).map(Next::Ask);
        }
    }

    fn ask_large(
        &mut self,
        database: &Database,
        table: &Table,
        span: Span,
    ) -> Result<CompareStep, Error> {
        self.reported.clear();
        // Everything before this place has been worked off.
        self.place = Some((self.current as u32, span.after.clone()));
        self.rows_before = self.rows_compared;
        let limit = if database.keeps_rollback { rollback::QUESTION } else { QUESTION };
        let ranges = database
            .snapshot(|db| scan::ranges(db, table, &span, LARGE, limit).at(&database.path))?;
        let end = ranges.last().and_then(|range| range.upto.clone());
        self.level = end.map(|end| Span { after: Some(end), upto: None });
        let rows: u64 = ranges.iter().map(|range| range.count).sum();
        self.rows_since += rows;
        if self.pass == 1 {
            self.rows_compared += rows;
        }
        Ok(self.ask_ranges(span.after, ranges))
    }

    fn ask_ranges(
        &mut self,
        after: Option<Key>,
        ranges: Vec<ipicsha_core::data::Range>,
    ) -> CompareStep {
        let mut from = after.clone();
        let spans = ranges.iter().map(|range| {
            let after = std::mem::replace(&mut from, range.upto.clone());
            (Span { after, upto: range.upto.clone() }, range.count)
        });
        self.asked = Asked::Ranges(spans.collect());
        CompareStep::Ranges { table: self.current as u32, after, ranges }
    }

    /// A span that differs: cut it, list it, or take all its keys when one side has none.
    fn descend(
        &mut self,
        database: &Database,
        table: &Table,
        span: Span,
        mine: u64,
        theirs: u64,
    ) -> Result<Option<CompareStep>, Error> {
        if self.fills(mine, theirs) {
            return self.ask_fill(database, table, span, mine);
        }
        // Where one side's contents count, what only the other has is removed.
        if self.apply && mine == 0 && !self.authorities.contains_key(&table.name) {
            let (after, upto) = (span.after.clone(), span.upto.clone());
            self.asked = Asked::Fetch(span);
            return Ok(Some(CompareStep::Fetch { table: self.current as u32, after, upto }));
        }
        let at = |result: rusqlite::Result<_>| result.at(&database.path);
        if theirs == 0 {
            let keys = at(scan::keys(&database.reader, table, &span, LARGE as usize))?;
            if keys.len() as u64 >= LARGE {
                let after = keys.last().cloned();
                self.spans.push((Span { after, upto: span.upto }, LARGE, 0));
            }
            self.keys.extend(keys.into_iter().map(|key| (key, false)));
            return Ok(None);
        }
        if mine > SMALL {
            let ranges = database.snapshot(|db| {
                scan::ranges(db, table, &span, SMALL, usize::MAX).at(&database.path)
            })?;
            return Ok(Some(self.ask_ranges(span.after, ranges)));
        }
        self.ask_rows(database, table, span).map(Some)
    }

    /// Whether rows go over as they are: the partner has none, and ours are to be there.
    fn fills(&self, mine: u64, theirs: u64) -> bool {
        let theirs_count = self.table().is_some_and(|table| self.yields(table));
        self.apply && theirs == 0 && mine > 0 && !theirs_count
    }

    fn ask_fill(
        &mut self,
        database: &Database,
        table: &Table,
        span: Span,
        mine: u64,
    ) -> Result<Option<CompareStep>, Error> {
        let base = database.meta.applied.map_or(Seq(0), |applied| applied.seq);
        let part = database.snapshot(|db| {
            scan::contents(db, table, &span, FILL_ROWS, BATCH_BYTES).at(&database.path)
        })?;
        if part.more {
            let after = part.rows.last().map(|row| table.key_of(row));
            let left = mine.saturating_sub(part.rows.len() as u64).max(1);
            self.spans.push((Span { after, upto: span.upto }, left, 0));
        }
        if part.rows.is_empty() {
            return Ok(None);
        }
        self.asked = Asked::Fix;
        Ok(Some(CompareStep::Fill { table: self.current as u32, base, rows: part.rows }))
    }

    fn ask_rows(
        &mut self,
        database: &Database,
        table: &Table,
        span: Span,
    ) -> Result<CompareStep, Error> {
        // A little more than asked for: rows may have been added since the range was cut.
        let limit = ANSWER_KEYS;
        let rows = scan::rows(&database.reader, table, &span, limit).at(&database.path)?;
        let mut upto = span.upto.clone();
        if rows.len() == limit {
            upto = rows.last().map(|(key, _)| key.clone());
            self.spans.push((Span { after: upto.clone(), upto: span.upto }, 1, 1));
        }
        let asked = Span { after: span.after, upto };
        self.asked = Asked::Rows(asked.clone());
        Ok(CompareStep::Rows {
            table: self.current as u32,
            after: asked.after,
            upto: asked.upto,
            rows,
        })
    }

    fn ask_fix(&mut self, database: &Database, table: &Table) -> Result<Next, Error> {
        let captured = database.table(&table.name);
        let captured = captured.ok_or(Error::Mismatch("a table that is not replicated here"))?;
        let authority = self.authorities.get(&table.name).copied();
        let (keys, apply) = (&mut self.keys, self.apply);
        let rows = database.snapshot(|db| {
            let mut rows = Vec::new();
            let mut bytes = 0;
            while rows.len() < FIX_ROWS && bytes < BATCH_BYTES {
                let Some((key, refused)) = keys.pop_front() else { break };
                let version = match read_row(db, captured, &key).at(&database.path)? {
                    _ if refused => PrimaryVersion::Refused,
                    // The partner tells what it has.
                    _ if authority == Some(Authority::Theirs) => PrimaryVersion::Absent,
                    None if authority == Some(Authority::Mine) => PrimaryVersion::Refused,
                    None => PrimaryVersion::Absent,
                    Some(columns) if apply => PrimaryVersion::Contents(columns),
                    Some(columns) => PrimaryVersion::Hash(value::hash_row(&columns)),
                };
                if let PrimaryVersion::Contents(columns) = &version {
                    bytes += scan::size(columns);
                }
                rows.push((key, version));
            }
            Ok(rows)
        })?;
        self.asked = Asked::Fix;
        let base = database.meta.applied.map_or(Seq(0), |applied| applied.seq);
        Ok(Next::Ask(CompareStep::Fix { table: self.current as u32, base, rows }))
    }

    /// Takes the answer to `Begin`.
    pub(crate) fn take_ready(&mut self) {
        if matches!(self.asked, Asked::Begin) {
            self.asked = Asked::Nothing;
            self.ready = true;
        }
    }

    /// Takes the answer to `Ranges`.
    pub(crate) fn take_ranges(&mut self, differing: &[(u32, u64)]) -> Result<(), Error> {
        let Asked::Ranges(spans) = std::mem::replace(&mut self.asked, Asked::Nothing) else {
            return Err(Error::Mismatch("an answer nobody asked for"));
        };
        let mut found: Vec<(Span, u64, u64)> = Vec::new();
        for (index, theirs) in differing {
            let (span, mine) = spans
                .get(*index as usize)
                .ok_or(Error::Mismatch("an answer about an unknown range"))?;
            match found.last_mut() {
                // Empty ones that adjoin are filled as one.
                Some((before, count, 0)) if *theirs == 0 && before.upto == span.after => {
                    before.upto.clone_from(&span.upto);
                    *count += mine;
                }
                Some(_) | None => found.push((span.clone(), *mine, *theirs)),
            }
        }
        // The stack is worked off from its end: keep the order of keys.
        self.spans.extend(found.into_iter().rev());
        Ok(())
    }

    /// Takes the answer to `Rows`.
    pub(crate) fn take_keys(&mut self, keys: Vec<Key>, table: &Table) -> Result<(), Error> {
        let Asked::Rows(span) = std::mem::replace(&mut self.asked, Asked::Nothing) else {
            return Err(Error::Mismatch("an answer nobody asked for"));
        };
        // A full answer may be cut short: ask again for what lies behind its last own key.
        if keys.len() >= ANSWER_KEYS {
            let after = keys.last().cloned();
            self.spans.push((Span { after, upto: span.upto }, 1, 1));
        }
        for key in keys {
            if self.reported.insert(table.identity_of(&key)) {
                self.keys.push_back((key, false));
            }
        }
        Ok(())
    }

    /// Takes the answer to `Fetch`: how many rows were new here, whether `more` lie behind `last`,
    /// and the keys of those this server could not take.
    pub(crate) fn take_fetched(
        &mut self,
        new: u64,
        last: Option<Key>,
        more: bool,
        refused: Vec<Key>,
    ) -> Result<(), Error> {
        let Asked::Fetch(span) = std::mem::replace(&mut self.asked, Asked::Nothing) else {
            return Err(Error::Mismatch("an answer nobody asked for"));
        };
        if more && last.is_some() {
            self.spans.push((Span { after: last, upto: span.upto }, 0, 1));
        }
        let found = Differences { only_secondary: new, ..Differences::default() };
        self.take_fixed(&found, refused);
        Ok(())
    }

    /// Takes the answer to `Fix` or `Fill`, with the keys of copies this server could not take.
    pub(crate) fn take_fixed(&mut self, found: &Differences, refused: Vec<Key>) {
        self.asked = Asked::Nothing;
        let count = found.only_primary + found.only_secondary + found.differing;
        self.pass_found += count;
        if let Some(report) = self.reports.get_mut(self.current) {
            if self.pass == 1 {
                report.only_primary += found.only_primary;
                report.only_secondary += found.only_secondary;
                report.differing += found.differing;
            }
            report.journaled += found.journaled;
            self.remaining[self.current] += count;
        }
        self.keys.extend(refused.into_iter().map(|key| (key, true)));
    }

    /// `None`: another pass begins.
    fn end_of_pass(&mut self) -> Option<RepairReport> {
        let another = self.apply && self.pass_found > 0 && self.pass < PASSES;
        if !another {
            return Some(self.report());
        }
        self.pass += 1;
        self.pass_found = 0;
        self.current = 0;
        self.remaining.fill(0);
        None
    }

    fn report(&self) -> RepairReport {
        let tables = self.tables.iter().zip(&self.reports).zip(&self.remaining);
        RepairReport {
            database: self.name.clone(),
            tables: tables
                .map(|((table, differences), remaining)| TableReport {
                    table: table.clone(),
                    differences: Differences { remaining: *remaining, ..differences.clone() },
                })
                .collect(),
            passes: self.pass,
            rows_compared: self.rows_compared,
            applied: self.apply,
        }
    }

    /// What the status shows.
    pub(crate) fn progress(&self) -> RepairProgress {
        RepairProgress {
            run: self.run,
            paused: false,
            stage: stage(self.ready, self.pass, self.apply),
            table: self.table().map(str::to_owned),
            tables_done: self.current as u32,
            tables_total: self.tables.len() as u32,
            rows_compared: self.rows_compared,
            differences: self
                .reports
                .iter()
                .map(|d| d.only_primary + d.only_secondary + d.differing)
                .sum(),
        }
    }
}

pub(crate) fn stage(ready: bool, pass: u32, apply: bool) -> &'static str {
    match (ready, pass, apply) {
        (false, ..) => "waiting for the queued changes",
        (true, 1, false) => "comparing",
        (true, 1, true) => "comparing and repairing",
        (true, ..) => "checking the repair",
    }
}
