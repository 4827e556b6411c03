//! What a content is made of: blocks of an old one, and new bytes.
//!
//! Decides the one hash that both sides come to only when they mean the same content. Neither has to
//! hash a byte twice for it: blocks are known by what they were found by. Must not know where either
//! comes from.

use crate::hash::{Hash, Hasher};

/// The parts of a content, as they come.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Bytes so far.
    length: u64,
    /// New bytes, one after the other.
    new: Hasher,
    /// Where each old block stands now, how long it is, and its hash. What is not covered is new.
    old: Hasher,
}

impl Parts {
    /// The next bytes are new.
    pub fn add_new(&mut self, bytes: &[u8]) {
        self.new.add(bytes);
        self.move_on(bytes.len() as u64);
    }

    /// The next `length` bytes are new, and zero.
    pub fn add_zeros(&mut self, length: u64) {
        self.new.add_zeros(length);
        self.move_on(length);
    }

    /// The next `length` bytes are an old block with this hash.
    pub fn add_old(&mut self, hash: &Hash, length: u64) {
        self.old.add(&self.length.to_le_bytes());
        self.old.add(&length.to_le_bytes());
        self.old.add(hash.as_bytes());
        self.move_on(length);
    }

    fn move_on(&mut self, length: u64) {
        self.length = self.length.saturating_add(length);
    }

    /// What the content is known by. Nobody else knows it by that: it depends on what was old.
    pub fn finish(&self) -> Hash {
        let mut all = Hasher::default();
        all.add(&self.length.to_le_bytes());
        all.add(self.new.finish().as_bytes());
        all.add(self.old.finish().as_bytes());
        all.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Part<'a> {
        New(&'a [u8]),
        Old(&'a [u8]),
    }

    fn of(parts: &[Part<'_>]) -> Hash {
        let mut all = Parts::default();
        for part in parts {
            match part {
                Part::New(bytes) => all.add_new(bytes),
                Part::Old(block) => all.add_old(&Hash::of(block), block.len() as u64),
            }
        }
        all.finish()
    }

    #[test]
    fn how_new_bytes_are_cut_does_not_matter() {
        let whole = of(&[Part::New(b"abcdef"), Part::Old(b"old"), Part::New(b"\0\0")]);
        let cut =
            of(&[Part::New(b"ab"), Part::New(b"cdef"), Part::Old(b"old"), Part::New(b"\0\0")]);
        assert_eq!(whole, cut);
        let mut zeros = Parts::default();
        zeros.add_new(b"abcdef");
        zeros.add_old(&Hash::of(b"old"), 3);
        zeros.add_zeros(2);
        assert_eq!(zeros.finish(), whole);
    }

    #[test]
    fn other_contents_and_other_places_are_told_apart() {
        let (a, b) = (Part::Old(b"aaaa"), Part::Old(b"bbbb"));
        let mut seen = vec![
            of(&[]),
            of(&[Part::New(b"xy")]),
            of(&[Part::New(b"xy"), Part::Old(b"aaaa")]),
            of(&[Part::Old(b"aaaa"), Part::New(b"xy")]),
            of(&[Part::New(b"x"), Part::Old(b"aaaa"), Part::New(b"y")]),
            of(&[Part::New(b"xz"), Part::Old(b"aaaa")]),
            of(&[Part::New(b"xy"), Part::Old(b"bbbb")]),
            of(&[Part::Old(b"aaaabbbb")]),
            of(&[a, b]),
            of(&[Part::Old(b"bbbb"), Part::Old(b"aaaa")]),
            of(&[Part::New(b"aaaabbbb")]),
        ];
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }
}
