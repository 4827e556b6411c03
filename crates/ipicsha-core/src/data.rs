//! What the record engines of the two servers say to each other on the data connection.
//!
//! Decides only the shape of the messages and when two values are the same. Must not know how a
//! message travels, where a database lies, or which server is active. Append-only: a variant or
//! field never changes its place (the order of postcard is the format; the test pins the bytes).

mod bytes;

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::{
    id::{DatabaseName, Seq},
    time::WallTime,
};

/// Identity of one application database file, made when capture is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DatabaseUuid(pub [u8; 16]);

/// One unbroken history of one database file: positions mean something only within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The file.
    pub uuid: DatabaseUuid,
    /// Raised when the file was replaced by a copy of itself (restored, copied).
    pub incarnation: u32,
}

/// One SQLite value with its storage class, compared bit by bit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Value {
    /// NULL.
    Null,
    /// 64-bit integer.
    Integer(i64),
    /// 64-bit floating point.
    Real(f64),
    /// Text as stored; SQLite does not promise valid UTF-8.
    Text(#[serde(with = "bytes")] Vec<u8>),
    /// Bytes.
    Blob(#[serde(with = "bytes")] Vec<u8>),
}

impl Value {
    /// Size in a message, roughly; used to bound messages.
    pub fn size(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Integer(_) | Self::Real(_) => 9,
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len() + 4,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            // Bits, not numbers: NaN equals itself and -0.0 differs from 0.0.
            (Self::Real(a), Self::Real(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a == b,
            (Self::Null | Self::Integer(_) | Self::Real(_) | Self::Text(_) | Self::Blob(_), _) => {
                false
            }
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Null => {}
            Self::Integer(integer) => integer.hash(state),
            Self::Real(real) => real.to_bits().hash(state),
            Self::Text(bytes) | Self::Blob(bytes) => bytes.hash(state),
        }
    }
}

/// Values of the key columns, in key order.
pub type Key = Vec<Value>;

/// Values of all replicated columns, in the column order both sides agreed on.
pub type Columns = Vec<Value>;

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It has these contents now.
    Upsert(Columns),
    /// It is gone.
    Delete(Key),
}

impl Change {
    /// Bytes it takes, about.
    pub fn size(&self) -> usize {
        let (Self::Upsert(values) | Self::Delete(values)) = self;
        values.iter().map(Value::size).sum::<usize>() + 16
    }
}

/// The newest change of one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Index into [`Batch::tables`].
    pub table: u32,
    /// The last log entry of this record in the sender's snapshot.
    pub seq: Seq,
    /// When that entry was written, by the sender's clock.
    pub wall: WallTime,
    /// The change.
    pub change: Change,
}

/// What of the changes the sender read together comes behind a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follows {
    /// Nothing: with this batch the receiver has what the sender had at one moment.
    #[default]
    Nothing,
    /// The rest, at once: both are applied in one transaction, or neither.
    AtOnce,
    /// More than can be held back: what is here is applied, although the rest is missing.
    Later,
}

/// A part of the sender's log, read in one snapshot, in log order. Together with the batches that follow
/// at once it is a series: a consistent prefix, unless that is too large.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The database.
    pub database: DatabaseName,
    /// The sender's history the positions belong to.
    pub origin: Origin,
    /// The receiver must have applied up to here.
    pub from: Seq,
    /// Applying the batch brings it here.
    pub to: Seq,
    /// When that entry was written, by the sender's clock, where that is known.
    pub to_wall: Option<WallTime>,
    /// The receiver's log position the sender had applied when it read the rows.
    pub base: Seq,
    /// Names of the tables the rows refer to.
    pub tables: Vec<String>,
    /// The changes.
    pub rows: Vec<Row>,
    /// Index into `tables` and largest id given out, of AUTOINCREMENT tables.
    pub sequences: Vec<(u32, i64)>,
    /// Whether it is the last of its series.
    pub follows: Follows,
}

