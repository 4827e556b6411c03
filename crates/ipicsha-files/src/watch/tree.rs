//! The directories that are covered: which key of the kernel is which path.
//!
//! Decides nothing; keeps names and parents. Must not touch the file system.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use super::names;

/// Number of a directory; that of one that was removed is given again.
pub(super) type Id = usize;

/// The root's number.
pub(super) const ROOT: Id = 0;

struct Node<K> {
    key: K,
    inode: u64,
    parent: Id,
    name: Box<[u8]>,
    children: HashMap<Box<[u8]>, Id>,
    /// The listing that saw it last.
    round: u64,
}

/// Directories by the kernel's key and by parent and name.
pub(super) struct Tree<K> {
    nodes: Vec<Option<Node<K>>>,
    free: Vec<Id>,
    by_key: HashMap<K, Id>,
}

impl<K: Clone + Eq + Hash> Tree<K> {
    pub(super) fn new(root: K, inode: u64) -> Self {
        let mut tree = Self { nodes: Vec::new(), free: Vec::new(), by_key: HashMap::new() };
        tree.put(Node {
            key: root,
            inode,
            parent: ROOT,
            name: Box::default(),
            children: HashMap::new(),
            round: u64::MAX,
        });
        tree
    }

    fn put(&mut self, node: Node<K>) -> Id {
        let id = self.free.pop().unwrap_or(self.nodes.len());
        if id == self.nodes.len() {
            self.nodes.push(None);
        }
        self.by_key.insert(node.key.clone(), id);
        self.nodes[id] = Some(node);
        id
    }

    fn node(&self, id: Id) -> Option<&Node<K>> {
        self.nodes.get(id)?.as_ref()
    }

    pub(super) fn id_of<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Id>
    where
        K: Borrow<Q>,
    {
        self.by_key.get(key).copied()
    }

    pub(super) fn is_alive(&self, id: Id) -> bool {
        self.node(id).is_some()
    }

    /// Whether `id` is a directory with this inode.
    pub(super) fn is(&self, id: Id, inode: u64) -> bool {
        self.node(id).is_some_and(|node| node.inode == inode)
    }

    pub(super) fn child(&self, id: Id, name: &[u8]) -> Option<Id> {
        self.node(id)?.children.get(name).copied()
    }

    /// The directories in it that are known.
    pub(super) fn children(&self, id: Id) -> Vec<(Box<[u8]>, Id)> {
        let children = self.node(id).map(|node| &node.children);
        children.into_iter().flatten().map(|(name, id)| (name.clone(), *id)).collect()
    }

    /// Parent and name; `None` for the root and for what is not there.
    pub(super) fn place(&self, id: Id) -> Option<(Id, Box<[u8]>)> {
        let node = self.node(id).filter(|_| id != ROOT)?;
        Some((node.parent, node.name.clone()))
    }

    /// The path beneath the root.
    pub(super) fn path(&self, mut id: Id) -> Vec<u8> {
        let mut names = Vec::new();
        while let Some(node) = self.node(id).filter(|_| id != ROOT) {
            names.push(&*node.name);
            id = node.parent;
        }
        names.iter().rev().fold(Vec::new(), |path, name| names::join(&path, name))
    }

    /// Whether `id` is `other` or beneath it.
    pub(super) fn is_within(&self, mut id: Id, other: Id) -> bool {
        loop {
            if id == other {
                return true;
            }
            match self.node(id) {
                Some(node) if id != ROOT => id = node.parent,
                Some(_) | None => return false,
            }
        }
    }

    pub(super) fn see(&mut self, id: Id, round: u64) {
        if let Some(node) = self.nodes.get_mut(id).and_then(Option::as_mut) {
            node.round = round;
        }
    }

    /// A directory that was not known, at a place where none is known.
    pub(super) fn insert(
        &mut self,
        (parent, name): (Id, &[u8]),
        key: K,
        inode: u64,
        round: u64,
    ) -> Id {
        let children = HashMap::new();
        let id = self.put(Node { key, inode, parent, name: name.into(), children, round });
        if let Some(node) = self.nodes[parent].as_mut() {
            node.children.insert(name.into(), id);
        }
        id
    }

