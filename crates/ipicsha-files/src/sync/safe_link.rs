//! Where a symbolic link leads, seen from the tree it is in.
//!
//! The one place that decides whether a link is safe. Must not touch the file system.

use crate::path::RelativePath;

/// Whether the link at `path` may lead out of the tree: it is absolute, empty, or climbs higher than
/// it is deep. `..` behind a name is refused as well, because the name may be a link itself.
pub(super) fn is_unsafe(path: &RelativePath, target: &[u8]) -> bool {
    if target.is_empty() || target[0] == b'/' {
        return true;
    }
    let mut depth = path.depth().saturating_sub(1);
    let mut named = false;
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named || depth == 0 => return true,
            b".." => depth -= 1,
            _ => named = true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_climb_out_are_unsafe() {
        let table = [
            ("l", "f", false),
            ("l", "d/f", false),
            ("l", "../f", true),
            ("d/l", "../f", false),
            ("d/l", "../../f", true),
            ("d/e/l", "../../x/f", false),
            ("l", "/etc/passwd", true),
            ("l", "", true),
            ("d/l", "./../f", false),
            ("d/l", "x/../f", true),
            ("d/l", "x/../../../f", true),
        ];
        for (at, target, expected) in table {
            let path = RelativePath::new(at.as_bytes()).expect("a path");
            assert_eq!(is_unsafe(&path, target.as_bytes()), expected, "{at} -> {target}");
        }
    }
}
