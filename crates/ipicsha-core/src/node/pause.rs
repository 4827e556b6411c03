//! Maintenance (spec B13): HA is suspended with a reason and an end, on both servers and over
//! restarts. It ends by itself, and silence is counted anew from there.

use std::time::Duration;

use super::Node;
use crate::{
    admin::{AdminReply, PAUSE_MAX, Refusal},
    id::RequestId,
    license::LicensedRole,
    message::Report,
    state::Pause,
    time::{MonoTime, Now},
};

/// Longest reason in characters; it travels in every heartbeat.
const REASON_MAX: usize = 200;

impl Node {
    pub(super) fn pause(
        &mut self,
        now: Now,
        request: RequestId,
        reason: &str,
        limit: Duration,
    ) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if limit < Duration::from_secs(1) || limit > PAUSE_MAX {
            return Err(Refusal::PauseLimit);
        }
        let reason = reason.chars().take(REASON_MAX).collect();
        let pause = Pause { reason, until: now.wall + limit };
        self.set_pause(now, request, Some(pause));
        Ok(None)
    }

    pub(super) fn resume(
        &mut self,
        now: Now,
        request: RequestId,
    ) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if !self.is_paused() {
            return Err(Refusal::NotPaused);
        }
        self.set_pause(now, request, None);
        Ok(None)
    }

    fn set_pause(&mut self, now: Now, request: RequestId, pause: Option<Pause>) {
        let known = self.partner.report.as_ref().map_or(0, |report| report.pause.number);
        self.state.pause.number = self.state.pause.number.max(known) + 1;
        self.state.pause.pause = pause;
        self.persist();
        self.refresh_pause(now);
        self.next_beat = now.mono;
        let connected = self.connected(now.mono);
        self.await_partner(now, request, connected);
    }

    /// Takes over the partner's newer pause or resume; on a tie the primary's counts.
    pub(super) fn adopt_pause(&mut self, now: Now, report: &Report) {
        let (ours, theirs) = (&self.state.pause, &report.pause);
        let tie = theirs.number == ours.number && theirs.pause != ours.pause;
        let yields = tie && self.rank() == Some(LicensedRole::Secondary);
        if self.state.ha.config.is_some() && (theirs.number > ours.number || yields) {
            self.state.pause = theirs.clone();
            self.persist();
            self.refresh_pause(now);
            self.next_beat = now.mono;
        }
    }

    /// The end of a pause in force, by today's wall clock: it outlives a restart.
    pub(super) fn refresh_pause(&mut self, now: Now) {
        let was = self.pause_ends.is_some();
        let left =
            self.state.pause.pause.as_ref().map_or(0, |pause| pause.until.millis_since(now.wall));
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(PAUSE_MAX);
        self.pause_ends = (!left.is_zero()).then(|| now.mono + left);
        if was && self.pause_ends.is_none() {
            self.count_from = now.mono;
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.pause_ends.is_some()
    }

    pub(super) fn pause_in_force(&self) -> Option<&Pause> {
        self.state.pause.pause.as_ref().filter(|_| self.is_paused())
    }

    pub(super) fn pause_seconds(&self, now: MonoTime) -> u64 {
        self.pause_ends.map_or(0, |ends| ends.since(now).as_millis().div_ceil(1000) as u64)
    }
}
