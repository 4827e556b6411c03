//! What a content is known by: BLAKE3 of all its bytes.
//!
//! Decides the hash and how a file is read for it. Must not know paths.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
};

use serde::{Deserialize, Serialize};

/// Bytes read at a time: large enough for the vector units, small enough for the cache.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// 256 bits that only equal contents share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of all the bytes at once.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Of what `file` gives from where it stands to its end, with the number of bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(file: &mut File) -> io::Result<(Self, u64)> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut size = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok((hasher.finish(), size)),
                Ok(length) => {
                    hasher.add(&buffer[..length]);
                    size += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The hash with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Gives `length` zeros in pieces.
pub(crate) fn zeros(mut length: u64, mut take: impl FnMut(&[u8])) {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while length > 0 {
        let part = length.min(ZEROS.len() as u64);
        // At most 64 KiB, so it fits.
        take(&ZEROS[..usize::try_from(part).unwrap_or(ZEROS.len())]);
        length -= part;
    }
}

/// Takes a content piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// The next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The next `length` bytes are zero.
    pub fn add_zeros(&mut self, length: u64) {
        zeros(length, |zeros| {
            self.0.update(zeros);
        });
    }

    /// The hash of everything taken so far.
    pub fn finish(&self) -> Hash {
        Hash(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_zeros_hash_like_the_whole() {
        let mut bytes = b"head".to_vec();
        bytes.resize(200_000, 0);
        let mut hasher = Hasher::default();
        hasher.add(b"head");
        hasher.add_zeros(200_000 - 4);
        assert_eq!(hasher.finish(), Hash::of(&bytes));
        assert_eq!(Hash::of(b"").to_string()[..8], *"af1349b9");
    }
}
