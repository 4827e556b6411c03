//! Files that are being written: told when they are closed or quiet, looked at while they stay open.

use std::{fs::File, io::Write as _, time::Duration};

use ipicsha_files::{
    RelativePath,
    watch::{Hint, Method, Options},
};

use crate::mirror::{LISTENING, Mirror, folders, is_there, options};

fn is_told(mirror: &Mirror, name: &str) -> bool {
    mirror.seen.iter().any(|hint| match hint {
        Hint::Entry { path, .. } => path.to_string() == name,
        Hint::Method(_)
        | Hint::RootGone
        | Hint::Everything
        | Hint::Subtree(_)
        | Hint::Directory(_) => false,
    })
}

#[test]
fn a_file_is_told_when_it_is_closed() {
    for method in LISTENING {
        for folder in folders().iter().filter(|folder| is_there(method, folder.path())) {
            // It never settles, so that only closing makes it told.
            let settle = Duration::from_secs(3600);
            let options = Options { settle, ..options(method) };
            let mut mirror = Mirror::with(folder.path(), options);
            let mut upload = File::create(folder.path().join("upload")).expect("a file");
            upload.write_all(b"half").expect("written");
            std::fs::write(folder.path().join("other"), "").expect("a file");
            mirror.wait(|mirror| is_told(mirror, "other"));
            assert!(!is_told(&mirror, "upload"), "{method}: told while it is written");
            drop(upload);
            mirror.wait(|mirror| is_told(mirror, "upload"));
        }
    }
}

#[test]
fn a_file_that_stays_open_is_told_when_it_is_quiet() {
    for method in LISTENING {
        for folder in folders().iter().filter(|folder| is_there(method, folder.path())) {
            let mut mirror = Mirror::start(folder.path(), method);
            let mut log = File::create(folder.path().join("log")).expect("a file");
            log.write_all(b"line").expect("written");
            mirror.wait(|mirror| is_told(mirror, "log"));
        }
    }
}

#[test]
fn a_file_that_stays_open_is_looked_at_while_it_changes() {
    for method in [Method::Fanotify, Method::Inotify] {
        for folder in folders().iter().filter(|folder| is_there(method, folder.path())) {
            let old = folder.path().join("old");
            let mut old = File::create(old).expect("a file");
            let recheck_every = Duration::from_millis(50);
            let options = Options { recheck_every, ..options(method) };
            let mut mirror = Mirror::with(folder.path(), options);
            // The scan found it changed a moment ago.
            mirror.watcher.recheck(&RelativePath::new(b"old").expect("a path"));
            let mut new = File::create(folder.path().join("new")).expect("a file");
            for _ in 0..3 {
                old.write_all(b"line").expect("written");
                new.write_all(b"line").expect("written");
                mirror.wait_complete();
            }
        }
    }
}

#[test]
fn a_flush_looks_at_files_that_stay_open() {
    for method in [Method::Fanotify, Method::Inotify] {
        for folder in folders().iter().filter(|folder| is_there(method, folder.path())) {
            let mut mirror = Mirror::start(folder.path(), method);
            let mut log = File::create(folder.path().join("log")).expect("a file");
            for _ in 0..3 {
                log.write_all(b"line").expect("written");
                mirror.assert_complete();
            }
        }
    }
}

#[test]
fn a_file_that_stays_open_under_a_name_used_before_is_looked_at() {
    for method in [Method::Fanotify, Method::Inotify] {
        for folder in folders().iter().filter(|folder| is_there(method, folder.path())) {
            let mut mirror = Mirror::start(folder.path(), method);
            // Of events that nobody read yet the kernel makes one.
            let pause = mirror.watcher.pause();
            let name = folder.path().join("log");
            std::fs::write(&name, "old").expect("a file");
            std::fs::remove_file(&name).expect("removed");
            let mut log = File::create(&name).expect("a file");
            drop(pause);
            for _ in 0..3 {
                log.write_all(b"line").expect("written");
                mirror.assert_complete();
            }
        }
    }
}
