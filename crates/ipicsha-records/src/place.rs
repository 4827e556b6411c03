//! Puts versions into their tables although UNIQUE rules may be in the way.
//!
//! Decides who yields when a version collides with another record. Must not know where versions
//! come from. A set of versions is consistent in itself (one snapshot of the sender), so within it
//! only the order can collide; a collision with a record outside needs a rule.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use foldhash::fast::RandomState;
use ipicsha_core::{
    data::{Columns, Key, Origin, Value},
    id::Seq,
    license::LicensedRole,
    lww::Stamp,
};
use rusqlite::CachedStatement;

use crate::{
    capture::Captured,
    database::Database,
    error::{AtPath as _, Error, is_unique},
    journal::{JournalKind, Loser, Version},
    log::{Dirty, Record},
    value::{self, bind},
};

/// One version on its way into its table.
pub(crate) struct Write<'a> {
    pub(crate) captured: &'a Captured,
    pub(crate) record: Record,
    pub(crate) key: Key,
    /// `None` deletes.
    pub(crate) columns: Option<&'a [Value]>,
    pub(crate) stamp: Stamp,
    pub(crate) seq: Seq,
}

/// Who yields when a version collides with a record outside the set.
pub(crate) enum Rule<'a> {
    /// A record changed here concurrently competes by stamp; any other has been changed by the
    /// sender too, in what follows, and yields.
    LastWriter {
        dirty: &'a Dirty,
        base: Seq,
        role: LicensedRole,
        partner: Origin,
        /// Yielding records are kept in the journal, even those the sender should know.
        keep_overwritten: bool,
    },
    /// The incoming version stays (repair on the secondary); `Seq` numbers the repair.
    IncomingWins(Seq),
    /// The record that is here stays (repair on the primary).
    LocalWins,
}

/// What became of the writes.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    pub(crate) losers: Vec<Loser>,
    /// Records that yielded because the sender has changed them, too.
    pub(crate) displaced: Vec<Loser>,
    /// Keys of versions that had to yield.
    pub(crate) refused: Vec<Key>,
}

/// Carries out `writes` in the caller's transaction.
pub(crate) fn execute(
    database: &Database,
    writes: &[Write<'_>],
    rule: &Rule<'_>,
) -> Result<Placed, Error> {
    let mut placed = Placed::default();
    let mut statements = Statements::default();
    let mut collided = false;
    for write in writes {
        if collides(database, &mut statements, write)? {
            collided = true;
            break;
        }
    }
    if collided {
        // Two records may have swapped a UNIQUE value: all out first, then all in. That ends the
        // same whether or not some are in already, so there is no need for a savepoint, for which
        // SQLite would copy every page it changes.
        for write in writes {
            delete(database, write.captured, &write.key)?;
        }
        for write in writes.iter().filter(|write| write.columns.is_some()) {
            if collides(database, &mut statements, write)? {
                settle(database, &mut statements, write, rule, &mut placed)?;
            }
        }
    }
    Ok(placed)
}

/// Writes one version; `true` when a UNIQUE rule refused it.
fn collides<'a>(
    database: &'a Database,
    statements: &mut Statements<'a>,
    write: &Write<'_>,
) -> Result<bool, Error> {
    let Some(columns) = write.columns else {
        return statements.delete(database, write).at(&database.path).map(|()| false);
    };
    match statements.put(database, write, columns) {
        Err(error) if is_unique(&error) => Ok(true),
        result => result.at(&database.path).map(|()| false),
    }
}

/// The statements of a set, prepared once: looking one up for every record is a part of the work.
#[derive(Default)]
struct Statements<'a> {
    selects: HashMap<u32, CachedStatement<'a>, RandomState>,
    inserts: HashMap<u32, CachedStatement<'a>, RandomState>,
    deletes: HashMap<u32, CachedStatement<'a>, RandomState>,
    /// By what they set.
    updates: HashMap<(u32, u128), CachedStatement<'a>, RandomState>,
}

impl<'a> Statements<'a> {
    /// Makes the record what `columns` say. Only what differs is set: an index of the application
    /// over other columns is not touched then, which is half of the work.
    fn put(
        &mut self,
        database: &'a Database,
        write: &Write<'_>,
        columns: &[Value],
    ) -> rusqlite::Result<()> {
        let (t, table) = (write.captured.t, &write.captured.table);
        if columns.len() > u128::BITS as usize {
            return run(database, &table.sql.upsert, columns);
        }
        let select = prepared(&mut self.selects, t, database, || table.sql.select.clone())?;
        let Some(differing) = differing(select, write, columns)? else {
            let insert = prepared(&mut self.inserts, t, database, || table.sql.insert.clone())?;
            bind(insert, 1, columns)?;
            return insert.raw_execute().map(drop);
        };
        if differing == 0 {
            return Ok(());
        }
        let sql = || table.update_sql(|index| differing & (1 << index) != 0);
        let update = prepared(&mut self.updates, (t, differing), database, sql)?;
        let set = columns.iter().enumerate().filter(|(index, _)| differing & (1 << index) != 0);
        bind(update, 1, set.map(|(_, value)| value))?;
        bind(update, differing.count_ones() as usize + 1, &write.key)?;
        update.raw_execute().map(drop)
    }

