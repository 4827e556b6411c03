//! The old content of a file, to which the difference is asked for.
//!
//! Decides what is remembered of it: the hashes of its blocks, so that those that stay are copied by the
//! system and not read once more. Must not receive bytes.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Receiver, files::Pending};
use crate::{
    delta::{BlockSum, Signer},
    hash::{Hash, READ_BYTES},
    meta::Meta,
    place::{OldBlocks, PlaceError},
    sync::{
        channel::Channel,
        exit::Fatal,
        message::{EntryId, ToReceiver, ToSender, Want},
    },
};

/// Bytes of an old content that one thread makes sums of at a time.
const SPAN_BYTES: u64 = 16 * 1024 * 1024;
/// Sums sent at a time.
const SUMS_MAX: usize = 4096;
/// Of so many blocks at most the hashes are remembered: 32 MiB.
const HASHES_MAX: u64 = 1 << 20;
/// Shorter contents are read again faster than they are waited for.
const WAIT_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// A clock of the file system has moved on after this: later changes show.
const SETTLED: Duration = Duration::from_millis(50);
/// The same of a file system that counts seconds.
const SETTLED_SECONDS: Duration = Duration::from_secs(2);
/// Of so many files at a time it is remembered.
const REMEMBERED_MAX: usize = 8;

/// It, while the new content comes.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) file: File,
    block_bytes: u32,
    remembered: Option<Remembered>,
}

#[derive(Debug)]
struct Remembered {
    /// Before anything of it was read.
    before: Meta,
    /// Of its blocks.
    hashes: Vec<Hash>,
}

impl Old {
    pub(super) fn new(file: File, block_bytes: u32) -> Self {
        Self { file, block_bytes, remembered: None }
    }

    /// Begins to remember, where that is of use.
    fn begin(&mut self, size: u64) {
        if size / u64::from(self.block_bytes.max(1)) <= HASHES_MAX {
            let before = settled(&self.file).filter(|before| before.size == size);
            self.remembered = before.map(|before| Remembered { before, hashes: Vec::new() });
        }
    }

    /// The blocks that begin at `offset`.
    ///
    /// # Errors
    /// No block begins there, or none ends where the last one does.
    pub(super) fn blocks(&self, offset: u64, length: u64) -> Result<OldBlocks<'_>, PlaceError> {
        let block = u64::from(self.block_bytes.max(1));
        if !offset.is_multiple_of(block) {
            return Err(PlaceError::Mismatch);
        }
        let hashes = match &self.remembered {
            Some(remembered) => Some(remembered.hashes_of(offset, length, block)?),
            None => None,
        };
        let (file, block_bytes) = (&self.file, self.block_bytes);
        Ok(OldBlocks { file, offset, length, block_bytes, hashes })
    }

    /// Whether it is still what the sums were made of, as far as that counts.
    pub(super) fn is_unchanged(&self) -> bool {
        let Some(remembered) = &self.remembered else { return true };
        Meta::of(&self.file).is_ok_and(|now| now.same_content_as(&remembered.before))
    }
}

impl Remembered {
    fn hashes_of(&self, offset: u64, length: u64, block: u64) -> Result<&[Hash], PlaceError> {
        let end = offset.checked_add(length).filter(|end| *end <= self.before.size);
        let end = end.filter(|end| end.is_multiple_of(block) || *end == self.before.size);
        let end = end.ok_or(PlaceError::Mismatch)?;
        let index = |blocks: u64| usize::try_from(blocks).unwrap_or(usize::MAX);
        let hashes = self.hashes.get(index(offset / block)..index(end.div_ceil(block)));
        hashes.ok_or(PlaceError::Mismatch)
    }
}

