//! The comparison of two databases, as the primary leads it and the secondary answers.
//!
//! Decides which question comes next: ranges of 4096 rows, of 64 rows, keys, then versions of the
//! keys that differ. Must not know how a step is read from or written to SQLite's tables beyond
//! `scan`, nor how messages travel. One question at a time, so the worker stays responsive and
//! changes go on flowing between the steps.

mod ask;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{CompareStep, Differences, Key, RepairReport, TableReport},
    id::{DatabaseName, Seq},
};

use crate::{
    database::Database,
    error::{AtPath as _, Error},
    pace::{self, Pace},
    runs::Reached,
    scan::{self, Span},
    schema::Table,
    session::{Authorities, Authority},
    stamps::Stamps,
    status::RepairProgress,
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
/// Files up to this size are counted, for the time that is left.
const COUNTED_BYTES: u64 = 1 << 30;
/// How often the partner is told of the progress.
const TELL: Duration = Duration::from_millis(500);
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
    /// The same, counted from the beginning of this pass.
    rows_before_pass: u64,
    rows_pass: u64,
    /// Rows of all tables, where they could be counted.
    total: Option<u64>,
    counted: bool,
    pace: Pace,
    /// The last question moved whole rows.
    filling: bool,
    told_at: Option<Instant>,
    /// When records were written, in a first comparison.
    stamps: Option<Stamps>,
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
            rows_pass: 0,
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
            rows_before_pass: reached.rows_pass,
            rows_pass: reached.rows_pass,
            total: None,
            counted: false,
            pace: Pace::default(),
            filling: false,
            told_at: None,
            stamps: None,
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
            rows_pass: self.rows_before_pass,
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
        if !self.counted {
            self.counted = true;
            self.total = self.count(database)?;
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
            // Gathered over the spans of a question: one step and one transaction for many of them.
            let gathered = self.spans.is_empty() || self.keys.len() >= FIX_ROWS;
            if gathered && !self.keys.is_empty() {
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
                let descended = self.descend(database, &captured.table, span.clone(), mine, theirs);
                // What could not be read, as the file was locked, is read the next time.
                let question = descended.inspect_err(|_| self.spans.push((span, mine, theirs)))?;
                if let Some(question) = question {
                    return Ok(Next::Ask(question));
                }
                continue;
            }
            let Some(span) = self.level.take() else {
                self.current += 1;
                self.level = Some(Span::default());
                continue;
            };
            let asked = self.ask_large(database, &captured.table, span.clone());
            return asked.inspect_err(|_| self.level = Some(span)).map(Next::Ask);
        }
    }

    /// Rows of all tables. Counting reads the whole file, so not where that takes noticeable time.
    fn count(&self, database: &Database) -> Result<Option<u64>, Error> {
        let length = std::fs::metadata(&database.path).at(&database.path)?.len();
        // Nor where the reading would hold up the application's commits.
        if length > COUNTED_BYTES || database.keeps_rollback {
            return Ok(None);
        }
        let tables = self.tables.iter().filter_map(|name| database.table(name));
        let counts = tables.map(|captured| scan::count(&database.reader, &captured.table));
        counts.sum::<rusqlite::Result<u64>>().map(Some).at(&database.path)
    }

    /// What the partner is told of the progress, now and then.
    pub(crate) fn tell_progress(&mut self) -> Option<CompareStep> {
        let due = self.ready && self.told_at.is_none_or(|at| at.elapsed() >= TELL);
        due.then(|| {
            self.told_at = Some(Instant::now());
            let (pass, rows, total) = (self.pass, self.rows_before_pass, self.total);
            CompareStep::Progress { pass, rows, total }
        })
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
        (self.rows_pass, self.rows_before_pass) = (0, 0);
        self.pace.clear();
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
        let rate = self.pace.per_second(Instant::now());
        let left = self.total.map(|total| total.saturating_sub(self.rows_before_pass));
        RepairProgress {
            run: self.run,
            paused: false,
            rows_done: self.rows_before_pass,
            rows_total: self.total,
            rows_per_second: rate,
            seconds_left: left.and_then(|left| pace::seconds(left, rate)),
            stage: stage(self.ready, self.pass, self.apply, self.filling),
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

pub(crate) fn stage(ready: bool, pass: u32, apply: bool, filling: bool) -> &'static str {
    match (ready, pass, apply) {
        (false, ..) => "waiting for the queued changes",
        (true, ..) if filling => "filling what one side has nothing of",
        (true, 1, false) => "comparing",
        (true, 1, true) => "comparing and repairing",
        (true, ..) => "checking the repair",
    }
}
