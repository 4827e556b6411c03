//! What is to come from the partner: what is asked for, and what arrives.
//!
//! Decides how much is under way, and that a cut transfer goes on where it stopped. Must not know
//! which of two versions stays.

use std::{
    collections::HashMap,
    fs::File as Handle,
    sync::Arc,
    time::{Duration, Instant},
};

use ipicsha_core::file::{File, Part, Version};
use rustix::io::Errno;

use super::{
    engine::{Engine, Step},
    place_here::Waiting,
    reader::Task,
    row::{self, Quick, Row, Want},
    serve::{Job, PART_BYTES, Wanted},
};
use crate::{
    compression,
    delta::{self, Signature},
    error::Said,
    hash::Hash,
    path::{Name, RelativePath},
    place::{PlaceError, Sparse, Temp},
    resolve::Dir,
};

/// Requests under way at most, where enough files may be open.
const REQUESTS_MAX: u64 = 512;
/// Finished files that wait together at most, likewise.
const WAITING_MAX: u64 = 2048;
/// Bytes they may bring at most, unless one file alone has more.
const BYTES_MAX: u64 = 64 << 20;
/// Files from this size on are large.
const LARGE_BYTES: u64 = 1 << 20;
/// Large ones under way at most.
const LARGE_MAX: usize = 8;
/// A turn makes things for so long at most.
const SLICE: Duration = Duration::from_millis(40);
/// Paths asked of the index at a time.
const PATHS: usize = 128;

/// What became of one wanted entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is made, or waits only for its name.
    Done,
    /// Its content is asked for.
    UnderWay,
    /// Something else has to happen first.
    Later,
    /// Too much is under way.
    Full,
}

/// Why a part cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// It is compressed, and is not.
    #[error(
        "the partner's compressed content cannot be unpacked: install the same version on both servers"
    )]
    Malformed,
    /// It has no place.
    #[error("cannot write it: {0}")]
    Place(#[from] PlaceError),
}

/// A content that arrives.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) path: RelativePath,
    pub(super) name: Name,
    pub(super) version: Version,
    pub(super) known: ipicsha_core::file::Known,
    pub(super) before: Option<crate::Meta>,
    temp: Temp,
    basis: Option<Handle>,
    size: u64,
    hash: [u8; 32],
    /// It is kept when the connection is cut.
    resumes: bool,
    asked: bool,
}

/// What is under way.
#[derive(Debug)]
pub(super) struct Fetch {
    next_id: u64,
    /// Requests under way at most.
    requests_max: usize,
    /// So many finished files get their names together.
    pub(super) waiting_max: usize,
    incoming: HashMap<u64, Incoming>,
    busy: HashMap<RelativePath, u64>,
    expected: u64,
    large: usize,
    /// A pass over what is wanted is here.
    cursor: Option<Vec<u8>>,
    /// Another pass is worth it.
    again: bool,
    /// Finished files that wait for their names.
    pub(super) waiting: Vec<Waiting>,
    pub(super) waiting_bytes: u64,
}

impl Default for Fetch {
    fn default() -> Self {
        // Each holds an open file, and others want to open some, too.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let share = |part: u64, most: u64| {
            let most = limit.map_or(most, |limit| (limit / part).clamp(16, most));
            usize::try_from(most).unwrap_or(16)
        };
        Self {
            next_id: 0,
            requests_max: share(8, REQUESTS_MAX),
            waiting_max: share(4, WAITING_MAX),
            incoming: HashMap::new(),
            busy: HashMap::new(),
            expected: 0,
            large: 0,
            cursor: None,
            again: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }
}

impl Fetch {
    /// Nothing is under way any more. Numbers go on, so that no late answer is taken for another.
    pub(super) fn forget(&mut self) {
        *self = Self { next_id: self.next_id, ..Self::default() };
    }

    /// Something changed that may let wanted entries be made.
    pub(super) fn wake(&mut self) {
        self.again = true;
    }

    /// Whether there is something to do without hearing anything.
    pub(super) fn has_work(&self) -> bool {
        self.again || self.cursor.is_some() && !self.is_full() || !self.waiting.is_empty()
    }

    fn is_full(&self) -> bool {
        self.incoming.len() >= self.requests_max || self.expected >= BYTES_MAX
    }

