//! Our objects in the application's database: the log, its ring, the triggers that write it.
//!
//! Decides what must be installed and what of it is missing or outdated. Must not know what the
//! log is read for. Everything is plain SQL, so that a copied database keeps working without us.

use std::{collections::BTreeMap, path::Path};

use ipicsha_core::{
    data::{Applied, DatabaseUuid, Origin, Standing},
    id::Seq,
    time::WallTime,
};
use rusqlite::{Connection, params};

use crate::{
    error::{AtPath as _, Error},
    fence,
    identity::Identity,
    right,
    schema::{Schema, Table},
    value::{Collation, quote},
};

/// Milliseconds since 1970 by functions every SQLite has; `julianday('now')` would parse the word each time.
pub(crate) const MS: &str = "CAST((julianday()-2440587.5)*86400000 AS INTEGER)";

/// The ring works in steps of 1024 entries; fewer make no sense.
pub(crate) const MIN_CAPACITY: u64 = 4096;

/// Of our tables, as `sql/tables.sql` makes them; older ones are brought up to it.
pub(crate) const FORMAT: i64 = 3;

/// Our tables.
const TABLES: [&str; 4] = ["_ipicsha_log", "_ipicsha_meta", "_ipicsha_tab", "_ipicsha_mark"];

/// The row of `_ipicsha_meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) origin: Origin,
    /// What this server has durably applied of the partner's log.
    pub(crate) applied: Option<Applied>,
    /// What the partner had applied of ours, as far as it was stored.
    pub(crate) partner_base: Seq,
    /// The initial comparison with that partner has finished.
    pub(crate) synced: bool,
    pub(crate) inode: u64,
}

/// A table with the number its triggers write.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    pub(crate) t: u32,
    pub(crate) table: Table,
    /// Whose contents count since it was last compared.
    pub(crate) standing: Standing,
}

/// What `install` found and did.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) meta: Meta,
    pub(crate) tables: Vec<Captured>,
    /// Key columns of the log.
    pub(crate) key_columns: usize,
    /// Tables whose log entries do not tell everything since the last time.
    pub(crate) rewritten: Vec<String>,
}

/// What `_ipicsha_tab` says of a table.
struct Numbered {
    t: u32,
    standing: Standing,
    signature: String,
}

/// Whether our tables are there.
pub(crate) fn is_installed(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT count(*)=4 FROM sqlite_schema WHERE type='table' AND name IN ('_ipicsha_log','_ipicsha_meta','_ipicsha_tab','_ipicsha_mark')",
        [],
        |row| row.get(0),
    )
}

/// Refuses tables of a format this version does not know.
pub(crate) fn check_format(db: &Connection, path: &Path) -> Result<(), Error> {
    if !is_installed(db).at(path)? {
        return Ok(());
    }
    let read = "SELECT coalesce(max(format),0) FROM _ipicsha_meta";
    match db.query_row(read, [], |row| row.get(0)).at(path)? {
        ..=FORMAT => Ok(()),
        format => Err(Error::Format { path: path.into(), format }),
    }
}

/// Statements that bring the database to what `schema` needs; empty when all is in place.
pub(crate) struct Plan {
    pub(crate) statements: Vec<String>,
    rewritten: Vec<String>,
}

impl Plan {
    /// The number of `table`: the one it has, or a new one where its entries cannot be read on.
    fn number(
        &mut self,
        installed: &Numbers,
        table: &Table,
        next: &mut u32,
        complete: bool,
    ) -> u32 {
        let known = installed.tables.get(&table.name);
        let renumbered = installed.vacuumed && table.identity == Identity::Rowid;
        let signature = table.signature();
        if let Some(known) = known {
            if complete && !renumbered && known.signature == signature {
                return known.t;
            }
            let retire = format!("UPDATE _ipicsha_tab SET name=NULL WHERE t={}", known.t);
            self.statements.push(retire);
        }
        let t = *next;
        *next += 1;
        // On a first installation everything is compared anyway.
        let standing = match (installed.fresh, installed.fence_closed) {
            (true, _) => Standing::Even,
            (false, false) => Standing::Counts,
            (false, true) => Standing::Yields,
        };
        if !installed.fresh {
            self.rewritten.push(table.name.clone());
        }
        self.statements.push(format!(
            "INSERT INTO _ipicsha_tab VALUES({t}, {}, {}, {})",
            literal(&table.name),
            stored(standing),
            literal(&signature)
        ));
        t
    }
}

