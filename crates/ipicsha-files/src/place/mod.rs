//! A new content gets its name: whole, verified, with its facts, or not at all.
//!
//! Decides the order: everything is written to a temporary file in the same directory, compared with
//! the hash it must have, given its facts, and only then renamed. Must not know where the bytes come
//! from.

mod batch;
mod check;
mod leftover;
mod sparse;
mod temp;

use std::sync::Arc;

pub use batch::{Batch, Expected, Outcomes, Placed};
pub(crate) use check::Check;
pub use check::OldBlocks;
pub use leftover::{is_temporary, remove_leftovers, remove_temporary};
use rustix::io::Errno;
pub use temp::{Hold, Ready, Temp};

use crate::{meta::Meta, path::Name, resolve::Dir};

/// How many random names are tried: a taken one is already a wonder.
const NAMES_MAX: usize = 16;

/// How a finished file comes to its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Over whatever is there.
    Replace,
    /// Only where nothing is.
    New,
    /// In exchange for exactly this file; what came out instead is kept under the temporary name.
    Exchange(Box<Meta>),
}

/// Whether holes are made where the content is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sparse {
    /// Holes where the sender says so, and in runs of zeros.
    Holes,
    /// Every byte is written.
    Full,
}

/// Why a file did not get its name.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The content is not what was announced: it changed on the way, or while it was read.
    #[error("the content is not what was announced")]
    Mismatch,
    /// The system refused.
    #[error("{}", crate::error::Said(*.0))]
    System(Errno),
}

impl From<Errno> for PlaceError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<std::io::Error> for PlaceError {
    fn from(error: std::io::Error) -> Self {
        Self::System(errno_of(&error))
    }
}

/// Makes something under a temporary name, which goes when the hold is dropped.
///
/// # Errors
/// It cannot be made.
pub(crate) fn hold_new(
    dir: &Arc<Dir>,
    mut make: impl FnMut(&Name) -> Result<(), Errno>,
) -> Result<Hold, Errno> {
    for _ in 0..NAMES_MAX {
        let name = leftover::random_name();
        match make(&name) {
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
            Ok(()) => return Ok(Hold::new(dir, name)),
        }
    }
    Err(Errno::EXIST)
}

/// The number behind an error of the standard library.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
