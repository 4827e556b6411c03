//! What the index knows of the entries of one directory, beside the listing of it.
//!
//! Decides how much of that is in memory at once: of a directory with a million entries a page. Must
//! not know the disk.

use std::collections::VecDeque;

use super::{engine::Step, index::Index, row::Row};
use crate::path::RelativePath;

/// Rows read at a time.
const PAGE: usize = 512;

/// The rows of what exists in a directory, in order of paths.
#[derive(Debug)]
pub(super) struct Children {
    dir: RelativePath,
    page: VecDeque<(Vec<u8>, Row)>,
    /// The last one that was read.
    after: Option<Vec<u8>>,
    ended: bool,
}

impl Children {
    /// Of `dir`, none of them read yet.
    pub(super) fn new(dir: RelativePath) -> Self {
        Self { dir, page: VecDeque::new(), after: None, ended: false }
    }

    /// The next one whose path comes before `path`; without one, the next of all that are left.
    pub(super) fn next_before(
        &mut self,
        index: &Index,
        path: Option<&RelativePath>,
    ) -> Step<Option<(Vec<u8>, Row)>> {
        self.fill(index)?;
        let is_before = |(next, _): &(Vec<u8>, Row)| {
            path.is_none_or(|path| next.as_slice() < path.as_written())
        };
        Ok(self.page.pop_front_if(|next| is_before(next)))
    }

    /// The row of `path`, when all before it were taken.
    pub(super) fn take(&mut self, index: &Index, path: &RelativePath) -> Step<Option<Row>> {
        self.fill(index)?;
        let next = self.page.pop_front_if(|(next, _)| next.as_slice() == path.as_written());
        Ok(next.map(|(_, row)| row))
    }

    fn fill(&mut self, index: &Index) -> Step<()> {
        if self.page.is_empty() && !self.ended {
            let rows = index.children(self.dir.as_written(), self.after.as_deref(), PAGE)?;
            self.ended = rows.len() < PAGE;
            self.page = rows.into();
            self.after = self.page.back().map(|(path, _)| path.clone());
        }
        Ok(())
    }
}
