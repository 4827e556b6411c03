//! Whatever stands in the way: nothing is reached that is not beneath the root.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::symlink,
    sync::atomic::AtomicBool,
};

use super::*;
use crate::path::Name;

fn path(text: &str) -> RelativePath {
    RelativePath::new(text.as_bytes()).expect("a path")
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// The same root by one call and by a walk.
fn both(at: &Path, links: Links) -> [Root; 2] {
    let open = || Root::open(at, links, Mounts::Cross).expect("a root");
    let walking = open();
    walking.whole.store(false, Ordering::Relaxed);
    [open(), walking]
}

#[test]
fn links_do_not_lead_anywhere_unless_they_are_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("a/b/c")).expect("directories");
    fs::create_dir(folder.path().join("outside")).expect("a directory");
    symlink("../outside", root.join("out")).expect("a link");
    symlink("a/b", root.join("in")).expect("a link");
    symlink("/", root.join("a/absolute")).expect("a link");
    for root in both(&root, Links::Refuse) {
        assert!(root.dir(&path("a/b/c")).is_ok());
        for refused in ["out", "in", "in/c", "a/absolute", "a/absolute/etc", "out/x"] {
            let said = root.dir(&path(refused)).map(drop);
            assert_eq!(said, Err(Errno::LOOP), "{refused}");
        }
        assert_eq!(root.dir(&path("a/none")).map(drop), Err(Errno::NOENT));
    }
    let beneath = Root::open(&root, Links::Beneath, Mounts::Cross).expect("a root");
    assert!(beneath.dir(&path("in/c")).is_ok());
    assert_eq!(beneath.dir(&path("out")).map(drop), Err(Errno::XDEV));
    assert_eq!(beneath.dir(&path("a/absolute")).map(drop), Err(Errno::XDEV));
    let follow = Root::open(&root, Links::Follow, Mounts::Cross).expect("a root");
    assert!(follow.dir(&path("out")).is_ok() && follow.dir(&path("in/c")).is_ok());
}

#[test]
fn entries_that_are_links_are_not_opened_or_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").expect("a file");
    fs::create_dir(folder.path().join("root")).expect("a directory");
    symlink("../secret", folder.path().join("root/link")).expect("a link");
    let root = Root::open(folder.path().join("root"), Links::Refuse, Mounts::Cross).expect("root");
    let top = root.top();
    assert!(matches!(top.open_file(&name("link")), Err(Errno::LOOP)));
    assert!(matches!(top.open_for_writing(&name("link")), Err(Errno::LOOP)));
    assert!(matches!(top.create_file(&name("link"), 0o600), Err(Errno::EXIST)));
    assert!(matches!(top.child(&name("link")), Err(Errno::NOTDIR | Errno::LOOP)));
    let time = crate::Time { seconds: 1, nanoseconds: 2 };
    top.hold(&name("link")).expect("held").set_mtime(time).expect("the link's own time");
    assert_eq!(top.entry(&name("link")).expect("facts").mtime, time);
    let seconds = fs::metadata(&secret).and_then(|m| m.modified()).expect("a time");
    assert!(seconds > std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000));
    assert_eq!(top.read_link(&name("link")), Ok(b"../secret".to_vec()));
}

#[test]
fn a_directory_swapped_for_a_link_is_noticed_and_a_held_one_stays_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("root");
    fs::create_dir_all(at.join("a/b")).expect("directories");
    let root = Root::open(&at, Links::Refuse, Mounts::Cross).expect("root");
    let held = root.dir(&path("a/b")).expect("a directory");
    fs::rename(at.join("a"), at.join("moved")).expect("moved");
    symlink("/etc", at.join("a")).expect("a link");
    held.create_file(&name("x"), 0o600).expect("a file").write_all(b"x").expect("written");
    assert!(at.join("moved/b/x").exists() && !Path::new("/etc/x").exists());
    root.forget(&path("a"));
    assert_eq!(root.dir(&path("a/b")).map(drop), Err(Errno::LOOP));
}

