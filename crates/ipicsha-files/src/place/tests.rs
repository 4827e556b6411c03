//! Either the whole verified file has the name, or the old one still has it, and nothing is left.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{batch::Expected, *};
use crate::{
    Facts, Time,
    delta::Parts,
    hash::Hash,
    path::Name,
    resolve::{Dir, Links, Mounts, Root},
};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn folder() -> (tempfile::TempDir, Arc<Dir>) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Root::open(folder.path(), Links::Refuse, Mounts::Cross).expect("a root");
    let dir = Arc::clone(root.top());
    (folder, dir)
}

fn names(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("a list");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

fn written(dir: &Arc<Dir>, content: &[u8]) -> Temp {
    let mut temp = Temp::create(dir, Sparse::Full, true).expect("a file");
    temp.write(content).expect("written");
    temp
}

#[test]
fn a_file_gets_its_name_with_all_facts_at_once() {
    let (folder, dir) = folder();
    fs::write(folder.path().join("f"), "old").expect("a file");
    let temp = written(&dir, b"new content");
    assert_eq!(fs::read(folder.path().join("f")).expect("read"), b"old");
    let mtime = Time { seconds: 1_000_000_000, nanoseconds: 5 };
    let facts = Facts { mode: Some(0o640), mtime: Some(mtime), ..Facts::default() };
    let (ready, unset) = temp.finish(Some(Hash::of(b"new content")), &facts).expect("finished");
    assert_eq!(unset, []);
    ready.replace(&name("f")).expect("placed");
    let meta = fs::metadata(folder.path().join("f")).expect("facts");
    assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 5));
    assert_eq!(fs::read(folder.path().join("f")).expect("read"), b"new content");
    assert_eq!(names(&folder), ["f"]);
}

#[test]
fn another_content_than_announced_never_gets_the_name() {
    let (folder, dir) = folder();
    fs::write(folder.path().join("f"), "old").expect("a file");
    for verify in [true, false] {
        let mut temp = Temp::create(&dir, Sparse::Full, verify).expect("a file");
        temp.write(b"broken").expect("written");
        let said = temp.finish(Some(Hash::of(b"whole")), &Facts::default());
        assert!(matches!(said, Err(PlaceError::Mismatch)));
    }
    drop(written(&dir, b"given up"));
    assert_eq!(
        (names(&folder), fs::read(folder.path().join("f")).expect("read")),
        (vec!["f".into()], b"old".to_vec())
    );
}

