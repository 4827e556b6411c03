//! Repairs differences: the primary's version replaces the secondary's, one-sided ones are copied.
//!
//! Decides about one step of keys; the order of steps is the comparison's business. A record
//! changed here since the other side read it is left alone, for replication brings the newer one.

use ipicsha_core::{
    data::{Columns, Differences, Key, PrimaryVersion, Standing},
    id::Seq,
    lww::Stamp,
    time::WallTime,
};

use crate::{
    apply::Setting,
    database::{Database, SHORT},
    error::{AtPath as _, Error},
    journal::{JournalKind, Loser},
    log::{Record, read_row},
    place::{self, Rule, Write},
    session::Authority,
    stamps::Stamps,
    value,
};

/// What a step found and did on the secondary.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    pub(crate) found: Differences,
    /// Rows the primary does not have.
    pub(crate) copies: Vec<Columns>,
    /// Keys nobody has here, where our contents count.
    pub(crate) gone: Vec<Key>,
    /// Rows newer than the primary's.
    pub(crate) newer: Vec<Columns>,
    pub(crate) losers: Vec<Loser>,
}

impl Fixed {
    /// Adds what another part of the step found.
    pub(crate) fn add(&mut self, other: Self) {
        self.found.only_primary += other.found.only_primary;
        self.found.only_secondary += other.found.only_secondary;
        self.found.differing += other.found.differing;
        self.found.journaled += other.found.journaled;
        self.copies.extend(other.copies);
        self.gone.extend(other.gone);
        self.newer.extend(other.newer);
        self.losers.extend(other.losers);
    }
}

/// How a step is to be taken.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// What the primary had applied of our log when it read its versions.
    pub(crate) base: Seq,
    pub(crate) run: u64,
    pub(crate) apply: bool,
    /// One side's contents count as a whole.
    pub(crate) authority: Option<Authority>,
    /// When records were written here, where the newest of both versions stays.
    pub(crate) stamps: Option<&'a Stamps>,
}

/// What the side whose contents count has, and has not.
pub(crate) struct Versions<'a> {
    pub(crate) copies: &'a [Columns],
    pub(crate) gone: &'a [Key],
}

/// Compares the primary's versions with ours and, if `apply`, takes them.
pub(crate) fn fix(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    versions: &[(Key, PrimaryVersion)],
    terms: &Terms<'_>,
) -> Result<Fixed, Error> {
    let mut seen = Vec::new();
    let fixed = database.transaction(SHORT, |database| {
        setting.dirty.refresh(&database.writer, database)?;
        let mut step =
            Step { terms, fixed: Fixed::default(), writes: Vec::new(), absent: Vec::new() };
        for (key, version) in versions {
            step.look(database, setting, table, key, version)?;
        }
        let Step { mut fixed, writes, absent, .. } = step;
        if !terms.apply {
            fixed.losers.clear();
            return Ok(fixed);
        }
        let numbered = Seq(terms.run.cast_signed());
        let placed = place::execute(database, &writes, &Rule::IncomingWins(numbered))?;
        fixed.losers.extend(placed.losers);
        keep(database, setting, &mut fixed.losers, (table, terms.authority, terms.run))?;
        seen = writes.into_iter().map(|write| write.record).collect();
        for key in absent {
            let captured = captured(database, table)?;
            // It may have stood in the way of one of the primary's records and be gone.
            fixed.copies.extend(read_row(&database.writer, captured, key).at(&database.path)?);
        }
        fixed.found.journaled = fixed.losers.len() as u64;
        Ok(fixed)
    })?;
    setting.note_received(seen);
    Ok(fixed)
}

/// Journals what is overwritten. Where one side's contents count and nothing but this table has
/// fallen behind, what the other side has are the older versions of the same records.
fn keep(
    database: &Database,
    setting: &mut Setting<'_>,
    losers: &mut Vec<Loser>,
    (table, authority, run): (&str, Option<Authority>, u64),
) -> Result<(), Error> {
    // Unless this side has rewritten it too: the partner never saw what that left.
    let counted = captured(database, table)?.standing == Standing::Counts;
    if authority.is_some() && setting.received.is_none() && !counted {
        losers.clear();
    }
    losers.iter_mut().for_each(|loser| loser.run = Some(run));
    if !losers.is_empty() {
        setting.journal.store(setting.name, losers)?;
    }
    Ok(())
}

