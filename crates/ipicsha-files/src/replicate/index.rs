//! What every entry is here and at the partner, durably.
//!
//! Decides how a row is stored and found. Must not know the disk, nor which of two versions stays.
//!
//! - **Invariant**: nothing is told to the partner before its row is committed.
//! - **Invariant**: a position or a change counter is never given out twice within one index.

mod forget;

use std::path::Path;

use ipicsha_core::file::{IndexId, Known, Version};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row as SqlRow, params};
use serde::{Deserialize, Serialize};

use super::{
    Refused,
    row::{Counts, Own, Quick, Row, Told, Want},
};

/// Name of the database in the state folder.
const FILE: &str = "index.db";

/// Raised when the tables change; another number is another index.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE entry(
    path BLOB PRIMARY KEY,
    seq INTEGER,
    known_primary INTEGER NOT NULL,
    known_secondary INTEGER NOT NULL,
    version BLOB,
    quick BLOB,
    present INTEGER NOT NULL,
    size INTEGER NOT NULL,
    content INTEGER,
    inode INTEGER,
    told_primary INTEGER,
    told_secondary INTEGER,
    told_version BLOB,
    told_size INTEGER NOT NULL,
    want INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    bits INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX entry_seq ON entry(seq) WHERE seq IS NOT NULL;
CREATE INDEX entry_want ON entry(want, path) WHERE want > 0;
CREATE INDEX entry_pending ON entry(seq) WHERE pending > 0;
CREATE INDEX entry_bits ON entry(path) WHERE bits > 0;
CREATE INDEX entry_content ON entry(content) WHERE content IS NOT NULL;
CREATE INDEX entry_inode ON entry(inode) WHERE inode IS NOT NULL;
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";

/// Tombstones that both servers have, by their age; an index made before this one gets it as well.
const GONE: &str =
    "CREATE INDEX IF NOT EXISTS entry_gone ON entry(max(known_primary, known_secondary))
    WHERE present = 0 AND want = 0 AND pending = 0 AND bits = 0";

const COLUMNS: &str = "seq, known_primary, known_secondary, version, quick, \
    told_primary, told_secondary, told_version, want, pending, bits";

/// The index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// SQLite refuses.
    #[error("the index cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A row is not what was written.
    #[error("a row of the index is damaged: {0}")]
    Row(#[from] postcard::Error),
}

/// What else is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// This index.
    pub(super) id: IndexId,
    /// Newest position given out.
    pub(super) last: i64,
    /// Newest change counter given out.
    pub(super) counter: u64,
    /// The partner's index, and how much of it is here.
    pub(super) noted: Option<(IndexId, i64)>,
    /// What the marker in the root must say.
    pub(super) marker: Option<String>,
    /// Hash of the filter rules that rows were made with.
    pub(super) rules: [u8; 32],
    /// Versions that lost.
    pub(super) conflicts: u64,
    /// Both indexes were once compared to the end.
    pub(super) synced: bool,
}

/// The index of one directory.
#[derive(Debug)]
pub(super) struct Index {
    db: Connection,
    open: bool,
    saved: Remembered,
    /// Changed freely, saved with every commit.
    pub(super) meta: Remembered,
    /// Of all rows, as they are in the transaction.
    pub(super) counts: Counts,
}

