//! Both halves together, and each against another half that does not behave.

mod ahead;
mod marker;
mod old;
mod partner;

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Mutex, mpsc},
};

use super::{
    channel::{Gone, in_process},
    message::{Begin, Details, Entry, Listed, Small, Want},
    *,
};
use crate::{Hash, Kind, Name, RelativePath, Time};

/// Keeps everything that is told.
#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl Report for Heard {
    fn event(&self, event: Event) {
        self.0.lock().expect("no thread panics").push(event);
    }
}

impl Heard {
    fn items(&self) -> Vec<String> {
        let events = self.0.lock().expect("no thread panics");
        let shown = |event: &Event| {
            if let Event::Item(item) = event {
                return Some(format!("{} {}", item.change.code(item.kind), item.path));
            }
            None
        };
        events.iter().filter_map(shown).collect()
    }

    fn problems(&self) -> Vec<String> {
        let events = self.0.lock().expect("no thread panics");
        let text = |event: &Event| {
            if let Event::Problem { text, .. } = event { Some(text.clone()) } else { None }
        };
        events.iter().filter_map(text).collect()
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

fn archive() -> Options {
    let preserve =
        Preserve { links: true, perms: true, times: true, specials: true, ..Preserve::default() };
    Options { depth: Depth::Recursive, preserve, ..Options::default() }
}

struct Folders {
    _folder: tempfile::TempDir,
    source: PathBuf,
    destination: PathBuf,
}

fn folders() -> Folders {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, destination) = (folder.path().join("src"), folder.path().join("dst"));
    fs::create_dir(&source).expect("a directory");
    fs::create_dir(&destination).expect("a directory");
    Folders { _folder: folder, source, destination }
}

impl Folders {
    fn sync(&self, options: &Options) -> (Outcome, Heard) {
        let heard = Heard::default();
        let source = [bytes(&self.source), b"/".to_vec()].concat();
        let outcome = local(options, &[source], &bytes(&self.destination), &heard);
        (outcome, heard)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.destination).expect("a list");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.expect("an entry").file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

#[test]
fn a_second_run_finds_nothing_to_do() {
    let folders = folders();
    fs::create_dir_all(folders.source.join("a/b")).expect("directories");
    fs::write(folders.source.join("a/b/f"), vec![7; 200_000]).expect("a file");
    fs::write(folders.source.join("g"), "small").expect("a file");
    symlink("g", folders.source.join("l")).expect("a link");
    let (outcome, heard) = folders.sync(&archive());
    assert_eq!((outcome.exit, outcome.stats.transferred), (Exit::Success, 2));
    let expected =
        [">f+++++++++ g", "cL+++++++++ l", "cd+++++++++ a", "cd+++++++++ a/b", ">f+++++++++ a/b/f"];
    assert_eq!(heard.items()[heard.items().len() - 5..], expected);
    let (outcome, heard) = folders.sync(&archive());
    assert_eq!((outcome.exit, heard.items()), (Exit::Success, Vec::<String>::new()));
    assert_eq!(outcome.stats.literal_bytes, 0);
}

#[test]
fn only_what_differs_travels_when_differences_are_asked_for() {
    let folders = folders();
    let mut content = vec![0; 1_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    fs::write(folders.destination.join("f"), &content).expect("a file");
    content.splice(500_000..500_000, *b"inserted");
    fs::write(folders.source.join("f"), &content).expect("a file");
    let options = Options { whole_file: Some(false), ..archive() };
    let (outcome, _) = folders.sync(&options);
    assert!(fs::read(folders.destination.join("f")).expect("read") == content);
    let Stats { literal_bytes, matched_bytes, .. } = outcome.stats;
    assert!(literal_bytes < 50_000, "{literal_bytes} bytes were sent");
    assert_eq!(literal_bytes + matched_bytes, content.len() as u64);
}

/// Whether letters were written from the begin to the end, one round after the other: the begin is
/// of one round, the rest of the one before.
fn is_one_moment(content: &[u8]) -> bool {
    let mut rounds: Vec<u8> = content.to_vec();
    rounds.dedup();
    match rounds[..] {
        [_] => true,
        [newer, older] => newer == older + 1 || (newer, older) == (b'a', b'z'),
        _ => false,
    }
}

#[test]
fn a_file_that_keeps_changing_arrives_as_it_was_at_one_moment_or_not_at_all() {
    let folders = folders();
    let path = folders.source.join("f");
    fs::write(&path, vec![b'z'; 4_000_000]).expect("a file");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (begun, wait) = mpsc::channel();
    let (outcome, heard) = thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
            for letter in (b'a'..=b'z').cycle() {
                use std::os::unix::fs::FileExt;
                file.write_all_at(&vec![letter; 4_000_000], 0).expect("written");
                // Nobody waits for it when the transfer is over.
                let _ = begun.send(());
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        wait.recv().expect("it is being written");
        let result = folders.sync(&archive());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    });
    if outcome.exit == Exit::Success {
        let content = fs::read(folders.destination.join("f")).expect("read");
        assert!(is_one_moment(&content), "moments are mixed");
    } else {
        assert_eq!(outcome.exit, Exit::Partial);
        assert!(heard.problems()[0].contains("changes while it is read"));
        assert_eq!(folders.names(), [""; 0]);
    }
}

#[test]
fn a_growing_file_arrives_as_it_was_at_one_moment() {
    let folders = folders();
    let path = folders.source.join("log");
    fs::write(&path, vec![b'1'; 3_000_000]).expect("a file");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).expect("open");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"2").expect("written");
            }
        });
        let (outcome, _) = folders.sync(&archive());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    });
    assert_eq!(outcome.exit, Exit::Success);
    let content = fs::read(folders.destination.join("log")).expect("read");
    assert!(fs::read(&path).expect("read").starts_with(&content) && content.len() >= 3_000_000);
}

