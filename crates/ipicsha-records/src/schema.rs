//! What the application's database is made of, and how each record is identified.
//!
//! Decides which tables can be replicated and names the reason for the others. Must not know
//! triggers, roles or the partner.

use std::{collections::BTreeMap, sync::Arc};

use ipicsha_core::data::Value;
use rusqlite::Connection;
use serde::Serialize;

use crate::{
    identity::{self, Identity},
    value::{self, Collation, quote},
};

/// A table that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedTable {
    /// Its name.
    pub table: String,
    /// Why, and what to do.
    pub reason: String,
}

/// A UNIQUE rule over plain columns, besides the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unique {
    /// Column indexes with the collation they are compared with.
    pub(crate) columns: Vec<(usize, Collation)>,
}

/// A table that is replicated.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    /// Stored columns in table order; generated ones are left out, a rowid that is the key is first.
    pub(crate) columns: Vec<String>,
    /// Indexes of the key columns, in key order.
    pub(crate) key: Vec<usize>,
    /// How each key column is compared.
    pub(crate) collations: Vec<Collation>,
    /// Whether the column compares that way by itself.
    natural: Vec<bool>,
    /// A record may have NULL in its key: then no statement can name it.
    pub(crate) key_may_be_null: bool,
    pub(crate) uniques: Vec<Unique>,
    /// It has UNIQUE rules that are not among these.
    has_hidden_uniques: bool,
    /// It has an AUTOINCREMENT key.
    pub(crate) autoincrement: bool,
    /// Equal on both servers when rows can be exchanged.
    pub(crate) hash: [u8; 16],
    pub(crate) sql: TableSql,
}

/// The statements of one table, ready to be prepared.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableSql {
    pub(crate) select: String,
    pub(crate) upsert: String,
    pub(crate) insert: String,
    pub(crate) delete: String,
    /// One per UNIQUE rule: keys of the rows a new row would collide with.
    pub(crate) blockers: Vec<String>,
    /// For tables with UNIQUE rules over expressions or a part of the table, whose rows in the way no
    /// statement can look for: inserts, or returns a row that is in the way.
    pub(crate) any_blocker: Option<String>,
}

impl Table {
    /// The key within all columns of a row.
    pub(crate) fn key_of(&self, columns: &[Value]) -> Vec<Value> {
        self.key.iter().map(|index| columns[*index].clone()).collect()
    }

    /// What log entries of the table mean: those made under another signature are not read, the
    /// table is compared instead.
    pub(crate) fn signature(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Bytes that are equal exactly for keys of the same record.
    pub(crate) fn identity_of(&self, key: &[Value]) -> Arc<[u8]> {
        value::identity(key, &self.collations)
    }

    /// Quoted names of the key columns.
    pub(crate) fn key_names(&self) -> Vec<String> {
        self.key.iter().map(|index| quote(&self.columns[*index])).collect()
    }

    /// Quoted names of all columns, comma separated.
    pub(crate) fn column_list(&self) -> String {
        self.columns.iter().map(|name| quote(name)).collect::<Vec<_>>().join(",")
    }

    /// Key columns as they are compared and ordered; the collation is spelled out only where the
    /// key's index differs from the column, since it keeps SQLite from using the index for ranges.
    pub(crate) fn ordered_key(&self) -> Vec<String> {
        self.key_names()
            .into_iter()
            .zip(self.collations.iter().zip(&self.natural))
            .map(
                |(name, (collation, natural))| {
                    if *natural { name } else { format!("{name} COLLATE {}", collation.name()) }
                },
            )
            .collect()
    }

    /// Sets the columns that are `wanted`, in their order, then finds the record by its key.
    pub(crate) fn update_sql(&self, wanted: impl Fn(usize) -> bool) -> String {
        let set: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(index, _)| wanted(*index))
            .zip(1..)
            .map(|((_, name), n)| format!("{}=?{n}", quote(name)))
            .collect();
        let key = self.ordered_key().into_iter().zip(set.len() + 1..);
        let key: Vec<String> = key.map(|(name, n)| format!("{name} = ?{n}")).collect();
        let (table, set) = (quote(&self.name), set.join(","));
        format!("UPDATE OR ABORT {table} SET {set} WHERE {}", key.join(" AND "))
    }

