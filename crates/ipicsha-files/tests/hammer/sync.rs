//! `ipicsha sync` into a directory that somebody plays with.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use ipicsha_files::sync::{self, Delete, Depth, Event, Options, Preserve, Report};

use crate::{
    outside::Outside,
    swap::{Hammer, StopAtEnd},
};

/// At least so many transfers meet the swaps.
const ROUNDS: u64 = 30;

#[derive(Default)]
struct Counts {
    items: AtomicU64,
    problems: AtomicU64,
}

impl Report for Counts {
    fn event(&self, event: Event) {
        match event {
            Event::Item(_) | Event::Deleted { .. } => self.items.fetch_add(1, Ordering::Relaxed),
            Event::Problem { .. } => self.problems.fetch_add(1, Ordering::Relaxed),
            Event::Begun
            | Event::Listed(_)
            | Event::CreatedDestination { .. }
            | Event::Skipped(_)
            | Event::Notice(_)
            | Event::Progress(_) => 0,
        };
    }
}

fn options(round: u64) -> Options {
    let preserve = Preserve {
        links: true,
        perms: true,
        times: true,
        owner: true,
        group: true,
        extended: true,
        access_lists: true,
        hard_links: true,
        ..Preserve::default()
    };
    Options {
        depth: Depth::Recursive,
        preserve,
        delete: Some(if round.is_multiple_of(2) { Delete::During } else { Delete::After }),
        force: true,
        ignore_times: true,
        whole_file: Some(!round.is_multiple_of(3)),
        inplace: round % 5 == 4,
        delay_updates: round % 5 == 3,
        ..Options::default()
    }
}

/// A source with other facts in every round.
fn change_source(source: &Path, round: u64) {
    let directory = source.join("d");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(directory.join("below")).expect("directories");
    for name in ["f0", "f1", "below/f0", "below/f2"] {
        let path = directory.join(name);
        fs::write(&path, format!("inside {round}").repeat(1 + round as usize % 400))
            .expect("a file");
        let mode = 0o600 + u32::try_from(round % 64).expect("small");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
    }
    fs::hard_link(directory.join("f0"), directory.join("other")).expect("a further name");
    symlink("f1", directory.join("link")).expect("a link");
}

#[test]
fn sync_never_leaves_its_destination_whatever_is_swapped() {
    let folder = tempfile::tempdir().expect("a folder");
    let [source, destination, stash] = ["source", "destination", "stash"].map(|name| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    });
    fs::create_dir(destination.join("d")).expect("a directory");
    let outside = Outside::make(folder.path().join("outside"));
    let (swaps, counts) = (Hammer::default(), Counts::default());
    let mut rounds = 0;
    thread::scope(|scope| {
        scope.spawn(|| swaps.swap(&destination.join("d"), &stash, outside.path()));
        let _stop = StopAtEnd(&swaps);
        while !swaps.is_enough() || rounds < ROUNDS {
            change_source(&source, rounds);
            let from = [source.as_os_str().as_bytes(), b"/"].concat();
            sync::local(&options(rounds), &[from], destination.as_os_str().as_bytes(), &counts);
            rounds += 1;
        }
    });
    outside.assert_untouched();
    let (items, problems) = (counts.items.into_inner(), counts.problems.into_inner());
    // It was really worked on, and the link was really met.
    assert!(items > ROUNDS && problems > 0, "{items} changes, {problems} problems");
}
