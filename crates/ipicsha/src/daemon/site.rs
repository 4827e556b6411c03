//! `check`, and the warnings of `configure`: what the core knows of the site, and what only the shell can
//! measure (spec A3, A11 to A13).

use ipicsha_core::{
    BANDWIDTH_MIN,
    admin::{AdminCommand, AdminReply},
    preflight::{Check, Outcome},
};
use serde_json::json;

use super::{clock, probe, trust, verbs::value, work::Task};
use crate::{api::Answer, exit::Failure};

/// Seconds of a day.
const DAY: i64 = 86_400;
/// A certificate with fewer days left is a warning.
const DAYS_LEFT: i64 = 90;

/// All checks, nothing changes.
pub(super) async fn check(task: &Task) -> Answer {
    let checks = checks(task).await?;
    value(&json!({ "result": "checks", "checks": checks }))
}

/// What `configure` has done, with what an administrator should know of the site (spec A11).
pub(super) async fn with_warnings(task: &Task, mut done: serde_json::Value) -> serde_json::Value {
    let checks = checks(task).await.unwrap_or_default();
    let warning = |check: &Check| match &check.outcome {
        Outcome::Warn { fix } => Some(format!("{}: {fix}", check.finding)),
        Outcome::Ok | Outcome::Fail { .. } => None,
    };
    let warnings: Vec<String> = checks.iter().filter_map(warning).collect();
    if let Some(fields) = done.as_object_mut().filter(|_| !warnings.is_empty()) {
        fields.insert("warnings".into(), warnings.into());
    }
    done
}

async fn checks(task: &Task) -> Result<Vec<Check>, Failure> {
    let reply = trust::ask(&task.events, AdminCommand::Site).await?;
    let AdminReply::Preflight(mut checks) = reply else { return Ok(Vec::new()) };
    checks.extend(certificates(task));
    checks.extend(bandwidth(task).await);
    Ok(checks)
}

fn certificates(task: &Task) -> Vec<Check> {
    let mut all = vec![("this server".to_owned(), Some(task.context.identity.not_after()))];
    if let Some(partner) = &task.partner {
        all.push((partner.name.clone(), ipicsha_link::not_after(&partner.certificate)));
    }
    all.into_iter().map(|(whose, end)| certificate(&whose, end, clock::wall().0 / 1000)).collect()
}

fn certificate(whose: &str, end: Option<i64>, now: i64) -> Check {
    let days = end.map(|end| (end - now).div_euclid(DAY));
    let fix = "`ipicsha certificate renew` on that server: nothing stops for it".to_owned();
    let finding = days.map_or_else(
        || format!("the certificate of {whose} has no end"),
        |days| format!("the certificate of {whose} is valid for {days} days"),
    );
    let outcome = match days {
        Some(..0) => Outcome::Fail { fix },
        Some(..DAYS_LEFT) => Outcome::Warn { fix },
        Some(_) | None => Outcome::Ok,
    };
    Check { finding, outcome }
}

async fn bandwidth(task: &Task) -> Option<Check> {
    let partner = task.partner.as_ref()?;
    Some(match probe::bandwidth(&task.context, partner).await {
        Ok(bits) => {
            let finding = format!("the link carries {} Mbit/s (at least 10)", megabits(bits));
            let fix = "files and a catch-up will take their time; records of a small service may still fit"
                .to_owned();
            let enough = bits >= BANDWIDTH_MIN;
            Check { finding, outcome: if enough { Outcome::Ok } else { Outcome::Warn { fix } } }
        }
        Err(cause) => Check {
            finding: format!("the bandwidth was not measured: {cause}"),
            outcome: Outcome::Warn {
                fix: "try `ipicsha check` again when the partner is reachable".into(),
            },
        },
    })
}

fn megabits(bits: u64) -> String {
    let megabits = bits as f64 / 1e6;
    if megabits < 10.0 { format!("{megabits:.1}") } else { format!("{megabits:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_a3_a_certificate_is_a_warning_in_time() {
        let now = 1_700_000_000;
        let outcome = |days: i64| certificate("alpha", Some(now + days * DAY), now).outcome;
        assert_eq!(outcome(1000), Outcome::Ok);
        assert_eq!(outcome(90), Outcome::Ok);
        assert!(matches!(outcome(89), Outcome::Warn { .. }));
        assert!(matches!(outcome(0), Outcome::Warn { .. }));
        assert!(matches!(outcome(-1), Outcome::Fail { .. }));
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(megabits(9_640_000), "9.6");
        assert_eq!(megabits(2_481_000_000), "2481");
    }
}
