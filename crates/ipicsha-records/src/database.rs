//! One application database, opened: a connection that reads, a connection that writes.
//!
//! Decides how locks are waited for and when the file under the path is another one. Must not
//! know the partner. The writer has triggers off, so that what it applies is not captured again
//! and the application's own triggers, which ran at the origin, do not run twice.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ipicsha_core::data::Standing;
use rusqlite::{Connection, config::DbConfig};

pub(crate) use crate::connection::{
    PATIENT, SHORT, begin, check_file, commit, in_transaction, inode, journal_mode,
    open_connection, open_with, rollback,
};

use crate::{
    capacity,
    capture::{self, Captured, Installed, Meta},
    connection::{execute, retry, switch_to_wal},
    error::{AtPath as _, Error},
    fence,
    journal::Acked,
    log::{self, Dirty},
    reader::open_reader,
    right::{self, Right},
    rollback::Journaling,
    room,
    schema::{self, Schema, SkippedTable},
    seed, sequence,
    wal_index::{self, Header},
};

/// Of the writer: up to 128 MB of pages in memory, and a checkpoint every 32768 pages instead of 1000,
/// after which the `-wal` shrinks to 64 MB. Catching up changes pages all over the file; each is then
/// read and written once instead of often.
const WRITER_MEMORY: &str = "PRAGMA cache_size=-131072; PRAGMA wal_autocheckpoint=32768; PRAGMA journal_size_limit=67108864";
/// From so many pages in the `-wal` on a small commit may be the one that brings a checkpoint.
const NEAR_CHECKPOINT: u32 = 32_768 - 1024;

/// Which commits of others a read has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum DataVersion {
    #[default]
    Unknown,
    /// SQLite's number.
    Number(i64),
    /// The header of the WAL's index just before: to be had for less.
    Index(Header),
}

/// What a look at new commits has found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<T> {
    pub(crate) version: DataVersion,
    pub(crate) same_schema: bool,
    /// The log goes on from what was read of it.
    pub(crate) continued: bool,
    /// What was read further.
    pub(crate) read: Option<T>,
}

/// An open database with capture installed.
pub(crate) struct Database {
    pub(crate) path: PathBuf,
    pub(crate) reader: Connection,
    pub(crate) writer: Connection,
    pub(crate) meta: Meta,
    pub(crate) tables: BTreeMap<u32, Captured>,
    by_name: BTreeMap<String, u32>,
    pub(crate) skipped: Vec<SkippedTable>,
    pub(crate) warnings: Vec<String>,
    pub(crate) key_columns: usize,
    /// Of the file that is open.
    pub(crate) inode: u64,
    schema_version: i64,
    user_version: i64,
    /// Equal where the application finds the same schema.
    pub(crate) digest: [u8; 16],
    pub(crate) fence_closed: bool,
    /// It stays in a rollback mode, where a reader holds up the application's commit.
    pub(crate) keeps_rollback: bool,
    pub(crate) capacity: u64,
    /// A commit of the writer waits for the disk.
    synchronous: Cell<bool>,
    /// From when to when the application may write, where that ends by itself.
    pub(crate) right: Option<Right>,
}

/// Whether the partner may have changes that never came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unshipped {
    Nothing,
    Possible,
}

/// What a look at the schema found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchemaCheck {
    Same,
    Changed,
}

impl Database {
    /// Opens the file, switches it to WAL and installs capture where it is missing.
    #[cfg(test)]
    pub(crate) fn open(path: &Path, capacity: u64) -> Result<Self, Error> {
        Self::open_as(path, capacity, Journaling::Wal)
    }

