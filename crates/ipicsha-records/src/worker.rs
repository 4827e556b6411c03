//! The thread of one database, and how the shell talks to it.
//!
//! Decides when the thread wakes and that every command is answered exactly once. What happens on
//! waking is the engine's business.

use std::{
    fmt,
    num::NonZeroU64,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{Data, RepairReport},
    id::{DatabaseName, Seq},
    license::LicensedRole,
    time::WallTime,
};
use serde::Serialize;

use crate::{
    barrier::Confirmed, capacity::LogCapacity, engine::Engine, error::Error, rollback::Journaling,
    status::Events, undo::UndoReport, watch::Alarm,
};

/// Commands that may wait; more make the sender wait.
const QUEUE: usize = 1024;

/// Called exactly once, on the worker's thread: it must not block.
pub type Done<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// What a worker serves.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The name both servers use.
    pub name: DatabaseName,
    /// Where it lies here.
    pub path: PathBuf,
    /// What the transaction log holds.
    pub capacity: LogCapacity,
    /// The daemon's conflict journal.
    pub journal_path: PathBuf,
    /// This server's licensed role.
    pub rank: LicensedRole,
    /// Build a missing file from the partner's.
    pub create_if_missing: bool,
    /// What becomes of its journal mode.
    pub journaling: Journaling,
}

/// Whether the application may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Writes {
    /// It may.
    Open,
    /// The fence refuses it.
    Closed,
}

/// Whether changes may be exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They are sent and applied.
    Open,
    /// They queue.
    Closed,
}

/// A prepared switchover: nothing can be written, and the partner has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// How long the application has been waiting.
    pub held: Duration,
    /// The last log entry, which the partner has durably.
    pub seq: Seq,
}

/// What the shell can ask for.
pub enum Command {
    /// HA is configured: capture changes. A failure shows as `hold` and is tried again.
    Install,
    /// HA is unconfigured: remove every object of ours.
    Remove {
        /// When nothing is left.
        done: Done<()>,
    },
    /// Put the write fence up or take it down.
    SetWrites {
        /// Which.
        writes: Writes,
        /// The partner has shipped everything, and ids it has given out are known.
        drained: bool,
        /// When it is so.
        done: Done<()>,
    },
    /// Where writes are open, the file itself refuses them from then on, by this server's wall clock,
    /// also when this process is dead or frozen; `None`: they do not end by themselves.
    AllowWrites(Option<WallTime>),
    /// A new data connection to the partner stands.
    LinkUp,
    /// It is gone.
    LinkDown,
    /// The core allows the exchange, or not.
    SetGate(Gate),
    /// The partner said this.
    Received(Data),
    /// Planned switchover, first phase: stop writers and have the partner acknowledge everything.
    Prepare {
        /// After this nothing has happened.
        deadline: Instant,
        /// When everything is acknowledged.
        done: Done<Prepared>,
    },
    /// Second phase: put the fence up in the same transaction.
    Commit {
        /// When it stands.
        done: Done<()>,
    },
    /// Instead of the second phase: nothing has happened.
    Abort,
    /// Compare both databases and, if asked, repair; led by the primary.
    Compare {
        /// Repair, or only look.
        apply: bool,
        /// Number of the comparison, unique.
        run: u64,
        /// With the result.
        done: Done<RepairReport>,
    },
    /// Put the versions that lost in a repair back, as ordinary writes of this server.
    Undo {
        /// The repair.
        run: u64,
        /// With what was done.
        done: Done<UndoReport>,
    },
    /// Wait until the partner durably has everything committed before this.
    Barrier {
        /// After this it is not waited any longer.
        deadline: Instant,
        /// When it has, or why that is not known.
        done: Done<Confirmed>,
    },
    /// Give the transaction log another room.
    SetCapacity {
        /// Which.
        capacity: LogCapacity,
        /// When it is in force.
        done: Done<()>,
    },
    /// End the thread.
    Shutdown,
}