/// What is installed already.
struct Numbers {
    fresh: bool,
    fence_closed: bool,
    /// VACUUM ran since the last look.
    vacuumed: bool,
    /// The tables are of a format that did not know when what was applied was written.
    lacks_applied_ms: bool,
    tables: BTreeMap<String, Numbered>,
    next: u32,
}

/// Compares what is installed with what is needed. Reads only, so that an active server whose
/// daemon restarts is not written at all.
pub(crate) fn plan(
    db: &Connection,
    schema: &Schema,
    capacity: u64,
    fence_closed: bool,
) -> rusqlite::Result<Plan> {
    let mut plan = Plan { statements: Vec::new(), rewritten: Vec::new() };
    let installed = read_installed(db, fence_closed)?;
    if installed.fresh {
        for table in TABLES {
            plan.statements.push(format!("DROP TABLE IF EXISTS {table}"));
        }
        plan.statements.push(include_str!("sql/tables.sql").into());
    }
    if installed.lacks_applied_ms {
        // Of format 2.
        plan.statements.push(format!(
            "ALTER TABLE _ipicsha_meta ADD COLUMN partner_applied_ms; UPDATE _ipicsha_meta SET format={FORMAT}"
        ));
    }
    if installed.vacuumed {
        plan.statements.push("UPDATE _ipicsha_mark SET rowid=2".into());
    }
    let mut next = installed.next;
    let mut wanted = BTreeMap::from([("_ipicsha_ring".to_owned(), ring(capacity))]);
    let (existing, limited) = (our_triggers(db)?, right::is_limited(db)?);
    let mut widest = 1;
    for table in schema.tables.values() {
        let known = installed.tables.get(&table.name).map(|known| known.t);
        let complete = known.is_some_and(|t| {
            triggers(t, table).iter().all(|(name, _)| existing.contains_key(name))
        });
        let t = plan.number(&installed, table, &mut next, complete);
        widest = widest.max(table.key.len());
        wanted.extend(triggers(t, table));
        if fence_closed {
            wanted.extend(fence::triggers(t, table));
        } else if limited {
            wanted.extend(right::triggers(t, table));
        }
    }
    let present = if installed.fresh { 1 } else { key_columns(db)? };
    let missing =
        (present + 1..=widest).map(|n| format!("ALTER TABLE _ipicsha_log ADD COLUMN k{n}"));
    plan.statements.extend(missing);
    for name in existing.iter().filter(|(name, sql)| wanted.get(*name) != Some(*sql)) {
        plan.statements.push(format!("DROP TRIGGER {}", quote(name.0)));
    }
    for (name, sql) in &wanted {
        if existing.get(name) != Some(sql) {
            plan.statements.push(sql.clone());
        }
    }
    Ok(plan)
}

fn read_installed(db: &Connection, fence_closed: bool) -> rusqlite::Result<Numbers> {
    if !is_installed(db)? {
        let tables = BTreeMap::new();
        return Ok(Numbers {
            fresh: true,
            fence_closed,
            vacuumed: false,
            lacks_applied_ms: false,
            tables,
            next: 1,
        });
    }
    let last: Option<u32> =
        db.query_row("SELECT max(t) FROM _ipicsha_tab", [], |row| row.get(0))?;
    let mark = "SELECT NOT EXISTS(SELECT 1 FROM _ipicsha_mark WHERE rowid=2)";
    let column = "SELECT NOT EXISTS(SELECT 1 FROM pragma_table_info('_ipicsha_meta') WHERE name='partner_applied_ms')";
    Ok(Numbers {
        fresh: false,
        fence_closed,
        vacuumed: db.query_row(mark, [], |row| row.get(0))?,
        lacks_applied_ms: db.query_row(column, [], |row| row.get(0))?,
        tables: read_numbers(db)?,
        next: last.unwrap_or(0) + 1,
    })
}

/// Carries out `plan` (inside the caller's transaction, when it has statements) and reads the result.
pub(crate) fn finish(db: &Connection, schema: &Schema, plan: Plan) -> rusqlite::Result<Installed> {
    for statement in &plan.statements {
        db.execute_batch(statement)?;
    }
    let numbers = read_numbers(db)?;
    let tables = schema
        .tables
        .values()
        .filter_map(|table| {
            let known = numbers.get(&table.name)?;
            Some(Captured { t: known.t, table: table.clone(), standing: known.standing })
        })
        .collect();
    Ok(Installed {
        meta: read_meta(db)?,
        tables,
        key_columns: key_columns(db)?,
        rewritten: plan.rewritten,
    })
}

