//! The questions of the side that leads, read from the database.
//!
//! Decides how large each may be. Which one comes next is decided above.

use std::time::Instant;

use ipicsha_core::{
    data::{CompareStep, Key, PrimaryVersion, Range},
    id::Seq,
};

use super::{ANSWER_KEYS, Asked, FILL_ROWS, FIX_ROWS, LARGE, Leader, Next, QUESTION, SMALL};
use crate::{
    database::Database,
    error::{AtPath as _, Error},
    log::{BATCH_BYTES, read_row},
    rollback,
    scan::{self, Span},
    schema::Table,
    session::Authority,
    stamps::Stamps,
    value,
};

impl Leader {
    pub(super) fn ask_large(
        &mut self,
        database: &Database,
        table: &Table,
        span: Span,
    ) -> Result<CompareStep, Error> {
        self.reported.clear();
        // Everything before this place has been worked off.
        self.place = Some((self.current as u32, span.after.clone()));
        self.rows_before = self.rows_compared;
        self.rows_before_pass = self.rows_pass;
        self.filling = false;
        self.pace.note(Instant::now(), self.rows_pass);
        let limit = if database.keeps_rollback { rollback::QUESTION } else { QUESTION };
        let ranges = database
            .snapshot(|db| scan::ranges(db, table, &span, LARGE, limit).at(&database.path))?;
        let end = ranges.last().and_then(|range| range.upto.clone());
        self.level = end.map(|end| Span { after: Some(end), upto: None });
        let rows: u64 = ranges.iter().map(|range| range.count).sum();
        self.rows_since += rows;
        self.rows_pass += rows;
        if self.pass == 1 {
            self.rows_compared += rows;
        }
        Ok(self.ask_ranges(span.after, ranges))
    }

    fn ask_ranges(&mut self, after: Option<Key>, ranges: Vec<Range>) -> CompareStep {
        let mut from = after.clone();
        let spans = ranges.iter().map(|range| {
            let after = std::mem::replace(&mut from, range.upto.clone());
            (Span { after, upto: range.upto.clone() }, range.count)
        });
        self.asked = Asked::Ranges(spans.collect());
        CompareStep::Ranges { table: self.current as u32, after, ranges }
    }

    /// A span that differs: cut it, list it, or take all its keys when one side has none.
    pub(super) fn descend(
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
            (self.asked, self.filling) = (Asked::Fetch(span), true);
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
    pub(super) fn fills(&self, mine: u64, theirs: u64) -> bool {
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
        (self.asked, self.filling) = (Asked::Fix, true);
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

    pub(super) fn ask_fix(&mut self, database: &Database, table: &Table) -> Result<Next, Error> {
        let captured = database.table(&table.name);
        let captured = captured.ok_or(Error::Mismatch("a table that is not replicated here"))?;
        let authority = self.authorities.get(&table.name).copied();
        if self.initial && authority.is_none() && self.stamps.is_none() {
            self.stamps = Some(Stamps::read(database)?);
        }
        let stamps = self.stamps.as_ref().filter(|_| authority.is_none());
        let apply = self.apply;
        let rows = database.snapshot(|db| {
            let mut rows = Vec::new();
            let mut bytes = 0;
            for (key, refused) in self.keys.iter().take(FIX_ROWS) {
                if bytes >= BATCH_BYTES {
                    break;
                }
                let version = match read_row(db, captured, key).at(&database.path)? {
                    _ if *refused => PrimaryVersion::Refused,
                    // The partner tells what it has.
                    _ if authority == Some(Authority::Theirs) => PrimaryVersion::Absent,
                    None if authority == Some(Authority::Mine) => PrimaryVersion::Refused,
                    None => PrimaryVersion::Absent,
                    Some(columns) if apply => {
                        let record = (captured.t, table.identity_of(key));
                        match stamps.and_then(|stamps| stamps.of(&record)) {
                            Some(wall) => PrimaryVersion::Dated { columns, wall },
                            None => PrimaryVersion::Contents(columns),
                        }
                    }
                    Some(columns) => PrimaryVersion::Hash(value::hash_row(&columns)),
                };
                if let PrimaryVersion::Contents(columns) | PrimaryVersion::Dated { columns, .. } =
                    &version
                {
                    bytes += scan::size(columns);
                }
                rows.push((key.clone(), version));
            }
            Ok(rows)
        })?;
        self.keys.drain(..rows.len());
        self.asked = Asked::Fix;
        let base = database.meta.applied.map_or(Seq(0), |applied| applied.seq);
        Ok(Next::Ask(CompareStep::Fix { table: self.current as u32, base, rows }))
    }
}