impl Command {
    /// Answers a command nobody will carry out.
    fn refuse(self) {
        match self {
            Self::Remove { done }
            | Self::SetWrites { done, .. }
            | Self::SetCapacity { done, .. }
            | Self::Commit { done } => {
                done(Err(Error::Stopped));
            }
            Self::Prepare { done, .. } => done(Err(Error::Stopped)),
            Self::Compare { done, .. } => done(Err(Error::Stopped)),
            Self::Undo { done, .. } => done(Err(Error::Stopped)),
            Self::Barrier { done, .. } => done(Err(Error::Stopped)),
            Self::Install
            | Self::AllowWrites(_)
            | Self::LinkUp
            | Self::LinkDown
            | Self::SetGate(_)
            | Self::Received(_)
            | Self::Abort
            | Self::Shutdown => {}
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Install => "Install",
            Self::Remove { .. } => "Remove",
            Self::SetWrites { writes: Writes::Open, .. } => "SetWrites(Open)",
            Self::SetWrites { writes: Writes::Closed, .. } => "SetWrites(Closed)",
            Self::AllowWrites(_) => "AllowWrites",
            Self::LinkUp => "LinkUp",
            Self::LinkDown => "LinkDown",
            Self::SetGate(Gate::Open) => "SetGate(Open)",
            Self::SetGate(Gate::Closed) => "SetGate(Closed)",
            Self::Received(_) => "Received",
            Self::Prepare { .. } => "Prepare",
            Self::Commit { .. } => "Commit",
            Self::Abort => "Abort",
            Self::Compare { .. } => "Compare",
            Self::Undo { .. } => "Undo",
            Self::Barrier { .. } => "Barrier",
            Self::SetCapacity { .. } => "SetCapacity",
            Self::Shutdown => "Shutdown",
        })
    }
}

/// What reaches the thread.
pub(crate) enum Message {
    Command(Command),
    /// The file system says something may have changed.
    Wake,
    /// Something was done for it, so that something else may be due.
    Due,
}

/// Rings the alarm of a worker.
#[derive(Clone)]
pub(crate) struct Waker(SyncSender<Message>);

impl Waker {
    /// `false` where the queue is full, which wakes the thread, too.
    pub(crate) fn wake(&self) -> bool {
        self.0.try_send(Message::Wake).is_ok()
    }
}

/// What a worker does, for whoever has it: its own thread, or one that brings a message. `None` once the
/// thread has ended.
type Served = Arc<Mutex<Option<Engine>>>;

fn lock(engine: &Served) -> MutexGuard<'_, Option<Engine>> {
    // A panic in a step: the next one attaches anew or fails with what SQLite says.
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends commands to a worker; cheap to clone.
#[derive(Clone)]
pub struct CommandSender {
    queue: SyncSender<Message>,
    /// Commands that are not carried out.
    waiting: Arc<AtomicUsize>,
    engine: Served,
}

impl CommandSender {
    /// Sends a command; waits only while the queue is full. Once the thread has ended the command
    /// is answered with [`Error::Stopped`].
    pub fn send(&self, command: Command) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = self.queue.send(Message::Command(command))
            && let Message::Command(command) = error.0
        {
            command.refuse();
        }
    }

    /// Gives the worker a message of the partner. On a standby that has nothing else to do small changes
    /// are applied here and now: waking its thread takes longer than that. Messages of one thread keep
    /// their order.
    pub fn deliver(&self, data: Data) {
        match self.apply_at_once(data) {
            Some(Data::Expect { .. }) => {} // only a hint
            Some(data) => self.send(Command::Received(data)),
            // Its thread makes it durable and acknowledges it.
            None => drop(self.queue.try_send(Message::Due)),
        }
    }

    /// Gives the message back if the worker's thread has to take it.
    fn apply_at_once(&self, data: Data) -> Option<Data> {
        let is_small = match &data {
            Data::Batch(batch) => batch.is_small(),
            Data::Expect { .. } => true,
            Data::Invite { .. }
            | Data::Attach(_)
            | Data::Schema { .. }
            | Data::Ack { .. }
            | Data::Compare { .. }
            | Data::Undo { .. } => false,
        };
        if !is_small || self.waiting.load(Ordering::Acquire) > 0 {
            return Some(data);
        }
        let Ok(mut engine) = self.engine.try_lock() else { return Some(data) };
        match (engine.as_mut(), &data) {
            (Some(engine), Data::Expect { .. }) => {
                engine.rehearse();
                Some(data)
            }
            (Some(engine), _) => engine.receive_at_once(data),
            (None, _) => Some(data),
        }
    }
}

