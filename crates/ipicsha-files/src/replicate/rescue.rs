//! What came out of its place without anybody knowing of it, and could not be kept.
//!
//! Decides that it stays in our own directory in the root until it can be kept, and that it is named so
//! long. Must not know why it came out.

use std::{collections::HashSet, sync::Arc};

use rustix::io::Errno;

use super::{
    KeptReason, Trouble,
    engine::{Engine, now_unix},
    index,
    kept::NotKept,
};
use crate::{
    error::Said,
    marker::OWN,
    path::{Name, RelativePath},
    resolve::{Dir, Root},
};

/// How names of such files begin.
const PREFIX: &[u8] = b"lost-";
/// Longest name of a file.
const NAME_MAX: usize = 255;
/// Seconds between two tries to keep them.
const AGAIN_SECONDS: u64 = 60;

/// One of them.
#[derive(Debug)]
struct Rescued {
    /// What it was; not known of one that was found.
    was: Option<RelativePath>,
    /// Where it is.
    at: RelativePath,
    why: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Rescue {
    all: Vec<Rescued>,
}

impl Rescue {
    /// Number of all.
    pub(super) fn len(&self) -> u64 {
        self.all.len() as u64
    }

    /// Names that are no leftovers, temporary as they may be.
    pub(super) fn names(&self) -> HashSet<Name> {
        self.all.iter().filter_map(|rescued| rescued.at.name()).collect()
    }

    /// For people.
    pub(super) fn shown(&self) -> impl Iterator<Item = Trouble> {
        self.all.iter().map(|Rescued { was, at, why }| Trouble {
            path: was.as_ref().unwrap_or(at).to_string(),
            problem: format!(
                "cannot keep what it was: {why}; it is {at}: move it where it belongs, or remove it"
            ),
            retry_seconds: AGAIN_SECONDS,
        })
    }

    fn add(&mut self, was: Option<RelativePath>, at: RelativePath, why: String) {
        if !self.all.iter().any(|known| known.at == at) {
            self.all.push(Rescued { was, at, why });
        }
    }
}

impl Engine {
    /// It stays where no leftovers are removed.
    pub(super) fn rescue(&mut self, not_kept: NotKept, path: &RelativePath) {
        let NotKept { hold, errno } = not_kept;
        let (dir, temporary) = (Arc::clone(hold.dir()), hold.release());
        let at = match self.move_to_own(&dir, &temporary, path) {
            Some(at) => at,
            None => path.parent().join(&temporary).unwrap_or_else(|_| path.clone()),
        };
        self.rescue.add(Some(path.clone()), at, Said(errno).to_string());
        self.report.changed();
    }

    fn move_to_own(&self, dir: &Dir, name: &Name, path: &RelativePath) -> Option<RelativePath> {
        let own = Name::new(OWN).ok()?;
        let to = self.root.as_ref()?.top().child(&own).ok()?;
        let random = index::random().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut new = [PREFIX, random.as_bytes(), b"-", path.name()?.as_bytes()].concat();
        new.truncate(NAME_MAX);
        let new = Name::new(&new).ok()?;
        dir.rename_new(name, &to, &new).ok()?;
        // It is in the one or the other after a loss of power.
        let _ = to.sync();
        RelativePath::root().join(&own).ok()?.join(&new).ok()
    }

    /// What was rescued before the last end is named again.
    pub(super) fn find_rescued(&mut self, root: &Root) {
        let Ok(own) = Name::new(OWN) else { return };
        // Without a list nothing can be named; what is there stays.
        let listed = root.top().child(&own).and_then(|dir| dir.list()).unwrap_or_default();
        for name in listed.into_iter().map(|listed| listed.name) {
            let at = RelativePath::root().join(&own).and_then(|own| own.join(&name));
            if let (true, Ok(at)) = (name.as_bytes().starts_with(PREFIX), at) {
                self.rescue.add(None, at, "the daemon ended before it could be".into());
            }
        }
    }

    /// Keeps what can be kept by now, and forgets what was moved away.
    pub(super) fn see_rescued(&mut self) {
        let Some(root) = self.root.clone() else { return };
        for mut rescued in std::mem::take(&mut self.rescue.all) {
            let Some((parent, name)) = rescued.at.split() else { continue };
            let found = root.dir(&parent).and_then(|dir| Ok((dir.find(&name)?, dir)));
            let (dir, was) = match (found, &rescued.was) {
                (Ok((None, _)) | Err(Errno::NOENT), _) => continue,
                (Ok((Some(_), dir)), Some(was)) => (dir, was),
                (Ok((Some(_), _)), None) | (Err(_), _) => {
                    self.rescue.all.push(rescued);
                    continue;
                }
            };
            match self.kept.put(&dir, &name, was, KeptReason::Conflict, now_unix()) {
                Ok(entry) => self.tell_kept(entry),
                Err(errno) => {
                    rescued.why = Said(errno).to_string();
                    self.rescue.all.push(rescued);
                }
            }
        }
    }
}
