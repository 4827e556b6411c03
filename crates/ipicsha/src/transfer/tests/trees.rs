//! Trees that are hard to carry, over a real connection and in both directions.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    sync::atomic::Ordering,
    time::Instant,
};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use super::*;

fn directory(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Option<OwnedFd> {
    openat(at, name, OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).ok()
}

/// Directories so deep that their whole path cannot be written in one system call.
fn make_deep(at: &Path, levels: usize) {
    let mut dir = directory(CWD, at).unwrap();
    for _ in 0..levels {
        let name = "d".repeat(250);
        mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
        dir = directory(&dir, &name).unwrap();
    }
}

fn depth(at: &Path) -> usize {
    let mut dir = directory(CWD, at).unwrap();
    let mut depth = 0;
    while let Some(below) = directory(&dir, "d".repeat(250)) {
        dir = below;
        depth += 1;
    }
    depth
}

fn names(at: &Path) -> BTreeSet<OsString> {
    fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn names_that_are_no_text_arrive_and_long_paths_are_told_without_stopping_the_others() {
    let place = Place::new();
    let transfers = place.transfers();
    let odd: [&[u8]; 4] = [b"new\nline", b"bad\xff", b"\x1b[31mred", &[b'x'; 255]];
    for name in odd {
        fs::write(place.at("here").join(OsStr::from_bytes(name)), "x").unwrap();
    }
    make_deep(&place.at("here"), 20);
    fs::create_dir(place.at("back")).unwrap();
    for (theirs, ours, to) in [(place.push(), "here/", "there"), (place.pull(), "back", "back")] {
        let (here, there) = place.connection();
        transfers.spawn(there, "alpha".into());
        let (outcome, heard) = place.ask(theirs, ours, here);
        assert_eq!(names(&place.at(to)), names(&place.at("here")));
        // 4096 bytes hold 16 names of 250 bytes with their slashes; the way back begins with those.
        assert_eq!(depth(&place.at(to)), 16);
        let too_long = |event: &Event| matches!(event, Event::Problem { text, .. } if text.contains("File name too long"));
        assert_eq!(heard.iter().any(too_long), to == "there", "{heard:?}");
        let exit = if to == "there" { Exit::Partial } else { Exit::Success };
        assert_eq!(outcome.exit, exit, "{:?}", outcome.fatal);
        let shown = |event: &Event| {
            if let Event::Item(item) = event { Some(item.path.to_string()) } else { None }
        };
        let shown = heard.iter().filter_map(shown);
        assert!(!shown.collect::<String>().contains(char::is_control));
    }
    place.runtime.block_on(transfers.end());
    for side in ["here", "there", "back"] {
        fs::remove_dir_all(place.at(side)).unwrap();
    }
}

/// A directory of the partner's gives way to a link that leads out, and comes back, all the time.
fn swap(place: &Place, swapping: &AtomicBool) {
    let [d, aside, out] = ["there/d", "there/aside", "out"].map(|path| place.at(path));
    // Whatever a transfer made in between is removed: the next round has both again.
    while swapping.load(Ordering::Relaxed) {
        let _ = fs::rename(&d, &aside);
        let _ = std::os::unix::fs::symlink(&out, &d);
        let _ = fs::remove_file(&d);
        if fs::rename(&aside, &d).is_err() {
            let _ = fs::remove_dir_all(&d);
            let _ = fs::rename(&aside, &d);
        }
    }
}

#[test]
fn a_link_swapped_in_at_any_moment_leads_no_partner_out() {
    const FILES: usize = 50;
    let place = Place::new();
    let transfers = place.transfers();
    for (folder, content) in [("here/d", "mine"), ("there/d", "open"), ("out", "secret")] {
        fs::create_dir_all(place.at(folder)).unwrap();
        for number in 0..FILES {
            fs::write(place.at(folder).join(number.to_string()), content).unwrap();
        }
    }
    fs::create_dir(place.at("back")).unwrap();
    let swapping = AtomicBool::new(true);
    let options = Options { ignore_times: true, ..recursive() };
    let (mut transferred, begin) = ([0, 0], Instant::now());
    // Which of the two a round meets is chance.
    let goes_on = |round: usize, transferred: &[u64; 2]| {
        round < 40 || transferred.contains(&0) && begin.elapsed() < Duration::from_secs(60)
    };
    thread::scope(|scope| {
        scope.spawn(|| swap(&place, &swapping));
        for round in 0.. {
            if !goes_on(round, &transferred) {
                break;
            }
            let pulls = round % 2;
            let (theirs, ours) =
                if pulls == 0 { (place.push(), "here/") } else { (place.pull(), "back") };
            let (here, there) = place.connection();
            transfers.spawn(there, "alpha".into());
            let (outcome, _) = place.ask_for(&options, theirs, ours, here);
            assert!(matches!(outcome.exit, Exit::Success | Exit::Partial | Exit::Vanished));
            transferred[pulls] += outcome.stats.transferred;
        }
        swapping.store(false, Ordering::Relaxed);
    });
    place.runtime.block_on(transfers.end());
    assert!(transferred.iter().all(|files| *files > 0), "never reached: {transferred:?}");
    for number in 0..FILES {
        let read = |folder: &str| fs::read_to_string(place.at(folder).join(number.to_string()));
        assert_eq!(read("out").unwrap(), "secret", "written outside");
        assert_ne!(read("back/d").ok().as_deref(), Some("secret"), "read outside");
    }
    assert_eq!(names(&place.at("out")).len(), FILES);
}
