//! Schema changes while paired: the standby's schema becomes that of the active server.
//!
//! Decides which objects are created, rebuilt or dropped. The partner's statements run in a scratch
//! database first, where they can only create; what they made there is what is carried over. Rows
//! of a rebuilt table stay, as far as they fit; the comparison of that table brings the rest.

use std::collections::BTreeSet;

use ipicsha_core::data::{Schema, Standing};
use rusqlite::Connection;

use crate::{
    database::{Database, PATIENT},
    error::{AtPath as _, Error},
    schema::{self, Table},
    seed,
    value::quote,
};

/// A table under this name is on its way out; the name is one of ours.
const OLD: &str = "_ipicsha_old";

/// What becomes of tables only this server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// The two were equal, so the active server has dropped them.
    Drop,
    /// The two meet for the first time: nobody has dropped anything.
    Keep,
}

/// One of the application's objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Object {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) table: String,
    pub(crate) sql: String,
}

impl Object {
    fn is_table(&self) -> bool {
        self.kind == "table"
    }

    fn is(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name == other.name
    }
}

/// What following came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    /// Something was changed here.
    pub(crate) changed: bool,
    /// Tables that were rebuilt or created.
    pub(crate) tables: BTreeSet<String>,
    /// Objects that cannot be made here, and why.
    pub(crate) refused: Vec<String>,
}

/// Brings the schema here to that of the partner, in one transaction.
pub(crate) fn follow(
    database: &mut Database,
    theirs: &Schema,
    extra: Extra,
) -> Result<Followed, Error> {
    let mut followed = Followed::default();
    let wanted = rehearse(theirs, &mut followed.refused).at(&database.path)?;
    database.writer.flush_prepared_statement_cache();
    // Changed here as the active server, before the partner could follow: not to be undone.
    let counting = database.tables.values().filter(|c| c.standing == Standing::Counts);
    let kept: BTreeSet<String> = counting.map(|captured| captured.table.name.clone()).collect();
    let done = database.transaction(PATIENT, |database| {
        // The texts of views and triggers name tables, not their temporary names.
        let legacy = |on| database.writer.pragma_update(None, "legacy_alter_table", on);
        let result = legacy(true)
            .and_then(|()| carry_over(&database.writer, &wanted, (extra, &kept), &mut followed))
            .and_then(|()| {
                let own: i32 =
                    database.writer.query_row("PRAGMA user_version", [], |row| row.get(0))?;
                if own != theirs.user_version {
                    database.writer.pragma_update(None, "user_version", theirs.user_version)?;
                    followed.changed = true;
                }
                Ok(())
            });
        legacy(false).and(result).at(&database.path)
    });
    database.writer.flush_prepared_statement_cache();
    done.map(|()| followed)
}

/// Runs the statements where they can do no harm.
fn rehearse(theirs: &Schema, refused: &mut Vec<String>) -> rusqlite::Result<Vec<Object>> {
    let scratch = Connection::open_in_memory()?;
    for statement in &theirs.statements {
        if let Err(error) = seed::create(&scratch, statement) {
            refused.push(format!("{statement:.60}: {error}"));
        }
    }
    seed::objects(&scratch)
}

