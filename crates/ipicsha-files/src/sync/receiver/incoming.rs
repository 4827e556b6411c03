//! Contents as they come.
//!
//! Decides where the bytes go, and that a file is not accepted before its hash is right. Must not
//! decide which files come.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
};

use rustix::{fs::FallocateFlags, io::Errno};

use super::{Receiver, files::Pending, old::Old};
use crate::{
    error::{AtPath, Problem},
    hash::{Hash, READ_BYTES},
    meta::{Meta, Node},
    path::Name,
    place::{Check, OldBlocks, PlaceError, Sparse, Temp, errno_of},
    resolve::Dir,
    sync::{
        Event,
        channel::Channel,
        exit::{Exit, Fatal},
        message::{EntryId, Small, ToReceiver, ToSender, Want},
    },
};

/// Where bytes go.
#[derive(Debug)]
enum Sink {
    Temp(Temp),
    InPlace(InPlace),
    /// Something failed and was told; the rest of the content is dropped.
    Nowhere,
}

/// A file that is written over (`--inplace`, `--append`).
#[derive(Debug)]
struct InPlace {
    file: File,
    at: u64,
    begin: u64,
    check: Check,
    sparse: bool,
}

/// The file that is coming.
#[derive(Debug)]
pub(super) struct Incoming {
    id: EntryId,
    pending: Pending,
    sink: Sink,
    offset: u64,
    length: u64,
}

