//! Counts what is in a database and in its transaction log, for the replication status.
//!
//! Decides how to count without being noticed: on a connection of its own, in reads of a few
//! milliseconds, with a pause as long as each. So the application's checkpoints and, without a
//! WAL, its commits wait for no more than one such read. Must not know the worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use ipicsha_core::{data::Key, id::Seq};
use rusqlite::Connection;

use crate::{
    database::check_file,
    error::{AtPath as _, Error},
    identity::Identity,
    reader::open_reader,
    rollback::beside,
    schema::{self, Table},
    value::{self, bind, quote},
};

/// One read aims at this.
const READ: Duration = Duration::from_millis(4);
/// Rows or log entries of the first read; later ones follow from how long it took.
const FIRST: i64 = 2000;
const FEWEST: i64 = 50;
const MOST: i64 = 200_000;
/// How long a lock of another program is waited for, over all reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Replicated tables by name.
    pub tables: BTreeMap<String, TableCensus>,
}

/// What one table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableCensus {
    /// How its records are told apart.
    pub identity: Identity,
    /// Records that can be replicated, those with NULL in their key left out.
    pub rows: u64,
    /// `false`: the time was over, there are at least so many.
    pub complete: bool,
    /// Newest entry in the transaction log, in milliseconds since 1970.
    pub changed_ms: Option<i64>,
    /// Log entries the partner has not acknowledged.
    pub queue: u64,
    /// The oldest of them, in milliseconds since 1970.
    pub oldest_queued_ms: Option<i64>,
}

/// Counts what is in the database at `path`; `acked` is what the partner has of its log. Blocks the
/// caller for up to `budget`, and then says what it has.
///
/// # Errors
/// The file is missing or no database, or stays locked.
pub fn census(path: &Path, acked: Seq, budget: Duration) -> Result<Census, Error> {
    check_file(path)?;
    let mut reader = Reader::open(path, budget)?;
    let schema = reader.read(|db, _| schema::read(db))?;
    let mut census = Census::default();
    for (name, table) in &schema.tables {
        census.tables.insert(
            name.clone(),
            TableCensus {
                identity: table.identity,
                rows: 0,
                complete: false,
                changed_ms: None,
                queue: 0,
                oldest_queued_ms: None,
            },
        );
    }
    // The log first: it is what people wait for.
    reader.log(&mut census, acked)?;
    for (name, table) in &schema.tables {
        if let Some(counted) = census.tables.get_mut(name) {
            (counted.rows, counted.complete) = reader.count(table)?;
        }
    }
    Ok(census)
}

struct Reader {
    path: PathBuf,
    db: Connection,
    until: Instant,
    patience: Duration,
    /// Rows of the next read.
    limit: i64,
}

impl Reader {
    fn open(path: &Path, budget: Duration) -> Result<Self, Error> {
        let db = open_reader(path)?;
        db.busy_timeout(Duration::from_millis(20)).at(path)?;
        let until = Instant::now() + budget;
        Ok(Self { path: path.into(), db, until, patience: PATIENCE, limit: FIRST })
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// One short read, and a pause.
    fn read<T>(
        &mut self,
        work: impl Fn(&Connection, i64) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        loop {
            let started = Instant::now();
            let result = {
                let _beside = beside();
                work(&self.db, self.limit).at(&self.path)
            };
            let took = started.elapsed();
            // It is another program's turn for as long.
            thread::sleep(took);
            match result {
                Err(error) if error.is_busy() => {
                    self.patience = self.patience.saturating_sub(took * 2);
                    if self.patience.is_zero() {
                        return Err(Error::Locked { path: self.path.clone() });
                    }
                }
                result => {
                    let share = READ.as_secs_f64() / took.as_secs_f64().max(1e-6);
                    let next = self.limit as f64 * share.clamp(0.2, 4.0);
                    self.limit = (next as i64).clamp(FEWEST, MOST);
                    return result;
                }
            }
        }
    }

    /// Rows of a table, counted from key to key; whether that is all.
    fn count(&mut self, table: &Table) -> Result<(u64, bool), Error> {
        let (mut rows, mut after) = (0, None::<Key>);
        while !self.is_over() {
            let (count, last) = self.read(|db, limit| step(db, table, after.as_ref(), limit))?;
            rows += count.cast_unsigned();
            let Some(last) = last else { return Ok((rows, true)) };
            after = Some(last);
        }
        Ok((rows, false))
    }

    /// Queue and last change of every table.
    fn log(&mut self, census: &mut Census, acked: Seq) -> Result<(), Error> {
        let exists =
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('_ipicsha_log','_ipicsha_tab')";
        if self.read(|db, _| db.query_row(exists, [], |row| row.get::<_, i64>(0)))? != 2 {
            return Ok(());
        }
        let names = self.read(|db, _| {
            let sql = "SELECT t, name FROM _ipicsha_tab WHERE name IS NOT NULL";
            let mut statement = db.prepare(sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<BTreeMap<i64, String>>>()
        })?;
        let mut missing: BTreeSet<i64> = names.keys().copied().collect();
        // Backwards: the newest entry of a table comes first, and the queue is at the end.
        let mut before = i64::MAX;
        while !self.is_over() {
            let entries = self.read(|db, limit| entries(db, before, limit))?;
            let Some((oldest, ..)) = entries.last() else { break };
            before = *oldest;
            for (seq, t, ms) in entries {
                let Some(table) = names.get(&t).and_then(|name| census.tables.get_mut(name)) else {
                    continue;
                };
                if missing.remove(&t) {
                    table.changed_ms = Some(ms);
                }
                if seq > acked.0 {
                    table.queue += 1;
                    table.oldest_queued_ms = Some(ms);
                }
            }
            if before <= acked.0 && missing.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// Number, table and time of entries, newest first.
fn entries(db: &Connection, before: i64, limit: i64) -> rusqlite::Result<Vec<(i64, i64, i64)>> {
    let mut statement = db.prepare_cached(
        "SELECT seq, t, ms FROM _ipicsha_log WHERE seq<?1 ORDER BY seq DESC LIMIT ?2",
    )?;
    let rows =
        statement.query_map([before, limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

/// Counts up to `limit` rows behind a key; the last key if there may be more.
fn step(
    db: &Connection,
    table: &Table,
    after: Option<&Key>,
    limit: i64,
) -> rusqlite::Result<(i64, Option<Key>)> {
    let (names, ordered) = (table.key_names(), table.ordered_key().join(","));
    let count = names.len();
    let mut terms: Vec<String> = names.iter().map(|name| format!("{name} IS NOT NULL")).collect();
    if after.is_some() {
        let places: Vec<String> = (1..=count).map(|n| format!("?{n}")).collect();
        terms.push(format!("({ordered}) > ({})", places.join(",")));
    }
    let from = format!("FROM {} WHERE {}", quote(&table.name), terms.join(" AND "));
    let key = names.join(",");
    let values = || after.into_iter().flatten();
    let last = {
        let offset = limit - 1;
        let sql = format!("SELECT {key} {from} ORDER BY {ordered} LIMIT 1 OFFSET {offset}");
        let mut statement = db.prepare(&sql)?;
        bind(&mut statement, 1, values())?;
        let mut rows = statement.raw_query();
        rows.next()?.map(|row| value::read_columns(row, 0, count)).transpose()?
    };
    if last.is_some() {
        return Ok((limit, last));
    }
    let mut statement = db.prepare(&format!("SELECT count(*) {from}"))?;
    bind(&mut statement, 1, values())?;
    let rest = statement.raw_query().next()?.map(|row| row.get(0)).transpose()?;
    Ok((rest.unwrap_or(0), None))
}
