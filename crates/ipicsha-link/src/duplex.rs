//! A connection on which both ends send, for threads that may wait.
//!
//! Decides how frames become bytes of the socket and nothing about what is said. Both halves share
//! one TLS state, and neither waits for the socket while it holds it: so both ends may send at once.
//! A side that has said everything finishes its half and reads on: closing while the other's bytes
//! are unread would lose what is under way.

use std::{
    fmt,
    io::{self, BufRead, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::Connection;

use crate::{
    connection::Ends,
    error::Error,
    frame::{FRAME_BYTES_MAX_DATA, FrameError, HEADER, check},
    registry::LiveGuard,
};

/// Encrypted bytes that may wait for the socket.
const SEALED_BYTES_MAX: usize = 512 * 1024;
/// Bytes taken from the socket at a time.
const RECEIVE_BYTES: usize = 256 * 1024;
/// A thread that waits looks so often whether it should go on.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How long one half waits for the other end.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Longest time in which nothing comes, or nothing can be sent.
    pub silence_max: Duration,
    /// Set from outside to wait no longer.
    pub given_up: Arc<AtomicBool>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silence_max: Duration::from_secs(60), given_up: Arc::default() }
    }
}

/// Both halves; they can be used by different threads.
#[derive(Debug)]
pub struct Duplex {
    /// What this end says.
    pub sender: DuplexSender,
    /// What the other end says.
    pub receiver: DuplexReceiver,
}

/// What both halves use.
struct Shared {
    tls: Mutex<Connection>,
    tcp: TcpStream,
    address: SocketAddr,
    /// At the accepting end: whether the trust it was accepted under still holds.
    live: Option<LiveGuard>,
    /// When bytes came last: whoever still says something lives, although it takes nothing.
    heard: Mutex<Instant>,
}

impl Duplex {
    /// Takes over a stream whose hello was accepted.
    pub(crate) fn new(
        tcp: tokio::net::TcpStream,
        tls: impl Into<Connection>,
        ends: Ends,
        live: Option<LiveGuard>,
    ) -> Result<Self, Error> {
        let address = ends.peer;
        // It stays non-blocking: who waits does so in slices.
        let tcp = tcp.into_std().map_err(|source| Error::Lost { address, source })?;
        let mut tls = tls.into();
        tls.set_buffer_limit(Some(SEALED_BYTES_MAX));
        let shared =
            Shared { tls: Mutex::new(tls), tcp, address, live, heard: Mutex::new(Instant::now()) };
        let shared = Arc::new(shared);
        let patience = Patience::default();
        Ok(Self {
            sender: DuplexSender { shared: Arc::clone(&shared), patience: patience.clone() },
            receiver: DuplexReceiver {
                shared,
                patience,
                buffer: vec![0; RECEIVE_BYTES],
                begin: 0,
                end: 0,
                expected: None,
            },
        })
    }

    /// Waits like this from now on.
    pub fn set_patience(&mut self, patience: &Patience) {
        self.sender.set_patience(patience);
        self.receiver.set_patience(patience);
    }

    /// Where the other end is.
    pub fn peer_address(&self) -> SocketAddr {
        self.sender.shared.address
    }
}

