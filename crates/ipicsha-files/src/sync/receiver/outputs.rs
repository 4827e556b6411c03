//! What is told of entries, in the order in which they were decided.
//!
//! Decides that an entry whose content is still to come is told when it comes, and what follows it
//! after it. Must not know what is told.

use std::collections::VecDeque;

use crate::sync::{Event, Report, event::Item, message::EntryId};

enum Slot {
    Ready(Event),
    Waiting(EntryId, Box<Item>),
}

/// Events in their order.
#[derive(Default)]
pub(super) struct Outputs {
    slots: VecDeque<Slot>,
}

impl Outputs {
    pub(super) fn push(&mut self, event: Event, report: &dyn Report) {
        if self.slots.is_empty() {
            report.event(event);
        } else {
            self.slots.push_back(Slot::Ready(event));
        }
    }

    /// The entry is told when its content comes.
    pub(super) fn wait(&mut self, id: EntryId, item: Item) {
        self.slots.push_back(Slot::Waiting(id, Box::new(item)));
    }

    /// The content has begun to come, or does not come at all.
    pub(super) fn resolve(&mut self, id: EntryId, comes: bool, report: &dyn Report) {
        let is_it = |slot: &Slot| matches!(slot, Slot::Waiting(waiting, _) if *waiting == id);
        if let Some(at) = self.slots.iter().position(is_it)
            && let Some(Slot::Waiting(_, item)) = self.slots.remove(at)
            && comes
        {
            self.slots.insert(at, Slot::Ready(Event::Item(item)));
        }
        while let Some(Slot::Ready(_)) = self.slots.front() {
            if let Some(Slot::Ready(event)) = self.slots.pop_front() {
                report.event(event);
            }
        }
    }

    /// It ends: what is still waited for did not come.
    pub(super) fn flush_all(&mut self, report: &dyn Report) {
        for slot in self.slots.drain(..) {
            if let Slot::Ready(event) = slot {
                report.event(event);
            }
        }
    }
}
