//! The thread that reads contents and sends them.
//!
//! Decides that what is sent is one state of a file or refused, that small files do not wait for
//! large ones, and what is compressed. May wait for the connection; must not know the index.

use std::{
    cell::{Cell, RefCell},
    collections::{HashSet, VecDeque},
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ipicsha_core::file::{self, DirectoryName, Part};
use rustix::{fs::SeekFrom, io::Errno};

use super::{
    bottleneck::{Bottleneck, Tries},
    look::SMALL_BYTES_MAX,
    row::Quick,
};
use crate::{
    delta::{Matcher, Op, Signature},
    error::Said,
    meta::Meta,
    path::{Name, RelativePath},
    place::errno_of,
    resolve::Dir,
};

/// Bytes of one part at most.
pub(super) const PART_BYTES: usize = 256 * 1024;
/// A longer copy is told in pieces, so that the receiver can do other things in between.
const COPY_BYTES_MAX: u64 = 8 << 20;

/// One wanted content.
#[derive(Debug)]
pub(super) struct Job {
    /// Of the request.
    pub(super) id: u64,
    /// The connection it came by; answers of older ones are of no use.
    pub(super) round: u64,
    /// What to send, or why not.
    pub(super) what: Result<Wanted, String>,
}

/// What is to be sent.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) path: RelativePath,
    pub(super) dir: Arc<Dir>,
    pub(super) name: Name,
    /// The file must still be this one.
    pub(super) quick: Quick,
    /// The receiver has so much of it.
    pub(super) from: u64,
    /// What the receiver has besides.
    pub(super) signature: Option<Signature>,
}

impl Wanted {
    /// Whether it is one part, between which no other file can be served.
    fn is_sent_at_once(&self) -> bool {
        self.quick.size <= SMALL_BYTES_MAX && self.from == 0 && self.signature.is_none()
    }
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    cancelled: HashSet<u64>,
    round: u64,
    stopping: bool,
    /// Something is being sent.
    serving: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Send_ = Box<dyn Fn(file::File) -> Option<Duration> + Send>;
type Changed = Box<dyn Fn(RelativePath) + Send>;

/// The thread. Dropping it ends it after the part that is being sent.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it. `changed` is told of files that are not what the index says.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(super) fn start(
        directory: DirectoryName,
        parts: Send_,
        changed: Changed,
        bottleneck: Bottleneck,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let serving = Serving {
            shared: Arc::clone(&shared),
            directory,
            parts,
            changed,
            bottleneck: RefCell::new(bottleneck),
            busy_since: Cell::new(Instant::now()),
        };
        let thread =
            std::thread::Builder::new().name("files-send".into()).spawn(move || serving.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Queues a content to be sent.
    pub(super) fn push(&self, job: Job) {
        self.shared.lock().jobs.push_back(job);
        self.shared.changed.notify_one();
    }

    /// The rest of an answer is not wanted any more.
    pub(super) fn cancel(&self, id: u64) {
        let mut queue = self.shared.lock();
        queue.jobs.retain(|job| job.id != id);
        queue.cancelled.insert(id);
    }

    /// Whether nothing is to be sent.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.shared.lock();
        queue.jobs.is_empty() && !queue.serving
    }

