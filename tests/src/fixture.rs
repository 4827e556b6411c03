//! Trees to copy: the same at every call, with everything that can be in a tree.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::tree::{make_old, name, set_time};

const DAY: i64 = 86_400;

/// What stands in a directory before a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixture {
    /// Files, directories and links, some of them at the destination already, some different.
    Basic,
    /// Owners, permissions, attributes, several names, devices, holes, strange names. For root.
    Facts,
    /// Rules in directories, lists of names and patterns.
    Rules,
    /// Contents that share a lot.
    Contents,
}

impl Fixture {
    /// Makes `src`, `dst` and what else belongs to it in `at`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn make(self, at: &Path) -> Result<()> {
        let files = |files: &[(&str, &str)]| -> Result<()> {
            for (path, content) in files {
                let path = at.join(path);
                fs::create_dir_all(path.parent().unwrap_or(at))?;
                fs::write(path, content)?;
            }
            Ok(())
        };
        match self {
            Self::Basic => basic(at, &files)?,
            Self::Facts => facts(at, &files)?,
            Self::Rules => rules(at, &files)?,
            Self::Contents => contents(at)?,
        }
        make_old(at)
    }
}

type Files<'a> = dyn Fn(&[(&str, &str)]) -> Result<()> + 'a;

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn fifo(path: &Path, mode: u32) -> Result<()> {
    let made = rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0);
    Ok(made?)
}

fn basic(at: &Path, files: &Files<'_>) -> Result<()> {
    files(&[
        ("src/a", "a\n"),
        ("src/b", "bb\n"),
        ("src/d/c", "c\n"),
        ("src/d/e/f", "deep\n"),
        ("dst/a", "a\n"),
        ("dst/b", "xx\n"),
        ("dst/old/x/y", "old\n"),
        ("dst/d/extra", "extra\n"),
    ])?;
    fs::create_dir(at.join("src/empty"))?;
    symlink("a", at.join("src/l"))?;
    symlink("nowhere", at.join("src/d/broken"))?;
    symlink("b", at.join("dst/l"))?;
    fs::hard_link(at.join("src/a"), at.join("src/d/hard"))?;
    fifo(&at.join("src/p"), 0o644)?;
    mode(&at.join("src/b"), 0o600)?;
    mode(&at.join("src/d/c"), 0o755)?;
    let times = [("src/a", 1), ("dst/a", 1), ("src/b", 400), ("dst/b", 2), ("src/d/c", 3)];
    let dirs = [("src/d/e", 4), ("src/d", 5), ("src/empty", 6), ("src", 7), ("dst/old", 8)];
    for (path, days) in times.into_iter().chain(dirs) {
        set_time(&at.join(path), 1_500_000_000 + days * DAY, 500_000_000)?;
    }
    Ok(())
}

fn attribute(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    Ok(rustix::fs::setxattr(path, name, value, XattrFlags::empty())?)
}

