//! The transaction log: which records have changed, and when for the last time.
//!
//! Decides what the next batch holds and which own changes are concurrent with the partner's. Must
//! not know connections to the partner or how a batch is applied. The log only names records; their
//! contents are read when they are sent, so a record changed a thousand times travels once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use foldhash::fast::RandomState;
use ipicsha_core::{
    data::{Batch, Change, Columns, Follows, Key, Row, Value},
    id::{DatabaseName, Seq},
    time::WallTime,
};

use rusqlite::{Connection, OptionalExtension as _};

use crate::{
    capture::Captured,
    database::Database,
    error::{AtPath as _, Error},
    fault::{self, Mutant},
    sequence,
    value::{self, bind},
};

/// Rows of a batch.
pub(crate) const BATCH_ROWS: usize = 1000;
/// Bytes of a batch, unless one row alone is larger.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// Entry kinds of the log (the others are 1 insert, 2 update, 3 delete).
pub(crate) const SUPERSEDED: i64 = 0;
pub(crate) const SUSPECT: i64 = 4;

/// A record: the number of its table and the bytes of its identity.
pub(crate) type Record = (u32, Arc<[u8]>);

/// The last own change of a record.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) record: Record,
    pub(crate) key: Key,
    pub(crate) wall: WallTime,
    /// Of the first change that is held, which nothing but a mutant may send.
    #[cfg(test)]
    first: WallTime,
}

impl Pending {
    /// The stamp the record travels with.
    fn stamp(&self) -> WallTime {
        #[cfg(test)]
        if fault::is(Mutant::FirstStamp) {
            return self.first;
        }
        self.wall
    }
}

/// When an entry was written, in milliseconds since 1970, if it is still there.
pub(crate) fn written_at(db: &Connection, seq: Seq) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT ms FROM _ipicsha_log WHERE seq=?1")?
        .query_row([seq.0], |row| row.get(0))
        .optional()
}

/// Own changes the partner may not have applied: every record with its last entry.
///
/// The whole log behind `floor` is held, because a record is sent with its *last* stamp; a stamp
/// of an earlier entry would lose against changes it came after.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// Nothing at or before it is held; `None`: nothing was read yet.
    floor: Option<i64>,
    scanned_to: i64,
    /// When the newest entry read was written; `None`: nothing was read yet.
    scanned_ms: Option<i64>,
    by_record: HashMap<Record, i64, RandomState>,
    by_seq: BTreeMap<i64, Pending>,
    /// Tables with changes of records that have NULL in their key: no statement can name them.
    nameless: BTreeSet<u32>,
}

impl Dirty {
    /// Everything behind `floor`, to be read by `refresh`.
    pub(crate) fn behind(floor: Seq) -> Self {
        Self { floor: Some(floor.0), scanned_to: floor.0, ..Self::default() }
    }

    /// The same, from what was read already where that reaches back far enough.
    pub(crate) fn resume(&mut self, floor: Seq) {
        if self.floor.is_some_and(|held| held <= floor.0) && floor.0 <= self.scanned_to {
            self.prune(floor);
        } else {
            *self = Self::behind(floor);
        }
    }

    /// Something was read, or is to be, behind a floor.
    pub(crate) fn is_begun(&self) -> bool {
        self.floor.is_some()
    }

    /// Whether the log still holds what was read from it. It does not when a backup was restored
    /// into the file: then numbers are given out again that were read already.
    pub(crate) fn is_continued(&self, db: &Connection) -> rusqlite::Result<bool> {
        let found = written_at(db, Seq(self.scanned_to))?;
        if found.is_none() && self.scanned_to > end(db, "DESC")?.unwrap_or(0) {
            return Ok(false);
        }
        // What the ring has overwritten is noticed when the log is read on.
        Ok(self.scanned_ms.is_none_or(|ms| found.is_none_or(|found| found == ms)))
    }

    /// Tables with changes that cannot be sent.
    pub(crate) fn nameless(&self) -> impl Iterator<Item = u32> {
        self.nameless.iter().copied()
    }

    /// No own change is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    /// The newest entry read.
    pub(crate) fn scanned_to(&self) -> Seq {
        Seq(self.scanned_to)
    }

