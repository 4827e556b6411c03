//! What is told of an entry.
//!
//! Decides whether a link is told as a link or as what it leads to. Must not know the tree.

use rustix::io::Errno;

use crate::{
    Hash,
    attributes::{Attributes, Scope},
    error::{AtPath, Problem, Said},
    meta::{Kind, Meta, Node},
    path::{Name, RelativePath},
    place::errno_of,
    resolve::Dir,
    sync::{message::Details, options::Options, safe_link},
};

/// Why an entry is not told.
#[derive(Debug)]
pub(super) enum Missing {
    Problem(Problem),
    /// A link that is to be followed leads nowhere.
    NoReferent(RelativePath),
}

impl Missing {
    pub(super) fn is_vanished(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.is_vanished())
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Problem(problem) if problem.is_vanished() => {
                format!("\"{}\" has vanished", problem.path)
            }
            Self::Problem(problem) => problem.to_string(),
            Self::NoReferent(path) => format!("the link \"{path}\" leads nowhere"),
        }
    }
}

impl From<Problem> for Missing {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Everything about the entry `name` of `dir`, which is at `path` in the transfer.
pub(super) fn look(
    options: &Options,
    dir: &Dir,
    name: &Name,
    path: &RelativePath,
) -> Result<(Details, Meta), Missing> {
    let link = dir.entry(name).at("look at", path)?;
    let mut target = None;
    let mut meta = link;
    let mut followed = false;
    if meta.kind == Kind::Symlink {
        let leads_to = dir.read_link(name).at("read the link", path)?;
        let inside = || dir.followed(name);
        let is_unsafe = || safe_link::is_unsafe(path, &leads_to);
        if options.copy_links || options.copy_unsafe_links && is_unsafe() {
            meta = inside().map_err(|errno| no_referent(errno, path))?;
            followed = true;
        } else if options.copy_dirlinks
            && let Ok(behind) = inside()
            && behind.kind == Kind::Directory
        {
            (meta, followed) = (behind, true);
        }
        if !followed {
            target = Some(leads_to);
        }
    }
    let mut details = of_meta(options, &meta, target);
    if options.checksum && meta.kind == Kind::File {
        details.hash = Some(hash(dir, name, path)?);
    }
    if options.preserve.access_lists || options.preserve.extended {
        let held = if followed { dir.hold_followed(name) } else { dir.hold(name) };
        attributes(options, &held.at("hold", path)?, path, &mut details)?;
    }
    Ok((details, meta))
}

/// Everything about the directory `dir` itself.
pub(super) fn look_at_dir(
    options: &Options,
    dir: &Dir,
    path: &RelativePath,
) -> Result<Details, Problem> {
    let meta = dir.meta().at("look at", path)?;
    let mut details = of_meta(options, &meta, None);
    attributes(options, &dir.node().at("hold", path)?, path, &mut details)?;
    Ok(details)
}

fn no_referent(errno: Errno, path: &RelativePath) -> Missing {
    match errno {
        Errno::NOENT | Errno::LOOP => Missing::NoReferent(path.clone()),
        errno => Missing::Problem(Problem::new("follow the link", path.clone(), errno)),
    }
}

pub(super) fn of_meta(options: &Options, meta: &Meta, target: Option<Vec<u8>>) -> Details {
    let mut mode = meta.mode;
    if let Some(chmod) = options.chmod.as_ref().filter(|_| meta.kind != Kind::Symlink) {
        mode = chmod.apply(mode, meta.kind == Kind::Directory);
    }
    let several = options.preserve.hard_links && meta.links > 1 && meta.kind != Kind::Directory;
    Details {
        kind: meta.kind,
        mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        size: if meta.kind.is_device() || meta.kind.is_special() { 0 } else { meta.size },
        device: meta.node,
        target,
        identity: several.then(|| meta.identity()),
        hash: None,
        access_lists: None,
        extended: None,
    }
}

fn attributes(
    options: &Options,
    node: &Node<'_>,
    path: &RelativePath,
    details: &mut Details,
) -> Result<(), Problem> {
    if options.preserve.access_lists && details.kind != Kind::Symlink {
        let lists = Attributes::read(node, Scope::AccessLists);
        details.access_lists = Some(lists.at("read the access list of", path)?);
    }
    if options.preserve.extended {
        let extended = Attributes::read(node, Scope::Extended);
        details.extended = Some(extended.at("read the attributes of", path)?);
    }
    Ok(())
}

fn hash(dir: &Dir, name: &Name, path: &RelativePath) -> Result<Hash, Problem> {
    let mut file = dir.open_file(name).at("open", path)?;
    let hash = Hash::of_file(&mut file).map_err(|error| errno_of(&error));
    Ok(hash.at("read", path)?.0)
}

/// A problem as text, for one whose path is not beneath a root.
pub(super) fn about(doing: &str, operand: &[u8], errno: Errno) -> String {
    format!("cannot {doing} \"{}\": {}", crate::path::escape(operand), Said(errno))
}
