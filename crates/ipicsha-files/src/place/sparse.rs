//! Where a content is zero.
//!
//! Decides what a run of zeros worth a hole is. Must not know files.

/// Smallest hole: a page, which is a block on nearly every file system.
const HOLE_BYTES: usize = 4096;

/// A piece of a content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Data(&'a [u8]),
    Zeros(usize),
}

/// Cuts `bytes`, which stand at `offset`, into data and whole pages of zeros.
pub(super) fn pieces(bytes: &[u8], offset: u64) -> Vec<Piece<'_>> {
    let mut found: Vec<Piece<'_>> = Vec::new();
    let page = HOLE_BYTES as u64;
    // Never more than a page.
    let first = usize::try_from(offset.next_multiple_of(page) - offset).unwrap_or(HOLE_BYTES);
    let first = first.min(bytes.len());
    let mut begin = 0;
    let mut at = first;
    while at + HOLE_BYTES <= bytes.len() {
        let zeros = run_of_zero_pages(&bytes[at..]);
        if zeros > 0 {
            if begin < at {
                found.push(Piece::Data(&bytes[begin..at]));
            }
            found.push(Piece::Zeros(zeros));
            begin = at + zeros;
        }
        at += zeros.max(HOLE_BYTES);
    }
    if begin < bytes.len() {
        found.push(Piece::Data(&bytes[begin..]));
    }
    found
}

fn run_of_zero_pages(bytes: &[u8]) -> usize {
    let pages = bytes.chunks_exact(HOLE_BYTES);
    pages.take_while(|page| is_zero(page)).count() * HOLE_BYTES
}

/// Word by word; whole pages are cut into words without a rest.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_of_zeros_are_cut_out() {
        let mut bytes = vec![0; 4 * HOLE_BYTES];
        assert_eq!(pieces(&bytes, 0), [Piece::Zeros(4 * HOLE_BYTES)]);
        bytes[HOLE_BYTES + 7] = 1;
        let page = &bytes[HOLE_BYTES..2 * HOLE_BYTES];
        let expected = [Piece::Zeros(HOLE_BYTES), Piece::Data(page), Piece::Zeros(2 * HOLE_BYTES)];
        assert_eq!(pieces(&bytes, 0), expected);
        // Pages count from the begin of the file.
        let shifted = pieces(&bytes, 1);
        assert_eq!(shifted[0], Piece::Data(&bytes[..2 * HOLE_BYTES - 1]));
        assert_eq!(shifted[1], Piece::Zeros(2 * HOLE_BYTES));
        assert_eq!(pieces(b"short", 4), [Piece::Data(b"short")]);
        assert_eq!(pieces(b"", 0), []);
    }
}
