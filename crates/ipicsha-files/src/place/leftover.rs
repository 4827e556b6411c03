//! Temporary files: their names, and what a crash left of them.
//!
//! Decides which names are ours. Must not know what is in the files.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;

use crate::{hash::Hasher, path::Name, resolve::Dir};

const PREFIX: &[u8] = b".ipicsha.";
const SUFFIX: &[u8] = b".tmp";
const DIGITS: usize = 20;

/// Whether `name` is that of a temporary file of ours, which belongs to nobody's content.
pub fn is_temporary(name: &[u8]) -> bool {
    let digits = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(hex))
}

fn name_with(digits: &str) -> Name {
    let digits = digits.as_bytes().get(..DIGITS).unwrap_or_default();
    let bytes = [PREFIX, digits, SUFFIX].concat();
    Name::new(&bytes).expect("33 bytes without slashes are a name")
}

/// A name nobody can guess.
pub(super) fn random_name() -> Name {
    let random = || RandomState::new().hash_one(0u8);
    name_with(&format!("{:016x}{:016x}", random(), random()))
}

/// The name of the partial file for what `parts` say, the same at every try.
pub(super) fn stable_name(parts: &[&[u8]]) -> Name {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.add(&(part.len() as u64).to_le_bytes());
        hasher.add(part);
    }
    name_with(&hasher.finish().to_string())
}

/// Removes what has a temporary name: a file, a link, or a directory, in which nothing is yet.
///
/// # Errors
/// The system refuses; [`Errno::NOTEMPTY`] when somebody uses the directory.
pub fn remove_temporary(dir: &Dir, name: &Name) -> Result<(), Errno> {
    match dir.remove_file(name) {
        Err(Errno::ISDIR) => dir.remove_dir(name),
        done => done,
    }
}

/// Removes what a crash left in `dir` under temporary names: what was not touched for `age`, except
/// `keep`. Gives the number.
///
/// # Errors
/// The directory cannot be listed. What cannot be removed stays.
pub fn remove_leftovers(dir: &Dir, age: Duration, keep: &HashSet<Name>) -> Result<usize, Errno> {
    // The daemon's clocks are not wanted here: the age of a file is said by the file system's clock.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = i64::try_from(now.saturating_sub(age).as_secs()).unwrap_or(i64::MAX);
    let ours = dir.list()?.into_iter().filter(|listed| is_temporary(listed.name.as_bytes()));
    let old = |name: &Name| {
        let meta = dir.entry(name);
        meta.is_ok_and(|meta| meta.mtime.seconds <= oldest)
    };
    let stale = ours.filter(|listed| !keep.contains(&listed.name) && old(&listed.name));
    Ok(stale.filter(|listed| remove_temporary(dir, &listed.name).is_ok()).count())
}
