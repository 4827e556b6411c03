//! A tree that nothing may touch, with the same names as the one that is worked on.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

/// Path, kind and mode, number, size, time of the last change of anything, content.
type Seen = (PathBuf, u32, u64, u64, (i64, i64), Vec<u8>);

pub(crate) struct Outside {
    path: PathBuf,
    before: Vec<Seen>,
}

impl Outside {
    /// Makes it: what a receiver wants to replace, to change and to delete is all there.
    pub(crate) fn make(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("below")).expect("directories");
        for name in ["f0", "f1", "f2", "below/f0", "below/f1", "extra", "below/extra"] {
            fs::write(path.join(name), "outside").expect("a file");
        }
        symlink("f0", path.join("link")).expect("a link");
        let before = look(&path);
        Self { path, before }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn assert_untouched(&self) {
        assert_eq!(look(&self.path), self.before, "an escape");
    }
}

fn look(path: &Path) -> Vec<Seen> {
    let meta = fs::symlink_metadata(path).expect("facts");
    let content = if meta.is_file() { fs::read(path).expect("a content") } else { Vec::new() };
    let changed = (meta.ctime(), meta.ctime_nsec());
    let mut seen = vec![(path.into(), meta.mode(), meta.ino(), meta.size(), changed, content)];
    if meta.is_dir() {
        let list = fs::read_dir(path).expect("a list");
        let mut below: Vec<_> = list.map(|entry| entry.expect("an entry").path()).collect();
        below.sort();
        seen.extend(below.iter().flat_map(|path| look(path)));
    }
    seen
}

#[test]
fn a_change_outside_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let outside = Outside::make(folder.path().join("outside"));
    outside.assert_untouched();
    let path = outside.path().join("below/f0");
    let mode = fs::metadata(&path).expect("facts").permissions();
    fs::set_permissions(&path, mode).expect("the same mode");
    assert_ne!(look(outside.path()), outside.before);
}
