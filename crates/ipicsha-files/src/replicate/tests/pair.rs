//! The pair.

use std::{
    any::Any,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::channel,
    },
    time::{Duration, Instant},
};

use ipicsha_core::{
    file::{DirectoryName, File, Part},
    license::LicensedRole,
};
use tempfile::TempDir;

use super::{
    super::{
        Command, CommandSender, CompareReport, DirectoryConfig, DirectoryStatus, Event, Gate,
        GuardLimits, KeepLimits, KeptEntry, Outlets, Refused, Worker,
    },
    walk,
};

/// Generous: the machine may be busy.
const LONG: Duration = Duration::from_secs(30);
/// Parts that the receiver has not dealt with.
const PARTS_MAX: u64 = 64;

/// What one side has told.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) status: Option<DirectoryStatus>,
    pub(crate) kept: Vec<KeptEntry>,
    pub(crate) lines: Vec<String>,
    pub(crate) copied: u64,
}

#[derive(Default)]
struct Wire {
    up: AtomicBool,
    /// Bytes of content that passed; the link is cut when they reach the limit.
    bytes: AtomicU64,
    cut_at: AtomicU64,
    /// Once so many have passed, the others wait.
    hold_at: AtomicU64,
    waiting: Mutex<u64>,
    room: Condvar,
}

struct Ticket(Arc<Wire>);

impl Drop for Ticket {
    fn drop(&mut self) {
        *self.0.waiting.lock().unwrap() -= 1;
        self.0.room.notify_all();
    }
}

type Inbox = Arc<Mutex<Option<CommandSender>>>;

/// One of the two servers.
pub(crate) struct Side {
    pub(crate) root: PathBuf,
    pub(crate) config: DirectoryConfig,
    pub(crate) bandwidth_limit: Option<u64>,
    worker: Option<Worker>,
    inbox: Inbox,
    pub(crate) log: Arc<Mutex<Log>>,
}

/// Both servers.
pub(crate) struct Pair {
    pub(crate) a: Side,
    pub(crate) b: Side,
    wire: Arc<Wire>,
    _folder: TempDir,
}

impl Side {
    fn new(folder: &Path, name: &str, rank: LicensedRole) -> Self {
        let (root, state) = (folder.join(name), folder.join(format!("{name}-state")));
        fs::create_dir_all(&root).unwrap();
        let config = DirectoryConfig {
            name: DirectoryName("d".into()),
            root: root.clone(),
            state,
            rank,
            rules: Vec::new(),
            ignore_file: String::new(),
            keep: KeepLimits::default(),
            guard: GuardLimits::default(),
        };
        let (inbox, log) = (Inbox::default(), Arc::default());
        Self { root, config, bandwidth_limit: None, worker: None, inbox, log }
    }

    fn start(&mut self, partner: &Inbox, wire: &Arc<Wire>) {
        let (events, heard) = channel();
        let log = Arc::clone(&self.log);
        let outlets = Outlets {
            events: Box::new(move |event| drop(events.send(event))),
            parts: {
                let (partner, wire, log) =
                    (Arc::clone(partner), Arc::clone(wire), Arc::clone(&log));
                Box::new(move |file| {
                    if let File::Part { part: Part::Copy { length, .. }, .. } = &file {
                        log.lock().unwrap().copied += length;
                    }
                    part(&wire, &partner, file).then_some(Duration::ZERO)
                })
            },
            bandwidth_limit: self.bandwidth_limit,
        };
        let (partner, wire) = (Arc::clone(partner), Arc::clone(wire));
        std::thread::spawn(move || {
            for event in heard {
                match event {
                    Event::Send(file) => deliver(&wire, &partner, file, Box::new(())),
                    Event::Status(status) => log.lock().unwrap().status = Some(*status),
                    Event::Kept(kept) => log.lock().unwrap().kept.push(kept),
                    Event::Repairing(line) => log.lock().unwrap().lines.push(line),
                }
            }
        });
        let worker = Worker::spawn(self.config.clone(), outlets).unwrap();
        *self.inbox.lock().unwrap() = Some(worker.sender());
        self.worker = Some(worker);
    }

    pub(crate) fn send(&self, command: Command) {
        self.worker.as_ref().unwrap().send(command);
    }

    /// The same, if it runs.
    fn tell(&self, command: Command) {
        if let Some(worker) = &self.worker {
            worker.send(command);
        }
    }

