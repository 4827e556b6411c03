//! Goes through the new content and finds the parts of the old one.
//!
//! Decides where equal blocks are looked for, and when that is given up.

use std::collections::HashMap;

use super::{
    Op, Parts, Signature,
    sum::{Rolling, half},
};
use crate::hash::Hash;

/// Blocks tried where they are expected before they are searched for elsewhere.
const AHEAD_BLOCKS: usize = 128;
const AHEAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes searched without finding anything before searching ends.
const SEARCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// An old part is told when it is as long as this, so that it can be copied while the rest is
/// compared.
const COPY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Old blocks with the same weak sum that are compared.
const CHAIN_MAX: usize = 8;
/// After this many bytes...
const TRIAL_BYTES: u64 = 64 * 1024 * 1024;
/// ...one in this many must have been found, or the rest is taken as new.
const TRIAL_SHARE: u64 = 20;

/// An old block that the new content goes on with.
#[derive(Debug)]
struct Found {
    /// Where in the old content.
    offset: u64,
    length: usize,
    hash: Hash,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Compare where the next block is expected.
    Expected,
    /// Search at every byte.
    Search,
    /// Everything else is new.
    New,
}

/// Finds the parts of an old content in a new one that comes piece by piece.
#[derive(Debug)]
pub struct Matcher<'old> {
    old: &'old Signature,
    /// What the new content is made of.
    parts: Parts,
    /// Old blocks by weak sum; made when it is first needed.
    blocks: Option<Index>,
    /// New bytes that are not decided yet.
    window: Vec<u8>,
    /// Where the next old block is expected.
    expected: u64,
    /// So far ahead of that nothing fits, in bytes.
    tried: usize,
    mode: Mode,
    search_left: u64,
    /// An old part that is found but may still grow.
    copy: Option<(u64, u64)>,
    seen: u64,
    found: u64,
}

impl<'old> Matcher<'old> {
    /// Against the content that `old` is the signature of.
    pub fn new(old: &'old Signature) -> Self {
        let usable = old.is_consistent() && !old.sums.is_empty();
        Self {
            old,
            parts: Parts::default(),
            blocks: None,
            window: Vec::new(),
            expected: 0,
            tried: 0,
            mode: if usable { Mode::Expected } else { Mode::New },
            search_left: SEARCH_BYTES_MAX,
            copy: None,
            seen: 0,
            found: 0,
        }
    }

