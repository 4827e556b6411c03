//! The conflict journal: every version that lost, kept until the administrator decides.
//!
//! Decides how losers are stored, listed and put back. Must not know why one lost. It is the
//! daemon's own database, committed before the application's, since SQLite cannot commit two WAL
//! files at once; a unique rule makes the repetition after a crash harmless.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipicsha_core::{
    data::{Key, Origin, Value},
    id::{DatabaseName, Seq},
    time::WallTime,
};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{
    database::open_connection,
    error::{AtPath as _, Error},
    fence, rollback, schema,
    value::{self, bind},
};

/// Why a version lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JournalKind {
    /// Both servers changed the record without knowing of the other's change.
    Conflict,
    /// It stood in the way of another record's UNIQUE value.
    Unique,
    /// A comparison took the primary's version.
    Repair,
}

impl JournalKind {
    const ALL: [Self; 3] = [Self::Conflict, Self::Unique, Self::Repair];

    /// Its name in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conflict => "CONFLICT",
            Self::Unique => "UNIQUE",
            Self::Repair => "REPAIR",
        }
    }
}

/// One version of a record: its contents, or `None` when it did not exist.
pub type Version = Option<Vec<Value>>;

/// A version that lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalEntry {
    /// Its number.
    pub id: i64,
    /// When it was put here.
    pub at: WallTime,
    /// The database.
    pub database: String,
    /// The table.
    pub table: String,
    /// The key.
    pub key: Key,
    /// Why it lost.
    pub kind: JournalKind,
    /// Whether it was this server's version.
    pub loser_was_own: bool,
    /// When it was made, if known.
    pub loser_wall: Option<WallTime>,
    /// The version that lost.
    pub loser: Version,
    /// When the winner was made, if known.
    pub winner_wall: Option<WallTime>,
    /// The version that stayed.
    pub winner: Version,
    /// Names of the columns of both versions.
    pub columns: Vec<String>,
    /// When it was put back, if ever.
    pub restored_at: Option<WallTime>,
}

impl JournalEntry {
    /// The key for people to read.
    pub fn describe_key(&self) -> String {
        value::describe_key(&self.key)
    }