    /// Whether no content is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.incoming.is_empty()
    }

    /// Whether a file waits for its content or its name.
    pub(super) fn is_busy(&self, path: &RelativePath) -> bool {
        self.busy.contains_key(path)
    }

    /// It has its name, or will not get it.
    pub(super) fn ended(&mut self, path: &RelativePath) {
        self.busy.remove(path);
    }

    /// It is about to get its name.
    pub(super) fn begun(&mut self, path: &RelativePath) {
        self.busy.insert(path.clone(), 0);
    }

    fn remove(&mut self, id: u64) -> Option<Incoming> {
        let incoming = self.incoming.remove(&id)?;
        self.expected = self.expected.saturating_sub(incoming.size);
        self.large -= usize::from(incoming.size >= LARGE_BYTES);
        self.busy.remove(&incoming.path);
        Some(incoming)
    }
}

impl Engine {
    /// Makes and asks for what is wanted, for a while.
    pub(super) fn fetch_some(&mut self, now: Instant) -> Step<()> {
        self.see_held_trees(now);
        if self.judged_at().is_some_and(|at| now >= at) {
            self.fetch.wake();
        }
        if self.fetch.cursor.is_none() && std::mem::take(&mut self.fetch.again) {
            self.fetch.cursor = Some(Vec::new());
        }
        let mut ended = false;
        while let Some(after) = self.fetch.cursor.take() {
            let paths = self.index.wanted(Want::Take, &after, PATHS)?;
            if paths.is_empty() {
                ended = true;
                break;
            }
            if !self.take_these(paths, after, now)? || now.elapsed() > SLICE {
                break;
            }
        }
        if ended || self.fetch.is_full() {
            self.remove_some(now)?;
        }
        self.place_waiting(now)
    }

    /// Whether the pass goes on.
    fn take_these(&mut self, paths: Vec<Vec<u8>>, mut after: Vec<u8>, now: Instant) -> Step<bool> {
        for bytes in paths {
            let Ok(path) = RelativePath::try_from(bytes.clone()) else { continue };
            if !self.fetch.is_busy(&path) && !self.troubles.waits(&path, now) {
                match self.take(&path)? {
                    Ok(Outcome::Full) => {
                        self.fetch.cursor = Some(after);
                        return Ok(false);
                    }
                    Ok(Outcome::Done | Outcome::UnderWay | Outcome::Later) => {}
                    Err(errno) => self.failed(&path, "make", errno),
                }
            }
            after = bytes;
            if now.elapsed() > SLICE {
                break;
            }
        }
        self.fetch.cursor = Some(after);
        Ok(true)
    }

    /// It did not work; it is tried again later.
    pub(super) fn failed(&mut self, path: &RelativePath, doing: &str, errno: Errno) {
        self.failed_because(path, format!("cannot {doing} it: {}", Said(errno)));
    }

    /// The same with a reason that is no word of the system.
    pub(super) fn failed_because(&mut self, path: &RelativePath, why: String) {
        self.troubles.add(path, why, Instant::now());
    }

