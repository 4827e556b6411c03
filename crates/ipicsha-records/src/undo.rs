//! Undoing a repair: what it overwrote or removed is written again, as ordinary changes.
//!
//! Decides which versions may come back: only where the record still is what the repair made of
//! it. The journals of both servers are gone through, the partner's by messages, since each holds
//! the versions that lost there; the writes are those of the active server, with its triggers, so
//! they replicate. Records that a repair copied to the other side stay: they are as valid as any.

use ipicsha_core::data::{Columns, Data, KeptVersion, UndoStep};
use rusqlite::Connection;
use serde::Serialize;

use crate::{
    database::{PATIENT, begin, open_connection, rollback},
    engine::{Engine, Session},
    error::{AtPath as _, Error, is_constraint, is_unique},
    fence,
    schema::{self, Schema, Table},
    value::{self, bind},
    worker::Done,
};

/// Records named in the report, at most.
const NAMED: usize = 1000;

/// A record that was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftAsIs {
    /// The table.
    pub table: String,
    /// The key, for people to read.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// Records that the repair copied to the side that did not have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stays {
    /// The table.
    pub table: String,
    /// Copied to the secondary.
    pub to_secondary: u64,
    /// Copied to the primary.
    pub to_primary: u64,
}

/// What became of undoing one repair of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UndoReport {
    /// The repair.
    pub run: u64,
    /// The database.
    pub database: String,
    /// Records that have their earlier contents again.
    pub restored: u64,
    /// Records that had them already.
    pub already: u64,
    /// Records that were left as they are.
    pub skipped: u64,
    /// The first of these.
    pub left: Vec<LeftAsIs>,
    /// What the repair copied; it stays on both servers.
    pub stays: Vec<Stays>,
}

/// Whose journal is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Ours, behind this number.
    Own(i64),
    Partners,
}

/// An undo under way on the active server.
pub(crate) struct Undoing {
    stage: Stage,
    /// The application's database, opened as an application would.
    db: Connection,
    report: UndoReport,
    done: Done<UndoReport>,
}

impl Undoing {
    /// Whether it can go on without a message of the partner.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.stage, Stage::Own(_))
    }
}

impl Engine {
    /// The shell asks for it.
    pub(crate) fn start_undo(&mut self, run: u64, done: Done<UndoReport>) {
        match self.prepare_undo(run) {
            Ok((db, report)) => {
                self.undoing = Some(Undoing { stage: Stage::Own(0), db, report, done });
            }
            Err(error) => done(Err(error)),
        }
    }

    fn prepare_undo(&self, run: u64) -> Result<(Connection, UndoReport), Error> {
        let (Session::Attached(_), Some(database), Some(journal)) =
            (&self.session, &self.database, &self.journal)
        else {
            let reason = "this database is not connected to the partner's";
            return Err(Error::NotReady(reason.into()));
        };
        if database.fence_closed {
            return Err(Error::Fenced { path: database.path.clone() });
        }
        if self.undoing.is_some() {
            return Err(Error::NotReady("a repair of it is being undone already".into()));
        }
        if self.leading.is_some() || self.follower.is_some() || self.wanted.is_some() {
            return Err(Error::Comparing("a comparison or repair of it"));
        }
        let past = journal.repairs(Some(&self.config.name.0), 0)?;
        let past = past.into_iter().find(|past| past.run == run).ok_or(Error::NoRepair(run))?;
        let tables = past.report.map(|report| report.tables).unwrap_or_default();
        let stays = tables.into_iter().map(|table| Stays {
            table: table.table,
            to_secondary: table.differences.only_primary,
            to_primary: table.differences.only_secondary,
        });
        let stays = stays.filter(|copied| copied.to_secondary + copied.to_primary > 0).collect();
        let db = open_connection(&database.path)?;
        db.busy_timeout(PATIENT).at(&database.path)?;
        let database = self.config.name.to_string();
        Ok((db, UndoReport { run, database, stays, ..UndoReport::default() }))
    }

