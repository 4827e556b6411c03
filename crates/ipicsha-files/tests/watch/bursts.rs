//! Many changes at once: nothing is missed.

use std::{fs, path::Path, thread};

use ipicsha_files::watch::{Hint, Method, Options};

use crate::mirror::{HANG, LISTENING, Mirror, folders, is_there, options};

/// Deep directories with files at the bottom.
fn deep(root: &Path, from: usize, to: usize) {
    for number in from..to {
        let dir = root.join(format!("{number}/a/b/c/d"));
        fs::create_dir_all(&dir).expect("directories");
        fs::write(dir.join("one"), "1").expect("a file");
        fs::write(dir.join("two"), "2").expect("a file");
    }
}

/// Directories with ten files each.
fn wide(root: &Path, from: usize, to: usize) {
    for number in from..to {
        let dir = root.join(format!("wide/{}/{number}", number % 7));
        fs::create_dir_all(&dir).expect("directories");
        for file in 0..10 {
            fs::write(dir.join(file.to_string()), "x").expect("a file");
        }
    }
}

/// The burst happens while the consumer drains; in the end nothing is missing.
fn burst(method: Method, paths: usize, change: fn(&Path)) {
    for folder in folders() {
        if !is_there(method, folder.path()) {
            continue;
        }
        let mut mirror = Mirror::start(folder.path(), method);
        thread::scope(|scope| {
            let writer = scope.spawn(|| change(folder.path()));
            while !writer.is_finished() {
                mirror.handle_some();
            }
        });
        // The library loses events; only what is listed later makes up for it.
        if method == Method::Notify {
            mirror.wait_complete();
        } else {
            mirror.assert_complete();
        }
        assert_eq!(mirror.known.len(), paths);
        assert_eq!(mirror.scans, 1, "single paths were enough");
    }
}

#[test]
fn deep_directories_made_at_once_are_not_missed() {
    for method in LISTENING {
        burst(method, 200 * 7, |root| deep(root, 0, 200));
    }
}

#[test]
fn many_directories_with_files_made_at_once_are_not_missed() {
    for method in LISTENING {
        burst(method, 1 + 7 + 500 * 11, |root| wide(root, 0, 500));
    }
}

#[test]
fn two_writers_and_a_remover_at_once_leave_nothing_wrong() {
    for method in [Method::Fanotify, Method::Inotify] {
        burst(method, 1 + 7 + 200 * 11 + 50 * 7, |root| {
            thread::scope(|scope| {
                scope.spawn(|| wide(root, 0, 200));
                scope.spawn(|| {
                    deep(root, 0, 100);
                    for number in 0..50 {
                        fs::remove_dir_all(root.join(number.to_string())).expect("removed");
                    }
                });
            });
        });
    }
}

#[test]
fn a_hundred_thousand_files_and_ten_thousand_renames_are_not_missed() {
    for method in [Method::Fanotify, Method::Inotify] {
        // On a file system in memory where there is one: the disk is not what is tested.
        let Some(folder) = folders().pop() else { continue };
        if !is_there(method, folder.path()) {
            continue;
        }
        let mut mirror = Mirror::start(folder.path(), method);
        let file = |number: usize| folder.path().join(format!("{}/{number}", number % 100));
        let moved = |number: usize| folder.path().join(format!("{}/m{number}", number % 97));
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for dir in 0..100 {
                    fs::create_dir(folder.path().join(dir.to_string())).expect("a directory");
                }
                for number in 0..100_000 {
                    fs::write(file(number), "").expect("a file");
                }
                for number in 0..10_000 {
                    fs::rename(file(number), moved(number)).expect("renamed");
                }
            });
            while !writer.is_finished() {
                mirror.handle_some();
            }
        });
        mirror.assert_complete();
        assert_eq!(mirror.known.len(), 100_100);
    }
}

#[test]
fn a_consumer_that_sleeps_costs_a_scan_and_no_memory() {
    for method in [Method::Fanotify, Method::Inotify] {
        let Some(folder) = folders().pop() else { continue };
        if !is_there(method, folder.path()) {
            continue;
        }
        let options = Options { paths_max: 2000, ..options(method) };
        let mut mirror = Mirror::with(folder.path(), options);
        // More directories than paths are kept, and never a look.
        for number in 0..3000 {
            fs::create_dir(folder.path().join(number.to_string())).expect("a directory");
        }
        mirror.watcher.flush(HANG).expect("flushed");
        mirror.drain();
        assert_eq!(mirror.seen, [Hint::Everything, Hint::Everything]);
        mirror.assert_equal();
        fs::write(folder.path().join("2999/file"), "").expect("a file");
        mirror.assert_complete();
        assert_eq!(mirror.scans, 2, "single paths are enough again");
    }
}
