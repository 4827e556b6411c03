//! Every kind of entry and of name, and what takes no part.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    process::Command,
};

use super::pair::{Pair, eventually};

#[test]
fn links_travel_as_links() {
    let pair = Pair::running();
    symlink("nowhere", pair.a.path("dangling")).unwrap();
    symlink("/etc/passwd", pair.a.path("outside")).unwrap();
    pair.settle_equal();
    fs::remove_file(pair.b.path("dangling")).unwrap();
    symlink("elsewhere", pair.b.path("dangling")).unwrap();
    pair.settle_equal();
    assert_eq!(fs::read_link(pair.a.path("dangling")).unwrap(), OsStr::new("elsewhere"));
}

#[test]
fn a_symbolic_link_with_two_names_can_lose_one() {
    let pair = Pair::running();
    symlink("nowhere", pair.a.path("one")).unwrap();
    fs::hard_link(pair.a.path("one"), pair.a.path("two")).unwrap();
    pair.settle_equal();
    fs::remove_file(pair.b.path("one")).unwrap();
    fs::remove_file(pair.b.path("two")).unwrap();
    symlink("elsewhere", pair.b.path("two")).unwrap();
    pair.settle_equal();
    assert!(!pair.a.has("one"));
    assert_eq!(fs::read_link(pair.a.path("two")).unwrap(), OsStr::new("elsewhere"));
}

#[test]
fn hard_links_are_hard_links_there() {
    let pair = Pair::running();
    pair.a.write("z", "shared");
    fs::hard_link(pair.a.path("z"), pair.a.path("b")).unwrap();
    fs::create_dir(pair.a.path("d")).unwrap();
    fs::hard_link(pair.a.path("z"), pair.a.path("d/c")).unwrap();
    pair.settle_equal();
    fs::OpenOptions::new().append(true).open(pair.a.path("z")).unwrap();
    fs::write(pair.a.path("z"), "changed through one name").unwrap();
    pair.settle_equal();
    assert_eq!(pair.b.read("d/c"), "changed through one name");
    fs::remove_file(pair.b.path("b")).unwrap();
    pair.settle_equal();
    pair.a.write("new", "alone");
    fs::remove_file(pair.a.path("z")).unwrap();
    fs::hard_link(pair.a.path("new"), pair.a.path("z")).unwrap();
    pair.settle_equal();
    assert_eq!(fs::metadata(pair.b.path("z")).unwrap().nlink(), 2);
}

