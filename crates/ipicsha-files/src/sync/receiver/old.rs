//! The old content of a file, to which the difference is asked for.
//!
//! Decides what is remembered of it: what its blocks are known by, so that those that stay at their place
//! are copied by the system and not read once more. Must not receive bytes.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Receiver, files::Pending};
use crate::{
    delta::{BlockSum, Signer, Value},
    hash::READ_BYTES,
    meta::Meta,
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
/// Of so many blocks at most it is remembered what they are known by: 32 MiB.
const VALUES_MAX: u64 = 1 << 20;
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
    /// Of its whole blocks.
    values: Vec<Value>,
}

impl Old {
    pub(super) fn new(file: File, block_bytes: u32) -> Self {
        Self { file, block_bytes, remembered: None }
    }

    /// Begins to remember, where that is of use.
    fn begin(&mut self, size: u64) {
        if size / u64::from(self.block_bytes.max(1)) <= VALUES_MAX {
            let before = settled(&self.file).filter(|before| before.size == size);
            self.remembered = before.map(|before| Remembered { before, values: Vec::new() });
        }
    }

    /// Bytes of a block, when it is remembered what blocks are known by.
    pub(super) fn remembered_blocks(&self) -> Option<u32> {
        self.remembered.as_ref().map(|_| self.block_bytes)
    }

    /// What the whole blocks that begin at `offset` are known by, as many as there are in `length`.
    pub(super) fn values(&self, offset: u64, length: u64) -> &[Value] {
        let Some(remembered) = &self.remembered else { return &[] };
        let block = u64::from(self.block_bytes);
        if !offset.is_multiple_of(block) {
            return &[];
        }
        let index = |blocks: u64| usize::try_from(blocks).unwrap_or(usize::MAX);
        let first = index(offset / block);
        let last = first.saturating_add(index(length / block)).min(remembered.values.len());
        remembered.values.get(first..last).unwrap_or_default()
    }

    /// Whether it is still what the sums were made of, as far as that counts.
    pub(super) fn is_unchanged(&self) -> bool {
        let Some(remembered) = &self.remembered else { return true };
        Meta::of(&self.file).is_ok_and(|now| now.same_content_as(&remembered.before))
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
            std::thread::sleep(SETTLED - age);
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
            for (sums, values) in both {
                self.say_sums(&sums)?;
                match (&mut old.remembered, values) {
                    (Some(remembered), Some(values)) => remembered.values.extend(values),
                    (_, None) => old.remembered = None,
                    (None, Some(_)) => {}
                }
            }
            at = end;
        }
        if let Some(remembered) = &mut old.remembered {
            // The last one is no whole block, and may not stay the last one.
            remembered.values.truncate(usize::try_from(size / block).unwrap_or(usize::MAX));
        }
        Ok(old)
    }

    fn say_sums(&mut self, sums: &[BlockSum]) -> Result<(), Fatal> {
        sums.chunks(SUMS_MAX).try_for_each(|part| self.say(ToSender::Sums(part.to_vec())))
    }
}

/// Of a part of an old content; no values where something of it could not be read.
type Sums = (Vec<BlockSum>, Option<Vec<Value>>);

/// Sums of two parts of an old content, by two threads where there is a second part.
fn sums_of_both(file: &File, block_bytes: u32, first: Range<u64>, second: Range<u64>) -> [Sums; 2] {
    if second.is_empty() {
        return [sums(file, block_bytes, first), (Vec::new(), Some(Vec::new()))];
    }
    std::thread::scope(|scope| {
        let second = scope.spawn(|| sums(file, block_bytes, second));
        let first = sums(file, block_bytes, first);
        [first, second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))]
    })
}

/// Sums of a part of an old content that begins with a block.
fn sums(file: &File, block_bytes: u32, part: Range<u64>) -> Sums {
    let mut signer = Signer::at(part.start, block_bytes);
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
    let (signature, values) = signer.finish_with_values();
    (signature.sums, whole.then_some(values))
}
