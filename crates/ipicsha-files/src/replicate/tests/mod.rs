//! Two real workers with a link that can be cut, on real directories.

mod changes;
mod conflicts;
mod deletions;
pub(super) mod faults;
mod hostile;
mod kinds;
mod pair;
mod refused;
mod repairs;
mod rescues;
mod scripted;
mod tombstones;
mod transfers;
mod unsound;
mod walk;