/// Reads the row of `_ipicsha_meta`.
pub(crate) fn read_meta(db: &Connection) -> rusqlite::Result<Meta> {
    let uuid = |bytes: Option<Vec<u8>>| {
        bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(DatabaseUuid)
    };
    db.query_row(
        "SELECT uuid, incarnation, partner_uuid, partner_incarnation, partner_applied, partner_base, synced, inode, partner_applied_ms
         FROM _ipicsha_meta WHERE one=1",
        [],
        |row| {
            let partner = uuid(row.get(2)?).zip(row.get::<_, Option<u32>>(3)?);
            let seq: Option<i64> = row.get(4)?;
            let wall = row.get::<_, Option<i64>>(8)?.map(WallTime);
            Ok(Meta {
                origin: Origin {
                    uuid: uuid(row.get(0)?).unwrap_or(DatabaseUuid([0; 16])),
                    incarnation: row.get(1)?,
                },
                applied: partner.zip(seq).map(|((uuid, incarnation), seq)| Applied {
                    origin: Origin { uuid, incarnation },
                    seq: Seq(seq),
                    wall,
                }),
                partner_base: Seq(row.get(5)?),
                synced: row.get(6)?,
                inode: row.get::<_, i64>(7)?.cast_unsigned(),
            })
        },
    )
}

/// Writes everything of `meta` that can change.
pub(crate) fn write_meta(db: &Connection, meta: &Meta) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE _ipicsha_meta SET incarnation=?1, partner_uuid=?2, partner_incarnation=?3,
         partner_applied=?4, partner_base=?5, synced=?6, inode=?7, partner_applied_ms=?8 WHERE one=1",
    )?
    .execute(params![
        meta.origin.incarnation,
        meta.applied.map(|applied| applied.origin.uuid.0),
        meta.applied.map(|applied| applied.origin.incarnation),
        meta.applied.map(|applied| applied.seq.0),
        meta.partner_base.0,
        meta.synced,
        meta.inode.cast_signed(),
        meta.applied.and_then(|applied| applied.wall).map(|wall| wall.0),
    ])?;
    Ok(())
}

/// Stores whose contents of a table count.
pub(crate) fn write_standing(db: &Connection, t: u32, standing: Standing) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE _ipicsha_tab SET standing=?2 WHERE t=?1")?
        .execute(params![t, stored(standing)])?;
    Ok(())
}

fn stored(standing: Standing) -> u8 {
    match standing {
        Standing::Even => 0,
        Standing::Behind => 1,
        Standing::Counts => 2,
        Standing::Yields => 3,
    }
}

/// Drops every trigger of ours; the first of the steps of a removal.
pub(crate) fn drop_triggers(db: &Connection) -> rusqlite::Result<()> {
    for name in our_triggers(db)?.keys() {
        db.execute_batch(&format!("DROP TRIGGER {}", quote(name)))?;
    }
    Ok(())
}

/// Deletes up to `limit` log entries; returns how many there were. Only after `drop_triggers`.
pub(crate) fn shrink_log(db: &Connection, limit: usize) -> rusqlite::Result<usize> {
    let exists = "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE name='_ipicsha_log')";
    if !db.query_row(exists, [], |row| row.get::<_, bool>(0))? {
        return Ok(0);
    }
    db.execute(
        "DELETE FROM _ipicsha_log WHERE seq IN (SELECT seq FROM _ipicsha_log ORDER BY seq LIMIT ?1)",
        [limit as i64],
    )
}

/// Drops our tables; the last step of a removal.
pub(crate) fn drop_tables(db: &Connection) -> rusqlite::Result<()> {
    right::unlimit(db)?;
    TABLES.iter().try_for_each(|table| db.execute_batch(&format!("DROP TABLE IF EXISTS {table}")))
}

/// Whether anything of ours is left.
pub(crate) fn any_object(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE lower(substr(name,1,9))='_ipicsha_')",
        [],
        |row| row.get(0),
    )
}

fn read_numbers(db: &Connection) -> rusqlite::Result<BTreeMap<String, Numbered>> {
    let mut statement =
        db.prepare("SELECT name, t, standing, signature FROM _ipicsha_tab WHERE name IS NOT NULL")?;
    let rows = statement.query_map([], |row| {
        let standing = match row.get::<_, i64>(2)? {
            0 => Standing::Even,
            2 => Standing::Counts,
            3 => Standing::Yields,
            _ => Standing::Behind,
        };
        Ok((row.get(0)?, Numbered { t: row.get(1)?, standing, signature: row.get(3)? }))
    })?;
    rows.collect()
}

