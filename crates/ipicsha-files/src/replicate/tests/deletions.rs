//! What goes on one side goes on the other, unless it should not.

use std::fs;

use super::{
    super::{GuardLimits, KeptReason},
    pair::Pair,
};

fn guarded() -> Pair {
    let mut pair = Pair::new();
    let guard = GuardLimits { percent: 50, files_small: 5, files: 1000 };
    (pair.a.config.guard, pair.b.config.guard) = (guard, guard);
    for number in 0..20 {
        pair.a.write(&format!("files/{number}"), format!("content {number}"));
    }
    pair.start();
    pair.settle_equal();
    pair
}

#[test]
fn deletions_travel_and_what_they_took_is_kept() {
    let pair = Pair::running();
    pair.a.write("one", "1");
    pair.a.write("tree/a/b", "2");
    pair.settle_equal();
    fs::remove_file(pair.a.path("one")).unwrap();
    fs::remove_dir_all(pair.b.path("tree")).unwrap();
    pair.settle_equal();
    assert!(!pair.b.has("one") && !pair.a.has("tree"));
    assert_eq!(pair.b.kept("one").unwrap().reason, KeptReason::Deleted);
    assert!(pair.a.kept("tree/a/b").is_some());
}

#[test]
fn a_deletion_is_not_undone_by_a_partner_that_was_away() {
    let mut pair = Pair::running();
    pair.a.write("file", "1");
    pair.settle_equal();
    pair.stop_b();
    fs::remove_file(pair.a.path("file")).unwrap();
    pair.a.until("the deletion", |status| status.entries == 0);
    pair.stop_a();
    pair.start();
    pair.settle_equal();
    assert!(!pair.a.has("file") && !pair.b.has("file"));
}

#[test]
fn what_a_crash_left_in_a_directory_goes_with_it() {
    let pair = Pair::running();
    pair.a.write("directory/file", "1");
    pair.settle_equal();
    let left = |number| pair.b.path(&format!("directory/.ipicsha.0123456789abcdef000{number}.tmp"));
    fs::write(left(1), "half").unwrap();
    fs::create_dir(left(2)).unwrap();
    std::os::unix::fs::symlink("nowhere", left(3)).unwrap();
    fs::remove_dir_all(pair.a.path("directory")).unwrap();
    pair.settle_equal();
    assert!(!pair.b.has("directory"));
}

#[test]
fn a_directory_with_something_unknown_in_it_stays() {
    let mut pair = Pair::new();
    pair.a.config.rules = vec!["- *.tmp".into()];
    pair.b.config.rules = vec!["- *.tmp".into()];
    pair.start();
    pair.a.write("directory/file", "1");
    pair.settle_equal();
    pair.b.write("directory/mine.tmp", "local");
    fs::remove_dir_all(pair.a.path("directory")).unwrap();
    pair.settle();
    assert_eq!(pair.b.read("directory/mine.tmp"), "local");
    assert!(pair.a.path("directory").is_dir() && !pair.b.has("directory/file"));
}

#[test]
fn a_mass_deletion_is_held_where_it_happens_and_everything_else_flows() {
    let mut pair = guarded();
    pair.stop_a();
    fs::remove_dir_all(pair.a.path("files")).unwrap();
    pair.a.write("new", "flows");
    pair.start_a();
    pair.connect();
    pair.a.until("the hold", |status| status.held_deletions >= 20);
    pair.settle();
    assert!(pair.b.has("new") && pair.b.has("files/7"), "only deletions are held");
    assert!(pair.a.accept() >= 20);
    pair.b.until("its own guard", |status| status.held_deletions == 20);
    assert!(pair.b.has("files/7"));
    assert_eq!(pair.b.accept(), 20);
    pair.settle_equal();
    assert!(!pair.b.has("files"));
}

#[test]
fn files_that_come_back_before_anybody_says_so_are_not_deleted() {
    let pair = guarded();
    fs::rename(pair.a.path("files"), pair.a.root.with_extension("away")).unwrap();
    pair.a.until("the hold", |status| status.held_deletions >= 20);
    fs::rename(pair.a.root.with_extension("away"), pair.a.path("files")).unwrap();
    pair.a.until("the end of it", |status| status.held_deletions == 0);
    pair.settle_equal();
    assert!(pair.b.has("files/7"));
}

#[test]
fn moving_many_files_is_no_mass_deletion() {
    let pair = guarded();
    fs::rename(pair.a.path("files"), pair.a.path("moved")).unwrap();
    pair.settle_equal();
    assert!(pair.b.has("moved/7") && !pair.b.has("files"));
}

#[test]
fn many_renames_among_more_new_files_than_are_asked_for_at_once_are_no_mass_deletion() {
    let mut pair = guarded();
    pair.stop_b();
    for number in 0..2000 {
        pair.a.write(&format!("new/{number}"), format!("new content {number}"));
    }
    // Told and made after all of these.
    fs::create_dir(pair.a.path("renamed")).unwrap();
    for number in 0..20 {
        let (old, new) = (format!("files/{number}"), format!("renamed/{number}"));
        fs::rename(pair.a.path(&old), pair.a.path(&new)).unwrap();
    }
    pair.start_b();
    pair.connect();
    pair.settle_equal();
    assert!(pair.b.has("renamed/7") && !pair.b.has("files/7"));
    assert_eq!(pair.b.status().held_deletions, 0);
}

#[test]
fn a_root_that_is_not_mounted_deletes_nothing() {
    let mut pair = Pair::running();
    pair.a.write("file", "1");
    pair.settle_equal();
    pair.stop_a();
    let away = pair.a.root.with_extension("away");
    fs::rename(&pair.a.root, &away).unwrap();
    fs::create_dir(&pair.a.root).unwrap();
    pair.start_a();
    pair.connect();
    pair.a.until("the hold", |status| status.hold.is_some());
    let hold = pair.a.status().hold.unwrap();
    assert!(hold.contains(".ipicsha/root") && hold.contains("mount"), "{hold}");
    assert!(pair.a.flush().is_err());
    assert!(pair.b.has("file"));
    // Dropping the worker first: its watcher holds nothing open in the empty directory.
    pair.stop_a();
    fs::remove_dir_all(&pair.a.root).unwrap();
    fs::rename(&away, &pair.a.root).unwrap();
    pair.start_a();
    pair.connect();
    pair.settle_equal();
    assert!(pair.a.has("file"));
}

#[test]
fn a_root_that_goes_away_while_it_is_watched_deletes_nothing() {
    let pair = Pair::running();
    pair.a.write("file", "1");
    pair.settle_equal();
    let away = pair.a.root.with_extension("away");
    fs::rename(&pair.a.root, &away).unwrap();
    pair.a.until("the hold", |status| status.hold.is_some());
    fs::rename(&away, &pair.a.root).unwrap();
    pair.a.until("the return", |status| status.hold.is_none());
    pair.settle_equal();
    assert!(pair.b.has("file"));
}
