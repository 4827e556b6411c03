//! Directories that are renamed, moved in and out, and removed with all beneath them.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
    process::{self, Command},
};

use ipicsha_files::{
    RelativePath,
    watch::{Hint, Method},
};

use crate::mirror::{Mirror, folders, is_there};

const EXACT: [Method; 2] = [Method::Fanotify, Method::Inotify];

fn tree(at: &Path) {
    for dir in ["a/b/c", "a/d", "e"] {
        fs::create_dir_all(at.join(dir)).expect("directories");
        fs::write(at.join(dir).join("file"), dir).expect("a file");
    }
}

/// Runs `story` on a tree inside a folder, with a folder beside it, for each method.
fn each(story: impl Fn(&mut Mirror, &Path, &Path)) {
    for method in EXACT {
        for folder in folders() {
            if !is_there(method, folder.path()) {
                continue;
            }
            let (root, beside) = (folder.path().join("root"), folder.path().join("beside"));
            fs::create_dir(&root).expect("a root");
            fs::create_dir(&beside).expect("a folder");
            tree(&root);
            let mut mirror = Mirror::start(&root, method);
            story(&mut mirror, &root, &beside);
            mirror.assert_complete();
        }
    }
}

#[test]
fn renamed_files_and_directories_are_followed() {
    each(|mirror, root, _| {
        fs::rename(root.join("a/b/c/file"), root.join("e/file")).expect("over another");
        fs::rename(root.join("a"), root.join("e/a")).expect("a directory");
        mirror.assert_complete();
        // Beneath the new name changes are noticed as well.
        fs::write(root.join("e/a/b/c/new"), "new").expect("a file");
        fs::create_dir(root.join("e/a/d/dir")).expect("a directory");
        fs::write(root.join("e/a/d/dir/new"), "new").expect("a file");
        mirror.assert_complete();
        assert!(mirror.known.contains_key(&b"e/a/d/dir/new"[..]));
        assert!(!mirror.known.keys().any(|path| path.starts_with(b"a")));
        assert_eq!(mirror.scans, 1, "single paths were enough");
    });
}

#[test]
fn names_that_change_faster_than_they_are_followed_end_right() {
    each(|mirror, root, beside| {
        let at = |path: &str| root.join(path);
        for round in 0..300 {
            fs::rename(at("a"), at("x")).expect("away");
            fs::rename(at("e"), at("a")).expect("in its place");
            fs::rename(at("x/b"), at("a/b")).expect("into it");
            fs::rename(at("a/b"), beside.join("b")).expect("out");
            fs::rename(at("x"), beside.join("x")).expect("out");
            fs::rename(beside.join("b"), beside.join("x/b")).expect("together");
            fs::rename(at("a"), at("e")).expect("back");
            fs::rename(beside.join("x"), at("a")).expect("back");
            fs::write(at(&format!("a/b/c/{round}")), "").expect("a file");
            if round % 16 == 0 {
                mirror.drain();
            }
        }
    });
}

#[test]
fn a_directory_swapped_with_one_inside_it_is_followed() {
    each(|mirror, root, _| {
        let at = |path: &str| root.join(path);
        for round in 0..100 {
            // a/b comes up, and a goes into it.
            fs::rename(at("a/b"), at("t")).expect("up");
            fs::rename(at("a"), at("t/b")).expect("down");
            fs::rename(at("t"), at("a")).expect("in place");
            fs::write(at(&format!("a/b/{round}")), "").expect("a file");
            // What cannot be followed, because a directory would be in itself, is scanned.
            if round % 7 == 0 {
                mirror.assert_complete();
            }
        }
    });
}

#[test]
fn a_directory_moved_in_is_known_with_all_beneath_it() {
    each(|mirror, root, beside| {
        tree(beside);
        fs::rename(beside.join("a"), root.join("in")).expect("moved in");
        mirror.assert_complete();
        assert!(mirror.known.contains_key(&b"in/b/c/file"[..]));
        fs::write(root.join("in/b/c/later"), "").expect("a file");
    });
}

#[test]
fn a_directory_moved_out_is_forgotten_and_not_heard_of() {
    each(|mirror, root, beside| {
        fs::rename(root.join("a"), beside.join("out")).expect("moved out");
        mirror.assert_complete();
        assert!(!mirror.known.contains_key(&b"a/b/c/file"[..]));
        let before = mirror.seen.len();
        fs::write(beside.join("out/b/c/file"), "changed").expect("a file");
        mirror.assert_complete();
        assert_eq!(mirror.seen.len(), before, "{:?}", mirror.seen);
    });
}