#[test]
fn holes_stay_holes() {
    let pair = Pair::running();
    let file = fs::File::create(pair.a.path("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"in the middle", 32 << 20).unwrap();
    drop(file);
    pair.settle_equal();
    assert!(fs::metadata(pair.b.path("sparse")).unwrap().blocks() * 512 < 1 << 20);
    assert!(pair.passed() < 2 << 20, "holes are told, not sent");
}

#[test]
fn extended_attributes_and_modes_travel() {
    let pair = Pair::running();
    pair.a.write("file", "1");
    fs::create_dir(pair.a.path("directory")).unwrap();
    let set = |path: &std::path::Path, value: &[u8]| {
        rustix::fs::setxattr(path, "user.colour", value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set(&pair.a.path("file"), b"red");
    set(&pair.a.path("directory"), b"green");
    fs::set_permissions(pair.a.path("directory"), fs::Permissions::from_mode(0o2750)).unwrap();
    pair.settle_equal();
    set(&pair.b.path("file"), b"blue");
    rustix::fs::removexattr(pair.b.path("directory"), "user.colour").unwrap();
    pair.settle_equal();
}

#[test]
fn access_lists_travel() {
    // As in <linux/posix_acl_xattr.h>: version 2, then tag, permissions and id of each entry.
    let list = |permissions: u16| {
        let entries = [(0x01, 6, !0), (0x02, permissions, 12_345), (0x04, 4, !0), (0x10, 6, !0)];
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries.into_iter().chain([(0x20, 0, !0)]) {
            let (tag, permissions, id): (u16, u16, u32) = (tag, permissions, id);
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    };
    let pair = Pair::running();
    let set = |path: &std::path::Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
    };
    let access = |path: &std::path::Path| {
        let mut value = vec![0; 1024];
        let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut value[..]).unwrap();
        value[..length].to_vec()
    };
    fs::create_dir(pair.a.path("directory")).unwrap();
    pair.a.write("file", "1");
    let file = pair.a.path("file");
    if set(&file, "system.posix_acl_access", &list(6)).is_err() {
        eprintln!("SKIPPED: this file system has no access lists");
        return;
    }
    set(&pair.a.path("directory"), "system.posix_acl_default", &list(4)).unwrap();
    pair.settle_equal();
    assert_eq!(access(&pair.b.path("file")), list(6));
    set(&pair.b.path("file"), "system.posix_acl_access", &list(4)).unwrap();
    pair.settle_equal();
    assert_eq!(access(&file), list(4));
}

#[test]
fn owners_travel_where_root_may_give_files_away() {
    let pair = Pair::running();
    pair.a.write("file", "1");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(pair.a.path("file"), Some(12_345), Some(54_321)).unwrap();
    }
    pair.settle_equal();
}

#[test]
fn odd_names_are_names() {
    let pair = Pair::running();
    let names: [&[u8]; 6] =
        [b"not \xff utf-8", b"new\nline", b" ", b"-rf", b"\\#012", &[b'x'; 255]];
    for name in names {
        fs::write(pair.a.root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    pair.settle_equal();
    fs::remove_file(pair.b.root.join(OsStr::from_bytes(names[0]))).unwrap();
    pair.settle_equal();
}

#[test]
fn databases_and_what_does_not_travel_are_named_and_left() {
    let pair = Pair::running();
    let db = rusqlite::Connection::open(pair.a.path("app.db")).unwrap();
    // A slow application: its new database is an empty file for a while.
    db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    assert!(pair.a.has("app.db-wal"));
    let made = Command::new("mkfifo").arg(pair.a.path("pipe")).status().unwrap();
    assert!(made.success());
    pair.a.write("file", "travels");
    pair.a.write("suid", "travels without that bit");
    fs::set_permissions(pair.a.path("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    pair.settle();
    assert!(pair.b.has("file"));
    for name in ["app.db", "app.db-wal", "app.db-shm", "pipe"] {
        assert!(!pair.b.has(name), "{name} was sent");
    }
    let mode = fs::metadata(pair.b.path("suid")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
    pair.a.until("what is left", |status| status.left_total == 5);
    let left = pair.a.status().left;
    assert!(left.iter().any(|left| left.path == "app.db" && left.reason.contains("SQLite")));
}

#[test]
fn what_is_excluded_is_neither_sent_nor_deleted() {
    let mut pair = Pair::new();
    let rules = vec!["+ /logs/keep.log".to_owned(), "- *.log".to_owned(), "- /cache/".to_owned()];
    (pair.a.config.rules, pair.b.config.rules) = (rules.clone(), rules);
    pair.start();
    for name in ["logs/keep.log", "logs/x.log", "cache/entry", "sub/cache/entry", "file"] {
        pair.a.write(name, "a");
    }
    pair.b.write("logs/mine.log", "b");
    pair.settle();
    for (name, there) in [
        ("logs/keep.log", true),
        ("logs/x.log", false),
        ("cache", false),
        ("sub/cache/entry", true),
    ] {
        assert_eq!(pair.b.has(name), there, "{name}");
    }
    assert!(pair.b.has("logs/mine.log") && !pair.a.has("logs/mine.log"));
}

#[test]
fn files_of_patterns_decide_and_may_change() {
    let mut pair = Pair::new();
    (pair.a.config.ignore_file, pair.b.config.ignore_file) =
        (".gitignore".into(), ".gitignore".into());
    pair.a.write(".gitignore", "*.o\n!main.o\ntarget/\n");
    pair.a.write("sub/.gitignore", "/only-here\n");
    for name in ["x.o", "main.o", "target/debug", "sub/only-here", "sub/deep/only-here"] {
        pair.a.write(name, "a");
    }
    pair.start();
    pair.settle();
    for (name, there) in [
        ("x.o", false),
        ("main.o", true),
        ("target", false),
        ("sub/only-here", false),
        ("sub/deep/only-here", true),
    ] {
        assert_eq!(pair.b.has(name), there, "{name}");
    }
    pair.a.write(".gitignore", "target/\n");
    eventually("what takes part now", || pair.b.has("x.o"));
}
