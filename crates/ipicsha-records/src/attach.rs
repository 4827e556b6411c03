//! When an exchange with the partner begins, and how it ends.
//!
//! Decides how long is waited before it is asked again. What is said is in `exchange`.

use std::time::Instant;

use crate::engine::{ANSWER, ATTACH_STEP, Attached, Engine, Session, Source, UNANSWERED};

impl Engine {
    /// Ends the exchange; what runs on it is interrupted.
    pub(crate) fn detach(&mut self, reason: &str) {
        self.abandon(reason);
        self.pause();
        self.abandon_undo(reason);
        self.session = Session::Detached;
        self.inbox.clear();
        self.unconfirmed = None;
        self.received = None;
        self.reporter.touch();
    }

    pub(crate) fn reattach(&mut self, reason: &str) {
        self.detach(reason);
        self.attach_soon();
    }

    /// The exchange stands.
    pub(crate) fn attached(&mut self, attached: Attached) {
        self.session = Session::Attached(attached);
        self.attach_at = None;
        self.unread = true;
        if !self.wal.has_failed() {
            self.clear_hold();
        }
    }

    /// An answer to what was sent may be on its way: only if none comes, ask again.
    pub(crate) fn attach_later(&mut self) {
        self.attach_at = Some(Instant::now() + ANSWER);
    }

    pub(crate) fn attach_soon(&mut self) {
        let now = Instant::now();
        let earliest = self.attached_last.map_or(now, |last| now.max(last + ATTACH_STEP));
        self.attach_at = self.is_ready().then_some(earliest);
    }

    pub(crate) fn attach(&mut self) {
        self.attach_at = None;
        if !self.is_ready() {
            return;
        }
        self.attached_last = Some(Instant::now());
        let sent = self.send_attach();
        if sent.is_err() {
            self.attach_soon();
        } else if matches!(self.session, Session::Attaching(_)) {
            self.attach_at = Some(Instant::now() + UNANSWERED);
        }
        self.settle(Source::Pump, sent);
    }
}
