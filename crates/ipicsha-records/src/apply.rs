//! Applies what the partner sent: in one transaction, exactly once, losers journaled first.
//!
//! Decides per record by the core's last-writer-wins rule whether the incoming version is taken.
//! Must not know connections, batching or repair order. Writes go through a connection without
//! triggers; how they collide with UNIQUE rules is the business of `place`.

use std::time::{Duration, Instant};

use ipicsha_core::{
    data::{Applied, Batch, Change, Follows, Key, Value},
    id::{DatabaseName, Seq},
    license::LicensedRole,
    lww::{self, Decision, Own, Stamp},
};

use crate::{
    capture::{self, Captured, Meta},
    database::Database,
    error::{AtPath as _, Error},
    fault::{self, Mutant, Step},
    journal::{Journal, JournalKind, Loser},
    log::{Dirty, Record, read_row, supersede},
    place::{self, Rule, Write},
    received::Received,
    schema::Table,
    sequence,
};

/// What every application of changes needs beside the database.
pub(crate) struct Setting<'a> {
    pub(crate) name: &'a DatabaseName,
    /// This server's licensed role.
    pub(crate) role: LicensedRole,
    pub(crate) journal: &'a mut Journal,
    /// How long the write lock is waited for.
    pub(crate) patience: Duration,
    pub(crate) dirty: &'a mut Dirty,
    /// What came from the partner since the initial comparison began; `None` once it is done. Until
    /// then a record can differ without a log entry saying so, so what is overwritten for the
    /// first time is kept.
    pub(crate) received: Option<&'a mut Received>,
}

impl Setting<'_> {
    /// Remembers what came from the partner.
    pub(crate) fn note_received(&mut self, records: Vec<Record>) {
        if let Some(received) = &mut self.received {
            received.extend(records);
        }
    }
}

/// What became of one step.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// So many of the batches are applied as a whole.
    pub(crate) finished: usize,
    pub(crate) losers: Vec<Loser>,
}

/// How long one transaction goes on taking series: larger ones write each page of the file once,
/// but the worker answers nobody meanwhile.
const LONGEST: Duration = Duration::from_millis(250);

/// Applies batches, which end with that of a series, in one transaction; of the last one up to `limit` rows
/// that are not applied yet. Where versions can be concurrent only the first series is taken: what it
/// decides must be stored before the next one is judged. The caller makes it durable before it tells the
/// partner.
pub(crate) fn apply_batches<'a>(
    database: &mut Database,
    setting: &mut Setting<'_>,
    batches: impl IntoIterator<Item = &'a Batch>,
    limit: usize,
) -> Result<Outcome, Error> {
    let started = Instant::now();
    let done = database.transaction_unsynced(setting.patience, |database| {
        setting.dirty.refresh(&database.writer, database)?;
        let one_sided = setting.dirty.is_empty() && setting.received.is_none();
        let mut done = Done::new(database.meta);
        for batch in batches {
            let whole = done.add(database, setting, batch, limit)?;
            done.finished += usize::from(whole);
            let within = batch.follows == Follows::AtOnce;
            if !whole || !within && (!one_sided || started.elapsed() >= LONGEST) {
                break;
            }
        }
        done.keep_displaced(database)?;
        fault::crash_at(Step::Written)?;
        for (_, seq) in done.superseded.iter().filter(|_| !forgets()) {
            supersede(&database.writer, *seq).at(&database.path)?;
        }
        if !done.losers.is_empty() {
            setting.journal.store(setting.name, &done.losers)?;
        }
        fault::crash_at(Step::Journaled)?;
        if !fault::is(Mutant::PointerApart) {
            capture::write_meta(&database.writer, &done.meta).at(&database.path)?;
        }
        Ok(done)
    })?;
    fault::crash_at(Step::Committed)?;
    if fault::is(Mutant::PointerApart) {
        capture::write_meta(&database.writer, &done.meta).at(&database.path)?;
    }
    database.meta = done.meta;
    done.superseded
        .iter()
        .filter(|_| !fault::is(Mutant::SupersededSent))
        .for_each(|(record, _)| setting.dirty.remove(record));
    setting.note_received(done.seen);
    Ok(Outcome { finished: done.finished, losers: done.losers })
}

