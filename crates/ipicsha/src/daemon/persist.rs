//! The state file: the only writer of what the core must remember over a crash.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ipicsha_core::{id::ServerId, state::PersistedState};
use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Kind};

/// Format of the file; a newer one is refused, an older one will be migrated.
const FORMAT: u32 = 1;
const STATE: &str = "state.json";
/// Whose state it must be.
const ID: &str = "server-id";

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    server: ServerId,
    state: PersistedState,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The state file of one server.
pub(crate) struct Store {
    path: PathBuf,
    server: ServerId,
}

impl Store {
    /// Opens the state directory, and makes a new identity when there is no state yet.
    ///
    /// # Errors
    /// The directory cannot be used, or the file is damaged: it is never replaced silently.
    pub(crate) fn open(directory: &Path) -> Result<(Self, PersistedState), Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::new(Kind::Failed, format!("cannot {what} {}: {error}", directory.display()))
                .hinted("check `server.state_directory` and its permissions")
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| failed("create", error))?;
        let path = directory.join(STATE);
        match fs::read(&path) {
            Ok(bytes) => {
                let file = parse(&bytes, &path)?;
                belongs_here(directory, file.server)?;
                Ok((Self { path, server: file.server }, file.state))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let server = ServerId(random().map_err(|error| failed("make an id in", error))?);
                let store = Self { path, server };
                let state = PersistedState::default();
                // The state last: without it the id counts for nothing and is made anew.
                write_durably(&directory.join(ID), id_text(server).as_bytes())
                    .and_then(|()| store.save(&state))
                    .map_err(|error| failed("write to", error))?;
                Ok((store, state))
            }
            Err(error) => Err(failed("read the state in", error)),
        }
    }

    /// This server's identity for life.
    pub(crate) fn server(&self) -> ServerId {
        self.server
    }

    /// Writes the state durably: temporary file, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// The disk refuses; the caller must not act on the new state then.
    pub(crate) fn save(&self, state: &PersistedState) -> std::io::Result<()> {
        let file = StateFile { format: FORMAT, server: self.server, state: state.clone() };
        write_durably(&self.path, &serde_json::to_vec_pretty(&file)?)
    }
}

/// Id and state of the server whose daemon works in `directory`, as last written; `None` when none
/// ever did. Changes nothing.
///
/// # Errors
/// The file cannot be read, which only root and the user of the daemon can, or is damaged.
pub(crate) fn read(directory: &Path) -> Result<Option<(ServerId, PersistedState)>, Failure> {
    let path = directory.join(STATE);
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes, &path).map(|file| Some((file.server, file.state))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            Err(Failure::new(Kind::NotPermitted, text)
                .hinted("run it as root, or as the user of the daemon"))
        }
    }
}

fn id_text(server: ServerId) -> String {
    format!("{:016x}\n", server.0)
}

/// Refuses the state of another server, as a backup that was mixed up would be: it trusts somebody else,
/// and may say that this server is active.
fn belongs_here(directory: &Path, server: ServerId) -> Result<(), Failure> {
    let path = directory.join(ID);
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Failed, format!("cannot use {}: {error}", path.display()))
            .hinted("check `server.state_directory` and its permissions")
    };
    match fs::read_to_string(&path) {
        Ok(text) if text == id_text(server) => Ok(()),
        Ok(text) => {
            let text = format!(
                "the state file {} is of another server: its id is {:016x}, and that of this server is {} ({})",
                directory.join(STATE).display(),
                server.0,
                text.trim(),
                path.display()
            );
            Err(Failure::new(Kind::Config, text).hinted(
                "restore the state file of this server; or move it away, start the daemon, and set up \
                 trust and HA anew (the databases keep their data)",
            ))
        }
        // A version that did not write it down yet has made the state.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_durably(&path, id_text(server).as_bytes()).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<StateFile, Failure> {
    let damaged = |why: String| {
        Failure::new(Kind::Config, format!("the state file {} is damaged: {why}", path.display())).hinted(
            "restore it from a backup; or move it away, start the daemon, and set up trust and HA \
             anew (the databases keep their data)",
        )
    };
    // Of a newer version only the format is understood for sure.
    let format: Format =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if format.format > FORMAT {
        let text = format!(
            "the state file {} is of a newer version of ipicsha (format {}, known is {FORMAT})",
            path.display(),
            format.format
        );
        return Err(Failure::new(Kind::Config, text)
            .hinted("install that version again, the same on both servers"));
    }
    if format.format < FORMAT {
        return Err(damaged(format!("there was never a format {}", format.format)));
    }
    serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))
}

/// Replaces `path` as a whole or not at all.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory)?.sync_all()
}

/// A random number from the kernel.
pub(crate) fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_survives_and_a_cut_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut state) = Store::open(directory.path()).unwrap();
        state.repair_due = true;
        store.save(&state).unwrap();
        let (again, read) = Store::open(directory.path()).unwrap();
        assert_eq!((again.server(), &read), (store.server(), &state));
        let path = directory.path().join("state.json");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let Err(failure) = Store::open(directory.path()) else {
                panic!("{length} of {} bytes were accepted", whole.len());
            };
            assert!(failure.message.contains("state.json") && failure.next_step.is_some());
            assert_eq!(fs::read(&path).unwrap(), &whole[..length], "it was touched");
        }
    }

    #[test]
    fn a_state_file_of_another_server_is_refused_and_both_are_left_alone() {
        let [here, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (store, state) = Store::open(here.path()).unwrap();
        let (foreign, _) = Store::open(other.path()).unwrap();
        let path = here.path().join("state.json");
        fs::copy(other.path().join("state.json"), &path).unwrap();
        let before = fs::read(&path).unwrap();
        let Err(failure) = Store::open(here.path()) else { panic!("it was accepted") };
        assert!(failure.message.contains("of another server"), "{failure}");
        assert!(failure.message.contains(&format!("{:016x}", foreign.server().0)), "{failure}");
        assert_eq!(fs::read(&path).unwrap(), before);
        // Its own one is welcome, also an old one.
        store.save(&state).unwrap();
        assert_eq!(Store::open(here.path()).unwrap().0.server(), store.server());
        // Moved away as the error says: a new one is made, and is its own.
        fs::remove_file(&path).unwrap();
        let anew = Store::open(here.path()).unwrap().0.server();
        assert_eq!(Store::open(here.path()).unwrap().0.server(), anew);
        // Made by a version that did not write the id down.
        fs::remove_file(here.path().join("server-id")).unwrap();
        assert_eq!(Store::open(here.path()).unwrap().0.server(), anew);
        assert!(here.path().join("server-id").exists());
    }

    #[test]
    fn a_state_file_from_the_future_is_named_and_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        Store::open(directory.path()).unwrap();
        let text = r#"{ "format": 2, "what": "nobody here knows" }"#;
        fs::write(&path, text).unwrap();
        let Err(failure) = Store::open(directory.path()) else { panic!("it was accepted") };
        assert!(failure.message.contains("newer version"), "{failure}");
        assert!(failure.next_step.as_ref().is_some_and(|next| next.contains("install")));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        fs::write(&path, r#"{ "format": 0 }"#).unwrap();
        let Err(failure) = Store::open(directory.path()) else { panic!("it was accepted") };
        assert!(failure.message.contains("damaged"), "{failure}");
    }
}
