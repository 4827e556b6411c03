//! How changes are noticed, in the administrator's words.
//!
//! Decides names and wording. Must not know how a method works.

use std::fmt;

/// A way to notice changes, the best one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// One mark on the file system: nothing is missed, and who wrote is known. Needs `CAP_SYS_ADMIN`
    /// and Linux 5.9.
    Fanotify,
    /// One watch on every directory.
    Inotify,
    /// The portable library, with directories listed again later.
    Notify,
    /// Nothing listens: everything is looked at again and again.
    Polling,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
            Self::Notify => "notify",
            Self::Polling => "polling",
        })
    }
}

/// A better method, and why it is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// The better method.
    pub method: Method,
    /// Why not, with what to do where something can be done.
    pub why: String,
}

/// How changes of one root are noticed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status {
    /// The method in use.
    pub method: Method,
    /// Better ones, best first.
    pub refused: Vec<Refused>,
    /// Directories, with all beneath them, that are only looked at now and then.
    pub polled: usize,
    /// What an administrator should do, where something is not as it should be.
    pub alarm: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        for refused in &self.refused {
            write!(f, "; no {}: {}", refused.method, refused.why)?;
        }
        self.alarm.as_ref().map_or(Ok(()), |alarm| write!(f, "; {alarm}"))
    }
}
