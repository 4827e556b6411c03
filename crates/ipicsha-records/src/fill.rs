//! Rows for a side that has none in a range: taken as they come, in large steps.
//!
//! Decides how large a transaction may be: beside a writing application short ones with pauses,
//! otherwise a whole message. Where the range turns out not to be empty, `repair` decides.

use std::{thread, time::Instant};

use ipicsha_core::{
    data::{Columns, Differences, Key, PrimaryVersion},
    id::Seq,
    lww::Stamp,
    time::WallTime,
};

use crate::{
    apply::Setting,
    database::{Database, PATIENT},
    error::{AtPath as _, Error, is_unique},
    place::Write,
    repair::{self, Fixed, Terms},
    value::bind,
};

/// Rows in one transaction while the application writes here, too.
const SHARED_ROWS: usize = 500;

/// Takes the primary's rows, where this side has none.
pub(crate) fn fill(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    rows: &[Columns],
    terms: &Terms<'_>,
) -> Result<Fixed, Error> {
    let mut all = Fixed::default();
    in_pieces(database, rows, |database, piece| {
        let found = match insert_all(database, setting, table, piece, terms.base)? {
            Some(inserted) => Fixed {
                found: Differences { only_primary: inserted, ..Default::default() },
                ..Default::default()
            },
            None => {
                let captured = repair::captured(database, table)?;
                let version = |columns: &Columns| {
                    (captured.table.key_of(columns), PrimaryVersion::Contents(columns.clone()))
                };
                let versions: Vec<_> = piece.iter().map(version).collect();
                repair::fix(database, setting, table, &versions, terms)?
            }
        };
        all.add(found);
        Ok(())
    })?;
    Ok(all)
}

/// What became of fetched rows.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// Rows this side did not have.
    pub(crate) new: u64,
    /// Key of the last row.
    pub(crate) last: Option<Key>,
    /// Keys of rows a UNIQUE rule refused.
    pub(crate) refused: Vec<Key>,
}

/// Takes the secondary's rows, where this side has none.
pub(crate) fn take_copies(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    base: Seq,
    rows: &[Columns],
) -> Result<Copied, Error> {
    let mut all = Copied::default();
    in_pieces(database, rows, |database, piece| {
        if let Some(inserted) = insert_all(database, setting, table, piece, base)? {
            all.new += inserted;
        } else {
            let copied = repair::copy(database, setting, table, base, piece)?;
            all.new += copied.new;
            all.refused.extend(copied.refused);
        }
        Ok(())
    })?;
    let table = &repair::captured(database, table)?.table;
    all.last = rows.last().map(|columns| table.key_of(columns));
    Ok(all)
}

/// Carries `work` out on all rows, yielding to an application that may write here.
fn in_pieces(
    database: &mut Database,
    rows: &[Columns],
    mut work: impl FnMut(&mut Database, &[Columns]) -> Result<(), Error>,
) -> Result<(), Error> {
    let shared = !database.fence_closed;
    let limit = if shared { SHARED_ROWS } else { usize::MAX };
    let mut pieces = rows.chunks(limit).peekable();
    while let Some(piece) = pieces.next() {
        let started = Instant::now();
        work(database, piece)?;
        if shared && pieces.peek().is_some() {
            // As long as the piece took: applications get the lock, too.
            thread::sleep(started.elapsed());
        }
    }
    Ok(())
}

/// Inserts all rows in one transaction, except those changed here since; `None`, with nothing done,
/// when one of them is there already or collides.
fn insert_all(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    rows: &[Columns],
    base: Seq,
) -> Result<Option<u64>, Error> {
    let mut seen = Vec::new();
    let done = database.transaction(PATIENT, |database| {
        setting.dirty.refresh(&database.writer, database)?;
        let captured = repair::captured(database, table)?;
        let mut statement =
            database.writer.prepare_cached(&captured.table.sql.insert).at(&database.path)?;
        let stamp = Stamp { wall: WallTime(0), role: setting.role.other() };
        let mut inserted = 0;
        for columns in rows {
            if columns.len() != captured.table.columns.len() {
                return Err(Error::Mismatch("a row has another number of columns"));
            }
            let key = captured.table.key_of(columns);
            let record = Write::new(captured, key, Some(columns), stamp, Seq(0)).record;
            if setting.dirty.last_change(&record).is_some_and(|(seq, _)| seq > base) {
                continue;
            }
            match bind(&mut statement, 1, columns).and_then(|()| statement.raw_execute()) {
                Ok(_) => inserted += 1,
                Err(error) if is_unique(&error) => return Err(Error::Collision),
                result => drop(result.at(&database.path)?),
            }
            if setting.received.is_some() {
                seen.push(record);
            }
        }
        Ok(inserted)
    });
    match done {
        Err(Error::Collision) => Ok(None),
        result => {
            let inserted = result?;
            setting.note_received(seen);
            Ok(Some(inserted))
        }
    }
}
