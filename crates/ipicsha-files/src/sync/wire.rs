//! A transfer between two servers, as frames of bytes.
//!
//! Decides what is said beside the messages of the two halves, and which of it shares a frame: small
//! messages are gathered, contents travel alone. Must not know what carries the frames. Variants are
//! only ever appended; their bytes are pinned by a test.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{
    Event, Fatal, Options, Progress, Received, Sent, Skipped,
    exit::Exit,
    message::{ToReceiver, ToSender},
};
use crate::{Time, compression};

/// Version of everything said in a transfer.
pub const PROTOCOL: u16 = 2;

/// A frame is full with this many bytes of gathered messages.
const GATHERED_BYTES: usize = 64 * 1024;
/// Contents from this size on get a frame of their own.
const ALONE_BYTES_MIN: usize = 32 * 1024;
/// Gathered messages wait no longer than this for others while there is work to do.
const WAIT_MAX: Duration = Duration::from_millis(4);
/// Level for what is told of entries.
const ENTRIES_LEVEL: i32 = 1;
/// No frame becomes longer than this when it is unpacked.
const UNPACKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Kinds of frames: their last byte, so that contents can be taken as they are.
const MESSAGES: u8 = 0;
const CONTENT: u8 = 1;
/// Added to the kind when the rest is compressed.
const COMPRESSED: u8 = 0x80;

/// What the partner's half is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Half {
    /// Have the files.
    Send {
        /// Paths there.
        sources: Vec<Vec<u8>>,
    },
    /// Make the files.
    Receive {
        /// Path there.
        destination: Vec<u8>,
    },
    /// Tell what there is (`--list-only`).
    List {
        /// Paths there.
        sources: Vec<Vec<u8>>,
    },
}

/// Which events whoever asks wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// Entries, and why some are left out.
    pub items: bool,
    /// How far it is.
    pub progress: bool,
    /// The end of every single file as well.
    pub every_file: bool,
}

/// First words of whoever asks for a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`] of whoever asks.
    pub protocol: u16,
    /// What the other side does.
    pub half: Half,
    /// How.
    pub options: Options,
    /// What is to be told.
    pub interest: Interest,
    /// `-z`: level of compression of what the other side sends.
    pub compress: Option<i32>,
}

/// Last words of a half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Of the one that had the files.
    Sent(Result<Sent, Fatal>),
    /// Of the one that made them, with why it ended early.
    Received(Received, Option<Fatal>),
}

/// Everything that is said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Packet {
    /// Asks for a transfer.
    Request(Box<Request>),
    /// It begins, or does not.
    Answer(Result<(), Fatal>),
    /// From the half that has the files.
    ToReceiver(ToReceiver),
    /// From the half that makes them.
    ToSender(ToSender),
    /// To be shown to whoever asked.
    Event(Event),
    /// A half has ended.
    Ended(Ended),
}

/// Bytes that are no frame of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came is no message of a transfer: install the same version on both servers")]
pub struct Malformed;

impl From<Malformed> for Fatal {
    fn from(malformed: Malformed) -> Self {
        Self::new(Exit::Protocol, malformed.to_string())
    }
}

/// Makes frames, each of several parts.
#[derive(Debug)]
pub struct Packer {
    messages: Vec<u8>,
    /// There are contents or sums among them, which do not get shorter or only at a price.
    dense: bool,
    /// When the first message of the frame came.
    since: Option<Instant>,
    compress: Option<i32>,
}

impl Packer {
    /// Compresses with zstd at this level, where it is worth it.
    pub fn new(compress: Option<i32>) -> Self {
        Self { messages: Vec::new(), dense: false, since: None, compress }
    }

    /// From now on.
    pub fn set_compression(&mut self, compress: Option<i32>) {
        self.compress = compress;
    }

    /// Takes a message; `send` gets the frames that are full.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn add<E>(
        &mut self,
        packet: &Packet,
        mut send: impl FnMut(&[&[u8]]) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Packet::ToReceiver(ToReceiver::Data(bytes)) = packet
            && bytes.len() >= ALONE_BYTES_MIN
        {
            self.flush(&mut send)?;
            return self.send(CONTENT, bytes, self.compress, send);
        }
        self.dense |= matches!(
            packet,
            Packet::ToReceiver(ToReceiver::Pack(_) | ToReceiver::Data(_))
                | Packet::ToSender(ToSender::Sums(_))
        );
        self.since.get_or_insert_with(Instant::now);
        let messages = std::mem::take(&mut self.messages);
        self.messages = postcard::to_extend(packet, messages).expect("a vector takes everything");
        if self.messages.len() >= GATHERED_BYTES { self.flush(send) } else { Ok(()) }
    }

    /// Whether messages have waited long enough for others.
    pub fn is_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= WAIT_MAX)
    }

    /// Sends what is gathered.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn flush<E>(&mut self, mut send: impl FnMut(&[&[u8]]) -> Result<(), E>) -> Result<(), E> {
        self.since = None;
        if self.messages.is_empty() {
            return Ok(());
        }
        // What is told of entries repeats itself so much that it is always worth it.
        let level = self.compress.or((!self.dense).then_some(ENTRIES_LEVEL));
        let result = self.send(MESSAGES, &self.messages, level, &mut send);
        self.messages.clear();
        self.dense = false;
        result
    }

    /// A frame without messages, so that the other end sees that this one lives.
    pub const SIGN_OF_LIFE: &'static [u8] = &[MESSAGES];

    fn send<E>(
        &self,
        kind: u8,
        body: &[u8],
        level: Option<i32>,
        mut send: impl FnMut(&[&[u8]]) -> Result<(), E>,
    ) -> Result<(), E> {
        match compressed(body, level) {
            Some((packed, length)) => send(&[&packed, &length, &[kind | COMPRESSED]]),
            None => send(&[body, &[kind]]),
        }
    }
}