    /// Goes through the own journal, a piece at a time.
    pub(crate) fn drive_undo(&mut self) {
        let Some(Undoing { stage: Stage::Own(after), report, .. }) = &self.undoing else { return };
        let (run, after) = (report.run, *after);
        let mut step = || -> Result<Stage, Error> {
            let closed = Error::Mismatch("the journal is not open");
            let journal = self.journal.as_ref().ok_or(closed)?;
            let (kept, more) = journal.kept(&self.config.name, run, after)?;
            let last = kept.last().map_or(after, |entry| entry.id);
            let restored = self.put_back(&kept)?;
            if let Some(journal) = &mut self.journal {
                journal.note_restored(&restored)?;
            }
            if more {
                return Ok(Stage::Own(last));
            }
            self.undo_message(run, UndoStep::Ask { after: 0, restored: Vec::new() });
            Ok(Stage::Partners)
        };
        match step() {
            Ok(stage) => {
                if let Some(undoing) = &mut self.undoing {
                    undoing.stage = stage;
                }
            }
            Err(error) => self.fail_undo(error),
        }
    }

    /// Works off a step of the partner.
    pub(crate) fn undo_step(&mut self, run: u64, step: &UndoStep) -> Result<(), Error> {
        match step {
            UndoStep::Ask { after, restored } => {
                let closed = Error::Mismatch("the journal is not open");
                let journal = self.journal.as_mut().ok_or(closed)?;
                journal.note_restored(restored)?;
                let (entries, more) = journal.kept(&self.config.name, run, *after)?;
                self.undo_message(run, UndoStep::Kept { entries, more });
                Ok(())
            }
            UndoStep::Ended { restored } => {
                let closed = Error::Mismatch("the journal is not open");
                let journal = self.journal.as_mut().ok_or(closed)?;
                journal.note_restored(restored)?;
                journal.note_undone(&self.config.name, run)
            }
            UndoStep::Kept { entries, more } => {
                let asked = self.undoing.as_ref().is_some_and(|undoing| {
                    undoing.report.run == run && undoing.stage == Stage::Partners
                });
                if asked {
                    self.take_kept(run, entries, *more);
                }
                Ok(())
            }
        }
    }

    fn take_kept(&mut self, run: u64, entries: &[KeptVersion], more: bool) {
        let restored = match self.put_back(entries) {
            Ok(restored) => restored,
            Err(error) => return self.fail_undo(error),
        };
        if let Some(last) = entries.last().filter(|_| more) {
            self.undo_message(run, UndoStep::Ask { after: last.id, restored });
            return;
        }
        self.undo_message(run, UndoStep::Ended { restored });
        if let Some(journal) = &self.journal
            && let Err(error) = journal.note_undone(&self.config.name, run)
        {
            return self.fail_undo(error);
        }
        if let Some(Undoing { report, done, .. }) = self.undoing.take() {
            done(Ok(report));
        }
    }

    /// The connection is lost, or writes were closed: what is back stays back.
    pub(crate) fn abandon_undo(&mut self, reason: &str) {
        if self.undoing.is_some() {
            self.fail_undo(Error::Interrupted(reason.into()));
        }
    }

    fn fail_undo(&mut self, error: Error) {
        if let Some(undoing) = self.undoing.take() {
            tracing::warn!(database = %self.config.name, run = undoing.report.run, %error,
                "undoing a repair stopped half-way; it can be run again");
            (undoing.done)(Err(error));
        }
    }

    fn undo_message(&self, run: u64, step: UndoStep) {
        self.send(Data::Undo { database: self.config.name.clone(), run, step });
    }

