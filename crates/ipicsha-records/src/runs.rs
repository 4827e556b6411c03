//! Comparisons and repairs in the daemon's journal: which there were, and how far one is that runs.
//!
//! Decides what must be stored to go on after a cut or a crash, and nothing about whether that is
//! still correct. A run has a number short enough to be typed.

use std::time::{SystemTime, UNIX_EPOCH};

use ipicsha_core::{
    data::{Differences, KeptVersion, Key, RepairReport, Value},
    id::DatabaseName,
    time::WallTime,
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{
    error::{AtPath as _, Error},
    journal::{Journal, now, pack},
    log::BATCH_BYTES,
    value,
};

/// Run numbers have six digits.
const NUMBERS: std::ops::Range<u64> = 100_000..1_000_000;

/// Versions told of in one message.
const KEPT: usize = 500;

/// How far a comparison is: everything before this place is equal, or was mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    pub(crate) pass: u32,
    pub(crate) pass_found: u64,
    /// Index of the table.
    pub(crate) table: u32,
    /// Go on behind this key.
    pub(crate) after: Option<Key>,
    pub(crate) reports: Vec<Differences>,
    pub(crate) remaining: Vec<u64>,
    pub(crate) rows_compared: u64,
    /// Rows done in this pass.
    pub(crate) rows_pass: u64,
}

/// A comparison this server leads and has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) run: u64,
    pub(crate) apply: bool,
}

/// One repair of one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PastRepair {
    /// Its number, the same on both servers.
    pub run: u64,
    /// The database.
    pub database: String,
    /// It was the comparison a pair begins with.
    pub initial: bool,
    /// When it began.
    pub started: WallTime,
    /// When it ended; `None` while it runs.
    pub ended: Option<WallTime>,
    /// Why it ended without a result.
    pub failure: Option<String>,
    /// What it found and did.
    pub report: Option<RepairReport>,
    /// When it was undone, if ever.
    pub undone: Option<WallTime>,
}

