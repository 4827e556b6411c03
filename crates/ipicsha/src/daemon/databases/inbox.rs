//! What the partner says about databases, straight to their workers: every thread it passes through
//! delays it. Decides only who gets it. What nobody here has goes to the event loop, which may make
//! room for it; a message the event loop has seen is never delivered, so none can overtake another.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipicsha_core::data::Data;
use ipicsha_records::CommandSender;

/// Leads to the workers by the names of their databases.
#[derive(Clone, Default)]
pub(crate) struct Inbox {
    workers: Arc<Mutex<BTreeMap<String, CommandSender>>>,
}

impl Inbox {
    pub(super) fn insert(&self, name: &str, sender: CommandSender) {
        self.lock().insert(name.to_owned(), sender);
    }

    pub(super) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Delivers one message; gives it back when no worker serves its database.
    pub(crate) fn deliver(&self, message: Data) -> Option<Data> {
        let worker = self.lock().get(&message.database().0).cloned();
        let Some(worker) = worker else { return Some(message) };
        // Waits while the queue is full, and with it the connection; the windows never fill it.
        worker.deliver(message);
        None
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, CommandSender>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