fn key_columns(db: &Connection) -> rusqlite::Result<usize> {
    db.query_row(
        "SELECT count(*) FROM pragma_table_info('_ipicsha_log') WHERE name GLOB 'k[0-9]*'",
        [],
        |row| row.get::<_, u32>(0).map(|count| count as usize),
    )
}

fn our_triggers(db: &Connection) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut statement = db.prepare(
        "SELECT name, sql FROM sqlite_schema WHERE type='trigger' AND substr(name,1,9)='_ipicsha_'",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn ring(capacity: u64) -> String {
    let capacity = capacity.max(MIN_CAPACITY).to_string();
    render(include_str!("sql/ring.sql"), &[("capacity", &capacity)])
}

/// The capture triggers of one table.
fn triggers(t: u32, table: &Table) -> Vec<(String, String)> {
    let number = t.to_string();
    let quoted = quote(&table.name);
    let names = table.key_names();
    let of = |row: &str| names.iter().map(|n| format!("{row}.{n}")).collect::<Vec<_>>().join(",");
    let k = (1..=names.len()).map(|n| format!("k{n}")).collect::<Vec<_>>().join(",");
    let moved =
        names.iter().map(|n| format!("OLD.{n} IS NOT NEW.{n}")).collect::<Vec<_>>().join(" OR ");
    let (new, old, keys) = (of("NEW"), of("OLD"), names.join(","));
    let values = [
        ("t", number.as_str()),
        ("table", &quoted),
        ("k", &k),
        ("ms", MS),
        ("new", &new),
        ("old", &old),
        ("moved", &moved),
        ("keys", &keys),
    ];
    let mut triggers: Vec<(String, String)> = [
        ("i", include_str!("sql/insert.sql")),
        ("u", include_str!("sql/update.sql")),
        // A trigger of its own costs an ordinary update nothing: SQLite leaves it out of a statement that
        // sets none of these columns. A key that is the rowid has more than one name.
        ("m", include_str!("sql/moved.sql")),
        ("d", include_str!("sql/delete.sql")),
    ]
    .into_iter()
    .map(|(suffix, template)| (format!("_ipicsha_{t}{suffix}"), render(template, &values)))
    .collect();
    for (index, unique) in table.uniques.iter().enumerate() {
        let columns: Vec<(String, Collation)> = unique
            .columns
            .iter()
            .map(|(column, collation)| (quote(&table.columns[*column]), *collation))
            .collect();
        triggers.extend(probes(t, index, table, &columns, &values));
    }
    triggers
}

/// REPLACE removes the row in its way without a delete trigger: log such rows as suspects before.
fn probes(
    t: u32,
    index: usize,
    table: &Table,
    columns: &[(String, Collation)],
    values: &[(&str, &str)],
) -> Vec<(String, String)> {
    let matching = columns
        .iter()
        .map(|(name, collation)| format!("{name}=NEW.{name} COLLATE {}", collation.name()))
        .collect::<Vec<_>>()
        .join(" AND ");
    let names = table.key_names();
    let other = |row: &str| {
        names.iter().map(|n| format!("{n} IS NOT {row}.{n}")).collect::<Vec<_>>().join(" OR ")
    };
    let list = columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",");
    let update = format!("UPDATE OF {list}");
    // An update moves from OLD's key: the row itself is not its own victim.
    [("bi", "INSERT", other("NEW")), ("bu", update.as_str(), other("OLD"))]
        .into_iter()
        .map(|(suffix, event, other)| {
            let name = format!("{suffix}{index}");
            let mut all = values.to_vec();
            all.extend([
                ("name", name.as_str()),
                ("event", event),
                ("match", &matching),
                ("other", &other),
            ]);
            (format!("_ipicsha_{t}{name}"), render(include_str!("sql/probe.sql"), &all))
        })
        .collect()
}

/// Fills `{name}` in one pass; what is filled in is never looked at again.
pub(crate) fn render(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template.trim_end();
    while let Some(start) = rest.find('{') {
        text.push_str(&rest[..start]);
        let end = rest[start..].find('}').map_or(rest.len() - 1, |end| start + end);
        let name = &rest[start + 1..end];
        let found = values.iter().find(|(known, _)| *known == name);
        text.push_str(found.map_or("", |(_, value)| value));
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    text
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