#[test]
fn an_error_of_the_scan_prevents_deletions() {
    let folders = folders();
    fs::write(folders.destination.join("extra"), "").expect("a file");
    fs::write(folders.source.join(".rules"), "nonsense\n").expect("a file");
    for (ignore_errors, kept) in [(false, true), (true, false)] {
        let mut options = Options { delete: Some(Delete::During), ignore_errors, ..archive() };
        options.rules.filter(b": .rules").expect("a rule");
        let (outcome, _) = folders.sync(&options);
        assert_eq!(outcome.exit, Exit::Partial);
        assert_eq!(folders.destination.join("extra").exists(), kept);
    }
}

/// Plays the sender to a receiver: says `messages`, and gives what the receiver answered.
fn play(
    options: &Options,
    destination: &Path,
    messages: Vec<ToReceiver>,
) -> (Vec<ToSender>, Result<(), Fatal>, Heard) {
    let heard = Heard::default();
    let (mut sender, receiver) = in_process();
    let (answers, result) = thread::scope(|scope| {
        let receiving =
            scope.spawn(|| receiver::run(options, &bytes(destination), receiver, &heard).1);
        for message in messages {
            if sender.send(message) == Err(Gone) {
                break;
            }
        }
        let mut answers = Vec::new();
        // A receiver that waits for more is left alone after it has asked.
        while let Ok(answer) = sender.receive() {
            let last = matches!(answer, ToSender::NoMore);
            answers.push(answer);
            if last {
                break;
            }
        }
        drop(sender);
        (answers, receiving.join().expect("no panic"))
    });
    (answers, result, heard)
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn path(text: &str) -> RelativePath {
    RelativePath::new(text.as_bytes()).expect("a path")
}

fn details(kind: Kind) -> Details {
    Details {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: 3,
        device: (1, 3),
        target: (kind == Kind::Symlink).then(|| b"/etc/passwd".to_vec()),
        identity: None,
        hash: None,
        access_lists: None,
        extended: None,
    }
}

fn begin() -> ToReceiver {
    ToReceiver::Begin(Begin { entries: 1, directories: true })
}

fn dir(at: &str) -> ToReceiver {
    let details = Details { mode: 0o755, ..details(Kind::Directory) };
    ToReceiver::Dir { path: path(at), itself: Some(Box::new(details)) }
}

fn entries(kind: Kind, names: &[&str]) -> ToReceiver {
    let entry = |text: &&str| Entry { name: name(text), details: details(kind) };
    ToReceiver::Entries { first: 0, entries: names.iter().map(entry).collect() }
}

fn dir_end() -> ToReceiver {
    ToReceiver::DirEnd { directories: Vec::new(), listed: Listed::Whole }
}

fn small(content: &[u8], hash: Hash) -> ToReceiver {
    ToReceiver::Pack(vec![Small { id: 0, content: content.to_vec(), hash }])
}

fn wants(answers: &[ToSender]) -> Vec<(u64, Want)> {
    let wants = |answer: &ToSender| match answer {
        ToSender::Need { wants, .. } => wants.clone(),
        ToSender::Sums(_) | ToSender::Saved(_) | ToSender::NoMore => Vec::new(),
    };
    answers.iter().flat_map(wants).collect()
}

#[test]
fn a_content_with_another_hash_does_not_get_its_name() {
    let folders = folders();
    fs::write(folders.destination.join("f"), "old").expect("a file");
    let scan = [begin(), dir(""), entries(Kind::File, &["f"]), dir_end()];
    let end = ToReceiver::ScanEnd { complete: true };
    let messages = scan.into_iter().chain([small(b"new", Hash::of(b"other")), end]).collect();
    let options = Options { ignore_times: true, ..archive() };
    let (answers, _, heard) = play(&options, &folders.destination, messages);
    assert_eq!(wants(&answers), [(0, Want::Whole)]);
    assert!(heard.problems()[0].contains("did not arrive as it was announced"));
    assert_eq!(fs::read(folders.destination.join("f")).expect("read"), b"old");
    assert_eq!(folders.names(), ["f"]);
}

#[test]
fn what_nobody_asked_for_ends_the_transfer() {
    let folders = folders();
    let hash = Hash::of(b"x");
    let unasked = [
        vec![begin(), dir(""), small(b"x", hash)],
        vec![begin(), dir(""), ToReceiver::Data(b"x".to_vec())],
        vec![begin(), dir(""), ToReceiver::End(hash)],
        vec![begin(), dir(""), ToReceiver::Copy { offset: 0, length: 1 }],
        vec![begin(), entries(Kind::File, &["f"])],
        vec![begin(), dir("a/b")],
        vec![begin(), dir(""), entries(Kind::File, &["f"]), ToReceiver::Open { id: 7, offset: 0 }],
        vec![
            begin(),
            dir(""),
            entries(Kind::File, &["f"]),
            ToReceiver::Open { id: 0, offset: 0 },
            ToReceiver::Hole(u64::MAX),
        ],
    ];
    for messages in unasked {
        let shown = format!("{messages:?}");
        let (_, result, _) = play(&archive(), &folders.destination, messages);
        assert_eq!(result.expect_err(&shown).exit, Exit::Protocol, "{shown}");
        assert_eq!(folders.names(), [""; 0], "{shown}");
    }
}

#[test]
fn a_link_at_the_destination_never_leads_a_hostile_sender_out() {
    let folders = folders();
    let outside = folders.destination.parent().expect("a parent").join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("victim"), "untouched").expect("a file");
    symlink("../outside", folders.destination.join("d")).expect("a link");
    // First the link, then a directory of the same name: the link is replaced, not followed.
    let messages = vec![
        begin(),
        dir(""),
        dir_end(),
        dir("d"),
        entries(Kind::File, &["victim"]),
        dir_end(),
        small(b"new", Hash::of(b"new")),
        ToReceiver::ScanEnd { complete: true },
    ];
    let options = Options { delete: Some(Delete::During), ..archive() };
    let (answers, _, _) = play(&options, &folders.destination, messages);
    assert_eq!(wants(&answers), [(0, Want::Whole)]);
    assert_eq!(fs::read(outside.join("victim")).expect("read"), b"untouched");
    assert_eq!(fs::read(folders.destination.join("d/victim")).expect("read"), b"new");
    let meta = fs::symlink_metadata(folders.destination.join("d")).expect("facts");
    assert!(meta.is_dir());
}

