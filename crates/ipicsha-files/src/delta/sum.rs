//! Sums of blocks.
//!
//! Decides the two sums. The weak one is made of the sum of all bytes and the sum of all sums that
//! lead there, modulo 2^32, which a window can roll on, and which many bytes are added to at a time.

use super::{BlockSum, Signature, blocks::Blocks};
use crate::hash::Hash;

/// Spreads the sum of the bytes over all bits.
const SPREAD: u32 = 0x9e37_79b1;
/// Bytes that are added side by side, as vector units do.
const LANES: usize = 16;

/// The weak sum of a block.
pub(super) fn weak(block: &[u8]) -> u32 {
    Sums::of(block).weak()
}

/// What a weak sum is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    /// Of the bytes.
    bytes: u32,
    /// Of the bytes, the first as often as there are bytes, the last once.
    weighted: u32,
}

impl Sums {
    fn of(block: &[u8]) -> Self {
        let (rows, rest) = block.as_chunks::<LANES>();
        let (mut column, mut running) = ([0u32; LANES], [0u32; LANES]);
        for row in rows {
            for (lane, byte) in row.iter().enumerate() {
                column[lane] = column[lane].wrapping_add(u32::from(*byte));
                running[lane] = running[lane].wrapping_add(column[lane]);
            }
        }
        let mut sums = Self::default();
        for (lane, (column, running)) in (0u32..).zip(column.iter().zip(running)) {
            let rows = running.wrapping_mul(LANES as u32);
            sums.bytes = sums.bytes.wrapping_add(*column);
            sums.weighted =
                sums.weighted.wrapping_add(rows).wrapping_sub(column.wrapping_mul(lane));
        }
        rest.iter().for_each(|byte| sums.add(*byte));
        sums
    }

    fn add(&mut self, byte: u8) {
        self.bytes = self.bytes.wrapping_add(u32::from(byte));
        self.weighted = self.weighted.wrapping_add(self.bytes);
    }

    fn weak(self) -> u32 {
        self.weighted ^ self.bytes.wrapping_mul(SPREAD)
    }
}

/// What of a block's hash is told.
pub(super) fn half(hash: &Hash) -> [u8; 16] {
    let (half, _) = hash.as_bytes().split_first_chunk().expect("32 bytes have 16");
    *half
}

/// A weak sum that moves on by one byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rolling {
    sums: Sums,
    length: u32,
}

impl Rolling {
    pub(super) fn new(window: &[u8]) -> Self {
        // A block has at most 1 MiB.
        let length = u32::try_from(window.len()).unwrap_or(u32::MAX);
        Self { sums: Sums::of(window), length }
    }

    pub(super) fn weak(&self) -> u32 {
        self.sums.weak()
    }

    pub(super) fn roll(&mut self, out: u8, next: u8) {
        let out = u32::from(out);
        self.sums.bytes = self.sums.bytes.wrapping_sub(out);
        self.sums.weighted = self.sums.weighted.wrapping_sub(out.wrapping_mul(self.length));
        self.sums.add(next);
    }
}

/// Makes a signature from a content that comes piece by piece.
#[derive(Debug)]
pub struct Signer {
    signature: Signature,
    /// Of every block.
    hashes: Vec<Hash>,
    blocks: Blocks,
}

impl Signer {
    /// For blocks of `block_bytes`.
    ///
    /// # Panics
    /// A block of no bytes.
    pub fn new(block_bytes: u32) -> Self {
        assert!(block_bytes > 0, "a block has bytes");
        let signature = Signature { block_bytes, ..Signature::default() };
        Self { signature, hashes: Vec::new(), blocks: Blocks::of(block_bytes) }
    }

    /// The next bytes of the content.
    pub fn add(&mut self, bytes: &[u8]) {
        self.signature.size += bytes.len() as u64;
        let (sums, hashes) = (&mut self.signature.sums, &mut self.hashes);
        self.blocks.add(bytes, |block| sign(sums, hashes, block));
    }

    /// Takes the sums of the blocks that are whole by now.
    pub fn take(&mut self) -> Vec<BlockSum> {
        self.hashes.clear();
        std::mem::take(&mut self.signature.sums)
    }

    /// The content has ended.
    pub fn finish(self) -> Signature {
        self.finish_with_hashes().0
    }

    /// The content has ended; with the whole hashes of its blocks.
    pub fn finish_with_hashes(mut self) -> (Signature, Vec<Hash>) {
        if let Some(last) = self.blocks.rest() {
            sign(&mut self.signature.sums, &mut self.hashes, &last);
        }
        (self.signature, self.hashes)
    }
}

fn sign(sums: &mut Vec<BlockSum>, hashes: &mut Vec<Hash>, block: &[u8]) {
    let hash = Hash::of(block);
    sums.push(BlockSum { weak: weak(block), strong: half(&hash) });
    hashes.push(hash);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolled_sum_is_that_of_the_window() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(SPREAD) >> 24) as u8).collect();
        for length in [1, 15, 16, 17, 1000, 4096] {
            let mut rolling = Rolling::new(&bytes[..length]);
            for at in 0..bytes.len() - length {
                assert_eq!(rolling.weak(), weak(&bytes[at..at + length]), "{length} from {at}");
                rolling.roll(bytes[at], bytes[at + length]);
            }
        }
    }

    #[test]
    fn bytes_that_change_places_change_the_sum() {
        let block: Vec<u8> = (0..64).collect();
        for at in 1..block.len() {
            let mut other = block.clone();
            other.swap(at - 1, at);
            assert_ne!(weak(&block), weak(&other));
        }
    }
}