impl Journal {
    /// A number no repair in this journal has.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn new_run(&self) -> Result<u64, Error> {
        let mut salt = 0_u64;
        loop {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let text = format!("{} {} {salt}", std::process::id(), since.as_nanos());
            let hash = value::hash(text.as_bytes());
            let random = hash.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
            let run = NUMBERS.start + random % (NUMBERS.end - NUMBERS.start);
            let known: bool = self
                .db
                .query_row(
                    "SELECT EXISTS(SELECT 1 FROM repair WHERE run=?1)",
                    [run.cast_signed()],
                    |row| row.get(0),
                )
                .at(&self.path)?;
            if !known {
                return Ok(run);
            }
            salt += 1;
        }
    }

    /// A run begins, or goes on. Others of this kind have ended without a word.
    pub(crate) fn begin_run(
        &self,
        name: &DatabaseName,
        run: u64,
        apply: bool,
        initial: bool,
        led: bool,
    ) -> Result<(), Error> {
        let work = || -> rusqlite::Result<()> {
            self.db.execute(
                "UPDATE repair SET ended_ms=?4, failure='another one began before it ended', reached=NULL
                 WHERE db=?1 AND initial=?2 AND run<>?3 AND ended_ms IS NULL",
                params![name.0, initial, run.cast_signed(), now().0],
            )?;
            self.db.execute(
                "INSERT OR IGNORE INTO repair(run, db, initial, apply, led, started_ms) VALUES(?,?,?,?,?,?)",
                params![run.cast_signed(), name.0, initial, apply, led, now().0],
            )?;
            Ok(())
        };
        work().at(&self.path)
    }

    /// The comparison this server leads and has not finished.
    pub(crate) fn unfinished(
        &self,
        name: &DatabaseName,
        initial: bool,
    ) -> Result<Option<Unfinished>, Error> {
        self.db
            .query_row(
                "SELECT run, apply FROM repair WHERE db=?1 AND initial=?2 AND led AND ended_ms IS NULL
                 ORDER BY started_ms DESC LIMIT 1",
                params![name.0, initial],
                |row| Ok(Unfinished { run: number(row, 0)?, apply: row.get(1)? }),
            )
            .optional()
            .at(&self.path)
    }

    /// Remembers how far a run is. `basis` stands for everything that must be the same to go on.
    pub(crate) fn save_reached(
        &self,
        name: &DatabaseName,
        run: u64,
        basis: [u8; 16],
        reached: &Reached,
    ) -> Result<(), Error> {
        pack(reached)
            .and_then(|packed| {
                self.db
                    .prepare_cached(
                        "UPDATE repair SET basis=?3, reached=?4 WHERE run=?1 AND db=?2",
                    )?
                    .execute(params![run.cast_signed(), name.0, basis, packed])
            })
            .map(drop)
            .at(&self.path)
    }

    /// Where a run can go on, if it began on the same basis.
    pub(crate) fn reached(
        &self,
        name: &DatabaseName,
        run: u64,
        basis: [u8; 16],
    ) -> Result<Option<Reached>, Error> {
        let packed: Option<Vec<u8>> = self
            .db
            .query_row(
                "SELECT reached FROM repair WHERE run=?1 AND db=?2 AND basis=?3 AND reached IS NOT NULL",
                params![run.cast_signed(), name.0, basis],
                |row| row.get(0),
            )
            .optional()
            .at(&self.path)?;
        // One that cannot be read is none: the comparison begins anew.
        Ok(packed.and_then(|packed| postcard::from_bytes(&packed).ok()))
    }

    /// Changes were missed: no comparison of this database goes on where it was.
    pub(crate) fn forget_reached(&self, name: &DatabaseName) -> Result<(), Error> {
        self.db
            .execute(
                "UPDATE repair SET reached=NULL WHERE db=?1 AND reached IS NOT NULL",
                [&name.0],
            )
            .map(drop)
            .at(&self.path)
    }

    /// A run has ended. Mere comparisons are not remembered.
    pub(crate) fn end_run(
        &self,
        name: &DatabaseName,
        run: u64,
        result: Result<&RepairReport, &str>,
    ) -> Result<(), Error> {
        let work = || -> rusqlite::Result<()> {
            let report = result.ok().map(pack).transpose()?;
            self.db.execute(
                "UPDATE repair SET ended_ms=?3, report=?4, failure=?5, reached=NULL WHERE run=?1 AND db=?2 AND apply",
                params![run.cast_signed(), name.0, now().0, report, result.err()],
            )?;
            self.db.execute(
                "DELETE FROM repair WHERE run=?1 AND db=?2 AND NOT apply",
                params![run.cast_signed(), name.0],
            )?;
            Ok(())
        };
        work().at(&self.path)
    }

    /// A repair has been undone as far as it could be.
    pub(crate) fn note_undone(&self, name: &DatabaseName, run: u64) -> Result<(), Error> {
        self.db
            .execute(
                "UPDATE repair SET undone_ms=?3 WHERE run=?1 AND db=?2",
                params![run.cast_signed(), name.0, now().0],
            )
            .map(drop)
            .at(&self.path)
    }

    /// Versions that lost in this run, with larger numbers than `after`; `true`: there are others.
    pub(crate) fn kept(
        &self,
        name: &DatabaseName,
        run: u64,
        after: i64,
    ) -> Result<(Vec<KeptVersion>, bool), Error> {
        let mut statement = self
            .db
            .prepare_cached("SELECT id FROM journal WHERE db=?1 AND run=?2 AND id>?3 ORDER BY id")
            .at(&self.path)?;
        let mut ids = statement.query(params![name.0, run.cast_signed(), after]).at(&self.path)?;
        let (mut kept, mut bytes) = (Vec::new(), 0);
        while let Some(row) = ids.next().at(&self.path)? {
            if kept.len() >= KEPT || bytes >= BATCH_BYTES {
                return Ok((kept, true));
            }
            let id: i64 = row.get(0).at(&self.path)?;
            let Some(entry) = self.show(id)? else { continue };
            let values = entry.loser.iter().chain(&entry.winner).flatten();
            bytes += values.map(Value::size).sum::<usize>();
            kept.push(KeptVersion {
                id,
                table: entry.table,
                columns: entry.columns,
                key: entry.key,
                version: entry.loser,
                winner: entry.winner,
            });
        }
        Ok((kept, false))
    }

    /// These versions are back.
    pub(crate) fn note_restored(&mut self, ids: &[i64]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        let mut work = || -> rusqlite::Result<()> {
            let transaction = self.db.transaction()?;
            for id in ids {
                transaction
                    .prepare_cached(
                        "UPDATE journal SET restored_at=?2 WHERE id=?1 AND restored_at IS NULL",
                    )?
                    .execute(params![id, now().0])?;
            }
            transaction.commit()
        };
        work().at(&path)
    }

    /// Repairs, newest first; 0 is all of them.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn repairs(&self, database: Option<&str>, limit: usize) -> Result<Vec<PastRepair>, Error> {
        let limit = if limit == 0 { -1 } else { limit as i64 };
        let mut statement = self
            .db
            .prepare(
                "SELECT run, db, initial, started_ms, ended_ms, failure, report, undone_ms FROM repair
                 WHERE apply AND (?1 IS NULL OR db=?1) ORDER BY started_ms DESC, run, db LIMIT ?2",
            )
            .at(&self.path)?;
        let rows = statement.query_map(params![database, limit], |row| {
            let time = |index| row.get::<_, Option<i64>>(index).map(|ms| ms.map(WallTime));
            let report: Option<Vec<u8>> = row.get(6)?;
            Ok(PastRepair {
                run: number(row, 0)?,
                database: row.get(1)?,
                initial: row.get(2)?,
                started: WallTime(row.get(3)?),
                ended: time(4)?,
                failure: row.get(5)?,
                report: report.and_then(|packed| postcard::from_bytes(&packed).ok()),
                undone: time(7)?,
            })
        });
        rows.and_then(Iterator::collect).at(&self.path)
    }
}

fn number(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get(index).map(i64::cast_unsigned)
}
