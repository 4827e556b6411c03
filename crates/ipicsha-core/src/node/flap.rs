//! Anti-flap: at most two automatic takeovers of the pair within a time; the next one waits. Manual
//! verbs and the takeover from a server that said goodbye are never held.

use std::time::Duration;

use super::{Node, Phase};
use crate::{
    epoch::Epoch,
    message::Report,
    time::{MonoTime, Now},
};

/// Automatic takeovers within the window.
const TAKEOVERS_MAX: usize = 2;
/// Takeovers that are told to the partner, the newest ones.
const TOLD_MAX: usize = 8;

impl Node {
    pub(super) fn note_takeover(&mut self, epoch: Epoch, at: MonoTime) {
        self.takeovers.insert(epoch, at);
    }

    pub(super) fn forget_takeovers(&mut self, now: Now) {
        let window = self.config.automatic.takeover_window;
        self.takeovers.retain(|_, at| *at + window > now.mono);
    }

    /// When the next automatic takeover is allowed again; `None` is now.
    pub(super) fn takeover_release(&self) -> Option<MonoTime> {
        let mut times: Vec<MonoTime> = self.takeovers.values().copied().collect();
        times.sort_unstable();
        let oldest_that_counts = times.len().checked_sub(TAKEOVERS_MAX)?;
        Some(times[oldest_that_counts] + self.config.automatic.takeover_window)
    }

    /// For how many seconds a takeover that would happen now is held.
    pub(super) fn takeovers_held(&self, now: MonoTime) -> Option<u64> {
        let release = self.takeover_release().filter(|release| *release > now)?;
        let wanted = match self.phase {
            Phase::Standby => self.lost(now) && self.takeover_blocked().is_none(),
            Phase::Active => self.services_due().is_some_and(|due| now >= due),
            Phase::Unconfigured
            | Phase::Booting { .. }
            | Phase::Activating
            | Phase::HandingOver { .. } => false,
        };
        wanted.then(|| release.since(now).as_secs().max(1))
    }

    pub(super) fn known_takeovers(&self, now: MonoTime) -> Vec<(Epoch, Duration)> {
        let newest = self.takeovers.iter().rev().take(TOLD_MAX);
        newest.map(|(epoch, at)| (*epoch, now.since(*at))).collect()
    }

    /// Takeovers that the partner knows of; the epoch tells whether this server knows them too.
    pub(super) fn adopt_takeovers(&mut self, now: Now, report: &Report) {
        for (epoch, age) in report.takeovers.iter().take(TOLD_MAX) {
            let at = MonoTime(
                now.mono.0.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)),
            );
            self.takeovers.entry(*epoch).or_insert(at);
        }
    }
}