    /// The next bytes of the new content. Operations come in order and cover everything but a rest
    /// that is undecided.
    pub fn add(&mut self, bytes: &[u8], mut tell: impl FnMut(Op<'_>)) {
        self.window.extend_from_slice(bytes);
        self.decide(false, &mut tell);
    }

    /// The next bytes of the new content, which `fill` puts behind those that are there; what it says.
    ///
    /// # Errors
    /// Those of `fill`; then nothing may have been added.
    pub fn read<E>(
        &mut self,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
        mut tell: impl FnMut(Op<'_>),
    ) -> Result<usize, E> {
        let filled = fill(&mut self.window)?;
        self.decide(false, &mut tell);
        Ok(filled)
    }

    /// The new content has ended; the hash of its [`Parts`].
    pub fn finish(mut self, mut tell: impl FnMut(Op<'_>)) -> Hash {
        self.decide(true, &mut tell);
        let rest = std::mem::take(&mut self.window);
        self.literal(&rest, &mut tell);
        self.flush(&mut tell);
        self.parts.finish()
    }

    /// Bytes of the new content that are already there.
    pub fn found_bytes(&self) -> u64 {
        self.found
    }

    fn block(&self) -> usize {
        self.old.block_bytes as usize
    }

    fn ahead_bytes(&self) -> usize {
        (AHEAD_BLOCKS * self.block()).min(AHEAD_BYTES_MAX.max(2 * self.block()))
    }

    /// Decides as much of the window as can be. Operations consume the window from its begin.
    fn decide(&mut self, ended: bool, tell: &mut impl FnMut(Op<'_>)) {
        let mut window = std::mem::take(&mut self.window);
        let mut at = 0;
        loop {
            let rest = &window[at..];
            let taken = match self.mode {
                Mode::New => self.take_new(rest, tell),
                Mode::Expected => self.compare(rest, ended, tell),
                Mode::Search => self.search(rest, ended, tell),
            };
            let Some(taken) = taken else { break };
            self.tried = 0;
            at += taken;
            self.seen += taken as u64;
            let poor = self.seen >= TRIAL_BYTES && self.found < self.seen / TRIAL_SHARE;
            if poor {
                self.mode = Mode::New;
            }
        }
        window.drain(..at);
        self.window = window;
    }

    fn take_new(&mut self, rest: &[u8], tell: &mut impl FnMut(Op<'_>)) -> Option<usize> {
        self.literal(rest, tell);
        (!rest.is_empty()).then_some(rest.len())
    }

    /// The old block that begins at `offset`, when `rest` begins with it.
    fn matches(&self, offset: u64, rest: &[u8]) -> Option<Found> {
        let index = offset / u64::from(self.old.block_bytes);
        let length = usize::try_from(self.old.length(index)).ok()?;
        let sum = self.old.sums.get(usize::try_from(index).ok()?)?;
        let hash = Hash::of(rest.get(..length).filter(|bytes| !bytes.is_empty())?);
        (half(&hash) == sum.strong).then_some(Found { offset, length, hash })
    }

    /// Compares where blocks are expected; `None` when more bytes are needed.
    fn compare(
        &mut self,
        rest: &[u8],
        ended: bool,
        tell: &mut impl FnMut(Op<'_>),
    ) -> Option<usize> {
        if rest.is_empty() || rest.len() < self.block() && !ended {
            return None;
        }
        let into_block = usize::try_from(self.expected % self.block() as u64).unwrap_or_default();
        if into_block > 0 {
            // Searching ended inside a block: on to the begin of the next one.
            return Some(self.pass(rest, self.block() - into_block, tell));
        }
        if self.tried == 0
            && let Some(found) = self.matches(self.expected, rest)
        {
            return Some(self.hit(&found, tell));
        }
        // The next block is the likeliest one: it is tried as soon as it is here, and every one once.
        let ahead = self.ahead_bytes();
        let mut skipped = self.tried.max(self.block());
        while skipped <= ahead && skipped < rest.len() {
            if rest.len() < skipped + self.block() && !ended {
                break;
            }
            let offset = self.expected + skipped as u64;
            if let Some(found) = self.matches(offset, &rest[skipped..]) {
                self.literal(&rest[..skipped], tell);
                return Some(skipped + self.hit(&found, tell));
            }
            skipped += self.block();
        }
        if skipped <= ahead && !ended {
            self.tried = skipped;
            return None;
        }
        if self.search_left > 0 {
            self.mode = Mode::Search;
            return Some(0);
        }
        Some(self.pass(rest, skipped, tell))
    }

    /// The next bytes are new, and stand for as many old ones.
    fn pass(&mut self, rest: &[u8], bytes: usize, tell: &mut impl FnMut(Op<'_>)) -> usize {
        let passed = bytes.min(rest.len());
        self.literal(&rest[..passed], tell);
        self.expected += passed as u64;
        passed
    }

    /// Searches at every byte; `None` when more bytes are needed.
    fn search(&mut self, rest: &[u8], ended: bool, tell: &mut impl FnMut(Op<'_>)) -> Option<usize> {
        let block = self.block();
        if rest.len() < block {
            return if ended { self.search_end(rest, tell) } else { None };
        }
        if self.blocks.is_none() {
            self.blocks = Some(Index::new(self.old));
        }
        let mut rolling = Rolling::new(&rest[..block]);
        let last = rest.len() - block;
        for at in 0..=last {
            if let Some(found) = self.lookup(rolling.weak(), &rest[at..at + block]) {
                self.literal(&rest[..at], tell);
                self.search_left = SEARCH_BYTES_MAX;
                self.mode = Mode::Expected;
                return Some(at + self.hit(&found, tell));
            }
            self.search_left = self.search_left.saturating_sub(1);
            if self.search_left == 0 {
                self.mode = Mode::Expected;
                return Some(self.pass(rest, at + 1, tell));
            }
            if at < last {
                rolling.roll(rest[at], rest[at + block]);
            }
        }
        // All but the begin of a window that the next bytes complete.
        Some(self.pass(rest, last + 1, tell))
    }

    /// Fewer bytes than a block are left: only the short last block can still be there.
    fn search_end(&mut self, rest: &[u8], tell: &mut impl FnMut(Op<'_>)) -> Option<usize> {
        let tail = self.old.size % u64::from(self.old.block_bytes);
        let tail = usize::try_from(tail).ok().filter(|tail| (1..=rest.len()).contains(tail))?;
        let offset = self.old.size - tail as u64;
        let before = rest.len() - tail;
        let found = self.matches(offset, &rest[before..])?;
        self.literal(&rest[..before], tell);
        Some(before + self.hit(&found, tell))
    }

    /// The old block with the weak sum `weak` that `bytes` are.
    fn lookup(&mut self, weak: u32, bytes: &[u8]) -> Option<Found> {
        let candidates = self.blocks.as_ref()?.candidates(weak)?;
        // It costs what it hashes, so that chosen sums cannot make the search slow.
        self.search_left = self.search_left.saturating_sub(bytes.len() as u64);
        let hash = Hash::of(bytes);
        let strong = half(&hash);
        let same = |index: &&u32| self.old.sums[**index as usize].strong == strong;
        let index = candidates.iter().find(same)?;
        let offset = u64::from(*index) * u64::from(self.old.block_bytes);
        Some(Found { offset, length: bytes.len(), hash })
    }

    /// An old block is next; how long it is.
    fn hit(&mut self, found: &Found, tell: &mut impl FnMut(Op<'_>)) -> usize {
        let (offset, length) = (found.offset, found.length as u64);
        self.parts.add_old(&found.hash, length);
        self.found += length;
        self.expected = offset + length;
        match &mut self.copy {
            Some((begin, total)) if *begin + *total == offset && *total < COPY_BYTES_MAX => {
                *total += length;
            }
            _ => {
                self.flush(tell);
                self.copy = Some((offset, length));
            }
        }
        found.length
    }

    fn literal(&mut self, bytes: &[u8], tell: &mut impl FnMut(Op<'_>)) {
        if !bytes.is_empty() {
            self.flush(tell);
            self.parts.add_new(bytes);
            tell(Op::Literal(bytes));
        }
    }

    fn flush(&mut self, tell: &mut impl FnMut(Op<'_>)) {
        if let Some((offset, length)) = self.copy.take() {
            tell(Op::Copy { offset, length });
        }
    }
}

/// Whole old blocks by weak sum.
#[derive(Debug)]
struct Index {
    /// One bit for the upper bits of every sum that there is: most positions end here.
    present: Vec<u64>,
    shift: u32,
    /// Of those with one sum a few.
    chains: HashMap<u32, Vec<u32>>,
}

impl Index {
    fn new(old: &Signature) -> Self {
        let whole = usize::try_from(old.size / u64::from(old.block_bytes)).unwrap_or(usize::MAX);
        let bits = (old.sums.len() * 32).next_power_of_two().clamp(1 << 12, 1 << 26);
        let shift = 32 - bits.trailing_zeros();
        let mut index = Self { present: vec![0; bits / 64], shift, chains: HashMap::new() };
        for (number, sum) in (0u32..).zip(&old.sums).take(whole) {
            let bit = (sum.weak >> shift) as usize;
            index.present[bit / 64] |= 1 << (bit % 64);
            let chain = index.chains.entry(sum.weak).or_default();
            if chain.len() < CHAIN_MAX {
                chain.push(number);
            }
        }
        index
    }

    fn candidates(&self, weak: u32) -> Option<&Vec<u32>> {
        let bit = (weak >> self.shift) as usize;
        let present = self.present[bit / 64] >> (bit % 64) & 1 == 1;
        present.then(|| self.chains.get(&weak)).flatten()
    }
}
