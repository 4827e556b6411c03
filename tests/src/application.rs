//! A small dispatch board that writes with plain SQLite: the embedded stand-in for an application.

use std::time::Duration;

use anyhow::{Result, bail};
use rusqlite::{Connection, OptionalExtension, types::ValueRef};

/// What the write fence of a standby says.
pub const FENCE: &str = "IPICSHA: this server is standby";

const SCHEMA: &str = "
PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS calls(id TEXT PRIMARY KEY, what TEXT NOT NULL, weight REAL, note BLOB);
CREATE TABLE IF NOT EXISTS units(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, place TEXT);
CREATE TABLE IF NOT EXISTS duty(unit INTEGER, call TEXT, since INTEGER, PRIMARY KEY(unit, call)) WITHOUT ROWID;
INSERT INTO calls VALUES('first', 'smoke in the hall', 1.5, x'00ff'), ('second', 'water', NULL, NULL);
INSERT INTO units(name, place) VALUES('engine 1', 'station'), ('ladder 2', 'road');
INSERT INTO duty VALUES(1, 'first', 100);";

/// An application with its database open.
#[derive(Debug)]
pub struct Application {
    db: Connection,
}

impl Application {
    pub(crate) fn over(db: Connection) -> Result<Self> {
        db.busy_timeout(Duration::from_secs(5))?;
        Ok(Self { db })
    }

    /// First start: makes the tables and some records.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn create(&self) -> Result<()> {
        self.db.execute_batch(SCHEMA)?;
        Ok(())
    }

    /// Runs statements.
    ///
    /// # Errors
    /// SQLite, or the write fence, refuses.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.db.execute_batch(sql)?;
        Ok(())
    }

    /// Runs statements that nothing captures, as a fault of the disk or of an administrator would.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn fault(&self, sql: &str) -> Result<()> {
        use rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER as TRIGGERS;
        self.db.set_db_config(TRIGGERS, false)?;
        let done = self.db.execute_batch(sql);
        self.db.set_db_config(TRIGGERS, true)?;
        Ok(done?)
    }

    /// Writes one call.
    ///
    /// # Errors
    /// SQLite, or the write fence, refuses.
    pub fn add_call(&self, id: &str, what: &str) -> Result<()> {
        self.db.execute("INSERT INTO calls(id, what) VALUES(?1, ?2)", [id, what])?;
        Ok(())
    }

    /// Text of a call, if there is such a call.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn call(&self, id: &str) -> Result<Option<String>> {
        let row = self.db.query_row("SELECT what FROM calls WHERE id = ?1", [id], |row| row.get(0));
        Ok(row.optional()?)
    }

    /// The one number that a query gives.
    ///
    /// # Errors
    /// SQLite refuses, or it is no number.
    pub fn number(&self, sql: &str) -> Result<i64> {
        Ok(self.db.query_row(sql, [], |row| row.get(0))?)
    }

    /// The one text that a query gives.
    ///
    /// # Errors
    /// SQLite refuses, or it is no text.
    pub fn text(&self, sql: &str) -> Result<String> {
        Ok(self.db.query_row(sql, [], |row| row.get(0))?)
    }

    /// All rows that a query gives, every value as text.
    ///
    /// # Errors
    /// SQLite refuses, or a value is neither text nor an integer.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let mut statement = self.db.prepare(sql)?;
        let columns = statement.column_count();
        let mut cursor = statement.query([])?;
        let mut rows = Vec::new();
        while let Some(row) = cursor.next()? {
            let cell = |at| match row.get_ref(at)? {
                ValueRef::Integer(number) => Ok(number.to_string()),
                text @ ValueRef::Text(_) => Ok(text.as_str()?.to_owned()),
                other @ (ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_)) => {
                    bail!("{:?} is neither text nor an integer", other.data_type())
                }
            };
            rows.push((0..columns).map(cell).collect::<Result<_>>()?);
        }
        Ok(rows)
    }

    /// Names of tables and triggers that begin like this.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn objects_of(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = self
            .db
            .prepare("SELECT name FROM sqlite_schema WHERE substr(name, 1, length(?1)) = ?1")?;
        let names = names.query_map([prefix], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Checks that the fence, and nothing else, refuses a write.
    ///
    /// # Errors
    /// The write went through, or failed for another reason.
    pub fn must_be_fenced(&self) -> Result<()> {
        match self.add_call("not allowed here", "x") {
            Ok(()) => bail!("a standby accepted a write"),
            Err(error) if error.to_string().contains(FENCE) => Ok(()),
            Err(error) => Err(error.context("another error than the fence")),
        }
    }
}