impl InPlace {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PlaceError> {
        self.check.add(bytes);
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), PlaceError> {
        self.check.add_zeros(length);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, punch, self.at, length) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.zeros(length)?,
            Err(errno) => return Err(errno.into()),
        }
        self.at += length;
        Ok(())
    }

    fn zeros(&self, length: u64) -> Result<(), PlaceError> {
        let zeros = vec![0; READ_BYTES];
        let mut written = 0;
        while written < length {
            let part = usize::try_from(length - written).unwrap_or(READ_BYTES).min(READ_BYTES);
            self.file.write_all_at(&zeros[..part], self.at + written)?;
            written += part as u64;
        }
        Ok(())
    }

    /// Bytes that lie ahead of what was written are still the old ones; if they are not, the hash
    /// will not be right and the file is asked for as a whole.
    fn copy(&mut self, old: &OldBlocks<'_>) -> Result<(), PlaceError> {
        let Self { file, at, check, .. } = self;
        let stays = old.offset == *at;
        // What is written over is read, whatever has its name.
        OldBlocks { file, hashes: None, ..*old }.read(|bytes, hash| {
            if !stays {
                file.write_all_at(bytes, *at)?;
            }
            check.add_old(bytes, hash);
            *at += bytes.len() as u64;
            Ok(())
        })
    }
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    /// A whole small file.
    pub(super) fn small(&mut self, small: Small) -> Result<(), Fatal> {
        self.open(small.id, 0)?;
        self.data(&small.content)?;
        self.end(small.hash)
    }

    pub(super) fn open(&mut self, id: EntryId, offset: u64) -> Result<(), Fatal> {
        if self.incoming.is_some() {
            return Err(Fatal::new(Exit::Protocol, "a file began before the last one ended"));
        }
        let Some(pending) = self.pending.remove(&id) else {
            return Err(Fatal::new(Exit::Protocol, "a file came that nobody asked for"));
        };
        if offset > 0 && pending.want != Want::From(offset) {
            return Err(Fatal::new(Exit::Protocol, "a file begins where nobody asked for it"));
        }
        let report = self.report;
        self.outputs.resolve(id, true, report);
        let sink = self.sink(&pending, offset).unwrap_or_else(|problem| {
            self.problem(&problem);
            Sink::Nowhere
        });
        self.progress.path = pending.spot.path.clone();
        self.progress.file_size = pending.details.size;
        self.progress.file_bytes = offset;
        self.progress.file_done = false;
        self.incoming = Some(Incoming { id, pending, sink, offset, length: 0 });
        Ok(())
    }

    fn sink(&mut self, pending: &Pending, offset: u64) -> Result<Sink, Problem> {
        let (spot, options) = (&pending.spot, self.options);
        let dir = self.parent_dir(spot)?;
        if options.inplace || options.append.is_some() {
            let file = match &pending.existing {
                Some(_) => {
                    if options.backup && !pending.backed_up {
                        let keep = super::backup::Keep::Copy;
                        self.back_up(&dir, &spot.parent, &spot.name, keep)?;
                    }
                    open_in_place(&dir, &spot.name)
                }
                None => dir.create_file(&spot.name, 0o600),
            };
            let file = file.at("open for writing", &spot.path)?;
            let (check, sparse) = (check_of(pending.want), options.sparse);
            return Ok(Sink::InPlace(InPlace { file, at: offset, begin: offset, check, sparse }));
        }
        let sparse = if options.sparse { Sparse::Holes } else { Sparse::Full };
        let mut temp = Temp::create(&dir, sparse, true).at("create a file for", &spot.path)?;
        if matches!(pending.want, Want::Delta { .. }) {
            temp.hash_parts();
        }
        if options.preallocate && !options.sparse {
            match temp.reserve(pending.details.size) {
                // Empty files need nothing, and some file systems cannot.
                Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    return Err(Problem::new("reserve space for", spot.path.clone(), errno));
                }
            }
        }
        Ok(Sink::Temp(temp))
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        self.stats.literal_bytes += bytes.len() as u64;
        self.put(bytes.len() as u64, |sink, _| match sink {
            Sink::Temp(temp) => temp.write(bytes),
            Sink::InPlace(file) => file.write(bytes),
            Sink::Nowhere => Ok(()),
        })
    }

    pub(super) fn hole(&mut self, length: u64) -> Result<(), Fatal> {
        self.put(length, |sink, _| match sink {
            Sink::Temp(temp) => {
                temp.hole(length);
                Ok(())
            }
            Sink::InPlace(file) => file.hole(length),
            Sink::Nowhere => Ok(()),
        })
    }

    pub(super) fn copy(&mut self, offset: u64, length: u64) -> Result<(), Fatal> {
        self.stats.matched_bytes = self.stats.matched_bytes.saturating_add(length);
        if offset.checked_add(length).is_none() {
            return Err(too_long());
        }
        self.put(length, |sink, old| {
            let blocks = old.ok_or(PlaceError::Mismatch)?.blocks(offset, length)?;
            match sink {
                Sink::Temp(temp) => temp.copy_blocks(&blocks),
                Sink::InPlace(file) => file.copy(&blocks),
                Sink::Nowhere => Ok(()),
            }
        })
    }

    /// Writes a part of the file that is coming.
    fn put(
        &mut self,
        length: u64,
        write: impl FnOnce(&mut Sink, Option<&Old>) -> Result<(), PlaceError>,
    ) -> Result<(), Fatal> {
        let Some(incoming) = &mut self.incoming else {
            return Err(Fatal::new(Exit::Protocol, "bytes came that belong to no file"));
        };
        // More than any file: the sender does not mean it.
        incoming.length = incoming.length.saturating_add(length);
        if incoming.offset.checked_add(incoming.length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(too_long());
        }
        let written = write(&mut incoming.sink, incoming.pending.old.as_ref());
        match written {
            Ok(()) => {}
            Err(PlaceError::System(errno)) => {
                let path = incoming.pending.spot.path.clone();
                incoming.sink = Sink::Nowhere;
                let problem = Problem::new("write", path, errno);
                if problem.is_full() {
                    return Err(self.full(&problem));
                }
                self.problem(&problem);
            }
            // The basis changed under us: the hash will be wrong, and the file is asked for again.
            Err(PlaceError::Mismatch) => {}
        }
        self.progress.bytes = self.progress.bytes.saturating_add(length);
        self.progress.file_bytes = self.progress.file_bytes.saturating_add(length);
        self.progress.checked = self.progress.entries - self.pending.len() as u64;
        self.report.event(Event::Progress(self.progress.clone()));
        Ok(())
    }

    /// Everything since the begin of the file is void.
    pub(super) fn again(&mut self) -> Result<(), Fatal> {
        let Some(mut incoming) = self.incoming.take() else { return Ok(()) };
        self.progress.bytes -= incoming.length.min(self.progress.bytes);
        self.progress.file_bytes = incoming.offset;
        incoming.length = 0;
        incoming.sink = match incoming.sink {
            Sink::InPlace(InPlace { file, begin, sparse, .. }) => {
                let check = check_of(incoming.pending.want);
                Sink::InPlace(InPlace { file, at: begin, begin, check, sparse })
            }
            Sink::Temp(_) => match self.sink(&incoming.pending, incoming.offset) {
                Ok(sink) => sink,
                Err(problem) => {
                    self.problem(&problem);
                    Sink::Nowhere
                }
            },
            Sink::Nowhere => Sink::Nowhere,
        };
        self.incoming = Some(incoming);
        Ok(())
    }

    /// The file is complete.
    pub(super) fn end(&mut self, hash: Hash) -> Result<(), Fatal> {
        let Some(incoming) = self.incoming.take() else {
            return Err(Fatal::new(Exit::Protocol, "a file ended that had not begun"));
        };
        let Incoming { id, mut pending, sink, .. } = incoming;
        let done = match sink {
            Sink::Nowhere => Ok(false),
            Sink::Temp(temp) => self.end_temp(id, &pending, temp, hash),
            Sink::InPlace(file) => self.end_in_place(&pending, file, hash),
        };
        match done {
            Ok(true) => {
                self.arrived(&pending);
                if !self.options.delay_updates {
                    self.saved(id)?;
                }
                self.leader_arrived(id, &pending)
            }
            Ok(false) => self.leader_failed(id, &pending),
            Err(Ended::Problem(problem)) if problem.is_full() => Err(self.full(&problem)),
            Err(Ended::Problem(problem)) => {
                self.problem(&problem);
                self.leader_failed(id, &pending)
            }
            // Once more, all of it: a basis that changed, or a sum that fits by chance.
            Err(Ended::Mismatch) if pending.want != Want::Whole => {
                (pending.want, pending.old) = (Want::Whole, None);
                pending.backed_up = self.options.inplace || self.options.append.is_some();
                self.wants.push((id, Want::Whole));
                self.pending.insert(id, pending);
                self.ask()
            }
            Err(Ended::Mismatch) => {
                let path = &pending.spot.path;
                self.trouble(format!("\"{path}\" did not arrive as it was announced: try again"));
                self.leader_failed(id, &pending)
            }
        }
    }

    fn arrived(&mut self, pending: &Pending) {
        self.count_transfer(&pending.details, pending.existing.is_none());
        self.progress.files_done += 1;
        self.progress.file_done = true;
        self.progress.file_bytes = pending.details.size;
        self.report.event(Event::Progress(self.progress.clone()));
    }

    fn end_temp(
        &mut self,
        id: EntryId,
        pending: &Pending,
        temp: Temp,
        hash: Hash,
    ) -> Result<bool, Ended> {
        let path = &pending.spot.path;
        let facts = self.facts(&pending.details, pending.existing.as_ref());
        // What the system copied was not looked at again.
        if pending.old.as_ref().is_some_and(|old| !old.is_unchanged()) {
            return Err(Ended::Mismatch);
        }
        let (ready, unset) = temp.finish(Some(hash), &facts).map_err(|error| match error {
            PlaceError::Mismatch => Ended::Mismatch,
            PlaceError::System(errno) => {
                Ended::Problem(Problem::new("finish", path.clone(), errno))
            }
        })?;
        self.tell_unset(path, unset);
        self.give_name(id, pending, ready).map_err(Ended::Problem)?;
        Ok(true)
    }

    fn end_in_place(
        &mut self,
        pending: &Pending,
        written: InPlace,
        hash: Hash,
    ) -> Result<bool, Ended> {
        let path = &pending.spot.path;
        let problem = |doing, errno| Ended::Problem(Problem::new(doing, path.clone(), errno));
        if written.check.finish() != Some(hash) {
            return Err(Ended::Mismatch);
        }
        let InPlace { file, at, .. } = written;
        file.set_len(at).map_err(|error| problem("finish", errno_of(&error)))?;
        let now = Meta::of(&file).map_err(|errno| problem("look at", errno))?;
        let facts = self.facts(&pending.details, pending.existing.as_ref());
        let unset = facts.apply(&Node::Open(file.as_fd()), &now);
        self.tell_unset(path, unset);
        if self.options.fsync {
            rustix::fs::fsync(&file).map_err(|errno| problem("sync", errno))?;
        }
        if pending.existing.is_none() {
            self.changed_in(pending.spot.directory);
        }
        Ok(true)
    }

    /// A file that was asked for does not come; the sender has told why.
    pub(super) fn failed(&mut self, id: EntryId) -> Result<(), Fatal> {
        let pending = match self.incoming.take() {
            Some(incoming) if incoming.id == id => Some(incoming.pending),
            other => {
                self.incoming = other;
                self.pending.remove(&id)
            }
        };
        let report = self.report;
        self.outputs.resolve(id, false, report);
        match pending {
            Some(pending) => self.leader_failed(id, &pending),
            None => Ok(()),
        }
    }

    /// It ends early: with `--partial` what has come of a file is kept under its name.
    pub(super) fn keep_partial(&mut self) {
        let Some(Incoming { pending, sink: Sink::Temp(temp), length, .. }) = self.incoming.take()
        else {
            return;
        };
        if self.options.partial && length > 0 {
            let name = &pending.spot.name;
            let kept = temp.finish_partial().and_then(|ready| ready.replace(name));
            if let Err(errno) = kept {
                let path = pending.spot.path.clone();
                self.problem(&Problem::new("keep what has come of", path, errno));
            }
        }
    }
}

fn too_long() -> Fatal {
    Fatal::new(Exit::Protocol, "a file is longer than any file can be")
}

/// A difference is verified by its parts.
fn check_of(want: Want) -> Check {
    match want {
        Want::Whole | Want::From(_) => Check::whole(),
        Want::Delta { .. } => Check::parts(),
    }
}

/// Opens a file to write over it. Its owner may do so although it is read-only; its permissions are
/// set when it is complete.
fn open_in_place(dir: &Dir, name: &Name) -> Result<File, Errno> {
    match dir.open_for_writing(name) {
        Err(Errno::ACCESS) => {
            let mode = dir.entry(name)?.mode;
            dir.hold(name)?.set_mode(mode | 0o600)?;
            dir.open_for_writing(name)
        }
        other => other,
    }
}

/// Why a file did not end well.
enum Ended {
    Mismatch,
    Problem(Problem),
}