#[test]
fn a_directory_that_turns_into_a_link_during_the_transfer_is_refused() {
    let folders = folders();
    let outside = folders.destination.parent().expect("a parent").join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::create_dir(folders.destination.join("d")).expect("a directory");
    let heard = Heard::default();
    let (mut sender, receiver) = in_process();
    let options = archive();
    thread::scope(|scope| {
        let receiving =
            scope.spawn(|| receiver::run(&options, &bytes(&folders.destination), receiver, &heard));
        let scan = [begin(), dir(""), dir_end(), dir("d"), entries(Kind::File, &["f", "g"])];
        for message in scan {
            sender.send(message).expect("it listens");
        }
        sender.receive().expect("it asks");
        // Now the directory is swapped. The held one is still the old one.
        fs::rename(folders.destination.join("d"), folders.destination.join("moved"))
            .expect("moved");
        symlink("../outside", folders.destination.join("d")).expect("a link");
        sender.send(small(b"new", Hash::of(b"new"))).expect("it listens");
        sender.send(ToReceiver::Failed(1)).expect("it listens");
        sender.send(dir_end()).expect("it listens");
        sender.send(ToReceiver::ScanEnd { complete: true }).expect("it listens");
        while !matches!(sender.receive().expect("it answers"), ToSender::NoMore) {}
        sender.send(ToReceiver::Done).expect("it listens");
        receiving.join().expect("no panic").1.expect("it ends well");
    });
    assert_eq!(fs::read_dir(&outside).expect("a list").count(), 0);
    assert!(folders.destination.join("moved/f").exists());
}

