//! How a transfer ends: the codes that scripts know.
//!
//! Decides which of several problems counts. Must not know what went wrong in detail.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Exit codes of a transfer; the numbers are rsync's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Success = 0,
    /// The words of the command are wrong.
    Usage = 1,
    /// Both sides do not speak the same.
    Protocol = 2,
    /// Source or destination cannot be used.
    Selection = 3,
    /// An option we do not have.
    Unsupported = 4,
    /// The other server cannot be used: no trust, no daemon.
    Start = 5,
    /// The connection failed.
    Socket = 10,
    /// The disk is full or broken.
    FileIo = 11,
    /// The stream of the other side broke off.
    Stream = 12,
    /// Both halves on this machine lost one another.
    Halves = 14,
    /// Ended by a signal.
    Signal = 20,
    /// Something could not be transferred.
    Partial = 23,
    /// Source files vanished.
    Vanished = 24,
    /// The limit of deletions was reached.
    DeleteLimit = 25,
    /// Nothing came for too long.
    Timeout = 30,
    /// No connection in time.
    ConnectTimeout = 35,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "done",
            Self::Usage => "wrong usage",
            Self::Protocol => "the two sides do not speak the same",
            Self::Selection => "source or destination cannot be used",
            Self::Unsupported => "an option is not supported",
            Self::Start => "the other server cannot be used",
            Self::Socket => "the connection failed",
            Self::FileIo => "a file could not be read or written",
            Self::Stream => "the other side broke off",
            Self::Halves => "one half of the transfer ended early",
            Self::Signal => "ended by a signal",
            Self::Partial => "some files or attributes were not transferred",
            Self::Vanished => "some files vanished before they could be transferred",
            Self::DeleteLimit => "the limit of deletions was reached",
            Self::Timeout => "nothing came for too long",
            Self::ConnectTimeout => "no connection in time",
        })
    }
}

/// A transfer that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Fatal {
    /// The code.
    pub exit: Exit,
    /// What happened, with what to do next.
    pub message: String,
}

impl Fatal {
    /// Ends with `exit` and says why.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// Problems of single entries, which do not end the transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Troubles {
    /// Something failed.
    pub failed: bool,
    /// Something vanished.
    pub vanished: bool,
    /// Deletions were left out because of the limit.
    pub delete_limit: bool,
}

impl Troubles {
    /// The code that the worst of them gives.
    pub fn exit(self) -> Exit {
        match self {
            Self { failed: true, .. } => Exit::Partial,
            Self { vanished: true, .. } => Exit::Vanished,
            Self { delete_limit: true, .. } => Exit::DeleteLimit,
            _ => Exit::Success,
        }
    }

    /// Both together.
    pub fn join(self, other: Self) -> Self {
        Self {
            failed: self.failed | other.failed,
            vanished: self.vanished | other.vanished,
            delete_limit: self.delete_limit | other.delete_limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_problem_gives_the_code() {
        let none = Troubles::default();
        assert_eq!(none.exit(), Exit::Success);
        let limit = Troubles { delete_limit: true, ..none };
        let vanished = Troubles { vanished: true, ..none };
        let failed = Troubles { failed: true, ..none };
        assert_eq!(limit.exit().code(), 25);
        assert_eq!(limit.join(vanished).exit().code(), 24);
        assert_eq!(limit.join(vanished).join(failed).exit().code(), 23);
    }
}
