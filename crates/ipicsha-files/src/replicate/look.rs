//! What an entry on the disk is: a version of it, read so that it is never a mixture.
//!
//! Decides what counts as unchanged without reading, what takes no part by its kind or content, and
//! what a version is made of. Must not know the index beyond one row, nor the partner.

use std::{
    fs::File,
    io::Read,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipicsha_core::file::{Contents, Owner, Version};
use rustix::io::Errno;

use super::row::{Own, Quick, UNSET_ATTRIBUTES, UNSET_MODE, UNSET_OWNER, UNSET_TIME};
use crate::{
    attributes::{Attributes, Scope},
    hash::{Hasher, READ_BYTES},
    meta::{Kind, Meta, Node, Time},
    path::Name,
    place::errno_of,
    resolve::Dir,
    sync::{Names, message::OwnerKind},
};

/// What every SQLite database begins with.
const SQLITE_HEADER: &[u8] = b"SQLite format 3\0";
/// Files beside a database that belong to it.
const SQLITE_COMPANIONS: [&[u8]; 4] = [b"-wal", b"-shm", b"-journal", b".ipicsha-room"];
/// Up to this size files are read at once; larger ones by a thread of their own.
pub(super) const SMALL_BYTES_MAX: u64 = 256 * 1024;
/// Clocks of file systems tick so slowly at most that a second change may look like the first.
const TICK: Duration = Duration::from_millis(20);
/// Permission bits that travel: a partner never makes a file run as somebody else.
const FILE_MODE_BITS: u32 = 0o1777;
const DIRECTORY_MODE_BITS: u32 = 0o7777;

/// How carefully to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// What has the facts it had is the same.
    Quick,
    /// Contents are read anew.
    Anew,
}

/// What was seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// Nothing is there.
    Nothing,
    /// It takes no part, and why.
    Left(String),
    /// It has the facts it had.
    Same(Meta),
    /// This is there.
    Version(Box<(Version, Meta, bool)>),
    /// A file that takes long to read.
    Large,
    /// It changed while it was looked at.
    Changing,
}

/// Looks at the entry `name`; `own` is what is known of it.
///
/// # Errors
/// The system refuses.
pub(super) fn look(
    dir: &Dir,
    name: &Name,
    own: Option<&Own>,
    care: Care,
    device: u64,
    owners: &Names,
) -> Result<Seen, Errno> {
    let Some(meta) = dir.find(name)? else { return Ok(Seen::Nothing) };
    if let Some(why) = left_by_kind(&meta, device) {
        return Ok(Seen::Left(why.into()));
    }
    let quick = own.and_then(|own| own.quick.as_ref()).filter(|_| care == Care::Quick);
    if let Some(quick) = quick.filter(|quick| quick.fits(&meta) && !quick.racy)
        && (meta.kind != Kind::Directory || quick.ctime == meta.ctime)
    {
        return Ok(Seen::Same(meta));
    }
    match meta.kind {
        Kind::Directory => {
            let child = dir.child(name)?;
            let node = child.node()?;
            let version = version(&meta, Contents::Directory, &node, own, owners)?;
            Ok(Seen::Version(Box::new((version, meta, false))))
        }
        Kind::Symlink => {
            let target = dir.read_link(name)?;
            let node = dir.hold(name)?;
            let version = version(&meta, Contents::Symlink { target }, &node, own, owners)?;
            Ok(Seen::Version(Box::new((version, meta, false))))
        }
        Kind::File if meta.size > SMALL_BYTES_MAX => Ok(Seen::Large),
        Kind::File => read_file(dir, name, own, owners, &AtomicBool::new(false)),
        Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => {
            Ok(Seen::Left("its kind does not travel".into()))
        }
    }
}

fn left_by_kind(meta: &Meta, device: u64) -> Option<&'static str> {
    match meta.kind {
        Kind::Fifo => Some("a named pipe does not travel"),
        Kind::Socket => Some("a socket does not travel"),
        Kind::CharacterDevice | Kind::BlockDevice => Some("a device does not travel"),
        Kind::Directory if meta.device != device => Some("another file system is mounted there"),
        Kind::File | Kind::Directory | Kind::Symlink => None,
    }
}

/// Reads a regular file from begin to end.
///
/// # Errors
/// The system refuses.
pub(super) fn read_file(
    dir: &Dir,
    name: &Name,
    own: Option<&Own>,
    owners: &Names,
    stop: &AtomicBool,
) -> Result<Seen, Errno> {
    let mut file = match dir.open_file(name) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Seen::Nothing),
        // It was replaced by something else a moment ago.
        Err(Errno::INVAL | Errno::LOOP | Errno::NXIO) => return Ok(Seen::Changing),
        Err(errno) => return Err(errno),
    };
    let before = Meta::of(&file)?;
    let begun = now();
    let (hash, size, is_database) = read(&mut file, stop)?;
    if is_database || is_companion(dir, name) {
        return Ok(Seen::Left("an SQLite database is replicated record by record".into()));
    }
    let contents = Contents::File { size, hash };
    let version = version(&before, contents, &Node::Open(file.as_fd()), own, owners)?;
    let after = Meta::of(&file)?;
    let same_entry = before.same_content_as(&after)
        && (before.mode, before.uid, before.gid) == (after.mode, after.uid, after.gid);
    if !same_entry || size != after.size || stop.load(Ordering::Relaxed) {
        return Ok(Seen::Changing);
    }
    let racy = is_racy(after.mtime, begun);
    Ok(Seen::Version(Box::new((version, after, racy))))
}

