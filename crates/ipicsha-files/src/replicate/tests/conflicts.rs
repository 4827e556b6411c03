//! Both sides changed the same thing.

use std::fs;

use ipicsha_core::file::Known;

use super::{
    super::{KeptReason, engine::now_us, index::Index},
    pair::{Pair, Side, eventually},
};

fn both_change(pair: &mut Pair, times: [u64; 2]) {
    pair.a.write("file", "common");
    pair.settle_equal();
    pair.cut();
    pair.a.write("file", "of a");
    pair.a.set_time("file", times[0]);
    pair.b.write("file", "of b");
    pair.b.set_time("file", times[1]);
    for side in [&pair.a, &pair.b] {
        side.until("the change", |status| status.to_send == 1);
    }
    pair.connect();
    pair.settle_equal();
}

fn loser(side: &Side) -> Option<KeptReason> {
    side.kept("file").map(|kept| kept.reason)
}

#[test]
fn the_newest_wins_and_the_loser_is_kept() {
    let mut pair = Pair::running();
    both_change(&mut pair, [1_000, 2_000]);
    assert_eq!(pair.a.read("file"), "of b");
    assert_eq!((loser(&pair.a), loser(&pair.b)), (Some(KeptReason::Conflict), None));
    pair.a.until("the count", |status| (status.conflicts_total, status.kept.bytes) == (1, 4));
}

#[test]
fn on_a_tie_the_primary_wins() {
    let mut pair = Pair::running();
    both_change(&mut pair, [3_000, 3_000]);
    assert_eq!(pair.b.read("file"), "of a");
    assert_eq!((loser(&pair.a), loser(&pair.b)), (None, Some(KeptReason::Conflict)));
}

#[test]
fn work_is_worth_more_than_a_deletion() {
    let pair = Pair::running();
    pair.a.write("directory/file", "common");
    pair.a.write("directory/other", "common");
    pair.settle_equal();
    pair.cut();
    fs::remove_dir_all(pair.a.path("directory")).unwrap();
    pair.b.write("directory/file", "worked on");
    pair.a.until("the deletion", |status| status.to_send == 3);
    pair.b.until("the change", |status| status.to_send == 1);
    pair.connect();
    pair.settle_equal();
    assert_eq!(pair.a.read("directory/file"), "worked on");
    assert!(!pair.b.has("directory/other"));
}

#[test]
fn a_file_against_a_directory_keeps_the_tree_that_loses() {
    let pair = Pair::running();
    pair.cut();
    pair.a.write("thing/inside/file", "in a tree");
    pair.b.write("thing", "a file");
    pair.b.set_time("thing", 4_000_000_000);
    pair.a.until("the tree", |status| status.to_send == 3);
    pair.b.until("the file", |status| status.to_send == 1);
    pair.connect();
    pair.settle_equal();
    assert_eq!(pair.a.read("thing"), "a file");
    let kept = pair.a.kept("thing").unwrap();
    assert_eq!((kept.kind.as_str(), kept.reason), ("directory", KeptReason::Conflict));
}

#[test]
fn a_file_does_not_take_the_place_of_more_files_than_may_go_by_themselves() {
    let pair = Pair::running();
    pair.cut();
    for number in 0..1001 {
        pair.b.write(&format!("tree/{number}"), format!("content {number}"));
    }
    pair.a.write("tree", "a file");
    pair.a.set_time("tree", 4_000_000_000);
    pair.a.until("the file", |status| status.to_send == 1);
    pair.b.until("the tree", |status| status.to_send == 1002);
    pair.connect();
    pair.b.until("the hold", |status| status.held_deletions == 1001);
    pair.a.write("other", "flows");
    eventually("what takes nothing away is there", || pair.b.has("other"));
    assert_eq!(pair.b.read("tree/7"), "content 7");
    assert_eq!(pair.b.accept(), 1001);
    eventually("it takes its place", || fs::read(pair.b.path("tree")).is_ok());
    pair.settle_equal();
    assert_eq!(pair.b.read("tree"), "a file");
    assert_eq!(pair.b.kept("tree").unwrap().kind, "directory");
    pair.b.until("the end of the hold", |status| status.held_deletions == 0);
}

#[test]
fn a_file_takes_the_name_of_a_directory_in_which_one_that_was_deleted_lives_on() {
    let pair = Pair::running();
    fs::create_dir_all(pair.a.path("thing/inside")).unwrap();
    pair.settle_equal();
    pair.cut();
    pair.a.write("thing/inside/new", "nobody there knows of it");
    fs::remove_dir_all(pair.b.path("thing")).unwrap();
    pair.b.write("thing", "a file");
    pair.a.until("the new file", |status| status.to_send == 1);
    pair.b.until("the file", |status| status.to_send == 2);
    pair.connect();
    pair.settle_equal();
    assert_eq!(pair.a.read("thing"), "a file");
    let kept = pair.a.kept("thing").unwrap();
    assert_eq!((kept.kind.as_str(), kept.reason), ("directory", KeptReason::Replaced));
}

#[test]
fn a_lost_index_deletes_nothing_and_the_newer_stays() {
    let mut pair = Pair::running();
    pair.a.write("old", "1");
    pair.a.write("changed", "1");
    pair.settle_equal();
    pair.stop_b();
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = fs::remove_file(pair.b.config.state.join(file));
    }
    fs::remove_file(pair.b.path("old")).unwrap();
    pair.b.write("changed", "newer");
    pair.b.set_time("changed", 4_000_000_000);
    pair.start_b();
    pair.connect();
    pair.settle_equal();
    assert_eq!(pair.b.read("old"), "1", "it is not known that it was deleted");
    assert_eq!(pair.a.read("changed"), "newer");
}

/// What changed while the clock of this side was two days ahead. The side must not run.
fn was_ahead(side: &Side, name: &str) {
    let mut index = Index::open(&side.config.state).unwrap();
    let ahead = now_us() + 48 * 3600 * 1_000_000;
    let row = index.get(name.as_bytes()).unwrap().unwrap();
    let mut new = row.clone();
    let known = Known { primary: ahead, secondary: row.known().secondary };
    new.own.as_mut().unwrap().known = known;
    new.told.as_mut().unwrap().known = known;
    index.put(name.as_bytes(), Some(&row), &new).unwrap();
    index.meta.counter = ahead;
    index.commit().unwrap();
}

#[test]
fn a_clock_that_was_far_ahead_once_stops_no_file() {
    let mut pair = Pair::running();
    pair.a.write("file", "common");
    pair.b.write("other", "common");
    pair.settle_equal();
    pair.stop_a();
    pair.stop_b();
    was_ahead(&pair.a, "file");
    was_ahead(&pair.b, "file");
    pair.start();
    pair.a.write("new", "of a");
    pair.b.write("file", "changed by b");
    fs::remove_file(pair.a.path("other")).unwrap();
    pair.settle_equal();
    assert_eq!((pair.b.read("new"), pair.a.read("file")), ("of a".into(), "changed by b".into()));
}