    /// The last own change of a record, if it is behind the floor.
    pub(crate) fn last_change(&self, record: &Record) -> Option<(Seq, WallTime)> {
        let seq = self.by_record.get(record)?;
        self.by_seq.get(seq).map(|pending| (Seq(*seq), pending.wall))
    }

    /// Forgets entries the partner has applied and knew when it sent what is still to be applied.
    pub(crate) fn prune(&mut self, floor: Seq) {
        self.floor = self.floor.map(|held| held.max(floor.0));
        while let Some(entry) = self.by_seq.first_entry()
            && *entry.key() <= floor.0
        {
            let pending = entry.remove();
            self.by_record.remove(&pending.record);
        }
    }

    /// Reads entries written since the last call, in the caller's transaction.
    pub(crate) fn refresh(&mut self, db: &Connection, database: &Database) -> Result<(), Error> {
        self.refresh_some(db, database, i64::MAX)
    }

    /// The same for at most `limit` entries.
    pub(crate) fn refresh_some(
        &mut self,
        db: &Connection,
        database: &Database,
        limit: i64,
    ) -> Result<(), Error> {
        // Entries are numbered without gaps; a gap is what the ring has overwritten.
        if self.scan(db, database, limit).at(&database.path)? {
            Ok(())
        } else if !database.meta.synced {
            Err(Error::Mismatch("changes were overwritten before the first comparison has ended"))
        } else if self.is_continued(db).at(&database.path)? {
            Err(Error::Overflow)
        } else {
            Err(Error::Mismatch("the log is that of a restored backup"))
        }
    }

    fn scan(&mut self, db: &Connection, database: &Database, limit: i64) -> rusqlite::Result<bool> {
        let columns: String = (1..=database.key_columns).map(|n| format!(",k{n}")).collect();
        // A number: SQLite plans a statement anew whenever its limit is bound.
        let sql = format!(
            "SELECT seq,t,op,ms{columns} FROM _ipicsha_log WHERE seq>?1 ORDER BY seq LIMIT {limit}"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query([self.scanned_to])?;
        while let Some(row) = rows.next()? {
            let entry = read_entry(row)?;
            if entry.seq != self.scanned_to + 1 {
                return Ok(false);
            }
            if let Some(captured) = database.tables.get(&entry.t) {
                let key = value::read_columns(row, 4, captured.table.key.len())?;
                if key.contains(&Value::Null) {
                    self.nameless.insert(entry.t);
                } else {
                    self.take(db, captured, &entry, key)?;
                }
            }
            self.scanned_to = entry.seq;
            self.scanned_ms = Some(entry.ms);
        }
        Ok(true)
    }

    fn take(
        &mut self,
        db: &Connection,
        captured: &Captured,
        entry: &Entry,
        key: Key,
    ) -> rusqlite::Result<()> {
        // The victim a REPLACE may have removed: if it is there, it was not, and whatever happened
        // to it later has an entry of its own.
        if entry.op == SUSPECT && read_row(db, captured, &key)?.is_some() {
            return Ok(());
        }
        let record = (captured.t, captured.table.identity_of(&key));
        if entry.op == SUPERSEDED {
            self.remove(&record);
            return Ok(());
        }
        let wall = WallTime(entry.ms);
        let before = self.by_record.insert(record.clone(), entry.seq);
        let _before = before.and_then(|before| self.by_seq.remove(&before));
        let pending = Pending {
            record,
            key,
            wall,
            #[cfg(test)]
            first: _before.map_or(wall, |before| before.first),
        };
        self.by_seq.insert(entry.seq, pending);
        Ok(())
    }

    /// Drops a record that lost a conflict: it is not to be sent.
    pub(crate) fn remove(&mut self, record: &Record) {
        if let Some(seq) = self.by_record.remove(record) {
            self.by_seq.remove(&seq);
        }
    }

    /// Reads the next batch behind `from`, and its size in bytes; call `refresh` on the same snapshot
    /// before. Otherwise it can hold one half of what the application has moved from one record to
    /// another, and nothing says that the other half is missing.
    pub(crate) fn batch(
        &self,
        db: &Connection,
        database: &Database,
        agreed: &BTreeSet<String>,
        name: &DatabaseName,
        from: Seq,
        limit: usize,
    ) -> Result<(Batch, usize), Error> {
        let mut batch = Batch {
            database: name.clone(),
            origin: database.meta.origin,
            from,
            to: Seq(self.scanned_to),
            to_wall: self.scanned_ms.map(WallTime),
            base: database.meta.applied.map_or(Seq(0), |applied| applied.seq),
            tables: Vec::new(),
            rows: Vec::new(),
            sequences: Vec::new(),
            follows: Follows::Nothing,
        };
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let mut bytes = 0;
        for (seq, pending) in self.by_seq.range(from.0 + 1..) {
            if batch.rows.len() >= limit || bytes >= BATCH_BYTES {
                batch.follows = Follows::AtOnce;
                if !fault::is(Mutant::PointerPastUnsent) {
                    let last = batch.rows.last().map(|row| (row.seq, row.wall));
                    batch.to = last.map_or(from, |(seq, _)| seq);
                    batch.to_wall = last.map(|(_, wall)| wall);
                }
                break;
            }
            let Some(captured) = database.tables.get(&pending.record.0) else { continue };
            if !agreed.contains(&captured.table.name) {
                continue;
            }
            let change = match read_row(db, captured, &pending.key).at(&database.path)? {
                Some(columns) => Change::Upsert(columns),
                None => Change::Delete(pending.key.clone()),
            };
            bytes += change.size();
            let table = *numbers.entry(pending.record.0).or_insert_with(|| {
                batch.tables.push(captured.table.name.clone());
                batch.tables.len() as u32 - 1
            });
            batch.rows.push(Row { table, seq: Seq(*seq), wall: pending.stamp(), change });
        }
        batch.sequences = sequence::of_batch(db, database, &batch.tables).at(&database.path)?;
        Ok((batch, bytes))
    }
}

struct Entry {
    seq: i64,
    t: u32,
    op: i64,
    ms: i64,
}

fn read_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { seq: row.get(0)?, t: row.get(1)?, op: row.get(2)?, ms: row.get(3)? })
}