#[test]
fn entries_are_made_moved_and_removed_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Root::open(folder.path(), Links::Refuse, Mounts::Stay).expect("root");
    let top = root.top();
    top.make_dir(&name("d"), 0o755).expect("a directory");
    let d = root.dir(&path("d")).expect("held");
    top.create_file(&name("f"), 0o644).expect("a file").write_all(b"1").expect("written");
    d.create_file(&name("g"), 0o644).expect("a file").write_all(b"2").expect("written");
    assert_eq!(top.rename_new(&name("f"), &d, &name("g")), Err(Errno::EXIST));
    top.exchange(&name("f"), &d, &name("g")).expect("swapped");
    let mut text = String::new();
    d.open_file(&name("g")).expect("open").read_to_string(&mut text).expect("read");
    assert_eq!(text, "1");
    d.hard_link(&name("g"), top, &name("h")).expect("a link");
    assert_eq!(top.entry(&name("h")).expect("facts").links, 2);
    assert_eq!(d.remove_dir(&name("g")), Err(Errno::NOTDIR));
    d.remove_file(&name("g")).expect("removed");
    top.remove_dir(&name("d")).expect("removed");
    top.make_node(&name("p"), crate::Kind::Fifo, 0o600, (0, 0)).expect("a pipe");
    assert!(matches!(top.open_file(&name("p")), Err(Errno::INVAL)));
    top.hold(&name("p")).expect("held").set_mode(0o640).expect("a mode");
    let mut names: Vec<String> =
        top.list().expect("a list").iter().map(|listed| listed.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["f", "h", "p"]);
    assert_eq!(top.entry(&name("p")).expect("facts").mode, 0o640);
}

#[test]
fn names_that_are_not_text_and_the_longest_ones_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Root::open(folder.path(), Links::Refuse, Mounts::Cross).expect("root");
    let mut at = RelativePath::root();
    for _ in 0..15 {
        let name = Name::new(&[0xff; 255]).expect("a name");
        root.dir(&at).expect("held").make_dir(&name, 0o755).expect("a directory");
        at = at.join(&name).expect("a path");
    }
    let last = Name::new(b"new\nline").expect("a name");
    root.dir(&at).expect("held").create_file(&last, 0o600).expect("a file");
    // Far more directories than are kept: every one is reached again.
    for number in 0..2 * CACHE_MAX {
        let name = name(&number.to_string());
        root.top().make_dir(&name, 0o755).expect("a directory");
        root.dir(&name.into()).expect("held");
    }
    assert_eq!(root.dir(&at).expect("held").list().expect("a list")[0].name, last);
    assert!(root.cache.lock().expect("the cache").len() <= CACHE_MAX);
}

/// A thread swaps a directory for a link to the outside all the time; nothing ever gets there.
#[test]
fn a_link_swapped_in_at_any_moment_leads_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("root");
    let outside = folder.path().join("outside");
    fs::create_dir_all(at.join("d")).expect("a directory");
    fs::create_dir(&outside).expect("a directory");
    symlink("../outside", at.join("link")).expect("a link");
    let root = Root::open(&at, Links::Refuse, Mounts::Cross).expect("root");
    let swapping = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let top = Root::open(&at, Links::Refuse, Mounts::Cross).expect("root");
            while swapping.load(Ordering::Relaxed) {
                top.top().exchange(&name("d"), top.top(), &name("link")).expect("swapped");
            }
        });
        let mut reached = 0;
        for number in 0..20_000 {
            root.forget(&path("d"));
            if let Ok(dir) = root.dir(&path("d")) {
                let file = name(&format!("f{}", number % 100));
                let _ = dir.remove_file(&file);
                let _ = dir.create_file(&file, 0o600);
                reached += 1;
            }
        }
        swapping.store(false, Ordering::Relaxed);
        assert!(reached > 0, "the directory itself was never reached");
    });
    assert_eq!(fs::read_dir(&outside).expect("a list").count(), 0, "escaped");
}
