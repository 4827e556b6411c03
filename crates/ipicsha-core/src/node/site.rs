//! The pre-flight list of the site: what both servers and the link between them are like (spec A3, A5, A6,
//! A11, A13). The shell adds what only it can measure.

use std::time::Duration;

use super::Node;
use crate::{
    clock_guard::Clocks,
    message::Report,
    preflight::Check,
    state::{NodeState, Role},
    time::{MonoTime, Now, WallTime},
};

/// Longest round trip without a warning (spec A11).
const ROUND_TRIP_MAX: Duration = Duration::from_millis(80);
/// Least bandwidth without a warning, in bits per second (spec A11).
pub const BANDWIDTH_MIN: u64 = 10_000_000;
/// A certificate that ends sooner is an alarm (spec A3, F4).
const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);

impl Node {
    /// What the site is like, as far as this server knows.
    pub(super) fn site(&self, now: Now) -> Vec<Check> {
        let trusted = self.state.partner.is_some();
        let partner = self.partner_name();
        let mut checks = vec![Check::require(
            trusted,
            if trusted { format!("trusted with {partner}") } else { "not trusted".into() },
            "set up trust: `ipicsha trust set PARTNER_ADDRESS`",
        )];
        checks.extend(self.own_site());
        checks.extend(self.witness_problem().map(|problem| {
            let answers = problem.is_empty();
            let finding = if answers { "the witness answers".into() } else { problem };
            Check::require(answers, finding, "see `[witness]` in the configuration file")
        }));
        let Some(report) = self.reachable_report(now.mono).filter(|_| trusted) else {
            checks.push(Check::require(
                false,
                format!("{partner} is not reachable"),
                "start the daemon there and open TCP port 3444 between the servers, both ways",
            ));
            return checks;
        };
        checks.extend(self.between(report));
        if self.state.ha.config.is_some() {
            checks.extend(self.replicating(report, now.mono));
        }
        checks
    }

    fn own_site(&self) -> [Check; 2] {
        let licensed = match &self.licensed {
            Ok(role) => Check::require(true, format!("licensed as {role}"), ""),
            Err(error) => Check::require(false, error.to_string(), error.next_step()),
        };
        let synced = self.is_time_synced();
        let not = if synced { "" } else { "not " };
        let finding = format!("the clock here is {not}synchronised");
        [licensed, Check::require(synced, finding, "`ipicsha ntp enable SERVER`")]
    }

    fn between(&self, report: &Report) -> Vec<Check> {
        let partner = &report.name;
        let role = report.licensed.map_or_else(|| "no role".into(), |role| role.to_string());
        let differ = report.licensed.is_some() && report.licensed != self.rank();
        let not = if report.time_synced { "" } else { "not " };
        let offset = self.clock.offset_millis().map_or_else(
            || "the clocks were not compared yet".into(),
            |ms| {
                format!(
                    "the clocks differ by {:.2} s (at most 30 s)",
                    ms.unsigned_abs() as f64 / 1e3
                )
            },
        );
        let round_trip = self.clock.round_trip();
        let took = round_trip.map_or_else(
            || "the round trip was not measured yet".into(),
            |trip| format!("round trip {:.1} ms (at most 80 ms)", trip.as_secs_f64() * 1e3),
        );
        vec![
            Check::require(
                report.version == self.config.version,
                format!("versions: {} here, {} on {partner}", self.config.version, report.version),
                "install the same version on both servers",
            ),
            Check::require(
                differ,
                format!("{partner} is licensed as {role}"),
                "one server needs Base and Policy Engine Base, the other High Availability: `ipicsha license install`",
            ),
            Check::require(
                report.time_synced,
                format!("the clock of {partner} is {not}synchronised"),
                "`ipicsha ntp enable SERVER` there",
            ),
            Check::require(
                self.clock.verdict() == Clocks::Agree,
                offset,
                "correct the clock that is wrong and enable NTP on both servers",
            ),
            Check::advise(
                round_trip.is_some_and(|trip| trip <= ROUND_TRIP_MAX),
                took,
                "a planned failover holds writes for some round trips; place the servers nearer to one another",
            ),
        ]
    }

    fn replicating(&self, report: &Report, now: MonoTime) -> Vec<Check> {
        let ready = match self.role() {
            Some(Role::Active) => report.not_ready,
            Some(Role::Standby) | None => self.not_ready(now),
        };
        let down = self.services.down.iter().map(|down| down.name.clone()).collect::<Vec<_>>();
        let failed =
            [self.state_and_reason(now).0, report.state].contains(&NodeState::RunningInFailedMode);
        let held = u64::from(self.data.held) + u64::from(report.data.held);
        vec![
            Check::require(
                ready.is_none(),
                ready.map_or_else(
                    || "the standby is ready".into(),
                    |why| format!("the standby is not ready: {why}"),
                ),
                "see `ipicsha ha-status` on both servers",
            ),
            Check::require(
                held == 0,
                format!("{held} databases are held"),
                "do what the holds in `ipicsha ha-status` say",
            ),
            Check::advise(
                self.data.unacknowledged < 1000,
                format!("{} changes are queued", self.data.unacknowledged),
                "wait until the queue is shorter; `ipicsha dbreplication status` shows it",
            ),
            Check::require(
                down.is_empty() && !failed,
                match (down.is_empty(), failed) {
                    (true, false) => "no critical service is down".into(),
                    (true, true) => "a server runs in failed mode".into(),
                    (false, _) => format!("critical services are down: {}", down.join(", ")),
                },
                "remove the cause, then `ipicsha recover`",
            ),
            Check::require(
                self.state.split_brain.is_none(),
                if self.state.split_brain.is_none() { "no split brain" } else { "split brain" }
                    .into(),
                "end it: `ipicsha go-standby` on one server, then `ipicsha repair`",
            ),
            self.pause_check(),
        ]
    }

    /// Days until the certificate of this server ends, when that is soon.
    pub(super) fn certificate_ends(&self, now: WallTime) -> Option<i64> {
        let left = self.config.certificate_end?.millis_since(now);
        let soon = i64::try_from(CERTIFICATE_ENDS_SOON.as_millis()).unwrap_or(i64::MAX);
        (left <= soon).then_some(left.div_euclid(86_400_000))
    }
}
