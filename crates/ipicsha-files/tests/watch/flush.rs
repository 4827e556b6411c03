//! When the hints are known to be complete.

use std::{fs, time::Duration};

use ipicsha_files::watch::{FlushError, Hint, Method, Options, Watcher};

use crate::mirror::{HANG, LISTENING, Mirror, folders, is_there};

#[test]
fn after_a_flush_every_change_before_it_is_told() {
    for method in LISTENING {
        for folder in folders().iter().filter(|folder| is_there(method, folder.path())) {
            let mut mirror = Mirror::start(folder.path(), method);
            for round in 0..20 {
                let dir = folder.path().join(format!("{round}/x/y"));
                fs::create_dir_all(&dir).expect("directories");
                fs::write(dir.join("file"), "").expect("a file");
                mirror.assert_complete();
            }
        }
    }
}

#[test]
fn where_nothing_listens_a_flush_says_to_scan() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mirror = Mirror::start(folder.path(), Method::Polling);
    assert!(mirror.watcher.status().alarm.is_some_and(|alarm| alarm.contains("every 10 s")));
    fs::write(folder.path().join("file"), "").expect("a file");
    mirror.assert_complete();
    assert_eq!(mirror.scans, 2);
}

#[test]
fn a_flush_that_cannot_be_answered_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let mirror = Mirror::start(folder.path(), Method::Inotify);
    let pause = mirror.watcher.pause();
    assert_eq!(mirror.watcher.flush(Duration::from_millis(50)), Err(FlushError::Late));
    drop(pause);
    mirror.watcher.flush(HANG).expect("flushed");
    fs::remove_dir_all(folder.path().join(".ipicsha")).expect("removed");
    mirror.watcher.flush(HANG).expect("the directory of cookies is made again");
    fs::remove_dir_all(folder.path().join(".ipicsha")).expect("removed");
    fs::write(folder.path().join(".ipicsha"), "in the way").expect("a file");
    let result = mirror.watcher.flush(HANG);
    assert!(matches!(result, Err(FlushError::Cookie(_))), "{result:?}");
}

#[test]
fn cookies_leave_nothing_behind_and_old_ones_do_not_disturb() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join(".ipicsha");
    fs::create_dir(&own).expect("a directory");
    for process in [1, std::process::id()] {
        fs::write(own.join(format!("cookie-{process}-1")), "").expect("a cookie");
    }
    let mut mirror = Mirror::start(folder.path(), Method::Inotify);
    mirror.assert_complete();
    assert_eq!(fs::read_dir(own).expect("a list").count(), 0);
    assert!(mirror.truth().is_empty());
}

#[test]
fn the_consumer_is_woken_once_for_what_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (wake, woken) = std::sync::mpsc::channel();
    let options = Options { best: Method::Inotify, ..Options::default() };
    let watcher = Watcher::start(folder.path(), options, move || {
        wake.send(()).expect("the test listens");
    });
    let watcher = watcher.expect("a watcher");
    woken.recv_timeout(HANG).expect("woken for the first scan");
    assert_eq!(watcher.take(), [Hint::Everything]);
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(name), "").expect("a file");
        watcher.flush(HANG).expect("flushed");
    }
    woken.recv_timeout(HANG).expect("woken for the files");
    assert_eq!(watcher.take().len(), 3);
    assert!(woken.try_recv().is_err(), "woken again without news");
}