    /// `column = value` lines of a version.
    pub fn describe(&self, version: &Version) -> String {
        let Some(values) = version else { return "(deleted)".into() };
        let lines = self.columns.iter().zip(values);
        lines
            .map(|(name, v)| format!("{name} = {}", value::describe(v)))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct JournalFilter {
    /// Only this database.
    pub database: Option<String>,
    /// Only this table.
    pub table: Option<String>,
    /// At most so many, newest first; 0 is all.
    pub limit: usize,
}

/// A loser on its way into the journal.
#[derive(Clone, Debug)]
pub(crate) struct Loser {
    pub(crate) table: String,
    pub(crate) columns: Vec<String>,
    pub(crate) key: Key,
    pub(crate) kind: JournalKind,
    pub(crate) origin: Origin,
    pub(crate) seq: Seq,
    pub(crate) was_own: bool,
    pub(crate) wall: Option<WallTime>,
    pub(crate) version: Version,
    pub(crate) winner_wall: Option<WallTime>,
    pub(crate) winner: Version,
    /// The repair it lost in.
    pub(crate) run: Option<u64>,
}

/// The journal file.
pub struct Journal {
    pub(crate) path: PathBuf,
    pub(crate) db: Connection,
}

/// How far the partner is in the log, and when that entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) seq: Seq,
    /// Milliseconds since 1970; `None`: the log does not hold it any more.
    pub(crate) ms: Option<i64>,
}

impl Journal {
    /// Opens or creates the journal at `path`.
    ///
    /// # Errors
    /// The file cannot be created or is not a database.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let db = Connection::open(path).at(path)?;
        db.busy_timeout(Duration::from_secs(5)).at(path)?;
        db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).at(path)?;
        db.execute_batch("PRAGMA synchronous=FULL").at(path)?;
        db.execute_batch(include_str!("sql/journal.sql")).at(path)?;
        add_column(&db, "journal", "run").and_then(|()| index_runs(&db)).at(path)?;
        add_column(&db, "position", "ms").at(path)?;
        Ok(Self { path: path.into(), db })
    }

    /// Tests write thousands of entries and do not pull the plug.
    #[cfg(test)]
    pub(crate) fn without_sync(self) -> Self {
        self.db.execute_batch("PRAGMA synchronous=OFF").unwrap();
        self
    }

    /// Stores `losers` durably; those already there stay as they are. Returns how many are new.
    pub(crate) fn store(&mut self, name: &DatabaseName, losers: &[Loser]) -> Result<u64, Error> {
        let path = self.path.clone();
        let mut work = || -> rusqlite::Result<u64> {
            let transaction =
                self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut stored = 0;
            for loser in losers {
                stored += insert(&transaction, name, loser)? as u64;
            }
            transaction.commit()?;
            Ok(stored)
        };
        work().at(&path)
    }

    /// Entries of one database.
    pub(crate) fn count(&self, name: &DatabaseName) -> Result<u64, Error> {
        let count: i64 = self
            .db
            .query_row("SELECT count(*) FROM journal WHERE db=?1", [&name.0], |row| row.get(0))
            .at(&self.path)?;
        Ok(count.cast_unsigned())
    }

    /// Number of entries by table of one database.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn count_by_table(&self, database: &str) -> Result<BTreeMap<String, u64>, Error> {
        let mut statement = self
            .db
            .prepare("SELECT tbl, count(*) FROM journal WHERE db=?1 GROUP BY tbl")
            .at(&self.path)?;
        let rows = statement
            .query_map([database], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())));
        rows.and_then(Iterator::collect).at(&self.path)
    }

    /// Lists entries, newest first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn list(&self, filter: &JournalFilter) -> Result<Vec<JournalEntry>, Error> {
        let limit = if filter.limit == 0 { -1 } else { filter.limit as i64 };
        let mut statement = self
            .db
            .prepare(
                "SELECT id FROM journal WHERE (?1 IS NULL OR db=?1) AND (?2 IS NULL OR tbl=?2)
                 ORDER BY id DESC LIMIT ?3",
            )
            .at(&self.path)?;
        let ids = statement
            .query_map(params![filter.database, filter.table, limit], |row| row.get(0))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<i64>>>)
            .at(&self.path)?;
        ids.into_iter().filter_map(|id| self.show(id).transpose()).collect()
    }

    /// One entry.
    ///
    /// # Errors
    /// The journal cannot be read, or the entry is damaged.
    pub fn show(&self, id: i64) -> Result<Option<JournalEntry>, Error> {
        let entry = self
            .db
            .prepare_cached(
                "SELECT at_ms, db, tbl, pk, kind, loser_was_own, loser_ms, loser_row, winner_ms,
                 winner_row, columns, restored_at FROM journal WHERE id=?1",
            )
            .and_then(|mut statement| {
                statement.query_row([id], |row| read_entry(id, row)).optional()
            })
            .at(&self.path)?;
        match entry {
            None => Ok(None),
            Some(Some(entry)) => Ok(Some(entry)),
            Some(None) => Err(Error::DamagedEntry { path: self.path.clone(), id }),
        }
    }

    /// Puts the version of entry `id` back into the application's database: an ordinary write,
    /// with the application's triggers and ours, so that it reaches the partner.
    ///
    /// # Errors
    /// There is no such entry, the table has changed, or this server is standby.
    pub fn restore(&self, id: i64, database: &Path) -> Result<(), Error> {
        let entry = self.show(id)?.ok_or(Error::NoEntry(id))?;
        let _beside = rollback::beside();
        let db = open_connection(database)?;
        db.busy_timeout(Duration::from_secs(5)).at(database)?;
        let schema = schema::read(&db).at(database)?;
        let table = schema.tables.get(&entry.table).filter(|table| table.columns == entry.columns);
        let table = table.ok_or_else(|| {
            Error::NotReady(format!(
                "table {} is not as it was when entry {id} was made",
                entry.table
            ))
        })?;
        let (sql, values) = match &entry.loser {
            Some(columns) => (&table.sql.upsert, columns),
            None => (&table.sql.delete, &entry.key),
        };
        let write = || {
            let mut statement = db.prepare(sql)?;
            bind(&mut statement, 1, values)?;
            statement.raw_execute()
        };
        match write() {
            Err(rusqlite::Error::SqliteFailure(_, Some(text))) if text.contains(fence::REFUSAL) => {
                return Err(Error::Fenced { path: database.into() });
            }
            result => result.at(database)?,
        };
        self.db
            .execute("UPDATE journal SET restored_at=?2 WHERE id=?1", params![id, now().0])
            .at(&self.path)?;
        Ok(())
    }

    /// Remembers how far the partner has applied, for the queue shown after a restart. Not what is
    /// resumed from: that the partner says itself.
    pub(crate) fn save_acked(
        &self,
        name: &DatabaseName,
        origin: Origin,
        acked: Acked,
    ) -> Result<(), Error> {
        let sql =
            "INSERT OR REPLACE INTO position(db,uuid,incarnation,acked,ms) VALUES(?1,?2,?3,?4,?5)";
        let (seq, ms) = (acked.seq.0, acked.ms);
        self.db
            .prepare_cached(sql)
            .and_then(|mut statement| {
                statement.execute(params![name.0, origin.uuid.0, origin.incarnation, seq, ms])
            })
            .at(&self.path)?;
        Ok(())
    }

    /// What `save_acked` remembered about this history.
    pub(crate) fn load_acked(
        &self,
        name: &DatabaseName,
        origin: Origin,
    ) -> Result<Option<Acked>, Error> {
        self.db
            .query_row(
                "SELECT acked, ms FROM position WHERE db=?1 AND uuid=?2 AND incarnation=?3",
                params![name.0, origin.uuid.0, origin.incarnation],
                |row| Ok(Acked { seq: Seq(row.get(0)?), ms: row.get(1)? }),
            )
            .optional()
            .at(&self.path)
    }
}