    /// The same for a file whose journal mode may be kept.
    pub(crate) fn open_as(
        path: &Path,
        capacity: u64,
        journaling: Journaling,
    ) -> Result<Self, Error> {
        check_file(path)?;
        let writer = open_connection(path)?;
        writer.busy_timeout(Duration::ZERO).at(path)?;
        // What a later version has made is left as it is; one that is locked is looked at again below.
        if let Err(later @ Error::Format { .. }) = capture::check_format(&writer, path) {
            return Err(later);
        }
        if journaling == Journaling::Wal {
            switch_to_wal(&writer, path)?;
        }
        let keeps_rollback = journal_mode(&writer, path)? != "wal";
        writer
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
            .and_then(|_| writer.execute_batch("PRAGMA foreign_keys=OFF; PRAGMA synchronous=FULL"))
            .at(path)?;
        // Without a WAL pages that do not fit into memory would lock readers out before the commit does.
        let memory = if keeps_rollback { "PRAGMA cache_spill=OFF" } else { WRITER_MEMORY };
        writer.execute_batch(memory).at(path)?;
        let reader = open_reader(path)?;
        capacity::trim(&writer, path, capacity)?;
        let seen = install(&writer, path, capacity)?;
        let mut database = Self {
            path: path.into(),
            reader,
            writer,
            meta: seen.installed.meta,
            tables: BTreeMap::new(),
            by_name: BTreeMap::new(),
            skipped: Vec::new(),
            warnings: Vec::new(),
            key_columns: 1,
            inode: inode(path)?,
            schema_version: 0,
            user_version: 0,
            digest: [0; 16],
            fence_closed: false,
            keeps_rollback,
            capacity,
            synchronous: Cell::new(true),
            right: None,
        };
        database.take(seen);
        database.check_inode()?;
        room::keep(path);
        Ok(database)
    }

    fn take(&mut self, seen: Seen) {
        let Seen { installed, schema, fence_closed, version, user_version, digest } = seen;
        (self.fence_closed, self.schema_version) = (fence_closed, version);
        (self.user_version, self.digest) = (user_version, digest);
        self.by_name = installed.tables.iter().map(|c| (c.table.name.clone(), c.t)).collect();
        self.tables = installed.tables.into_iter().map(|c| (c.t, c)).collect();
        self.meta = installed.meta;
        self.key_columns = installed.key_columns;
        self.skipped = schema.skipped;
        self.warnings = schema.warnings;
        if !installed.rewritten.is_empty() {
            // What the log says of them is not everything.
            tracing::info!(tables = ?installed.rewritten, path = %self.path.display(),
                "tables are new, rebuilt or renumbered; they are compared");
        }
    }

    /// A copy of the file is another history: positions in the old one mean nothing in it.
    fn check_inode(&mut self) -> Result<(), Error> {
        let inode = self.inode;
        if self.meta.inode == inode {
            return Ok(());
        }
        let copied = self.meta.inode != 0;
        self.update_meta(|meta| {
            meta.inode = inode;
            meta.origin.incarnation += u32::from(copied);
            meta.synced &= !copied;
        })
    }

    /// Changes the stored state in a transaction of its own.
    pub(crate) fn update_meta(&mut self, change: impl FnOnce(&mut Meta)) -> Result<(), Error> {
        let mut meta = self.meta;
        change(&mut meta);
        if meta == self.meta {
            return Ok(());
        }
        self.transaction(PATIENT, |db| capture::write_meta(&db.writer, &meta).at(&db.path))?;
        self.meta = meta;
        Ok(())
    }

    /// Runs `work` in one write transaction.
    pub(crate) fn transaction<T>(
        &mut self,
        patience: Duration,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.begin(patience)?;
        self.end(work, patience)
    }

    /// Takes the write lock for what the disk has once it is committed.
    pub(crate) fn begin(&self, patience: Duration) -> Result<(), Error> {
        self.set_synchronous(true)?;
        begin(&self.writer, &self.path, patience)
    }

