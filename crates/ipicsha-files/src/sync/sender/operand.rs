//! What was typed as sources, as the top of the tree that is sent.
//!
//! Decides what a trailing slash, `-R` and a list of names mean. Must not go into directories.

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;

use super::{
    details::{self, Missing},
    tree::{Content, Node, Place},
};
use crate::{
    error::AtPath,
    filter::{Half, Level},
    marker,
    meta::{Kind, Meta},
    path::{Name, RelativePath, escape},
    resolve::Links,
    sync::{
        Event, Report,
        event::Skipped,
        exit::{Exit, Fatal, Troubles},
        options::{Depth, Options},
        territory::Outside,
    },
};

/// The top of the tree, and what went wrong on the way to it.
pub(super) struct Planned {
    pub(super) top: Node,
    pub(super) entries: u64,
    pub(super) directories: bool,
    pub(super) troubles: Troubles,
}

/// Looks at everything that was named.
pub(super) fn plan(
    options: &Options,
    sources: &[Vec<u8>],
    report: &dyn Report,
) -> Result<Planned, Fatal> {
    let mut planner = Planner {
        options,
        report,
        top: Node::on_the_way(),
        troubles: Troubles::default(),
        places: HashMap::new(),
        entries: 0,
        directories: false,
    };
    for source in sources {
        match &options.files_from {
            Some(names) => planner.names(source, names)?,
            None if options.relative => planner.relative(source)?,
            None => planner.operand(source),
        }
    }
    let Planner { top, entries, directories, troubles, .. } = planner;
    Ok(Planned { top, entries, directories, troubles })
}

struct Planner<'a> {
    options: &'a Options,
    report: &'a dyn Report,
    top: Node,
    troubles: Troubles,
    /// Directories that several names are in.
    places: HashMap<Vec<u8>, Arc<Place>>,
    entries: u64,
    directories: bool,
}

/// Whether only the content of a directory is meant.
fn is_content(operand: &[u8]) -> bool {
    let last = operand.rsplit(|b| *b == b'/').next().unwrap_or_default();
    matches!(last, b"" | b"." | b"..")
}

fn to_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if bytes.is_empty() { b"." } else { bytes }))
}

/// Directory and last name of what was typed.
fn split(operand: &[u8]) -> (&[u8], &[u8]) {
    match operand.iter().rposition(|b| *b == b'/') {
        Some(0) => (b"/", &operand[1..]),
        Some(at) => (&operand[..at], &operand[at + 1..]),
        None => (b".", operand),
    }
}

