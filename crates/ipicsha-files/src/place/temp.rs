//! One temporary file: written, verified, given its facts, renamed; or removed.
//!
//! Decides that nothing of an unfinished file is left, except a partial one that was asked for.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::{fd::AsFd, unix::fs::FileExt},
    sync::Arc,
};

use rustix::io::Errno;

use super::{
    NAMES_MAX, OldBlocks, PlaceError, Placement, Sparse, check::Check, errno_of, leftover, sparse,
};
use crate::{
    facts::{Facts, Unset},
    hash::{Hash, READ_BYTES},
    meta::{Meta, Node},
    path::Name,
    resolve::Dir,
};

/// Removes the file under its temporary name when it is dropped.
#[derive(Debug)]
pub struct Hold {
    dir: Arc<Dir>,
    name: Name,
    armed: bool,
}

impl Hold {
    pub(super) fn new(dir: &Arc<Dir>, name: Name) -> Self {
        Self { dir: Arc::clone(dir), name, armed: true }
    }

    /// The directory.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// The temporary name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Leaves the file where it is: it has another name by now, or is wanted as it is.
    pub fn release(mut self) -> Name {
        self.armed = false;
        self.name.clone()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.armed {
            // Nobody is left to be told; what stays is removed as a leftover.
            let _ = self.dir.remove_file(&self.name);
        }
    }
}

/// A temporary file that is being written, from begin to end.
#[derive(Debug)]
pub struct Temp {
    file: File,
    hold: Hold,
    check: Check,
    sparse: Sparse,
    /// Bytes so far, holes included.
    length: u64,
    /// The content has to reach this far, although the file does not yet: it ended in a hole.
    hole_at_end: bool,
}

impl Temp {
    /// A new file in `dir` that nobody else may read. With `verify` its content is hashed.
    ///
    /// # Errors
    /// The system refuses.
    pub fn create(dir: &Arc<Dir>, sparse: Sparse, verify: bool) -> Result<Self, Errno> {
        for _ in 0..NAMES_MAX {
            let name = leftover::random_name();
            match dir.create_file(&name, 0o600) {
                Err(Errno::EXIST) => {}
                other => return Ok(Self::with(other?, dir, name, sparse, verify)),
            }
        }
        Err(Errno::EXIST)
    }

    /// A new file whose name follows from `key`, so that it is found again after a cut.
    ///
    /// # Errors
    /// The system refuses.
    pub fn create_partial(
        dir: &Arc<Dir>,
        key: &[&[u8]],
        sparse: Sparse,
        verify: bool,
    ) -> Result<Self, Errno> {
        let name = leftover::stable_name(key);
        match dir.remove_file(&name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        Ok(Self::with(dir.create_file(&name, 0o600)?, dir, name, sparse, verify))
    }

    /// What a cut left of the file that follows from `key`, to be used as the basis of the next try.
    /// It is moved to a name of its own, which goes when the hold is dropped.
    ///
    /// # Errors
    /// The system refuses.
    pub fn find_partial(dir: &Arc<Dir>, key: &[&[u8]]) -> Result<Option<(File, Hold)>, Errno> {
        let stable = leftover::stable_name(key);
        let own = leftover::random_name();
        match dir.rename_new(&stable, dir, &own) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        let hold = Hold::new(dir, own);
        let file = dir.open_for_writing(&hold.name)?;
        Ok(Some((file, hold)))
    }

    fn with(file: File, dir: &Arc<Dir>, name: Name, sparse: Sparse, verify: bool) -> Self {
        Self {
            file,
            hold: Hold::new(dir, name),
            check: if verify { Check::whole() } else { Check::Later },
            sparse,
            length: 0,
            hole_at_end: false,
        }
    }

    /// The hash that is expected is that of the [`crate::delta::Parts`]. To be called before anything is written.
    pub fn hash_parts(&mut self) {
        debug_assert_eq!(self.length, 0, "nothing is written yet");
        self.check = Check::parts();
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file, for looking at.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reserves space, so that a full disk is noticed before anything is written.
    ///
    /// # Errors
    /// The disk is full, or the file system cannot reserve.
    pub fn reserve(&self, bytes: u64) -> Result<(), Errno> {
        rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, bytes)
    }

    /// The next bytes of the content.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PlaceError> {
        self.check.add(bytes);
        self.lay(bytes)
    }