#[test]
fn a_removed_tree_is_forgotten_and_its_names_can_come_back() {
    each(|mirror, root, _| {
        for _ in 0..50 {
            fs::remove_dir_all(root.join("a")).expect("removed");
            tree(root);
        }
        mirror.assert_complete();
        fs::remove_dir_all(root.join("a")).expect("removed");
        mirror.assert_complete();
        assert_eq!(mirror.known.len(), 2);
        fs::write(root.join("a"), "now a file").expect("a file");
    });
}

#[test]
fn facts_and_links_and_strange_names_are_told() {
    each(|mirror, root, _| {
        use std::os::unix::fs::PermissionsExt as _;
        let strange = root.join(std::ffi::OsStr::from_bytes(b"e/\xff\n\x1b"));
        fs::write(&strange, "").expect("a file");
        symlink("../a", root.join("e/link")).expect("a link");
        fs::hard_link(root.join("e/file"), root.join("a/hard")).expect("a hard link");
        // Nobody tells the other names of a file: who knows its links looks at them.
        mirror.look(&RelativePath::new(b"e/file").expect("a path"));
        mirror.assert_complete();
        let modes = [("a/d/file", 0o600), ("a/b", 0o700)];
        for (path, mode) in modes {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(root.join(path), permissions).expect("a mode");
        }
        mirror.assert_complete();
        fs::remove_file(root.join("e/link")).expect("removed");
        fs::rename(strange, root.join("plain")).expect("renamed");
    });
}

#[test]
fn a_link_to_a_directory_is_not_entered() {
    each(|mirror, root, beside| {
        tree(beside);
        symlink(beside, root.join("link")).expect("a link");
        mirror.assert_complete();
        let before = mirror.seen.len();
        fs::write(beside.join("a/new"), "").expect("a file");
        mirror.assert_complete();
        assert_eq!(mirror.seen.len(), before, "{:?}", mirror.seen);
    });
}

#[test]
fn our_own_names_are_never_told() {
    each(|mirror, root, _| {
        let before = mirror.seen.len();
        fs::write(root.join("a/b/.ipicsha.0123456789abcdef0123.tmp"), "")
            .expect("a temporary file");
        fs::create_dir_all(root.join(".ipicsha.4567456745674567abcd.tmp/x"))
            .expect("a temporary directory");
        fs::write(root.join(".ipicsha.4567456745674567abcd.tmp/x/y"), "").expect("a file");
        fs::write(root.join(".ipicsha/note"), "").expect("a file");
        mirror.assert_complete();
        assert_eq!(mirror.seen.len(), before, "{:?}", mirror.seen);
        fs::rename(root.join("a/b/.ipicsha.0123456789abcdef0123.tmp"), root.join("a/b/whole"))
            .expect("placed");
        fs::rename(root.join(".ipicsha.4567456745674567abcd.tmp"), root.join("staged"))
            .expect("placed");
        mirror.assert_complete();
        assert!(mirror.known.contains_key(&b"a/b/whole"[..]));
        assert!(mirror.known.contains_key(&b"staged/x/y"[..]));
    });
}

#[test]
fn the_writer_is_told_where_it_is_known() {
    let Some(folder) = folders().pop() else { return };
    if !is_there(Method::Fanotify, folder.path()) {
        return;
    }
    let mut mirror = Mirror::start(folder.path(), Method::Fanotify);
    fs::write(folder.path().join("mine"), "").expect("a file");
    let path = folder.path().join("others");
    let mut other = Command::new("cp").arg("/dev/null").arg(path).spawn().expect("cp");
    let process = other.id();
    assert!(other.wait().expect("cp").success());
    mirror.assert_complete();
    let writer = |name: &str| {
        let of = |hint: &Hint| match hint {
            Hint::Entry { path, writer } => (path.to_string() == name).then_some(*writer),
            Hint::Method(_)
            | Hint::RootGone
            | Hint::Everything
            | Hint::Subtree(_)
            | Hint::Directory(_) => None,
        };
        mirror.seen.iter().find_map(of).flatten()
    };
    assert_eq!(writer("mine"), Some(process::id()));
    assert_eq!(writer("others"), Some(process));
}
