//! The scan does not run far ahead of what has come, and nothing waits for ever because of that.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::sync::{
    channel::{Channel, ReceiverEnd},
    message::{AHEAD_MAX, ENTRIES_MAX},
    options::Delete,
};

/// Counts on the way.
struct Counting {
    inner: ReceiverEnd,
    told: u64,
    settled: u64,
    most: std::sync::Arc<AtomicU64>,
}

impl Channel for Counting {
    type Out = ToSender;
    type In = ToReceiver;

    fn send(&mut self, message: ToSender) -> Result<(), Gone> {
        if let ToSender::Need { decided, .. } = message {
            self.settled = self.settled.max(decided);
        }
        self.inner.send(message)
    }

    fn receive(&mut self) -> Result<ToReceiver, Gone> {
        let message = self.inner.receive()?;
        if let ToReceiver::Entries { first, entries } = &message {
            self.told = first + entries.len() as u64;
            self.most.fetch_max(self.told - self.settled, Ordering::Relaxed);
        }
        Ok(message)
    }

    fn receive_now(&mut self) -> Result<Option<ToReceiver>, Gone> {
        self.inner.receive_now()
    }
}

/// 60 small files in one directory, 60 in twelve others, some with two names; a few are longer.
fn many() -> Folders {
    let folders = folders();
    for n in 0..120 {
        let directory =
            folders.source.join(if n < 60 { "flat".into() } else { format!("d{}", n % 12) });
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join(format!("f{n:03}"));
        fs::write(&path, vec![b'x'; if n % 10 == 0 { 100_000 } else { n }]).expect("a file");
        if n % 7 == 0 {
            fs::hard_link(&path, directory.join(format!("l{n:03}"))).expect("a link");
        }
    }
    folders
}

/// Everything to the destination; how far the scan was ahead at most.
fn ahead(folders: &Folders, options: &Options) -> u64 {
    let (sender, receiver) = in_process();
    let most = std::sync::Arc::new(AtomicU64::new(0));
    let counting = Counting { inner: receiver, told: 0, settled: 0, most: most.clone() };
    let source = [bytes(&folders.source), b"/".to_vec()].concat();
    let heard = &Heard::default();
    let ended = thread::scope(|scope| {
        let sending = scope.spawn(move || send(options, &[source], sender, heard));
        let (received, result) = receive(options, &bytes(&folders.destination), counting, heard);
        Outcome::of(sending.join().expect("it sends"), received, result.err())
    });
    assert_eq!((ended.exit, heard.problems()), (Exit::Success, vec![]));
    most.load(Ordering::Relaxed)
}

fn is_equal(folders: &Folders) -> bool {
    let arguments = ["-r", "--no-dereference"];
    let compared = std::process::Command::new("diff")
        .args(arguments)
        .args([&folders.source, &folders.destination])
        .status();
    compared.expect("diff runs").success()
}

#[test]
fn the_scan_waits_for_what_has_come_whatever_is_asked_for() {
    let preserve = Preserve { hard_links: true, ..archive().preserve };
    let all = [
        archive(),
        Options { preserve, ..archive() },
        Options { delete: Some(Delete::During), ..archive() },
        Options { delete: Some(Delete::Delay), ..archive() },
        Options { delay_updates: true, ..archive() },
        Options { checksum: true, ..archive() },
        Options { inplace: true, whole_file: Some(false), ..archive() },
        Options { whole_file: Some(false), block_bytes: Some(1000), ..archive() },
    ];
    for (number, options) in all.into_iter().enumerate() {
        let folders = many();
        for round in 0..3 {
            let most = ahead(&folders, &options);
            let bound = AHEAD_MAX + ENTRIES_MAX as u64;
            assert!(most <= bound, "{number}: {most} of {bound} entries ahead");
            assert!(is_equal(&folders), "{number}, {round}");
            // Now a file in three is another one at the source.
            for n in (0..60).step_by(3) {
                let path = folders.source.join(format!("flat/f{n:03}"));
                let longer = [fs::read(&path).expect("read"), b"more".to_vec()].concat();
                fs::write(&path, longer).expect("written");
            }
        }
    }
}

#[test]
fn what_was_backed_up_on_the_way_is_not_taken_for_something_extra() {
    for delete in [Delete::During, Delete::Delay] {
        let folders = many();
        ahead(&folders, &archive());
        for n in 0..60 {
            fs::write(folders.source.join(format!("flat/f{n:03}")), "new").expect("written");
        }
        fs::write(folders.destination.join("flat/stale"), "").expect("a file");
        let options = Options {
            backup: true,
            suffix: b"~".to_vec(),
            delete: Some(delete),
            ignore_times: true,
            ..archive()
        };
        ahead(&folders, &options);
        for n in 1..60 {
            let kept = fs::read(folders.destination.join(format!("flat/f{n:03}~"))).expect("kept");
            let length = if n % 10 == 0 { 100_000 } else { n };
            assert_eq!(kept.len(), length, "{n}");
        }
        assert!(!folders.destination.join("flat/stale").exists());
    }
}

#[test]
fn nothing_waits_where_all_is_told_before_anything_is_done() {
    let folders = many();
    let options = Options { delete: Some(Delete::Before), ..archive() };
    fs::write(folders.destination.join("stale"), "").expect("a file");
    assert!(ahead(&folders, &options) > AHEAD_MAX);
    assert!(is_equal(&folders));
}

#[test]
fn sources_that_go_are_told_on_the_way() {
    let folders = many();
    let options = Options { remove_source_files: true, ..archive() };
    assert!(ahead(&folders, &options) <= AHEAD_MAX + ENTRIES_MAX as u64);
    assert_eq!(fs::read_dir(folders.source.join("flat")).expect("a list").count(), 0);
    assert_eq!(fs::read_dir(folders.destination.join("flat")).expect("a list").count(), 69);
}
