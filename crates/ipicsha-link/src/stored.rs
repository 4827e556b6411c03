//! Writes and reads the few secret files of this crate so that a crash leaves the old or the new
//! file, never half of one. Knows nothing of what is in them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::error::Error;

const SECRET: u32 = 0o600;
const DIRECTORY: u32 = 0o700;
/// No file of this crate is near this; a larger one is not ours.
const BYTES_MAX: u64 = 64 * 1024;

/// Makes `directory` (mode 0700), or takes the permissions of others from an existing one.
pub(crate) fn private_directory(directory: &Path) -> Result<(), Error> {
    let failed = |source| file_error("make the private directory", directory, source);
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(directory).map_err(failed)?;
    let mode = fs::metadata(directory).map_err(failed)?.mode() & 0o7777;
    if mode != DIRECTORY {
        fs::set_permissions(directory, Permissions::from_mode(DIRECTORY)).map_err(failed)?;
    }
    Ok(())
}

/// Removes `directory` and all in it.
pub(crate) fn remove_directory(directory: &Path) -> Result<(), Error> {
    fs::remove_dir_all(directory).map_err(|source| file_error("remove", directory, source))
}

/// Writes `bytes` to `path` with mode 0600, all or nothing, and durably.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let staged = stage(path, bytes)?;
    commit(&staged, path)
}

/// Writes `bytes` durably beside `path` under the name that [`commit`] takes.
pub(crate) fn stage(path: &Path, bytes: &[u8]) -> Result<PathBuf, Error> {
    let staged = staged_path(path);
    let failed = |source| file_error("write", &staged, source);
    // A left-over of a crash may have any mode, so it is removed instead of overwritten.
    match fs::remove_file(&staged) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET)
        .open(&staged)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(staged)
}

/// Gives a staged file its name, durably.
pub(crate) fn commit(staged: &Path, path: &Path) -> Result<(), Error> {
    let failed = |source| file_error("put in place", path, source);
    fs::rename(staged, path).map_err(failed)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// The name under which [`stage`] keeps the future content of `path`.
pub(crate) fn staged_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Who may read a file of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner; anything wider is an error.
    OwnerOnly,
    /// Anybody: the certificate is shown to the whole network.
    Anybody,
}

/// Reads a small file; `None` when there is none.
///
/// # Errors
/// Unreadable, readable by more users than `readers`, or absurdly long.
pub(crate) fn read(path: &Path, readers: Readers) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let failed = |source| file_error("read", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if readers == Readers::OwnerOnly && mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    if metadata.len() > BYTES_MAX {
        return Err(damaged(path, "it is too long"));
    }
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0)));
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

pub(crate) fn file_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { action, path: path.to_owned(), source }
}

pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::Damaged { path: path.to_owned(), reason: reason.into() }
}