/// What one transaction has done so far.
struct Done {
    meta: Meta,
    finished: usize,
    losers: Vec<Loser>,
    /// Records that were taken out because their new versions come later in the same series.
    displaced: Vec<Loser>,
    superseded: Vec<(Record, Seq)>,
    seen: Vec<Record>,
}

impl Done {
    fn new(meta: Meta) -> Self {
        Self {
            meta,
            finished: 0,
            losers: Vec::new(),
            displaced: Vec::new(),
            superseded: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// The transaction ends within a series, and the rest of it may never come: what is neither in its old
    /// place nor in its new one is kept.
    fn keep_displaced(&mut self, database: &Database) -> Result<(), Error> {
        for loser in self.displaced.drain(..) {
            let captured = database.table(&loser.table);
            let captured =
                captured.ok_or(Error::Mismatch("a table that is not replicated here"))?;
            if read_row(&database.writer, captured, &loser.key).at(&database.path)?.is_none() {
                self.losers.push(loser);
            }
        }
        Ok(())
    }

    /// Applies up to `limit` rows of one batch; `false`: rows are left.
    fn add(
        &mut self,
        database: &Database,
        setting: &Setting<'_>,
        batch: &Batch,
        limit: usize,
    ) -> Result<bool, Error> {
        let applied = check(&self.meta, batch)?;
        if batch.to <= applied.seq {
            return Ok(true);
        }
        let mut due = batch.rows.iter().filter(|row| row.seq > applied.seq);
        let rows: Vec<_> = due.by_ref().take(limit).collect();
        let whole = due.next().is_none();
        let (to, wall) = match rows.last() {
            Some(last) if !whole => (last.seq, Some(last.wall)),
            Some(_) | None => (batch.to, batch.to_wall),
        };
        let mut verdicts = Verdicts::default();
        for row in rows {
            let captured = table_of(database, batch, row.table)?;
            let (key, columns) = key_and_columns(&row.change, &captured.table)?;
            let stamp = Stamp { wall: row.wall, role: setting.role.other() };
            let write = Write::new(captured, key, columns, stamp, row.seq);
            verdicts.judge(database, setting, batch, write)?;
        }
        let Verdicts { writes, losers, superseded, seen } = verdicts;
        let rule = Rule::LastWriter {
            dirty: setting.dirty,
            base: batch.base,
            role: setting.role,
            partner: batch.origin,
            keep_overwritten: setting.received.is_some(),
        };
        self.losers.extend(losers);
        let placed = place::execute(database, &writes, &rule)?;
        self.losers.extend(placed.losers);
        self.displaced.extend(placed.displaced);
        if whole && batch.follows == Follows::Nothing {
            // All of them have come, or are gone at the partner, too.
            self.displaced.clear();
        }
        raise_sequences(database, batch)?;
        self.superseded.extend(superseded);
        if setting.received.is_some() {
            self.seen.extend(seen);
        }
        self.meta.applied = Some(Applied { seq: to, wall, ..applied });
        self.meta.partner_base = self.meta.partner_base.max(batch.base);
        Ok(whole)
    }
}

/// What a change is about; its shape must be the table's.
fn key_and_columns<'a>(
    change: &'a Change,
    table: &Table,
) -> Result<(Key, Option<&'a [Value]>), Error> {
    match change {
        Change::Upsert(columns) if columns.len() == table.columns.len() => {
            Ok((table.key_of(columns), Some(columns.as_slice())))
        }
        Change::Delete(key) if key.len() == table.key.len() => Ok((key.clone(), None)),
        Change::Upsert(_) | Change::Delete(_) => {
            Err(Error::Mismatch("a row has another number of columns"))
        }
    }
}

/// Ids that AUTOINCREMENT gave out at the partner are not given out again here.
fn raise_sequences(database: &Database, batch: &Batch) -> Result<(), Error> {
    for (index, last) in &batch.sequences {
        let captured = table_of(database, batch, *index)?;
        if captured.table.autoincrement {
            sequence::rise(&database.writer, &captured.table.name, *last).at(&database.path)?;
        }
    }
    Ok(())
}

fn forgets() -> bool {
    fault::is(Mutant::SupersededSent) || fault::is(Mutant::SupersededForgotten)
}

/// The position the batch must continue.
fn check(meta: &Meta, batch: &Batch) -> Result<Applied, Error> {
    match meta.applied {
        Some(applied) if applied.origin != batch.origin => {
            Err(Error::Mismatch("a batch of another history"))
        }
        Some(applied) if batch.from > applied.seq && !fault::is(Mutant::GapAccepted) => {
            Err(Error::Mismatch("changes before the batch are missing"))
        }
        Some(applied) => Ok(applied),
        None => Err(Error::Mismatch("a batch before the positions were agreed")),
    }
}

fn table_of<'a>(database: &'a Database, batch: &Batch, index: u32) -> Result<&'a Captured, Error> {
    batch
        .tables
        .get(index as usize)
        .and_then(|name| database.table(name))
        .ok_or(Error::Mismatch("a row of a table that is not replicated here"))
}

