//! Extended attributes and POSIX access lists of a held entry.
//!
//! Decides which attributes belong to a file's owner and which to the system. Access lists are
//! copied as the raw bytes the kernel gives. Must not know paths.

use std::collections::BTreeMap;

use rustix::{fs::XattrFlags, io::Errno};
use serde::{Deserialize, Serialize};

use crate::meta::Node;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Which attributes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the owner sets (`user.`), and as root also `security.` and `trusted.`.
    Extended,
    /// What the owner sets, and nothing else.
    User,
    /// The access list and, of directories, the default list for new entries.
    AccessLists,
}

impl Scope {
    fn has(self, name: &[u8], privileged: bool) -> bool {
        match self {
            Self::AccessLists => name == ACL_ACCESS || name == ACL_DEFAULT,
            Self::Extended if privileged => !name.starts_with(b"system."),
            Self::Extended | Self::User => name.starts_with(b"user."),
        }
    }
}

/// Names and values, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes(BTreeMap<Vec<u8>, Vec<u8>>);

impl Attributes {
    /// Reads the attributes of `scope`; none where the file system has no attributes.
    ///
    /// # Errors
    /// The system refuses.
    pub fn read(node: &Node<'_>, scope: Scope) -> Result<Self, Errno> {
        let names = match grow(|buffer| list(node, buffer)) {
            Ok(names) => names,
            Err(Errno::NOTSUP) => return Ok(Self::default()),
            Err(errno) => return Err(errno),
        };
        let privileged = rustix::process::geteuid().is_root();
        let mut found = BTreeMap::new();
        for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            if !scope.has(name, privileged) {
                continue;
            }
            match grow(|buffer| value(node, name, buffer)) {
                Ok(value) => drop(found.insert(name.to_vec(), value)),
                Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Self(found))
    }

    /// Drops what only the system gives (`security.`, `trusted.`); whether there was any.
    pub fn keep_only_of_users(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|name, _| name.starts_with(b"user."));
        self.0.len() < before
    }

    /// Makes the attributes of `scope` at `node` equal to these; `now` is what it has.
    ///
    /// # Errors
    /// The system refuses, or the file system has no attributes and some are wanted.
    pub fn apply(&self, node: &Node<'_>, scope: Scope, now: &Self) -> Result<(), Errno> {
        for name in now.0.keys().filter(|name| !self.0.contains_key(*name)) {
            match remove(node, name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        let privileged = rustix::process::geteuid().is_root();
        let differs = |(name, value): &(&Vec<u8>, &Vec<u8>)| now.0.get(*name) != Some(*value);
        let wanted = self.0.iter().filter(|(name, _)| scope.has(name, privileged));
        wanted.filter(differs).try_for_each(|(name, value)| set(node, name, value))
    }

    /// Permission bits with those of the owning group where an access list shows its mask.
    pub fn unmasked(&self, mode: u32) -> u32 {
        const GROUP: u16 = 0x04;
        let list = self.0.get(ACL_ACCESS).and_then(|list| list.get(4..)).unwrap_or_default();
        let (entries, _) = list.as_chunks::<8>();
        let group = entries.iter().find(|e| u16::from_le_bytes([e[0], e[1]]) == GROUP);
        match group {
            Some(entry) => mode & !0o070 | (u32::from(entry[2]) & 7) << 3,
            None => mode,
        }
    }

    /// Those of `pairs` that belong to `scope` whoever asks.
    pub fn of(pairs: &[(Vec<u8>, Vec<u8>)], scope: Scope) -> Self {
        Self(pairs.iter().filter(|(name, _)| scope.has(name, false)).cloned().collect())
    }

    /// Names and values.
    pub fn into_pairs(self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.0.into_iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn list(node: &Node<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    match node {
        Node::Open(fd) => rustix::fs::flistxattr(fd, &mut *buffer),
        Node::Held(fd) => rustix::fs::listxattr(Node::own_path(fd), &mut *buffer),
    }
}

fn value(node: &Node<'_>, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    match node {
        Node::Open(fd) => rustix::fs::fgetxattr(fd, name, &mut *buffer),
        Node::Held(fd) => rustix::fs::getxattr(Node::own_path(fd), name, &mut *buffer),
    }
}

fn set(node: &Node<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let flags = XattrFlags::empty();
    match node {
        Node::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
        Node::Held(fd) => rustix::fs::setxattr(Node::own_path(fd), name, value, flags),
    }
}

fn remove(node: &Node<'_>, name: &[u8]) -> Result<(), Errno> {
    match node {
        Node::Open(fd) => rustix::fs::fremovexattr(fd, name),
        Node::Held(fd) => rustix::fs::removexattr(Node::own_path(fd), name),
    }
}

/// Calls with a small buffer first, then with the largest that the kernel ever needs.
fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    for size in [256, 64 * 1024] {
        let mut buffer = vec![0; size];
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::RANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_an_access_list_replaces_its_mask() {
        // Version 2, then tag, permissions and number of owner, group (r), mask (rw) and others.
        let entry = |tag: u8, perms: u8| [tag, 0, perms, 0, 255, 255, 255, 255];
        let list = [&[2, 0, 0, 0][..], &entry(1, 6), &entry(4, 4), &entry(16, 6), &entry(32, 4)];
        let lists = Attributes(BTreeMap::from([(ACL_ACCESS.to_vec(), list.concat())]));
        assert_eq!(lists.unmasked(0o4664), 0o4644);
        assert_eq!(Attributes::default().unmasked(0o664), 0o664);
    }
}
