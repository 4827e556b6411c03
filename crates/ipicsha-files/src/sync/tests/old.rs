//! The old content of a file that becomes a new one: blocks that stay are not read again.

use std::{
    os::unix::fs::FileExt,
    time::{Duration, Instant, SystemTime},
};

use super::*;
use crate::delta::Parts;

const LENGTH: usize = 1_000_000;

fn noise() -> Vec<u8> {
    let mut content = vec![0; LENGTH];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    content
}

/// Until changes of the file from now on show in its times.
fn wait_until_settled(path: &Path) {
    let begin = Instant::now();
    loop {
        let changed = fs::metadata(path).expect("facts").ctime();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        if now.as_secs() >= u64::try_from(changed).expect("after 1970") + 2 {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "the clock stands still");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn blocks_that_stay_are_kept_and_the_whole_is_right() {
    let folders = folders();
    let (old, new) = (folders.destination.join("f"), folders.source.join("f"));
    fs::write(&old, noise()).expect("a file");
    wait_until_settled(&old);
    let changed = |at: &[usize]| {
        let mut content = noise();
        at.iter().for_each(|at| content[*at] ^= 1);
        content
    };
    let mut shorter = changed(&[400_000]);
    shorter.truncate(700_001);
    let mut longer = changed(&[0]);
    longer.extend_from_slice(b"more");
    for content in [changed(&[300_000, 999_999]), changed(&[0]), shorter, longer] {
        fs::write(&old, noise()).expect("a file");
        wait_until_settled(&old);
        fs::write(&new, &content).expect("a file");
        let options = Options { whole_file: Some(false), ignore_times: true, ..archive() };
        let (outcome, heard) = folders.sync(&options);
        assert_eq!((outcome.exit, heard.problems()), (Exit::Success, Vec::<String>::new()));
        assert!(fs::read(&old).expect("read") == content);
        assert!(outcome.stats.matched_bytes > 600_000, "{:?}", outcome.stats);
        assert!(outcome.stats.literal_bytes < 50_000, "it went once, as a difference");
    }
}

/// What a difference is verified by that is made of old blocks alone.
fn parts_of(content: &[u8]) -> Hash {
    let mut parts = Parts::default();
    for block in content.chunks(16 * 1024) {
        parts.add_old(&Hash::of(block), block.len() as u64);
    }
    parts.finish()
}

#[test]
fn an_old_content_that_changes_meanwhile_is_not_used() {
    assert!(is_asked_for_again(true));
    assert!(!is_asked_for_again(false), "what stayed as it was is used");
}

/// A file is sent as its old content, which changes on the way or does not.
fn is_asked_for_again(changes: bool) -> bool {
    let folders = folders();
    let path = folders.destination.join("f");
    fs::write(&path, noise()).expect("a file");
    wait_until_settled(&path);
    let (mut sender, receiver) = in_process();
    let destination = bytes(&folders.destination);
    let options = Options { whole_file: Some(false), ignore_times: true, ..archive() };
    let again = thread::scope(|scope| {
        let receiving =
            scope.spawn(move || receive(&options, &destination, receiver, &Heard::default()));
        let details = partner::file_details(LENGTH as u64);
        let entry = Entry { name: Name::new(b"f").expect("a name"), details };
        for message in [
            ToReceiver::Begin(Begin { entries: 1, directories: true }),
            ToReceiver::Dir { path: RelativePath::root(), itself: None },
            ToReceiver::Entries { first: 0, entries: vec![entry] },
            ToReceiver::DirEnd { directories: vec![], listed: Listed::Whole },
            ToReceiver::ScanEnd { complete: true },
        ] {
            sender.send(message).expect("there is room");
        }
        let mut missing = LENGTH.div_ceil(16 * 1024);
        while missing > 0 {
            if let ToSender::Sums(sums) = sender.receive().expect("sums") {
                missing -= sums.len();
            }
        }
        // Its sums are told: now it becomes something else.
        if changes {
            let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
            file.write_all_at(b"changed", 500_000).expect("written");
        }
        for message in [
            ToReceiver::Open { id: 0, offset: 0 },
            ToReceiver::Copy { offset: 0, length: LENGTH as u64 },
            ToReceiver::End(parts_of(&noise())),
        ] {
            sender.send(message).expect("there is room");
        }
        let again = loop {
            match sender.receive().expect("it goes on") {
                ToSender::Need { wants, .. } if wants == [(0, Want::Whole)] => break true,
                ToSender::NoMore => break false,
                ToSender::Need { .. } | ToSender::Sums(_) | ToSender::Saved(_) => {}
            }
        };
        if again {
            for message in [
                ToReceiver::Open { id: 0, offset: 0 },
                ToReceiver::Data(noise()),
                ToReceiver::End(Hash::of(&noise())),
            ] {
                sender.send(message).expect("there is room");
            }
        }
        sender.send(ToReceiver::Done).expect("there is room");
        let (received, result) = receiving.join().expect("no panic");
        assert!(result.is_ok() && !received.troubles.failed, "{result:?}");
        again
    });
    assert!(fs::read(&path).expect("read") == noise());
    again
}
