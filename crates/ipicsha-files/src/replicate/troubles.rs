//! Entries that failed, and when each is tried again.
//!
//! Decides the times. Must not know what is tried.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Trouble;
use crate::path::RelativePath;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// More are not listed, but each is tried again.
pub(super) const SHOWN_MAX: usize = 100;

#[derive(Debug)]
struct Retry {
    at: Instant,
    wait: Duration,
    problem: String,
    due_told: bool,
    /// It is a directory whose entries are not known.
    unlisted: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    by_path: BTreeMap<RelativePath, Retry>,
}

impl Troubles {
    /// It failed, once more perhaps.
    pub(super) fn add(&mut self, path: &RelativePath, problem: String, now: Instant) {
        let before = self.by_path.get(path);
        let wait = before.map_or(FIRST, |retry| retry.wait * 2).min(LONGEST);
        let unlisted = before.is_some_and(|retry| retry.unlisted);
        let retry = Retry { at: now + wait, wait, problem, due_told: false, unlisted };
        self.by_path.insert(path.clone(), retry);
    }

    /// The entries of a directory could not be read: until they are, its own facts end nothing.
    pub(super) fn add_unlisted(&mut self, path: &RelativePath, problem: String, now: Instant) {
        self.add(path, problem, now);
        if let Some(retry) = self.by_path.get_mut(path) {
            retry.unlisted = true;
        }
    }

    /// Whether it is a directory whose entries could not be read.
    pub(super) fn is_unlisted(&self, path: &RelativePath) -> bool {
        self.by_path.get(path).is_some_and(|retry| retry.unlisted)
    }

    /// The entries of a directory were read.
    pub(super) fn listed(&mut self, path: &RelativePath) {
        if self.is_unlisted(path) {
            self.remove(path);
        }
    }

    /// It went well, or is not wanted any more.
    pub(super) fn remove(&mut self, path: &RelativePath) {
        self.by_path.remove(path);
    }

    /// Something else is wanted of it now, which may go well at once.
    pub(super) fn try_now(&mut self, path: &RelativePath, now: Instant) {
        if let Some(retry) = self.by_path.get_mut(path) {
            (retry.at, retry.wait, retry.due_told) = (now, FIRST / 2, false);
        }
    }

    /// Whether it is too early to try it again.
    pub(super) fn waits(&self, path: &RelativePath, now: Instant) -> bool {
        self.by_path.get(path).is_some_and(|retry| retry.at > now)
    }

    /// When the next is to be tried.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_path.values().filter(|retry| !retry.due_told).map(|retry| retry.at).min()
    }

    /// Those that are to be tried now, each told once.
    pub(super) fn due(&mut self, now: Instant) -> Vec<RelativePath> {
        let due = self.by_path.iter_mut().filter(|(_, retry)| !retry.due_told && retry.at <= now);
        due.map(|(path, retry)| {
            retry.due_told = true;
            path.clone()
        })
        .collect()
    }

    /// Number of all.
    pub(super) fn len(&self) -> u64 {
        self.by_path.len() as u64
    }

    /// For people.
    pub(super) fn shown(&self, now: Instant) -> Vec<Trouble> {
        let shown = self.by_path.iter().take(SHOWN_MAX).map(|(path, retry)| Trouble {
            path: path.to_string(),
            problem: retry.problem.clone(),
            retry_seconds: retry.at.saturating_duration_since(now).as_secs(),
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_until_something_else_is_wanted() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        let path = RelativePath::try_from(b"file".to_vec()).unwrap();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            troubles.add(&path, "no".into(), now);
            assert_eq!(troubles.next_due(), Some(now + Duration::from_secs(seconds)));
            assert!(troubles.waits(&path, now));
        }
        troubles.try_now(&path, now);
        assert!(!troubles.waits(&path, now));
        assert_eq!(troubles.due(now), std::slice::from_ref(&path));
        assert_eq!(troubles.due(now), []);
        troubles.add(&path, "no".into(), now);
        assert_eq!(troubles.next_due(), Some(now + FIRST));
    }
}
