//! The whole behaviour of one server of an `ipicsha` pair, as values.
//!
//! A [`Node`] is told what happened ([`Node::handle`], [`Node::handle_timeout`]) and what the clocks
//! say; it answers with what is to be done ([`Node::poll_output`]) and when it wants to be called
//! next ([`Node::poll_timeout`]). There is no clock, no I/O, no thread and no async in this crate.
//!
//! What holds at every step:
//! - outputs are carried out in order, and `Persist` is a barrier: nobody hears of a role or an
//!   epoch that is not on the disk;
//! - no two activations ever share an epoch;
//! - a server becomes active only with the partner's word, after D of silence that it was awake to
//!   hear, or alone as the last active one after the initialisation timeout;
//! - no role changes by itself during a pause, to a partner that is not ready, or more than twice
//!   within the window of the anti-flap rule;
//! - with both servers active, records stay where they are until an administrator (or an empty
//!   side) ends it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admin;
pub mod advice;
pub mod clock_guard;
pub mod config;
pub mod data;
pub mod epoch;
pub mod file;
pub mod file_policy;
pub mod id;
mod io;
pub mod license;
pub mod lww;
pub mod machine;
pub mod message;
mod node;
pub mod preflight;
pub mod state;
pub mod status;
pub mod time;
pub mod trust;
pub mod witness;

pub use io::{
    ActivationFailed, DirectoryReport, Event, Gate, Input, Output, ServiceDown, ServiceKind,
    ServicesReport, Shutdown, Stage, WitnessAnswer,
};
pub use node::{BANDWIDTH_MIN, Node};