    /// Writes without hashing.
    fn lay(&mut self, bytes: &[u8]) -> Result<(), PlaceError> {
        if self.sparse == Sparse::Full {
            return self.put(bytes);
        }
        for piece in sparse::pieces(bytes, self.length) {
            match piece {
                sparse::Piece::Data(data) => self.put(data)?,
                sparse::Piece::Zeros(length) => self.skip(length as u64),
            }
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), PlaceError> {
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        self.hole_at_end &= bytes.is_empty();
        Ok(())
    }

    fn skip(&mut self, length: u64) {
        self.length += length;
        self.hole_at_end |= length > 0;
    }

    /// The next `length` bytes are zero and take no space.
    pub fn hole(&mut self, length: u64) {
        self.check.add_zeros(length);
        self.skip(length);
    }

    /// The next `length` bytes are those of `basis` at `offset`. The kernel copies where it can; on
    /// file systems that share blocks nothing is copied at all.
    ///
    /// # Errors
    /// The disk is full or broken, or the basis is shorter than that ([`PlaceError::Mismatch`]).
    pub fn copy(&mut self, basis: &File, offset: u64, length: u64) -> Result<(), PlaceError> {
        if !matches!(self.check, Check::Later) || self.sparse == Sparse::Holes {
            return self.copy_by_reading(basis, offset, length, Self::write);
        }
        self.copy_unseen(basis, offset, length)
    }

    /// The next bytes are these blocks.
    ///
    /// # Errors
    /// As [`Self::copy`].
    pub fn copy_blocks(&mut self, old: &OldBlocks<'_>) -> Result<(), PlaceError> {
        if let (Some(hashes), Sparse::Full) = (old.hashes, self.sparse) {
            self.copy_unseen(old.file, old.offset, old.length)?;
            self.check.add_known(old, hashes);
            return Ok(());
        }
        old.read(|bytes, hash| {
            self.lay(bytes)?;
            self.check.add_old(bytes, hash);
            Ok(())
        })
    }

    /// The kernel copies where it can.
    fn copy_unseen(&mut self, basis: &File, offset: u64, length: u64) -> Result<(), PlaceError> {
        let (mut from, end) = (offset, offset + length);
        while from < end {
            let mut to = self.length;
            let piece = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
            let copied = rustix::fs::copy_file_range(
                basis,
                Some(&mut from),
                &self.file,
                Some(&mut to),
                piece,
            );
            match copied {
                Ok(0) => return Err(PlaceError::Mismatch),
                Ok(_) => {
                    self.length = to;
                    self.hole_at_end = false;
                }
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return self.copy_by_reading(basis, from, end - from, Self::put);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn copy_by_reading(
        &mut self,
        basis: &File,
        mut offset: u64,
        mut length: u64,
        take: fn(&mut Self, &[u8]) -> Result<(), PlaceError>,
    ) -> Result<(), PlaceError> {
        let mut buffer = vec![0; READ_BYTES];
        while length > 0 {
            let wanted = usize::try_from(length).unwrap_or(READ_BYTES).min(READ_BYTES);
            match basis.read_at(&mut buffer[..wanted], offset) {
                Ok(0) => return Err(PlaceError::Mismatch),
                Ok(got) => {
                    take(self, &buffer[..got])?;
                    offset += got as u64;
                    length -= got as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The content has ended: compares it with the hash it must have, and sets the facts. What of
    /// the facts could not be set is told with the file.
    ///
    /// # Errors
    /// Another content than announced, or the system refuses; the file is removed.
    pub fn finish(
        mut self,
        expected: Option<Hash>,
        facts: &Facts,
    ) -> Result<(Ready, Vec<Unset>), PlaceError> {
        if self.hole_at_end {
            self.file.set_len(self.length)?;
        }
        if let Some(expected) = expected
            && self.hash()? != expected
        {
            return Err(PlaceError::Mismatch);
        }
        let now = Meta::of(&self.file)?;
        let unset = facts.apply(&Node::Open(self.file.as_fd()), &now);
        Ok((Ready { file: self.file, hold: self.hold, length: self.length }, unset))
    }

    fn hash(&mut self) -> Result<Hash, PlaceError> {
        if let Some(hash) = self.check.finish() {
            return Ok(hash);
        }
        self.file.seek(SeekFrom::Start(0))?;
        Ok(Hash::of_file(&mut self.file)?.0)
    }

    /// Keeps what was written so far under the temporary name, for the next try.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep_partial(self) -> Result<Name, Errno> {
        self.file.set_len(self.length).map_err(|error| errno_of(&error))?;
        Ok(self.hold.release())
    }

    /// What was written so far, as if it were all.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish_partial(self) -> Result<Ready, Errno> {
        self.file.set_len(self.length).map_err(|error| errno_of(&error))?;
        Ok(Ready { file: self.file, hold: self.hold, length: self.length })
    }

    /// Reads back what was written.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn content(&self) -> std::io::Result<Vec<u8>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A whole file with its facts that only needs its name.
#[derive(Debug)]
pub struct Ready {
    file: File,
    hold: Hold,
    length: u64,
}

/// What became of an exchange that did not get out what it expected.
#[derive(Debug)]
pub(super) struct Out {
    /// What was under the name, now under the temporary one.
    pub(super) hold: Hold,
    /// Whether it is exactly what was expected.
    pub(super) expected: bool,
}

impl Ready {
    /// Bytes of the content.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its directory.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.hold.dir
    }

    /// Makes the content survive a loss of power.
    ///
    /// # Errors
    /// The device failed.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fdatasync(&self.file)
    }

    /// Leaves it under its temporary name, which somebody else takes care of from now on.
    pub fn release(self) -> Name {
        self.hold.release()
    }

    /// Only what it is called for now, which goes when the hold is dropped.
    pub fn into_hold(self) -> Hold {
        self.hold
    }

    /// Gives it the name `name` in its directory, over whatever is there.
    ///
    /// # Errors
    /// The system refuses; the file is removed.
    pub fn replace(self, name: &Name) -> Result<(), Errno> {
        let dir = Arc::clone(self.dir());
        dir.rename(&self.hold.name, &dir, name)?;
        self.hold.release();
        Ok(())
    }

    pub(super) fn place(self, name: &Name, placement: &Placement) -> Result<Option<Out>, Errno> {
        let dir = Arc::clone(self.dir());
        match placement {
            Placement::Replace => self.replace(name).map(|()| None),
            Placement::New => {
                dir.rename_new(&self.hold.name, &dir, name)?;
                self.hold.release();
                Ok(None)
            }
            Placement::Exchange(expected) => self.exchange(name, expected).map(Some),
        }
    }

    fn exchange(self, name: &Name, expected: &Meta) -> Result<Out, Errno> {
        let dir = Arc::clone(self.dir());
        dir.exchange(&self.hold.name, &dir, name)?;
        let Self { hold, .. } = self;
        // Moving changes the ctime of what is moved, so that alone cannot be compared.
        let out = dir.entry(&hold.name)?;
        let facts = |m: &Meta| (m.device, m.inode, m.kind, m.size, m.mtime, m.mode, m.uid, m.gid);
        let expected = facts(&out) == facts(expected);
        Ok(Out { hold, expected })
    }
}
