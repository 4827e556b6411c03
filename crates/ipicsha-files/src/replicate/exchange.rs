//! What the two indexes say to each other.
//!
//! Decides from where on entries are told, how many may be under way, and what another index of the
//! partner means. Must not know the disk.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ipicsha_core::{
    file::{Entry, File, IndexId, Known, Version},
    id::Seq,
};

use super::{
    engine::{Engine, Step, now_us},
    index,
    row::{LEFT, REPAIR, Row, Told},
};
use crate::{path::RelativePath, watch::is_ours};

const HELLO_AGAIN: Duration = Duration::from_secs(1);
/// Batches that are not noted yet.
const BATCHES_MAX: usize = 4;
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 512 * 1024;
/// A link that is longer is none.
const TARGET_BYTES_MAX: usize = 4095;
/// All attributes of an entry together.
const ATTRIBUTE_BYTES_MAX: usize = 256 * 1024;
/// No file system has a larger file.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();
/// A change counter that lies farther ahead than clocks differ is not believed.
const COUNTER_AHEAD_US: u64 = 24 * 3600 * 1_000_000;

/// How far the exchange over the present connection is.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Counts the connections.
    pub(super) round: u64,
    hello_at: Option<Instant>,
    /// It was said hello by this connection, which makes the partner begin anew, too.
    said_hello: bool,
    /// The partner has said where it stands.
    pub(super) answered: bool,
    sent: i64,
    /// The partner has everything up to here.
    pub(super) noted_there: i64,
    under_way: VecDeque<i64>,
    /// The newest position of the partner's index that was heard of.
    pub(super) last_there: i64,
}

impl Exchange {
    /// Another connection, or none any more.
    pub(super) fn begin(&mut self, connected: bool, now: Instant) {
        *self = Self { round: self.round + 1, ..Self::default() };
        self.hello_at = connected.then_some(now);
    }

    /// When to say hello again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.hello_at
    }
}

impl Engine {
    fn hello(&self, answer: bool) -> File {
        File::Hello {
            directory: self.config.name.clone(),
            index: self.index.meta.id,
            last: Seq(self.index.meta.last),
            noted: self.index.meta.noted.map(|(id, seq)| (id, Seq(seq))),
            answer,
        }
    }

    /// Says hello until it is answered.
    pub(super) fn say_hello(&mut self, now: Instant) {
        let due = self.exchange.hello_at.is_some_and(|at| at <= now);
        if due && self.is_connected() {
            self.begin_talk(now);
        }
    }

    fn begin_talk(&mut self, now: Instant) {
        self.exchange.hello_at = Some(now + HELLO_AGAIN);
        self.exchange.said_hello = true;
        self.outbox.push(self.hello(true));
    }

    /// Tells changed entries, as many as may be under way.
    pub(super) fn tell_entries(&mut self) -> Step<()> {
        while self.is_connected()
            && self.exchange.answered
            && self.exchange.under_way.len() < BATCHES_MAX
            && self.exchange.sent < self.index.meta.last
        {
            let from = self.exchange.sent;
            let mut entries = Vec::new();
            let mut bytes = 0;
            let mut to = self.index.meta.last;
            let rows = self.index.after(from, BATCH_ENTRIES)?;
            let is_all = rows.len() < BATCH_ENTRIES;
            let count = rows.len();
            for (at, (path, own)) in rows.into_iter().enumerate() {
                let attributes = own.version.attributes.iter();
                bytes +=
                    path.len() + 128 + attributes.map(|(n, v)| n.len() + v.len()).sum::<usize>();
                let seq = own.seq;
                entries.push(Entry { path, seq: Seq(seq), version: own.version, known: own.known });
                let is_last = at + 1 == count;
                if bytes >= BATCH_BYTES && !is_last || is_last && !is_all {
                    to = seq;
                    break;
                }
            }
            self.exchange.sent = to;
            self.exchange.under_way.push_back(to);
            self.outbox.push(File::Entries {
                directory: self.config.name.clone(),
                index: self.index.meta.id,
                from: Seq(from),
                to: Seq(to),
                entries,
            });
        }
        Ok(())
    }

