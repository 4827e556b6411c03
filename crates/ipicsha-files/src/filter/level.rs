//! The rules that hold in one directory of a tree.
//!
//! Decides what is inherited from above. Must not read files: their content is handed in.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    FilterError, Half, Rules, Verdict,
    parse::{Item, RulesConfig, Spec},
    rule::Base,
};
use crate::path::{Name, RelativePath};

/// Rules of one directory's file, before those inherited from above.
#[derive(Debug)]
struct Node {
    items: Vec<Item>,
    inherited: Option<Arc<Self>>,
}

/// The rules that hold for the entries of one directory.
#[derive(Clone, Debug)]
pub struct Level {
    half: Half,
    items: Arc<Vec<Item>>,
    config: RulesConfig,
    /// Absolute path of the tree's root.
    root: Arc<[u8]>,
    specs: Vec<Arc<Spec>>,
    found: BTreeMap<usize, Arc<Node>>,
}

impl Level {
    /// Before any directory is entered. `root` is the absolute path of the tree's root, for rules
    /// that are compared with it.
    pub fn new(rules: &Rules, half: Half, root: &[u8]) -> Self {
        let specs = specs_of(&rules.items);
        Self {
            half,
            items: Arc::new(rules.items.clone()),
            config: rules.config,
            root: root.into(),
            specs,
            found: BTreeMap::new(),
        }
    }

    /// Whether directories may hold rules of their own.
    pub fn reads_directories(&self) -> bool {
        !self.specs.is_empty()
    }

    /// The rules inside the directory `at`. `read` gives the content of a file in it, or `None`.
    ///
    /// # Errors
    /// A file holds something that is no rule; it is told, the other files count.
    pub fn enter(
        &self,
        at: &RelativePath,
        read: impl FnMut(&Name) -> Option<Vec<u8>>,
    ) -> (Self, Vec<FilterError>) {
        self.enter_at(&Base::Beneath(at.clone()), read, |_| true)
    }

    /// The rules of a directory above the root, from which `between` leads to the root. Only files
    /// that are looked for above are read.
    pub fn enter_above(
        &self,
        between: &[u8],
        read: impl FnMut(&Name) -> Option<Vec<u8>>,
    ) -> (Self, Vec<FilterError>) {
        self.enter_at(&Base::Above(between.to_vec()), read, |spec| spec.above)
    }

    fn enter_at(
        &self,
        base: &Base,
        mut read: impl FnMut(&Name) -> Option<Vec<u8>>,
        wanted: impl Fn(&Spec) -> bool,
    ) -> (Self, Vec<FilterError>) {
        let mut level = self.clone();
        let mut errors = Vec::new();
        let mut at = 0;
        while let Some(spec) = level.specs.get(at).cloned() {
            at += 1;
            let inherited = level.found.remove(&spec.id).filter(|_| spec.inherited);
            let content = if wanted(&spec) { read(&spec.name) } else { None };
            let parsed = content.map(|content| spec.parse(&content, base, self.config));
            let node = match parsed {
                None => inherited,
                Some(Err(error)) => {
                    errors.push(error);
                    inherited
                }
                Some(Ok(mut items)) => {
                    level.specs.extend(specs_of(&items));
                    let cleared = items.contains(&Item::Clear);
                    items.retain(|item| *item != Item::Clear);
                    let inherited = inherited.filter(|_| !cleared);
                    Some(Arc::new(Node { items, inherited }))
                }
            };
            level.found.extend(node.map(|node| (spec.id, node)));
        }
        (level, errors)
    }

    /// What the first rule that matches says; `None` when none does.
    pub fn check(&self, path: &RelativePath, directory: bool) -> Option<Verdict> {
        self.first(&self.items, path, directory, Deleting::No)
    }

    /// The same for what is in a directory that is being deleted: some rules give way there.
    pub fn check_inside_deleted(&self, path: &RelativePath, directory: bool) -> Option<Verdict> {
        self.first(&self.items, path, directory, Deleting::Yes)
    }

    /// Whether an entry takes no part.
    pub fn excludes(&self, path: &RelativePath, directory: bool) -> bool {
        self.check(path, directory) == Some(Verdict::Exclude)
    }

    fn first(
        &self,
        items: &[Item],
        path: &RelativePath,
        directory: bool,
        deleting: Deleting,
    ) -> Option<Verdict> {
        items.iter().find_map(|item| match item {
            Item::Clear => None,
            Item::Rule(rule) => {
                let speaks =
                    rule.sides.has(self.half) && !(rule.perishable && deleting == Deleting::Yes);
                (speaks && rule.matches(path, directory, &self.root)).then_some(rule.verdict)
            }
            Item::PerDirectory(spec) => {
                let mut node = self.found.get(&spec.id);
                while let Some(at) = node {
                    let verdict = self.first(&at.items, path, directory, deleting);
                    if verdict.is_some() {
                        return verdict;
                    }
                    node = at.inherited.as_ref();
                }
                None
            }
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deleting {
    No,
    Yes,
}

fn specs_of(items: &[Item]) -> Vec<Arc<Spec>> {
    let spec = |item: &Item| match item {
        Item::PerDirectory(spec) => Some(Arc::clone(spec)),
        Item::Rule(_) | Item::Clear => None,
    };
    items.iter().filter_map(spec).collect()
}
