//! Comparing and repairing.

use std::{
    fs,
    sync::{Arc, mpsc::channel},
};

use rustix::io::Errno;

use super::{
    super::{
        Command,
        index::Index,
        look,
        row::{Own, Quick},
    },
    faults::{Call, Fault},
    pair::{Pair, Side, eventually},
};
use crate::path::RelativePath;

/// Another content that shows in nothing: as when a disk goes bad. The side must not run.
fn rot(side: &Side, name: &str, content: &str) {
    let before = fs::metadata(side.path(name)).unwrap().modified().unwrap();
    fs::write(side.path(name), content).unwrap();
    let file = fs::OpenOptions::new().write(true).open(side.path(name)).unwrap();
    file.set_modified(before).unwrap();
    drop(file);
    let mut index = Index::open(&side.config.state).unwrap();
    let path = RelativePath::new(name.as_bytes()).unwrap();
    let root = crate::Root::open(&side.root, crate::Links::Refuse, crate::Mounts::Stay).unwrap();
    let meta = root.top().entry(&path.name().unwrap()).unwrap();
    let row = index.get(name.as_bytes()).unwrap().unwrap();
    let mut new = row.clone();
    let own = row.own.clone().unwrap();
    assert_eq!(look::nanoseconds(meta.mtime), own.version.mtime_ns);
    new.own = Some(Own { quick: Some(Quick::of(&meta)), ..own });
    index.put(name.as_bytes(), Some(&row), &new).unwrap();
    index.commit().unwrap();
}

#[test]
fn equal_trees_compare_equal() {
    let pair = Pair::running();
    pair.a.write("d/file", "content");
    pair.settle_equal();
    for side in [&pair.a, &pair.b] {
        let report = side.compare(false).unwrap();
        assert_eq!((report.differences, report.entries, report.bytes), (0, 2, 7));
    }
}

#[test]
fn a_content_that_changed_by_itself_is_found_and_repaired_from_the_primary() {
    let mut pair = Pair::running();
    pair.a.write("file", "right");
    pair.settle_equal();
    pair.stop_b();
    rot(&pair.b, "file", "wrong");
    pair.start_b();
    pair.connect();
    pair.settle();
    assert_eq!(pair.b.read("file"), "wrong", "nothing shows it");
    let report = pair.a.compare(false).unwrap();
    assert_eq!(report.differing, [("file".to_owned(), "content".to_owned())]);
    let report = pair.b.compare(false).unwrap();
    assert_eq!(report.differences, 1, "the other side sees the same");
    let refused = pair.b.compare(true).unwrap_err();
    assert!(refused.next_step.contains("primary"));
    let report = pair.a.compare(true).unwrap();
    assert_eq!((report.applied, report.to_partner), (true, 1));
    pair.settle_equal();
    assert_eq!(pair.b.read("file"), "right");
    assert_eq!(pair.b.kept("file").unwrap().reason, super::super::KeptReason::Repaired);
    assert_eq!(pair.a.compare(false).unwrap().differences, 0);
}

#[test]
fn without_a_connection_nothing_is_compared() {
    let pair = Pair::running();
    pair.cut();
    assert!(pair.a.compare(false).is_err());
}

#[test]
fn what_waits_for_an_administrator_is_named_and_not_waited_for() {
    let mut pair = Pair::new();
    pair.b.config.guard = super::super::GuardLimits { percent: 50, files_small: 5, files: 1000 };
    for number in 0..20 {
        pair.a.write(&format!("files/{number}"), format!("content {number}"));
    }
    pair.start();
    pair.settle_equal();
    fs::remove_dir_all(pair.a.path("files")).unwrap();
    pair.b.until("the hold", |status| status.held_deletions == 20);
    for side in [&pair.a, &pair.b] {
        let report = side.compare(false).unwrap();
        assert!(report.differences >= 20 && report.stuck.contains("files/7"), "{report:?}");
    }
}

#[test]
fn a_comparison_that_nobody_waits_for_is_given_up() {
    let pair = Pair::running();
    pair.a.write("file", "1");
    pair.settle_equal();
    // The other side cannot say that it has the next one.
    let full = Fault::new(Call::Sync, &pair.b.root, Errno::NOSPC);
    pair.a.write("next", "2");
    pair.b.until("the hold", |status| status.hold.is_some());
    let asker = Arc::new(());
    let (sender, answered) = channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    pair.a.send(Command::Compare { apply: false, asker: Arc::downgrade(&asker), done });
    pair.a.until("that it runs", |status| status.compare.is_some());
    drop(asker);
    assert!(answered.recv().is_err(), "it is answered though nobody asks");
    drop(full);
    eventually("another one may begin", || pair.a.compare(false).is_ok());
}