    fn build_sql(&self) -> TableSql {
        let table = quote(&self.name);
        let columns = self.column_list();
        let places = |count| (1..=count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(",");
        let ordered = self.ordered_key();
        let is_key = |first: usize, operator: &str| {
            let terms = ordered.iter().enumerate();
            terms.map(|(n, name)| format!("{name} {operator} ?{}", n + first)).collect::<Vec<_>>()
        };
        let insert = format!(
            "INSERT OR ABORT INTO {table}({columns}) VALUES({})",
            places(self.columns.len())
        );
        let set: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(index, _)| match self.key.iter().position(|key| key == index) {
                // A key equal under its collation can still be written differently.
                Some(position) => self.collations[position] != Collation::Binary,
                None => true,
            })
            .map(|(_, name)| format!("{0}=excluded.{0}", quote(name)))
            .collect();
        let action =
            if set.is_empty() { "NOTHING".into() } else { format!("UPDATE SET {}", set.join(",")) };
        let blockers = self.uniques.iter().map(|unique| {
            let same = unique.columns.iter().enumerate().map(|(n, (column, collation))| {
                format!("{}=?{} COLLATE {}", quote(&self.columns[*column]), n + 1, collation.name())
            });
            let other = is_key(unique.columns.len() + 1, "IS NOT").join(" OR ");
            let same = same.collect::<Vec<_>>().join(" AND ");
            format!("SELECT {columns} FROM {table} WHERE {same} AND ({other})")
        });
        TableSql {
            select: format!("SELECT {columns} FROM {table} WHERE {}", is_key(1, "=").join(" AND ")),
            upsert: format!("{insert} ON CONFLICT({}) DO {action}", ordered.join(",")),
            delete: format!("DELETE FROM {table} WHERE {}", is_key(1, "=").join(" AND ")),
            blockers: blockers.collect(),
            any_blocker: self.columns.last().filter(|_| self.has_hidden_uniques).map(|last| {
                let same = format!("{0}={0}", quote(last));
                format!("{insert} ON CONFLICT DO UPDATE SET {same} RETURNING {columns}")
            }),
            insert,
        }
    }
}

/// The application's tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    pub(crate) tables: BTreeMap<String, Table>,
    pub(crate) skipped: Vec<SkippedTable>,
    pub(crate) warnings: Vec<String>,
}

/// Objects of ours in the application's database.
pub(crate) fn is_ours(name: &str) -> bool {
    name.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("_ipicsha_"))
}

/// Reads the application's tables.
pub(crate) fn read(db: &Connection) -> rusqlite::Result<Schema> {
    let mut schema = Schema::default();
    let mut list = db.prepare(
        "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema='main' ORDER BY name",
    )?;
    let tables = list
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, bool>(2)?,
                row.get::<_, bool>(3)?,
            ))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (name, kind, without_rowid, strict) in tables {
        if name.starts_with("sqlite_") || is_ours(&name) || kind == "view" {
            continue;
        }
        let reason = match kind.as_str() {
            "virtual" => {
                "a virtual table cannot carry triggers: rebuild it after a takeover".into()
            }
            "shadow" => "it belongs to a virtual table".into(),
            _ => match read_table(db, &name, without_rowid, strict, &mut schema.warnings) {
                Ok(table) => {
                    schema.tables.insert(name, table);
                    continue;
                }
                Err(Skip::Reason(reason)) => reason,
                Err(Skip::Sqlite(error)) => return Err(error),
            },
        };
        schema.skipped.push(SkippedTable { table: name, reason });
    }
    Ok(schema)
}

/// Why a table is not read.
pub(crate) enum Skip {
    /// It is left out, for this reason.
    Reason(String),
    /// It could not be read.
    Sqlite(rusqlite::Error),
}

impl Skip {
    pub(crate) fn custom_collation(name: &str) -> Self {
        Self::Reason(format!("it uses the collation {name}, which only the application has"))
    }
}

