//! How a command ends: the kind of failure, its exit code, and the next step.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a command failed; decides the exit code (see the manual).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// It was tried and did not work.
    Failed,
    /// The words of the command are wrong.
    Usage,
    /// Not possible in this state; nothing was changed.
    Refused,
    /// The daemon or the partner does not answer.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// Not trusted, or not permitted.
    NotPermitted,
    /// Done, with items to look at.
    Attention,
    /// The partner has not confirmed what was committed.
    NotConfirmed,
    /// The configuration is wrong.
    Config,
}

impl Kind {
    /// The exit code of the process.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
            Self::TimedOut => 5,
            Self::NotPermitted => 6,
            Self::Attention => 7,
            Self::NotConfirmed => 8,
            Self::Config => 78,
        }
    }
}

/// A failure as an administrator reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) next_step: Option<String>,
    /// The same for programs, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<serde_json::Value>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next_step: None, details: None }
    }

    /// Adds what to do next.
    pub(crate) fn hinted(mut self, next_step: &str) -> Self {
        self.next_step = Some(next_step.to_owned());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.next_step {
            Some(next_step) => write!(f, "\nnext: {next_step}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Kind::Failed, format!("{error:#}"))
    }
}
