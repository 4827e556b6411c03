//! How the records of a table are told apart: PRIMARY KEY, else a UNIQUE index, else the rowid.
//!
//! Decides the rung of the ladder. A UNIQUE index counts only if none of its columns can be NULL,
//! because SQLite lets any number of records have NULL there. Must not know triggers or the
//! partner; both servers choose alike, since they choose from the schema alone.

use rusqlite::Connection;
use serde::Serialize;

use crate::{
    schema::{Column, Index, Skip},
    value::Collation,
};

/// How the records of a table are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// By the PRIMARY KEY.
    PrimaryKey,
    /// By a UNIQUE index over columns that are never NULL.
    Unique,
    /// By the rowid, which is replicated; VACUUM renumbers it, then the table is compared.
    Rowid,
}

impl Identity {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::PrimaryKey => "PRIMARY KEY",
            Self::Unique => "UNIQUE index",
            Self::Rowid => "rowid",
        }
    }
}

/// The rung a table stands on.
pub(crate) struct Rung {
    pub(crate) identity: Identity,
    /// Replicated columns: the stored ones, behind the rowid if that is the key.
    pub(crate) columns: Vec<String>,
    /// Indexes of the key columns, in key order.
    pub(crate) key: Vec<usize>,
    /// How each is compared.
    pub(crate) collations: Vec<Collation>,
    /// Whether the column compares that way by itself.
    pub(crate) natural: Vec<bool>,
    /// The index that enforces it, if it is not the PRIMARY KEY's.
    pub(crate) index: Option<String>,
}

/// Chooses for one table.
pub(crate) fn choose(
    db: &Connection,
    table: &str,
    columns: &[Column],
    indexes: &[Index],
) -> Result<Rung, Skip> {
    let stored: Vec<&Column> = columns.iter().filter(|column| column.hidden == 0).collect();
    let names: Vec<String> = stored.iter().map(|column| column.name.clone()).collect();
    let mut key: Vec<usize> = (0..stored.len()).filter(|index| stored[*index].key > 0).collect();
    key.sort_by_key(|index| stored[*index].key);
    if !key.is_empty() {
        let index = indexes.iter().find(|index| index.origin == "pk");
        return rung(db, table, Identity::PrimaryKey, names, key, index);
    }
    // The same on both servers, whatever the order in which indexes were created.
    let unique = indexes
        .iter()
        .filter_map(|index| Some((positions(index, &stored)?, index)))
        .min_by_key(|(positions, index)| (positions.len(), positions.clone(), index.name.clone()));
    if let Some((key, index)) = unique {
        return rung(db, table, Identity::Unique, names, key, Some(index));
    }
    let free = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|alias| columns.iter().all(|column| !column.name.eq_ignore_ascii_case(alias)));
    let Some(alias) = free else {
        return Err(Skip::Reason(
            "it has no PRIMARY KEY, and columns called rowid, _rowid_ and oid hide its rowid: \
             add a PRIMARY KEY"
                .into(),
        ));
    };
    Ok(Rung {
        identity: Identity::Rowid,
        columns: std::iter::once(alias.to_owned()).chain(names).collect(),
        key: vec![0],
        collations: vec![Collation::Binary],
        natural: vec![true],
        index: None,
    })
}

/// Positions of the index columns, if the index tells all records apart.
fn positions(index: &Index, stored: &[&Column]) -> Option<Vec<usize>> {
    if !index.unique || index.partial || index.origin == "pk" {
        return None;
    }
    index
        .columns
        .iter()
        .map(|(name, collation)| {
            // A collation of the application's own leaves the next rung.
            Collation::named(collation)?;
            let found = |column: &&Column| Some(&column.name) == name.as_ref() && column.not_null;
            stored.iter().position(found)
        })
        .collect()
}

fn rung(
    db: &Connection,
    table: &str,
    identity: Identity,
    columns: Vec<String>,
    key: Vec<usize>,
    index: Option<&Index>,
) -> Result<Rung, Skip> {
    let mut natural = Vec::new();
    let mut collations = Vec::new();
    for column in key.iter().map(|index| &columns[*index]) {
        let own = column_collation(db, table, column)?;
        let used = index
            .and_then(|index| index.columns.iter().find(|(name, _)| name.as_ref() == Some(column)))
            .map_or_else(|| own.clone(), |(_, collation)| collation.clone());
        collations.push(Collation::named(&used).ok_or_else(|| Skip::custom_collation(&used))?);
        natural.push(used.eq_ignore_ascii_case(&own));
    }
    let index = index.filter(|index| index.origin != "pk").map(|index| index.name.clone());
    Ok(Rung { identity, columns, key, collations, natural, index })
}

fn column_collation(db: &Connection, table: &str, column: &str) -> rusqlite::Result<String> {
    let (_, collation, ..) = db.column_metadata(Some("main"), table, column)?;
    Ok(collation.map_or_else(|| "BINARY".into(), |name| name.to_string_lossy().into_owned()))
}
