//! The tree that is sent, one directory after the other.
//!
//! Decides which entries take part, and in which order. Several sources may give one directory; then
//! the first one that has a name counts, and directories of one name are one directory. Must not
//! know the receiver.

use std::{collections::BTreeMap, io::Read, sync::Arc};

use rustix::io::Errno;

use super::details::{self, Missing};
use crate::{
    error::{AtPath, Problem},
    filter::Level,
    marker,
    meta::{Kind, Meta},
    path::{self, Name, RelativePath},
    place,
    resolve::{Dir, Root},
    sync::{
        Event, Report,
        event::Skipped,
        exit::Troubles,
        message::{Details, Entry, Listed},
        options::{Depth, Options},
    },
};

/// A merge file is a text that people write.
const MERGE_BYTES_MAX: u64 = 1024 * 1024;

/// A directory of a source.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Root>,
    pub(super) path: RelativePath,
}

impl Place {
    pub(super) fn dir(&self) -> Result<Arc<Dir>, Errno> {
        self.root.dir(&self.path)
    }
}

/// A directory whose content is sent, with the rules that hold for it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) place: Arc<Place>,
    pub(super) level: Level,
    /// File system that the source begins on.
    pub(super) device: u64,
}

/// One entry of the tree that was named, or is found.
#[derive(Debug)]
pub(super) struct Node {
    /// `None` for a directory that is only on the way.
    pub(super) details: Option<Details>,
    /// The directory it is in.
    pub(super) place: Option<Arc<Place>>,
    pub(super) contents: Vec<Content>,
    pub(super) children: BTreeMap<Name, Self>,
    /// Set when the content was read already: all of it is in `children`.
    pub(super) listed: Option<Listed>,
}

impl Node {
    /// A directory on the way.
    pub(super) fn on_the_way() -> Self {
        Self {
            details: None,
            place: None,
            contents: Vec::new(),
            children: BTreeMap::new(),
            listed: None,
        }
    }

    fn is_directory(&self) -> bool {
        self.details.as_ref().is_none_or(super::is_directory)
    }

    /// Takes in another entry of the same name: directories become one, otherwise a directory
    /// counts, otherwise the first.
    pub(super) fn merge(&mut self, other: Self) {
        match (self.is_directory(), other.is_directory()) {
            (true, true) => {
                if self.details.is_none() {
                    (self.details, self.place) = (other.details, other.place);
                }
                self.contents.extend(other.contents);
                for (name, child) in other.children {
                    match self.children.get_mut(&name) {
                        Some(known) => known.merge(child),
                        None => drop(self.children.insert(name, child)),
                    }
                }
            }
            (false, true) => *self = other,
            (true | false, false) => {}
        }
    }
}

/// One directory, ready to be told.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) path: RelativePath,
    pub(super) itself: Option<Box<Details>>,
    pub(super) files: Vec<(Entry, Arc<Place>)>,
    pub(super) directories: Vec<Name>,
    pub(super) listed: Listed,
}

/// What was found in one directory.
struct Gathered {
    nodes: BTreeMap<Name, Node>,
    /// Whether it has sources at all.
    sourced: bool,
    incomplete: bool,
}

impl Gathered {
    fn listed(&self) -> Listed {
        if self.sourced && !self.incomplete { Listed::Whole } else { Listed::Part }
    }
}

/// Goes through everything that is sent.
pub(super) struct Tree<'a> {
    options: &'a Options,
    report: &'a dyn Report,
    /// Directories to be told, the next one last.
    open: Vec<(RelativePath, Node)>,
    troubles: Troubles,
}

impl<'a> Tree<'a> {
    pub(super) fn new(options: &'a Options, report: &'a dyn Report, top: Node) -> Self {
        let open = vec![(RelativePath::root(), top)];
        Self { options, report, open, troubles: Troubles::default() }
    }

    pub(super) fn troubles(&self) -> Troubles {
        self.troubles
    }

    /// The next directory.
    pub(super) fn step(&mut self) -> Option<Step> {
        let (path, node) = self.open.pop()?;
        let known = node.listed;
        let itself = node.details.clone().map(Box::new);
        let mut gathered = self.gather(&path, node);
        if self.options.prune_empty_dirs && known.is_none() {
            gathered.nodes = self.prune(&path, gathered.nodes);
        }
        let listed = known.unwrap_or(gathered.listed());
        let (mut files, mut directories, mut below) = (Vec::new(), Vec::new(), Vec::new());
        let mut subtrees = Vec::new();
        for (name, node) in gathered.nodes {
            if node.is_directory() {
                subtrees.push((name, node));
            } else if let (Some(details), Some(place)) = (node.details, node.place) {
                files.push((Entry { name, details }, place));
            }
        }
        // Files are in their order already.
        subtrees.sort_by(|(a, _), (b, _)| path::order((a.as_bytes(), true), (b.as_bytes(), true)));
        for (name, node) in subtrees {
            // Found in this directory or named, so the path was measured.
            if let Ok(path) = path.join(&name) {
                directories.push(name);
                below.push((path, node));
            }
        }
        self.open.extend(below.into_iter().rev());
        Some(Step { path, itself, files, directories, listed })
    }

