//! The databases of the two simulated servers: the record protocol in a few lines, so that the
//! roles can be judged by what happens to writes. The real engine has its own tests.

use std::collections::{BTreeMap, BTreeSet};

use ipicsha_core::time::WallTime;

/// One version of a record: unique number, and the version it replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: u64,
    pub(crate) stamp: i64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: u64,
    key: u8,
    stamp: i64,
    superseded: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    from: u64,
    to: u64,
    base: u64,
    rows: Vec<(u8, u64, Version)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) rows: BTreeMap<u8, Version>,
    log: Vec<Entry>,
    pub(crate) applied: u64,
    pub(crate) acked: u64,
    pub(crate) journal: BTreeSet<u64>,
}

impl Store {
    fn last(&self) -> u64 {
        self.log.last().map_or(0, |entry| entry.seq)
    }

    /// The partner has everything.
    pub(crate) fn is_shipped(&self) -> bool {
        self.last() == self.acked
    }

    /// Writes as the application does; returns the version that was replaced.
    pub(crate) fn write(&mut self, key: u8, version: Version) -> Option<u64> {
        let seq = self.last() + 1;
        self.log.push(Entry { seq, key, stamp: version.stamp, superseded: false });
        self.rows.insert(key, version).map(|old| old.id)
    }

    pub(crate) fn unacknowledged(&self) -> u64 {
        self.log.iter().filter(|e| e.seq > self.acked && !e.superseded).count() as u64
    }

    /// When the first and the last of them were made.
    pub(crate) fn unacknowledged_span(&self) -> Option<(WallTime, WallTime)> {
        let mut stamps = self.log.iter().filter(|e| e.seq > self.acked).map(|e| WallTime(e.stamp));
        let first = stamps.next()?;
        Some((first, stamps.next_back().unwrap_or(first)))
    }

    pub(crate) fn batch(&self) -> Batch {
        let mut last = BTreeMap::new();
        for entry in self.log.iter().filter(|e| e.seq > self.acked && !e.superseded) {
            last.insert(entry.key, *entry);
        }
        let rows = last
            .into_values()
            .map(|e| (e.key, e.seq, Version { stamp: e.stamp, ..self.rows[&e.key] }))
            .collect();
        Batch { from: self.acked, to: self.last(), base: self.applied, rows }
    }

    /// Applies a batch by the base rule and returns what is now applied.
    pub(crate) fn apply(&mut self, batch: &Batch, we_are_primary: bool) -> u64 {
        if batch.from > self.applied || batch.to < self.applied {
            return self.applied;
        }
        for (key, seq, theirs) in &batch.rows {
            if *seq <= self.applied {
                continue;
            }
            let own = self
                .log
                .iter()
                .rev()
                .find(|e| e.key == *key && e.seq > batch.base && !e.superseded)
                .copied();
            let mine = self.rows.get(key).copied();
            if let (Some(own), Some(mine)) = (own, mine.filter(|mine| mine.id != theirs.id)) {
                if (own.stamp, we_are_primary) > (theirs.stamp, !we_are_primary) {
                    self.journal.insert(theirs.id);
                    continue;
                }
                self.journal.insert(mine.id);
                for entry in &mut self.log {
                    entry.superseded |= entry.key == *key && entry.seq > batch.base;
                }
            }
            self.rows.insert(*key, *theirs);
        }
        self.applied = self.applied.max(batch.to);
        self.applied
    }
}
