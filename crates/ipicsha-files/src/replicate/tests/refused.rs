//! What the system of one server refuses: the rest travels, nothing is half-written, and it is tried again.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{TryRecvError, channel},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::CapabilitySet,
};

use super::{
    super::Command as Told,
    faults::{Call, Fault},
    pair::{Pair, eventually},
    walk,
};

fn run(program: &str, arguments: &[&str], at: &Path) -> bool {
    Command::new(program).args(arguments).arg(at).status().unwrap().success()
}

/// Only root may do what these tests need.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: needs root");
    }
    is_root
}

/// Memory as a file system; unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Self {
        let size = format!("size={size}");
        assert!(run("mount", &["-t", "tmpfs", "-o", &size, "ipicsha-test"], at));
        Self(at.to_owned())
    }

    fn resize(&self, size: &str) {
        self.remount(&format!("size={size}"));
    }

    fn remount(&self, option: &str) {
        assert!(run("mount", &["-o", &format!("remount,{option}")], &self.0));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["--lazy"], &self.0);
    }
}

/// Nothing can be made in it, not even by root, until it is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn make(directory: PathBuf) -> Self {
        assert!(run("chattr", &["+i"], &directory));
        Self(directory)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        run("chattr", &["-i"], &self.0);
    }
}

fn wait_equal(pair: &Pair) {
    eventually("both are equal", || walk::tree(&pair.a.root) == walk::tree(&pair.b.root));
    pair.settle_equal();
    pair.b.until("no trouble is left", |status| status.troubles_total == 0);
}

#[test]
fn a_full_disk_holds_what_does_not_fit_and_nothing_else() {
    if !is_root() {
        return;
    }
    let mut pair = Pair::new();
    let disk = SmallDisk::mount(&pair.b.root, "4m");
    pair.start();
    pair.a.write("before", "small");
    pair.settle_equal();
    pair.a.write("large", vec![7; 8 << 20]);
    pair.b.until("it is named", |status| {
        let mut troubles = status.troubles.iter();
        troubles.any(|trouble| trouble.path == "large" && trouble.problem.contains("space"))
    });
    assert!(!pair.b.has("large"), "a part of a file took its name");
    pair.a.write("after", "small, too");
    eventually("what fits is there", || pair.b.has("after"));
    assert_eq!(pair.b.read("after"), "small, too");
    disk.resize("32m");
    wait_equal(&pair);
}

#[test]
fn a_directory_that_takes_nothing_holds_its_own_and_nothing_else() {
    if !is_root() {
        return;
    }
    let pair = Pair::running();
    fs::create_dir(pair.a.path("locked")).unwrap();
    pair.a.write("locked/one", "1");
    pair.settle_equal();
    let locked = Immutable::make(pair.b.path("locked"));
    pair.a.write("locked/two", "2");
    pair.a.write("free", "3");
    eventually("what may be written is there", || pair.b.has("free"));
    pair.b.until("the other one is named", |status| {
        status.troubles.iter().any(|trouble| trouble.path == "locked/two")
    });
    assert!(!pair.b.has("locked/two"));
    drop(locked);
    wait_equal(&pair);
}

#[test]
fn what_a_disk_refuses_is_confirmed_only_when_it_has_it() {
    let pair = Pair::running();
    pair.a.write("before", "1");
    pair.settle_equal();
    let full = Fault::new(Call::Sync, &pair.b.root, Errno::NOSPC);
    pair.a.write("file", "2");
    pair.b.until("the hold", |status| {
        status.hold.as_ref().is_some_and(|hold| hold.contains("free space"))
    });
    let (sender, flushed) = channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    pair.a.send(Told::Flush { done });
    // What the other side has said before arrives before these.
    for _ in 0..2 {
        pair.a.accept();
    }
    assert_eq!(flushed.try_recv(), Err(TryRecvError::Empty), "it is confirmed already");
    drop(full);
    assert_eq!(flushed.recv().unwrap(), Ok(()));
    pair.b.until("the end of the hold", |status| status.hold.is_none());
    wait_equal(&pair);
}

#[test]
fn after_an_error_of_the_disk_nothing_is_confirmed_until_a_restart() {
    let mut pair = Pair::running();
    pair.a.write("before", "1");
    pair.settle_equal();
    let broken = Fault::new(Call::Sync, &pair.b.root, Errno::IO);
    pair.a.write("file", "2");
    pair.b.until("the hold", |status| status.hold.is_some());
    drop(broken);
    pair.b.write("mine", "3");
    let hold = pair.b.status().hold.unwrap();
    assert!(hold.contains("restart the daemon"), "{hold}");
    assert!(pair.b.flush().is_err());
    for _ in 0..2 {
        pair.a.accept();
    }
    pair.a.until("what is not confirmed", |status| status.to_send == 1);
    pair.stop_b();
    pair.start_b();
    pair.connect();
    wait_equal(&pair);
    assert_eq!((pair.b.read("file"), pair.a.read("mine")), ("2".into(), "3".into()));
}

