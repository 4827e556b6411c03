//! The stored record of this server's admin password.
//!
//! Decides what a password must be and where its record lies. The password itself is never stored,
//! never logged and never sent.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    error::Error,
    opaque::{NotProven, Prover, RECORD_BYTES, Record},
    stored::{self, Readers, damaged},
};

/// The only admin user (spec A1).
pub const ADMIN_USER: &str = "ipicsadmin";
/// Fewest characters of an admin password.
pub const PASSWORD_CHARACTERS_MIN: usize = 8;

/// Far above anything typed; keeps a mistaken file from being hashed.
const PASSWORD_BYTES_MAX: usize = 1024;
pub(crate) const FILE: &str = "admin-password";
const MAGIC: &[u8] = b"ipicsha admin password 1\n";
/// What binds a login on this server's own console; never equal to a TLS exporter context.
const LOCAL_CONTEXT: &[u8] = b"ipicsha local login";

/// Verifier of the admin password, good for the trust exchange and for the console login.
pub struct AdminPassword {
    record: Record,
}

impl AdminPassword {
    /// Stores a new admin password in `directory` (file `admin-password`, mode 0600), replacing the
    /// old one at once. Blocks, and takes about 0.2 s of CPU.
    ///
    /// # Errors
    /// The password is shorter than [`PASSWORD_CHARACTERS_MIN`] or absurdly long, or the file cannot
    /// be written; then the old password stays.
    pub fn set(directory: &Path, password: &str) -> Result<Self, Error> {
        if password.chars().count() < PASSWORD_CHARACTERS_MIN {
            return Err(Error::PasswordTooShort { minimum: PASSWORD_CHARACTERS_MIN });
        }
        check_length(password)?;
        let record = Record::register(password.as_bytes()).map_err(|NotProven| {
            Error::Certificate("the registration of the password failed".into())
        })?;
        let mut bytes = record.to_bytes();
        bytes.splice(0..0, MAGIC.iter().copied());
        stored::private_directory(directory)?;
        stored::write(&path(directory), &bytes)?;
        Ok(Self { record })
    }

    /// Loads the record from `directory`; `None` when no password was ever set. Blocks on the disk.
    ///
    /// # Errors
    /// The file is damaged, unreadable, or readable by other users.
    pub fn load(directory: &Path) -> Result<Option<Self>, Error> {
        let path = path(directory);
        let Some(bytes) = stored::read(&path, Readers::OwnerOnly)? else { return Ok(None) };
        let record = bytes
            .strip_prefix(MAGIC)
            .and_then(|record| <&[u8; RECORD_BYTES]>::try_from(record).ok())
            .ok_or_else(|| damaged(&path, "it is not the record of a password"))?;
        let record = Record::from_bytes(record)
            .map_err(|NotProven| damaged(&path, "its numbers are not valid"))?;
        Ok(Some(Self { record }))
    }

    /// Whether `password` is the one. Blocks, and takes about 0.2 s of CPU; the caller limits how
    /// often it may be asked.
    pub fn verify(&self, password: &str) -> bool {
        let proven = || {
            let (prover, request) = Prover::start(password)?;
            let (judge, challenge) = self.record.challenge(&request, LOCAL_CONTEXT)?;
            judge.decide(&prover.prove(&challenge, LOCAL_CONTEXT)?, LOCAL_CONTEXT)
        };
        check_length(password).is_ok() && proven() == Ok(())
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }
}

impl fmt::Debug for AdminPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminPassword(..)")
    }
}

/// Refuses a password that nobody types.
pub(crate) fn check_length(password: &str) -> Result<(), Error> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Error::PasswordTooLong { maximum: PASSWORD_BYTES_MAX });
    }
    Ok(())
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_stored_password_verifies_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        assert!(AdminPassword::load(directory.path()).unwrap().is_none());
        AdminPassword::set(directory.path(), "first password").unwrap();
        let mode = fs::metadata(path(directory.path())).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        AdminPassword::set(directory.path(), "correct horse").unwrap();
        let stored = AdminPassword::load(directory.path()).unwrap().unwrap();
        assert!(stored.verify("correct horse"));
        assert!(!stored.verify("first password"));
        let bytes = fs::read(path(directory.path())).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"correct"));
        assert_eq!(format!("{stored:?}"), "AdminPassword(..)");
    }

    #[test]
    fn short_long_and_damaged_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = AdminPassword::set(directory.path(), "seven77").unwrap_err();
        assert!(error.to_string().contains("at least 8 characters"), "{error}");
        // Characters are counted, not bytes.
        assert!(AdminPassword::set(directory.path(), "ééééééé").is_err());
        let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
        assert!(matches!(
            AdminPassword::set(directory.path(), &long),
            Err(Error::PasswordTooLong { .. })
        ));
        assert!(AdminPassword::load(directory.path()).unwrap().is_none());

        let file = path(directory.path());
        stored::write(&file, b"something else").unwrap();
        let error = AdminPassword::load(directory.path()).unwrap_err();
        assert!(error.to_string().contains("admin-password is damaged"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(AdminPassword::load(directory.path()), Err(Error::Exposed { .. })));
    }
}
