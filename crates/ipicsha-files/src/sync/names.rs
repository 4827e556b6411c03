//! Names of users and groups of this machine.
//!
//! Decides nothing: `/etc/passwd` and `/etc/group` say it. Other directories of users are not
//! asked; owners known only there keep their numbers.

use std::{collections::HashMap, fs, path::Path};

use super::message::OwnerKind;

/// Users and groups, by number and by name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_id: HashMap<(OwnerKind, u32), String>,
    by_name: HashMap<(OwnerKind, String), u32>,
}

impl Names {
    pub(crate) fn of_this_machine() -> Self {
        let mut names = Self::default();
        names.read(OwnerKind::User, Path::new("/etc/passwd"));
        names.read(OwnerKind::Group, Path::new("/etc/group"));
        names
    }

    fn read(&mut self, kind: OwnerKind, path: &Path) {
        // Without the file all owners are numbers.
        let text = fs::read(path).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut fields = line.split(':');
            let (name, id) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok()));
            if let (Some(name), Some(id)) = (name, id) {
                self.by_id.entry((kind, id)).or_insert_with(|| name.to_owned());
                self.by_name.entry((kind, name.to_owned())).or_insert(id);
            }
        }
    }

    pub(crate) fn name(&self, kind: OwnerKind, id: u32) -> Option<&str> {
        self.by_id.get(&(kind, id)).map(String::as_str)
    }

    pub(crate) fn id(&self, kind: OwnerKind, name: &str) -> Option<u32> {
        self.by_name.get(&(kind, name.to_owned())).copied()
    }
}

/// The number of a user or group of this machine, given by name or number.
pub fn owner_id(kind: OwnerKind, text: &str) -> Option<u32> {
    text.parse().ok().or_else(|| Names::of_this_machine().id(kind, text))
}
