//! How the database's file is opened, and when that is tried again.
//!
//! Decides what a failed opening means: a missing file is built from the partner's, a locked one is
//! waited for, everything else is held and named.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    database::{self, Database, PATIENT, Unshipped},
    engine::{Engine, RETRY, Source},
    error::Error,
    journal::Journal,
    log::Dirty,
    watch::Watching,
    worker::Writes,
};

/// How long a file that is locked now and then is opened again at once, and how often.
const OPENING: Duration = Duration::from_secs(2);
const OPENING_STEP: Duration = Duration::from_millis(2);

impl Engine {
    pub(crate) fn open(&mut self) {
        if self.database.is_some() {
            return;
        }
        if !self.installing || self.is_replaced() {
            self.retry_at = self.installing.then(|| Instant::now() + RETRY);
            return;
        }
        match self.open_patiently() {
            Ok(()) => {
                (self.missing, self.replaced, self.retry_at) = (false, None, None);
                self.clear_hold();
                self.attach_soon();
            }
            Err(Error::Missing { .. }) if self.config.create_if_missing => {
                self.retry_at = Some(Instant::now() + RETRY);
                if !self.missing {
                    self.missing = true;
                    self.hold = Some("the file is missing: it is built from the partner's".into());
                    self.attach_soon();
                }
            }
            Err(error) => {
                self.hold_for(Source::Open, &error);
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
        self.reporter.touch();
    }

    /// Whether the path still names another file than the one that was served. It is taken over
    /// only when the administrator protects it again, but may be put back.
    fn is_replaced(&self) -> bool {
        self.replaced.is_some_and(|inode| database::inode(&self.config.path).ok() != Some(inode))
    }

    /// Without a WAL a writing application locks the file again and again, each time for a moment.
    fn open_patiently(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + OPENING;
        loop {
            match self.try_open() {
                Err(error @ Error::Sqlite { .. })
                    if error.is_busy() && Instant::now() < deadline =>
                {
                    std::thread::sleep(OPENING_STEP);
                }
                result => return result,
            }
        }
    }

    fn try_open(&mut self) -> Result<(), Error> {
        if self.journal.is_none() {
            self.journal = Some(Journal::open(&self.config.journal_path)?);
        }
        self.wal.release();
        let (path, capacity) = (&self.config.path, self.config.capacity.entries);
        let mut database = Database::open_as(path, capacity, self.config.journaling)?;
        if database.keeps_rollback {
            self.wal.keep(path)?;
        }
        self.recall_right(&mut database);
        match self.writes {
            Some(writes) => {
                database.set_fence(writes == Writes::Closed, Unshipped::Possible, PATIENT)?;
            }
            None => self.writes = database.fence_closed.then_some(Writes::Closed),
        }
        if let Some(journal) = &self.journal {
            self.reporter.conflicts_total = journal.count(&self.config.name)?;
        }
        self.recall_wanted()?;
        self.recall_position(&mut database)?;
        self.data_version = database.data_version()?;
        self.database = Some(database);
        self.dirty = Dirty::default();
        self.unread = true;
        self.renew_soon();
        Ok(())
    }

    /// Watches the file while the application may write it. On a standby nobody commits but this thread,
    /// and every page it writes would wake another one.
    pub(crate) fn keep_watch(&mut self) {
        let wanted = self.database.as_ref().is_some_and(|database| !database.fence_closed);
        if wanted != matches!(self.watch, Watching::No) {
            return;
        }
        self.watch = Watching::No;
        if wanted {
            let (waker, herald) = (self.waker.clone(), Arc::clone(&self.herald));
            self.watch = Watching::start(&self.config.path, self.alarm.clone(), move || {
                let rang = waker.wake();
                herald.announce();
                rang
            });
            self.look_now(); // for what was committed before
        }
    }
}