    fn end<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
        patience: Duration,
    ) -> Result<T, Error> {
        let result = work(self).and_then(|value| {
            commit(&self.writer, &self.path, patience)?;
            Ok(value)
        });
        if result.is_err() {
            rollback(&self.writer);
        }
        result
    }

    /// The same, but the commit does not wait for the disk: until the `-wal` is synced a power cut
    /// can take all of it, though never a part. In a rollback mode it does wait: there a part could be
    /// missing, which is damage.
    pub(crate) fn transaction_unsynced<T>(
        &mut self,
        patience: Duration,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Nobody can leave the WAL while a connection of ours is in it.
        let wal = !self.keeps_rollback || self.journal_mode()? == "wal";
        self.set_synchronous(!wal)?;
        begin(&self.writer, &self.path, patience)?;
        self.end(work, patience)
    }

    /// Whether commits of the writer wait for the disk; not to be changed within a transaction.
    pub(crate) fn set_synchronous(&self, on: bool) -> Result<(), Error> {
        if self.synchronous.get() != on {
            let value = if on { "FULL" } else { "NORMAL" };
            retry(&self.path, SHORT, || {
                self.writer.pragma_update(None, "synchronous", value).at(&self.path)
            })?;
            self.synchronous.set(on);
        }
        Ok(())
    }

    /// Runs `work` on one read snapshot of the reader.
    pub(crate) fn snapshot<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        execute(&self.reader, "BEGIN").at(&self.path)?;
        let result = work(&self.reader);
        rollback(&self.reader);
        result
    }

    /// The captured table called `name`.
    pub(crate) fn table(&self, name: &str) -> Option<&Captured> {
        self.by_name.get(name).and_then(|t| self.tables.get(t))
    }

    /// The journal mode the file is in now.
    pub(crate) fn journal_mode(&self) -> Result<String, Error> {
        self.reader
            .prepare_cached("PRAGMA journal_mode")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .at(&self.path)
    }

    /// Changes with every commit of another connection, ours included.
    pub(crate) fn data_version(&self) -> Result<DataVersion, Error> {
        if let Some(header) = self.header() {
            return Ok(DataVersion::Index(header));
        }
        self.reader
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map(DataVersion::Number)
            .at(&self.path)
    }

    /// Certainly nobody has committed since: much cheaper than to ask for the version, but not to be
    /// known in a rollback mode.
    pub(crate) fn is_quiet(&self, since: DataVersion) -> bool {
        match since {
            DataVersion::Index(header) => self.header() == Some(header),
            DataVersion::Unknown | DataVersion::Number(_) => false,
        }
    }

    /// A small commit takes no longer than writing its pages: it neither syncs nor brings a checkpoint.
    pub(crate) fn commits_at_once(&self) -> bool {
        self.header().is_some_and(|header| header.pages() < NEAR_CHECKPOINT)
    }

    fn header(&self) -> Option<Header> {
        if self.keeps_rollback { None } else { wal_index::header(&self.reader) }
    }

    /// What commits since `last` have brought; `None`: there were none. Where nothing but records has
    /// changed `read` goes on in the same snapshot.
    pub(crate) fn look<T>(
        &self,
        last: DataVersion,
        dirty: &mut Dirty,
        read: impl FnOnce(&Connection, &mut Dirty) -> Option<T>,
    ) -> Result<Option<Look<T>>, Error> {
        self.snapshot(|db| {
            let version = self.data_version()?;
            let seen = match (last, version) {
                (DataVersion::Index(last), DataVersion::Index(now)) => last == now,
                (DataVersion::Number(last), DataVersion::Number(now)) => last == now,
                (
                    DataVersion::Unknown | DataVersion::Number(_) | DataVersion::Index(_),
                    DataVersion::Unknown | DataVersion::Number(_) | DataVersion::Index(_),
                ) => false,
            };
            if seen {
                return Ok(None);
            }
            let same_schema = self.has_same_schema()?;
            let continued = !same_schema || dirty.is_continued(db).at(&self.path)?;
            let read = (same_schema && continued).then(|| read(db, dirty)).flatten();
            Ok(Some(Look { version, same_schema, continued, read }))
        })
    }

    /// Applications number their migrations with `user_version`: it is part of the schema.
    fn has_same_schema(&self) -> Result<bool, Error> {
        Ok(schema_version(&self.reader).at(&self.path)? == self.schema_version
            && user_version(&self.reader).at(&self.path)? == self.user_version)
    }

    /// Looks whether the schema has changed, and brings capture up to date with it.
    pub(crate) fn check_schema(&mut self) -> Result<SchemaCheck, Error> {
        if self.has_same_schema()? {
            return Ok(SchemaCheck::Same);
        }
        self.reinstall()
    }

    /// Brings capture up to date, whatever was seen before.
    pub(crate) fn reinstall(&mut self) -> Result<SchemaCheck, Error> {
        let before = self.fingerprint();
        self.set_synchronous(true)?;
        let seen = install(&self.writer, &self.path, self.capacity)?;
        self.take(seen);
        // A backup of another file may have been restored into this one.
        self.check_inode()?;
        // A table that was rewritten has another number now.
        let same = before == self.fingerprint();
        Ok(if same { SchemaCheck::Same } else { SchemaCheck::Changed })
    }

    /// Whether this snapshot has the schema the tables were read from: a renumbered or rebuilt table
    /// must not be read by the keys of the old one.
    pub(crate) fn is_current(&self, db: &Connection) -> Result<bool, Error> {
        Ok(schema_version(db).at(&self.path)? == self.schema_version)
    }

    /// Stores whose contents of these tables count.
    pub(crate) fn set_standing(&mut self, tables: &[u32], standing: Standing) -> Result<(), Error> {
        if tables.is_empty() {
            return Ok(());
        }
        self.transaction(PATIENT, |db| {
            tables
                .iter()
                .try_for_each(|t| capture::write_standing(&db.writer, *t, standing))
                .at(&db.path)
        })?;
        self.note_standing(tables, standing);
        Ok(())
    }

    /// The same once it is committed elsewhere.
    pub(crate) fn note_standing(&mut self, tables: &[u32], standing: Standing) {
        for t in tables {
            if let Some(captured) = self.tables.get_mut(t) {
                captured.standing = standing;
            }
        }
    }

    /// Whether the log goes on from an entry the partner has acknowledged.
    pub(crate) fn still_has(&self, acked: Acked) -> Result<bool, Error> {
        let read = || -> rusqlite::Result<bool> {
            let found = log::written_at(&self.reader, acked.seq)?;
            Ok(match (found, acked.ms) {
                (Some(found), Some(ms)) => found == ms,
                // Overwritten by the ring, or never there.
                (None, _) => log::extent(&self.reader)?.last >= acked.seq,
                (Some(_), None) => true,
            })
        };
        read().at(&self.path)
    }

    /// Contents of another time are in the file: a history of its own begins.
    pub(crate) fn note_restored(&mut self) -> Result<(), Error> {
        tracing::warn!(path = %self.path.display(),
            "a backup was restored into the database; it is compared with the partner's");
        self.update_meta(|meta| {
            meta.origin.incarnation += 1;
            meta.synced = false;
        })
    }

    fn fingerprint(&self) -> Fingerprint {
        let tables = self.tables.values().map(|captured| (captured.t, captured.table.hash));
        Fingerprint { tables: tables.collect(), digest: self.digest, meta: self.meta }
    }

    /// Puts the fence up or takes it down. `unshipped`: the partner may have given out ids whose
    /// records never came here.
    ///
    /// # Errors
    /// [`Error::Unseen`]: behind the fence, what the application has just created would count as made
    /// by somebody who may not.
    pub(crate) fn set_fence(
        &mut self,
        closed: bool,
        unshipped: Unshipped,
        patience: Duration,
    ) -> Result<(), Error> {
        if self.fence_closed == closed {
            return Ok(());
        }
        let known = self.meta.applied.is_some();
        let version = self.transaction(patience, |db| {
            if closed {
                room::give(&db.path);
            }
            if closed && !db.is_seen()? {
                return Err(Error::Unseen { path: db.path.clone() });
            }
            if !closed && known && unshipped == Unshipped::Possible {
                sequence::leave_out(db)?;
            }
            db.change_fence(closed)
        })?;
        self.after_fence(closed, version);
        if !closed {
            room::keep(&self.path);
        }
        Ok(())
    }

    /// Whether the schema is the one that was looked at last; within the caller's transaction.
    pub(crate) fn is_seen(&self) -> Result<bool, Error> {
        let version = schema_version(&self.writer).at(&self.path)?;
        let user_version = user_version(&self.writer).at(&self.path)?;
        Ok((version, user_version) == (self.schema_version, self.user_version))
    }

    /// The same inside a transaction that is open already; returns what `after_fence` wants.
    pub(crate) fn change_fence(&mut self, closed: bool) -> Result<i64, Error> {
        let unseen = schema_version(&self.writer).at(&self.path)? != self.schema_version;
        if closed {
            let tables: Vec<Captured> = self.tables.values().cloned().collect();
            fence::close(&self.writer, &tables).at(&self.path)?;
            right::unlimit(&self.writer).at(&self.path)?;
        } else {
            fence::open(&self.writer).at(&self.path)?;
            self.change_right()?;
        }
        // A change of the application that was not looked at yet must still be noticed.
        if unseen {
            return Ok(self.schema_version);
        }
        schema_version(&self.writer).at(&self.path)
    }

    /// Notes a changed fence once it is committed.
    pub(crate) fn after_fence(&mut self, closed: bool, version: i64) {
        self.fence_closed = closed;
        self.schema_version = version;
    }

    /// Whether the path still names the file that is open.
    pub(crate) fn check_file(&self) -> Result<(), Error> {
        match inode(&self.path) {
            Ok(inode) if inode == self.inode => Ok(()),
            Ok(_) | Err(_) => Err(Error::Replaced { path: self.path.clone() }),
        }
    }

    /// Entries the ring holds.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.max(capture::MIN_CAPACITY)
    }
}