impl Planner<'_> {
    fn links(&self) -> Links {
        let follows = self.options.copy_links || self.options.copy_dirlinks;
        if follows { Links::Follow } else { Links::Refuse }
    }

    fn problem(&mut self, text: String) {
        self.troubles.failed = true;
        self.report.event(Event::Problem { text, vanished: false });
    }

    fn missing(&mut self, operand: &[u8], missing: &Missing) {
        let text = match missing {
            Missing::Problem(problem) => details::about(problem.doing, operand, problem.errno),
            Missing::NoReferent(_) => missing.text(),
        };
        self.problem(text);
    }

    fn place(&self, dir: &[u8]) -> Result<Arc<Place>, Errno> {
        let path = self.options.territory.join(Path::new(""), to_path(dir).as_os_str().as_bytes());
        let root = self.options.territory.open(&path, self.links())?;
        Ok(Arc::new(Place { root: Arc::new(root), path: RelativePath::root() }))
    }

    /// An operand without `-R`.
    fn operand(&mut self, operand: &[u8]) {
        if is_content(operand) {
            return self.content(operand);
        }
        let (dir, name) = split(operand);
        let place = match self.place(dir) {
            Ok(place) => place,
            Err(errno) => return self.problem(details::about("open the source", operand, errno)),
        };
        let level = self.level(to_path(dir), Ancestors::WithRoot);
        let found = Name::new(name)
            .map_err(|_| Errno::NAMETOOLONG)
            .map(|name| (RelativePath::from(name.clone()), name));
        match found {
            Ok((path, name)) => self.named(operand, &path, &name, &place, &level, Inside::ByDepth),
            Err(errno) => self.problem(details::about("look at", operand, errno)),
        }
    }

    /// `dir/`: what is in the directory goes to the top.
    fn content(&mut self, operand: &[u8]) {
        let place = match self.place(operand) {
            Ok(place) => place,
            Err(errno) => return self.problem(details::about("open the source", operand, errno)),
        };
        if self.options.depth == Depth::Files {
            let skipped = Skipped::Directory(".".to_owned());
            return self.report.event(Event::Skipped(skipped));
        }
        let path = RelativePath::root();
        let details = match details::look_at_dir(self.options, place.root.top(), &path) {
            Ok(details) => details,
            Err(problem) => return self.missing(operand, &problem.into()),
        };
        let level = self.level(to_path(operand), Ancestors::Above);
        self.entries += 1;
        self.directories = true;
        let device = place.root.device();
        let contents = vec![Content { place: Arc::clone(&place), level, device }];
        let node = Node { details: Some(details), contents, ..Node::on_the_way() };
        self.top.merge(node);
    }

    /// The entry `name` in `place`, which becomes `path` in the transfer.
    fn named(
        &mut self,
        operand: &[u8],
        path: &RelativePath,
        name: &Name,
        place: &Arc<Place>,
        level: &Level,
        inside: Inside,
    ) {
        let dir = match place.dir().at("open", &place.path) {
            Ok(dir) => dir,
            Err(problem) => return self.missing(operand, &problem.into()),
        };
        let (details, meta) = match details::look(self.options, &dir, name, path) {
            Ok(found) => found,
            Err(missing) => return self.missing(operand, &missing),
        };
        let directory = meta.kind == Kind::Directory;
        if level.excludes(path, directory) || marker::is_own(&dir, name) {
            return;
        }
        if directory && self.options.depth == Depth::Files {
            let skipped = Skipped::Directory(path.to_string());
            return self.report.event(Event::Skipped(skipped));
        }
        let mut node = Node { place: Some(Arc::clone(place)), ..Node::on_the_way() };
        let listed = inside == Inside::Listed || self.options.depth == Depth::Recursive;
        if directory && listed {
            let Ok(below) = place.path.join(name) else {
                let text = details::about("name", operand, Errno::NAMETOOLONG);
                return self.problem(text);
            };
            let place = Arc::new(Place { root: Arc::clone(&place.root), path: below });
            let level = level.clone();
            node.contents.push(Content { place, level, device: meta.device });
        }
        node.details = Some(details);
        self.entries += 1;
        self.directories |= directory;
        self.insert(path, node);
    }

    fn insert(&mut self, path: &RelativePath, node: Node) {
        let mut at = &mut self.top;
        for name in path.names() {
            at = at.children.entry(name).or_insert_with(Node::on_the_way);
        }
        // What is only on the way so far has nothing that could be lost.
        if at.details.is_none() && at.children.is_empty() && at.contents.is_empty() {
            *at = node;
        } else {
            at.merge(node);
        }
    }

    /// `-R`: the directories on the way are part of the name.
    fn relative(&mut self, operand: &[u8]) -> Result<(), Fatal> {
        let dot = operand.windows(3).position(|part| part == b"/./");
        let (base, rest) = match dot {
            Some(0) => (&b"/"[..], &operand[3..]),
            Some(at) => (&operand[..at], &operand[at + 3..]),
            None if operand.starts_with(b"/") => (&b"/"[..], operand),
            None => (&b"."[..], operand),
        };
        self.beneath(operand, base, rest, Inside::ByDepth)
    }

    /// `--files-from`: names beneath one source.
    fn names(&mut self, base: &[u8], names: &[Vec<u8>]) -> Result<(), Fatal> {
        let found = self.options.territory.kind(to_path(base));
        if let Err(errno) = found.and_then(|kind| kind.ok_or(Errno::NOENT)) {
            let text = details::about("use the source", base, errno);
            return Err(Fatal::new(Exit::Selection, text));
        }
        for name in names {
            if self.options.relative {
                self.beneath(name, base, name, Inside::ByDepth)?;
            } else {
                self.operand(&[base, b"/", name].concat());
            }
        }
        Ok(())
    }

    /// `rest` in the directory `base`, with the directories between.
    fn beneath(
        &mut self,
        operand: &[u8],
        base: &[u8],
        rest: &[u8],
        inside: Inside,
    ) -> Result<(), Fatal> {
        let start = rest.iter().position(|b| *b != b'/').unwrap_or(rest.len());
        let path = match RelativePath::from_typed(&rest[start..]) {
            Ok(path) => path,
            Err(error) => {
                self.problem(format!("cannot use \"{}\": {error}", escape(operand)));
                return Ok(());
            }
        };
        let inside = if is_content(rest) { Inside::Listed } else { inside };
        let Some((parent, name)) = path.split() else {
            // The base itself: all that is in it.
            self.content(base);
            return Ok(());
        };
        if !self.on_the_way(operand, base, &parent) {
            return Ok(());
        }
        let level = self.level(to_path(base), Ancestors::WithRoot);
        match self.place_beneath(base, &parent) {
            Ok(place) => self.named(operand, &path, &name, &place, &level, inside),
            Err(errno) => self.problem(details::about("open the source", operand, errno)),
        }
        Ok(())
    }

    /// Names the directories between the base and an entry; `false` when one is missing.
    fn on_the_way(&mut self, operand: &[u8], base: &[u8], parent: &RelativePath) -> bool {
        let mut at = RelativePath::root();
        for name in parent.names() {
            let Ok(path) = at.join(&name) else { return false };
            at = path;
            if self.options.no_implied_dirs {
                continue;
            }
            let full: PathBuf = to_path(base).join(OsStr::from_bytes(at.as_bytes()));
            let full = self.options.territory.join(Path::new(""), full.as_os_str().as_bytes());
            let written = full.as_os_str().as_bytes();
            if self.options.territory.check(None, written) == Err(Outside::NotAllowed) {
                // What lies above the allowed directories is nobody's business.
                continue;
            }
            let opened = self.options.territory.open(&full, Links::Refuse);
            match opened.and_then(|root| Meta::of(&**root.top())) {
                Ok(meta) => {
                    let details = Some(details::of_meta(self.options, &meta, None));
                    self.entries += 1;
                    self.insert(&at, Node { details, ..Node::on_the_way() });
                }
                Err(errno) => {
                    self.problem(details::about("open the source", operand, errno));
                    return false;
                }
            }
        }
        self.directories |= !parent.is_root();
        true
    }

    /// A directory beneath the base; links on the way are those of the user of this machine.
    fn place_beneath(&mut self, base: &[u8], parent: &RelativePath) -> Result<Arc<Place>, Errno> {
        if self.options.territory.is_confined() {
            return self.place(&[base, b"/", parent.as_bytes()].concat());
        }
        let top = match self.places.get(base) {
            Some(top) => Arc::clone(top),
            None => {
                let top = self.place(base)?;
                self.places.insert(base.to_vec(), Arc::clone(&top));
                top
            }
        };
        match top.root.dir(parent) {
            Ok(_) => Ok(Arc::new(Place { root: Arc::clone(&top.root), path: parent.clone() })),
            Err(Errno::LOOP) => self.place(&[base, b"/", parent.as_bytes()].concat()),
            Err(errno) => Err(errno),
        }
    }

    /// The rules at the top of a tree.
    fn level(&mut self, root: &Path, ancestors: Ancestors) -> Level {
        if self.options.rules.is_empty() {
            return Level::new(&self.options.rules, Half::Sender, b"/");
        }
        let territory = &self.options.territory;
        let absolute = territory.absolute(root);
        let mut level = Level::new(&self.options.rules, Half::Sender, &absolute);
        if !level.reads_directories() {
            return level;
        }
        let path = to_path(&absolute).to_owned();
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        if ancestors == Ancestors::Above {
            above.pop();
        }
        for dir in above {
            // An ancestor of the path, so it is its begin.
            let between = path.strip_prefix(dir).unwrap_or(Path::new(""));
            let held = territory.open(dir, Links::Follow).ok();
            let read = |name: &Name| super::read_merge_file(held.as_ref()?.top(), name);
            let (entered, errors) = level.enter_above(between.as_os_str().as_bytes(), read);
            level = entered;
            for error in errors {
                self.problem(error.to_string());
            }
        }
        level
    }
}

/// Which directories above the tree may hold rules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ancestors {
    /// Those above the root: the root itself is entered as part of the tree.
    Above,
    /// The root too, because only one entry of it is part of the tree.
    WithRoot,
}

/// Whether the content of a named directory is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// With `-r` only.
    ByDepth,
    /// A trailing slash asks for it.
    Listed,
}