    fn delete(&mut self, database: &'a Database, write: &Write<'_>) -> rusqlite::Result<()> {
        let sql = || write.captured.table.sql.delete.clone();
        let delete = prepared(&mut self.deletes, write.captured.t, database, sql)?;
        bind(delete, 1, &write.key)?;
        delete.raw_execute().map(drop)
    }
}

fn prepared<'s, 'a, K: Eq + Hash>(
    of: &'s mut HashMap<K, CachedStatement<'a>, RandomState>,
    key: K,
    database: &'a Database,
    sql: impl FnOnce() -> String,
) -> rusqlite::Result<&'s mut CachedStatement<'a>> {
    Ok(match of.entry(key) {
        Entry::Occupied(prepared) => prepared.into_mut(),
        Entry::Vacant(place) => place.insert(database.writer.prepare_cached(&sql())?),
    })
}

/// Which columns of the record are another value here, bit by bit; `None`: it is not here.
fn differing(
    select: &mut CachedStatement<'_>,
    write: &Write<'_>,
    columns: &[Value],
) -> rusqlite::Result<Option<u128>> {
    bind(select, 1, &write.key)?;
    let mut rows = select.raw_query();
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut differing = 0;
    for (index, value) in columns.iter().enumerate() {
        if !value::is_same(value, row.get_ref(index)?) {
            differing |= 1 << index;
        }
    }
    Ok(Some(differing))
}

fn delete(database: &Database, captured: &Captured, key: &[Value]) -> Result<(), Error> {
    run(database, &captured.table.sql.delete, key).at(&database.path)
}

fn run(database: &Database, sql: &str, values: &[Value]) -> rusqlite::Result<()> {
    let mut statement = database.writer.prepare_cached(sql)?;
    bind(&mut statement, 1, values)?;
    statement.raw_execute().map(drop)
}

/// A version collides with records outside the set.
fn settle<'a>(
    database: &'a Database,
    statements: &mut Statements<'a>,
    write: &Write<'_>,
    rule: &Rule<'_>,
    placed: &mut Placed,
) -> Result<(), Error> {
    if matches!(rule, Rule::LocalWins) {
        placed.refused.push(write.key.clone());
        return Ok(());
    }
    let mut yielding = Vec::new();
    let blockers = match &write.captured.table.sql.any_blocker {
        Some(sql) => any_blockers(database, write, sql)?,
        None => blockers(database, write)?,
    };
    for columns in blockers {
        match judge(database, write, rule, columns) {
            Verdict::Yields(yields, loser, key) => yielding.push((yields, loser, key)),
            Verdict::Stays(loser) => {
                placed.losers.extend(loser.map(|loser| *loser));
                placed.refused.push(write.key.clone());
                return Ok(());
            }
        }
    }
    for (yields, loser, key) in yielding {
        delete(database, write.captured, &key)?;
        match yields {
            Yields::Lost => placed.losers.push(*loser),
            Yields::Displaced => placed.displaced.push(*loser),
        }
    }
    if collides(database, statements, write)? {
        return Err(Error::Unplaceable {
            path: database.path.clone(),
            table: write.captured.table.name.clone(),
            reason: format!("a UNIQUE rule refuses {}", value::describe_key(&write.key)),
        });
    }
    Ok(())
}

/// How a record goes that is here.
#[derive(Clone, Copy)]
enum Yields {
    /// Into the journal.
    Lost,
    /// Its new version comes, or its deletion.
    Displaced,
}

enum Verdict {
    /// The record that is here goes.
    Yields(Yields, Box<Loser>, Key),
    /// It stays; the incoming version goes into the journal if a loser is given.
    Stays(Option<Box<Loser>>),
}