#[test]
fn zeros_become_holes_and_the_content_stays() {
    let (folder, dir) = folder();
    let mut content = vec![0; 3 << 20];
    content[..5].copy_from_slice(b"begin");
    content[1 << 20] = 1;
    let mut temp = Temp::create(&dir, Sparse::Holes, true).expect("a file");
    content.chunks(100_001).for_each(|part| temp.write(part).expect("written"));
    temp.hole(1 << 20);
    content.resize(4 << 20, 0);
    let (ready, _) = temp.finish(Some(Hash::of(&content)), &Facts::default()).expect("finished");
    ready.replace(&name("f")).expect("placed");
    let meta = fs::metadata(folder.path().join("f")).expect("facts");
    assert_eq!(meta.len(), 4 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks are used", meta.blocks());
    assert!(fs::read(folder.path().join("f")).expect("read") == content);
}

#[test]
fn parts_of_the_old_file_are_copied() {
    let (folder, dir) = folder();
    fs::write(folder.path().join("old"), "0123456789").expect("a file");
    let old = fs::File::open(folder.path().join("old")).expect("open");
    for verify in [true, false] {
        let mut temp = Temp::create(&dir, Sparse::Full, verify).expect("a file");
        temp.copy(&old, 5, 5).expect("copied");
        temp.write(b"-").expect("written");
        temp.copy(&old, 0, 5).expect("copied");
        assert!(matches!(temp.copy(&old, 8, 5), Err(PlaceError::Mismatch)));
        assert!(temp.content().expect("read").starts_with(b"56789-01234"));
    }
}

#[test]
fn old_blocks_count_the_same_whether_they_are_known_or_read() {
    let (folder, dir) = folder();
    let content = b"00001111222233";
    fs::write(folder.path().join("old"), content).expect("a file");
    let file = &fs::File::open(folder.path().join("old")).expect("open");
    let hashes: Vec<Hash> = content.chunks(4).map(Hash::of).collect();
    let mut parts = Parts::default();
    parts.add_new(b"-");
    for (block, length) in [(2, 4), (3, 2), (0, 4)] {
        parts.add_old(&hashes[block], length);
    }
    let blocks =
        |offset, length, hashes| OldBlocks { file, offset, length, block_bytes: 4, hashes };
    for (sparse, known) in [(Sparse::Full, true), (Sparse::Full, false), (Sparse::Holes, false)] {
        let of = |first: usize, count| known.then_some(&hashes[first..first + count]);
        let mut temp = Temp::create(&dir, sparse, true).expect("a file");
        temp.hash_parts();
        temp.write(b"-").expect("written");
        temp.copy_blocks(&blocks(8, 6, of(2, 2))).expect("copied");
        temp.copy_blocks(&blocks(0, 4, of(0, 1))).expect("copied");
        assert_eq!(temp.content().expect("read"), b"-2222330000");
        temp.finish(Some(parts.finish()), &Facts::default()).expect("what was announced");
        let mut temp = Temp::create(&dir, sparse, true).expect("a file");
        let too_far = temp.copy_blocks(&blocks(12, 4, of(3, 1)));
        assert!(matches!(too_far, Err(PlaceError::Mismatch)), "{known}");
    }
    // What is not the announced block is found out by reading it...
    let mut temp = Temp::create(&dir, Sparse::Full, true).expect("a file");
    temp.hash_parts();
    temp.write(b"-").expect("written");
    temp.copy_blocks(&blocks(4, 4, None)).expect("copied");
    let wrong = temp.finish(Some(parts.finish()), &Facts::default());
    assert!(matches!(wrong, Err(PlaceError::Mismatch)));
    // ...and a hash of the whole is never that of parts.
    let mut temp = Temp::create(&dir, Sparse::Full, true).expect("a file");
    temp.write(b"-2222330000").expect("written");
    let wrong = temp.finish(Some(parts.finish()), &Facts::default());
    assert!(matches!(wrong, Err(PlaceError::Mismatch)));
}

#[test]
fn a_partial_file_is_found_again_by_its_key_only() {
    let (folder, dir) = folder();
    let key: [&[u8]; 2] = [b"path", b"version 1"];
    let mut temp = Temp::create_partial(&dir, &key, Sparse::Full, false).expect("a file");
    temp.write(b"half").expect("written");
    let kept = temp.keep_partial().expect("kept");
    assert!(is_temporary(kept.as_bytes()));
    assert!(Temp::find_partial(&dir, &[b"path", b"version 2"]).expect("looked").is_none());
    let (file, hold) = Temp::find_partial(&dir, &key).expect("looked").expect("found");
    let mut half = [0; 4];
    file.read_exact_at(&mut half, 0).expect("read");
    assert_eq!(&half, b"half");
    assert!(Temp::find_partial(&dir, &key).expect("looked").is_none(), "it is in use");
    drop(hold);
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn a_batch_places_new_files_only_where_nothing_is() {
    let (folder, dir) = folder();
    fs::write(folder.path().join("taken"), "theirs").expect("a file");
    let now = Instant::now();
    let mut batch = Batch::default();
    assert!(!batch.is_due(now));
    for text in ["taken", "free"] {
        let (ready, _) = written(&dir, b"ours").finish(None, &Facts::default()).expect("finished");
        batch.push(ready, name(text), Placement::New, text, now);
    }
    assert!(!batch.is_due(now) && batch.is_due(now + Duration::from_secs(1)));
    let results = batch.commit().expect("the barrier");
    batch.settle().expect("settled");
    let said: Vec<_> = results.iter().map(|(tag, result)| (*tag, result.is_ok())).collect();
    assert_eq!(said, [("taken", false), ("free", true)]);
    assert!(matches!(results[0].1, Err(Errno::EXIST)));
    assert_eq!(fs::read(folder.path().join("taken")).expect("read"), b"theirs");
    assert_eq!(names(&folder), ["free", "taken"]);
}

#[test]
fn an_exchange_keeps_what_it_did_not_expect() {
    let (folder, dir) = folder();
    fs::write(folder.path().join("f"), "seen").expect("a file");
    let seen = dir.entry(&name("f")).expect("facts");
    for (content, expected) in [("seen", Expected::Yes), ("changed meanwhile", Expected::No)] {
        if expected == Expected::No {
            fs::write(folder.path().join("f"), content).expect("a file");
        }
        let (ready, _) = written(&dir, b"ours").finish(None, &Facts::default()).expect("finished");
        let mut batch = Batch::default();
        let placement = Placement::Exchange(Box::new(seen.clone()));
        batch.push(ready, name("f"), placement, (), Instant::now());
        let (_, placed) = batch.commit().expect("the barrier").remove(0);
        let (hold, was) = placed.expect("placed").before.expect("something was there");
        assert_eq!(was, expected);
        let before = folder.path().join(hold.name().to_string());
        assert_eq!(fs::read_to_string(before).expect("read"), content);
    }
    assert_eq!(names(&folder), ["f"]);
}

#[test]
fn many_files_are_synced_by_one_call_and_all_get_their_names() {
    let (folder, dir) = folder();
    let mut batch = Batch::default();
    for number in 0..100 {
        let (ready, _) = written(&dir, b"x").finish(None, &Facts::default()).expect("finished");
        batch.push(ready, name(&format!("{number:03}")), Placement::Replace, (), Instant::now());
    }
    assert_eq!((batch.len(), batch.is_empty()), (100, false));
    let results = batch.commit().expect("the barrier");
    assert!(results.iter().all(|((), result)| result.is_ok()));
    assert_eq!(names(&folder).len(), 100);
}

#[test]
fn leftovers_go_when_they_are_old_and_nobody_wants_them() {
    let (folder, dir) = folder();
    let [wanted, unwanted] = [b"a", b"b"].map(|key| {
        let temp = Temp::create_partial(&dir, &[key], Sparse::Full, false).expect("a file");
        temp.keep_partial().expect("kept")
    });
    fs::write(folder.path().join(".ipicsha.notes.tmp"), "a user's").expect("a file");
    let day = Duration::from_secs(86_400);
    assert_eq!(remove_leftovers(&dir, day, &HashSet::new()), Ok(0));
    let keep = HashSet::from([wanted.clone()]);
    assert_eq!(remove_leftovers(&dir, Duration::ZERO, &keep), Ok(1));
    assert!(!names(&folder).contains(&unwanted.to_string()));
    assert_eq!(names(&folder).len(), 2);
}