    /// Everything in a directory: what was named, then what its sources contain.
    fn gather(&mut self, path: &RelativePath, node: Node) -> Gathered {
        let sourced = !node.contents.is_empty();
        let mut gathered = Gathered { nodes: node.children, sourced, incomplete: false };
        for content in node.contents {
            let complete = match content.place.dir().at("open", path) {
                Ok(dir) => self.read(path, &content, &dir, &mut gathered.nodes),
                Err(problem) => self.missing(&problem.into()),
            };
            gathered.incomplete |= !complete;
        }
        gathered
    }

    /// Reads one source of a directory; `false` when something is missing.
    fn read(
        &mut self,
        path: &RelativePath,
        content: &Content,
        dir: &Dir,
        nodes: &mut BTreeMap<Name, Node>,
    ) -> bool {
        let level = self.enter(path, content, dir);
        let listed = match dir.list().at("list", path) {
            Ok(listed) => listed,
            Err(problem) => return self.missing(&problem.into()),
        };
        let mut complete = true;
        for listed in listed {
            if place::is_temporary(listed.name.as_bytes()) || marker::is_own(dir, &listed.name) {
                continue;
            }
            let Ok(full) = path.join(&listed.name) else {
                let too_long = Problem::new("name", path.clone(), Errno::NAMETOOLONG);
                complete &= self.missing(&too_long.into());
                continue;
            };
            // Without links that become directories the kind is known before the entry is looked at.
            let follows = self.options.copy_links || self.options.copy_dirlinks;
            if let Some(directory) = listed.directory
                && !follows
                && level.excludes(&full, directory)
            {
                continue;
            }
            match details::look(self.options, dir, &listed.name, &full) {
                Ok((details, meta)) => {
                    if level.excludes(&full, meta.kind == Kind::Directory) {
                        continue;
                    }
                    let found = self.found(&full, &listed.name, content, &level, details, &meta);
                    match (found, nodes.get_mut(&listed.name)) {
                        (Some(node), Some(known)) => known.merge(node),
                        (Some(node), None) => drop(nodes.insert(listed.name, node)),
                        (None, _) => {}
                    }
                }
                Err(missing) => complete &= self.missing(&missing),
            }
        }
        complete
    }

    /// What an entry that was found becomes; `None` when it is left out.
    fn found(
        &mut self,
        path: &RelativePath,
        name: &Name,
        content: &Content,
        level: &Level,
        details: Details,
        meta: &Meta,
    ) -> Option<Node> {
        let place = Arc::clone(&content.place);
        let mut node = Node { details: None, place: Some(place), ..Node::on_the_way() };
        if meta.kind == Kind::Directory {
            if self.options.depth == Depth::Files {
                let skipped = Skipped::Directory(path.to_string());
                self.report.event(Event::Skipped(skipped));
                return None;
            }
            let mounted = meta.device != content.device;
            if mounted && self.options.one_file_system > 1 {
                return None;
            }
            let enter = !(mounted && self.options.one_file_system > 0);
            if enter && self.options.depth == Depth::Recursive {
                // Listed a moment ago, so the path is short enough.
                let below = content.place.path.join(name).ok()?;
                let place = Place { root: Arc::clone(&content.place.root), path: below };
                let (place, level) = (Arc::new(place), level.clone());
                node.contents.push(Content { place, level, device: content.device });
            }
        }
        node.details = Some(details);
        Some(node)
    }

    /// The rules inside a directory, with those of its own files.
    fn enter(&mut self, path: &RelativePath, content: &Content, dir: &Dir) -> Level {
        if !content.level.reads_directories() {
            return content.level.clone();
        }
        let (level, errors) = content.level.enter(path, |name| read_merge_file(dir, name));
        for error in errors {
            self.troubles.failed = true;
            let text = format!("in \"{path}\": {error}");
            self.report.event(Event::Problem { text, vanished: false });
        }
        level
    }

    /// Leaves out directories that would be empty.
    fn prune(&mut self, path: &RelativePath, nodes: BTreeMap<Name, Node>) -> BTreeMap<Name, Node> {
        let mut kept = BTreeMap::new();
        for (name, mut node) in nodes {
            if node.is_directory() {
                let Ok(path) = path.join(&name) else { continue };
                // Read once: what is found here is not read again when its turn comes.
                let contents = std::mem::take(&mut node.contents);
                let whole = Node { contents, ..Node::on_the_way() };
                let children = std::mem::take(&mut node.children);
                let gathered = self.gather(&path, Node { children, ..whole });
                node.listed = Some(gathered.listed());
                node.children = self.prune(&path, gathered.nodes);
                if node.children.is_empty() {
                    continue;
                }
            }
            kept.insert(name, node);
        }
        kept
    }

    /// Tells that something is missing; whether that leaves the directory complete.
    fn missing(&mut self, missing: &Missing) -> bool {
        let vanished = missing.is_vanished();
        self.troubles.vanished |= vanished;
        self.troubles.failed |= !vanished;
        self.report.event(Event::Problem { text: missing.text(), vanished });
        vanished
    }
}

/// The content of a file of rules, when it is one.
pub(in crate::sync) fn read_merge_file(dir: &Dir, name: &Name) -> Option<Vec<u8>> {
    let file = dir.open_file(name).ok()?;
    let mut content = Vec::new();
    file.take(MERGE_BYTES_MAX).read_to_end(&mut content).ok()?;
    Some(content)
}