    /// Puts a known directory with all beneath it where it is now. What was known there is removed,
    /// and its keys are returned. `parent` must not be beneath `id`.
    pub(super) fn move_to(&mut self, id: Id, parent: Id, name: &[u8]) -> Vec<K> {
        self.unlink(id);
        let displaced =
            self.nodes[parent].as_mut().and_then(|node| node.children.insert(name.into(), id));
        if let Some(node) = self.nodes[id].as_mut() {
            node.parent = parent;
            node.name = name.into();
        }
        displaced.map_or_else(Vec::new, |displaced| self.remove_detached(displaced))
    }

    /// Takes `id` out of its parent's list, if it is still in it.
    fn unlink(&mut self, id: Id) {
        let Some((parent, name)) = self.place(id) else { return };
        if let Some(node) = self.nodes[parent].as_mut()
            && node.children.get(&name) == Some(&id)
        {
            node.children.remove(&name);
        }
    }

    /// Forgets a directory with all beneath it, and returns the keys. The root stays.
    pub(super) fn remove(&mut self, id: Id) -> Vec<K> {
        if id == ROOT {
            return Vec::new();
        }
        self.unlink(id);
        self.remove_detached(id)
    }

    fn remove_detached(&mut self, id: Id) -> Vec<K> {
        let mut keys = Vec::new();
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            let Some(node) = self.nodes[id].take() else { continue };
            self.free.push(id);
            self.by_key.remove(&node.key);
            stack.extend(node.children.into_values());
            keys.push(node.key);
        }
        keys
    }

    /// Forgets what the listing `round` did not see.
    pub(super) fn sweep(&mut self, round: u64) -> Vec<K> {
        let unseen: Vec<Id> = (1..self.nodes.len())
            .filter(|id| self.node(*id).is_some_and(|node| node.round != round))
            .collect();
        unseen.into_iter().flat_map(|id| self.remove(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Tree<u32>, [Id; 3]) {
        let mut tree = Tree::new(1, 1);
        let a = tree.insert((ROOT, b"a"), 2, 2, 0);
        let b = tree.insert((a, b"b"), 3, 3, 0);
        let c = tree.insert((ROOT, b"c"), 4, 4, 0);
        (tree, [a, b, c])
    }

    #[test]
    fn a_moved_directory_takes_all_beneath_it_along() {
        let (mut tree, [a, b, c]) = sample();
        assert_eq!(tree.path(b), b"a/b");
        assert!(tree.move_to(a, c, b"x").is_empty());
        assert_eq!(tree.path(b), b"c/x/b");
        assert_eq!(tree.child(ROOT, b"a"), None);
        assert!(tree.is_within(b, c) && !tree.is_within(c, a));
    }

    #[test]
    fn what_was_at_the_place_is_removed_with_all_beneath_it() {
        let (mut tree, [a, b, c]) = sample();
        let mut gone = tree.move_to(c, ROOT, b"a");
        gone.sort_unstable();
        assert_eq!(gone, [2, 3]);
        assert_eq!((tree.id_of(&2), tree.id_of(&3), tree.id_of(&4)), (None, None, Some(c)));
        assert!(!tree.is_alive(a) && !tree.is_alive(b));
        assert_eq!((tree.path(c), tree.by_key.len()), (b"a".to_vec(), 2));
    }

    #[test]
    fn a_directory_can_take_the_place_of_one_it_was_in() {
        let (mut tree, [a, b, _]) = sample();
        assert_eq!(tree.move_to(b, ROOT, b"a"), [2]);
        assert!(!tree.is_alive(a));
        assert_eq!(tree.path(b), b"a");
    }

    #[test]
    fn what_a_listing_did_not_see_goes() {
        let (mut tree, [a, b, c]) = sample();
        tree.see(a, 1);
        tree.see(c, 1);
        assert_eq!(tree.sweep(1), [3]);
        assert!(tree.is_alive(a) && !tree.is_alive(b));
        assert!(tree.remove(ROOT).is_empty());
    }
}