impl Shared {
    fn tls(&self) -> MutexGuard<'_, Connection> {
        // A state in which somebody panicked says so itself at the next call.
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, source: io::Error) -> Error {
        let live = self.live.as_ref().map_or(Ok(()), |live| live.check(self.address));
        live.err().unwrap_or(Error::Lost { address: self.address, source })
    }

    /// Writes what is sealed; `false` when the socket takes no more now.
    fn write_sealed(&self, tls: &mut Connection) -> Result<bool, Error> {
        while tls.wants_write() {
            match tls.write_tls(&mut &self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(true)
    }

    fn heard(&self) -> MutexGuard<'_, Instant> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the socket can be read or written; `idle` is called again and again meanwhile.
    fn wait(
        &self,
        flags: PollFlags,
        patience: &Patience,
        idle: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            if patience.given_up.load(Ordering::Relaxed) {
                return Err(Error::GivenUp { address: self.address });
            }
            match poll(&mut [PollFd::new(&self.tcp, flags)], Some(&SLICE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(self.lost(errno.into())),
            }
            idle();
            if self.heard().max(begin).elapsed() >= patience.silence_max {
                let (address, after) = (self.address, patience.silence_max);
                return Err(Error::Timeout { address, step: "waiting for the partner", after });
            }
        }
    }
}

/// The sending half.
pub struct DuplexSender {
    shared: Arc<Shared>,
    patience: Patience,
}

impl DuplexSender {
    /// Waits like this from now on.
    pub fn set_patience(&mut self, patience: &Patience) {
        self.patience = patience.clone();
    }

    /// Sends one frame, which is all `parts` one after the other.
    ///
    /// # Errors
    /// The connection is lost or nothing could be sent for too long, which spoils it; or the frame
    /// is too long (then nothing was sent).
    pub fn send(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        let length = parts.iter().map(|part| part.len()).sum();
        check(length, FRAME_BYTES_MAX_DATA)
            .map_err(|error| Error::frame(self.shared.address, error))?;
        let header = u32::try_from(length).expect("every limit is far below 4 GiB").to_be_bytes();
        let mut slices = vec![IoSlice::new(&header)];
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        self.push(&mut slices)
    }

    fn push(&mut self, mut parts: &mut [IoSlice<'_>]) -> Result<(), Error> {
        // Parts without bytes go at once.
        IoSlice::advance_slices(&mut parts, 0);
        loop {
            let mut tls = self.shared.tls();
            if !parts.is_empty() {
                let taken = tls.writer().write_vectored(parts);
                let taken = taken.map_err(|error| self.shared.lost(error))?;
                IoSlice::advance_slices(&mut parts, taken);
            }
            let written = self.shared.write_sealed(&mut tls)?;
            drop(tls);
            match (written, parts.is_empty()) {
                (true, true) => return Ok(()),
                (true, false) => {}
                (false, _) => self.shared.wait(PollFlags::OUT, &self.patience, &mut || {})?,
            }
        }
    }

    /// Says that nothing follows: the other end's `recv` gives `None`.
    ///
    /// # Errors
    /// The connection was lost before.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.shared.tls().send_close_notify();
        self.push(&mut [])?;
        self.shared.tcp.shutdown(Shutdown::Write).map_err(|error| self.shared.lost(error))
    }
}

/// The receiving half.
pub struct DuplexReceiver {
    shared: Arc<Shared>,
    patience: Patience,
    /// Encrypted bytes that came; those from `begin` to `end` are not used yet.
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// Until then something is about to come, if nothing has since.
    expected: Option<Instant>,
}

impl DuplexReceiver {
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Something is about to come: until then the thread stays awake, which is faster than to be woken.
    pub(crate) fn expect(&mut self, until: Instant) {
        self.expected = Some(until);
    }

    /// Waits like this from now on.
    pub fn set_patience(&mut self, patience: &Patience) {
        self.patience = patience.clone();
    }

    /// The next frame without its length, in a buffer that may be one of an earlier frame; `None`
    /// when the other end has said everything. `idle` is called again and again while nothing comes.
    ///
    /// # Errors
    /// The connection is lost, was ended by a change of trust, or nothing came for too long; or a
    /// frame is too long.
    pub fn recv(
        &mut self,
        mut frame: Vec<u8>,
        idle: &mut dyn FnMut(),
    ) -> Result<Option<Vec<u8>>, Error> {
        frame.clear();
        if !self.fill(&mut frame, HEADER, idle)? {
            return Ok(None);
        }
        let header = [frame[0], frame[1], frame[2], frame[3]];
        let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        let address = self.shared.address;
        check(length, FRAME_BYTES_MAX_DATA).map_err(|error| Error::frame(address, error))?;
        frame.clear();
        if !self.fill(&mut frame, length, idle)? && length > 0 {
            let truncated = FrameError::Truncated { received: HEADER };
            return Err(Error::frame(address, truncated));
        }
        if let Some(live) = &self.shared.live {
            live.check(address)?;
        }
        Ok(Some(frame))
    }

    /// Takes `wanted` bytes; `false` when the other end has finished before the first of them.
    fn fill(
        &mut self,
        bytes: &mut Vec<u8>,
        wanted: usize,
        idle: &mut dyn FnMut(),
    ) -> Result<bool, Error> {
        bytes.reserve(wanted);
        while bytes.len() < wanted {
            let missing = wanted - bytes.len();
            match self.read(bytes, missing, idle)? {
                0 if bytes.is_empty() => return Ok(false),
                0 => {
                    let truncated = FrameError::Truncated { received: bytes.len() };
                    return Err(Error::frame(self.shared.address, truncated));
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// Takes at most `most` of the next bytes; none when the other end has finished.
    fn read(
        &mut self,
        bytes: &mut Vec<u8>,
        most: usize,
        idle: &mut dyn FnMut(),
    ) -> Result<usize, Error> {
        loop {
            if let Some(count) = self.opened(bytes, most)? {
                return Ok(count);
            }
            match (&self.shared.tcp).read(&mut self.buffer) {
                Ok(count) => {
                    (self.begin, self.end) = (0, count);
                    self.expected = None;
                    *self.shared.heard() = Instant::now();
                    if count == 0 {
                        let source = ErrorKind::UnexpectedEof.into();
                        return Err(self.shared.lost(source));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.expected = self.expected.filter(|until| Instant::now() < *until);
                    match self.expected {
                        Some(_) => thread::yield_now(),
                        None => self.shared.wait(PollFlags::IN, &self.patience, idle)?,
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.shared.lost(error)),
            }
        }
    }

    /// What can be had without waiting for the socket; `None` when more is needed from there.
    fn opened(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<Option<usize>, Error> {
        let mut tls = self.shared.tls();
        loop {
            let mut reader = tls.reader();
            match reader.fill_buf() {
                Ok(plain) => {
                    let count = plain.len().min(most);
                    bytes.extend_from_slice(&plain[..count]);
                    reader.consume(count);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.shared.lost(error)),
            }
            if self.begin == self.end {
                return Ok(None);
            }
            let mut sealed = &self.buffer[self.begin..self.end];
            self.begin += tls.read_tls(&mut sealed).map_err(|error| self.shared.lost(error))?;
            if let Err(error) = tls.process_new_packets() {
                let source = io::Error::new(ErrorKind::InvalidData, error);
                return Err(self.shared.lost(source));
            }
        }
    }
}

impl fmt::Debug for DuplexSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DuplexSender({})", self.shared.address)
    }
}

impl fmt::Debug for DuplexReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DuplexReceiver({})", self.shared.address)
    }
}