    /// There is another connection, or none: what was queued is void.
    pub(super) fn begin(&self, round: u64) {
        let mut queue = self.shared.lock();
        queue.jobs.clear();
        queue.cancelled.clear();
        queue.round = round;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

struct Serving {
    shared: Arc<Shared>,
    directory: DirectoryName,
    parts: Send_,
    changed: Changed,
    bottleneck: RefCell<Bottleneck>,
    /// The last part went then, or the first job after none came.
    busy_since: Cell<Instant>,
}

/// Why no more of a file is sent.
enum End {
    /// Nobody wants it, or there is no connection.
    Unwanted,
    /// It is not the version that was asked for any more.
    Changed,
    /// The system refuses.
    Failed(Errno),
}

impl From<Errno> for End {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl Serving {
    fn run(self) {
        while let Some(job) = self.next() {
            self.serve(job);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.shared.lock();
        queue.serving = false;
        loop {
            if queue.stopping {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.serving = true;
                return Some(job);
            }
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            self.busy_since.set(Instant::now());
        }
    }

    /// Sends small files that were asked for while a large one is under way.
    fn serve_small_ones(&self) {
        let is_small = |job: &Job| match &job.what {
            Ok(wanted) => wanted.is_sent_at_once(),
            Err(_) => true,
        };
        loop {
            let mut queue = self.shared.lock();
            if queue.stopping {
                return;
            }
            let Some(at) = queue.jobs.iter().position(is_small) else { return };
            let Some(job) = queue.jobs.remove(at) else { return };
            drop(queue);
            self.serve(job);
        }
    }

    fn serve(&self, job: Job) {
        let (id, round) = (job.id, job.round);
        let wanted = match job.what {
            Ok(wanted) => wanted,
            Err(why) => return self.refuse(id, round, why),
        };
        match self.send_file(id, round, &wanted) {
            Ok(()) | Err(End::Unwanted) => {}
            Err(End::Changed) => {
                self.refuse(id, round, "it has changed meanwhile".into());
                (self.changed)(wanted.path);
            }
            Err(End::Failed(errno)) => {
                self.refuse(id, round, format!("it cannot be read: {}", Said(errno)));
                (self.changed)(wanted.path);
            }
        }
    }

    fn refuse(&self, id: u64, round: u64, why: String) {
        // Without a connection nobody has to be told.
        let _ = self.say(id, round, Part::Refused(why));
    }

    fn say(&self, id: u64, round: u64, part: Part) -> Result<(), End> {
        let queue = self.shared.lock();
        if queue.stopping || queue.round != round || queue.cancelled.contains(&id) {
            return Err(End::Unwanted);
        }
        drop(queue);
        let directory = self.directory.clone();
        let bytes = match &part {
            Part::Data { bytes, .. } | Part::Last { bytes, .. } => bytes.len() as u64,
            Part::Copy { .. } | Part::Hole { .. } | Part::End | Part::Refused(_) => 0,
        };
        let begun = Instant::now();
        let waited = (self.parts)(file::File::Part { directory, id, part });
        let waited = waited.ok_or(End::Unwanted)?;
        let now = Instant::now();
        // Pauses for others than the connection are as if they had not been.
        let paused = (now - begun).saturating_sub(waited);
        let passed = (now - self.busy_since.replace(now)).saturating_sub(paused);
        self.bottleneck.borrow_mut().sent(bytes, waited, passed);
        Ok(())
    }

    fn level(&self) -> Option<i32> {
        self.bottleneck.borrow().level()
    }

    fn send_file(&self, id: u64, round: u64, wanted: &Wanted) -> Result<(), End> {
        let file = wanted.dir.open_file(&wanted.name)?;
        let check = || match Meta::of(&file) {
            Ok(meta) if wanted.quick.fits(&meta) => Ok(()),
            Ok(_) => Err(End::Changed),
            Err(errno) => Err(End::Failed(errno)),
        };
        check()?;
        if wanted.is_sent_at_once() {
            let bytes = read_at(&file, 0, wanted.quick.size)?;
            check()?;
            let (bytes, compressed) = Tries::default().compress(bytes, self.level());
            return self.say(id, round, Part::Last { bytes, compressed });
        }
        let mut out = Out { serving: self, id, round, tries: Tries::default(), failed: None };
        let mut matcher = wanted.signature.as_ref().map(Matcher::new);
        let mut at = wanted.from;
        while at < wanted.quick.size {
            let data = data_at(&file, at, wanted.quick.size)?;
            // Holes are told as such only where nothing is searched for.
            if data > at && matcher.is_none() {
                out.say(Part::Hole { length: data - at });
                at = data;
            } else {
                let length = (wanted.quick.size - at).min(PART_BYTES as u64);
                let bytes = read_at(&file, at, length)?;
                at += length;
                match &mut matcher {
                    Some(matcher) => matcher.add(&bytes, |op| out.op(op)),
                    None => out.data(bytes),
                }
            }
            out.result()?;
            check()?;
            self.serve_small_ones();
        }
        if let Some(matcher) = matcher {
            matcher.finish(|op| out.op(op));
        }
        out.result()?;
        check()?;
        self.say(id, round, Part::End)
    }
}

/// Parts on their way; the first failure ends them.
struct Out<'s> {
    serving: &'s Serving,
    id: u64,
    round: u64,
    tries: Tries,
    failed: Option<End>,
}

impl Out<'_> {
    fn say(&mut self, part: Part) {
        if self.failed.is_none() {
            self.failed = self.serving.say(self.id, self.round, part).err();
        }
    }

    fn data(&mut self, bytes: Vec<u8>) {
        if self.failed.is_none() {
            let (bytes, compressed) = self.tries.compress(bytes, self.serving.level());
            self.say(Part::Data { bytes, compressed });
        }
    }

    fn op(&mut self, op: Op<'_>) {
        match op {
            Op::Copy { mut offset, mut length } => {
                while length > 0 {
                    let piece = length.min(COPY_BYTES_MAX);
                    self.say(Part::Copy { offset, length: piece });
                    offset += piece;
                    length -= piece;
                }
            }
            Op::Literal(bytes) => {
                for piece in bytes.chunks(PART_BYTES) {
                    self.data(piece.to_vec());
                }
            }
        }
    }

    fn result(&mut self) -> Result<(), End> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// Exactly these bytes; a file that ends before has changed.
fn read_at(file: &File, offset: u64, length: u64) -> Result<Vec<u8>, End> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(PART_BYTES)];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(End::Changed),
        Err(error) => Err(End::Failed(errno_of(&error))),
    }
}

/// Where the next data is, from `at` on; `at` itself where the file system does not say.
fn data_at(file: &File, at: u64, size: u64) -> Result<u64, End> {
    match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
        Ok(found) => Ok(found.min(size)),
        // Nothing but a hole follows.
        Err(Errno::NXIO) => Ok(size),
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(at),
        Err(errno) => Err(End::Failed(errno)),
    }
}
