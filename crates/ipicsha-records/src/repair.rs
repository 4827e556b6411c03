//! Repairs differences: the primary's version replaces the secondary's, one-sided ones are copied.
//!
//! Decides about one step of keys; the order of steps is the comparison's business. A record
//! changed here since the other side read it is left alone, for replication brings the newer one.

use ipicsha_core::{
    data::{Columns, Differences, Key, PrimaryVersion},
    id::Seq,
    lww::Stamp,
    time::WallTime,
};

use crate::{
    apply::Setting,
    database::{Database, SHORT},
    error::{AtPath as _, Error},
    journal::{JournalKind, Loser},
    log::read_row,
    place::{self, Rule, Write},
    value,
};

/// What a step found and did on the secondary.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    pub(crate) found: Differences,
    /// Rows the primary does not have.
    pub(crate) copies: Vec<Columns>,
    pub(crate) losers: Vec<Loser>,
}

/// Compares the primary's versions with ours and, if `apply`, takes them.
pub(crate) fn fix(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    base: Seq,
    versions: &[(Key, PrimaryVersion)],
    run: u64,
    apply: bool,
) -> Result<Fixed, Error> {
    let mut seen = Vec::new();
    let fixed = database.transaction(SHORT, |database| {
        setting.dirty.refresh(&database.writer, database)?;
        let mut step = Step { fixed: Fixed::default(), writes: Vec::new(), absent: Vec::new() };
        for (key, version) in versions {
            step.look(database, setting, table, base, key, version, run)?;
        }
        let Step { mut fixed, writes, absent } = step;
        if !apply {
            fixed.losers.clear();
            return Ok(fixed);
        }
        let numbered = Seq(run.cast_signed());
        let placed = place::execute(database, &writes, &Rule::IncomingWins(numbered))?;
        fixed.losers.extend(placed.losers);
        seen = writes.into_iter().map(|write| write.record).collect();
        for key in absent {
            let captured = captured(database, table)?;
            // It may have stood in the way of one of the primary's records and be gone.
            fixed.copies.extend(read_row(&database.writer, captured, key).at(&database.path)?);
        }
        if !fixed.losers.is_empty() {
            setting.journal.store(setting.name, &fixed.losers)?;
            fixed.found.journaled = fixed.losers.len() as u64;
        }
        Ok(fixed)
    })?;
    setting.note_received(seen);
    Ok(fixed)
}

struct Step<'a> {
    fixed: Fixed,
    writes: Vec<Write<'a>>,
    absent: Vec<&'a Key>,
}

impl<'a> Step<'a> {
    #[expect(clippy::too_many_arguments, reason = "one record of a step in all its circumstances")]
    fn look(
        &mut self,
        database: &'a Database,
        setting: &Setting<'_>,
        table: &str,
        base: Seq,
        key: &'a Key,
        version: &'a PrimaryVersion,
        run: u64,
    ) -> Result<(), Error> {
        let captured = captured(database, table)?;
        let columns = match version {
            PrimaryVersion::Contents(columns) => Some(columns.as_slice()),
            PrimaryVersion::Absent | PrimaryVersion::Hash(_) | PrimaryVersion::Refused => None,
        };
        if key.len() != captured.table.key.len()
            || columns.is_some_and(|columns| columns.len() != captured.table.columns.len())
        {
            return Err(Error::Mismatch("a row has another number of columns"));
        }
        let stamp = Stamp { wall: WallTime(0), role: setting.role.other() };
        let number = Seq(run.cast_signed());
        let write = Write::new(captured, key.clone(), columns, stamp, number);
        if setting.dirty.last_change(&write.record).is_some_and(|(seq, _)| seq > base) {
            return Ok(());
        }
        let local = read_row(&database.writer, captured, key).at(&database.path)?;
        let found = &mut self.fixed.found;
        match (version, local) {
            (PrimaryVersion::Absent | PrimaryVersion::Refused, None) => {}
            (PrimaryVersion::Absent, Some(_)) => {
                found.only_secondary += 1;
                self.absent.push(key);
            }
            (PrimaryVersion::Hash(_), None) => found.only_primary += 1,
            (PrimaryVersion::Hash(hash), Some(local)) => {
                found.differing += u64::from(value::hash_row(&local) != *hash);
            }
            (PrimaryVersion::Contents(_), None) => {
                found.only_primary += 1;
                self.writes.push(write);
            }
            (PrimaryVersion::Contents(columns), Some(local)) if local == *columns => {}
            (PrimaryVersion::Contents(_), Some(local)) => {
                found.differing += 1;
                self.lose(database, write, number, local);
            }
            (PrimaryVersion::Refused, Some(local)) => self.lose(database, write, number, local),
        }
        Ok(())
    }

    fn lose(&mut self, database: &Database, write: Write<'a>, number: Seq, local: Columns) {
        let origin = database.meta.origin;
        let loser = write.own_loser(JournalKind::Repair, origin, number, Some(local));
        // A repair has no stamps to show.
        self.fixed.losers.push(Loser { winner_wall: None, ..loser });
        self.writes.push(write);
    }
}

/// Takes rows only the secondary had; returns the keys of those a UNIQUE rule refused.
pub(crate) fn copy(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    base: Seq,
    copies: &[Columns],
) -> Result<Vec<Key>, Error> {
    if copies.is_empty() {
        return Ok(Vec::new());
    }
    let mut seen = Vec::new();
    let refused = database.transaction(SHORT, |database| {
        setting.dirty.refresh(&database.writer, database)?;
        let captured = captured(database, table)?;
        let mut writes = Vec::new();
        for columns in copies {
            if columns.len() != captured.table.columns.len() {
                return Err(Error::Mismatch("a row has another number of columns"));
            }
            let stamp = Stamp { wall: WallTime(0), role: setting.role.other() };
            let key = captured.table.key_of(columns);
            let write = Write::new(captured, key, Some(columns), stamp, Seq(0));
            let newer = setting.dirty.last_change(&write.record).is_some_and(|(seq, _)| seq > base);
            let local = read_row(&database.writer, captured, &write.key).at(&database.path)?;
            if !newer && local.is_none() {
                writes.push(write);
            }
        }
        let placed = place::execute(database, &writes, &Rule::LocalWins)?;
        seen = writes.into_iter().map(|write| write.record).collect();
        Ok(placed.refused)
    })?;
    setting.note_received(seen);
    Ok(refused)
}

fn captured<'a>(
    database: &'a Database,
    table: &str,
) -> Result<&'a crate::capture::Captured, Error> {
    database.table(table).ok_or(Error::Mismatch("a table that is not replicated here"))
}