impl From<rusqlite::Error> for Skip {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A column as SQLite describes it.
pub(crate) struct Column {
    pub(crate) name: String,
    declared: String,
    pub(crate) not_null: bool,
    /// Place in the PRIMARY KEY, from 1; 0 if it is not part of it.
    pub(crate) key: u32,
    /// Not 0: generated, or of a virtual table.
    pub(crate) hidden: i64,
}

fn read_columns(db: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = db.prepare(
        "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid",
    )?;
    let columns = statement.query_map([table], |row| {
        Ok(Column {
            name: row.get(0)?,
            declared: row.get(1)?,
            not_null: row.get(2)?,
            key: row.get(3)?,
            hidden: row.get(4)?,
        })
    })?;
    columns.collect()
}

fn read_table(
    db: &Connection,
    name: &str,
    without_rowid: bool,
    strict: bool,
    warnings: &mut Vec<String>,
) -> Result<Table, Skip> {
    let columns = read_columns(db, name)?;
    let indexes = read_indexes(db, name)?;
    let rung = identity::choose(db, name, &columns, &indexes)?;
    let stored: Vec<&Column> = columns.iter().filter(|column| column.hidden == 0).collect();
    // A key that is the rowid has no index of its own.
    let is_rowid = indexes.iter().all(|index| index.origin != "pk");
    let key_may_be_null = rung.identity == Identity::PrimaryKey
        && !is_rowid
        && rung.key.iter().any(|index| !stored[*index].not_null);
    let (uniques, has_hidden_uniques) = read_uniques(name, &rung, &indexes, warnings)?;
    let mut table = Table {
        name: name.into(),
        identity: rung.identity,
        columns: rung.columns,
        key: rung.key,
        collations: rung.collations,
        natural: rung.natural,
        key_may_be_null,
        uniques,
        has_hidden_uniques,
        autoincrement: has_autoincrement(db, name, &columns)?,
        hash: [0; 16],
        sql: TableSql::default(),
    };
    table.hash = schema_hash(&table, &stored, without_rowid, strict);
    table.sql = table.build_sql();
    probe(db, &table)?;
    warn_about_null_keys(db, &table, &stored, warnings)?;
    Ok(table)
}

fn has_autoincrement(db: &Connection, table: &str, columns: &[Column]) -> rusqlite::Result<bool> {
    let Some(key) = columns.iter().find(|column| column.key == 1) else { return Ok(false) };
    let (.., autoincrement) = db.column_metadata(Some("main"), table, &key.name)?;
    Ok(autoincrement)
}

/// A custom function or collation in an index or CHECK shows when a write is prepared.
fn probe(db: &Connection, table: &Table) -> Result<(), Skip> {
    let sql = &table.sql;
    for statement in [&sql.select, &sql.upsert, &sql.insert, &sql.delete]
        .into_iter()
        .chain(&sql.blockers)
        .chain(&sql.any_blocker)
    {
        match db.prepare(statement) {
            Ok(_) => {}
            Err(error) if crate::error::is_busy(&error) => return Err(error.into()),
            Err(error) => {
                return Err(Skip::Reason(format!("only the application can write it: {error}")));
            }
        }
    }
    Ok(())
}

fn warn_about_null_keys(
    db: &Connection,
    table: &Table,
    stored: &[&Column],
    warnings: &mut Vec<String>,
) -> rusqlite::Result<()> {
    if table.identity != Identity::PrimaryKey {
        return Ok(());
    }
    for index in table.key.iter().filter(|index| !stored[**index].not_null) {
        let sql = format!(
            "SELECT EXISTS(SELECT 1 FROM {} WHERE {} IS NULL)",
            quote(&table.name),
            quote(&table.columns[*index])
        );
        if db.query_row(&sql, [], |row| row.get::<_, bool>(0))? {
            warnings.push(null_key_warning(&table.name));
            break;
        }
    }
    Ok(())
}

/// What is said about records no statement can name.
pub(crate) fn null_key_warning(table: &str) -> String {
    format!(
        "table {table} has records with NULL in its PRIMARY KEY: these cannot be told apart and are \
         not replicated: declare its columns NOT NULL"
    )
}

/// An index as SQLite describes it.
pub(crate) struct Index {
    pub(crate) name: String,
    /// `pk`, `u` (of a UNIQUE constraint) or `c` (of CREATE INDEX).
    pub(crate) origin: String,
    pub(crate) unique: bool,
    pub(crate) partial: bool,
    /// Name (`None`: an expression or the rowid) and collation of each key column.
    pub(crate) columns: Vec<(Option<String>, String)>,
}

fn read_indexes(db: &Connection, table: &str) -> rusqlite::Result<Vec<Index>> {
    let mut list = db.prepare(
        "SELECT name, origin, \"unique\", partial FROM pragma_index_list(?1) ORDER BY seq",
    )?;
    let mut indexes = list
        .query_map([table], |row| {
            Ok(Index {
                name: row.get(0)?,
                origin: row.get(1)?,
                unique: row.get(2)?,
                partial: row.get(3)?,
                columns: Vec::new(),
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut columns =
        db.prepare("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key=1 ORDER BY seqno")?;
    for index in &mut indexes {
        index.columns = columns
            .query_map([&index.name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
    }
    Ok(indexes)
}

fn read_uniques(
    table: &str,
    rung: &identity::Rung,
    indexes: &[Index],
    warnings: &mut Vec<String>,
) -> Result<(Vec<Unique>, bool), Skip> {
    let (mut uniques, mut hidden) = (Vec::new(), false);
    let others = indexes.iter().filter(|index| {
        index.unique && index.origin != "pk" && rung.index.as_ref() != Some(&index.name)
    });
    for index in others {
        let columns: Option<Vec<(usize, &String)>> = index
            .columns
            .iter()
            .map(|(name, collation)| {
                let position = rung.columns.iter().position(|column| Some(column) == name.as_ref());
                position.map(|position| (position, collation))
            })
            .collect();
        let Some(columns) = columns.filter(|_| !index.partial) else {
            hidden = true;
            warnings.push(format!(
                "unique index {} of table {table} is partial or over expressions: a record replaced \
                 through it (INSERT OR REPLACE) is noticed only by `ipicsha repair`",
                index.name
            ));
            continue;
        };
        let columns = columns
            .into_iter()
            .map(|(position, name)| {
                let collation =
                    Collation::named(name).ok_or_else(|| Skip::custom_collation(name))?;
                Ok((position, collation))
            })
            .collect::<Result<Vec<_>, Skip>>()?;
        uniques.push(Unique { columns });
    }
    Ok((uniques, hidden))
}

fn schema_hash(table: &Table, stored: &[&Column], without_rowid: bool, strict: bool) -> [u8; 16] {
    let mut text = format!("{}\0{without_rowid}{strict}\0", table.name);
    for column in stored {
        let declared = column.declared.to_ascii_uppercase();
        text += &format!("{}\0{declared}\0{}\0{}\0", column.name, column.not_null, column.key);
    }
    text += &format!("{}:{}\0", table.identity.name(), table.key_names().join(","));
    for collation in &table.collations {
        text += collation.name();
    }
    value::hash(text.as_bytes())
}
