//! What is written beside every entry that is kept, and how the files of the store are named.
//!
//! Decides the form on the disk: `<number>.content` is the entry itself, `<number>.record` says what
//! it is. A content without a record is still an entry; a record without a content is none.

use std::{io::Read, sync::Arc};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::super::{KeptEntry, KeptReason};
use crate::{
    facts::Facts,
    meta::{Kind, Meta},
    path::{Name, RelativePath},
    place::{PlaceError, Ready, Sparse, Temp, errno_of},
    resolve::Dir,
};

/// First byte of every record: how the rest is written.
const FORMAT: u8 = 1;
/// Larger than any record: a path and some numbers.
const BYTES_MAX: u64 = 16 * 1024;

/// What is known of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) path: RelativePath,
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    pub(super) kept_unix: i64,
    pub(super) reason: KeptReason,
}

impl Record {
    /// For people.
    pub(super) fn entry(&self, id: u64) -> KeptEntry {
        let kind = match self.kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => "special",
        };
        KeptEntry {
            id,
            path: self.path.to_string(),
            kind: kind.to_owned(),
            bytes: self.bytes,
            kept_unix: self.kept_unix,
            reason: self.reason,
        }
    }

    /// Of a content whose record did not survive a loss of power: where it was is not known, so it
    /// goes by its number.
    pub(super) fn recovered(id: u64, meta: &Meta, bytes: u64) -> Self {
        let name = format!("recovered-{id}").into_bytes();
        Self {
            path: Name::new(&name).map_or_else(|_| RelativePath::root(), RelativePath::from),
            kind: meta.kind,
            bytes,
            // It was renamed when it was kept.
            kept_unix: meta.ctime.seconds,
            reason: KeptReason::Deleted,
        }
    }
}

/// Name of the file or directory that is kept.
pub(super) fn content_name(id: u64) -> Name {
    name(id, "content")
}

/// Name of what is known of it.
pub(super) fn record_name(id: u64) -> Name {
    name(id, "record")
}

fn name(id: u64, what: &str) -> Name {
    Name::new(format!("{id}.{what}").as_bytes()).expect("digits, a dot and a word are a name")
}

/// What a file of the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Content(u64),
    Record(u64),
}

/// Reads a name; `None` for what is not of this store.
pub(super) fn part(name: &Name) -> Option<Part> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let (digits, what) = text.split_once('.')?;
    let id = digits.parse().ok()?;
    match what {
        "content" if *name == content_name(id) => Some(Part::Content(id)),
        "record" if *name == record_name(id) => Some(Part::Record(id)),
        _ => None,
    }
}

/// Numbers of the entries in the store, in order.
pub(super) fn ids(store: &Dir) -> Result<Vec<u64>, Errno> {
    let contents = |name: &Name| match part(name) {
        Some(Part::Content(id)) => Some(id),
        Some(Part::Record(_)) | None => None,
    };
    let mut ids: Vec<u64> =
        store.list()?.iter().filter_map(|listed| contents(&listed.name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Writes the record of `id`, whole or not at all. It is on the disk after [`sync`].
pub(super) fn write(store: &Arc<Dir>, id: u64, record: &Record) -> Result<(), Errno> {
    let mut bytes = vec![FORMAT];
    bytes.extend(postcard::to_stdvec(record).map_err(|_| Errno::INVAL)?);
    let written = || -> Result<Ready, PlaceError> {
        let mut temp = Temp::create(store, Sparse::Full, false)?;
        temp.write(&bytes)?;
        Ok(temp.finish(None, &Facts::default())?.0)
    };
    match written() {
        Ok(ready) => ready.replace(&record_name(id)),
        Err(PlaceError::System(errno)) => Err(errno),
        Err(PlaceError::Mismatch) => Err(Errno::IO),
    }
}

/// Makes the record of `id` survive a loss of power; one that is gone needs nothing.
pub(super) fn sync(store: &Dir, id: u64) -> Result<(), Errno> {
    match store.open_file(&record_name(id)) {
        Ok(file) => rustix::fs::fdatasync(file),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The record of `id`; `None` when there is none that can be read.
pub(super) fn read(store: &Dir, id: u64) -> Result<Option<Record>, Errno> {
    let file = match store.open_file(&record_name(id)) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|error| errno_of(&error))?;
    let record = match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).ok(),
        Some(_) | None => None,
    };
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_store_are_read_as_such() {
        assert_eq!(part(&content_name(17)), Some(Part::Content(17)));
        assert_eq!(part(&record_name(u64::MAX)), Some(Part::Record(u64::MAX)));
        for other in ["017.content", "+1.record", "1.Content", "content", "1.", "x.record"] {
            assert_eq!(part(&Name::new(other.as_bytes()).expect("a name")), None, "{other}");
        }
    }

    #[test]
    fn the_bytes_of_a_record_stay_as_they_are() {
        let record = Record {
            path: RelativePath::new(b"a/\xff").expect("a path"),
            kind: Kind::Directory,
            bytes: 300,
            kept_unix: -1,
            reason: KeptReason::Conflict,
        };
        let bytes = postcard::to_stdvec(&record).expect("it can be written");
        assert_eq!(bytes, [3, b'a', b'/', 255, 1, 172, 2, 1, 2]);
        assert_eq!(record.entry(3).path, "a/\\#377");
    }
}
