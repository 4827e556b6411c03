//! The pre-flight list of a planned switchover: the same checks for `--dry-run` and the real one.

use serde::{Deserialize, Serialize};

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Goes on, but worth knowing.
    Warn {
        /// What to do about it.
        fix: String,
    },
    /// The switchover is not possible.
    Fail {
        /// What to do about it.
        fix: String,
    },
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at and what was found.
    pub finding: String,
    /// Verdict.
    pub outcome: Outcome,
}

impl Check {
    /// A check that passes when `good`, else fails with `fix`.
    pub(crate) fn require(good: bool, finding: String, fix: &str) -> Self {
        let outcome = if good { Outcome::Ok } else { Outcome::Fail { fix: fix.to_owned() } };
        Self { finding, outcome }
    }

    /// A check that passes when `good`, else goes on with a warning.
    pub(crate) fn advise(good: bool, finding: String, fix: &str) -> Self {
        let outcome = if good { Outcome::Ok } else { Outcome::Warn { fix: fix.to_owned() } };
        Self { finding, outcome }
    }

    /// What was found, when the check failed.
    pub fn failure(&self) -> Option<String> {
        match self.outcome {
            Outcome::Fail { .. } => Some(self.finding.clone()),
            Outcome::Ok | Outcome::Warn { .. } => None,
        }
    }

    /// The fix of a failed check.
    pub fn fix(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Fail { fix } => Some(fix),
            Outcome::Ok | Outcome::Warn { .. } => None,
        }
    }
}
