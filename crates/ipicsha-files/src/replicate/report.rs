//! How the directory stands, told when it changes and not too often.
//!
//! Decides when. Must not decide anything else.

use std::time::{Duration, Instant};

use super::{
    DirectoryStatus, Event, Left,
    engine::{Engine, Step, now_unix, now_us},
    row::Want,
    troubles::SHOWN_MAX,
};
use crate::watch;

/// Shortest time between two reports.
const EVERY: Duration = Duration::from_millis(250);
/// Time over which the arriving bytes are counted.
const RATE: Duration = Duration::from_secs(2);
/// So often it is looked for what is too old.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// How long it is remembered what was deleted, after both servers have it.
const TOMBSTONE_US: u64 = 30 * 24 * 3600 * 1_000_000;
/// Tombstones that go at a time.
const TOMBSTONES_MAX: usize = 10_000;
/// What takes no part is listed up to so many.
const LEFT_MAX: usize = 100;

/// What is counted for the status.
#[derive(Debug)]
pub(super) struct Report {
    method: String,
    alarm: Option<String>,
    last_change_unix: Option<i64>,
    arrived: u64,
    since: Instant,
    rate: Option<u64>,
    told: Option<(Instant, DirectoryStatus)>,
    /// The file system cannot swap two names.
    pub(super) no_exchange: bool,
    too_long: Vec<String>,
    expire_at: Instant,
    purge_at: Instant,
}

impl Report {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            method: String::new(),
            alarm: None,
            last_change_unix: None,
            arrived: 0,
            since: now,
            rate: None,
            told: None,
            no_exchange: false,
            too_long: Vec::new(),
            expire_at: now,
            purge_at: now,
        }
    }

    /// How changes are noticed.
    pub(super) fn method(&mut self, status: &watch::Status) {
        self.method = status.method.to_string();
        self.alarm.clone_from(&status.alarm);
    }

    /// Something changed here or arrived.
    pub(super) fn changed(&mut self) {
        self.last_change_unix = Some(now_unix());
    }

    /// What is kept is another than before.
    pub(super) fn kept_changed(&mut self) {
        self.changed();
    }

    /// Bytes of content arrived.
    pub(super) fn arrived(&mut self, bytes: u64) {
        self.arrived = self.arrived.saturating_add(bytes);
    }

    /// An entry whose path is too long to be told.
    pub(super) fn path_too_long(&mut self, shown: String) {
        if self.too_long.len() < LEFT_MAX && !self.too_long.contains(&shown) {
            self.too_long.push(shown);
        }
    }

    fn see_rate(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= RATE {
            let milliseconds = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = self.arrived.saturating_mul(1000) / milliseconds;
            self.rate = (rate > 0).then_some(rate);
            (self.arrived, self.since) = (0, now);
        }
    }
}

impl Engine {
    /// Tells the status, if it changed and the last one was some time ago.
    pub(super) fn report_status(&mut self, now: Instant) -> Step<()> {
        self.report.see_rate(now);
        if now >= self.report.expire_at {
            self.report.expire_at = now + CLEAN_EVERY;
            // What cannot go now is too old in a minute as well.
            let _ = self.kept.expire(now_unix());
            self.see_rescued();
        }
        if now >= self.report.purge_at && self.exchange.answered {
            self.report.purge_at = now + CLEAN_EVERY;
            let before = now_us().saturating_sub(TOMBSTONE_US);
            self.index.purge(self.exchange.noted_there, before, TOMBSTONES_MAX)?;
        }
        if self.is_even() && !self.index.meta.synced {
            self.index.meta.synced = true;
        }
        let recent = self.report.told.as_ref().is_some_and(|(at, _)| *at + EVERY > now);
        if recent {
            return Ok(());
        }
        let held = self.index.count_wanted(Want::Held)? + self.index.counts.held_here;
        let status = self.status(held, now);
        if self.report.told.as_ref().is_some_and(|(_, told)| *told == status) {
            return Ok(());
        }
        self.report.told = Some((now, status.clone()));
        (self.events)(Event::Status(Box::new(status)));
        Ok(())
    }

    /// Tells the status at once, without looking into the index.
    pub(super) fn send_status(&mut self) {
        let now = Instant::now();
        let status = self.status(self.index.counts.held_here, now);
        self.report.told = Some((now, status.clone()));
        (self.events)(Event::Status(Box::new(status)));
    }

    fn status(&self, held: u64, now: Instant) -> DirectoryStatus {
        let counts = self.index.counts;
        let left = self.left.iter().map(|(path, why)| (path.to_string(), why.clone()));
        let too_long = self.report.too_long.iter();
        let long = too_long.map(|path| (path.clone(), "its path is longer than 4096 bytes".into()));
        let shown = left.chain(long).take(LEFT_MAX);
        let to_fetch =
            counts.wanted.saturating_sub(held.saturating_sub(self.index.counts.held_here));
        let rate = self.report.rate.filter(|_| to_fetch > 0);
        DirectoryStatus {
            name: self.config.name.clone(),
            root: self.config.root.clone(),
            method: if self.scan.once { self.report.method.clone() } else { String::new() },
            alarm: self.report.alarm.clone(),
            entries: counts.entries,
            bytes: counts.bytes,
            synced: self.index.meta.synced && self.exchange.answered,
            scanning: !self.scan.once,
            to_send: counts.pending,
            to_fetch,
            to_fetch_bytes: counts.wanted_bytes,
            bytes_per_second: rate,
            seconds_left: rate.map(|rate| counts.wanted_bytes / rate),
            held_deletions: held + self.held_trees.files(),
            kept: self.kept.usage(),
            conflicts_total: self.index.meta.conflicts,
            left: shown.map(|(path, reason)| Left { path, reason }).collect(),
            left_total: (self.left.len() + self.report.too_long.len()) as u64,
            troubles: self.rescue.shown().chain(self.troubles.shown(now)).take(SHOWN_MAX).collect(),
            troubles_total: self.rescue.len() + self.troubles.len(),
            hold: self.hold.clone(),
            last_change_unix: self.report.last_change_unix,
            compare: self.comparing.progress(&self.scan, counts.bytes),
        }
    }
}
