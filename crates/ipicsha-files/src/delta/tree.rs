//! One hash for a block and for the content that it is a part of.
//!
//! Decides what a block is known by: its value in the BLAKE3 tree of the content that it stands in, so
//! that who compares blocks where they are expected has hashed the content on the way. Must not know
//! what is compared.

use std::collections::VecDeque;

use blake3::{
    CHUNK_LEN,
    hazmat::{
        ChainingValue, HasherExt as _, Mode, max_subtree_len, merge_subtrees_non_root,
        merge_subtrees_root,
    },
};

use super::blocks::Blocks;
use crate::hash::{self, Hash, Hasher};

/// What a block is known by at its place.
pub type Value = ChainingValue;

/// What a block that stands at `offset` is known by: its place in the tree, where it is a part of one.
pub(super) fn value(block: &[u8], offset: u64) -> ChainingValue {
    let is_aligned = offset.is_multiple_of(CHUNK_LEN as u64);
    let fits = |length: usize| max_subtree_len(offset).is_none_or(|most| length as u64 <= most);
    if block.is_empty() || !is_aligned || !fits(block.len()) {
        return *blake3::hash(block).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(block);
    hasher.finalize_non_root()
}

/// The root over blocks that come one after the other, all but the last of one size.
#[derive(Debug, Default)]
struct Tree {
    /// Roots of whole subtrees, from left to right.
    stack: Vec<ChainingValue>,
    blocks: u64,
}

impl Tree {
    fn push(&mut self, value: ChainingValue) {
        // Two become one only when another follows: the last two may be the root's.
        while self.stack.len() > self.blocks.count_ones() as usize {
            if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
                self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
            }
        }
        self.stack.push(value);
        self.blocks += 1;
    }

    /// `None` with fewer than two blocks.
    fn finish(mut self) -> Option<Hash> {
        let mut right = self.stack.pop()?;
        loop {
            let left = self.stack.pop()?;
            if self.stack.is_empty() {
                let root = merge_subtrees_root(&left, &right, Mode::Hash);
                return Some(Hash::from_bytes(*root.as_bytes()));
            }
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
    }
}

/// A content that comes piece by piece: its hash, and what its blocks are known by.
#[derive(Debug)]
pub struct Content {
    block: usize,
    blocks: Blocks,
    known: Known,
}

/// What is known of the blocks so far.
#[derive(Debug, Default)]
struct Known {
    /// Values of whole blocks, from number `first` on.
    values: VecDeque<ChainingValue>,
    first: u64,
    tree: Tree,
    /// Of the first block alone, or of everything where blocks are no part of the tree.
    hasher: Hasher,
}

impl Content {
    /// Of blocks of `block_bytes`.
    pub fn new(block_bytes: u32) -> Self {
        Self {
            block: block_bytes as usize,
            blocks: Blocks::of(block_bytes),
            known: Known::default(),
        }
    }

    fn is_tree(&self) -> bool {
        let sizes = CHUNK_LEN..=super::BLOCK_BYTES_MAX as usize;
        self.block.is_power_of_two() && sizes.contains(&self.block)
    }

    /// The next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        if !self.is_tree() {
            return self.known.hasher.add(bytes);
        }
        let (known, block) = (&mut self.known, self.block);
        self.blocks.add(bytes, |whole| known.take(whole, block));
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> u64 {
        self.block as u64
    }

    /// The next `length` bytes are zero.
    pub fn add_zeros(&mut self, length: u64) {
        hash::zeros(length, |zeros| self.add(zeros));
    }

    /// The next bytes are whole blocks that stood at the same place in another content, where they had
    /// these values. How many of them are taken: none where a block has begun, or before the first one.
    pub fn add_known(&mut self, values: &[Value]) -> usize {
        if !self.is_tree() || !self.blocks.is_between() || self.known.tree.blocks == 0 {
            return 0;
        }
        values.iter().for_each(|value| self.known.tree.push(*value));
        values.len()
    }

    /// What the whole block at `offset` is known by, while it is remembered.
    pub(super) fn value_at(&self, offset: u64) -> Option<&ChainingValue> {
        let block = self.block as u64;
        let index = (offset / block)
            .checked_sub(self.known.first)
            .filter(|_| offset.is_multiple_of(block))?;
        self.known.values.get(usize::try_from(index).ok()?)
    }

    /// What comes before `offset` is not asked for any more.
    pub fn forget_before(&mut self, offset: u64) {
        let Known { values, first, .. } = &mut self.known;
        while (*first + 1).saturating_mul(self.block as u64) <= offset
            && values.pop_front().is_some()
        {
            *first += 1;
        }
    }

    /// The content has ended.
    pub fn finish(mut self) -> Hash {
        if let Some(rest) = self.blocks.rest() {
            self.known.take(&rest, self.block);
        }
        let Known { tree, hasher, .. } = self.known;
        tree.finish().unwrap_or_else(|| hasher.finish())
    }
}

impl Known {
    fn take(&mut self, block: &[u8], block_bytes: usize) {
        if self.tree.blocks == 0 {
            self.hasher.add(block);
        }
        let value = value(block, self.tree.blocks * block_bytes as u64);
        self.tree.push(value);
        self.values.push_back(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_hashes_as_ever_whatever_its_blocks_and_pieces() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        for block in [64, 1000, 1024, 2048, 16_384] {
            for length in [0, 1, 63, 1024, 1025, 16_384, 16_385, 49_152, 65_536, 200_000] {
                for piece in [1 + length / 3, 777, 65_536] {
                    let mut content = Content::new(block);
                    bytes[..length].chunks(piece).for_each(|piece| content.add(piece));
                    let expected = Hash::of(&bytes[..length]);
                    assert_eq!(content.finish(), expected, "{length} bytes in blocks of {block}");
                }
            }
        }
    }

    #[test]
    fn blocks_that_are_known_need_not_be_seen() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
        let block = 4096;
        let values: Vec<Value> = bytes
            .chunks_exact(block)
            .enumerate()
            .map(|(index, part)| value(part, (index * block) as u64))
            .collect();
        for (first, count) in [(1, 1), (1, 5), (3, 21), (23, 1)] {
            let mut content = Content::new(block as u32);
            content.add(&bytes[..first * block]);
            assert_eq!(content.add_known(&values[first..first + count]), count);
            content.add(&bytes[(first + count) * block..]);
            assert_eq!(content.finish(), Hash::of(&bytes), "{count} from {first}");
        }
        let mut content = Content::new(block as u32);
        assert_eq!(content.add_known(&values), 0, "alone it would be the root");
        content.add(&bytes[..100]);
        assert_eq!(content.add_known(&values), 0, "a block has begun");
        assert_eq!(Content::new(1000).add_known(&values), 0, "such blocks are no part of the tree");
    }

    #[test]
    fn values_of_blocks_are_those_of_the_place_they_stand_at() {
        let bytes = vec![7; 10 * 1024];
        let mut content = Content::new(2048);
        content.add(&bytes);
        for at in [0_u64, 2048, 8192] {
            assert_eq!(content.value_at(at), Some(&value(&bytes[..2048], at)), "{at}");
        }
        assert_ne!(content.value_at(0), content.value_at(2048));
        assert_eq!((content.value_at(1024), content.value_at(10 * 1024)), (None, None));
        content.forget_before(4096);
        assert_eq!(content.value_at(2048), None);
        assert!(content.value_at(4096).is_some());
    }
}
