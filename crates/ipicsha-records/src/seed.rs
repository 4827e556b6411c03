//! Builds the file a server is missing from the partner's schema; the rows come by comparison.
//!
//! Decides what belongs to the application's schema and how the file appears: complete or not at
//! all, never over one that is there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

use ipicsha_core::data::Schema;
use rusqlite::Connection;

use crate::{
    capture,
    error::{AtPath as _, Error},
    follow::Object,
    rollback::Journaling,
    schema::is_ours,
    value,
};

/// The application's objects, in an order in which they can be created; nothing of ours.
pub(crate) fn objects(db: &Connection) -> rusqlite::Result<Vec<Object>> {
    // Shadow tables are created by their virtual table.
    let mut statement = db.prepare(
        "SELECT s.type, s.name, s.tbl_name, s.sql FROM sqlite_schema s
         WHERE s.sql IS NOT NULL AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         AND NOT EXISTS(SELECT 1 FROM pragma_table_list l WHERE l.schema='main' AND l.name=s.tbl_name AND l.type='shadow')
         ORDER BY CASE s.type WHEN 'table' THEN 1 WHEN 'index' THEN 2 WHEN 'view' THEN 3 ELSE 4 END, s.rowid",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    })?;
    let objects = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(objects.into_iter().filter(|o| !is_ours(&o.name) && !is_ours(&o.table)).collect())
}

/// Equal where the application finds the same schema.
pub(crate) fn digest(db: &Connection) -> rusqlite::Result<[u8; 16]> {
    let mut objects = objects(db)?;
    objects.sort();
    let version: i32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let mut text = version.to_string();
    for object in &objects {
        text += &format!("\0{}\0{}\0{}", object.kind, object.name, object.sql);
    }
    Ok(value::hash(text.as_bytes()))
}

/// Reads what `build` needs.
pub(crate) fn read(db: &Connection) -> rusqlite::Result<Schema> {
    let statements = objects(db)?.into_iter().map(|object| object.sql).collect();
    let pragma = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
    Ok(Schema {
        statements,
        page_size: db.query_row("PRAGMA page_size", [], |row| row.get(0))?,
        encoding: db.query_row("PRAGMA encoding", [], |row| row.get(0))?,
        auto_vacuum: pragma("auto_vacuum")?,
        user_version: pragma("user_version")?,
        application_id: pragma("application_id")?,
    })
}

/// Creates the database at `path`, empty, with capture installed and fenced if `fence_closed`.
pub(crate) fn build(
    path: &Path,
    schema: &Schema,
    capacity: u64,
    fence_closed: bool,
    journaling: Journaling,
) -> Result<(), Error> {
    let temporary = beside(path);
    remove_leftovers(&temporary)?;
    let db = Connection::open(&temporary).at(&temporary)?;
    let fill = || -> rusqlite::Result<()> {
        // Before the first table, or they have no effect.
        db.pragma_update(None, "encoding", &schema.encoding)?;
        db.pragma_update(None, "page_size", schema.page_size)?;
        db.pragma_update(None, "auto_vacuum", schema.auto_vacuum)?;
        db.execute_batch("PRAGMA synchronous=FULL; BEGIN")?;
        for statement in &schema.statements {
            create(&db, statement)?;
        }
        db.execute_batch("COMMIT")?;
        db.pragma_update(None, "user_version", schema.user_version)?;
        db.pragma_update(None, "application_id", schema.application_id)?;
        let tables = crate::schema::read(&db)?;
        db.execute_batch("BEGIN")?;
        let plan = capture::plan(&db, &tables, capacity, fence_closed)?;
        capture::finish(&db, &tables, plan)?;
        db.execute_batch("COMMIT")?;
        // Last, so that everything is in this one file and not in a -wal.
        match journaling {
            Journaling::Wal => db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())),
            Journaling::Keep => Ok(()),
        }
    };
    fill().at(&temporary)?;
    drop(db);
    publish(&temporary, path)
}

/// Runs one statement of the partner's schema. It may create, and nothing else: an `ATTACH` would
/// reach other files of this server.
pub(crate) fn create(db: &Connection, statement: &str) -> rusqlite::Result<()> {
    let mut prepared = db.prepare(statement)?;
    let creates = statement.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("CREATE "));
    if !creates {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "the partner's schema holds a statement that creates nothing: {statement:.40}"
        )));
    }
    prepared.raw_execute().map(drop)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".ipicsha-new");
    name.into()
}

fn remove_leftovers(temporary: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = temporary.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io { path: name.into(), source: error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn publish(temporary: &Path, path: &Path) -> Result<(), Error> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::File::open(temporary).and_then(|file| file.sync_all()).at(temporary)?;
    // The application usually runs as the owner of its directory, the daemon as root.
    let owner = fs::metadata(directory).at(directory)?;
    if let Err(error) = chown(temporary, Some(owner.uid()), Some(owner.gid())) {
        tracing::debug!(%error, "the new database keeps the daemon's owner");
    }
    // A link fails where a rename would replace a file the application has created meanwhile.
    fs::hard_link(temporary, path).at(path)?;
    remove_leftovers(temporary)?;
    fs::File::open(directory).and_then(|file| file.sync_all()).at(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_can_only_create() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("new.db"), directory.path().join("other.db"));
        for statement in [
            format!("ATTACH '{}' AS other", other.display()),
            format!("CREATE TABLE t(a PRIMARY KEY); ATTACH '{}' AS other", other.display()),
            "PRAGMA writable_schema=ON".into(),
        ] {
            let schema = Schema {
                statements: vec![statement.clone()],
                page_size: 4096,
                encoding: "UTF-8".into(),
                auto_vacuum: 0,
                user_version: 0,
                application_id: 0,
            };
            let built = build(&path, &schema, 1024, true, Journaling::Wal);
            assert!(!other.exists(), "{statement} reached another file");
            if !statement.starts_with("CREATE") {
                assert!(built.is_err() && !path.exists(), "{statement} was accepted");
            }
        }
    }
}