#[test]
fn files_travel_both_ways_after_the_index_had_no_room() {
    if !is_root() {
        return;
    }
    let mut pair = Pair::new();
    fs::create_dir_all(&pair.b.config.state).unwrap();
    let _disk = SmallDisk::mount(&pair.b.config.state, "4m");
    pair.start();
    pair.a.write("before", "1");
    pair.settle_equal();
    let filler = pair.b.config.state.join("filler");
    assert!(fs::write(&filler, vec![7; 8 << 20]).is_err(), "it is not full");
    for number in 0..500 {
        pair.a.write(&format!("many/{number}"), format!("content {number}"));
    }
    pair.b.until("the hold", |status| {
        status.hold.as_ref().is_some_and(|hold| hold.contains("the index cannot be used"))
    });
    fs::remove_file(&filler).unwrap();
    pair.b.until("the end of the hold", |status| status.hold.is_none());
    eventually("what was on its way is there", || pair.b.has("many/499"));
    pair.b.write("back", "to the other side");
    eventually("the other way", || pair.a.has("back"));
    wait_equal(&pair);
}

#[test]
fn what_is_in_a_directory_that_could_not_be_listed_comes_when_it_can() {
    let mut pair = Pair::running();
    pair.a.write("d/file", "1");
    pair.settle_equal();
    pair.stop_a();
    pair.a.write("d/new", "2");
    let unreadable = Fault::new(Call::List, &pair.a.path("d"), Errno::ACCESS);
    pair.start_a();
    pair.connect();
    pair.a.until("it is named though it was tried again", |status| {
        status.troubles.iter().any(|trouble| trouble.path == "d" && trouble.retry_seconds >= 2)
    });
    assert!(!pair.b.has("d/new"));
    drop(unreadable);
    eventually("what was in it is there", || pair.b.has("d/new"));
    pair.a.until("it is not named any more", |status| status.troubles_total == 0);
    wait_equal(&pair);
}

#[test]
fn a_file_system_that_is_read_only_holds_what_comes_until_it_is_not() {
    if !is_root() {
        return;
    }
    let mut pair = Pair::new();
    let disk = SmallDisk::mount(&pair.b.root, "32m");
    pair.start();
    pair.a.write("changed", "1");
    pair.a.write("gone", "1");
    pair.settle_equal();
    disk.remount("ro");
    pair.a.write("changed", "2");
    pair.a.write("new/file", "3");
    fs::remove_file(pair.a.path("gone")).unwrap();
    pair.b.until("all are named", |status| {
        let is_named = |path: &str| {
            let mut troubles = status.troubles.iter();
            troubles.any(|it| it.path == path && it.problem.contains("Read-only"))
        };
        ["changed", "new", "gone"].into_iter().all(is_named)
    });
    assert_eq!((pair.b.read("changed"), pair.b.read("gone")), ("1".into(), "1".into()));
    disk.remount("rw");
    wait_equal(&pair);
}

/// Threads that are started from now on may not read what its owner has locked, whoever that is.
fn give_up_reading_everything() {
    let mut all = rustix::thread::capabilities(None).unwrap();
    all.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    rustix::thread::set_capabilities(None, all).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_travels_when_it_can() {
    give_up_reading_everything();
    let mut pair = Pair::new();
    let lock = |path: &str, mode| {
        fs::set_permissions(pair.a.path(path), Permissions::from_mode(mode)).unwrap();
    };
    for path in ["small", "large"] {
        pair.a.write(path, vec![b'x'; if path == "small" { 10 } else { 1 << 20 }]);
        lock(path, 0);
    }
    pair.a.write("free", "1");
    pair.start();
    pair.a.until("both are named", |status| {
        let denied = |it: &&super::super::Trouble| it.problem.contains("cannot read it");
        let paths = status.troubles.iter().filter(denied).map(|it| it.path.as_str());
        paths.eq(["large", "small"])
    });
    eventually("the other one is there", || pair.b.has("free"));
    assert!(!pair.b.has("small") && !pair.b.has("large"));
    let lock = |path: &str, mode| {
        fs::set_permissions(pair.a.path(path), Permissions::from_mode(mode)).unwrap();
    };
    lock("small", 0o644);
    lock("large", 0o644);
    wait_equal(&pair);
    pair.a.until("nothing is tried again", |status| status.troubles_total == 0);
}

#[test]
fn what_has_too_long_a_path_is_named_and_the_rest_travels() {
    let pair = Pair::running();
    let (name, flags) = ("n".repeat(250), OFlags::DIRECTORY | OFlags::CLOEXEC);
    let mut at = rustix::fs::open(&pair.a.root, flags, Mode::empty()).unwrap();
    for _ in 0..17 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    pair.a.write("beside", "1");
    pair.a.until("it is named", |status| {
        status.left.iter().any(|left| left.reason.contains("longer than 4096 bytes"))
    });
    pair.settle();
    assert_eq!(pair.b.read("beside"), "1");
    pair.b.until("sixteen names are not too long", |status| status.entries == 17);
}
