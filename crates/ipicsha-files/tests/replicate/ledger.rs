//! What the writers did themselves, so that what is missing later can be told from it.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use ipicsha_files::Hash;

use crate::walk::{self, Tree};

/// What one writer, or both, did in one history.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Contents that were written as a whole; what is seen of a file halfway is nobody's content.
    pub(crate) written: HashSet<Hash>,
    /// Contents that a writer overwrote, or removed a name of.
    pub(crate) destroyed: HashSet<Hash>,
    /// Paths where it is not known what a writer destroyed, because the engine acted in between.
    pub(crate) unsure: HashSet<PathBuf>,
    /// Paths that a writer did anything with.
    touched: Vec<PathBuf>,
    /// Paths of files that a writer removed, with what was in them.
    removed: Vec<(PathBuf, Hash)>,
}

impl Ledger {
    pub(crate) fn touch(&mut self, path: &Path) {
        self.touched.push(path.to_owned());
    }

    pub(crate) fn remove(&mut self, path: &Path, hash: Hash) {
        self.removed.push((path.to_owned(), hash));
    }

    /// Files that were removed, and nothing else happened to them or to a directory above them.
    fn only_removed(&self) -> HashMap<&Path, Hash> {
        let touches =
            |path: &Path| self.touched.iter().filter(|other| path.starts_with(other)).count();
        let removed = self.removed.iter().filter(|(path, _)| touches(path) == 1);
        removed.map(|(path, hash)| (path.as_path(), *hash)).collect()
    }
}

/// What has to be in the directories or among what is kept in the end. `seen` is what was in both
/// directories after their writers, who did `done`, had ended; `written` is what anybody ever wrote.
///
/// 1. A whole content that no writer destroyed.
/// 2. A content that only was removed on one side: it must be kept on the other one.
pub(crate) fn must_remain(
    seen: &[Tree; 2],
    done: &[Ledger; 2],
    written: &HashSet<Hash>,
) -> HashMap<Hash, String> {
    let mut must = HashMap::new();
    for side in 0..2 {
        for (hash, path) in walk::contents(&seen[side]) {
            let is_users =
                |ledger: &Ledger| ledger.destroyed.contains(&hash) || ledger.unsure.contains(&path);
            if written.contains(&hash) && !done.iter().any(is_users) {
                must.insert(hash, format!("{path:?} of side {side}, which no writer destroyed"));
            }
        }
        let there = &done[1 - side];
        for (path, hash) in there.only_removed() {
            let is_here = seen[side].get(path).is_some_and(|fact| fact.content() == Some(hash));
            if is_here && !there.unsure.contains(path) {
                must.insert(hash, format!("{path:?} of side {side}, only removed on the other"));
            }
        }
    }
    must
}