/// A body compressed, when that is worth it, and its length before.
fn compressed(body: &[u8], level: Option<i32>) -> Option<(Vec<u8>, [u8; 4])> {
    let packed = compression::compress(body, level?)?;
    // Frames are far below 4 GiB.
    Some((packed, u32::try_from(body.len()).ok()?.to_be_bytes()))
}

/// The messages in a frame, in order; `take` says whether to go on. Gives the buffer back when it is
/// free again.
///
/// # Errors
/// The frame is none, or holds values that nobody means.
pub fn unpack(
    mut frame: Vec<u8>,
    mut take: impl FnMut(Packet) -> bool,
) -> Result<Vec<u8>, Malformed> {
    let mut kind = frame.pop().ok_or(Malformed)?;
    if kind & COMPRESSED != 0 {
        kind &= !COMPRESSED;
        let (packed, length) = frame.split_last_chunk::<4>().ok_or(Malformed)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed)?;
        if length > UNPACKED_BYTES_MAX {
            return Err(Malformed);
        }
        frame = compression::decompress(packed, length).map_err(|_| Malformed)?;
    }
    match kind {
        CONTENT => {
            take(Packet::ToReceiver(ToReceiver::Data(frame)));
            return Ok(Vec::new());
        }
        MESSAGES => {}
        _ => return Err(Malformed),
    }
    let mut rest = &frame[..];
    while !rest.is_empty() {
        let (packet, after) = postcard::take_from_bytes(rest).map_err(|_| Malformed)?;
        rest = after;
        if !is_meant(&packet) {
            return Err(Malformed);
        }
        if !take(packet) {
            break;
        }
    }
    Ok(frame)
}

/// Whether a message holds only numbers that can be counted with.
fn is_meant(packet: &Packet) -> bool {
    const MOST: u64 = i64::MAX as u64;
    let time =
        |time: Time| time.seconds.unsigned_abs() < MOST / 4 && time.nanoseconds < 1_000_000_000;
    match packet {
        Packet::ToReceiver(ToReceiver::Entries { first, entries }) => {
            *first < MOST / 2
                && entries.iter().all(|e| e.details.size <= MOST && time(e.details.mtime))
        }
        Packet::ToReceiver(ToReceiver::Dir { itself, .. }) => {
            itself.as_ref().is_none_or(|details| time(details.mtime))
        }
        Packet::ToReceiver(ToReceiver::Hole(length)) => *length <= MOST,
        Packet::ToReceiver(ToReceiver::Copy { offset, length }) => {
            offset.checked_add(*length).is_some_and(|end| end <= MOST)
        }
        Packet::ToReceiver(ToReceiver::Open { offset, .. }) => *offset <= MOST,
        Packet::Event(Event::Item(item) | Event::Listed(item)) => time(item.mtime),
        Packet::Request(_)
        | Packet::Answer(_)
        | Packet::ToReceiver(_)
        | Packet::ToSender(_)
        | Packet::Event(_)
        | Packet::Ended(_) => true,
    }
}

/// Text of the other side that can be shown: without characters that control a terminal.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// An event of the other side as it may be shown here; `name` is that side's.
pub fn from_partner(event: Event, name: &str) -> Event {
    match event {
        Event::Problem { text, vanished } => {
            Event::Problem { text: format!("{name}: {}", shown(&text)), vanished }
        }
        Event::Notice(text) => Event::Notice(format!("{name}: {}", shown(&text))),
        Event::Skipped(Skipped::Directory(text)) => {
            Event::Skipped(Skipped::Directory(shown(&text)))
        }
        Event::Skipped(Skipped::Quietly(text)) => Event::Skipped(Skipped::Quietly(shown(&text))),
        other @ (Event::Begun
        | Event::Item(_)
        | Event::Deleted { .. }
        | Event::Listed(_)
        | Event::CreatedDestination { .. }
        | Event::Skipped(Skipped::NotRegular(_) | Skipped::UnsafeLink { .. })
        | Event::Progress(_)) => other,
    }
}

/// Why the other side ended early, as it may be shown here.
pub fn fatal_from_partner(fatal: &Fatal, name: &str) -> Fatal {
    Fatal::new(fatal.exit, format!("{name}: {}", shown(&fatal.message)))
}

impl Interest {
    /// Whether an event is to be told; `told` is when progress was told last.
    pub fn wants(self, event: &Event, told: &mut Option<Instant>) -> bool {
        const PROGRESS_EVERY: Duration = Duration::from_millis(100);
        match event {
            Event::Item(_) | Event::Skipped(Skipped::Quietly(_)) => self.items,
            Event::Progress(Progress { file_done, .. }) => {
                let due = told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY);
                let wanted = self.progress && (due || self.every_file && *file_done);
                if wanted {
                    *told = Some(Instant::now());
                }
                wanted
            }
            Event::Begun
            | Event::Deleted { .. }
            | Event::Listed(_)
            | Event::CreatedDestination { .. }
            | Event::Skipped(_)
            | Event::Problem { .. }
            | Event::Notice(_) => true,
        }
    }
}

#[cfg(test)]
mod tests;
