//! What a witness decides for one pair: which of the two servers has the role, and for how long.
//!
//! Decides by epochs and by the time a server asked for. Must not know how a question arrives.
//!
//! - **Invariant**: the role is granted to another server only when the time of the one before is over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{epoch::Epoch, id::ServerId, io::WitnessAnswer, time::MonoTime};

/// The last grant to a pair; it must be durable before a server hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who has the role.
    pub server: ServerId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// For how long from the question on; zero once it was given back.
    pub hold: Duration,
    /// Without end, until the server asks for a limited time again or gives it back.
    #[serde(default)]
    pub kept: bool,
}

/// The role of one pair.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    grant: Option<Grant>,
    until: MonoTime,
}

impl Lease {
    /// What a witness that has just started remembers: nobody knows when the question was, so that the
    /// whole time counts from now on.
    pub fn resume(grant: Option<Grant>, now: MonoTime) -> Self {
        let until = grant.as_ref().map_or(now, |grant| now + grant.hold);
        Self::with(grant, until)
    }

    /// The last grant, and until when it lasts.
    pub fn with(grant: Option<Grant>, until: MonoTime) -> Self {
        Self { grant, until }
    }

    /// What has to be durable.
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// A server asks for the role under an epoch, for `hold` from now on and, with `keep`, without end;
    /// `known` is the newest epoch it knows of. One that does not know of the last grant to the other server has missed what was written
    /// under it.
    pub fn ask(
        &mut self,
        now: MonoTime,
        server: ServerId,
        (epoch, known): (Epoch, Epoch),
        (hold, keep): (Duration, bool),
    ) -> WitnessAnswer {
        if let Some(grant) = &self.grant {
            let same = grant.server == server;
            let left = if same { Duration::ZERO } else { self.until.since(now) };
            let newer = if same {
                epoch >= grant.epoch
            } else {
                epoch > grant.epoch && known >= grant.epoch
            };
            let kept = grant.kept && !same;
            if !newer || kept || !left.is_zero() {
                return WitnessAnswer::Refused { epoch: grant.epoch, left, kept };
            }
        }
        // A shorter time must not end one that was granted before.
        let until = now + hold;
        self.until = self.until.max(until);
        let left = self.until.since(now);
        self.grant = Some(Grant { server, epoch, hold: left.max(hold), kept: keep });
        WitnessAnswer::Granted
    }

    /// What was kept without end for a server that the pair does not have any more is free.
    pub fn forget_strangers(&mut self, is_known: impl Fn(ServerId) -> bool) {
        if let Some(grant) = self.grant.as_mut().filter(|grant| !is_known(grant.server)) {
            grant.kept = false;
        }
    }