    fn stop(&mut self) {
        *self.inbox.lock().unwrap() = None;
        self.worker = None;
    }

    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(super::super::Done<T>) -> Command,
    ) -> Result<T, Refused> {
        let (sender, receiver) = channel();
        self.send(command(Box::new(move |result| drop(sender.send(result)))));
        receiver.recv_timeout(LONG).expect("an answer in time")
    }

    pub(crate) fn flush(&self) -> Result<(), Refused> {
        self.ask(|done| Command::Flush { done })
    }

    pub(crate) fn accept(&self) -> u64 {
        self.ask(|done| Command::AcceptDeletions { done }).unwrap()
    }

    pub(crate) fn compare(&self, apply: bool) -> Result<CompareReport, Refused> {
        let asker = Arc::new(());
        self.ask(|done| Command::Compare { apply, asker: Arc::downgrade(&asker), done })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        if let Some(parent) = self.path(name).parent() {
            fs::create_dir_all(parent).unwrap();
        }
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    pub(crate) fn set_time(&self, name: &str, seconds: u64) {
        // For writing: that it was closed is what is noticed.
        let file = fs::OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::new(seconds, 5)).unwrap();
    }

    pub(crate) fn status(&self) -> DirectoryStatus {
        self.log.lock().unwrap().status.clone().expect("a status")
    }

    /// Waits until the status is so.
    pub(crate) fn until(&self, what: &str, is: impl Fn(&DirectoryStatus) -> bool) {
        let end = Instant::now() + LONG;
        while !self.log.lock().unwrap().status.as_ref().is_some_and(&is) {
            assert!(Instant::now() < end, "{what} did not come true: {:?}", self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kept(&self, path: &str) -> Option<KeptEntry> {
        self.log.lock().unwrap().kept.iter().find(|kept| kept.path == path).cloned()
    }
}

fn deliver(wire: &Wire, partner: &Inbox, file: File, ticket: Box<dyn Any + Send>) {
    if wire.up.load(Ordering::SeqCst)
        && let Some(partner) = &*partner.lock().unwrap()
    {
        // As a real link does: through bytes.
        partner.send(Command::Received(file, ticket));
    }
}

fn part(wire: &Arc<Wire>, partner: &Inbox, file: File) -> bool {
    let length = if let File::Part { part, .. } = &file
        && let Part::Data { bytes, .. } | Part::Last { bytes, .. } = part
    {
        bytes.len()
    } else {
        0
    };
    let passed = wire.bytes.fetch_add(length as u64, Ordering::SeqCst) + length as u64;
    let cut_at = wire.cut_at.load(Ordering::SeqCst);
    if cut_at > 0 && passed > cut_at {
        wire.up.store(false, Ordering::SeqCst);
    }
    let mut waiting = wire.waiting.lock().unwrap();
    let is_held = || (1..passed).contains(&wire.hold_at.load(Ordering::SeqCst));
    while (*waiting >= PARTS_MAX || is_held()) && wire.up.load(Ordering::SeqCst) {
        waiting = wire.room.wait_timeout(waiting, Duration::from_millis(100)).unwrap().0;
    }
    if !wire.up.load(Ordering::SeqCst) {
        return false;
    }
    *waiting += 1;
    drop(waiting);
    deliver(wire, partner, file, Box::new(Ticket(Arc::clone(wire))));
    true
}

/// Waits for a condition, generously.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < end, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Pair {
    /// Two empty directories, not started.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let a = Side::new(folder.path(), "a", LicensedRole::Primary);
        let b = Side::new(folder.path(), "b", LicensedRole::Secondary);
        Self { a, b, wire: Arc::default(), _folder: folder }
    }

    /// The same, running and connected.
    pub(crate) fn running() -> Self {
        let mut pair = Self::new();
        pair.start();
        pair
    }

    pub(crate) fn start(&mut self) {
        self.start_a();
        self.start_b();
        self.connect();
    }

    pub(crate) fn start_a(&mut self) {
        self.a.start(&self.b.inbox, &self.wire);
        self.a.send(Command::SetGate(Gate::Open));
    }

    pub(crate) fn start_b(&mut self) {
        self.b.start(&self.a.inbox, &self.wire);
        self.b.send(Command::SetGate(Gate::Open));
    }

    pub(crate) fn connect(&self) {
        self.wire.up.store(true, Ordering::SeqCst);
        for side in [&self.a, &self.b] {
            side.send(Command::Link(true));
        }
    }

    pub(crate) fn cut(&self) {
        self.wire.up.store(false, Ordering::SeqCst);
        for side in [&self.a, &self.b] {
            side.tell(Command::Link(false));
        }
    }

    /// The link is cut when so many more bytes of content have passed.
    pub(crate) fn cut_after(&self, bytes: u64) {
        let now = self.wire.bytes.load(Ordering::SeqCst);
        self.wire.cut_at.store(now + bytes, Ordering::SeqCst);
    }

    /// Contents wait when so many more bytes of them have passed.
    pub(crate) fn hold_after(&self, bytes: u64) {
        let now = self.wire.bytes.load(Ordering::SeqCst);
        self.wire.hold_at.store(now + bytes, Ordering::SeqCst);
    }

    pub(crate) fn is_held(&self) -> bool {
        (1..self.passed()).contains(&self.wire.hold_at.load(Ordering::SeqCst))
    }

    pub(crate) fn release(&self) {
        self.wire.hold_at.store(0, Ordering::SeqCst);
        self.wire.room.notify_all();
    }

    pub(crate) fn is_cut(&self) -> bool {
        !self.wire.up.load(Ordering::SeqCst)
    }

    pub(crate) fn mend(&self) {
        self.wire.cut_at.store(0, Ordering::SeqCst);
        self.cut();
        self.connect();
    }

    /// Bytes of content that passed, both ways.
    pub(crate) fn passed(&self) -> u64 {
        self.wire.bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn stop_a(&mut self) {
        self.a.stop();
        self.b.tell(Command::Link(false));
    }

    pub(crate) fn stop_b(&mut self) {
        self.b.stop();
        self.a.tell(Command::Link(false));
    }

    /// Everything is on both sides, and both are the same.
    #[track_caller]
    pub(crate) fn settle(&self) {
        for _ in 0..2 {
            self.a.flush().unwrap();
            self.b.flush().unwrap();
        }
        for side in [&self.a, &self.b] {
            side.until("nothing to come", |status| status.to_fetch == 0 && status.to_send == 0);
        }
    }

    /// The same, and both trees are equal for an independent reader.
    #[track_caller]
    pub(crate) fn settle_equal(&self) {
        self.settle();
        self.assert_equal();
    }

    #[track_caller]
    pub(crate) fn assert_equal(&self) {
        assert_eq!(walk::tree(&self.a.root), walk::tree(&self.b.root));
        assert_eq!(walk::groups(&self.a.root), walk::groups(&self.b.root));
    }
}