impl Index {
    /// Opens the index in `state`; a damaged one is set aside and begun anew.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(super) fn open(state: &Path) -> Result<Self, Refused> {
        let path = state.join(FILE);
        let refused = |error: IndexError| Refused {
            message: format!("cannot open {}: {error}", path.display()),
            next_step: "make the state folder writable, or free space on its disk".into(),
        };
        match Self::try_open(&path) {
            Err(error) if is_damage(&error) => {
                set_aside(&path).map_err(|error| Refused {
                    message: format!("cannot set {} aside: {error}", path.display()),
                    next_step: "make the state folder writable".into(),
                })?;
                Self::try_open(&path).map_err(refused)
            }
            other => other.map_err(refused),
        }
    }

    fn try_open(path: &Path) -> Result<Self, IndexError> {
        let db = Connection::open(path)?;
        db.set_prepared_statement_cache_capacity(64);
        db.pragma_update(None, "journal_mode", "wal")?;
        // A position or counter that was told must never be given out again.
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "cache_size", -16_384)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != SCHEMA_VERSION {
            db.execute_batch(&format!(
                "BEGIN; DROP TABLE IF EXISTS entry; DROP TABLE IF EXISTS meta; {SCHEMA}
                 PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            ))?;
        }
        db.execute_batch(GONE)?;
        let text: Option<Vec<u8>> = db
            .query_row("SELECT value FROM meta WHERE name = 'meta'", [], |row| row.get(0))
            .optional()?;
        let meta = match text {
            Some(bytes) => postcard::from_bytes(&bytes)?,
            None => Remembered::new(),
        };
        let mut saved = meta.clone();
        saved.id = IndexId([0; 16]);
        let mut index = Self { db, open: false, saved, meta, counts: Counts::default() };
        index.recount()?;
        index.commit()?;
        Ok(index)
    }

    fn recount(&mut self) -> Result<(), IndexError> {
        let sql = "SELECT coalesce(sum(present), 0), CAST(total(present * size) AS INTEGER),
            coalesce(sum(pending), 0), coalesce(sum(want > 0), 0),
            CAST(total((want > 0) * told_size) AS INTEGER), coalesce(sum(bits & 1), 0) FROM entry";
        self.counts = self.db.query_row(sql, [], |row| {
            let number = |at| row.get::<_, i64>(at).map(|n| n.max(0).unsigned_abs());
            Ok(Counts {
                entries: number(0)?,
                bytes: number(1)?,
                pending: number(2)?,
                wanted: number(3)?,
                wanted_bytes: number(4)?,
                held_here: number(5)?,
            })
        })?;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), IndexError> {
        if !self.open {
            self.db.execute_batch("BEGIN IMMEDIATE")?;
            self.open = true;
        }
        Ok(())
    }

    /// Whether something is not committed yet.
    pub(super) fn is_dirty(&self) -> bool {
        self.open || self.meta != self.saved
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// It cannot be written; nothing of it may be told.
    pub(super) fn commit(&mut self) -> Result<(), IndexError> {
        if self.meta != self.saved {
            self.begin()?;
            let bytes = postcard::to_stdvec(&self.meta)?;
            let sql = "INSERT OR REPLACE INTO meta(name, value) VALUES('meta', ?1)";
            self.db.prepare_cached(sql)?.execute([bytes])?;
        }
        if self.open {
            self.db.execute_batch("COMMIT")?;
            self.open = false;
        }
        self.saved = self.meta.clone();
        Ok(())
    }

    /// Takes everything back that is not committed, except positions and counters given out.
    pub(super) fn roll_back(&mut self) -> Result<(), IndexError> {
        if std::mem::take(&mut self.open) && !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK")?;
        }
        let (last, counter) = (self.meta.last, self.meta.counter.max(self.saved.counter));
        self.meta = Remembered { last, counter, ..self.saved.clone() };
        self.recount()
    }

    /// The next position.
    pub(super) fn next_seq(&mut self) -> i64 {
        self.meta.last += 1;
        self.meta.last
    }

    /// The next change counter: the time in microseconds, so that an index that was lost or restored
    /// does not give out old ones.
    pub(super) fn next_counter(&mut self, now_us: u64) -> u64 {
        self.meta.counter = now_us.max(self.meta.counter + 1);
        self.meta.counter
    }

    /// What is known of an entry.
    pub(super) fn get(&self, path: &[u8]) -> Result<Option<Row>, IndexError> {
        let sql = format!("SELECT {COLUMNS} FROM entry WHERE path = ?1");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query([path])?;
        rows.next()?.map(|row| read(row, 0)).transpose()
    }

    /// Stores what is known of an entry; `old` is what [`Self::get`] gave.
    pub(super) fn put(
        &mut self,
        path: &[u8],
        old: Option<&Row>,
        new: &Row,
    ) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT OR REPLACE INTO entry VALUES\
            (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)";
        let own = new.own.as_ref();
        let told = new.told.as_ref();
        let known = own.map(|own| own.known).unwrap_or_default();
        let version = own.map(|own| postcard::to_stdvec(&own.version)).transpose()?;
        let quick = own.and_then(|own| own.quick.as_ref()).map(postcard::to_stdvec).transpose()?;
        let present = new.is_present();
        let quick_facts = own.and_then(|own| own.quick.as_ref()).filter(|_| present);
        self.db.prepare_cached(sql)?.execute(params![
            path,
            own.map(|own| own.seq),
            to_sql(known.primary),
            to_sql(known.secondary),
            version,
            quick,
            present,
            to_sql(new.size()),
            new.content().filter(|_| present).map(content_key),
            quick_facts
                .filter(|quick| quick.kind == crate::Kind::File)
                .map(|quick| to_sql(quick.inode)),
            told.map(|told| to_sql(told.known.primary)),
            told.map(|told| to_sql(told.known.secondary)),
            told.map(|told| postcard::to_stdvec(&told.version)).transpose()?,
            to_sql(new.told_size()),
            new.want as i64,
            new.pending,
            new.bits,
        ])?;
        if let Some(old) = old {
            self.counts.remove(old);
        }
        self.counts.add(new);
        Ok(())
    }

    /// Forgets an entry for good.
    pub(super) fn delete(&mut self, path: &[u8], old: &Row) -> Result<(), IndexError> {
        self.begin()?;
        self.db.prepare_cached("DELETE FROM entry WHERE path = ?1")?.execute([path])?;
        self.counts.remove(old);
        Ok(())
    }

    /// Own entries after a position, oldest first.
    pub(super) fn after(&self, seq: i64, limit: usize) -> Result<Vec<(Vec<u8>, Own)>, IndexError> {
        let sql = format!(
            "SELECT path, {COLUMNS} FROM entry WHERE seq > ?1 AND seq IS NOT NULL
             ORDER BY seq LIMIT ?2"
        );
        let rows = self.rows(&sql, params![seq, limit as i64])?;
        Ok(rows.into_iter().filter_map(|(path, row)| Some((path, row.own?))).collect())
    }

    /// Whether everything up to this position is at the partner.
    pub(super) fn is_there_up_to(&self, seq: i64) -> Result<bool, IndexError> {
        let sql = "SELECT NOT EXISTS(SELECT 1 FROM entry WHERE pending > 0 AND seq <= ?1)";
        Ok(self.db.prepare_cached(sql)?.query_row([seq], |row| row.get(0))?)
    }

    /// Paths that something is wanted of, from the one after `after` on, in order of paths.
    pub(super) fn wanted(
        &self,
        want: Want,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, IndexError> {
        let sql = "SELECT path FROM entry WHERE want = ?1 AND want > 0 AND path > ?2
            ORDER BY path LIMIT ?3";
        self.paths(sql, params![want as i64, after, limit as i64])
    }

    /// The same from the last path backwards.
    pub(super) fn wanted_backwards(
        &self,
        want: Want,
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, IndexError> {
        let sql = "SELECT path FROM entry WHERE want = ?1 AND want > 0
            AND (?2 IS NULL OR path < ?2) ORDER BY path DESC LIMIT ?3";
        self.paths(sql, params![want as i64, before, limit as i64])
    }

    /// Number of entries of which this is wanted.
    pub(super) fn count_wanted(&self, want: Want) -> Result<u64, IndexError> {
        let sql = "SELECT count(*) FROM entry WHERE want = ?1 AND want > 0";
        let count: i64 = self.db.prepare_cached(sql)?.query_row([want as i64], |row| row.get(0))?;
        Ok(count.max(0).unsigned_abs())
    }

    /// All that was `from` is `to` from now on.
    pub(super) fn turn_wanted(&mut self, from: Want, to: Want) -> Result<u64, IndexError> {
        self.begin()?;
        let sql = "UPDATE entry SET want = ?2 WHERE want = ?1 AND want > 0";
        Ok(self.db.prepare_cached(sql)?.execute([from as i64, to as i64])? as u64)
    }

    /// Paths whose rows have one of these bits.
    pub(super) fn with_bits(&self, bits: u32) -> Result<Vec<Vec<u8>>, IndexError> {
        self.paths("SELECT path FROM entry WHERE bits > 0 AND bits & ?1", params![bits])
    }

    /// Files here that have this content, by the first bytes of its hash.
    pub(super) fn with_content(&self, hash: &[u8; 32]) -> Result<Vec<(Vec<u8>, Row)>, IndexError> {
        let sql = format!("SELECT path, {COLUMNS} FROM entry WHERE content = ?1 LIMIT 32");
        let mut rows = self.rows(&sql, params![content_key(hash)])?;
        rows.retain(|(_, row)| row.content() == Some(hash));
        Ok(rows)
    }

    /// Files here that had this inode when they were looked at, in order of paths.
    pub(super) fn with_inode(&self, inode: u64) -> Result<Vec<(Vec<u8>, Row)>, IndexError> {
        let sql = format!("SELECT path, {COLUMNS} FROM entry WHERE inode = ?1 ORDER BY path");
        self.rows(&sql, params![to_sql(inode)])
    }

    /// The rows of the entries of a directory that exist here, not of those beneath them, from the one
    /// after `after` on, in order of paths.
    pub(super) fn children(
        &self,
        dir: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Row)>, IndexError> {
        let sql = format!(
            "SELECT path, {COLUMNS} FROM entry WHERE path >= ?1 AND path < ?2 ORDER BY path"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let (mut from, to) = beneath(dir);
        let prefix = from.len();
        if let Some(after) = after {
            // No path is between these two.
            from = [after, b"\0"].concat();
        }
        let mut found = Vec::new();
        while found.len() < limit {
            let mut rows = statement.query(params![from, to])?;
            let mut skip = None;
            while let Some(row) = rows.next()? {
                let path = row.get_ref(0)?.as_blob().unwrap_or_default();
                if let Some(slash) = path[prefix..].iter().position(|b| *b == b'/') {
                    // Everything beneath this name is skipped at once.
                    skip = Some([&path[..prefix + slash], b"0"].concat());
                    break;
                }
                let (path, known) = (path.to_vec(), read(row, 1)?);
                if known.is_present() {
                    found.push((path, known));
                    if found.len() >= limit {
                        break;
                    }
                }
            }
            let Some(next) = skip else { break };
            from = next;
        }
        Ok(found)
    }

    /// Paths of all entries beneath a directory that exist here, in order.
    pub(super) fn beneath(&self, dir: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, IndexError> {
        self.beneath_after(dir, b"", limit)
    }

    /// The same from the one after `after` on.
    pub(super) fn beneath_after(
        &self,
        dir: &[u8],
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, IndexError> {
        let (from, to) = beneath(dir);
        let from = from.as_slice().max(after);
        let sql = "SELECT path FROM entry WHERE path > ?1 AND path < ?2 AND present > 0
            ORDER BY path LIMIT ?3";
        self.paths(sql, params![from, to, limit as i64])
    }

    /// All paths of own entries after one, in order.
    pub(super) fn all_after(
        &self,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Row)>, IndexError> {
        let sql =
            format!("SELECT path, {COLUMNS} FROM entry WHERE path > ?1 ORDER BY path LIMIT ?2");
        self.rows(&sql, params![after, limit as i64])
    }

    fn paths(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Vec<u8>>, IndexError> {
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(values, |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn rows(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
    ) -> Result<Vec<(Vec<u8>, Row)>, IndexError> {
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push((row.get(0)?, read(row, 1)?));
        }
        Ok(found)
    }
}

impl Remembered {
    fn new() -> Self {
        Self {
            id: IndexId(random()),
            last: 0,
            counter: 0,
            noted: None,
            marker: None,
            rules: [0; 32],
            conflicts: 0,
            synced: false,
        }
    }
}

/// Bytes nobody chose.
pub(super) fn random() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let half = || RandomState::new().hash_one(0_u8).to_le_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half());
    bytes[8..].copy_from_slice(&half());
    bytes
}

fn read(row: &SqlRow<'_>, at: usize) -> Result<Row, IndexError> {
    let seq: Option<i64> = row.get(at)?;
    let blob = |column: usize| row.get_ref(at + column).map(|v| v.as_blob_or_null().ok().flatten());
    let known = |column: usize| -> Result<Known, IndexError> {
        let number = |column| row.get::<_, i64>(column).map(|n| n.max(0).unsigned_abs());
        Ok(Known { primary: number(at + column)?, secondary: number(at + column + 1)? })
    };
    let own = match (seq, blob(3)?) {
        (Some(seq), Some(version)) => {
            let quick = blob(4)?.map(postcard::from_bytes::<Quick>).transpose()?;
            let version: Version = postcard::from_bytes(version)?;
            Some(Own { seq, known: known(1)?, version, quick })
        }
        _ => None,
    };
    let told = match blob(7)? {
        Some(version) => Some(Told { known: known(5)?, version: postcard::from_bytes(version)? }),
        None => None,
    };
    Ok(Row {
        own,
        told,
        want: Want::of(row.get(at + 8)?),
        pending: row.get(at + 9)?,
        bits: row.get(at + 10)?,
    })
}

/// Bounds of everything beneath a directory.
fn beneath(dir: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if dir.is_empty() {
        return (Vec::new(), vec![0xff; 4100]);
    }
    ([dir, b"/"].concat(), [dir, b"0"].concat())
}

fn content_key(hash: &[u8; 32]) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_le_bytes(first)
}

/// SQLite's numbers have a sign; counters and sizes never come near it, inodes may, reversibly.
fn to_sql(number: u64) -> i64 {
    number.cast_signed()
}

fn is_damage(error: &IndexError) -> bool {
    match error {
        IndexError::Row(_) => true,
        IndexError::Sqlite(error) => {
            let code = error.sqlite_error_code();
            matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        }
    }
}

fn set_aside(path: &Path) -> std::io::Result<()> {
    std::fs::rename(path, path.with_extension("damaged"))?;
    for suffix in ["db-wal", "db-shm"] {
        match std::fs::remove_file(path.with_extension(suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the index in `state`.
///
/// # Errors
/// A file cannot be removed.
pub(super) fn remove(state: &Path) -> std::io::Result<()> {
    for file in ["index.db", "index.db-wal", "index.db-shm", "index.damaged"] {
        match std::fs::remove_file(state.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
