//! Names and paths that cannot lead out of their root, whoever sent them.
//!
//! Decides what a valid name is and how names are shown. Names are bytes: nothing is folded or
//! changed, and text that is not UTF-8 is kept. Must not touch the file system.

use std::{
    cmp::Ordering,
    fmt::{self, Write as _},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest single name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest path beneath a root, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;

/// Why bytes are no path beneath a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It begins with a slash.
    #[error("the path is absolute")]
    Absolute,
    /// A component is `..`.
    #[error("the path contains `..`")]
    Parent,
    /// A component is empty or `.`.
    #[error("a name in the path is empty or a dot")]
    Empty,
    /// A NUL or, in a single name, a slash.
    #[error("a name contains a NUL or a slash")]
    Character,
    /// A component of more than 255 bytes.
    #[error("a name is longer than {NAME_BYTES_MAX} bytes")]
    LongName,
    /// More than 4096 bytes.
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    LongPath,
}

fn check_name(bytes: &[u8]) -> Result<(), PathError> {
    match bytes {
        b"" | b"." => Err(PathError::Empty),
        b".." => Err(PathError::Parent),
        _ if bytes.iter().any(|b| matches!(b, 0 | b'/')) => Err(PathError::Character),
        _ if bytes.len() > NAME_BYTES_MAX => Err(PathError::LongName),
        _ => Ok(()),
    }
}

/// Name of one entry of a directory: 1 to 255 bytes, no slash, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks the bytes.
    ///
    /// # Errors
    /// They are no name.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        check_name(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The bytes as the file system has them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = PathError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, PathError> {
        check_name(&bytes)?;
        Ok(Self(bytes.into_boxed_slice()))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(crate::bytes::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0.into_vec()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path beneath a root: names joined by single slashes; empty for the root itself. At most 4096
/// bytes, never absolute, never with `..`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Vec<u8>);

impl RelativePath {
    /// The root itself.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks bytes that must be written exactly as this type writes them.
    ///
    /// # Errors
    /// They are no such path.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        Self::try_from(bytes.to_vec())
    }

    /// Reads what a person types: repeated slashes, `.` and a final slash are allowed.
    ///
    /// # Errors
    /// The path is absolute, too long, or contains `..`.
    pub fn from_typed(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.first() == Some(&b'/') {
            return Err(PathError::Absolute);
        }
        let mut parts = bytes.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
        parts.try_fold(Self::root(), |path, part| path.join(&Name::new(part)?))
    }

    /// The entry `name` of this directory.
    ///
    /// # Errors
    /// The path gets too long.
    pub fn join(&self, name: &Name) -> Result<Self, PathError> {
        let separator = usize::from(!self.0.is_empty());
        let length = self.0.len() + separator + name.0.len();
        if length > PATH_BYTES_MAX {
            return Err(PathError::LongPath);
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.0);
        bytes.extend_from_slice(&b"/"[..separator]);
        bytes.extend_from_slice(&name.0);
        Ok(Self(bytes))
    }

    /// This path followed by all of `below`.
    ///
    /// # Errors
    /// The path gets too long.
    pub fn append(&self, below: &Self) -> Result<Self, PathError> {
        below.names().try_fold(self.clone(), |path, name| path.join(&name))
    }

    /// Directory and name; `None` for the root.
    pub fn split(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        let slash = self.0.iter().rposition(|b| *b == b'/');
        let (parent, name) = match slash {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&b""[..], &self.0[..]),
        };
        Some((Self(parent.to_vec()), Name(name.into())))
    }

    /// The directory it is in; the root's parent is the root.
    pub fn parent(&self) -> Self {
        self.split().map_or_else(Self::root, |(parent, _)| parent)
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<Name> {
        self.split().map(|(_, name)| name)
    }

    /// The names from the root down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = Name> {
        let parts = self.0.split(|b| *b == b'/').filter(|part| !part.is_empty());
        parts.map(|part| Name(part.into()))
    }

    /// Number of names.
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { 1 + self.0.iter().filter(|b| **b == b'/').count() }
    }

    /// Whether it is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is `other` or lies beneath it.
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self.0 == other.0
            || self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/')
    }

    /// The bytes, with `.` for the root, as system calls take them.
    pub fn as_bytes(&self) -> &[u8] {
        if self.is_root() { b"." } else { &self.0 }
    }

    /// The bytes, empty for the root.
    pub fn as_written(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for RelativePath {
    type Error = PathError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, PathError> {
        if bytes.first() == Some(&b'/') {
            return Err(PathError::Absolute);
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::LongPath);
        }
        if !bytes.is_empty() {
            bytes.split(|b| *b == b'/').try_for_each(check_name)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for RelativePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelativePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(crate::bytes::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl From<RelativePath> for Vec<u8> {
    fn from(path: RelativePath) -> Self {
        path.0
    }
}

impl From<Name> for RelativePath {
    fn from(name: Name) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(self.as_bytes()))
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A name as it is shown: printable text stays, everything else becomes `\#ooo` byte by byte, so
/// that no name can forge a line or move a cursor. A backslash that reads like an escape is escaped.
pub fn escape(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    let octal = |shown: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\#{byte:03o}");
        }
    };
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let length = character.len_utf8();
            if is_shown(character) && !is_escape(&bytes[at..]) {
                shown.push(character);
            } else {
                octal(&mut shown, &bytes[at..at + length]);
            }
            at += length;
        }
        octal(&mut shown, chunk.invalid());
        at += chunk.invalid().len();
    }
    shown
}