/// Journals of earlier versions do not have all columns.
fn add_column(db: &Connection, table: &str, column: &str) -> rusqlite::Result<()> {
    let there = "SELECT EXISTS(SELECT 1 FROM pragma_table_info(?1) WHERE name=?2)";
    if db.query_row(there, [table, column], |row| row.get(0))? {
        return Ok(());
    }
    let added = db.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} INTEGER"));
    // Another thread of the daemon may have been faster.
    added.or_else(
        |error| {
            if error.to_string().contains("duplicate column") { Ok(()) } else { Err(error) }
        },
    )
}

fn index_runs(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE INDEX IF NOT EXISTS by_run ON journal(db, run, id) WHERE run IS NOT NULL",
    )
}

fn insert(db: &Connection, name: &DatabaseName, loser: &Loser) -> rusqlite::Result<usize> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO journal(at_ms, db, tbl, pk, kind, loser_origin, loser_seq, loser_was_own,
         loser_ms, loser_row, winner_ms, winner_row, columns, run) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )?
    .execute(params![
        now().0,
        name.0,
        loser.table,
        pack(&loser.key)?,
        loser.kind.name(),
        pack(&loser.origin)?,
        loser.seq.0,
        loser.was_own,
        loser.wall.map(|wall| wall.0),
        pack(&loser.version)?,
        loser.winner_wall.map(|wall| wall.0),
        pack(&loser.winner)?,
        pack(&loser.columns)?,
        loser.run.map(u64::cast_signed),
    ])
}

pub(crate) fn pack<T: Serialize>(value: &T) -> rusqlite::Result<Vec<u8>> {
    postcard::to_stdvec(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// `Ok(None)`: the entry is there, but its bytes mean nothing.
fn read_entry(id: i64, row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<JournalEntry>> {
    fn unpack<T: serde::de::DeserializeOwned>(
        row: &rusqlite::Row<'_>,
        index: usize,
    ) -> rusqlite::Result<Option<T>> {
        let bytes: Vec<u8> = row.get(index)?;
        Ok(postcard::from_bytes(&bytes).ok())
    }
    let kind: String = row.get(4)?;
    let kind = JournalKind::ALL.into_iter().find(|known| known.name() == kind);
    let parts = (kind, unpack(row, 3)?, unpack(row, 7)?, unpack(row, 9)?, unpack(row, 10)?);
    let (Some(kind), Some(key), Some(loser), Some(winner), Some(columns)) = parts else {
        return Ok(None);
    };
    Ok(Some(JournalEntry {
        id,
        at: WallTime(row.get(0)?),
        database: row.get(1)?,
        table: row.get(2)?,
        key,
        kind,
        loser_was_own: row.get(5)?,
        loser_wall: row.get::<_, Option<i64>>(6)?.map(WallTime),
        loser,
        winner_wall: row.get::<_, Option<i64>>(8)?.map(WallTime),
        winner,
        columns,
        restored_at: row.get::<_, Option<i64>>(11)?.map(WallTime),
    }))
}

pub(crate) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
