//! What a content is verified by while it is written.
//!
//! Decides how old blocks count. Must not write anything.

use std::{fs::File, os::unix::fs::FileExt};

use super::PlaceError;
use crate::{
    delta::Parts,
    hash::{Hash, Hasher},
};

/// How a content becomes known.
#[derive(Debug)]
pub(crate) enum Check {
    /// It is read again when it is complete.
    Later,
    Whole(Box<Hasher>),
    /// By what it is made of.
    Parts(Box<Parts>),
}

impl Check {
    pub(crate) fn whole() -> Self {
        Self::Whole(Box::default())
    }

    pub(crate) fn parts() -> Self {
        Self::Parts(Box::default())
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Later => {}
            Self::Whole(hasher) => hasher.add(bytes),
            Self::Parts(parts) => parts.add_new(bytes),
        }
    }

    pub(crate) fn add_zeros(&mut self, length: u64) {
        match self {
            Self::Later => {}
            Self::Whole(hasher) => hasher.add_zeros(length),
            Self::Parts(parts) => parts.add_zeros(length),
        }
    }

    /// The next bytes are an old block with this hash.
    pub(crate) fn add_old(&mut self, bytes: &[u8], hash: &Hash) {
        match self {
            Self::Later => {}
            Self::Whole(hasher) => hasher.add(bytes),
            Self::Parts(parts) => parts.add_old(hash, bytes.len() as u64),
        }
    }

    /// The next bytes are these blocks, which nobody has looked at.
    pub(super) fn add_known(&mut self, old: &OldBlocks<'_>, hashes: &[Hash]) {
        match self {
            Self::Parts(parts) => {
                let all = hashes.iter().zip(old.lengths());
                all.for_each(|(hash, length)| parts.add_old(hash, length));
            }
            Self::Whole(_) | Self::Later => *self = Self::Later,
        }
    }

    /// The hash; `None` when it takes reading the content again.
    pub(crate) fn finish(&self) -> Option<Hash> {
        match self {
            Self::Later => None,
            Self::Whole(hasher) => Some(hasher.finish()),
            Self::Parts(parts) => Some(parts.finish()),
        }
    }
}

/// Blocks of an old content that a new one goes on with.
#[derive(Clone, Copy, Debug)]
pub struct OldBlocks<'a> {
    /// The old content.
    pub file: &'a File,
    /// Where the first one begins.
    pub offset: u64,
    /// Bytes of all of them.
    pub length: u64,
    /// Bytes of each but the last one.
    pub block_bytes: u32,
    /// Their hashes, where they are known: then the kernel copies the bytes without showing them, and who
    /// calls makes sure that the file is what the hashes were made of.
    pub hashes: Option<&'a [Hash]>,
}

impl OldBlocks<'_> {
    /// How long each is.
    fn lengths(&self) -> impl Iterator<Item = u64> + use<> {
        let (block, length) = (u64::from(self.block_bytes.max(1)), self.length);
        (0..length.div_ceil(block)).map(move |index| block.min(length - index * block))
    }

    /// Reads them; each with its hash.
    pub(crate) fn read(
        &self,
        mut take: impl FnMut(&[u8], &Hash) -> Result<(), PlaceError>,
    ) -> Result<(), PlaceError> {
        let mut buffer = vec![0; self.block_bytes as usize];
        let mut at = self.offset;
        for length in self.lengths() {
            // No longer than a block, so it fits.
            let bytes = &mut buffer[..usize::try_from(length).unwrap_or_default()];
            match self.file.read_exact_at(bytes, at) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(PlaceError::Mismatch);
                }
                Err(error) => return Err(error.into()),
            }
            take(bytes, &Hash::of(bytes))?;
            at += length;
        }
        Ok(())
    }
}
