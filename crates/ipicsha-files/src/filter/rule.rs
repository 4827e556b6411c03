//! One rule, and whether it matches an entry.
//!
//! Decides what part of a path a pattern is compared with. Must not know where rules come from.

use serde::{Deserialize, Serialize};

use super::{Half, wildmatch::Pattern};
use crate::path::RelativePath;

/// What the first matching rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Takes part.
    Include,
    /// Takes no part: not sent, not deleted.
    Exclude,
}

/// Halves a rule speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sides {
    pub(super) sender: bool,
    pub(super) receiver: bool,
}

impl Sides {
    pub(super) const BOTH: Self = Self { sender: true, receiver: true };
    pub(super) const SENDER: Self = Self { sender: true, receiver: false };
    pub(super) const RECEIVER: Self = Self { sender: false, receiver: true };

    pub(super) fn has(self, half: Half) -> bool {
        match half {
            Half::Sender => self.sender,
            Half::Receiver => self.receiver,
        }
    }
}

/// The directory that an anchored pattern begins in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Base {
    /// One of the transfer; its root for rules of the command line.
    Beneath(RelativePath),
    /// One above the transfer's root: these names lie between it and the root.
    Above(Vec<u8>),
}

/// How the text is cut before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    /// The last name.
    Name,
    /// From where the rule is anchored.
    Anchored,
    /// This many last names.
    Tail(usize),
    /// The whole path, with a slash before it.
    Whole,
    /// The whole path, or what follows any slash of it.
    AnyTail,
}

/// One exclude or include rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct Rule {
    pub(super) verdict: Verdict,
    pub(super) sides: Sides,
    /// Matches what does not match.
    pub(super) negated: bool,
    /// Does not protect what is in a directory that is deleted.
    pub(super) perishable: bool,
    /// Compared with the absolute path.
    pub(super) absolute: bool,
    directories_only: bool,
    /// Ends with `/***`: matches the directory too.
    with_directory: bool,
    base: Base,
    part: Part,
    text: Vec<u8>,
    /// `None` when the pattern has no wildcard: compared byte by byte, backslashes included.
    wild: Option<Pattern>,
}

/// A rule as it is told to the other half: its pattern is read again there.
#[derive(Serialize, Deserialize)]
struct Written {
    verdict: Verdict,
    sides: Sides,
    negated: bool,
    perishable: bool,
    absolute: bool,
    directories_only: bool,
    with_directory: bool,
    base: Base,
    part: Part,
    text: Vec<u8>,
    is_wild: bool,
}

impl From<Rule> for Written {
    fn from(rule: Rule) -> Self {
        Self {
            verdict: rule.verdict,
            sides: rule.sides,
            negated: rule.negated,
            perishable: rule.perishable,
            absolute: rule.absolute,
            directories_only: rule.directories_only,
            with_directory: rule.with_directory,
            base: rule.base,
            part: rule.part,
            is_wild: rule.wild.is_some(),
            text: rule.text,
        }
    }
}

impl From<Written> for Rule {
    fn from(written: Written) -> Self {
        Self {
            verdict: written.verdict,
            sides: written.sides,
            negated: written.negated,
            perishable: written.perishable,
            absolute: written.absolute,
            directories_only: written.directories_only,
            with_directory: written.with_directory,
            base: written.base,
            part: written.part,
            wild: written.is_wild.then(|| Pattern::new(&written.text)),
            text: written.text,
        }
    }
}

impl Rule {
    pub(super) fn new(verdict: Verdict, pattern: &[u8], base: Base) -> Self {
        let (pattern, directories_only) = match pattern {
            [rest @ .., b'/'] if !rest.is_empty() => (rest, true),
            whole => (whole, false),
        };
        let is_wild = pattern.iter().any(|b| matches!(b, b'*' | b'?' | b'['));
        let any_depth = is_wild && pattern.windows(2).any(|pair| pair == b"**");
        let slashes = pattern.iter().filter(|b| **b == b'/').count();
        let (text, part) = match pattern {
            [b'/', rest @ ..] => (rest, Part::Anchored),
            all if slashes == 0 && !any_depth => (all, Part::Name),
            all if all.starts_with(b"**") => (all, Part::Whole),
            all if any_depth => (all, Part::AnyTail),
            all => (all, Part::Tail(slashes + 1)),
        };
        Self {
            verdict,
            sides: Sides::BOTH,
            negated: false,
            perishable: false,
            absolute: false,
            directories_only,
            with_directory: is_wild && text.ends_with(b"/***"),
            base,
            part,
            text: text.to_vec(),
            wild: is_wild.then(|| Pattern::new(text)),
        }
    }

    /// Whether it speaks about the entry at `path`, in a tree whose root is at `root`.
    pub(super) fn matches(&self, path: &RelativePath, directory: bool, root: &[u8]) -> bool {
        (self.compare(path, directory, root) && (directory || !self.directories_only))
            != self.negated
    }

    fn compare(&self, path: &RelativePath, directory: bool, root: &[u8]) -> bool {
        let path = path.as_written();
        let full;
        let text = if self.absolute {
            full = [root.strip_prefix(b"/").unwrap_or(root), b"/", path].concat();
            full.strip_prefix(b"/").unwrap_or(&full)
        } else {
            path
        };
        match self.part {
            Part::Name => {
                let name = text.rsplit(|b| *b == b'/').next().unwrap_or_default();
                self.fits(name, directory)
            }
            Part::Anchored if self.absolute => self.fits(text, directory),
            Part::Anchored => match &self.base {
                Base::Beneath(base) if base.is_root() => self.fits(text, directory),
                Base::Beneath(base) => {
                    let below = text.strip_prefix(base.as_written());
                    below
                        .and_then(|below| below.strip_prefix(b"/"))
                        .is_some_and(|below| self.fits(below, directory))
                }
                Base::Above(names) if names.is_empty() => self.fits(text, directory),
                Base::Above(names) => self.fits(&[names, &b"/"[..], text].concat(), directory),
            },
            Part::Tail(count) => tail(text, count).is_some_and(|tail| self.fits(tail, directory)),
            Part::Whole => self.fits(&[b"/", text].concat(), directory),
            Part::AnyTail => {
                let after =
                    text.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at + 1);
                std::iter::once(0).chain(after).any(|at| self.fits(&text[at..], directory))
            }
        }
    }

    fn fits(&self, text: &[u8], directory: bool) -> bool {
        match &self.wild {
            None => text == self.text,
            Some(wild) if self.with_directory && directory => wild.fits(&[text, b"/"].concat()),
            Some(wild) => wild.fits(text),
        }
    }
}

/// The last `count` names of a path that has at least as many.
fn tail(text: &[u8], count: usize) -> Option<&[u8]> {
    let mut slashes = text.iter().enumerate().rev().filter(|(_, b)| **b == b'/');
    match slashes.nth(count - 1) {
        Some((at, _)) => Some(&text[at + 1..]),
        None => (text.iter().filter(|b| **b == b'/').count() + 1 == count).then_some(text),
    }
}