fn judge(database: &Database, write: &Write<'_>, rule: &Rule<'_>, columns: Columns) -> Verdict {
    let table = &write.captured.table;
    let key = table.key_of(&columns);
    let own = database.meta.origin;
    // The blocker as a version of its own record, so that it can be journaled under its key. `seq` is of
    // the log of `origin`: two versions of a record with the same number are two in the journal.
    let blocker = |(origin, seq), wall, kind, columns| {
        let loser = Loser { key: key.clone(), wall, ..write.own_loser(kind, origin, seq, None) };
        Box::new(Loser { version: Some(columns), ..loser })
    };
    match rule {
        Rule::LastWriter { dirty, base, role, partner, keep_overwritten } => {
            let record = (write.captured.t, table.identity_of(&key));
            match dirty.last_change(&record).filter(|(seq, _)| seq > base) {
                Some((_, wall)) if (Stamp { wall, role: *role }) > write.stamp => {
                    let loser = write.incoming_loser(JournalKind::Unique, *partner, None);
                    let loser = Loser { winner_wall: Some(wall), winner: Some(columns), ..loser };
                    Verdict::Stays(Some(Box::new(loser)))
                }
                Some((seq, wall)) => {
                    let loser = blocker((own, seq), Some(wall), JournalKind::Unique, columns);
                    Verdict::Yields(Yields::Lost, loser, key)
                }
                None if *keep_overwritten => {
                    let loser = blocker((*partner, write.seq), None, JournalKind::Repair, columns);
                    Verdict::Yields(Yields::Lost, loser, key)
                }
                None => {
                    let loser = blocker((*partner, write.seq), None, JournalKind::Unique, columns);
                    Verdict::Yields(Yields::Displaced, loser, key)
                }
            }
        }
        Rule::IncomingWins(run) => {
            let loser = blocker((own, *run), None, JournalKind::Repair, columns);
            Verdict::Yields(Yields::Lost, loser, key)
        }
        Rule::LocalWins => Verdict::Stays(None),
    }
}

/// Records that hold a UNIQUE value of the version.
fn blockers(database: &Database, write: &Write<'_>) -> Result<Vec<Columns>, Error> {
    let table = &write.captured.table;
    let mut found: Vec<Columns> = Vec::new();
    let Some(columns) = write.columns else { return Ok(found) };
    for (unique, sql) in table.uniques.iter().zip(&table.sql.blockers) {
        let read = || -> rusqlite::Result<Vec<Columns>> {
            let mut statement = database.writer.prepare_cached(sql)?;
            bind(&mut statement, 1, unique.columns.iter().map(|(column, _)| &columns[*column]))?;
            bind(&mut statement, unique.columns.len() + 1, &write.key)?;
            let mut rows = statement.raw_query();
            let mut blockers = Vec::new();
            while let Some(row) = rows.next()? {
                blockers.push(value::read_columns(row, 0, table.columns.len())?);
            }
            Ok(blockers)
        };
        for blocker in read().at(&database.path)? {
            if !found.contains(&blocker) {
                found.push(blocker);
            }
        }
    }
    Ok(found)
}

/// The same where a UNIQUE rule is over an expression or a part of the table: only SQLite knows which
/// record it means. Each is taken out until the version fits; nothing of that stays.
fn any_blockers(database: &Database, write: &Write<'_>, sql: &str) -> Result<Vec<Columns>, Error> {
    let table = &write.captured.table;
    let Some(columns) = write.columns else { return Ok(Vec::new()) };
    let own = table.identity_of(&write.key);
    let find = || -> rusqlite::Result<Columns> {
        let mut statement = database.writer.prepare_cached(sql)?;
        bind(&mut statement, 1, columns)?;
        let mut rows = statement.raw_query();
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        value::read_columns(row, 0, table.columns.len())
    };
    let mut found = Vec::new();
    database.writer.execute_batch("SAVEPOINT ipicsha_blockers").at(&database.path)?;
    let searched = loop {
        let blocker = match find().at(&database.path) {
            Ok(blocker) => blocker,
            Err(error) => break Err(error),
        };
        let key = table.key_of(&blocker);
        if table.identity_of(&key) == own {
            break Ok(());
        }
        if let Err(error) = delete(database, write.captured, &key) {
            break Err(error);
        }
        found.push(blocker);
    };
    let undo = "ROLLBACK TO ipicsha_blockers; RELEASE ipicsha_blockers";
    database.writer.execute_batch(undo).at(&database.path)?;
    searched.map(|()| found)
}

impl Write<'_> {
    /// The incoming version as loser against `winner`.
    pub(crate) fn incoming_loser(
        &self,
        kind: JournalKind,
        partner: Origin,
        winner: Version,
    ) -> Loser {
        Loser {
            table: self.captured.table.name.clone(),
            columns: self.captured.table.columns.clone(),
            key: self.key.clone(),
            kind,
            origin: partner,
            seq: self.seq,
            was_own: false,
            wall: Some(self.stamp.wall),
            version: self.columns.map(<[Value]>::to_vec),
            winner_wall: None,
            winner,
            run: None,
        }
    }

    /// The `local` version as loser against the incoming one; `seq` is of the log of `origin`, or the number
    /// of a repair here.
    pub(crate) fn own_loser(
        &self,
        kind: JournalKind,
        origin: Origin,
        seq: Seq,
        local: Version,
    ) -> Loser {
        Loser {
            table: self.captured.table.name.clone(),
            columns: self.captured.table.columns.clone(),
            key: self.key.clone(),
            kind,
            origin,
            seq,
            was_own: true,
            wall: None,
            version: local,
            winner_wall: Some(self.stamp.wall),
            winner: self.columns.map(<[Value]>::to_vec),
            run: None,
        }
    }
}
