//! One node: this test binary once more, as a process of its own that can be killed.

use std::{
    env,
    io::BufReader,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

use ipicsha_core::{file::DirectoryName, license::LicensedRole};
use ipicsha_files::replicate::{
    self, DirectoryConfig, Event, Gate, GuardLimits, KeepLimits, Outlets, Worker,
};

use crate::wire::{self, FromNode, ToNode};

const SOCKET: &str = "IPICSHA_TEST_NODE_SOCKET";
const ROOT: &str = "IPICSHA_TEST_NODE_ROOT";
const STATE: &str = "IPICSHA_TEST_NODE_STATE";
const RANK: &str = "IPICSHA_TEST_NODE_RANK";
/// Messages of the partner that may wait for the worker.
const WAITING_MAX: usize = 64;
/// Parts of contents that may wait for the socket.
const PARTS_MAX: usize = 4;

/// Where a node lives.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    /// Beside the root, for its users.
    pub(crate) away: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) rank: LicensedRole,
}

/// Starts a node that connects to `socket`.
pub(crate) fn start(home: &Home, socket: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&home.log).expect("a log");
    let rank = if home.rank == LicensedRole::Primary { "primary" } else { "secondary" };
    Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", "node::a_node_ends_with_its_socket", "--nocapture", "--test-threads=1"])
        .envs([(SOCKET, socket), (ROOT, &home.root), (STATE, &home.state), (RANK, Path::new(rank))])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("a node starts")
}

/// As a process of its own this is the node; as a test it sees one come and go.
#[test]
fn a_node_ends_with_its_socket() {
    let Some(socket) = env::var_os(SOCKET) else { return come_and_go() };
    run(UnixStream::connect(socket).expect("the test listens"));
}

fn come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = Home {
        root: folder.path().join("root"),
        state: folder.path().join("state"),
        away: folder.path().join("away"),
        log: folder.path().join("log"),
        rank: LicensedRole::Primary,
    };
    std::fs::create_dir(&home.root).expect("a root");
    let socket = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let mut child = start(&home, &socket);
    let (stream, _) = listener.accept().expect("it connects");
    wire::write(&stream, &ToNode::Gate(true)).expect("it listens");
    drop(stream);
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{}", std::fs::read_to_string(&home.log).unwrap_or_default());
}

fn is_primary() -> bool {
    env::var_os(RANK).is_some_and(|rank| rank == "primary")
}

fn config() -> DirectoryConfig {
    let path = |name| PathBuf::from(env::var_os(name).expect("the test says it"));
    DirectoryConfig {
        name: DirectoryName("d".into()),
        root: path(ROOT),
        state: path(STATE),
        rank: if is_primary() { LicensedRole::Primary } else { LicensedRole::Secondary },
        rules: Vec::new(),
        ignore_file: String::new(),
        keep: KeepLimits { bytes: 1 << 40, ..KeepLimits::default() },
        guard: GuardLimits { percent: 100, files_small: u64::MAX, files: u64::MAX },
    }
}

/// Bounds what waits for the worker: the socket is read only while there is room.
#[derive(Default)]
struct Room {
    waiting: Mutex<usize>,
    left: Condvar,
}

struct Ticket(Arc<Room>);

impl Drop for Ticket {
    fn drop(&mut self) {
        *self.0.waiting.lock().expect("a number") -= 1;
        self.0.left.notify_one();
    }
}

fn ticket(room: &Arc<Room>) -> Ticket {
    let waiting = room.waiting.lock().expect("a number");
    let mut waiting = room.left.wait_while(waiting, |n| *n >= WAITING_MAX).expect("a number");
    *waiting += 1;
    Ticket(Arc::clone(room))
}

/// Where the worker's words go, and the number of the connection they go by.
fn outlets(
    connection: &Arc<AtomicU64>,
    events: std::sync::mpsc::Sender<FromNode>,
    parts: SyncSender<FromNode>,
) -> Outlets {
    let by = Arc::clone(connection);
    let tell = move |event| {
        let message = match event {
            Event::Send(file) => FromNode::Send(by.load(Ordering::SeqCst), file),
            Event::Status(status) => FromNode::Status(status),
            Event::Kept(_) | Event::Repairing(_) => return,
        };
        // The writer is gone when the test is.
        let _ = events.send(message);
    };
    let by = Arc::clone(connection);
    let part = move |file| match by.load(Ordering::SeqCst) {
        0 => None,
        number => parts.send(FromNode::Send(number, file)).ok().map(|()| Duration::ZERO),
    };
    // One side compresses what it sends.
    let bandwidth_limit = is_primary().then_some(1 << 20);
    Outlets { events: Box::new(tell), parts: Box::new(part), bandwidth_limit }
}

fn run(stream: UnixStream) {
    let (events, told) = channel();
    let (parts, sent) = sync_channel(PARTS_MAX);
    for queue in [Queue::Events(told), Queue::Parts(sent)] {
        let stream = stream.try_clone().expect("a handle");
        let lock = Arc::clone(writing());
        std::thread::spawn(move || queue.drain(&stream, &lock));
    }
    let connection = Arc::new(AtomicU64::new(0));
    let worker = Worker::spawn(config(), outlets(&connection, events.clone(), parts));
    let worker = worker.expect("a worker");
    let room = Arc::new(Room::default());
    let mut stream = BufReader::new(stream);
    while let Ok(message) = wire::read(&mut stream) {
        worker.send(match message {
            ToNode::Received(file) => replicate::Command::Received(file, Box::new(ticket(&room))),
            ToNode::Link(number) => {
                connection.store(number, Ordering::SeqCst);
                replicate::Command::Link(number > 0)
            }
            ToNode::Gate(open) => {
                replicate::Command::SetGate(if open { Gate::Open } else { Gate::Closed })
            }
            ToNode::Flush(number) => {
                let events = events.clone();
                let answer = move |result: Result<(), replicate::Refused>| {
                    let result = result.map_err(|refused| refused.message);
                    let _ = events.send(FromNode::Flushed(number, result));
                };
                replicate::Command::Flush { done: Box::new(answer) }
            }
        });
    }
}

/// Whole frames only.
fn writing() -> &'static Arc<Mutex<()>> {
    static WRITING: std::sync::OnceLock<Arc<Mutex<()>>> = std::sync::OnceLock::new();
    WRITING.get_or_init(Arc::default)
}

enum Queue {
    Events(Receiver<FromNode>),
    Parts(Receiver<FromNode>),
}

impl Queue {
    fn drain(self, stream: &UnixStream, lock: &Mutex<()>) {
        let (Self::Events(queue) | Self::Parts(queue)) = self;
        for message in queue {
            let _whole = lock.lock().expect("no writer panics");
            if wire::write(stream, &message).is_err() {
                return;
            }
        }
    }
}
