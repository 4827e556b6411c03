//! What went wrong with one path, in the administrator's words.
//!
//! Decides the wording. Must not know whether the work goes on.

use std::{fmt, io};

use rustix::io::Errno;

use crate::path::RelativePath;

/// One operation on one path that failed. The others go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What was tried, as a verb: `open`, `read`.
    pub doing: &'static str,
    /// Beneath the root.
    pub path: RelativePath,
    /// What the system said.
    pub errno: Errno,
}

impl Problem {
    /// `doing` failed at `path`.
    pub fn new(doing: &'static str, path: RelativePath, errno: Errno) -> Self {
        Self { doing, path, errno }
    }

    /// The file went away between being listed and being used: not an error of the file system.
    pub fn is_vanished(&self) -> bool {
        matches!(self.errno, Errno::NOENT | Errno::STALE)
    }

    /// There is no room for more, so that going on makes no sense.
    pub fn is_full(&self) -> bool {
        matches!(self.errno, Errno::NOSPC | Errno::DQUOT)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} \"{}\": {}", self.doing, self.path, Said(self.errno))
    }
}

impl std::error::Error for Problem {}

/// The words of the system for an error number, with the number: `Permission denied (13)`.
#[derive(Clone, Copy, Debug)]
pub struct Said(pub Errno);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.raw_os_error();
        let text = io::Error::from_raw_os_error(number).to_string();
        let words = text.split(" (os error").next().unwrap_or_default();
        write!(f, "{words} ({number})")
    }
}

/// Puts the name of the path to an error number.
pub(crate) trait AtPath<T> {
    /// The same, as a [`Problem`] with `path`.
    fn at(self, doing: &'static str, path: &RelativePath) -> Result<T, Problem>;
}

impl<T> AtPath<T> for Result<T, Errno> {
    fn at(self, doing: &'static str, path: &RelativePath) -> Result<T, Problem> {
        self.map_err(|errno| Problem::new(doing, path.clone(), errno))
    }
}
