//! Queues that overflow, limits that are reached, file systems that are too busy.

use std::{fs, time::Duration};

use ipicsha_files::watch::{Hint, Method, Options, Watcher};

use crate::mirror::{HANG, LISTENING, Mirror, folders, is_there, options};

/// Events that the kernel keeps for one instance of inotify.
fn queue() -> usize {
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a limit");
    text.trim().parse().expect("a number")
}

#[test]
fn a_queue_that_overflows_means_to_scan_and_directories_in_it_are_heard_afterwards() {
    let Some(folder) = folders().pop() else { return };
    let mut mirror = Mirror::start(folder.path(), Method::Inotify);
    let pause = mirror.watcher.pause();
    // Two events each, and none of them read.
    for number in 0..queue() / 2 + 100 {
        fs::write(folder.path().join(number.to_string()), "").expect("a file");
    }
    fs::create_dir_all(folder.path().join("lost/deep")).expect("directories");
    fs::write(folder.path().join("lost/deep/file"), "").expect("a file");
    drop(pause);
    mirror.assert_complete();
    assert_eq!(mirror.scans, 2);
    fs::write(folder.path().join("lost/deep/later"), "").expect("a file");
    fs::create_dir(folder.path().join("lost/deep/dir")).expect("a directory");
    fs::write(folder.path().join("lost/deep/dir/later"), "").expect("a file");
    mirror.assert_complete();
    assert_eq!(mirror.scans, 2, "after the scan single paths are enough again");
}

#[test]
fn a_paused_reader_loses_nothing_with_fanotify() {
    let Some(folder) = folders().pop() else { return };
    if !is_there(Method::Fanotify, folder.path()) {
        return;
    }
    let mut mirror = Mirror::start(folder.path(), Method::Fanotify);
    let pause = mirror.watcher.pause();
    for number in 0..queue() {
        fs::write(folder.path().join(number.to_string()), "").expect("a file");
    }
    fs::create_dir_all(folder.path().join("dir/deep")).expect("directories");
    fs::write(folder.path().join("dir/deep/file"), "").expect("a file");
    drop(pause);
    mirror.assert_complete();
    assert_eq!(mirror.scans, 1);
}

#[test]
fn what_has_no_watch_is_polled_with_an_alarm_and_covered_when_there_are_watches_again() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..20 {
        fs::create_dir_all(folder.path().join(format!("{number}/deep"))).expect("directories");
    }
    let options = Options {
        best: Method::Inotify,
        watches_max: 12,
        poll_every: Duration::from_millis(50),
        ..Options::default()
    };
    let mut mirror = Mirror::with(folder.path(), options);
    let status = mirror.watcher.status();
    let alarm = status.alarm.expect("an alarm");
    for part in ["sysctl -w fs.inotify.max_user_watches=", "/etc/sysctl.d", "directories are only"]
    {
        assert!(alarm.contains(part), "{alarm}");
    }
    assert!(status.polled > 0);
    for number in 0..20 {
        fs::write(folder.path().join(format!("{number}/deep/file")), "").expect("a file");
        fs::create_dir(folder.path().join(format!("{number}/new"))).expect("a directory");
        fs::write(folder.path().join(format!("{number}/new/file")), "").expect("a file");
    }
    // Nobody waits for the next look who flushes.
    mirror.assert_complete();
    // And without a flush it is found by looking.
    fs::write(folder.path().join("19/deep/later"), "").expect("a file");
    fs::write(folder.path().join("0/deep/later"), "").expect("a file");
    mirror.wait_complete();
    for number in 0..17 {
        fs::remove_dir_all(folder.path().join(number.to_string())).expect("removed");
    }
    mirror.wait(|mirror| mirror.watcher.status().alarm.is_none());
    mirror.assert_complete();
    assert!(
        mirror.seen.iter().any(|hint| matches!(hint, Hint::Method(status) if status.polled == 0))
    );
    fs::write(folder.path().join("19/new/last"), "").expect("a file");
    mirror.assert_complete();
}

#[test]
fn a_limit_that_leaves_no_watch_at_all_is_polling_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        best: Method::Inotify,
        watches_max: 1,
        poll_every: Duration::from_millis(50),
        ..Options::default()
    };
    let watcher = Watcher::start(folder.path(), options, || {}).expect("a watcher");
    let status = watcher.status();
    // The portable library does not know our limit.
    assert!(matches!(status.method, Method::Notify | Method::Polling), "{status}");
    let remedy = "run `sysctl -w fs.inotify.max_user_watches=";
    assert!(status.to_string().contains(remedy), "{status}");
}

#[test]
fn more_places_without_a_watch_than_are_kept_are_polled_as_one() {
    let Some(folder) = folders().pop() else { return };
    for number in 0..600 {
        fs::create_dir(folder.path().join(number.to_string())).expect("a directory");
    }
    let options = Options {
        best: Method::Inotify,
        watches_max: 10,
        poll_every: Duration::from_millis(50),
        ..Options::default()
    };
    let mut mirror = Mirror::with(folder.path(), options);
    assert_eq!(mirror.watcher.status().polled, 1);
    for number in 0..600 {
        fs::write(folder.path().join(format!("{number}/file")), "").expect("a file");
    }
    mirror.wait_complete();
    fs::write(folder.path().join("599/later"), "").expect("a file");
    mirror.assert_complete();
}

#[test]
fn a_file_system_too_busy_elsewhere_is_watched_by_directories() {
    let Some(folder) = folders().pop() else { return };
    if !is_there(Method::Fanotify, folder.path()) {
        return;
    }
    let (root, beside) = (folder.path().join("root"), folder.path().join("beside"));
    fs::create_dir(&root).expect("a root");
    fs::create_dir(&beside).expect("a folder");
    let options = Options { foreign_per_second_max: 5, ..Options::default() };
    let mut mirror = Mirror::with(&root, options);
    let mut number = 0_u64;
    mirror.wait(|mirror| {
        for _ in 0..50 {
            fs::write(beside.join("busy"), "").expect("a file");
        }
        mirror.watcher.status().method == Method::Inotify
    });
    let status = mirror.watcher.status();
    assert!(status.to_string().contains("events/s"), "{status}");
    while number < 100 {
        fs::write(root.join(number.to_string()), "").expect("a file");
        number += 1;
    }
    mirror.assert_complete();
}

#[test]
fn every_method_that_is_not_used_has_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    for (used, method) in LISTENING.into_iter().chain([Method::Polling]).enumerate() {
        let options = options(method);
        let status = Watcher::start(folder.path(), options, || {}).expect("a watcher").status();
        assert!(status.refused.len() >= used, "{status}");
        assert!(status.refused.iter().all(|refused| !refused.why.is_empty()), "{status}");
        assert_eq!(status.alarm.is_some(), status.method == Method::Polling, "{status}");
    }
}

#[test]
fn watchers_end_when_they_are_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    for method in LISTENING {
        let options = options(method);
        let watcher = Watcher::start(folder.path(), options, || {}).expect("a watcher");
        assert_eq!(watcher.wait(HANG), [Hint::Everything]);
        drop(watcher);
    }
    let missing = Watcher::start(folder.path().join("missing"), Options::default(), || {});
    let error = missing.expect_err("there is no root").to_string();
    assert!(error.contains("No such file or directory (2); create the directory"), "{error}");
}
