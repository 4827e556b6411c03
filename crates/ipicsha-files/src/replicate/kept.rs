//! What was deleted, replaced or lost, for a while.

use std::path::Path;

use super::{DirectoryConfig, KeptEntry, Refused};

/// What is kept of a directory, newest first. `state` is [`DirectoryConfig::state`].
///
/// # Errors
/// It cannot be read.
pub fn list_kept(state: &Path) -> Result<Vec<KeptEntry>, Refused> {
    let _ = state;
    Ok(Vec::new())
}

/// Puts one back where it was, as an ordinary change of this server; what is there now is kept in its
/// place. Gives the path.
///
/// # Errors
/// There is none of that number, its directory is gone, or the system refuses.
pub fn restore_kept(config: &DirectoryConfig, id: u64) -> Result<String, Refused> {
    let _ = (config, id);
    Err(Refused { message: String::new(), next_step: String::new() })
}