    /// Writes versions again; returns the numbers of those that are back.
    fn put_back(&mut self, entries: &[KeptVersion]) -> Result<Vec<i64>, Error> {
        match (self.put_back_together(entries), entries) {
            // A rule that is looked at when the transaction ends.
            (Err(Error::Sqlite { source, .. }), [entry]) if is_constraint(&source) => {
                if let Some(Undoing { report, .. }) = &mut self.undoing {
                    report.skipped += 1;
                    report.left.push(LeftAsIs::new(entry, &refusal(&source.to_string())));
                    report.left.truncate(NAMED);
                }
                Ok(Vec::new())
            }
            (Err(Error::Sqlite { source, .. }), _) if is_constraint(&source) => {
                let mut back = Vec::new();
                for entry in entries {
                    back.extend(self.put_back(std::slice::from_ref(entry))?);
                }
                Ok(back)
            }
            (result, _) => result,
        }
    }

    fn put_back_together(&mut self, entries: &[KeptVersion]) -> Result<Vec<i64>, Error> {
        let (Some(undoing), Some(database)) = (&mut self.undoing, &self.database) else {
            return Ok(Vec::new());
        };
        let path = &database.path;
        let _beside = crate::rollback::beside();
        begin(&undoing.db, path, PATIENT)?;
        let work = PutBack::new(&undoing.db).and_then(|mut work| {
            work.all(entries)?;
            undoing.db.execute_batch("COMMIT")?;
            Ok(work)
        });
        let PutBack { restored, already, left, .. } = match work {
            Ok(work) => work,
            Err(error) => {
                rollback(&undoing.db);
                if error.to_string().contains(fence::REFUSAL) {
                    return Err(Error::Fenced { path: path.clone() });
                }
                return Err(error).at(path);
            }
        };
        let report = &mut undoing.report;
        report.restored += restored.len() as u64;
        report.already += already.len() as u64;
        report.skipped += left.len() as u64;
        let room = NAMED.saturating_sub(report.left.len());
        report.left.extend(left.into_iter().take(room));
        Ok(restored.into_iter().chain(already).collect())
    }
}

impl LeftAsIs {
    fn new(entry: &KeptVersion, reason: &str) -> Self {
        Self {
            table: entry.table.clone(),
            key: value::describe_key(&entry.key),
            reason: reason.into(),
        }
    }
}

fn refusal(reason: &str) -> String {
    format!("the database refuses it: {reason}")
}

/// How one write ended.
enum Outcome {
    Written,
    /// A UNIQUE rule refused it.
    Blocked,
    /// Another rule did, for this reason.
    Refused(String),
}

/// One transaction of the application's kind.
struct PutBack<'a> {
    db: &'a Connection,
    schema: Schema,
    restored: Vec<i64>,
    already: Vec<i64>,
    left: Vec<LeftAsIs>,
}

impl<'a> PutBack<'a> {
    fn new(db: &'a Connection) -> rusqlite::Result<Self> {
        let schema = schema::read(db)?;
        Ok(Self { db, schema, restored: Vec::new(), already: Vec::new(), left: Vec::new() })
    }

    fn all(&mut self, entries: &[KeptVersion]) -> rusqlite::Result<()> {
        let mut due = Vec::new();
        for entry in entries {
            if self.may_return(entry)? {
                due.push(entry);
            }
        }
        // A UNIQUE value may become free only when another record has its own back.
        loop {
            let before = due.len();
            let mut blocked = Vec::new();
            for entry in due {
                match self.write(entry)? {
                    Outcome::Written => self.restored.push(entry.id),
                    Outcome::Blocked => blocked.push(entry),
                    Outcome::Refused(reason) => self.leave(entry, &reason),
                }
            }
            due = blocked;
            if due.is_empty() || due.len() == before {
                break;
            }
        }
        self.swap(&due)
    }

    /// Whether the record still is what the repair made of it.
    fn may_return(&mut self, entry: &KeptVersion) -> rusqlite::Result<bool> {
        let table = self.schema.tables.get(&entry.table);
        let Some(table) = table.filter(|table| table.columns == entry.columns) else {
            self.leave(entry, "its table has another shape now");
            return Ok(false);
        };
        let fits = |columns: &Option<Columns>| {
            columns.as_ref().is_none_or(|columns| columns.len() == table.columns.len())
        };
        if !fits(&entry.version) || !fits(&entry.winner) || entry.key.len() != table.key.len() {
            self.leave(entry, "what is kept of it is damaged");
            return Ok(false);
        }
        let current = self.current(table, entry)?;
        if current == entry.version {
            self.already.push(entry.id);
            return Ok(false);
        }
        let identity = table.identity_of(&entry.key);
        let own = |winner: &&Columns| table.identity_of(&table.key_of(winner)) == identity;
        if current.as_ref() != entry.winner.as_ref().filter(own) {
            self.leave(entry, "it was changed since the repair");
            return Ok(false);
        }
        Ok(true)
    }