impl Batch {
    /// So few records and bytes that threads which have something else to do send and apply it themselves.
    pub fn is_small(&self) -> bool {
        let bytes = self.rows.iter().map(|row| row.change.size()).sum::<usize>();
        self.rows.len() <= 64 && bytes <= 8 * 1024
    }
}

/// How far one side has durably applied the other's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The history it applied.
    pub origin: Origin,
    /// Up to this entry.
    pub seq: Seq,
    /// When it was written, where that is known: numbers are given out again after a backup was restored,
    /// which the other side knows by that.
    pub wall: Option<WallTime>,
}

/// What a side's own log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogExtent {
    /// Its history.
    pub origin: Origin,
    /// Oldest entry still there; one past `last` when there is none.
    pub first: Seq,
    /// Newest entry.
    pub last: Seq,
    /// When that entry was written, by the owner's clock, where it is still there.
    pub last_wall: Option<WallTime>,
}

impl LogExtent {
    /// Whether a partner that has applied `applied` can go on from there, nothing missing.
    pub fn continues(&self, applied: Option<Applied>) -> bool {
        applied.is_some_and(|applied| {
            applied.origin == self.origin
                && self.first.0 <= applied.seq.0.saturating_add(1)
                && applied.seq <= self.last
        })
    }
}

/// Whose contents of a table count, as one side sees it since the table was last compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Everything went through the log.
    #[default]
    Even,
    /// It could not follow at some time: both sides may have something the other has not.
    Behind,
    /// Rewritten here by the application (rebuilt, renumbered by VACUUM): this side counts.
    Counts,
    /// Rewritten here although the application may not write here: the other side counts.
    Yields,
}

/// One replicated table as a side sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// Its name.
    pub name: String,
    /// Hash over columns and key; equal hashes mean rows can be exchanged.
    pub schema_hash: [u8; 16],
    /// Whose contents count.
    pub standing: Standing,
    /// Largest id an AUTOINCREMENT table has given out.
    pub sequence: Option<i64>,
}

/// A side's position, exchanged before anything else.
///
/// The secondary sends one with a new `turn`; the primary answers with the same `turn`. Both then
/// evaluate the same two messages, so they agree on where each direction begins without a further
/// message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The database.
    pub database: DatabaseName,
    /// Number of the exchange.
    pub turn: u64,
    /// Own log; `None` when the file is missing.
    pub log: Option<LogExtent>,
    /// What it has applied of the other's log.
    pub applied: Option<Applied>,
    /// The initial comparison with this partner has finished.
    pub synced: bool,
    /// Replicated tables.
    pub tables: Vec<TableState>,
    /// Hash over the schema as the application finds it.
    pub schema: [u8; 16],
    /// The application may write here.
    pub open: bool,
}

/// Everything needed to build an empty copy of the application's database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// `CREATE` statements of the application's objects, in an order that can be executed.
    pub statements: Vec<String>,
    /// `PRAGMA page_size`.
    pub page_size: u32,
    /// `PRAGMA encoding`.
    pub encoding: String,
    /// `PRAGMA auto_vacuum`.
    pub auto_vacuum: i32,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
}

/// Hash over typed values.
pub type RowHash = [u8; 16];

/// The beginning of a row's hash: enough to find the rows that differ in a range that does.
pub type BriefHash = [u8; 8];

/// Hash over the rows between the end of the range before and `upto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Last key of the range; `None` reaches to the end of the table.
    pub upto: Option<Key>,
    /// Rows in it.
    pub count: u64,
    /// Hash over them in key order.
    pub hash: RowHash,
}

/// The primary's version of a record whose versions seem to differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrimaryVersion {
    /// The primary does not have it: the secondary sends it.
    Absent,
    /// The primary has this (dry run).
    Hash(RowHash),
    /// The primary has this and it is to be applied.
    Contents(Columns),
    /// The primary cannot take the secondary's version (UNIQUE): it is to be deleted.
    Refused,
    /// The primary has this, and its log says when it was written: a newer one stays.
    Dated {
        /// The contents.
        columns: Columns,
        /// When the primary's application wrote them.
        wall: WallTime,
    },
}

