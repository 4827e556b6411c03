//! The way of records to the partner: straight into the connection from the thread that has them
//! while nothing else waits, through a queue otherwise. Decides only which of the two; the order of
//! one thread's messages is kept.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use ipicsha_core::data::Data;
use ipicsha_link::{FrameSender, Sent};
use serde::{Serialize, Serializer};
use tokio::sync::{Notify, mpsc};

/// Messages that may wait for the data connection; the windows of the workers never fill it.
const QUEUE: usize = 1024;
/// What workers put their messages into, whoever the partner is; cheap to clone.
#[derive(Clone)]
pub(crate) struct DataQueue {
    sender: mpsc::Sender<Queued>,
    receiver: Arc<tokio::sync::Mutex<mpsc::Receiver<Queued>>>,
    waiting: Arc<AtomicUsize>,
    pub(super) line: Line,
}

impl DataQueue {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        Self { sender, receiver, waiting: Arc::default(), line: Line::default() }
    }

    /// Sends from a thread that may wait for room in the queue; `false`: the daemon ends.
    pub(crate) fn send(&self, message: Data) -> bool {
        let idle = self.waiting.load(Ordering::Acquire) == 0;
        if matches!(message, Data::Expect { .. }) {
            // What has to wait is of no use; the queue's other end sends it, so that this thread can go on.
            return !idle || self.try_send(message) || !self.sender.is_closed();
        }
        if idle && is_small(&message) && self.line.try_send(&message) {
            return true;
        }
        self.sender.blocking_send(self.queued(message)).is_ok()
    }

    /// The same for one that may not wait; `false`: there is no room.
    pub(crate) fn try_send(&self, message: Data) -> bool {
        self.sender.try_send(self.queued(message)).is_ok()
    }

    fn queued(&self, message: Data) -> Queued {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Queued { message, _ticket: Ticket(Arc::clone(&self.waiting)) }
    }

    /// Only one connection at a time reads the queue, which outlives the partner.
    pub(super) fn receiver(&self) -> Arc<tokio::sync::Mutex<mpsc::Receiver<Queued>>> {
        Arc::clone(&self.receiver)
    }
}

/// A message that waits until it is dropped: nothing may overtake it.
pub(super) struct Queued {
    pub(super) message: Data,
    _ticket: Ticket,
}

struct Ticket(Arc<AtomicUsize>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Serialize for Queued {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.message.serialize(serializer)
    }
}

/// Encrypted by the thread that has it: with a larger one that thread had better read on meanwhile.
fn is_small(message: &Data) -> bool {
    match message {
        Data::Batch(batch) => batch.is_small(),
        Data::Ack { .. } => true,
        Data::Invite { .. }
        | Data::Attach(_)
        | Data::Schema { .. }
        | Data::Compare { .. }
        | Data::Undo { .. }
        | Data::Expect { .. } => false,
    }
}

/// The connection that stands, while the task that owns it does not use it.
#[derive(Clone, Default)]
pub(super) struct Line {
    sender: Arc<Mutex<Option<FrameSender>>>,
    begun: Arc<Notify>,
}

impl Line {
    /// `false`: nothing was sent; the task has to send it, or find out why it cannot.
    fn try_send(&self, message: &Data) -> bool {
        let mut sender = self.lock();
        let Some(sent) = sender.as_mut().map(|sender| sender.try_send(message)) else {
            return false;
        };
        match sent {
            Ok(Sent::Whole) => true,
            Ok(Sent::Begun) => {
                self.begun.notify_one();
                true
            }
            Ok(Sent::No) | Err(_) => false,
        }
    }

    /// Lends the connection to whoever sends, until the guard is dropped.
    pub(super) fn lend(&self, sender: FrameSender) -> Lent<'_> {
        self.put(sender);
        Lent(self)
    }

    fn put(&self, sender: FrameSender) {
        *self.lock() = Some(sender);
    }

    fn lock(&self) -> MutexGuard<'_, Option<FrameSender>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the owning task has of a lent connection; dropping it closes the connection.
pub(super) struct Lent<'a>(&'a Line);

impl Lent<'_> {
    /// Resolves when somebody's message waits for [`FrameSender::finish`].
    pub(super) async fn begun(&self) {
        self.0.begun.notified().await;
    }

    /// Takes the connection back for a while; meanwhile all messages go through the queue.
    pub(super) fn take(&self) -> Option<FrameSender> {
        self.0.lock().take()
    }

    pub(super) fn put(&self, sender: FrameSender) {
        self.0.put(sender);
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use ipicsha_core::{
        data::{Batch, Change, DatabaseUuid, Follows, Origin, Row, Value},
        id::{DatabaseName, Seq},
        time::WallTime,
    };

    use super::*;

    const ORIGIN: Origin = Origin { uuid: DatabaseUuid([1; 16]), incarnation: 0 };

    fn ack(to: i64) -> Data {
        Data::Ack { database: DatabaseName("d".into()), origin: ORIGIN, to: Seq(to) }
    }

    fn batch(rows: i64, bytes: usize) -> Data {
        let row = |seq| Row {
            table: 0,
            seq: Seq(seq),
            wall: WallTime(0),
            change: Change::Upsert(vec![Value::Blob(vec![0; bytes])]),
        };
        Data::Batch(Batch {
            database: DatabaseName("d".into()),
            origin: ORIGIN,
            from: Seq(0),
            to: Seq(rows),
            to_wall: None,
            base: Seq(0),
            tables: vec!["t".into()],
            rows: (1..=rows).map(row).collect(),
            sequences: Vec::new(),
            follows: Follows::Nothing,
        })
    }

    #[test]
    fn only_small_messages_are_sent_by_the_thread_that_has_them() {
        assert!(is_small(&ack(1)));
        assert!(is_small(&batch(1, 100)));
        assert!(is_small(&batch(64, 100)));
        assert!(!is_small(&batch(65, 1)));
        assert!(!is_small(&batch(1, 8192)));
        assert!(!is_small(&Data::Invite { database: DatabaseName("d".into()) }));
    }

    #[test]
    fn a_message_waits_until_the_task_is_done_with_it() {
        let queue = DataQueue::new();
        assert!(queue.send(ack(1)), "without a connection it is queued");
        assert!(queue.try_send(ack(2)));
        let receiver = queue.receiver();
        let mut receiver = receiver.try_lock().unwrap();
        let waiting = || queue.waiting.load(Ordering::Acquire);
        assert_eq!(waiting(), 2);
        let first = receiver.try_recv().unwrap();
        assert!(matches!(first.message, Data::Ack { to: Seq(1), .. }));
        assert_eq!(waiting(), 2, "it may be half-written: nothing must overtake it");
        drop(first);
        assert_eq!(waiting(), 1);
        drop(receiver.try_recv().unwrap());
        assert_eq!(waiting(), 0);
    }
}