    fn current(&self, table: &Table, entry: &KeptVersion) -> rusqlite::Result<Option<Columns>> {
        let mut statement = self.db.prepare_cached(&table.sql.select)?;
        bind(&mut statement, 1, &entry.key)?;
        let mut rows = statement.raw_query();
        rows.next()?.map(|row| value::read_columns(row, 0, table.columns.len())).transpose()
    }

    fn write(&self, entry: &KeptVersion) -> rusqlite::Result<Outcome> {
        let Some(table) = self.schema.tables.get(&entry.table) else {
            return Ok(Outcome::Blocked);
        };
        let (sql, values) = match &entry.version {
            Some(columns) => (&table.sql.upsert, columns),
            None => (&table.sql.delete, &entry.key),
        };
        let mut statement = self.db.prepare_cached(sql)?;
        bind(&mut statement, 1, values)?;
        match statement.raw_execute() {
            Err(error) if is_unique(&error) => Ok(Outcome::Blocked),
            // A rule or a trigger of the application; after some of them nothing else is kept either.
            Err(rusqlite::Error::SqliteFailure(error, Some(reason)))
                if error.code == rusqlite::ErrorCode::ConstraintViolation
                    && !reason.contains(fence::REFUSAL)
                    && !self.db.is_autocommit() =>
            {
                Ok(Outcome::Refused(refusal(&reason)))
            }
            result => result.map(|_| Outcome::Written),
        }
    }

    /// Records that hold one another's UNIQUE values: all out first, then all in.
    fn swap(&mut self, blocked: &[&KeptVersion]) -> rusqlite::Result<()> {
        if blocked.is_empty() {
            return Ok(());
        }
        for entry in blocked {
            if self.has_dependents(&entry.table)? {
                let reason =
                    "its UNIQUE value is held, and taking the holder out would change more";
                blocked.iter().for_each(|entry| self.leave(entry, reason));
                return Ok(());
            }
        }
        self.db.execute_batch("SAVEPOINT ipicsha")?;
        for entry in blocked {
            let Some(table) = self.schema.tables.get(&entry.table) else { continue };
            let mut statement = self.db.prepare_cached(&table.sql.delete)?;
            bind(&mut statement, 1, &entry.key)?;
            statement.raw_execute()?;
        }
        let mut fits = true;
        for entry in blocked {
            fits &= matches!(self.write(entry)?, Outcome::Written);
        }
        if !fits {
            self.db.execute_batch("ROLLBACK TO ipicsha")?;
        }
        self.db.execute_batch("RELEASE ipicsha")?;
        for entry in blocked {
            if fits {
                self.restored.push(entry.id);
            } else {
                self.leave(entry, "another record holds its UNIQUE value now");
            }
        }
        Ok(())
    }

    /// Whether a deletion does more than delete: by triggers, or by records that refer to it.
    fn has_dependents(&self, table: &str) -> rusqlite::Result<bool> {
        self.db.query_row(
            "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE type='trigger'
                 AND tbl_name=?1 COLLATE NOCASE AND substr(name,1,9)<>'_ipicsha_')
               OR EXISTS(SELECT 1 FROM sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f
                 WHERE s.type='table' AND f.\"table\"=?1 COLLATE NOCASE)",
            [table],
            |row| row.get(0),
        )
    }

    fn leave(&mut self, entry: &KeptVersion, reason: &str) {
        self.left.push(LeftAsIs::new(entry, reason));
    }
}