/// What the exchange with the partner was agreed on.
#[derive(PartialEq, Eq)]
struct Fingerprint {
    tables: Vec<(u32, [u8; 16])>,
    digest: [u8; 16],
    /// Written here only, so that another one is that of a restored backup.
    meta: Meta,
}

/// What a look at the schema saw, in one transaction.
struct Seen {
    installed: Installed,
    schema: Schema,
    fence_closed: bool,
    version: i64,
    user_version: i64,
    digest: [u8; 16],
}

fn install(writer: &Connection, path: &Path, capacity: u64) -> Result<Seen, Error> {
    writer.flush_prepared_statement_cache();
    let seen = retry(path, SHORT, || {
        writer.execute_batch("BEGIN").at(path)?;
        let seen = capture::check_format(writer, path)
            .and_then(|()| complete(writer, capacity, false).at(path));
        rollback(writer);
        seen
    })?;
    if let Some(seen) = seen {
        return Ok(seen);
    }
    begin(writer, path, PATIENT)?;
    // Looked at again under the lock: the application may have changed the schema in between.
    let result = complete(writer, capacity, true)
        .at(path)
        .and_then(|seen| commit(writer, path, PATIENT).map(|()| seen));
    if result.is_err() {
        rollback(writer);
    }
    result?.ok_or(Error::Mismatch("capture could not be installed"))
}

