//! Bytes made shorter with zstd, and back.
//!
//! Decides whether the shorter form is worth it. Must not know what the bytes mean, nor whether it
//! pays to try.

/// Shorter ones are not worth compressing.
pub(crate) const BYTES_MIN: usize = 1024;

/// Bytes that are no compressed form, or of too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The compressed form, when that is a tenth shorter.
pub(crate) fn compress(bytes: &[u8], level: i32) -> Option<Vec<u8>> {
    if bytes.len() < BYTES_MIN {
        return None;
    }
    let packed = zstd::bulk::compress(bytes, level).ok()?;
    (packed.len() < bytes.len() / 10 * 9).then_some(packed)
}

/// The bytes that were compressed, at most so many.
///
/// # Errors
/// They are no such form, or there would be more.
pub(crate) fn decompress(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, Malformed> {
    zstd::bulk::decompress(packed, bytes_max).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_comes_back_from_less_and_never_as_more_than_expected() {
        let bytes = b"again and ".repeat(1000);
        let packed = compress(&bytes, 1).unwrap();
        assert!(packed.len() < bytes.len() / 10);
        assert_eq!(decompress(&packed, bytes.len()).unwrap(), bytes);
        assert_eq!(decompress(&packed, bytes.len() - 1), Err(Malformed));
        assert_eq!(decompress(b"anything", 100), Err(Malformed));
    }

    #[test]
    fn what_is_short_or_does_not_get_shorter_stays_as_it_is() {
        assert_eq!(compress(&[0; 1000], 1), None);
        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(compress(&noise, 1), None);
    }
}
