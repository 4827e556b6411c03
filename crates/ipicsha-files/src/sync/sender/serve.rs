//! Files are read and sent.
//!
//! Decides that what is sent is one state of a file, never a mixture: a file that changes while it
//! is read is sent again. Must not know where it goes.

use std::{
    fs::File,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{buffer::spare_capacity, fs::SeekFrom, io::Errno};

use super::{Job, Sender, offers::Offer};
use crate::{
    delta::{Matcher, Op, Signature},
    error::Said,
    hash::{Hash, Hasher},
    meta::Meta,
    sync::{
        Event,
        channel::{Channel, Gone},
        message::{
            DATA_BYTES, EntryId, PACK_BYTES, SMALL_BYTES_MAX, Small, ToReceiver, ToSender, Want,
        },
    },
};

/// How often a file that keeps changing is begun anew.
const TRIES_MAX: usize = 5;

/// Hardly a single write takes longer than this.
const WRITE_MAX: Duration = Duration::from_millis(50);
/// Files that were left alone for so long are read once.
const READ_ONCE: Duration = Duration::from_secs(2);

/// How reading a file ended.
enum Reading {
    /// One state of it was sent.
    Sent(Hash),
    /// It changed meanwhile.
    Changed,
    /// It cannot be read.
    Failed(Errno),
}

impl<C> Sender<'_, C>
where
    C: Channel<Out = ToReceiver, In = ToSender>,
{
    pub(super) fn serve(&mut self, job: &Job) -> Result<(), Gone> {
        let Some(offer) = self.offers.find(job.id).cloned() else {
            return self.say(ToReceiver::Failed(job.id));
        };
        let file = offer.place.dir().and_then(|dir| dir.open_file(&offer.name));
        let (file, meta) = match file.and_then(|file| Meta::of(&file).map(|meta| (file, meta))) {
            Ok(opened) => opened,
            Err(errno) => return self.failed(job.id, &offer, "open", errno),
        };
        if job.want == Want::Whole && meta.size <= SMALL_BYTES_MAX {
            self.small(job.id, &offer, &file, meta)
        } else {
            self.send_pack()?;
            self.large(job, &offer, &file, meta)
        }
    }

    fn failed(
        &mut self,
        id: EntryId,
        offer: &Offer,
        doing: &str,
        errno: Errno,
    ) -> Result<(), Gone> {
        let vanished = matches!(errno, Errno::NOENT | Errno::STALE);
        let shown = self.shown(offer);
        let text = if vanished {
            format!("\"{shown}\" has vanished")
        } else {
            format!("cannot {doing} \"{shown}\": {}", Said(errno))
        };
        self.problem(text, vanished);
        self.send_pack()?;
        self.say(ToReceiver::Failed(id))
    }

    fn shown(&self, offer: &Offer) -> String {
        let path = offer.place.path.join(&offer.name);
        path.map_or_else(|_| offer.name.to_string(), |path| path.to_string())
    }

    fn keeps_changing(&mut self, id: EntryId, offer: &Offer) -> Result<(), Gone> {
        let text = format!("\"{}\" changes while it is read: try again later", self.shown(offer));
        self.problem(text, false);
        self.send_pack()?;
        self.say(ToReceiver::Failed(id))
    }

    fn small(
        &mut self,
        id: EntryId,
        offer: &Offer,
        file: &File,
        mut meta: Meta,
    ) -> Result<(), Gone> {
        for _ in 0..TRIES_MAX {
            let content = match read_all(file, meta.size) {
                Ok(content) => content,
                Err(errno) => return self.failed(id, offer, "read", errno),
            };
            let hash = Hash::of(&content);
            match Meta::of(file) {
                Ok(after)
                    if is_one_state(&meta, &after, content.len() as u64)
                        && is_settled(&meta, || reads_again(file, meta.size, 0, hash)) =>
                {
                    self.pace.spend(content.len() as u64);
                    self.pack_bytes += content.len() + 64;
                    self.pack.push(Small { id, hash, content });
                    let full = self.pack_bytes >= PACK_BYTES;
                    return if full { self.send_pack() } else { Ok(()) };
                }
                Ok(after) => meta = after,
                Err(errno) => return self.failed(id, offer, "look at", errno),
            }
        }
        self.keeps_changing(id, offer)
    }

    /// Sends the small files that were gathered.
    pub(super) fn send_pack(&mut self) -> Result<(), Gone> {
        self.pack_bytes = 0;
        match std::mem::take(&mut self.pack) {
            pack if pack.is_empty() => Ok(()),
            pack => self.say(ToReceiver::Pack(pack)),
        }
    }

    fn large(&mut self, job: &Job, offer: &Offer, file: &File, mut meta: Meta) -> Result<(), Gone> {
        let offset = match job.want {
            // It became shorter than what is there already: all of it is new.
            Want::From(offset) if offset <= meta.size => offset,
            Want::Whole | Want::From(_) | Want::Delta { .. } => 0,
        };
        self.say(ToReceiver::Open { id: job.id, offset })?;
        for _ in 0..TRIES_MAX {
            let reading = match &job.signature {
                Some(signature) => self.difference(file, &meta, signature)?,
                None => self.content(file, &meta, offset)?,
            };
            match reading {
                Reading::Sent(hash) => return self.say(ToReceiver::End(hash)),
                Reading::Failed(errno) => return self.failed(job.id, offer, "read", errno),
                Reading::Changed => self.say(ToReceiver::Again)?,
            }
            match Meta::of(file) {
                Ok(now) => meta = now,
                Err(errno) => return self.failed(job.id, offer, "look at", errno),
            }
            if self.is_stopped() {
                break;
            }
        }
        self.keeps_changing(job.id, offer)
    }

    /// Everything from `offset` to the size the file has now.
    fn content(&mut self, file: &File, meta: &Meta, offset: u64) -> Result<Reading, Gone> {
        let mut hasher = Hasher::default();
        let mut at = offset;
        let sparse = self.options.sparse && meta.is_sparse();
        while at < meta.size {
            if self.is_stopped() {
                return Err(Gone);
            }
            let mut end = meta.size;
            if sparse {
                let data = next_data(file, at).min(meta.size);
                if data > at {
                    hasher.add_zeros(data - at);
                    self.say(ToReceiver::Hole(data - at))?;
                    at = data;
                    continue;
                }
                end = next_hole(file, at).clamp(at + 1, meta.size);
            }
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(DATA_BYTES);
            let piece = match read_piece(file, at, self.pace.piece(wanted)) {
                Ok(piece) if piece.is_empty() => return Ok(Reading::Changed),
                Ok(piece) => piece,
                Err(errno) => return Ok(Reading::Failed(errno)),
            };
            at += piece.len() as u64;
            hasher.add(&piece);
            self.pace.spend(piece.len() as u64);
            self.say(ToReceiver::Data(piece))?;
        }
        let again = |hash| reads_again(file, meta.size, offset, hash);
        Ok(ended(file, meta, hasher.finish(), again))
    }

    /// What is new compared with the content that `signature` is of.
    fn difference(
        &mut self,
        file: &File,
        meta: &Meta,
        signature: &Signature,
    ) -> Result<Reading, Gone> {
        let again =
            |hash| compare(file, meta, signature, |_| Ok(())).is_ok_and(|second| second == hash);
        match compare(file, meta, signature, |op| self.say_part(op)) {
            Ok(hash) => Ok(ended(file, meta, hash, again)),
            Err(Ended::Gone) => Err(Gone),
            Err(Ended::Early) => Ok(Reading::Changed),
            Err(Ended::Failed(errno)) => Ok(Reading::Failed(errno)),
        }
    }

    fn say_part(&mut self, op: Op<'_>) -> Result<(), Gone> {
        if self.is_stopped() {
            return Err(Gone);
        }
        match op {
            Op::Copy { offset, length } => self.say(ToReceiver::Copy { offset, length }),
            Op::Literal(bytes) => bytes.chunks(DATA_BYTES).try_for_each(|piece| {
                self.pace.spend(piece.len() as u64);
                self.say(ToReceiver::Data(piece.to_vec()))
            }),
        }
    }

    /// `--remove-source-files`: what has arrived goes, unless it changed since it was listed. For
    /// somebody else it is a deletion like any other.
    pub(super) fn remove_sources(&mut self, ids: &[EntryId]) {
        if !self.options.remove_source_files {
            return;
        }
        for id in ids {
            let Some(offer) = self.offers.find(*id).cloned() else { continue };
            if self.options.delete_guard.is_some_and(|most| self.removed >= most) {
                self.left += 1;
                continue;
            }
            let removed = offer.place.dir().and_then(|dir| {
                let now = dir.entry(&offer.name)?;
                let same = now.size == offer.size || now.kind != crate::Kind::File;
                if !same || now.mtime != offer.mtime {
                    return Err(Errno::BUSY);
                }
                dir.remove_file(&offer.name)
            });
            match removed {
                Ok(()) => self.removed += 1,
                Err(Errno::NOENT) => {}
                Err(Errno::BUSY) => {
                    let text = format!("\"{}\" has changed and stays", self.shown(&offer));
                    self.problem(text, false);
                }
                Err(errno) => {
                    let shown = self.shown(&offer);
                    self.problem(format!("cannot remove \"{shown}\": {}", Said(errno)), false);
                }
            }
        }
    }

    /// Tells how many sources are left because of the limit.
    pub(super) fn tell_left(&mut self) {
        if self.left == 0 {
            return;
        }
        self.troubles.delete_limit = true;
        let text = format!(
            "the limit of deletions (`deletions_max` in `[sync]` there) is reached: {} files have \
             arrived and are left at the source",
            self.left
        );
        self.report.event(Event::Notice(text));
    }
}

/// Why a comparison has no result.
enum Ended {
    /// Nobody wants it any more.
    Gone,
    /// The file is shorter by now.
    Early,
    Failed(Errno),
}

/// Compares a file with an old content; what it is known by.
fn compare(
    file: &File,
    meta: &Meta,
    signature: &Signature,
    mut tell: impl FnMut(Op<'_>) -> Result<(), Gone>,
) -> Result<Hash, Ended> {
    let mut matcher = Matcher::new(signature);
    let mut told = Ok(());
    let mut at = 0;
    while at < meta.size {
        let wanted = usize::try_from(meta.size - at).unwrap_or(usize::MAX).min(DATA_BYTES);
        let read = |window: &mut Vec<u8>| read_more(file, at, wanted, window);
        match matcher.read(read, |op| told = told.and_then(|()| tell(op))) {
            Ok(0) => return Err(Ended::Early),
            Ok(read) => at += read as u64,
            Err(errno) => return Err(Ended::Failed(errno)),
        }
        told.map_err(|Gone| Ended::Gone)?;
    }
    let hash = matcher.finish(|op| told = told.and_then(|()| tell(op)));
    told.map_err(|Gone| Ended::Gone)?;
    Ok(hash)
}

/// Whether what was read between two looks is one state of the file. A file that only grew is: its
/// begin was read (logs are written all the time).
fn is_one_state(before: &Meta, after: &Meta, length: u64) -> bool {
    let grew = before.identity() == after.identity() && after.size > before.size;
    length == before.size && (grew || before.same_content_as(after))
}

/// Since the last write to the file began.
fn age(meta: &Meta) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begin = u64::try_from(meta.mtime.seconds).unwrap_or_default();
    let begin = Duration::new(begin, meta.mtime.nanoseconds);
    // A time in the future says nothing about when it was written.
    now.checked_sub(begin).unwrap_or(WRITE_MAX)
}

/// Whether what was read is one state of the file. A write sets the time when it begins and may go on
/// after it, so what changed just now is read twice, the second time when such a write is likely to have
/// ended.
fn is_settled(before: &Meta, reads_again: impl FnOnce() -> bool) -> bool {
    let age = age(before);
    if age >= READ_ONCE {
        return true;
    }
    std::thread::sleep(WRITE_MAX.saturating_sub(age));
    reads_again()
}

fn reads_again(file: &File, size: u64, offset: u64, hash: Hash) -> bool {
    let mut hasher = Hasher::default();
    let mut at = offset;
    while at < size {
        let wanted = usize::try_from(size - at).unwrap_or(DATA_BYTES).min(DATA_BYTES);
        match read_piece(file, at, wanted) {
            Ok(piece) if !piece.is_empty() => {
                hasher.add(&piece);
                at += piece.len() as u64;
            }
            _ => return false,
        }
    }
    hasher.finish() == hash
}

/// All of a file was read once; `again` reads it once more, and compares.
fn ended(file: &File, before: &Meta, hash: Hash, again: impl FnOnce(Hash) -> bool) -> Reading {
    match Meta::of(file) {
        Ok(after) if !is_one_state(before, &after, before.size) => Reading::Changed,
        Ok(_) if !is_settled(before, || again(hash)) => Reading::Changed,
        Ok(_) => Reading::Sent(hash),
        Err(errno) => Reading::Failed(errno),
    }
}

fn read_all(file: &File, size: u64) -> Result<Vec<u8>, Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::FBIG)?;
    let mut content = Vec::with_capacity(size);
    while content.len() < size {
        let at = content.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut content), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    content.truncate(size);
    Ok(content)
}

/// At most `wanted` bytes; none at the end of the file.
fn read_piece(file: &File, at: u64, wanted: usize) -> Result<Vec<u8>, Errno> {
    let mut piece = Vec::with_capacity(wanted);
    loop {
        match rustix::io::pread(file, spare_capacity(&mut piece), at) {
            Ok(_) => return Ok(piece),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The same behind what is in `into`; how many.
fn read_more(file: &File, at: u64, wanted: usize, into: &mut Vec<u8>) -> Result<usize, Errno> {
    let length = into.len();
    into.resize(length + wanted, 0);
    let read = loop {
        match rustix::io::pread(file, &mut into[length..], at) {
            Err(Errno::INTR) => {}
            read => break read,
        }
    };
    into.truncate(length + read.unwrap_or(0));
    read
}

/// Where data begins at or behind `at`; the end of everything when only a hole is left.
fn next_data(file: &File, at: u64) -> u64 {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(Errno::NXIO) => u64::MAX,
        Err(_) => at,
    }
}

fn next_hole(file: &File, at: u64) -> u64 {
    rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(u64::MAX)
}
