//! Brings words on their ways: each way has its own queue, keeps its order, and tries again for an hour.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{channels::Channel, word::Word};

/// Words that may wait on one way.
const QUEUE: usize = 256;
/// Between two attempts; the last one is repeated until the hour is over.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
const ATTEMPTS: usize = 16;

/// How one way went at last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WayRow {
    pub(crate) way: String,
    /// `None`: nothing was sent yet.
    pub(crate) error: Option<String>,
    pub(crate) sent: u64,
}

#[derive(Default)]
struct Shared {
    rows: BTreeMap<String, WayRow>,
    /// Alarms of which word has arrived somewhere.
    arrived: BTreeSet<u64>,
    /// Words that are queued or under way.
    waiting: usize,
}

/// All ways; cheap to clone.
#[derive(Clone)]
pub(super) struct Delivery {
    ways: Vec<(Channel, mpsc::Sender<Word>)>,
    shared: Arc<Mutex<Shared>>,
}

impl Delivery {
    /// Must be called inside a tokio runtime.
    pub(super) fn new(channels: Vec<Channel>) -> Self {
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let start = |channel: Channel| {
            let (sender, queued) = mpsc::channel(QUEUE);
            let row = WayRow { way: channel.name(), error: None, sent: 0 };
            lock(&shared).rows.insert(channel.name(), row);
            tokio::spawn(serve(channel.clone(), queued, Arc::clone(&shared)));
            (channel, sender)
        };
        let ways = channels.into_iter().map(start).collect();
        Self { ways, shared }
    }

    /// There is a way at all.
    pub(super) fn is_any(&self) -> bool {
        !self.ways.is_empty()
    }

    /// `false`: no way has room for it.
    pub(super) fn queue(&self, word: &Word) -> bool {
        let mut queued = false;
        for (channel, way) in &self.ways {
            // Before it is sent: the other thread may be done with it at once.
            lock(&self.shared).waiting += 1;
            if way.try_send(word.clone()).is_ok() {
                queued = true;
            } else {
                lock(&self.shared).waiting -= 1;
                tracing::error!(way = channel.name(), "too many alarms wait: this one is not sent");
            }
        }
        queued
    }

    /// Something is queued or under way.
    pub(super) fn is_waiting(&self) -> bool {
        lock(&self.shared).waiting > 0
    }

    /// Word of this alarm has arrived somewhere.
    pub(super) fn has_arrived(&self, id: u64) -> bool {
        lock(&self.shared).arrived.contains(&id)
    }

    pub(super) fn rows(&self) -> Vec<WayRow> {
        lock(&self.shared).rows.values().cloned().collect()
    }

    /// One attempt on every way, now; how each went.
    pub(super) async fn test(self, word: Word) -> Vec<WayRow> {
        let mut rows = Vec::new();
        for (channel, _) in self.ways {
            let result = attempt(&channel, &word).await;
            note(&self.shared, &channel, &word, &result);
            rows.push(WayRow {
                way: channel.name(),
                sent: u64::from(result.is_ok()),
                error: result.err(),
            });
        }
        rows
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(channel: Channel, mut queued: mpsc::Receiver<Word>, shared: Arc<Mutex<Shared>>) {
    while let Some(word) = queued.recv().await {
        for number in 0..ATTEMPTS {
            let result = attempt(&channel, &word).await;
            note(&shared, &channel, &word, &result);
            let Err(cause) = result else { break };
            tracing::warn!(way = channel.name(), cause, "word of an alarm does not arrive");
            if number + 1 == ATTEMPTS {
                tracing::error!(way = channel.name(), alarm = word.text, "it is given up");
            } else {
                let pause = PAUSES.get(number).or(PAUSES.last());
                tokio::time::sleep(pause.copied().unwrap_or_default()).await;
            }
        }
        lock(&shared).waiting -= 1;
    }
}

async fn attempt(channel: &Channel, word: &Word) -> Result<(), String> {
    let (channel, word) = (channel.clone(), word.clone());
    let sent = tokio::task::spawn_blocking(move || channel.send(&word)).await;
    sent.unwrap_or_else(|error| Err(error.to_string()))
}

fn note(shared: &Mutex<Shared>, channel: &Channel, word: &Word, result: &Result<(), String>) {
    let mut shared = lock(shared);
    if result.is_ok() {
        shared.arrived.insert(word.id);
    }
    if let Some(row) = shared.rows.get_mut(&channel.name()) {
        row.error = result.as_ref().err().cloned();
        row.sent += u64::from(result.is_ok());
    }
}
