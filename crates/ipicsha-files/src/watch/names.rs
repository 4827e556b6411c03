//! Names of our own in a watched directory.
//!
//! Decides which they are. Must not touch the file system.

use crate::place::is_temporary;

/// Directory of our own in every root.
pub(super) const OWN: &[u8] = b".ipicsha";
/// Cookies are files in it whose names begin so; process and number follow.
pub(super) const COOKIE: &[u8] = b"cookie-";

/// Whether a path beneath the root, as bytes, is our own: `.ipicsha` in the root with all beneath it,
/// and every temporary file, with all beneath it. Scans leave these out as hints do.
pub fn is_ours(path: &[u8]) -> bool {
    let mut names = path.split(|b| *b == b'/');
    names.next() == Some(OWN) || path.split(|b| *b == b'/').any(is_temporary)
}

/// Process and number of a cookie, from its path beneath the root.
pub(super) fn cookie(path: &[u8]) -> Option<(u32, u64)> {
    let name = path.strip_prefix(OWN)?.strip_prefix(b"/")?.strip_prefix(COOKIE)?;
    let (process, number) = std::str::from_utf8(name).ok()?.split_once('-')?;
    Some((process.parse().ok()?, number.parse().ok()?))
}

/// Directory and name; the root is an empty name in itself.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The entry `name` of the directory `parent`.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let temp = ".ipicsha.0123456789abcdef0123.tmp";
        let ours = [".ipicsha", ".ipicsha/cookie-1-2", temp, &format!("a/{temp}/b")];
        for path in ours {
            assert!(is_ours(path.as_bytes()), "{path}");
        }
        for path in ["", ".ipicsha-root", "a/.ipicsha", "a/.ipicsha/b", ".ipicsha.x.tmp", "x.tmp"] {
            assert!(!is_ours(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_cookie_is_recognised() {
        assert_eq!(cookie(b".ipicsha/cookie-12-345"), Some((12, 345)));
        assert_eq!(cookie(b"a/.ipicsha/cookie-12-345"), None);
        assert_eq!(cookie(b".ipicsha/cookie-12"), None);
    }

    #[test]
    fn paths_split_and_join() {
        for path in ["", "a", "a/b", "a/b/c"] {
            let (parent, name) = split(path.as_bytes());
            assert_eq!(join(parent, name), path.as_bytes());
        }
    }
}