fn carry_over(
    db: &Connection,
    wanted: &[Object],
    (extra, kept): (Extra, &BTreeSet<String>),
    followed: &mut Followed,
) -> rusqlite::Result<()> {
    let stays = |table: &str| extra == Extra::Keep || kept.contains(table);
    let own = seed::objects(db)?;
    let gone: Vec<&Object> = own
        .iter()
        .filter(|object| object.is_table() && !wanted.iter().any(|other| other.is(object)))
        .collect();
    for object in own.iter().filter(|object| !object.is_table() && !wanted.contains(object)) {
        // What belongs to a table that stays, stays with it.
        if !gone.iter().any(|table| table.name == object.table && stays(&table.name)) {
            db.execute_batch(&format!("DROP {} {}", object.kind, quote(&object.name)))?;
            followed.changed = true;
        }
    }
    for object in wanted.iter().filter(|object| object.is_table() && !own.contains(object)) {
        let exists = own.iter().any(|other| other.is(object));
        if exists && kept.contains(&object.name) {
            followed.refused.push(format!(
                "table {} was changed here, too: bring both to the same version of the application",
                object.name
            ));
            continue;
        }
        attempt(db, object, followed, |db| rebuild(db, object, exists, &gone))?;
        followed.tables.insert(object.name.clone());
    }
    for table in gone.iter().filter(|table| !stays(&table.name)) {
        db.execute_batch(&format!("DROP TABLE {}", quote(&table.name)))?;
        followed.changed = true;
    }
    // Some went with their tables.
    let present = seed::objects(db)?;
    for object in wanted.iter().filter(|object| !object.is_table()) {
        if !present.contains(object) {
            attempt(db, object, followed, |db| seed::create(db, &object.sql))?;
        }
    }
    Ok(())
}

/// Makes one object or leaves everything as it was.
fn attempt(
    db: &Connection,
    object: &Object,
    followed: &mut Followed,
    make: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    db.execute_batch("SAVEPOINT ipicsha_object")?;
    match make(db) {
        Ok(()) => followed.changed = true,
        Err(error) => {
            followed.refused.push(format!("{} {}: {error}", object.kind, object.name));
            db.execute_batch("ROLLBACK TO ipicsha_object")?;
        }
    }
    db.execute_batch("RELEASE ipicsha_object")
}

/// Creates a table and fills it from the one it replaces, or from the one it was called before.
fn rebuild(
    db: &Connection,
    object: &Object,
    exists: bool,
    gone: &[&Object],
) -> rusqlite::Result<()> {
    let name = quote(&object.name);
    let before = schema::read(db)?;
    if exists {
        db.execute_batch(&format!("ALTER TABLE {name} RENAME TO {OLD}"))?;
    }
    seed::create(db, &object.sql)?;
    let after = schema::read(db)?;
    let Some(new) = after.tables.get(&object.name) else {
        // Not replicated, so nothing would bring the rows that are here now.
        let refused = exists && before.tables.contains_key(&object.name);
        if refused {
            return Err(rusqlite::Error::InvalidParameterName(
                "the new table cannot be replicated".into(),
            ));
        }
        return if exists { db.execute_batch(&format!("DROP TABLE {OLD}")) } else { Ok(()) };
    };
    let source = if exists {
        before.tables.get(&object.name).map(|old| (old, OLD))
    } else {
        let renamed = |old: &&Table| old.columns == new.columns && old.key == new.key;
        let mut tables = gone.iter().filter_map(|table| before.tables.get(&table.name));
        tables.find(renamed).map(|old| (old, old.name.as_str()))
    };
    if let Some((old, from)) = source {
        copy(db, old, from, new)?;
    }
    if exists { db.execute_batch(&format!("DROP TABLE {OLD}")) } else { Ok(()) }
}

/// Rows that do not fit into the new table are left to the comparison.
fn copy(db: &Connection, old: &Table, from: &str, new: &Table) -> rusqlite::Result<()> {
    let common: Vec<String> = new
        .columns
        .iter()
        .filter(|name| old.columns.contains(name))
        .map(|name| quote(name))
        .collect();
    if common.is_empty() {
        return Ok(());
    }
    let columns = common.join(",");
    let sql = format!(
        "INSERT OR IGNORE INTO {}({columns}) SELECT {columns} FROM {}",
        quote(&new.name),
        quote(from)
    );
    db.execute_batch("SAVEPOINT ipicsha_copy")?;
    if let Err(error) = db.execute_batch(&sql) {
        if crate::error::is_busy(&error) {
            return Err(error);
        }
        db.execute_batch("ROLLBACK TO ipicsha_copy")?;
    }
    db.execute_batch("RELEASE ipicsha_copy")
}