/// An access list as the kernel takes it: owner, one user, group, mask, others.
fn access_list(user: u32, perms: u8, group: u8) -> Vec<u8> {
    let entry = |tag: u16, perms: u8, id: u32| {
        [&tag.to_le_bytes()[..], &u16::from(perms).to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let nobody = u32::MAX;
    let entries = [
        entry(0x01, 6, nobody),
        entry(0x02, perms, user),
        entry(0x04, group, nobody),
        entry(0x10, perms | group, nobody),
        entry(0x20, 4, nobody),
    ];
    [&2u32.to_le_bytes()[..], &entries.concat()].concat()
}

fn facts(at: &Path, files: &Files<'_>) -> Result<()> {
    files(&[
        ("src/x", "x"),
        ("dst/x", "x"),
        ("src/y", "y"),
        ("dst/y", "y"),
        ("dst/z", "y"),
        ("src/d/in", "in"),
        ("dst/d/in", "in"),
        ("src/sp ace", "tab\t"),
        ("src/\\#012", "e"),
    ])?;
    fs::hard_link(at.join("src/y"), at.join("src/d/y2"))?;
    fs::hard_link(at.join("src/y"), at.join("src/z"))?;
    fs::write(at.join("src").join(name(b"new\nline")), "n")?;
    fs::write(at.join("src").join(name(b"bad\xff")), "b")?;
    fs::create_dir(at.join("src/n"))?;
    fs::write(at.join("src/n").join("l".repeat(255)), "long")?;
    let sparse = fs::File::create(at.join("src/sparse"))?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 1 << 20)?;
    attribute(&at.join("src/x"), "user.a", b"1")?;
    attribute(&at.join("src/d"), "user.d", b"\xff\0")?;
    attribute(&at.join("dst/x"), "user.b", b"2")?;
    attribute(&at.join("src/x"), "system.posix_acl_access", &access_list(65_534, 6, 4))?;
    attribute(&at.join("src/d"), "system.posix_acl_default", &access_list(1, 7, 5))?;
    let device = |path: &str, kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, at.join(path), kind, Mode::from_raw_mode(0o640), device)
    };
    device("src/null", FileType::CharacterDevice, 1, 3)?;
    device("dst/null", FileType::CharacterDevice, 1, 5)?;
    device("src/d/b", FileType::BlockDevice, 7, 77)?;
    fifo(&at.join("src/fifo"), 0o600)?;
    symlink("x", at.join("src/sl"))?;
    for (path, uid, gid) in
        [("src/x", 1234, 5678), ("src/d", 1234, 1), ("src/y", 77, 88), ("src/sl", 5, 6)]
    {
        std::os::unix::fs::lchown(at.join(path), Some(uid), Some(gid))?;
    }
    mode(&at.join("src/z"), 0o4755)?;
    mode(&at.join("src/d"), 0o1777)?;
    for path in ["src/x", "dst/x", "src/y", "dst/y", "dst/z", "src/d/in", "dst/d/in"] {
        set_time(&at.join(path), 1_500_000_000, 0)?;
    }
    Ok(())
}

fn rules(at: &Path, files: &Files<'_>) -> Result<()> {
    let sources = [
        "src/a/f.c",
        "src/a/f.o",
        "src/a/b/g.o",
        "src/a/b/g.c",
        "src/c/obj/x",
        "src/c/x~",
        "src/.git/config",
        "src/keep/k",
        "src/top.o",
        "src/top.c",
        "src/a/core",
    ];
    for path in sources {
        files(&[(path, path)])?;
    }
    for path in ["dst/a/b/gone", "dst/a/stale.o", "dst/top.o", "dst/c/old", "dst/keepme"] {
        files(&[(path, "d")])?;
    }
    files(&[
        ("src/.rsync-filter", "- *.o\n+ keep\n"),
        ("src/a/b/.rsync-filter", "- /g.c\n"),
        ("src/c/.cvsignore", "k x~\n"),
        ("patterns", "*.o\n# c\n+ x\n"),
        ("names", "a\nc/obj\ntop.c\nmissing\n"),
        ("names0", "a/f.c\0top.c\0"),
        ("names-of-directories", "a/\n"),
    ])?;
    set_time(&at.join("src"), 1_500_000_000, 0)
}

/// Bytes without repetition, the same for the same seed.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let next = || {
        // xorshift64*
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        seed.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(length / 8 + 1).flatten().collect();
    bytes.truncate(length);
    bytes
}

fn contents(at: &Path) -> Result<()> {
    fs::create_dir(at.join("src"))?;
    fs::create_dir(at.join("dst"))?;
    let old = noise(1_500_000, 1);
    let mut new = [&old[..1000], b"inserted", &old[1000..]].concat();
    new[700_000..700_010].copy_from_slice(b"0123456789");
    let mut zeros = vec![0; 400_000];
    zeros[200_000..200_004].copy_from_slice(b"data");
    let files: [(&str, &[u8]); 7] = [
        ("dst/big", &old),
        ("src/big", &new),
        ("src/new", &noise(300_000, 2)),
        ("src/log", &old[..200_000]),
        ("dst/log", &old[..150_000]),
        ("src/zeros", &zeros),
        ("dst/zeros", &old[..1000]),
    ];
    for (path, content) in files {
        fs::write(at.join(path), content)?;
        let day = if path.starts_with("src") { 1 } else { 0 };
        set_time(&at.join(path), 1_500_000_000 + day * DAY, 0)?;
    }
    Ok(())
}