/// The record with this key, if it is there.
pub(crate) fn read_row(
    db: &Connection,
    captured: &Captured,
    key: &[Value],
) -> rusqlite::Result<Option<Columns>> {
    let mut statement = db.prepare_cached(&captured.table.sql.select)?;
    bind(&mut statement, 1, key)?;
    let mut rows = statement.raw_query();
    let row = rows.next()?;
    row.map(|row| value::read_columns(row, 0, captured.table.columns.len())).transpose()
}

/// Oldest and newest entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
}

/// What the log holds; `first` is one past `last` when it is empty.
pub(crate) fn extent(db: &Connection) -> rusqlite::Result<Extent> {
    let first = end(db, "ASC")?.unwrap_or(1);
    let last = end(db, "DESC")?.unwrap_or(first - 1);
    Ok(Extent { first: Seq(first), last: Seq(last) })
}

fn end(db: &Connection, order: &str) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached(&format!("SELECT seq FROM _ipicsha_log ORDER BY seq {order} LIMIT 1"))?
        .query_row([], |row| row.get(0))
        .optional()
}

/// When the oldest and the newest entry behind `acked` were written, in milliseconds since 1970.
pub(crate) fn span_behind(db: &Connection, acked: Seq) -> rusqlite::Result<Option<(i64, i64)>> {
    let written = |order: &str| {
        let sql = format!("SELECT ms FROM _ipicsha_log WHERE seq>?1 ORDER BY seq {order} LIMIT 1");
        db.prepare_cached(&sql)?.query_row([acked.0], |row| row.get(0)).optional()
    };
    Ok(written("ASC")?.zip(written("DESC")?))
}

/// Marks the last own change of a record as lost to the partner's, in the caller's transaction.
/// Reading the log again, this entry stands for all earlier ones of the record.
pub(crate) fn supersede(db: &Connection, seq: Seq) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE _ipicsha_log SET op=0 WHERE seq=?1")?.execute([seq.0])?;
    Ok(())
}