/// Characters that neither control the terminal nor reorder the text around them.
fn is_shown(character: char) -> bool {
    let reorders = matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !reorders
}

/// The bytes begin like one of our escapes.
fn is_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'\\', b'#', a, b, c, ..] if [a, b, c].iter().all(|d| d.is_ascii_digit()))
}

/// The order of entries of one directory: everything else before directories, and directories as if
/// a slash ended their names. This is the order in which rsync goes through a tree.
pub fn order(a: (&[u8], bool), b: (&[u8], bool)) -> Ordering {
    let slash = |directory: bool| directory.then_some(&b'/');
    a.1.cmp(&b.1).then_with(|| a.0.iter().chain(slash(a.1)).cmp(b.0.iter().chain(slash(b.1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelativePath {
        RelativePath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn nothing_that_leaves_the_root_is_a_path() {
        let refused: [(&[u8], PathError); 9] = [
            (b"/etc/passwd", PathError::Absolute),
            (b"..", PathError::Parent),
            (b"a/../b", PathError::Parent),
            (b"a/..", PathError::Parent),
            (b"a//b", PathError::Empty),
            (b"./a", PathError::Empty),
            (b"a/", PathError::Empty),
            (b"a\0b", PathError::Character),
            (&[b'x'; 256], PathError::LongName),
        ];
        for (bytes, error) in refused {
            assert_eq!(RelativePath::new(bytes), Err(error), "{}", escape(bytes));
        }
        let long = vec![b"x".repeat(254); 17].join(&b'/');
        assert_eq!(RelativePath::new(&long), Err(PathError::LongPath));
        assert!(RelativePath::new(&long[..PATH_BYTES_MAX]).is_ok());
        assert_eq!(Name::new(b"a/b"), Err(PathError::Character));
        assert_eq!(Name::new(b".."), Err(PathError::Parent));
    }

    #[test]
    fn typed_paths_are_tidied_but_never_climb() {
        assert_eq!(RelativePath::from_typed(b"./a//b/"), Ok(path("a/b")));
        assert_eq!(RelativePath::from_typed(b"."), Ok(RelativePath::root()));
        assert_eq!(RelativePath::from_typed(b"a/../../b"), Err(PathError::Parent));
    }

    #[test]
    fn paths_split_and_join() {
        let name = Name::new(b"c").expect("a name");
        assert_eq!(path("a/b").join(&name), Ok(path("a/b/c")));
        assert_eq!(path("a/b/c").split(), Some((path("a/b"), name.clone())));
        assert_eq!(path("c").split(), Some((RelativePath::root(), name)));
        assert_eq!(RelativePath::root().split(), None);
        assert_eq!((path("a/b/c").depth(), RelativePath::root().depth()), (3, 0));
        assert!(path("a/b").is_within(&path("a")) && !path("ab").is_within(&path("a")));
        assert_eq!(path("a").append(&path("b/c")), Ok(path("a/b/c")));
    }

    #[test]
    fn names_are_shown_without_harm() {
        assert_eq!(escape("né ☂\\".as_bytes()), "né ☂\\");
        assert_eq!(escape(b"a\nb\x1b[1m\xff\x7f"), "a\\#012b\\#033[1m\\#377\\#177");
        assert_eq!(escape(b"\\#012"), "\\#134#012");
        assert_eq!(escape("\u{202e}".as_bytes()), "\\#342\\#200\\#256");
        assert_eq!(RelativePath::root().to_string(), ".");
    }

    #[test]
    fn entries_are_ordered_files_first_and_directories_with_their_slash() {
        let mut entries = [("foo", true), ("foo.bar", true), ("z", false), ("foo0", true)];
        entries.sort_by(|a, b| order((a.0.as_bytes(), a.1), (b.0.as_bytes(), b.1)));
        assert_eq!(entries.map(|(name, _)| name), ["z", "foo.bar", "foo", "foo0"]);
    }
}
