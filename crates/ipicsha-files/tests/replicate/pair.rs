//! Two nodes with their directories, and what can happen to them.

use std::{
    collections::HashMap,
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use ipicsha_core::license::LicensedRole;
use ipicsha_files::Hash;
use tempfile::TempDir;

use crate::{
    link::Link,
    node::{self, Home},
    walk::{self, Tree},
    wire::ToNode,
};

/// Ends a hanging test; nothing is measured by it.
pub(crate) const HANG: Duration = Duration::from_secs(60);
/// A flush that does not come back is tried again, because a cut may have met it.
const FLUSH: Duration = Duration::from_secs(5);

pub(crate) struct Pair {
    folders: Vec<TempDir>,
    pub(crate) homes: [Home; 2],
    nodes: [Option<Child>; 2],
    listeners: [UnixListener; 2],
    pub(crate) link: Arc<Link>,
    flushes: u64,
}

impl Pair {
    /// Two nodes with empty directories; their state may be on another file system.
    pub(crate) fn start(memory: [bool; 2]) -> Self {
        let [roots, states] = memory.map(|memory| {
            let folder = memory.then(|| tempfile::tempdir_in("/dev/shm").ok()).flatten();
            folder.unwrap_or_else(|| tempfile::tempdir().expect("a folder"))
        });
        let homes = [("a", LicensedRole::Primary), ("b", LicensedRole::Secondary)];
        let homes = homes.map(|(name, rank)| Home {
            root: roots.path().join(name),
            state: states.path().join(format!("{name}.state")),
            away: roots.path().join(format!("{name}.away")),
            log: roots.path().join(format!("{name}.log")),
            rank,
        });
        let listeners = homes.each_ref().map(|home| {
            fs::create_dir(&home.root).expect("a root");
            fs::create_dir(&home.state).expect("a state");
            fs::create_dir(&home.away).expect("a folder");
            UnixListener::bind(socket(home)).expect("a socket")
        });
        let (folders, link) = (vec![roots, states], Arc::default());
        let mut pair = Self { folders, homes, nodes: [None, None], listeners, link, flushes: 0 };
        pair.run(0);
        pair.run(1);
        pair
    }

    /// Starts the node of a side.
    pub(crate) fn run(&mut self, side: usize) {
        let home = &self.homes[side];
        self.nodes[side] = Some(node::start(home, &socket(home)));
        let (stream, _) = self.listeners[side].accept().expect("the node connects");
        self.link.attach(side, stream);
    }

    /// Kills the node of a side, as a power switch would; the partner's connection breaks, too.
    pub(crate) fn kill(&mut self, side: usize) {
        self.link.detach(side);
        if let Some(mut node) = self.nodes[side].take() {
            node.kill().expect("it is ours");
            node.wait().expect("it is ours");
        }
        self.link.connect(1 - side, false);
    }

    pub(crate) fn gate(&self, side: usize, open: bool) {
        self.link.tell(side, &ToNode::Gate(open));
    }

    /// Everything is well again.
    pub(crate) fn heal(&mut self) {
        self.link.set_slow(false);
        for side in 0..2 {
            if self.nodes[side].is_none() {
                self.run(side);
            }
        }
        for side in 0..2 {
            self.gate(side, true);
            if self.link.side(side, |known| known.connection) == 0 {
                self.link.connect(side, true);
            }
        }
    }

    /// Both sides, seen now.
    pub(crate) fn trees(&self) -> [Tree; 2] {
        self.homes.each_ref().map(|home| walk::tree(&home.root))
    }

    /// Contents in the stores of what is kept.
    pub(crate) fn kept(&self) -> HashMap<Hash, PathBuf> {
        let kept = |home: &Home| walk::contents(&walk::tree(&home.state.join("kept")));
        self.homes.iter().flat_map(kept).collect()
    }

    /// Both nodes say that the partner has everything; whether they did.
    fn flush(&mut self) -> Result<(), String> {
        self.flushes += 1;
        let number = self.flushes;
        for side in 0..2 {
            self.link.tell(side, &ToNode::Flush(number));
        }
        let is_answered = |known: &crate::link::Side| {
            known.died || known.flushed.as_ref().is_some_and(|(answered, _)| *answered == number)
        };
        if !self.link.wait(FLUSH, |sides| sides.iter().all(is_answered)) {
            return Err("a flush was not answered".into());
        }
        for side in 0..2 {
            self.link.side(side, |known| match &known.flushed {
                _ if known.died => Err(format!("node {side} ended by itself")),
                Some((_, Err(refused))) => Err(format!("a flush was refused: {refused}")),
                Some((_, Ok(()))) | None => Ok(()),
            })?;
        }
        Ok(())
    }

    fn settled(&mut self) -> Result<[Tree; 2], String> {
        self.flush()?;
        let [a, b] = self.trees();
        let differences = walk::differences(&a, &b);
        if !differences.is_empty() {
            let shown = &differences[..differences.len().min(12)];
            return Err(format!("{} differences:\n{}", differences.len(), shown.join("\n")));
        }
        Ok([a, b])
    }

    /// Waits until both sides are equal and stay so, and neither has anything to do.
    pub(crate) fn converge(&mut self) -> Result<Tree, String> {
        let end = Instant::now() + HANG;
        let mut last = self.settled();
        loop {
            let first = last;
            let idle = self.link.wait(Duration::from_millis(20), |sides| {
                let idle = |known: &crate::link::Side| {
                    known.status.as_ref().is_some_and(|s| s.to_send == 0 && s.to_fetch == 0)
                };
                sides.iter().all(idle)
            });
            last = self.settled();
            if [0, 1].iter().any(|side| self.link.side(*side, |known| known.died)) {
                return Err(format!("a node ended by itself\n{}", self.state()));
            }
            match (&first, &last) {
                (Ok(before), Ok([a, _])) if idle && before[0] == *a => return Ok(a.clone()),
                _ if Instant::now() < end => {}
                (_, Err(problem)) => return Err(format!("{problem}\n{}", self.state())),
                _ => return Err(format!("not idle, or changing all the time\n{}", self.state())),
            }
        }
    }

    /// What the nodes say about themselves, for people.
    pub(crate) fn state(&self) -> String {
        let mut text = String::new();
        for side in 0..2 {
            let status = self.link.side(side, |known| format!("{:?}", known.status));
            let log = fs::read_to_string(&self.homes[side].log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            text += &format!("side {side}: {status}\nlog: {tail}\n");
        }
        let [a, b] = self.trees();
        for (path, fact) in a {
            let there = b.get(&path);
            let same = if there == Some(&fact) { " (on both)" } else { "" };
            text += &format!("on side 0 {}{same}: {fact:?}\n", path.display());
        }
        text
    }

    /// Leaves the folders for being looked at.
    pub(crate) fn keep(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.folders).into_iter().map(TempDir::keep).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in 0..2 {
            self.kill(side);
        }
    }
}

fn socket(home: &Home) -> PathBuf {
    Path::new(&home.log).with_extension("socket")
}
