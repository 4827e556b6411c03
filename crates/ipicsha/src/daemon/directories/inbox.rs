//! What the partner says about watched directories, straight to their workers: contents never pass
//! through the event loop. Decides only how much may wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipicsha_core::file::File;
use ipicsha_files::replicate::{Command, CommandSender};
use tokio::sync::Semaphore;

/// Messages that may wait for the workers; then the connection waits.
const WAITING_MAX: usize = 64;
/// Unknown names that are remembered until they are asked for.
const UNKNOWN_MAX: usize = 64;

#[derive(Default)]
struct Shared {
    workers: BTreeMap<String, CommandSender>,
    unknown: BTreeSet<String>,
}

/// Leads to the workers by the names of their directories.
#[derive(Clone)]
pub(crate) struct Inbox {
    shared: Arc<Mutex<Shared>>,
    room: Arc<Semaphore>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { shared: Arc::default(), room: Arc::new(Semaphore::new(WAITING_MAX)) }
    }
}

impl Inbox {
    pub(super) fn insert(&self, name: &str, sender: CommandSender) {
        self.lock().workers.insert(name.to_owned(), sender);
    }

    pub(super) fn remove(&self, name: &str) {
        self.lock().workers.remove(name);
    }

    /// Names the partner has said that nobody here has.
    pub(super) fn take_unknown(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().unknown)
    }

    /// Delivers one message; waits while too many wait.
    pub(crate) async fn deliver(&self, message: File) {
        let Ok(ticket) = Arc::clone(&self.room).acquire_owned().await else { return };
        let mut shared = self.lock();
        let name = &message.directory().0;
        if let Some(worker) = shared.workers.get(name) {
            worker.send(Command::Received(message, Box::new(ticket)));
        } else if shared.unknown.len() < UNKNOWN_MAX {
            let name = name.clone();
            shared.unknown.insert(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
