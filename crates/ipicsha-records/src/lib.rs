//! The application's SQLite databases: capture, send, apply, acknowledge, fence, repair.
//!
//! One OS thread per database ([`Worker`]), blocking code only. Knows SQLite and the messages of
//! `ipicsha_core::data`; must not know sockets, roles beyond the licensed one, or files other than
//! databases.

mod ahead;
mod answer;
mod apply;
mod attach;
mod barrier;
mod capacity;
mod capture;
mod census;
mod compare;
mod comparing;
mod connection;
mod damage;
mod database;
mod durable;
mod engine;
mod error;
mod exchange;
mod fault;
mod fence;
mod fill;
mod follow;
mod gauge;
mod identity;
mod inspect;
mod journal;
mod log;
mod look;
mod opening;
mod overflow;
mod pace;
mod place;
mod pump;
mod reader;
mod received;
mod repair;
mod report;
mod resume;
mod right;
mod rollback;
mod room;
mod runs;
mod scan;
mod schema;
mod seed;
mod sequence;
mod series;
mod session;
mod stamps;
mod status;
mod steps;
mod switchover;
#[cfg(test)]
mod tests;
mod undo;
mod value;
mod wal_index;
mod watch;
mod witness;
mod worker;

pub use barrier::Confirmed;
pub use capacity::LogCapacity;
pub use census::{Census, TableCensus, census};
pub use damage::set_aside_if_damaged;
pub use error::{Error, RUNNING};
pub use fence::REFUSAL;
pub use gauge::LogUse;
pub use identity::Identity;
pub use inspect::{Inspection, TableInfo, inspect, inspect_as};
pub use journal::{Journal, JournalEntry, JournalFilter, JournalKind, Version};
pub use right::EXPIRED;
pub use rollback::{Journaling, is_database};
pub use runs::PastRepair;
pub use schema::SkippedTable;
pub use status::{ConflictSummary, DatabaseStatus, Event, Events, RepairProgress};
pub use undo::{LeftAsIs, Stays, UndoReport};
pub use worker::{Command, CommandSender, Done, Gate, Prepared, Worker, WorkerConfig, Writes};
