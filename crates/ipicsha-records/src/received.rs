//! Which records cannot differ without a log entry saying so, while a first comparison runs.
//!
//! Decides whether a version that is overwritten may be one the partner never saw; only those go
//! into the journal. Must not know what is done with the answer.

use std::collections::HashSet;

use ipicsha_core::data::Key;

use crate::{
    database::Database,
    error::{AtPath as _, Error},
    log::Record,
    place::Write,
    scan,
};

/// Records kept one by one. Beyond that the journal may get a version that was the partner's own,
/// which costs a line in a list.
const MOST: usize = 200_000;

/// What is known to be the partner's since the comparison began.
#[derive(Debug, Default)]
pub(crate) struct Received {
    records: HashSet<Record>,
    /// Tables that were compared.
    tables: HashSet<u32>,
    /// One of which this much was compared.
    partly: Option<(u32, Key)>,
}

impl Received {
    /// These came from the partner.
    pub(crate) fn extend(&mut self, records: Vec<Record>) {
        if self.records.len() < MOST {
            self.records.extend(records);
        }
    }

    /// `done` were compared whole, and `partly` up to and with the key.
    pub(crate) fn note_compared(
        &mut self,
        done: impl IntoIterator<Item = u32>,
        partly: Option<(u32, Key)>,
    ) {
        self.tables.extend(done);
        self.partly = partly;
    }

    /// Whether the record that is here came from the partner or was compared with its.
    pub(crate) fn knows(&self, database: &Database, write: &Write<'_>) -> Result<bool, Error> {
        let t = write.captured.t;
        if self.tables.contains(&t) || self.records.contains(&write.record) {
            return Ok(true);
        }
        match &self.partly {
            Some((table, upto)) if *table == t => {
                scan::reaches(&database.writer, &write.captured.table, &write.key, upto)
                    .at(&database.path)
            }
            Some(_) | None => Ok(false),
        }
    }
}
