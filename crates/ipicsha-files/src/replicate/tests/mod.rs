//! Two real workers with a link that can be cut, on real directories.

mod changes;
mod conflicts;
mod deletions;
mod hostile;
mod kinds;
mod pair;
mod refused;
mod repairs;
mod transfers;
mod walk;
