//! Whose the files become.
//!
//! Decides by name first, then by number, after the maps that were asked for. Must not touch files.

use std::collections::HashMap;

use crate::sync::{
    message::{Details, OwnerKind, OwnerName},
    names::Names,
    options::{Options, OwnerMap, OwnerPattern},
    wildcard_fits,
};

/// Owners of the sender as owners of this machine.
pub(super) struct Owners {
    here: Names,
    there: HashMap<(OwnerKind, u32), String>,
    /// Numbers here of those whose names are known in both places.
    same: HashMap<(OwnerKind, u32), u32>,
    users: Vec<OwnerMap>,
    groups: Vec<OwnerMap>,
    numeric: bool,
    /// Only root gives files away; others may choose among their groups.
    privileged: bool,
    my_groups: Vec<u32>,
    want_user: bool,
    want_group: bool,
}

impl Owners {
    pub(super) fn new(options: &Options) -> Self {
        let groups = rustix::process::getgroups().unwrap_or_default();
        let mut my_groups: Vec<u32> = groups.iter().map(|gid| gid.as_raw()).collect();
        my_groups.push(rustix::process::getegid().as_raw());
        Self {
            here: Names::of_this_machine(),
            there: HashMap::new(),
            same: HashMap::new(),
            users: options.users.clone(),
            groups: options.groups.clone(),
            numeric: options.preserve.numeric_ids,
            privileged: rustix::process::geteuid().is_root(),
            my_groups,
            want_user: options.preserve.owner,
            want_group: options.preserve.group,
        }
    }

    pub(super) fn learn(&mut self, names: Vec<OwnerName>) {
        for OwnerName { kind, id, name } in names {
            if let Some(here) = self.here.id(kind, &name) {
                self.same.insert((kind, id), here);
            }
            self.there.insert((kind, id), name);
        }
    }

    /// Whether this process may do what only root may.
    pub(super) fn is_privileged(&self) -> bool {
        self.privileged
    }

    /// The user that the entry shall belong to, when that can be said and done.
    pub(super) fn user(&self, details: &Details) -> Option<u32> {
        let wanted = self.want_user && self.privileged;
        wanted.then(|| self.map(OwnerKind::User, details.uid, &self.users))
    }

    /// The group that the entry shall belong to, when that can be said and done.
    pub(super) fn group(&self, details: &Details) -> Option<u32> {
        let gid = self.want_group.then(|| self.map(OwnerKind::Group, details.gid, &self.groups))?;
        (self.privileged || self.my_groups.contains(&gid)).then_some(gid)
    }

    fn map(&self, kind: OwnerKind, id: u32, maps: &[OwnerMap]) -> u32 {
        let same = self.same.get(&(kind, id)).copied().filter(|_| !self.numeric).unwrap_or(id);
        if maps.is_empty() {
            return same;
        }
        let name = self.there.get(&(kind, id)).map(String::as_str);
        let meant = |map: &&OwnerMap| match &map.from {
            OwnerPattern::Any => true,
            OwnerPattern::Numbers(first, last) => (*first..=*last).contains(&id),
            OwnerPattern::Name(pattern) => match name {
                Some(name) => wildcard_fits(pattern, name),
                None => pattern.is_empty(),
            },
        };
        maps.iter().find(meant).map_or(same, |map| map.to)
    }
}