    /// Asks the partner for a content, or begins to.
    pub(super) fn ask(
        &mut self,
        path: &RelativePath,
        dir: &Arc<Dir>,
        name: &Name,
        row: &Row,
        before: Option<crate::Meta>,
    ) -> Result<Outcome, Errno> {
        let Some(told) = &row.told else { return Ok(Outcome::Done) };
        let Some(hash) = row::content(&told.version).copied() else { return Ok(Outcome::Done) };
        let size = row::size(&told.version);
        let is_large = size >= LARGE_BYTES;
        let too_much =
            self.fetch.expected > 0 && self.fetch.expected.saturating_add(size) > BYTES_MAX;
        if self.fetch.incoming.len() >= self.fetch.requests_max
            || too_much
            || is_large && self.fetch.large >= LARGE_MAX
        {
            return Ok(Outcome::Full);
        }
        if !self.is_connected() || !self.exchange.answered {
            return Ok(Outcome::Later);
        }
        let key: [&[u8]; 2] = [path.as_written(), &hash];
        let mut found = None;
        let temp = if is_large {
            found = Temp::find_partial(dir, &key)?;
            Temp::create_partial(dir, &key, Sparse::Holes, true)?
        } else {
            Temp::create(dir, Sparse::Full, true)?
        };
        let mut incoming = Incoming {
            path: path.clone(),
            name: name.clone(),
            version: told.version.clone(),
            known: told.known,
            before,
            temp,
            basis: None,
            size,
            hash,
            resumes: is_large,
            asked: false,
        };
        if let Some((file, _hold)) = found {
            resume(&mut incoming, &file);
        }
        let sign =
            if incoming.temp.length() == 0 { old_content(dir, name, row, size) } else { None };
        self.fetch.next_id += 1;
        let id = self.fetch.next_id;
        if let Some((file, old_size)) = sign {
            incoming.basis = file.try_clone().ok();
            self.reader.push(Task::Sign { id, file, size: old_size });
        } else {
            incoming.asked = true;
            self.outbox.push(self.request(id, &incoming, Vec::new()));
        }
        self.fetch.expected = self.fetch.expected.saturating_add(size);
        self.fetch.large += usize::from(is_large);
        self.fetch.busy.insert(path.clone(), id);
        self.fetch.incoming.insert(id, incoming);
        Ok(Outcome::UnderWay)
    }

    fn request(&self, id: u64, incoming: &Incoming, signature: Vec<u8>) -> File {
        File::Request {
            directory: self.config.name.clone(),
            id,
            path: incoming.path.as_written().to_vec(),
            hash: incoming.hash,
            from: incoming.temp.length(),
            signature,
        }
    }

    /// The signature of what is here is ready.
    pub(super) fn signed(&mut self, id: u64, signature: Option<Signature>) {
        let Some(incoming) = self.fetch.incoming.get_mut(&id).filter(|found| !found.asked) else {
            return;
        };
        incoming.asked = true;
        let bytes = signature.and_then(|signature| postcard::to_stdvec(&signature).ok());
        if bytes.is_none() {
            incoming.basis = None;
        }
        let request = self
            .fetch
            .incoming
            .get(&id)
            .map(|incoming| self.request(id, incoming, bytes.unwrap_or_default()));
        self.outbox.extend(request);
    }

    /// A part of a content that was asked for.
    pub(super) fn part(&mut self, id: u64, part: Part) -> Step<()> {
        let Some(incoming) = self.fetch.incoming.get_mut(&id) else { return Ok(()) };
        let before = incoming.temp.length();
        let result = match part {
            Part::Data { bytes, compressed } => incoming.data(bytes, compressed).map(|()| false),
            Part::Last { bytes, compressed } => incoming.data(bytes, compressed).map(|()| true),
            Part::Hole { length } => incoming.hole(length).map(|()| false),
            Part::Copy { offset, length } => incoming.copy(offset, length).map(|()| false),
            Part::End => Ok(true),
            Part::Refused(why) => {
                if let Some(incoming) = self.fetch.remove(id) {
                    let why = format!("the partner does not send it: {why}");
                    self.failed_because(&incoming.path, why);
                }
                self.fetch.wake();
                return Ok(());
            }
        };
        self.report.arrived(incoming.temp.length() - before);
        match result {
            Ok(false) => {}
            Ok(true) => {
                if let Some(incoming) = self.fetch.remove(id) {
                    self.finish(incoming);
                }
                if self.fetch.cursor.is_none() {
                    self.fetch.again = true;
                }
            }
            Err(error) => {
                if let Some(incoming) = self.fetch.remove(id) {
                    self.failed_because(&incoming.path, error.to_string());
                }
                self.outbox.push(File::Cancel { directory: self.config.name.clone(), id });
                self.fetch.wake();
            }
        }
        Ok(())
    }

    fn finish(&mut self, incoming: Incoming) {
        let Incoming { path, name, version, known, before, temp, hash, .. } = incoming;
        let facts = self.facts(&version, None);
        let expected = Hash::from_bytes(hash);
        match temp.finish(Some(expected), &facts) {
            Ok((ready, unset)) => {
                let waiting = Waiting { path, name, version, known, before, ready, unset };
                self.wait_for_name(waiting);
            }
            Err(error) => self.failed_because(&path, format!("cannot finish it: {error}")),
        }
    }

