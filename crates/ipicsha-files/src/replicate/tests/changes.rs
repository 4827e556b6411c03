//! What changes on one side is on the other.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{
    super::KeptReason,
    pair::{Pair, eventually},
};

#[test]
fn what_is_made_on_either_side_is_on_both() {
    let pair = Pair::running();
    pair.a.write("at a", "1");
    pair.a.write("deep/er/file", "2");
    pair.b.write("at b", "3");
    fs::create_dir_all(pair.b.path("empty/directory")).unwrap();
    pair.settle_equal();
    assert_eq!(pair.b.read("deep/er/file"), "2");
    assert_eq!(pair.a.read("at b"), "3");
    assert!(pair.a.path("empty/directory").is_dir());
}

#[test]
fn a_first_join_merges_and_deletes_nothing() {
    let mut pair = Pair::new();
    pair.a.write("only a", "a");
    pair.b.write("only b", "b");
    pair.a.write("both", "the newer");
    pair.b.write("both", "the older one");
    pair.a.set_time("both", 2000);
    pair.b.set_time("both", 1000);
    pair.a.write("same", "same");
    pair.b.write("same", "same");
    pair.a.set_time("same", 7);
    pair.b.set_time("same", 7);
    pair.start();
    pair.settle_equal();
    assert_eq!(pair.b.read("both"), "the newer");
    assert_eq!(fs::read_dir(&pair.a.root).unwrap().count(), 5, "four files, and our directory");
    assert!(pair.b.kept("both").is_some() && pair.a.log.lock().unwrap().kept.is_empty());
}

#[test]
fn changes_and_facts_travel_both_ways() {
    let pair = Pair::running();
    for name in ["one", "two", "three"] {
        pair.a.write(name, "old");
    }
    pair.settle_equal();
    pair.a.write("one", "new content");
    pair.b.write("two", "newer content");
    fs::set_permissions(pair.b.path("three"), fs::Permissions::from_mode(0o640)).unwrap();
    pair.settle_equal();
    pair.b.set_time("one", 1_000_000_000);
    pair.a.write("three", "");
    pair.settle_equal();
    assert_eq!(pair.a.read("two"), "newer content");
    let kept = std::mem::take(&mut pair.a.log.lock().unwrap().kept);
    assert!(kept.iter().all(|kept| kept.reason == KeptReason::Replaced), "nobody lost: {kept:?}");
}

#[test]
fn an_older_time_is_a_change_all_the_same() {
    let pair = Pair::running();
    pair.a.write("file", "first");
    pair.settle_equal();
    pair.b.write("file", "restored from a backup");
    pair.b.set_time("file", 1000);
    pair.settle_equal();
    assert_eq!(pair.a.read("file"), "restored from a backup");
}

#[test]
fn renames_travel_without_their_content() {
    let pair = Pair::running();
    for number in 0..20 {
        pair.a.write(&format!("before/{number}"), vec![number; 100_000]);
    }
    pair.settle_equal();
    let passed = pair.passed();
    fs::rename(pair.a.path("before"), pair.a.path("after")).unwrap();
    pair.settle_equal();
    assert!(pair.b.has("after/19") && !pair.b.has("before"));
    fs::rename(pair.b.path("after/3"), pair.b.path("three")).unwrap();
    pair.settle_equal();
    assert_eq!(pair.passed(), passed, "the receiver had it all");
}

#[test]
fn a_file_becomes_a_directory_and_a_directory_a_file() {
    let pair = Pair::running();
    pair.a.write("file", "1");
    pair.a.write("directory/inside/x", "2");
    pair.settle_equal();
    fs::remove_file(pair.a.path("file")).unwrap();
    pair.a.write("file/now/y", "3");
    fs::remove_dir_all(pair.a.path("directory")).unwrap();
    pair.a.write("directory", "4");
    pair.settle_equal();
    assert_eq!(pair.b.read("directory"), "4");
    assert_eq!(pair.b.read("file/now/y"), "3");
}

