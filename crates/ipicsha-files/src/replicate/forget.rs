//! What goes when HA is not configured any more: the index, but nothing that is kept.

use std::{io, path::Path};

/// Name of the index in the state folder of a directory.
pub(crate) const INDEX_FILE: &str = "index.db";

/// Removes the index of a directory without a worker, so that a later pair begins with a merge.
///
/// # Errors
/// The system refuses.
pub fn remove_index(state: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match std::fs::remove_file(state.join(format!("{INDEX_FILE}{suffix}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