    /// The partner said something.
    pub(super) fn received(&mut self, file: File) -> Step<()> {
        match file {
            File::Hello { index, last, noted, answer, .. } => {
                self.heard_hello(index, last.0, noted.map(|(id, seq)| (id, seq.0)), answer)
            }
            File::Entries { index, from, to, entries, .. } => {
                self.heard_entries(index, from.0, to.0, entries)
            }
            File::Noted { index, to, .. } => {
                if index == self.index.meta.id {
                    self.exchange.noted_there = self.exchange.noted_there.max(to.0);
                    self.exchange.under_way.retain(|batch| *batch > to.0);
                }
                Ok(())
            }
            File::Request { id, path, hash, from, signature, .. } => {
                self.requested(id, path, hash, from, &signature)
            }
            File::Part { id, part, .. } => self.part(id, part),
            File::Cancel { id, .. } => {
                self.server.cancel(id);
                Ok(())
            }
            File::Audit { id, .. } => {
                self.audit_asked(id);
                Ok(())
            }
            File::Audited { id, to, found, last, .. } => self.audited_there(id, to.0, found, last),
        }
    }

    fn heard_hello(
        &mut self,
        index: IndexId,
        last: i64,
        noted: Option<(IndexId, i64)>,
        answer: bool,
    ) -> Step<()> {
        let mut is_renewed = false;
        if noted.is_some_and(|(id, seq)| id == self.index.meta.id && seq > self.index.meta.last) {
            // This index is older than what the partner has of it: it was restored.
            self.index.meta.id = IndexId(index::random());
            is_renewed = true;
        }
        let before = self.index.meta.noted;
        if before.is_some_and(|(id, _)| id != index) || is_renewed {
            self.forget_what_was_agreed()?;
        }
        if self.index.meta.noted.is_none() {
            self.index.meta.noted = Some((index, 0));
        }
        self.exchange.last_there = last;
        let theirs = noted.filter(|(id, _)| *id == self.index.meta.id).map_or(0, |(_, seq)| seq);
        if !self.exchange.answered || answer || theirs > self.exchange.noted_there {
            self.exchange.answered = true;
            self.exchange.noted_there = theirs;
            self.exchange.sent = theirs;
            self.exchange.under_way.clear();
            // What could not be asked for before can be now.
            self.fetch.wake();
        }
        // An answer may be one to a connection before this one.
        self.exchange.hello_at = None;
        if is_renewed || !self.exchange.said_hello {
            // Before the answer, with which the partner begins what another hello would cut again.
            self.begin_talk(Instant::now());
        }
        if answer {
            // It begins anew: what it was sending by the connection before is lost.
            self.keep_partials();
            self.outbox.push(self.hello(false));
        }
        Ok(())
    }

    /// One of the two indexes is another one: nothing either side did is known to the other any
    /// more. So nothing is deleted, and of two different versions the newer stays.
    fn forget_what_was_agreed(&mut self) -> Step<()> {
        self.index.forget_partner()?;
        self.index.forget_tombstones()?;
        self.held_trees.take();
        for path in self.index.with_bits(LEFT)? {
            if let Some(row) = self.index.get(&path)? {
                self.index.delete(&path, &row)?;
            }
        }
        let counter = self.index.next_counter(now_us());
        // Not even counters of the partner are kept: they may be of a clock that was ahead.
        self.index.restamp(Known::default().changed(self.config.rank, counter))?;
        self.flush_anew();
        self.fetch.wake();
        Ok(())
    }

    /// A clock that was once far ahead has left counters that the partner does not believe, and later
    /// ones are larger still: this index begins anew. Not before the partner is connected, which it is
    /// only while both clocks agree: this one may be behind instead.
    pub(super) fn see_counters(&mut self) -> Step<()> {
        let newest = now_us().saturating_add(COUNTER_AHEAD_US / 2);
        if self.index.meta.counter <= newest || !self.is_connected() {
            return Ok(());
        }
        self.index.meta.id = IndexId(index::random());
        self.index.meta.counter = 0;
        self.forget_what_was_agreed()?;
        self.begin_exchange();
        Ok(())
    }

