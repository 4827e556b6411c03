//! A content that comes in pieces, cut into blocks.
//!
//! Decides nothing. Must not know what is done with a block.

/// Keeps the begin of a block until the rest of it comes.
#[derive(Debug)]
pub(super) struct Blocks {
    block: usize,
    begun: Vec<u8>,
}

impl Blocks {
    pub(super) fn of(block_bytes: u32) -> Self {
        Self { block: block_bytes as usize, begun: Vec::new() }
    }

    /// Gives every block that is whole with the next bytes.
    pub(super) fn add(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            let missing = (self.block - self.begun.len()).min(bytes.len());
            self.begun.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.begun.len() < self.block {
                return;
            }
            take(&self.begun);
            self.begun.clear();
        }
        let mut blocks = bytes.chunks_exact(self.block);
        (&mut blocks).for_each(&mut take);
        self.begun.extend_from_slice(blocks.remainder());
    }

    /// The last block, which is shorter, where there is one.
    pub(super) fn rest(self) -> Option<Vec<u8>> {
        (!self.begun.is_empty()).then_some(self.begun)
    }
}
