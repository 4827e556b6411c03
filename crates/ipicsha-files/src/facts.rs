//! The facts of a file that are to be made true at another one.
//!
//! Decides in which order they are set, because some undo others. Must not know paths or why.

use rustix::io::Errno;

use crate::{
    attributes::{Attributes, Scope},
    meta::{Kind, Meta, Node, Time},
};

/// What to set; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: Option<u32>,
    /// Last change of the content.
    pub mtime: Option<Time>,
    /// Access lists.
    pub access_lists: Option<Attributes>,
    /// Extended attributes.
    pub extended: Option<Attributes>,
    /// Extended attributes of the owner alone; those of the system stay as they are.
    pub user: Option<Attributes>,
}

/// A fact that could not be set: what was tried, and what the system said.
pub type Unset = (&'static str, Errno);

impl Facts {
    /// Makes them true at `node`, which is as `now` says. Everything is tried; what failed is told.
    pub fn apply(&self, node: &Node<'_>, now: &Meta) -> Vec<Unset> {
        let mut failed = Vec::new();
        let mut note = |doing, result: Result<(), Errno>| {
            if let Err(errno) = result {
                failed.push((doing, errno));
            }
        };
        let uid = self.uid.filter(|uid| *uid != now.uid);
        let gid = self.gid.filter(|gid| *gid != now.gid);
        let mut mode_is_known = true;
        if uid.is_some() || gid.is_some() {
            note("change the owner of", node.set_owner(uid, gid));
            // The kernel takes setuid and setgid away from files that change hands.
            mode_is_known = false;
        }
        if let Some(wanted) = &self.access_lists
            && now.kind != Kind::Symlink
        {
            match Attributes::read(node, Scope::AccessLists) {
                Ok(lists) if lists == *wanted => {}
                Ok(lists) => {
                    note("set the access list of", wanted.apply(node, Scope::AccessLists, &lists));
                    mode_is_known = false;
                }
                Err(errno) => note("read the access list of", Err(errno)),
            }
        }
        let wanted = if mode_is_known { self.mode } else { self.mode.or(Some(now.mode)) };
        if let Some(mode) =
            wanted.filter(|mode| now.kind != Kind::Symlink && !(mode_is_known && *mode == now.mode))
        {
            note("set the permissions of", node.set_mode(mode));
        }
        for (wanted, scope) in [(&self.extended, Scope::Extended), (&self.user, Scope::User)] {
            let Some(wanted) = wanted else { continue };
            match Attributes::read(node, scope) {
                Ok(extended) if extended == *wanted => {}
                Ok(extended) => {
                    note("set the attributes of", wanted.apply(node, scope, &extended));
                }
                Err(errno) => note("read the attributes of", Err(errno)),
            }
        }
        // Last: everything above is no change of the content, but some file systems think so.
        if let Some(mtime) = self.mtime.filter(|mtime| *mtime != now.mtime) {
            note("set the time of", node.set_mtime(mtime));
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn facts_are_set_and_setuid_survives_a_change_of_hands() {
        let file = tempfile::tempfile().expect("a file");
        let before = Meta::of(&file).expect("facts");
        let node = Node::Open(file.as_fd());
        let root = rustix::process::geteuid().is_root();
        let mtime = Time { seconds: -7, nanoseconds: 123_456_789 };
        let facts = Facts {
            uid: root.then_some(12_345),
            mode: Some(0o4751),
            mtime: Some(mtime),
            ..Facts::default()
        };
        assert_eq!(facts.apply(&node, &before), []);
        let after = Meta::of(&file).expect("facts");
        assert_eq!((after.mode, after.mtime), (0o4751, mtime));
        assert_eq!(after.uid, if root { 12_345 } else { before.uid });
        assert_eq!(Facts::default().apply(&node, &after), []);
        assert_eq!(Meta::of(&file).expect("facts").mode, 0o4751);
    }
}
