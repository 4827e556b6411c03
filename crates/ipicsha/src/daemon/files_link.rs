//! What is to be said about watched directories, on its way to the connection for files.
//!
//! Decides the order (what keeps both sides moving before contents) and how fast contents go: behind
//! records (spec C3), and no faster than the administrator allows.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ipicsha_core::file::{File, Part};
use tokio::sync::mpsc;

/// Contents that may wait for the connection: a few megabytes.
const PARTS_MAX: usize = 32;
/// While records wait, contents pause between two parts: they go on, but slowly.
const BEHIND_RECORDS: Duration = Duration::from_millis(100);

/// Where workers put what they say, whoever the partner is.
#[derive(Clone)]
pub(crate) struct FilesQueue {
    words: mpsc::UnboundedSender<File>,
    parts: mpsc::Sender<File>,
    pace: Arc<Pace>,
    receiver: Arc<tokio::sync::Mutex<FilesReceiver>>,
}

/// The other end; one connection at a time reads it.
pub(super) struct FilesReceiver {
    words: mpsc::UnboundedReceiver<File>,
    parts: mpsc::Receiver<File>,
}

impl FilesQueue {
    /// `limit`: bytes of content per second.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        let (words, words_receiver) = mpsc::unbounded_channel();
        let (parts, parts_receiver) = mpsc::channel(PARTS_MAX);
        let receiver = FilesReceiver { words: words_receiver, parts: parts_receiver };
        Self {
            words,
            parts,
            pace: Arc::new(Pace::new(limit)),
            receiver: Arc::new(tokio::sync::Mutex::new(receiver)),
        }
    }

    /// Queues what is no content; its amount is bounded by the protocol.
    pub(crate) fn send(&self, message: File) {
        let _ = self.words.send(message); // the daemon ends
    }

    /// Takes contents from a thread that may wait, and says how long the connection or the limit made
    /// it wait; `None`: there is no connection.
    pub(crate) fn parts(&self) -> Box<dyn Fn(File) -> Option<Duration> + Send> {
        let (parts, pace) = (self.parts.clone(), Arc::clone(&self.pace));
        Box::new(move |message| {
            let bytes = length(&message);
            pace.wait_for_records(bytes);
            let begun = Instant::now();
            pace.wait(bytes);
            let up = pace.up.load(Ordering::Relaxed);
            (up && parts.blocking_send(message).is_ok()).then(|| begun.elapsed())
        })
    }

    /// Bytes of content per second, if an administrator has limited them.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.pace.limit
    }

    /// The connection came or went.
    pub(crate) fn set_up(&self, up: bool) {
        self.pace.up.store(up, Ordering::Relaxed);
    }

    /// Records wait, or do not.
    pub(crate) fn set_records_wait(&self, wait: bool) {
        self.pace.records_wait.store(wait, Ordering::Relaxed);
    }

    pub(super) fn receiver(&self) -> Arc<tokio::sync::Mutex<FilesReceiver>> {
        Arc::clone(&self.receiver)
    }
}

impl FilesReceiver {
    /// The next message: contents only when nothing else is to be said. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<File> {
        tokio::select! {
            biased;
            message = self.words.recv() => message,
            message = self.parts.recv() => message,
        }
    }
}

/// Bytes of content in a message.
fn length(message: &File) -> u64 {
    if let File::Part { part, .. } = message
        && let Part::Data { bytes, .. } | Part::Last { bytes, .. } = part
    {
        return bytes.len() as u64;
    }
    0
}

/// How fast contents may go.
struct Pace {
    up: AtomicBool,
    records_wait: AtomicBool,
    limit: Option<u64>,
    /// When the next content may go, with a limit.
    next: Mutex<Instant>,
}

impl Pace {
    fn new(limit: Option<u64>) -> Self {
        let (up, records_wait) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { up, records_wait, limit, next: Mutex::new(Instant::now()) }
    }

    /// Gives way to records.
    fn wait_for_records(&self, bytes: u64) {
        if bytes > 0 && self.records_wait.load(Ordering::Relaxed) {
            std::thread::sleep(BEHIND_RECORDS);
        }
    }

    /// Waits until `bytes` of content may go.
    fn wait(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        if let Some(limit) = self.limit {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = (*next).max(now);
            *next = begin + Duration::from_secs_f64(bytes as f64 / limit as f64);
            drop(next);
            std::thread::sleep(begin.saturating_duration_since(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use ipicsha_core::file::DirectoryName;

    use super::*;

    fn part(bytes: usize) -> File {
        let part = Part::Data { bytes: vec![0; bytes], compressed: false };
        File::Part { directory: DirectoryName("d".into()), id: 1, part }
    }

    fn small_file(bytes: usize) -> File {
        let part = Part::Last { bytes: vec![0; bytes], compressed: false };
        File::Part { directory: DirectoryName("d".into()), id: 1, part }
    }

    fn cancel() -> File {
        File::Cancel { directory: DirectoryName("d".into()), id: 1 }
    }

    #[tokio::test]
    async fn words_go_before_contents_and_contents_only_where_there_is_a_connection() {
        let queue = FilesQueue::new(None);
        let parts = queue.parts();
        let parts = tokio::task::spawn_blocking(move || {
            assert_eq!(parts(part(1)), None, "nobody is connected");
            parts
        })
        .await
        .unwrap();
        queue.set_up(true);
        tokio::task::spawn_blocking(move || assert!(parts(part(1)).is_some())).await.unwrap();
        queue.send(cancel());
        let receiver = queue.receiver();
        let mut receiver = receiver.lock().await;
        assert!(matches!(receiver.next().await, Some(File::Cancel { .. })));
        assert!(matches!(receiver.next().await, Some(File::Part { .. })));
    }

    #[test]
    fn small_files_keep_the_limit_and_wait_for_records_too() {
        for (limit, records_wait) in [(Some(1_000_000), false), (None, true)] {
            let queue = FilesQueue::new(limit);
            queue.set_up(true);
            queue.set_records_wait(records_wait);
            let (parts, started) = (queue.parts(), Instant::now());
            (0..5).for_each(|_| assert!(parts(small_file(100_000)).is_some()));
            assert!(started.elapsed() >= Duration::from_millis(390), "{limit:?}");
        }
    }

    #[test]
    fn a_limit_spreads_contents_over_time() {
        let pace = Pace::new(Some(1_000_000));
        let started = Instant::now();
        (0..5).for_each(|_| pace.wait(100_000));
        // The first one goes at once, each other one waits for the one before.
        assert!(started.elapsed() >= Duration::from_millis(390));
    }
}
