//! Waiting until everything that changed here is on the partner's disk.
//!
//! Decides when that is so. Must not know who waits.

use std::time::Duration;

use super::{
    Done, Refused,
    engine::{Engine, Step},
};
use crate::{
    resolve::{Links, Mounts, Root},
    watch::FlushError,
};

/// So long the file system may take to report its own cookie.
const COOKIE: Duration = Duration::from_secs(2);

/// Somebody who waits.
pub(super) struct Waiting {
    /// Up to this position, once everything that was hinted at is in the index.
    seq: Option<i64>,
    done: Done<()>,
}

impl Engine {
    /// Answers when everything that changed here until now is at the partner.
    pub(super) fn flush(&mut self, done: Done<()>) -> Step<()> {
        if let Err(refused) = self.hints_are_complete() {
            done(Err(refused));
            return Ok(());
        }
        let hints = self.watcher.as_ref().map(crate::watch::Watcher::take).unwrap_or_default();
        hints.into_iter().try_for_each(|hint| self.hint(hint))?;
        self.flushes.push(Waiting { seq: None, done });
        self.scan.look_now();
        Ok(())
    }

    /// All that happened is among the hints.
    pub(super) fn hints_are_complete(&mut self) -> Result<(), Refused> {
        if let Some(refused) = self.why_not_connected() {
            return Err(refused);
        }
        match self.watcher.as_ref().map(|watcher| watcher.flush(COOKIE)) {
            None => Ok(()),
            Some(Ok(())) => Ok(()),
            Some(Err(FlushError::Late | FlushError::Cookie(_))) => {
                self.scan.everything();
                Ok(())
            }
            // It is back, which the watcher sees a moment later.
            Some(Err(FlushError::RootGone)) if self.is_root_in_place() => {
                self.scan.everything();
                Ok(())
            }
            Some(Err(error @ FlushError::RootGone)) => Err(Refused {
                message: error.to_string(),
                next_step: "mount or create the directory".into(),
            }),
        }
    }

    /// The directory that was entered has its path.
    fn is_root_in_place(&self) -> bool {
        let Some(root) = &self.root else { return false };
        let now = Root::open(&self.config.root, Links::Refuse, Mounts::Stay);
        let now = now.and_then(|now| now.top().meta());
        let entered = root.top().meta();
        now.is_ok_and(|now| entered.is_ok_and(|entered| entered.identity() == now.identity()))
    }

    /// Why nothing comes to the partner now.
    pub(super) fn why_not_connected(&self) -> Option<Refused> {
        let refused = |message: &str, next_step: &str| {
            Some(Refused { message: message.into(), next_step: next_step.into() })
        };
        if self.gate == super::Gate::Closed {
            return refused(
                "files are not replicated in this state of the pair",
                "look at ha-status for the state of both servers",
            );
        }
        if !self.link {
            return refused(
                "there is no connection for files to the partner",
                "wait for the connection, or look at ha-status for why there is none",
            );
        }
        let hold = self.hold.as_ref()?;
        refused(hold, "do what the message says")
    }

    /// Answers those who have waited long enough.
    pub(super) fn see_flushes(&mut self) -> Step<()> {
        if self.flushes.is_empty() {
            return Ok(());
        }
        let is_idle = self.scan.is_idle() && self.scan.once;
        let last = self.index.meta.last;
        for mut waiting in std::mem::take(&mut self.flushes) {
            if waiting.seq.is_none() && is_idle {
                waiting.seq = Some(last);
            }
            match waiting.seq {
                Some(seq) if self.index.is_there_up_to(seq)? => (waiting.done)(Ok(())),
                _ => self.flushes.push(waiting),
            }
        }
        Ok(())
    }

    /// All entries have other positions from now on.
    pub(super) fn flush_anew(&mut self) {
        self.flushes.iter_mut().for_each(|waiting| waiting.seq = None);
    }

    /// The connection is gone, or the gate closed.
    pub(super) fn fail_flushes(&mut self) {
        let Some(refused) = self.why_not_connected() else { return };
        for waiting in std::mem::take(&mut self.flushes) {
            (waiting.done)(Err(refused.clone()));
        }
    }
}
