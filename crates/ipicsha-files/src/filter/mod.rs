//! Which entries take part: rsync's exclude, include and filter rules.
//!
//! Decides by the first rule that matches; without one an entry takes part. Rules come from the
//! command line, from files named there, and from files found in the directories themselves. Must
//! not read directories: who walks a tree hands over what the merge files contain.

mod level;
mod parse;
mod rule;
mod wildmatch;

pub use level::Level;
pub use parse::{FilterError, Rules, RulesConfig};
pub use rule::Verdict;

/// The two halves of a transfer; some rules speak to one of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Decides what is sent.
    Sender,
    /// Decides what may be deleted.
    Receiver,
}

/// Whether `text` fits the shell pattern `pattern`.
pub(crate) fn fits(pattern: &[u8], text: &[u8]) -> bool {
    wildmatch::Pattern::new(pattern).fits(text)
}

#[cfg(test)]
mod tests;