impl fmt::Debug for CommandSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommandSender(..)")
    }
}

/// The thread of one database. Dropping it ends the thread without waiting.
pub struct Worker {
    name: DatabaseName,
    sender: CommandSender,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread. `events` is called on it, in order; only that something is
    /// to be expected is said by another one.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn(config: WorkerConfig, events: Events) -> Result<Self, Error> {
        let (queue, receiver) = sync_channel(QUEUE);
        let name = config.name.clone();
        let path = config.path.clone();
        let engine = Engine::new(config, events, Waker(queue.clone()), Alarm::default());
        let sender = CommandSender {
            queue,
            waiting: Arc::default(),
            engine: Arc::new(Mutex::new(Some(engine))),
        };
        let (waiting, engine) = (Arc::clone(&sender.waiting), Arc::clone(&sender.engine));
        let thread = thread::Builder::new()
            .name(format!("records {name}"))
            .spawn(move || run(&engine, &waiting, &receiver))
            .map_err(|source| Error::Io { path, source })?;
        Ok(Self { name, sender, thread: Some(thread) })
    }

    /// The database it serves.
    pub fn name(&self) -> &DatabaseName {
        &self.name
    }

    /// Sends a command; see [`CommandSender::send`].
    pub fn send(&self, command: Command) {
        self.sender.send(command);
    }

    /// Another way in, for example for the task that reads the data connection.
    pub fn sender(&self) -> CommandSender {
        self.sender.clone()
    }

    /// Ends the thread and waits for it.
    pub fn join(mut self) {
        self.send(Command::Shutdown);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(database = %self.name, "the thread of a database has panicked");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.send(Command::Shutdown);
        }
    }
}

fn run(served: &Served, waiting: &AtomicUsize, receiver: &Receiver<Message>) {
    // The kernel may be 50 µs late otherwise, as long as the pauses between two looks are.
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000)) {
        tracing::debug!(%error, "the slack of timers stays as it is");
    }
    while serve(served, waiting, receiver) {}
    // Whoever still has a sender must not keep the file open.
    let engine = lock(served).take();
    if let Some(mut engine) = engine {
        engine.stop();
    }
    while let Ok(message) = receiver.try_recv() {
        if let Message::Command(command) = message {
            command.refuse();
        }
    }
}

/// Waits until something is due and does it; `false`: the thread is to end.
fn serve(served: &Served, waiting: &AtomicUsize, receiver: &Receiver<Message>) -> bool {
    let wait = lock(served).as_ref().map_or(Duration::ZERO, |engine| engine.wait(Instant::now()));
    let mut next = match receiver.recv_timeout(wait) {
        Ok(message) => Some(message),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => return false,
    };
    let mut engine = lock(served);
    let Some(engine) = engine.as_mut() else { return false };
    // What is queued is taken at once, up to a bound, before anything is read or written.
    let mut budget = 64;
    while let Some(message) = next {
        match message {
            Message::Command(Command::Shutdown) => return false,
            Message::Command(command) => {
                engine.handle(command);
                waiting.fetch_sub(1, Ordering::AcqRel);
            }
            Message::Wake => engine.wake(),
            Message::Due => {}
        }
        budget -= 1;
        next = if budget > 0 { receiver.try_recv().ok() } else { None };
    }
    engine.tick(Instant::now());
    true
}