/// Brings capture up to the schema, in the caller's transaction; `None` when that needs writing
/// and the transaction only reads.
fn complete(db: &Connection, capacity: u64, may_write: bool) -> rusqlite::Result<Option<Seen>> {
    let schema = schema::read(db)?;
    let fence_closed = fence::is_closed(db)?;
    let plan = capture::plan(db, &schema, capacity, fence_closed)?;
    if !may_write && !plan.statements.is_empty() {
        return Ok(None);
    }
    let installed = capture::finish(db, &schema, plan)?;
    // Within the transaction: a change right after it must be seen as one.
    let version = schema_version(db)?;
    let (user_version, digest) = (user_version(db)?, seed::digest(db)?);
    Ok(Some(Seen { installed, schema, fence_closed, version, user_version, digest }))
}

fn schema_version(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))
}

fn user_version(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))
}

/// Removes every object of ours, in pieces short enough for the application.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    check_file(path)?;
    room::release(path);
    let db = open_connection(path)?;
    db.busy_timeout(Duration::ZERO).at(path)?;
    if !retry(path, PATIENT, || capture::any_object(&db).at(path))? {
        return Ok(());
    }
    in_transaction(&db, path, capture::drop_triggers)?;
    while in_transaction(&db, path, |db| capture::shrink_log(db, 1000))? == 1000 {
        thread::sleep(Duration::from_micros(200));
    }
    in_transaction(&db, path, capture::drop_tables)
}
