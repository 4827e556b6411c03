//! What of a new content is already there, in an old one that only its signature is known of.
//!
//! Decides block sizes, how equal parts are found, and when searching is given up. Pure: bytes in,
//! operations out; must not know files.
//!
//! Blocks are compared first where they are expected (changes in place are by far the most common,
//! and comparing costs no more than hashing). After a mismatch the following blocks are tried; only
//! when none of them fits, the old blocks are searched for at every byte, and found ones set where
//! the next are expected. Searching has a budget, so that no input takes more than linear time.

mod blocks;
mod matching;
mod parts;
mod sum;

pub use matching::Matcher;
pub use parts::Parts;
use serde::{Deserialize, Serialize};
pub use sum::Signer;

const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * KIB;
/// Longest block: it is held in memory until it is known.
pub const BLOCK_BYTES_MAX: u32 = 1024 * 1024;
/// Most sums of one content: they are held in memory.
const SUMS_MAX: u64 = 1 << 26;
/// Files below this are sent whole.
pub const DELTA_BYTES_MIN: u64 = 64 * KIB;
/// A content that is so much longer than what it becomes has little to give for its length.
const SIZE_RATIO_MAX: u64 = 8;

/// Weak sum to look a block up by, and 128 bits of BLAKE3 to know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSum {
    /// Rolls on byte by byte.
    pub weak: u32,
    /// First half of its hash.
    pub strong: [u8; 16],
}

/// What is known of an old content: the sums of its blocks, the last of which may be shorter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Bytes of the content.
    pub size: u64,
    /// One for every block.
    pub sums: Vec<BlockSum>,
}

impl Signature {
    /// Of a content in memory.
    pub fn of(content: &[u8], block_bytes: u32) -> Self {
        let mut signer = Signer::new(block_bytes);
        signer.add(content);
        signer.finish()
    }

    /// Whether it is one: as many sums as the size has blocks, which can be held in memory.
    pub fn is_consistent(&self) -> bool {
        let block = u64::from(self.block_bytes);
        (1..=BLOCK_BYTES_MAX).contains(&self.block_bytes)
            && self.size.div_ceil(block) == self.sums.len() as u64
    }

    /// How many sums are still to come.
    pub fn missing_sums(&self) -> usize {
        let blocks = u64::from(self.block_bytes).max(1);
        let blocks = usize::try_from(self.size.div_ceil(blocks)).unwrap_or(usize::MAX);
        blocks.saturating_sub(self.sums.len())
    }

    /// Bytes of block `index`.
    fn length(&self, index: u64) -> u64 {
        let block = u64::from(self.block_bytes);
        block.min(self.size.saturating_sub(index * block))
    }
}

/// How the new content goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'new> {
    /// With these bytes of the old content.
    Copy {
        /// Where in the old content.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// With these new bytes.
    Literal(&'new [u8]),
}

/// Block size for a content of `size` bytes: 16 KiB up to 4 GiB, then doubled per fourfold size, so
/// that a signature grows with the square root.
pub fn block_bytes(size: u64) -> u32 {
    let mut block = 16 * 1024;
    let mut covered = 4 * GIB;
    while covered < size && block < BLOCK_BYTES_MAX {
        covered = covered.saturating_mul(4);
        block *= 2;
    }
    block
}

/// The block size nearest to `wanted` of which a content of `size` bytes has no more than can be
/// remembered; `None` when it has too many of any.
pub fn bearable_block_bytes(wanted: u32, size: u64) -> Option<u32> {
    let least = u32::try_from(size.div_ceil(SUMS_MAX)).ok()?.max(1);
    (least <= BLOCK_BYTES_MAX).then(|| wanted.clamp(least, BLOCK_BYTES_MAX))
}

/// Whether a difference is worth computing, from the sizes alone. However short the old content is,
/// it may be what has come of the new one before a transfer was cut.
pub fn is_worthwhile(old_size: u64, new_size: u64) -> bool {
    let large_enough = old_size.min(new_size) >= DELTA_BYTES_MIN;
    large_enough && old_size / new_size < SIZE_RATIO_MAX
}

#[cfg(test)]
mod tests;