/// Takes the partner's versions on the primary: of a table where its contents count, or newer ones.
pub(crate) fn yield_to(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    base: Seq,
    versions: &Versions<'_>,
    (run, authority): (u64, Option<Authority>),
) -> Result<Vec<Loser>, Error> {
    let mut seen = Vec::new();
    let losers = database.transaction(SHORT, |database| {
        setting.dirty.refresh(&database.writer, database)?;
        let captured = captured(database, table)?;
        let stamp = Stamp { wall: WallTime(0), role: setting.role.other() };
        let number = Seq(run.cast_signed());
        let (mut writes, mut losers) = (Vec::new(), Vec::new());
        let copies = versions.copies.iter().map(|columns| {
            let fits = columns.len() == captured.table.columns.len();
            fits.then(|| (captured.table.key_of(columns), Some(columns.as_slice())))
        });
        let gone = versions
            .gone
            .iter()
            .map(|key| (key.len() == captured.table.key.len()).then(|| (key.clone(), None)));
        for version in copies.chain(gone) {
            let (key, columns) =
                version.ok_or(Error::Mismatch("a row has another number of columns"))?;
            let write = Write::new(captured, key, columns, stamp, number);
            if setting.dirty.last_change(&write.record).is_some_and(|(seq, _)| seq > base) {
                continue;
            }
            let local = read_row(&database.writer, captured, &write.key).at(&database.path)?;
            if local.as_deref() == write.columns {
                continue;
            }
            if local.is_some() {
                let origin = database.meta.origin;
                let loser = write.own_loser(JournalKind::Repair, origin, number, local);
                losers.push(Loser { winner_wall: None, ..loser });
            }
            writes.push(write);
        }
        let placed = place::execute(database, &writes, &Rule::IncomingWins(number))?;
        losers.extend(placed.losers);
        keep(database, setting, &mut losers, (table, authority, run))?;
        seen = writes.into_iter().map(|write| write.record).collect();
        Ok(losers)
    })?;
    setting.note_received(seen);
    Ok(losers)
}

struct Step<'a> {
    terms: &'a Terms<'a>,
    fixed: Fixed,
    writes: Vec<Write<'a>>,
    absent: Vec<&'a Key>,
}

impl<'a> Step<'a> {
    fn look(
        &mut self,
        database: &'a Database,
        setting: &Setting<'_>,
        table: &str,
        key: &'a Key,
        version: &'a PrimaryVersion,
    ) -> Result<(), Error> {
        let Terms { base, run, authority, .. } = *self.terms;
        let captured = captured(database, table)?;
        let columns = match version {
            PrimaryVersion::Contents(columns) | PrimaryVersion::Dated { columns, .. } => {
                Some(columns.as_slice())
            }
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
            (PrimaryVersion::Absent, None) if authority == Some(Authority::Mine) => {
                found.only_primary += 1;
                self.fixed.gone.push(key.clone());
            }
            (PrimaryVersion::Absent | PrimaryVersion::Refused, None) => {}
            (PrimaryVersion::Absent, Some(_)) => {
                found.only_secondary += 1;
                self.absent.push(key);
            }
            (PrimaryVersion::Hash(_), None) => found.only_primary += 1,
            (PrimaryVersion::Hash(hash), Some(local)) => {
                found.differing += u64::from(value::hash_row(&local) != *hash);
            }
            (PrimaryVersion::Contents(_) | PrimaryVersion::Dated { .. }, None) => {
                found.only_primary += 1;
                self.writes.push(write);
            }
            (
                PrimaryVersion::Contents(columns) | PrimaryVersion::Dated { columns, .. },
                Some(local),
            ) if local == *columns => {}
            (PrimaryVersion::Dated { wall, .. }, Some(local)) => {
                found.differing += 1;
                self.keep_newest(database, write, *wall, local);
            }
            (PrimaryVersion::Contents(_), Some(local)) => {
                found.differing += 1;
                self.lose(database, write, number, local);
            }
            (PrimaryVersion::Refused, Some(local)) => {
                // Refused by a UNIQUE rule it has been counted before.
                found.only_secondary += u64::from(authority.is_some());
                self.lose(database, write, number, local);
            }
        }
        Ok(())
    }

    /// The primary's wins where both are of the same moment, or nobody knows.
    fn keep_newest(
        &mut self,
        database: &Database,
        write: Write<'a>,
        theirs: WallTime,
        local: Columns,
    ) {
        let own = self.terms.stamps.and_then(|stamps| stamps.of(&write.record));
        if own.is_some_and(|own| own > theirs) {
            self.fixed.newer.push(local);
        } else {
            let number = Seq(self.terms.run.cast_signed());
            self.lose(database, write, number, local);
        }
    }

    fn lose(&mut self, database: &Database, write: Write<'a>, number: Seq, local: Columns) {
        let origin = database.meta.origin;
        let loser = write.own_loser(JournalKind::Repair, origin, number, Some(local));
        // A repair has no stamps to show.
        self.fixed.losers.push(Loser { winner_wall: None, ..loser });
        self.writes.push(write);
    }
}

/// What became of rows only the secondary had.
pub(crate) struct Taken {
    /// Those this side did not have.
    pub(crate) new: u64,
    /// Keys of those a UNIQUE rule refused.
    pub(crate) refused: Vec<Key>,
}

/// Takes rows only the secondary had.
pub(crate) fn copy(
    database: &mut Database,
    setting: &mut Setting<'_>,
    table: &str,
    base: Seq,
    copies: &[Columns],
) -> Result<Taken, Error> {
    if copies.is_empty() {
        return Ok(Taken { new: 0, refused: Vec::new() });
    }
    let mut seen: Vec<Record> = Vec::new();
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
    let new = seen.len() as u64;
    setting.note_received(seen);
    Ok(Taken { new, refused })
}

/// The table called `table`.
pub(crate) fn captured<'a>(
    database: &'a Database,
    table: &str,
) -> Result<&'a crate::capture::Captured, Error> {
    database.table(table).ok_or(Error::Mismatch("a table that is not replicated here"))
}
