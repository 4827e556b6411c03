//! What a half does for somebody else, and what not.

use super::*;

/// A receiver that works for somebody else, and what it is told.
fn told_by_partner(folders: &Folders, change: impl FnOnce(&mut Details)) -> (Received, Heard) {
    let (mut sender, receiver) = in_process();
    let mut details = file_details(0);
    change(&mut details);
    let entry = Entry { name: Name::new(b"f").expect("a name"), details };
    let begin = Begin { entries: 1, directories: true };
    for message in [
        ToReceiver::Begin(begin),
        ToReceiver::Dir { path: RelativePath::root(), itself: None },
        ToReceiver::Entries { first: 0, entries: vec![entry] },
        ToReceiver::DirEnd { directories: vec![], listed: Listed::Whole },
        ToReceiver::ScanEnd { complete: true },
        ToReceiver::Pack(vec![Small { id: 0, content: vec![], hash: Hash::of(b"") }]),
        ToReceiver::Done,
    ] {
        sender.send(message).expect("there is room");
    }
    let preserve = Preserve { devices: true, specials: true, extended: true, ..archive().preserve };
    let options = Options {
        preserve,
        territory: Territory::beneath(std::slice::from_ref(&folders.destination)),
        ..archive()
    };
    let heard = Heard::default();
    let (received, _) = receive(&options, &bytes(&folders.destination), receiver, &heard);
    (received, heard)
}

pub(super) fn file_details(size: u64) -> Details {
    Details {
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time { seconds: 1, nanoseconds: 0 },
        size,
        device: (1, 3),
        target: None,
        identity: None,
        hash: None,
        access_lists: None,
        extended: None,
    }
}

#[test]
fn a_partner_gives_files_no_power() {
    let folders = folders();
    let (received, heard) = told_by_partner(&folders, |details| details.mode = 0o6755);
    assert!(received.troubles.failed && heard.problems()[0].contains("as its owner"));
    let mode = fs::metadata(folders.destination.join("f")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    fs::remove_file(folders.destination.join("f")).expect("removed");

    let (received, heard) =
        told_by_partner(&folders, |details| details.kind = Kind::CharacterDevice);
    assert!(received.troubles.failed && heard.problems()[0].contains("is a device"));
    assert_eq!(folders.names(), [""; 0]);

    let (received, heard) = told_by_partner(&folders, |details| {
        let named = [("security.capability", "x"), ("user.a", "1")];
        let named =
            named.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        let told = postcard::to_stdvec(&std::collections::BTreeMap::from(named)).expect("bytes");
        details.extended = Some(postcard::from_bytes(&told).expect("attributes"));
    });
    assert!(received.troubles.failed && heard.problems()[0].contains("attributes of the system"));
    assert_eq!(folders.names(), ["f"]);
    assert!(told_by_partner(&folders, |_| {}).1.problems().is_empty());
}

#[test]
fn a_partner_deletes_no_more_than_the_guard_allows() {
    let folders = folders();
    for name in ["a", "b", "c", "d"] {
        fs::write(folders.destination.join(name), "x").expect("a file");
    }
    for (max_delete, left) in [(None, 2), (Some(1), 1), (Some(100), 0)] {
        let guarded = Options {
            delete: Some(Delete::During),
            delete_guard: Some(if max_delete == Some(100) { 1 } else { 2 }),
            max_delete,
            ..archive()
        };
        let (outcome, heard) = folders.sync(&guarded);
        assert_eq!(folders.names().len(), left);
        let limited = heard.0.lock().expect("no thread panics").iter().any(
            |event| matches!(event, Event::Notice(text) if text.contains("limit of deletions")),
        );
        assert_eq!(limited, left > 0);
        assert_eq!(outcome.exit, if left > 0 { Exit::DeleteLimit } else { Exit::Success });
    }
}

#[test]
fn sources_that_have_arrived_count_as_deletions_for_a_partner() {
    for (guard, left) in [(Some(1), 3), (None, 0)] {
        let folders = folders();
        for name in ["a", "b", "c", "d"] {
            fs::write(folders.source.join(name), "x").expect("a file");
        }
        let moving = Options { remove_source_files: true, delete_guard: guard, ..archive() };
        let (outcome, heard) = folders.sync(&moving);
        assert_eq!(folders.names(), ["a", "b", "c", "d"]);
        assert_eq!(fs::read_dir(&folders.source).expect("a list").count(), left);
        let limited = heard.0.lock().expect("no thread panics").iter().any(
            |event| matches!(event, Event::Notice(text) if text.contains("3 files have arrived")),
        );
        assert_eq!(limited, left > 0);
        assert_eq!(outcome.exit, if left > 0 { Exit::DeleteLimit } else { Exit::Success });
    }
}

#[test]
fn rules_above_what_is_open_are_not_read_for_a_partner() {
    let folders = folders();
    let above = folders.source.parent().expect("a directory");
    fs::write(above.join(".rules"), "root:secret\n").expect("a file");
    fs::write(folders.source.join("f"), "x").expect("a file");
    let mut rules = crate::filter::Rules::default();
    rules.filter(b": /.rules").expect("a rule");
    let territory = Territory::beneath(&[folders.source.clone(), folders.destination.clone()]);
    let (open, shut) =
        (Options { rules: rules.clone(), ..archive() }, Options { rules, territory, ..archive() });
    let (_, heard) = folders.sync(&open);
    assert!(heard.problems()[0].contains("root:secret"), "{:?}", heard.problems());
    let (outcome, heard) = folders.sync(&shut);
    assert_eq!((outcome.exit, heard.problems()), (Exit::Success, vec![]));
}