    /// The connection is cut: what has arrived of large files is kept for the next one.
    pub(super) fn keep_partials(&mut self) {
        let ids: Vec<u64> = self.fetch.incoming.keys().copied().collect();
        for id in ids {
            let Some(incoming) = self.fetch.remove(id) else { continue };
            if incoming.resumes && incoming.temp.length() > 0 {
                // Without it the transfer begins anew.
                let _ = incoming.temp.keep_partial();
            }
        }
        self.fetch.cursor = None;
        self.fetch.wake();
    }

    /// The partner wants a content.
    pub(super) fn requested(
        &mut self,
        id: u64,
        path: Vec<u8>,
        hash: [u8; 32],
        from: u64,
        signature: &[u8],
    ) -> Step<()> {
        let what = self.what_to_send(path, hash, from, signature)?;
        if let Err((Some(path), _)) = &what {
            self.scan.look_at(path.clone());
        }
        let round = self.exchange.round;
        self.server.push(Job { id, round, what: what.map_err(|(_, why)| why) });
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "used once")]
    fn what_to_send(
        &mut self,
        path: Vec<u8>,
        hash: [u8; 32],
        from: u64,
        signature: &[u8],
    ) -> Step<Result<Wanted, (Option<RelativePath>, String)>> {
        let refused = |path, why: &str| Ok(Err((path, why.to_owned())));
        let Ok(path) = RelativePath::try_from(path) else {
            return refused(None, "it has no possible path");
        };
        let row = self.index.get(path.as_written())?.filter(Row::is_present);
        let Some(row) = row.filter(|row| row.content() == Some(&hash)) else {
            return refused(None, "it is another version by now");
        };
        let quick: Option<Quick> = row.own.and_then(|own| own.quick);
        let (Some(root), Some(quick), Some((parent, name))) = (&self.root, quick, path.split())
        else {
            return refused(None, "the directory is not there");
        };
        let Ok(dir) = root.dir(&parent) else {
            return refused(Some(path), "its directory is not there");
        };
        let signature = match signature {
            [] => None,
            bytes => match postcard::from_bytes::<Signature>(bytes) {
                Ok(signature) if signature.is_consistent() => Some(signature),
                _ => return refused(None, "the signature is not sound"),
            },
        };
        if from > quick.size {
            return refused(None, "it is not that long");
        }
        Ok(Ok(Wanted { path, dir, name, quick, from, signature }))
    }
}

impl Incoming {
    fn room(&self, length: u64) -> Result<(), PlaceError> {
        let all = self.temp.length().checked_add(length);
        if all.is_some_and(|all| all <= self.size) { Ok(()) } else { Err(PlaceError::Mismatch) }
    }

    fn data(&mut self, mut bytes: Vec<u8>, compressed: bool) -> Result<(), Unusable> {
        if compressed {
            let unpacked = compression::decompress(&bytes, PART_BYTES);
            bytes = unpacked.map_err(|_| Unusable::Malformed)?;
        }
        self.room(bytes.len() as u64)?;
        Ok(self.temp.write(&bytes)?)
    }

    fn hole(&mut self, length: u64) -> Result<(), Unusable> {
        self.room(length)?;
        self.temp.hole(length);
        Ok(())
    }

    fn copy(&mut self, offset: u64, length: u64) -> Result<(), Unusable> {
        self.room(length)?;
        let basis = self.basis.as_ref().ok_or(PlaceError::Mismatch)?;
        Ok(self.temp.copy(basis, offset, length)?)
    }
}

/// Takes over what a cut transfer left. Whether it is right shows at the end.
fn resume(incoming: &mut Incoming, file: &Handle) {
    let length = file.metadata().map_or(0, |meta| meta.len()).min(incoming.size);
    // What cannot be read is sent again.
    if incoming.temp.copy(file, 0, length).is_err() {
        incoming.resumes = false;
    }
}

/// The old content, if a difference to it is worth computing.
fn old_content(dir: &Dir, name: &Name, row: &Row, size: u64) -> Option<(Handle, u64)> {
    let old = row.own.as_ref().map(|own| row::size(&own.version))?;
    if row.content().is_none() || !delta::is_worthwhile(old, size) {
        return None;
    }
    Some((dir.open_file(name).ok()?, old))
}