/// What was found about one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// Records only the primary had.
    pub only_primary: u64,
    /// Records only the secondary had.
    pub only_secondary: u64,
    /// Records with different contents.
    pub differing: u64,
    /// Versions put into the conflict journal.
    pub journaled: u64,
    /// Differences left (dry run: all of them).
    pub remaining: u64,
}

/// What was found about one table, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// The table.
    pub table: String,
    /// Its differences.
    pub differences: Differences,
}

/// Result of one comparison or repair, the same on both servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReport {
    /// The database.
    pub database: DatabaseName,
    /// Tables, also those without differences.
    pub tables: Vec<TableReport>,
    /// How often everything was compared.
    pub passes: u32,
    /// Records of the primary compared in the first pass.
    pub rows_compared: u64,
    /// Whether differences were repaired (`false`: dry run).
    pub applied: bool,
}

impl RepairReport {
    /// Differences found at first, over all tables.
    pub fn found(&self) -> u64 {
        let sum = |d: &Differences| d.only_primary + d.only_secondary + d.differing;
        self.tables.iter().map(|table| sum(&table.differences)).sum()
    }

    /// Differences left, over all tables.
    pub fn remaining(&self) -> u64 {
        self.tables.iter().map(|table| table.differences.remaining).sum()
    }
}

/// One step of a comparison: the primary asks, the secondary answers, one question at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareStep {
    /// Primary: a comparison of these tables begins; ship what your log holds first.
    Begin {
        /// Repair what differs.
        apply: bool,
        /// It is the initial comparison of the pair.
        initial: bool,
        /// The tables, referred to by index from here on.
        tables: Vec<String>,
    },
    /// Secondary: everything my log held at `Begin` has been acknowledged.
    Ready,
    /// Primary: my ranges, the first one beginning behind `after`.
    Ranges {
        /// Index into the tables of `Begin`.
        table: u32,
        /// Begin behind this key; `None` is the start of the table.
        after: Option<Key>,
        /// Adjoining ranges.
        ranges: Vec<Range>,
    },
    /// Secondary: these of the ranges differ, with my count of rows in each.
    DifferingRanges(Vec<(u32, u64)>),
    /// Primary: my rows in one range.
    Rows {
        /// Index into the tables of `Begin`.
        table: u32,
        /// Begin behind this key.
        after: Option<Key>,
        /// End with this key.
        upto: Option<Key>,
        /// Key and hash of each row.
        rows: Vec<(Key, BriefHash)>,
    },
    /// Secondary: the keys that seem to differ, be it one-sided or in contents.
    DifferingKeys(Vec<Key>),
    /// Primary: my versions of these keys, read now.
    Fix {
        /// Index into the tables of `Begin`.
        table: u32,
        /// The secondary's log position applied when they were read.
        base: Seq,
        /// The versions.
        rows: Vec<(Key, PrimaryVersion)>,
    },
    /// Secondary: done; what was really different, and my rows that you do not have.
    Fixed {
        /// The primary's log position applied when the copies were read.
        base: Seq,
        /// What this step found.
        found: Differences,
        /// Rows for the primary.
        copies: Vec<Columns>,
        /// Keys I do not have, where my contents count.
        gone: Vec<Key>,
    },
    /// Primary: finished, with this result.
    Done(RepairReport),
    /// Either: it cannot go on, for this reason.
    Interrupted(String),
    /// Primary: where you had nothing I have these, read now; answered by `Fixed`.
    Fill {
        /// Index into the tables of `Begin`.
        table: u32,
        /// The secondary's log position applied when they were read.
        base: Seq,
        /// Its rows, in key order.
        rows: Vec<Columns>,
    },
    /// Primary: I have nothing between these keys: send what you have.
    Fetch {
        /// Index into the tables of `Begin`.
        table: u32,
        /// Begin behind this key.
        after: Option<Key>,
        /// End with this key.
        upto: Option<Key>,
    },
    /// Secondary: my rows there, in key order.
    Fetched {
        /// The primary's log position applied when they were read.
        base: Seq,
        /// The rows.
        rows: Vec<Columns>,
        /// There is more behind the last one.
        more: bool,
    },
    /// Primary: how far the comparison is, for those who look; not answered.
    Progress {
        /// How often everything is compared, this time included.
        pass: u32,
        /// Rows done in this pass.
        rows: u64,
        /// Of so many, where they were counted.
        total: Option<u64>,
    },
    /// Secondary: like `Fixed`, and these of my versions are newer than yours.
    FixedNewer {
        /// The primary's log position applied when they were read.
        base: Seq,
        /// What this step found.
        found: Differences,
        /// Rows for the primary.
        copies: Vec<Columns>,
        /// Keys I do not have, where my contents count.
        gone: Vec<Key>,
        /// Rows that replace the primary's.
        newer: Vec<Columns>,
    },
}