    /// The server does not use the role any more. What is kept for another one stays.
    pub fn leave(&mut self, now: MonoTime, server: ServerId) -> WitnessAnswer {
        match &mut self.grant {
            Some(grant) if grant.server == server => {
                (grant.hold, grant.kept) = (Duration::ZERO, false);
                self.until = now;
                WitnessAnswer::Noted
            }
            Some(Grant { epoch, kept: true, .. }) => {
                WitnessAnswer::Refused { epoch: *epoch, left: Duration::ZERO, kept: true }
            }
            Some(_) | None => WitnessAnswer::Noted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ServerId = ServerId(1);
    const B: ServerId = ServerId(2);
    /// The time that both ask for, and nothing without end.
    const D: (Duration, bool) = (Duration::from_secs(10), false);
    const KEEP: (Duration, bool) = (D.0, true);

    fn at(seconds: u64) -> MonoTime {
        MonoTime(seconds * 1_000_000)
    }

    /// Of a server that has not missed anything.
    fn with(epoch: u64) -> (Epoch, Epoch) {
        (Epoch(epoch), Epoch(epoch - 1))
    }

    fn refused(epoch: u64, left: u64) -> WitnessAnswer {
        WitnessAnswer::Refused { epoch: Epoch(epoch), left: Duration::from_secs(left), kept: false }
    }

    #[test]
    fn another_server_gets_the_role_when_the_time_is_over_and_under_a_later_epoch() {
        let mut lease = Lease::default();
        assert_eq!(lease.ask(at(0), A, with(2), D), WitnessAnswer::Granted);
        assert_eq!(lease.ask(at(5), A, with(2), D), WitnessAnswer::Granted);
        assert_eq!(lease.ask(at(14), B, with(3), D), refused(2, 1));
        assert_eq!(lease.ask(at(15), B, with(1), D), refused(2, 0), "an old epoch");
        assert_eq!(lease.ask(at(15), B, with(3), D), WitnessAnswer::Granted);
        assert_eq!(lease.ask(at(16), A, with(2), D), refused(3, 9));
        assert_eq!(lease.ask(at(40), A, with(2), D), refused(3, 0), "it was replaced");
    }

    #[test]
    fn a_role_that_is_given_back_is_free_at_once() {
        let mut lease = Lease::default();
        assert_eq!(lease.ask(at(0), A, with(2), D), WitnessAnswer::Granted);
        lease.leave(at(1), B);
        assert_eq!(lease.ask(at(1), B, with(3), D), refused(2, 9));
        lease.leave(at(2), A);
        assert_eq!(lease.ask(at(2), B, with(3), D), WitnessAnswer::Granted);
    }

    #[test]
    fn a_witness_that_restarts_waits_for_the_whole_time() {
        let mut lease = Lease::default();
        assert_eq!(lease.ask(at(0), A, with(2), D), WitnessAnswer::Granted);
        let mut lease = Lease::resume(lease.grant().cloned(), at(100));
        assert_eq!(lease.ask(at(105), B, with(3), D), refused(2, 5));
        assert_eq!(lease.ask(at(110), B, with(3), D), WitnessAnswer::Granted);
    }

    #[test]
    fn a_shorter_time_does_not_end_a_longer_one() {
        let mut lease = Lease::default();
        assert_eq!(lease.ask(at(0), A, with(2), D), WitnessAnswer::Granted);
        assert_eq!(
            lease.ask(at(1), A, with(2), (Duration::from_secs(1), false)),
            WitnessAnswer::Granted
        );
        assert_eq!(lease.ask(at(9), B, with(3), D), refused(2, 1));
    }

    #[test]
    fn a_server_that_missed_a_grant_does_not_get_the_role() {
        let mut lease = Lease::default();
        assert_eq!(lease.ask(at(0), A, with(2), D), WitnessAnswer::Granted);
        assert_eq!(lease.ask(at(20), B, with(3), D), WitnessAnswer::Granted);
        assert_eq!(lease.ask(at(60), A, (Epoch(4), Epoch(2)), D), refused(3, 0));
        assert_eq!(lease.ask(at(60), A, (Epoch(4), Epoch(3)), D), WitnessAnswer::Granted);
    }

    #[test]
    fn what_is_kept_without_end_lasts_until_it_is_given_back_or_asked_for_a_limited_time() {
        let kept = |left| {
            let left = Duration::from_secs(left);
            WitnessAnswer::Refused { epoch: Epoch(2), left, kept: true }
        };
        for limited in [false, true] {
            let mut lease = Lease::default();
            assert_eq!(lease.ask(at(0), A, with(2), KEEP), WitnessAnswer::Granted);
            assert_eq!(lease.ask(at(5), B, with(3), D), kept(5));
            lease.leave(at(6), B);
            let mut lease = Lease::resume(lease.grant().cloned(), at(100));
            assert_eq!(lease.ask(at(1000), B, with(3), D), kept(0));
            if limited {
                assert_eq!(lease.ask(at(1000), A, with(2), D), WitnessAnswer::Granted);
            } else {
                lease.leave(at(1010), A);
            }
            let mut lease = Lease::resume(lease.grant().cloned(), at(1010));
            let limit = if limited { 1020 } else { 1010 };
            assert_eq!(lease.ask(at(limit), B, with(3), D), WitnessAnswer::Granted);
        }
    }

    #[test]
    fn nothing_is_kept_for_a_server_that_the_pair_does_not_have_any_more() {
        let mut lease = Lease::default();
        assert_eq!(lease.ask(at(0), A, with(2), KEEP), WitnessAnswer::Granted);
        lease.forget_strangers(|server| server == B);
        assert_eq!(lease.ask(at(5), B, with(3), D), refused(2, 5), "its time lasts");
        assert_eq!(lease.ask(at(10), B, with(3), D), WitnessAnswer::Granted);
    }
}