/// What was decided about the rows of one transaction.
#[derive(Default)]
struct Verdicts<'a> {
    writes: Vec<Write<'a>>,
    losers: Vec<Loser>,
    superseded: Vec<(Record, Seq)>,
    seen: Vec<Record>,
}

impl<'a> Verdicts<'a> {
    fn judge(
        &mut self,
        database: &Database,
        setting: &Setting<'_>,
        batch: &Batch,
        write: Write<'a>,
    ) -> Result<(), Error> {
        let own = setting
            .dirty
            .last_change(&write.record)
            .map(|(seq, wall)| Own { seq, stamp: Stamp { wall, role: setting.role } });
        let base = if fault::is(Mutant::PlainTimestamps) { Seq(0) } else { batch.base };
        let decision = lww::decide(own, base, write.stamp);
        let unknown = match &setting.received {
            Some(received) => !received.knows(database, &write)?,
            None => false,
        };
        if decision == Decision::Apply && !unknown {
            self.take(write);
            return Ok(());
        }
        let local = read_row(&database.writer, write.captured, &write.key).at(&database.path)?;
        if local.as_deref() == write.columns {
            // Both made the same change, so there is nothing to decide.
            self.take(write);
            return Ok(());
        }
        match (decision, own) {
            (Decision::Keep, Some(own)) => {
                let loser = write.incoming_loser(JournalKind::Conflict, batch.origin, local);
                self.losers.push(Loser { winner_wall: Some(own.stamp.wall), ..loser });
            }
            (Decision::Replace, Some(own)) => {
                let loser =
                    write.own_loser(JournalKind::Conflict, database.meta.origin, own.seq, local);
                self.losers.push(Loser { wall: Some(own.stamp.wall), ..loser });
                self.superseded.push((write.record.clone(), own.seq));
                self.take(write);
            }
            (Decision::Apply | Decision::Keep | Decision::Replace, _) => {
                if local.is_some() {
                    let loser =
                        write.own_loser(JournalKind::Repair, batch.origin, write.seq, local);
                    self.losers.push(loser);
                }
                self.take(write);
            }
        }
        Ok(())
    }

    fn take(&mut self, write: Write<'a>) {
        self.seen.push(write.record.clone());
        self.writes.push(write);
    }
}

impl<'a> Write<'a> {
    /// A version to be written: `columns`, or a deletion.
    pub(crate) fn new(
        captured: &'a Captured,
        key: Key,
        columns: Option<&'a [Value]>,
        stamp: Stamp,
        seq: Seq,
    ) -> Self {
        let record = (captured.t, captured.table.identity_of(&key));
        Self { captured, record, key, columns, stamp, seq }
    }
}
