//! What is in a directory, seen with eyes of its own: names, bytes, facts, links, attributes.
//!
//! Decides what makes two trees different. Must not use any code of the product.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// Times younger than this were set by the clock, not carried over.
const RECENT_SECONDS: i64 = 3600;

/// Every entry of a tree, described in one line, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, String>);

impl Tree {
    /// Looks at everything beneath `root`.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn of(root: &Path) -> Result<Self> {
        let mut walker = Walker { entries: BTreeMap::new(), links: BTreeMap::new() };
        walker.walk(root, b"").with_context(|| format!("looking at {}", root.display()))?;
        Ok(Self(walker.finish()))
    }

    /// Without what ipicsha keeps in a watched directory for itself, and without the times of
    /// directories, which change with whatever is in them.
    #[must_use]
    pub fn without_ours(mut self) -> Self {
        self.0.retain(|path, _| path != ".ipicsha" && !path.starts_with(".ipicsha/"));
        for line in self.0.values_mut().filter(|line| line.starts_with("directory ")) {
            let words: Vec<&str> = line.split(' ').collect();
            let at = words.iter().position(|word| *word == "time").unwrap_or(words.len());
            *line = words[..at].join(" ");
        }
        self
    }

    /// What differs from `other`, line by line: `-` here only, `+` there only.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let missing = |a: &Self, b: &Self, sign: &str| {
            let differs = |(path, line): &(&String, &String)| b.0.get(*path) != Some(*line);
            let lines = a.0.iter().filter(differs);
            lines.map(|(path, line)| format!("{sign} {path}: {line}")).collect::<Vec<_>>()
        };
        [missing(self, other, "-"), missing(other, self, "+")].concat()
    }
}

struct Walker {
    entries: BTreeMap<String, String>,
    /// Paths by inode, of files with several names.
    links: BTreeMap<(u64, u64), Vec<String>>,
}

/// Bytes as text that shows each of them.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn time(meta: &fs::Metadata) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    match meta.mtime() {
        recent if recent > now - RECENT_SECONDS => "recent".to_owned(),
        seconds => format!("{seconds}.{:09}", meta.mtime_nsec()),
    }
}

fn attributes(path: &Path) -> Result<String> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        found.push(format!("{}={}", shown(name), shown(&value[..length])));
    }
    found.sort();
    Ok(found.join(" "))
}

impl Walker {
    fn walk(&mut self, at: &Path, path: &[u8]) -> Result<()> {
        for entry in fs::read_dir(at)? {
            let entry = entry?;
            let name = entry.file_name();
            let path = if path.is_empty() {
                name.as_bytes().to_vec()
            } else {
                [path, b"/", name.as_bytes()].concat()
            };
            self.look(&at.join(&name), &path)?;
        }
        Ok(())
    }

    fn look(&mut self, at: &Path, path: &[u8]) -> Result<()> {
        let meta = fs::symlink_metadata(at)?;
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {}", shown(fs::read_link(at)?.as_os_str().as_bytes()))
        } else if kind.is_file() {
            content(at, meta.len())?
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {:?} {}", kind, meta.rdev())
        };
        let line = format!(
            "{what} mode {:o} owner {}:{} time {} {}",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            time(&meta),
            attributes(at)?
        );
        self.entries.insert(shown(path), line);
        if kind.is_dir() {
            return self.walk(at, path);
        }
        if meta.nlink() > 1 {
            self.links.entry((meta.dev(), meta.ino())).or_default().push(shown(path));
        }
        Ok(())
    }

    fn finish(mut self) -> BTreeMap<String, String> {
        for mut names in self.links.into_values().filter(|names| names.len() > 1) {
            names.sort();
            for name in &names {
                let line = self.entries.entry(name.clone()).or_default();
                line.push_str(&format!(" same file as {}", names.join(", ")));
            }
        }
        self.entries
    }
}

/// Small contents as they are, large ones by length and checksum.
fn content(at: &Path, length: u64) -> Result<String> {
    let bytes = fs::read(at)?;
    if bytes.len() <= 64 {
        return Ok(format!("file \"{}\"", shown(&bytes)));
    }
    // FNV-1a: enough to tell contents apart that nobody chose to collide.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(format!("file of {length} bytes {hash:016x}"))
}

/// Sets the time of an entry, of a link its own.
///
/// # Errors
/// The system refuses.
pub fn set_time(path: &Path, seconds: i64, nanoseconds: i64) -> Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("the time of {}", path.display()))
}

/// Gives everything beneath `root` that was made just now one old time.
///
/// # Errors
/// The system refuses.
pub fn make_old(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            make_old(&path)?;
        }
        if time(&meta) == "recent" {
            set_time(&path, 1_643_767_322, 200_000_000)?;
        }
    }
    Ok(())
}

/// A name of any bytes.
pub fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