#[test]
fn devices_and_foreign_owners_need_to_be_asked_for() {
    let folders = folders();
    let mut scan = vec![begin(), dir("")];
    scan.push(entries(Kind::CharacterDevice, &["null"]));
    scan.extend([dir_end(), ToReceiver::ScanEnd { complete: true }]);
    let (_, _, heard) = play(&archive(), &folders.destination, scan);
    let events = heard.0.into_inner().expect("no thread panics");
    assert!(events.contains(&Event::Skipped(Skipped::NotRegular(path("null")))), "{events:?}");
    assert_eq!(folders.names(), [""; 0]);
}

#[test]
fn names_that_leave_the_root_cannot_even_be_said() {
    for bad in [&b".."[..], b"a/b", b"", b"."] {
        assert!(Name::try_from(bad.to_vec()).is_err());
    }
    for bad in [&b"../x"[..], b"/etc", b"a/../../x", b"a//b"] {
        assert!(RelativePath::try_from(bad.to_vec()).is_err());
    }
}

#[test]
fn an_interrupted_transfer_leaves_nothing_half_written_unless_asked() {
    for partial in [false, true] {
        let folders = folders();
        fs::write(folders.destination.join("f"), "old").expect("a file");
        let options = Options { partial, ignore_times: true, ..archive() };
        let cancelled = std::sync::Arc::clone(&options.cancelled);
        let (mut sender, receiver) = in_process();
        let heard = Heard::default();
        let result = thread::scope(|scope| {
            let destination = bytes(&folders.destination);
            let (heard, options) = (&heard, &options);
            let receiving =
                scope.spawn(move || receiver::run(options, &destination, receiver, heard));
            for message in [begin(), dir(""), entries(Kind::File, &["f"])] {
                sender.send(message).expect("it listens");
            }
            sender.receive().expect("it asks");
            sender.send(ToReceiver::Open { id: 0, offset: 0 }).expect("it listens");
            sender.send(ToReceiver::Data(b"half".to_vec())).expect("it listens");
            cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
            // One more, so that it looks up; it may have gone already.
            let _ = sender.send(ToReceiver::Data(Vec::new()));
            receiving.join().expect("no panic").1
        });
        assert_eq!(result.expect_err("interrupted").exit, Exit::Signal);
        let content = fs::read(folders.destination.join("f")).expect("read");
        assert!(content == b"old" || partial && content == b"half", "{content:?}");
        assert_eq!(folders.names(), ["f"]);
    }
}

#[test]
fn nothing_is_begun_when_the_time_to_stop_has_come() {
    let folders = folders();
    fs::write(folders.source.join("f"), "x").expect("a file");
    let stop_at = Some(std::time::Instant::now());
    let (outcome, _) = folders.sync(&Options { stop_at, ..archive() });
    assert_eq!((outcome.exit, folders.names()), (Exit::Timeout, Vec::new()));
}