#[test]
fn what_changes_while_the_partner_is_away_comes_later() {
    let mut pair = Pair::running();
    pair.a.write("stays", "1");
    pair.a.write("goes", "2");
    pair.settle_equal();
    pair.stop_b();
    pair.a.write("new", "3");
    fs::remove_file(pair.a.path("goes")).unwrap();
    pair.b.write("made without anybody looking", "4");
    pair.start_b();
    pair.connect();
    pair.settle_equal();
    assert!(!pair.b.has("goes") && pair.a.has("made without anybody looking"));
}

#[test]
fn our_own_writes_are_not_told_back() {
    let pair = Pair::running();
    for number in 0..50 {
        // Each its own: what is on the other side under another name does not travel.
        pair.a.write(&format!("f{number}"), format!("{number:07}"));
    }
    pair.settle_equal();
    eventually("both to be in sync", || pair.a.status().synced && pair.b.status().synced);
    let passed = pair.passed();
    pair.settle_equal();
    assert_eq!(pair.passed(), passed);
    assert_eq!(passed, 50 * 7, "each content travelled once");
}

#[test]
fn a_closed_gate_lets_nothing_through_and_forgets_nothing() {
    use super::super::{Command, Gate};
    let pair = Pair::running();
    pair.a.write("one", "1");
    pair.settle_equal();
    pair.a.send(Command::SetGate(Gate::Closed));
    pair.a.write("two", "2");
    pair.a.until("the change", |status| status.to_send == 1);
    assert!(!pair.b.has("two"));
    let refused = pair.a.flush().unwrap_err();
    assert!(!refused.next_step.is_empty());
    pair.a.send(Command::SetGate(Gate::Open));
    pair.settle_equal();
    assert!(pair.b.has("two"));
}

#[test]
fn a_directory_that_was_there_for_a_moment_leaves_nothing_behind() {
    let pair = Pair::running();
    let away = pair.a.root.with_file_name("away");
    fs::create_dir(&away).unwrap();
    std::os::unix::fs::symlink("nowhere", pair.a.path("link")).unwrap();
    pair.a.write("file", "1");
    pair.settle_equal();
    for round in 0_u64..60 {
        for name in ["file", "link"] {
            fs::rename(pair.a.path(name), away.join(name)).unwrap();
            fs::create_dir(pair.a.path(name)).unwrap();
            pair.a.write(&format!("{name}/1"), round.to_string());
            std::thread::sleep(std::time::Duration::from_millis(round % 6));
            pair.a.write(&format!("{name}/2"), round.to_string());
            fs::rename(pair.a.path(name), away.join(format!("{name}{round}"))).unwrap();
            fs::rename(away.join(name), pair.a.path(name)).unwrap();
        }
        pair.settle_equal();
    }
}

#[test]
fn what_happened_in_a_large_directory_while_its_server_was_away_is_seen() {
    let mut pair = Pair::running();
    // Beside one another they are in another order than with all that is beneath them.
    let mixed = ["f1", "f1.x", "f1 x", "f10/deep", "f10/deeper/x", "f100!", "f2/f2"];
    for number in 200..1700 {
        pair.a.write(&format!("f{number}"), number.to_string());
    }
    for path in mixed {
        pair.a.write(path, path);
    }
    pair.settle_equal();
    pair.stop_a();
    for number in (200..1700).step_by(3) {
        fs::remove_file(pair.a.path(&format!("f{number}"))).unwrap();
        pair.a.write(&format!("f{}", number + 1), "changed");
        pair.a.write(&format!("f{number}.new"), "new");
    }
    fs::remove_file(pair.a.path("f1.x")).unwrap();
    fs::remove_dir_all(pair.a.path("f10")).unwrap();
    pair.start_a();
    pair.mend();
    pair.settle_equal();
    assert!(!pair.b.has("f1.x") && !pair.b.has("f10") && pair.b.has("f2/f2"));
    let files = 1500 + mixed.len() - 3;
    pair.b.until("they are counted", |status| status.entries == files as u64 + 1);
}
