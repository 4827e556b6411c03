//! Random histories of two writers: whatever they do, hints lead to what is there.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use ipicsha_files::watch::Method;

use crate::mirror::{Mirror, folders, is_there};

const HISTORIES: u64 = 200;
const STEPS: usize = 150;

/// A small generator, so that a seed is a history.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// A path of few names, so that writers meet; now and then outside of the root.
    fn path(&mut self, folder: &Path) -> PathBuf {
        let top = if self.below(8) == 0 { "beside" } else { "root" };
        let depth = 1 + self.below(4);
        let mut path = folder.join(top);
        for _ in 0..depth {
            path.push(["a", "b", "c"][self.below(3) as usize]);
        }
        path
    }
}

/// Most steps fail, because a name is taken or missing; that is how it is with two writers.
fn step(random: &mut Random, folder: &Path) {
    let path = random.path(folder);
    let _ = match random.below(12) {
        0..=3 => fs::create_dir_all(&path),
        4..=6 => fs::write(path.join("file"), random.below(1000).to_string()),
        7..=9 => fs::rename(&path, random.path(folder)),
        10 => fs::remove_dir_all(&path),
        _ => fs::rename(path.join("file"), random.path(folder).join("file")),
    };
}

#[test]
fn whatever_two_writers_do_is_known_in_the_end() {
    for method in [Method::Fanotify, Method::Inotify] {
        let Some(folder) = folders().pop() else { continue };
        if !is_there(method, folder.path()) {
            continue;
        }
        let root = folder.path().join("root");
        fs::create_dir_all(&root).expect("a root");
        fs::create_dir_all(folder.path().join("beside")).expect("a folder");
        let mut mirror = Mirror::start(&root, method);
        for seed in 0..HISTORIES {
            let write = |seed: u64| {
                let mut random = Random(seed);
                (0..STEPS).for_each(|_| step(&mut random, folder.path()));
            };
            thread::scope(|scope| {
                let writers = [2 * seed, 2 * seed + 1].map(|seed| scope.spawn(move || write(seed)));
                while !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
                    mirror.handle_some();
                }
            });
            eprintln!("{method}, history {seed}");
            mirror.assert_complete();
        }
        // The tree is still followed, and not only scanned.
        mirror.settle();
        let scans = mirror.scans;
        let deep = root.join("new/x/y");
        fs::create_dir_all(&deep).expect("directories");
        fs::write(deep.join("file"), "").expect("a file");
        mirror.assert_complete();
        fs::rename(root.join("new"), root.join("old")).expect("renamed");
        fs::write(root.join("old/x/y/later"), "").expect("a file");
        mirror.assert_complete();
        assert_eq!(mirror.scans, scans);
    }
}