#[test]
fn several_names_of_one_file_stay_one_file_even_if_the_first_does_not_come() {
    let folders = folders();
    let entry = |text: &str| {
        let details = Details { identity: Some((1, 2)), ..details(Kind::File) };
        Entry { name: name(text), details }
    };
    let mut options = archive();
    options.preserve.hard_links = true;
    let names = ["a", "b", "c"].map(entry).to_vec();
    let messages = vec![
        begin(),
        dir(""),
        ToReceiver::Entries { first: 0, entries: names },
        dir_end(),
        ToReceiver::ScanEnd { complete: true },
        ToReceiver::Failed(0),
        ToReceiver::Pack(vec![Small { id: 1, content: b"new".to_vec(), hash: Hash::of(b"new") }]),
    ];
    let (answers, _, _) = play(&options, &folders.destination, messages);
    assert_eq!(wants(&answers), [(0, Want::Whole), (1, Want::Whole)]);
    assert_eq!(folders.names(), ["b", "c"]);
    let inode = |name: &str| fs::metadata(folders.destination.join(name)).expect("facts").ino();
    assert_eq!(inode("b"), inode("c"));
}

#[test]
fn permissions_of_new_files_follow_the_options() {
    let folders = folders();
    let file = folders.source.join("f");
    fs::write(&file, "x").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4777)).expect("a mode");
    let chmod = Some(Chmod::parse("o-rwx", 0o022).expect("changes"));
    let (_, _) = folders.sync(&Options { chmod, ..archive() });
    let mode = |path: &Path| fs::metadata(path).expect("facts").permissions().mode() & 0o7777;
    assert_eq!(mode(&folders.destination.join("f")), 0o4770);
}

#[test]
fn a_backup_of_what_is_written_over_is_of_the_old_content() {
    let folders = folders();
    let mut content = vec![0; 1_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    fs::write(folders.destination.join("f"), &content).expect("a file");
    let old = content.clone();
    // What follows the insertion is overwritten before it is needed: the whole file comes after all.
    content.splice(1000..1000, *b"inserted");
    fs::write(folders.source.join("f"), &content).expect("a file");
    let whole_file = Some(false);
    let suffix = b"~".to_vec();
    let options = Options { inplace: true, backup: true, suffix, whole_file, ..archive() };
    let (outcome, _) = folders.sync(&options);
    assert_eq!(outcome.exit, Exit::Success);
    assert!(fs::read(folders.destination.join("f")).expect("read") == content);
    assert!(fs::read(folders.destination.join("f~")).expect("read") == old);
}

#[test]
fn sums_of_a_large_file_are_made_by_two_threads_and_fit_together() {
    let folders = folders();
    // More than two spans, and no whole number of blocks.
    let mut content = vec![0; 40_000_123];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    fs::write(folders.destination.join("f"), &content).expect("a file");
    content[20_000_000..20_000_010].fill(7);
    content.extend(b"more");
    fs::write(folders.source.join("f"), &content).expect("a file");
    let options = Options { whole_file: Some(false), ..archive() };
    let (outcome, _) = folders.sync(&options);
    assert!(fs::read(folders.destination.join("f")).expect("read") == content);
    assert!(outcome.stats.literal_bytes < 100_000, "{:?}", outcome.stats);
}

#[test]
fn blocks_of_every_size_that_can_be_asked_for_end_a_transfer() {
    for block_bytes in [1, 700, 1024 * 1024, 1024 * 1024 + 1, u32::MAX] {
        let folders = folders();
        fs::write(folders.destination.join("f"), vec![1; 70_000]).expect("a file");
        fs::write(folders.source.join("f"), vec![2; 70_001]).expect("a file");
        let block_bytes = Some(block_bytes);
        let options = Options { whole_file: Some(false), block_bytes, ..archive() };
        assert_eq!(folders.sync(&options).0.exit, Exit::Success);
        assert_eq!(fs::read(folders.destination.join("f")).expect("read"), vec![2; 70_001]);
    }
}
