//! Reads and hashes ranges of keys in key order.
//!
//! Decides how a range is cut into smaller ones. Must not know the partner. SQLite evaluates the
//! ranges, so that its collations and affinities count, not ours.

use ipicsha_core::data::{BriefHash, Columns, Key, Range, RowHash, Value};
use rusqlite::{Connection, Row};

use crate::{
    schema::Table,
    value::{self, bind, quote},
};

/// The keys behind `after` up to and with `upto`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) after: Option<Key>,
    pub(crate) upto: Option<Key>,
}

/// Visits the rows of a span in key order until `visit` says `false`.
fn visit(
    db: &Connection,
    table: &Table,
    span: &Span,
    mut visit: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let ordered = table.ordered_key();
    let list = ordered.join(",");
    let count = ordered.len();
    // A record with NULL in its key cannot be addressed, so it takes no part.
    let mut terms: Vec<String> = table
        .key_names()
        .iter()
        .filter(|_| table.key_may_be_null)
        .map(|name| format!("{name} IS NOT NULL"))
        .collect();
    let mut first = 1;
    let mut bound = |operator: &str, key: &Option<Key>| {
        if key.is_some() {
            let places: Vec<String> = (first..first + count).map(|n| format!("?{n}")).collect();
            terms.push(format!("({list}) {operator} ({})", places.join(",")));
            first += count;
        }
    };
    bound(">", &span.after);
    bound("<=", &span.upto);
    let condition = if terms.is_empty() { String::new() } else { "WHERE ".to_owned() };
    let sql = format!(
        "SELECT {} FROM {} {condition}{} ORDER BY {list}",
        table.column_list(),
        quote(&table.name),
        terms.join(" AND ")
    );
    let mut statement = db.prepare_cached(&sql)?;
    bind(&mut statement, 1, span.after.iter().chain(&span.upto).flatten())?;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if !visit(row)? {
            break;
        }
    }
    Ok(())
}

/// Hashes many rows: they are gathered, for blake3 works on many blocks at once where it gets them.
#[derive(Default)]
struct Digest {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

impl Digest {
    /// A power of two: blake3 then takes the whole piece at once.
    const GATHERED: usize = 64 << 10;

    fn add(&mut self, row: &Row<'_>, table: &Table) -> rusqlite::Result<()> {
        encode_row(row, table, &mut self.gathered)?;
        if self.gathered.len() >= Self::GATHERED {
            let whole = self.gathered.len() / Self::GATHERED * Self::GATHERED;
            self.hasher.update(&self.gathered[..whole]);
            self.gathered.drain(..whole);
        }
        Ok(())
    }

