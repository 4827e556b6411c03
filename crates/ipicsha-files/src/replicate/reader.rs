//! The thread that reads large files here: to know what is in them, and to know what of a new
//! content is there already.
//!
//! Decides nothing. Must not know the index.

use std::{
    fs::File,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use rustix::io::Errno;

use super::{
    look::{self, Seen},
    row::Own,
};
use crate::{
    delta::{Signature, Signer, block_bytes},
    hash::READ_BYTES,
    path::{Name, RelativePath},
    place::errno_of,
    resolve::Dir,
    sync::Names,
};

/// More sums make no better signature, but a longer message.
const SUMS_MAX: u64 = 20_000;

/// Something to read.
#[derive(Debug)]
pub(super) enum Task {
    /// What the file is.
    Look { path: RelativePath, dir: Arc<Dir>, name: Name, own: Option<Box<Own>> },
    /// The signature of a file, for the request with this number.
    Sign { id: u64, file: File, size: u64 },
}

/// What was read.
#[derive(Debug)]
pub(super) enum Read_ {
    /// What the file is.
    Looked { path: RelativePath, seen: Result<Seen, Errno> },
    /// Its signature; none when it could not be read.
    Signed { id: u64, signature: Option<Signature> },
}

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Reader {
    tasks: Option<Sender<Task>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts it; `done` gets every result.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(super) fn start(
        owners: Arc<Names>,
        done: impl Fn(Read_) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (tasks, queue) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("files-read".into()).spawn(move || {
            for task in queue {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                done(run(task, &owners, &stopping));
            }
        })?;
        Ok(Self { tasks: Some(tasks), stop, thread: Some(thread) })
    }

    /// Queues something to read.
    pub(super) fn push(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // It only ends with this.
            let _ = tasks.send(task);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

fn run(task: Task, owners: &Names, stop: &AtomicBool) -> Read_ {
    match task {
        Task::Look { path, dir, name, own } => {
            let seen = look::read_file(&dir, &name, own.as_deref(), owners, stop);
            Read_::Looked { path, seen }
        }
        Task::Sign { id, file, size } => {
            Read_::Signed { id, signature: sign(&file, size, stop).ok() }
        }
    }
}

fn sign(mut file: &File, size: u64, stop: &AtomicBool) -> Result<Signature, Errno> {
    let fewest = size.div_ceil(SUMS_MAX).next_multiple_of(4096);
    let block = block_bytes(size).max(u32::try_from(fewest).unwrap_or(u32::MAX));
    let mut signer = Signer::new(block);
    let mut buffer = vec![0; READ_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(signer.finish()),
            Ok(length) => signer.add(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(errno_of(&error)),
        }
    }
    Err(Errno::CANCELED)
}
