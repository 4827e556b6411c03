//! Where the entries are that the receiver knows by number.
//!
//! Decides how long they are kept. Must not open files.

use std::{collections::VecDeque, sync::Arc};

use super::tree::Place;
use crate::{
    meta::Time,
    path::Name,
    sync::message::{Entry, EntryId},
};

/// One entry that may be asked for.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) place: Arc<Place>,
    pub(super) name: Name,
    pub(super) size: u64,
    pub(super) mtime: Time,
}

/// Entries by number, in runs without gaps.
#[derive(Debug, Default)]
pub(super) struct Offers {
    runs: VecDeque<(EntryId, Vec<Offer>)>,
}

impl Offers {
    /// Numbers the entries from `first` on, and gives them as they are told.
    pub(super) fn add(&mut self, first: EntryId, part: Vec<(Entry, Arc<Place>)>) -> Vec<Entry> {
        let mut run = Vec::with_capacity(part.len());
        let mut entries = Vec::with_capacity(part.len());
        for (entry, place) in part {
            let (size, mtime) = (entry.details.size, entry.details.mtime);
            run.push(Offer { place, name: entry.name.clone(), size, mtime });
            entries.push(entry);
        }
        self.runs.push_back((first, run));
        entries
    }

    pub(super) fn find(&self, id: EntryId) -> Option<&Offer> {
        let after = self.runs.partition_point(|(first, _)| *first <= id);
        let (first, run) = self.runs.get(after.checked_sub(1)?)?;
        run.get(usize::try_from(id - first).ok()?)
    }

    /// Nothing below `id` will be asked for.
    pub(super) fn forget_below(&mut self, id: EntryId) {
        while let Some((first, run)) = self.runs.front()
            && first + run.len() as u64 <= id
        {
            self.runs.pop_front();
        }
    }
}
