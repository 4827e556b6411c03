//! Sums of blocks.
//!
//! Decides the two sums. The weak one is a polynomial modulo 2^32, which a window can roll on.

use super::{BlockSum, Signature};

/// Odd and without pattern, so that every byte reaches every higher bit.
const BASE: u32 = 0x08a5_1a6d;

/// The weak sum of a block, eight bytes at a step so that the multiplications overlap.
pub(super) fn weak(block: &[u8]) -> u32 {
    const P: [u32; 9] = powers();
    let (eights, rest) = block.as_chunks::<8>();
    let mut sum = 0u32;
    for bytes in eights {
        let mut step = 0u32;
        for (byte, power) in bytes.iter().zip(P[..8].iter().rev()) {
            step = step.wrapping_add(u32::from(*byte).wrapping_mul(*power));
        }
        sum = sum.wrapping_mul(P[8]).wrapping_add(step);
    }
    rest.iter().fold(sum, |sum, byte| sum.wrapping_mul(BASE).wrapping_add(u32::from(*byte)))
}

const fn powers() -> [u32; 9] {
    let mut powers = [1u32; 9];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = powers[at - 1].wrapping_mul(BASE);
        at += 1;
    }
    powers
}

/// The strong sum of a block.
pub(super) fn strong(block: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(block);
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

/// A weak sum that moves on by one byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rolling {
    pub(super) sum: u32,
    /// The power of the byte that leaves.
    leaving: u32,
}

impl Rolling {
    pub(super) fn new(window: &[u8]) -> Self {
        let mut leaving = 1u32;
        for _ in 1..window.len() {
            leaving = leaving.wrapping_mul(BASE);
        }
        Self { sum: weak(window), leaving }
    }

    pub(super) fn roll(&mut self, out: u8, next: u8) {
        let kept = self.sum.wrapping_sub(u32::from(out).wrapping_mul(self.leaving));
        self.sum = kept.wrapping_mul(BASE).wrapping_add(u32::from(next));
    }
}

/// Makes a signature from a content that comes piece by piece.
#[derive(Debug)]
pub struct Signer {
    signature: Signature,
    /// The begin of a block that is not whole yet.
    begun: Vec<u8>,
}

impl Signer {
    /// For blocks of `block_bytes`.
    ///
    /// # Panics
    /// A block of no bytes.
    pub fn new(block_bytes: u32) -> Self {
        assert!(block_bytes > 0, "a block has bytes");
        Self { signature: Signature { block_bytes, ..Signature::default() }, begun: Vec::new() }
    }

    /// The next bytes of the content.
    pub fn add(&mut self, mut bytes: &[u8]) {
        let block = self.signature.block_bytes as usize;
        self.signature.size += bytes.len() as u64;
        if !self.begun.is_empty() {
            let missing = (block - self.begun.len()).min(bytes.len());
            self.begun.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.begun.len() < block {
                return;
            }
            let whole = std::mem::take(&mut self.begun);
            self.sign(&whole);
        }
        let mut blocks = bytes.chunks_exact(block);
        for whole in &mut blocks {
            self.sign(whole);
        }
        self.begun.extend_from_slice(blocks.remainder());
    }

    fn sign(&mut self, block: &[u8]) {
        self.signature.sums.push(BlockSum { weak: weak(block), strong: strong(block) });
    }

    /// Takes the sums of the blocks that are whole by now.
    pub fn take(&mut self) -> Vec<BlockSum> {
        std::mem::take(&mut self.signature.sums)
    }

    /// The content has ended.
    pub fn finish(mut self) -> Signature {
        if !self.begun.is_empty() {
            let last = std::mem::take(&mut self.begun);
            self.sign(&last);
        }
        self.signature
    }
}