/// A version that lost in a repair, as the server that kept it tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVersion {
    /// Its number in that server's journal.
    pub id: i64,
    /// The table.
    pub table: String,
    /// Names of the columns of both versions.
    pub columns: Vec<String>,
    /// The record.
    pub key: Key,
    /// What lost; `None`: it was not there.
    pub version: Option<Columns>,
    /// What took its place: the record's own version or, under another key, the record it stood in
    /// the way of; `None`: it was removed.
    pub winner: Option<Columns>,
}

/// One step of undoing a repair: the active server asks, the other one answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UndoStep {
    /// Active: which versions of this repair does your journal hold?
    Ask {
        /// Those with larger numbers.
        after: i64,
        /// These are back, or never were changed.
        restored: Vec<i64>,
    },
    /// The other: these, in the order of their numbers.
    Kept {
        /// The versions.
        entries: Vec<KeptVersion>,
        /// There are others behind the last one.
        more: bool,
    },
    /// Active: that was all.
    Ended {
        /// As in `Ask`.
        restored: Vec<i64>,
    },
}

/// Everything said on the data connection about records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// The primary is ready: the secondary shall attach (again).
    Invite {
        /// The database.
        database: DatabaseName,
    },
    /// Position of one side.
    Attach(Attach),
    /// How to build the file the other side is missing.
    Schema {
        /// The database.
        database: DatabaseName,
        /// Its schema.
        schema: Schema,
    },
    /// Changes.
    Batch(Batch),
    /// Changes up to `to` are durable at the receiver.
    Ack {
        /// The database.
        database: DatabaseName,
        /// The history acknowledged.
        origin: Origin,
        /// Up to this entry.
        to: Seq,
    },
    /// A step of a comparison.
    Compare {
        /// The database.
        database: DatabaseName,
        /// The comparison it belongs to.
        run: u64,
        /// The step.
        step: CompareStep,
    },
    /// A step of undoing a repair.
    Undo {
        /// The database.
        database: DatabaseName,
        /// The repair.
        run: u64,
        /// The step.
        step: UndoStep,
    },
    /// The application writes after a pause: a batch comes in a moment, unless it rolls back.
    Expect {
        /// The database.
        database: DatabaseName,
    },
}

impl Data {
    /// The database the message is about.
    pub fn database(&self) -> &DatabaseName {
        match self {
            Self::Invite { database }
            | Self::Schema { database, .. }
            | Self::Ack { database, .. }
            | Self::Compare { database, .. }
            | Self::Undo { database, .. }
            | Self::Expect { database } => database,
            Self::Attach(attach) => &attach.database,
            Self::Batch(batch) => &batch.database,
        }
    }
}

#[cfg(test)]
mod tests;
