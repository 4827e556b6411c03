//! What differs between an entry and what is at its place.
//!
//! Decides when a file counts as equal, what is told of a difference, and which facts are to be set.

use std::sync::OnceLock;

use rustix::io::Errno;

use super::Receiver;
use crate::{
    Facts, Hash,
    attributes::{Attributes, Scope},
    meta::{Kind, Meta, Node, Time},
    path::Name,
    place::errno_of,
    resolve::Dir,
    sync::{
        channel::Channel,
        event::{Change, TimeChange, Update},
        message::{Details, ToReceiver, ToSender},
        options::Options,
    },
};

/// The permission bits that new entries lose. The system call that tells them sets them as well,
/// which other threads would notice, so they are read.
pub(super) fn umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let umask = line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
        umask.unwrap_or(0o022)
    })
}

/// Whether two times count as different.
pub(super) fn times_differ(options: &Options, a: Time, b: Time) -> bool {
    match options.modify_window {
        0 => a.seconds != b.seconds,
        window if window < 0 => a != b,
        window => a.seconds.abs_diff(b.seconds) > window.unsigned_abs(),
    }
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    /// Whether the time of an entry of this kind is carried over.
    pub(super) fn keeps_time(&self, kind: Kind) -> bool {
        let preserve = self.options.preserve;
        let beside = self.options.backup && self.options.backup_dir.is_none();
        preserve.times
            && match kind {
                Kind::Directory => !preserve.omit_dir_times && !beside,
                Kind::Symlink => !preserve.omit_link_times,
                Kind::File
                | Kind::Fifo
                | Kind::Socket
                | Kind::CharacterDevice
                | Kind::BlockDevice => true,
            }
    }

    /// The permissions that an entry gets; `None` for links, which have none.
    pub(super) fn wanted_mode(&self, details: &Details, existing: Option<&Meta>) -> Option<u32> {
        if details.kind == Kind::Symlink {
            return None;
        }
        if self.options.preserve.perms {
            return Some(details.mode);
        }
        let Some(existing) = existing else { return Some(details.mode & 0o777 & !umask()) };
        let mut mode = existing.mode;
        if self.options.preserve.executability && details.kind == Kind::File {
            if details.mode & 0o111 == 0 {
                mode &= !0o111;
            } else if mode & 0o111 == 0 {
                mode |= (mode & 0o444) >> 2;
            }
        }
        Some(mode)
    }

    /// The facts that an entry gets. `existing` is what its permissions come from when they are not
    /// preserved.
    pub(super) fn facts(&self, details: &Details, existing: Option<&Meta>) -> Facts {
        Facts {
            uid: self.owners.user(details),
            gid: self.owners.group(details),
            mode: self.wanted_mode(details, existing),
            mtime: self.keeps_time(details.kind).then_some(details.mtime),
            access_lists: details.access_lists.clone(),
            extended: details.extended.clone(),
            user: None,
        }
    }

    /// Facts for something that is there already: a time that does not count as different stays.
    pub(super) fn facts_to_mend(&self, details: &Details, existing: &Meta) -> Facts {
        let mut facts = self.facts(details, Some(existing));
        facts.mtime = facts.mtime.filter(|time| times_differ(self.options, *time, existing.mtime));
        facts
    }

    /// What differs between an entry and what is there.
    pub(super) fn change(
        &self,
        details: &Details,
        existing: &Meta,
        node: Option<&Node<'_>>,
        update: Update,
    ) -> Change {
        let differs = times_differ(self.options, details.mtime, existing.mtime);
        let touched = matches!(update, Update::Transfer | Update::Local);
        let time = match self.keeps_time(details.kind) {
            true if differs => TimeChange::Set,
            // rsync's letter for a time that is left out says what was asked for in general.
            false if touched && self.options.preserve.times => TimeChange::Set,
            false if touched => TimeChange::Now,
            true | false => TimeChange::No,
        };
        let attributes = |wanted: &Option<Attributes>, scope| {
            wanted.as_ref().map(|wanted| {
                let now = node.and_then(|node| Attributes::read(node, scope).ok());
                (wanted.clone(), now.unwrap_or_default())
            })
        };
        let lists = attributes(&details.access_lists, Scope::AccessLists);
        let extended = attributes(&details.extended, Scope::Extended);
        let perms = if self.options.preserve.perms {
            let (wanted, now) = lists.clone().unwrap_or_default();
            let differs = wanted.unmasked(details.mode) != now.unmasked(existing.mode);
            details.kind != Kind::Symlink && differs
        } else {
            self.options.preserve.executability
                && details.kind == Kind::File
                && (details.mode & 0o111 == 0) != (existing.mode & 0o111 == 0)
        };
        let differ = |both: Option<(Attributes, Attributes)>| both.is_some_and(|(a, b)| a != b);
        Change {
            update,
            new: false,
            content: false,
            size: details.kind == Kind::File && details.size != existing.size,
            time,
            perms,
            owner: self.owners.user(details).is_some_and(|uid| uid != existing.uid),
            group: self.owners.group(details).is_some_and(|gid| gid != existing.gid),
            access_lists: details.kind != Kind::Symlink && differ(lists),
            extended: differ(extended),
        }
    }

    /// Holds an entry when its attributes have to be looked at.
    pub(super) fn held(&self, dir: &Dir, name: &Name) -> Option<Node<'static>> {
        let needed = self.options.preserve.access_lists || self.options.preserve.extended;
        needed.then(|| dir.hold(name).ok()).flatten()
    }

    /// Whether the content of a file counts as equal.
    ///
    /// # Errors
    /// Contents are to be compared, and the file cannot be read.
    pub(super) fn is_same_content(
        &self,
        details: &Details,
        dir: &Dir,
        name: &Name,
        existing: &Meta,
    ) -> Result<bool, Errno> {
        if details.size != existing.size {
            return Ok(false);
        }
        if let Some(wanted) = details.hash {
            let mut file = dir.open_file(name)?;
            let (hash, _) = Hash::of_file(&mut file).map_err(|error| errno_of(&error))?;
            return Ok(hash == wanted);
        }
        if self.options.size_only {
            return Ok(true);
        }
        let same_time = !times_differ(self.options, details.mtime, existing.mtime);
        Ok(!self.options.ignore_times && same_time)
    }
}