/// The facts of a file whose next change will show in them; `None` when that is not worth waiting for.
fn settled(file: &File) -> Option<Meta> {
    let meta = Meta::of(file).ok()?;
    let age = |meta: &Meta| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = u64::try_from(meta.ctime.seconds).unwrap_or_default();
        now.checked_sub(Duration::new(seconds, meta.ctime.nanoseconds))
    };
    let enough = if meta.ctime.nanoseconds == 0 { SETTLED_SECONDS } else { SETTLED };
    match age(&meta) {
        Some(age) if age >= enough => Some(meta),
        Some(age) if age < SETTLED && enough == SETTLED && meta.size >= WAIT_BYTES_MIN => {
            thread::sleep(SETTLED - age);
            Meta::of(file).ok().filter(|now| now.same_content_as(&meta))
        }
        Some(_) | None => None,
    }
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    /// Tells the sender the sums of an old content.
    pub(super) fn send_sums(
        &mut self,
        id: EntryId,
        mut old: Old,
        want: Want,
    ) -> Result<Old, Fatal> {
        let Want::Delta { block_bytes, size } = want else { return Ok(old) };
        debug_assert!(self.wants.last().is_some_and(|(last, _)| *last == id));
        self.ask()?;
        let plain = !self.options.inplace && self.options.append.is_none() && !self.options.sparse;
        let remembers =
            |pending: &&Pending| pending.old.as_ref().is_some_and(|old| old.remembered.is_some());
        if plain && self.pending.values().filter(remembers).count() < REMEMBERED_MAX {
            old.begin(size);
        }
        let block = u64::from(block_bytes);
        let span = (SPAN_BYTES / block).max(1) * block;
        let mut at = 0;
        while at < size {
            let middle = at.saturating_add(span).min(size);
            let end = middle.saturating_add(span).min(size);
            let both = sums_of_both(&old.file, block_bytes, at..middle, middle..end);
            for (sums, hashes) in both {
                self.say_sums(&sums)?;
                match (&mut old.remembered, hashes) {
                    (Some(remembered), Some(hashes)) => remembered.hashes.extend(hashes),
                    (_, None) => old.remembered = None,
                    (None, Some(_)) => {}
                }
            }
            at = end;
        }
        Ok(old)
    }

    fn say_sums(&mut self, sums: &[BlockSum]) -> Result<(), Fatal> {
        sums.chunks(SUMS_MAX).try_for_each(|part| self.say(ToSender::Sums(part.to_vec())))
    }
}

/// Of a part of an old content; no hashes where something of it could not be read.
type Sums = (Vec<BlockSum>, Option<Vec<Hash>>);

/// Sums of two parts of an old content, by two threads where there is a second part.
fn sums_of_both(file: &File, block_bytes: u32, first: Range<u64>, second: Range<u64>) -> [Sums; 2] {
    if second.is_empty() {
        return [sums(file, block_bytes, first), (Vec::new(), Some(Vec::new()))];
    }
    thread::scope(|scope| {
        let make = || sums(file, block_bytes, second.clone());
        let thread = thread::Builder::new().spawn_scoped(scope, make);
        let first = sums(file, block_bytes, first);
        let second = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => make(), // the system has no thread to give
        };
        [first, second]
    })
}

/// Sums of a part of an old content that begins with a block.
fn sums(file: &File, block_bytes: u32, part: Range<u64>) -> Sums {
    let mut signer = Signer::new(block_bytes);
    let mut buffer = vec![0; READ_BYTES];
    let (mut at, mut whole) = (part.start, true);
    while at < part.end {
        let wanted = usize::try_from(part.end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        // A file that became shorter has sums of zeros instead, which nothing will be found by.
        let got = file.read_at(&mut buffer[..wanted], at).unwrap_or(0);
        if got == 0 {
            buffer[..wanted].fill(0);
            whole = false;
        }
        let got = if got == 0 { wanted } else { got };
        signer.add(&buffer[..got]);
        at += got as u64;
    }
    let (signature, hashes) = signer.finish_with_hashes();
    (signature.sums, whole.then_some(hashes))
}
