//! A root that goes away and comes back.

use std::{fs, path::Path};

use ipicsha_files::watch::{FlushError, Hint, Method};

use crate::mirror::{HANG, LISTENING, Mirror, folders, is_there};

/// `leave` takes the root away; `come` brings one back.
fn gone_and_back(leave: fn(&Path), come: fn(&Path)) {
    for method in LISTENING.into_iter().chain([Method::Polling]) {
        let Some(folder) = folders().pop() else { continue };
        if !is_there(method, folder.path()) {
            continue;
        }
        let root = folder.path().join("parent/root");
        fs::create_dir_all(root.join("old")).expect("a root");
        let mut mirror = Mirror::start(&root, method);
        leave(&root);
        mirror.wait(|mirror| mirror.seen.contains(&Hint::RootGone));
        assert_eq!(mirror.seen.last(), Some(&Hint::RootGone), "{method}");
        assert_eq!(mirror.watcher.flush(HANG), Err(FlushError::RootGone));
        come(&root);
        mirror.wait(|mirror| mirror.seen.last() == Some(&Hint::Everything));
        fs::create_dir_all(root.join("new/deep")).expect("directories");
        fs::write(root.join("new/deep/file"), "").expect("a file");
        mirror.assert_complete();
        assert!(mirror.known.contains_key(&b"new/deep/file"[..]));
    }
}

#[test]
fn a_root_removed_and_made_again_is_watched_again() {
    gone_and_back(
        |root| fs::remove_dir_all(root.parent().expect("a parent")).expect("removed"),
        |root| fs::create_dir_all(root.join("other")).expect("made again"),
    );
}

#[test]
fn a_root_whose_parent_is_renamed_is_watched_when_it_is_back() {
    gone_and_back(
        |root| {
            let parent = root.parent().expect("a parent");
            fs::rename(parent, parent.with_file_name("away")).expect("renamed");
            fs::remove_dir(parent.with_file_name("away").join("root").join("old"))
                .expect("not seen");
        },
        |root| {
            let parent = root.parent().expect("a parent");
            fs::rename(parent.with_file_name("away"), parent).expect("renamed");
        },
    );
}

#[test]
fn a_root_that_is_exchanged_is_told_as_gone_before_it_is_scanned() {
    for method in [Method::Fanotify, Method::Inotify] {
        let Some(folder) = folders().pop() else { continue };
        if !is_there(method, folder.path()) {
            continue;
        }
        let (root, other) = (folder.path().join("root"), folder.path().join("other"));
        fs::create_dir_all(root.join("old")).expect("a root");
        fs::create_dir_all(other.join("new")).expect("another");
        let mut mirror = Mirror::start(&root, method);
        let cwd = rustix::fs::CWD;
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(cwd, &root, cwd, &other, flags).expect("exchanged");
        mirror.wait(|mirror| mirror.seen.contains(&Hint::RootGone));
        mirror.assert_complete();
        assert_eq!(mirror.seen[1..], [Hint::RootGone, Hint::Everything]);
        fs::write(root.join("new/file"), "").expect("a file");
        mirror.assert_complete();
        assert!(mirror.known.contains_key(&b"new/file"[..]));
    }
}
