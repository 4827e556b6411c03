//! Directories beside the application's databases: the files, and how they come to the other side.
//!
//! Blocking code only. Every operation happens beneath a [`Root`] by directory handles, so that no
//! name and no symbolic link, however hostile, leads out of it. Must not know sockets, roles,
//! databases of applications, or who the partner is.

pub mod attributes;
mod bytes;
mod compression;
pub mod delta;
mod error;
pub mod facts;
pub mod filter;
pub mod hash;
mod marker;
pub mod meta;
pub mod path;
pub mod place;
pub mod replicate;
pub mod resolve;
pub mod scan;
pub mod sync;
pub mod watch;

pub use error::{Problem, Said};
pub use facts::Facts;
pub use hash::{Hash, Hasher};
pub use meta::{Kind, Meta, Time};
pub use path::{Name, PathError, RelativePath};
pub use resolve::{Dir, Links, Mounts, Root};