fn read(file: &mut File, stop: &AtomicBool) -> Result<([u8; 32], u64, bool), Errno> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; READ_BYTES];
    let (mut size, mut is_database) = (0, false);
    while !stop.load(Ordering::Relaxed) {
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(errno_of(&error)),
        };
        if size == 0 && buffer[..length].starts_with(SQLITE_HEADER) {
            is_database = true;
            break;
        }
        hasher.add(&buffer[..length]);
        size += length as u64;
    }
    Ok((*hasher.finish().as_bytes(), size, is_database))
}

/// Whether a file belongs to the database beside it, which may not have its header yet.
fn is_companion(dir: &Dir, name: &Name) -> bool {
    let base = |suffix: &&[u8]| name.as_bytes().strip_suffix(*suffix).map(<[u8]>::to_vec);
    let Some(base) = SQLITE_COMPANIONS.iter().find_map(base) else { return false };
    let Ok(base) = Name::new(&base) else { return false };
    is_database(dir, &base, true)
}

/// Whether the file `name` is a database, or with `or_empty` may become one.
pub(super) fn is_database(dir: &Dir, name: &Name, or_empty: bool) -> bool {
    let Ok(file) = dir.open_file(name) else { return false };
    let mut header = Vec::new();
    let read = file.take(SQLITE_HEADER.len() as u64).read_to_end(&mut header);
    read.is_ok() && (header == SQLITE_HEADER || or_empty && header.is_empty())
}

/// Everything that is replicated of an entry.
fn version(
    meta: &Meta,
    contents: Contents,
    node: &Node<'_>,
    own: Option<&Own>,
    owners: &Names,
) -> Result<Version, Errno> {
    let attributes = if meta.kind == Kind::Symlink {
        Vec::new()
    } else {
        let user = Attributes::read(node, Scope::User)?.into_pairs();
        let lists = Attributes::read(node, Scope::AccessLists)?.into_pairs();
        let mut all: Vec<_> = user.chain(lists).collect();
        all.sort_unstable();
        all
    };
    let bits = match meta.kind {
        Kind::Symlink => 0,
        Kind::Directory => DIRECTORY_MODE_BITS,
        Kind::File | Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => {
            FILE_MODE_BITS
        }
    };
    let mut version = Version {
        contents,
        mode: meta.mode & bits,
        user: owner(owners, OwnerKind::User, meta.uid),
        group: owner(owners, OwnerKind::Group, meta.gid),
        mtime_ns: nanoseconds(meta.mtime),
        attributes,
        link: None,
    };
    if let Some(own) = own {
        as_told(&mut version, meta, own);
    }
    Ok(version)
}

/// What of a version could not be made true here is no change of it, as long as it stays as it was.
fn as_told(version: &mut Version, meta: &Meta, own: &Own) {
    let Some(quick) = own.quick.as_ref().filter(|quick| quick.unset != 0) else { return };
    let unset = |bit: u8| quick.unset & bit != 0;
    if unset(UNSET_OWNER) && (meta.uid, meta.gid) == (quick.uid, quick.gid) {
        version.user = own.version.user.clone();
        version.group = own.version.group.clone();
    }
    if unset(UNSET_MODE) && meta.mode == quick.mode {
        version.mode = own.version.mode;
    }
    if unset(UNSET_ATTRIBUTES) {
        version.attributes.clone_from(&own.version.attributes);
    }
    if unset(UNSET_TIME) && meta.mtime == quick.mtime {
        version.mtime_ns = own.version.mtime_ns;
    }
}

fn owner(names: &Names, kind: OwnerKind, id: u32) -> Owner {
    Owner { id, name: names.name(kind, id).map(str::to_owned) }
}

/// Nanoseconds since 1970; what lies beyond 1677 or 2262 is cut off there.
pub(super) fn nanoseconds(time: Time) -> i64 {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanoseconds))
}

/// The same the other way round.
pub(super) fn time_of(nanoseconds: i64) -> Time {
    let second = 1_000_000_000;
    // The remainder of a division by 10^9 fits.
    let rest = u32::try_from(nanoseconds.rem_euclid(second)).unwrap_or_default();
    Time { seconds: nanoseconds.div_euclid(second), nanoseconds: rest }
}

/// The time in nanoseconds since 1970, as files have it.
pub(super) fn now_ns() -> i64 {
    i64::try_from(now().as_nanos()).unwrap_or(i64::MAX)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whether a change right after the look could have the same time.
fn is_racy(mtime: Time, looked: Duration) -> bool {
    let looked = i64::try_from(looked.as_nanos()).unwrap_or(i64::MAX);
    let tick = i64::try_from(TICK.as_nanos()).unwrap_or(0);
    let mtime = nanoseconds(mtime);
    mtime >= looked.saturating_sub(tick) && mtime <= looked.saturating_add(tick)
}

/// Facts of an entry as they are noted in the index.
pub(super) fn quick(meta: &Meta, racy: bool, own: Option<&Own>) -> Quick {
    // What could not be set stays so while the facts it is judged by stay.
    let unset = own.and_then(|own| own.quick.as_ref()).map_or(0, |quick| quick.unset);
    Quick { racy, unset, ..Quick::of(meta) }
}