    /// The hash so far; the next range begins.
    fn take(&mut self) -> RowHash {
        self.hasher.update(&self.gathered);
        self.gathered.clear();
        let hash = value::short(&self.hasher.finalize());
        self.hasher.reset();
        hash
    }
}

/// Appends a row to `encoded`.
fn encode_row(row: &Row<'_>, table: &Table, encoded: &mut Vec<u8>) -> rusqlite::Result<()> {
    (0..table.columns.len()).try_for_each(|index| {
        value::encode(encoded, row.get_ref(index)?);
        Ok(())
    })
}

fn read_key(row: &Row<'_>, table: &Table) -> rusqlite::Result<Key> {
    table.key.iter().map(|index| row.get_ref(*index).map(value::read)).collect()
}

/// Cuts a span into ranges of `rows` rows, at most `limit` ranges. The last one reaches to the end
/// of the span when everything was read, so that nothing of the other side falls between.
pub(crate) fn ranges(
    db: &Connection,
    table: &Table,
    span: &Span,
    rows: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Range>> {
    let mut ranges = Vec::new();
    let mut digest = Digest::default();
    let (mut count, mut ended) = (0, true);
    let mut last = None;
    visit(db, table, span, |row| {
        if count == rows {
            ranges.push(Range { upto: last.take(), count, hash: digest.take() });
            count = 0;
            if ranges.len() == limit {
                ended = false;
                return Ok(false);
            }
        }
        digest.add(row, table)?;
        count += 1;
        if count == rows {
            last = Some(read_key(row, table)?);
        }
        Ok(true)
    })?;
    if ended {
        ranges.push(Range { upto: span.upto.clone(), count, hash: digest.take() });
    }
    Ok(ranges)
}

/// Rows of a table.
pub(crate) fn count(db: &Connection, table: &Table) -> rusqlite::Result<u64> {
    let sql = format!("SELECT count(*) FROM {}", quote(&table.name));
    db.query_row(&sql, [], |row| row.get(0)).map(i64::cast_unsigned)
}

/// Rows of a span as they are.
pub(crate) struct Part {
    pub(crate) rows: Vec<Columns>,
    /// Others lie behind the last one.
    pub(crate) more: bool,
}

/// The first rows of a span: at most `limit`, and no more once they have `bytes`.
pub(crate) fn contents(
    db: &Connection,
    table: &Table,
    span: &Span,
    limit: usize,
    bytes: usize,
) -> rusqlite::Result<Part> {
    let mut part = Part { rows: Vec::new(), more: false };
    let mut taken = 0;
    visit(db, table, span, |row| {
        if part.rows.len() >= limit || taken >= bytes {
            part.more = true;
            return Ok(false);
        }
        let columns = value::read_columns(row, 0, table.columns.len())?;
        taken += size(&columns);
        part.rows.push(columns);
        Ok(true)
    })?;
    Ok(part)
}

/// Count and hash of the rows in one span.
pub(crate) fn digest(
    db: &Connection,
    table: &Table,
    span: &Span,
) -> rusqlite::Result<(u64, RowHash)> {
    let mut digest = Digest::default();
    let mut count = 0;
    visit(db, table, span, |row| {
        digest.add(row, table)?;
        count += 1;
        Ok(true)
    })?;
    Ok((count, digest.take()))
}

/// Whether the record with `key` is there and lies at or before `upto`.
pub(crate) fn reaches(
    db: &Connection,
    table: &Table,
    key: &[Value],
    upto: &[Value],
) -> rusqlite::Result<bool> {
    let ordered = table.ordered_key();
    let count = ordered.len();
    let same: Vec<String> =
        ordered.iter().enumerate().map(|(n, name)| format!("{name}=?{}", n + 1)).collect();
    let places: Vec<String> = (count + 1..=2 * count).map(|n| format!("?{n}")).collect();
    let sql = format!(
        "SELECT 1 FROM {} WHERE {} AND ({}) <= ({})",
        quote(&table.name),
        same.join(" AND "),
        ordered.join(","),
        places.join(",")
    );
    let mut statement = db.prepare_cached(&sql)?;
    bind(&mut statement, 1, key.iter().chain(upto))?;
    Ok(statement.raw_query().next()?.is_some())
}

/// Key and hash of up to `limit` rows in one span.
pub(crate) fn rows(
    db: &Connection,
    table: &Table,
    span: &Span,
    limit: usize,
) -> rusqlite::Result<Vec<(Key, BriefHash)>> {
    let mut rows = Vec::new();
    let mut encoded = Vec::new();
    visit(db, table, span, |row| {
        encoded.clear();
        encode_row(row, table, &mut encoded)?;
        rows.push((read_key(row, table)?, value::brief(&encoded)));
        Ok(rows.len() < limit)
    })?;
    Ok(rows)
}

/// Keys of up to `limit` rows in one span.
pub(crate) fn keys(
    db: &Connection,
    table: &Table,
    span: &Span,
    limit: usize,
) -> rusqlite::Result<Vec<Key>> {
    let mut keys = Vec::new();
    visit(db, table, span, |row| {
        keys.push(read_key(row, table)?);
        Ok(keys.len() < limit)
    })?;
    Ok(keys)
}

/// Whether a message may hold `columns` more after `bytes` so far.
pub(crate) fn size(columns: &[Value]) -> usize {
    columns.iter().map(Value::size).sum()
}