    fn heard_entries(
        &mut self,
        index: IndexId,
        from: i64,
        to: i64,
        entries: Vec<Entry>,
    ) -> Step<()> {
        let Some((known, noted)) = self.index.meta.noted else { return Ok(()) };
        if known != index || from > noted || !self.exchange.answered {
            // Something was lost, or this is from before; the next hello tells.
            self.exchange.hello_at.get_or_insert_with(Instant::now);
            return Ok(());
        }
        for entry in entries {
            self.heard_entry(entry)?;
        }
        let noted = noted.max(to);
        self.index.meta.noted = Some((index, noted));
        self.exchange.last_there = self.exchange.last_there.max(to);
        let directory = self.config.name.clone();
        self.outbox.push(File::Noted { directory, index, to: Seq(noted) });
        Ok(())
    }

    /// What the partner says of an entry as far as it may be believed.
    pub(super) fn believed(&mut self, entry: Entry) -> Option<(RelativePath, Told)> {
        let Entry { path, version, known, .. } = entry;
        let path = RelativePath::try_from(path).ok()?;
        let newest = now_us().saturating_add(COUNTER_AHEAD_US);
        let is_ahead = known.primary.max(known.secondary) > newest;
        if is_ahead || path.is_root() || !is_sound(&version) || is_ours(path.as_written()) {
            let problem = "the partner's entry is not sound and is not taken".to_owned();
            self.troubles.add(&path, problem, Instant::now());
            return None;
        }
        Some((path, Told { known, version: cleaned(version) }))
    }

    fn heard_entry(&mut self, entry: Entry) -> Step<()> {
        let Some((path, told)) = self.believed(entry) else { return Ok(()) };
        let known = told.known;
        let old = self.index.get(path.as_written())?;
        if old.as_ref().is_some_and(|row| row.told_known() == known && row.told.is_some()) {
            return Ok(());
        }
        let mut row = old.clone().unwrap_or_default();
        let is_directory = told.version.contents.is_directory();
        let is_absent = told.version.contents.is_absent();
        row.told = Some(told);
        row.bits &= !REPAIR;
        let root = self.root.clone();
        let excluded = root.is_some_and(|root| self.sieve.excludes(&root, &path, is_directory));
        if excluded && (!is_absent || row.own.is_some()) {
            row.bits |= LEFT;
        }
        self.report.changed();
        self.troubles.try_now(&path, Instant::now());
        self.store(&path, old.as_ref(), row)
    }

    /// Whether all that is here and there is the same.
    pub(super) fn is_even(&self) -> bool {
        let noted = self.index.meta.noted.map_or(0, |(_, seq)| seq);
        self.exchange.answered
            && self.scan.once
            && self.exchange.noted_there >= self.index.meta.last
            && noted >= self.exchange.last_there
            && self.index.counts.wanted == 0
            && self.index.counts.pending == 0
    }
}

/// Whether a version could have been found on a disk.
fn is_sound(version: &Version) -> bool {
    use ipicsha_core::file::Contents;
    let contents = match &version.contents {
        Contents::Symlink { target } => {
            !target.is_empty() && target.len() <= TARGET_BYTES_MAX && !target.contains(&0)
        }
        Contents::File { size, .. } => *size <= SIZE_MAX,
        Contents::Absent | Contents::Directory => true,
    };
    let bytes: usize =
        version.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let link = version.link.clone().is_none_or(|link| RelativePath::try_from(link).is_ok());
    let names = version.attributes.iter().all(|(name, _)| !name.is_empty() && !name.contains(&0));
    contents && link && names && bytes <= ATTRIBUTE_BYTES_MAX
}

/// Without what never travels, whoever says it.
fn cleaned(mut version: Version) -> Version {
    let bits = if version.contents.is_directory() { 0o7777 } else { 0o1777 };
    version.mode &= bits;
    let is_acl = |name: &[u8]| name.starts_with(b"system.posix_acl_");
    version.attributes.retain(|(name, _)| name.starts_with(b"user.") || is_acl(name));
    version
}

impl Row {
    /// Whether the own version and the partner's are the same, as far as it told.
    pub(super) fn is_agreed(&self) -> bool {
        match (&self.own, &self.told) {
            (Some(own), Some(told)) => own.version.is_same(&told.version),
            (None, Some(told)) => told.version.contents.is_absent(),
            (Some(own), None) => own.version.contents.is_absent(),
            (None, None) => true,
        }
    }
}
