//! What will happen next without anybody's doing, in a sentence.

use super::{Node, Phase};
use crate::{
    config::{PartitionPolicy, Timing},
    status::rounded,
    time::MonoTime,
};

impl Node {
    pub(super) fn next_event(&self, now: MonoTime) -> String {
        let partner = self.partner_name();
        let d = self.timing().map(Timing::takeover_after).unwrap_or_default().as_secs_f64();
        let manual = self.policy() == PartitionPolicy::Manual;
        if let (Some(_), true) = (self.pause_ends, matches!(self.phase, Phase::Active)) {
            let left = rounded(self.pause_seconds(now));
            return format!("no role changes by itself: HA is paused for {left}");
        }
        match &self.phase {
            Phase::Unconfigured => "nothing happens by itself until HA is configured".into(),
            Phase::Booting { .. } => match self.boot_due() {
                Some(due) => format!(
                    "waits for {partner}; becomes active alone in {:.0} s",
                    due.since(now).as_secs_f64()
                ),
                None => format!("waits for {partner}"),
            },
            Phase::Standby => match self.takeover_due() {
                Some(_) if self.state.fenced => {
                    format!("serves again as soon as {partner} or the witness answers")
                }
                Some(due) if due <= now => {
                    format!("{partner} is lost; takes over as soon as the witness grants it")
                }
                Some(due) if self.suspect_at().is_some_and(|at| now >= at) => format!(
                    "{partner} is silent; takes over in {:.1} s",
                    due.since(now).as_secs_f64()
                ),
                Some(_) if self.needs_right() => format!(
                    "if {partner} goes silent, takes over after {d} s, if the witness grants it"
                ),
                Some(_) => format!("if {partner} goes silent, takes over after {d} s"),
                None => format!("no takeover by itself: {}", self.takeover_blocked().unwrap_or("")),
            },
            Phase::Activating => "opens its writes and starts its services".into(),
            Phase::HandingOver { .. } => format!("hands over to {partner}"),
            Phase::Active if self.state.split_brain.is_some() => {
                "both stay active until one of them goes standby".into()
            }
            Phase::Active if self.services_down_since.is_some() => self.next_of_services(now),
            Phase::Active if self.lost(now) && self.needs_right() => {
                format!("stays active while the witness answers; waits for {partner}")
            }
            Phase::Active if self.lost(now) => format!("stays active; waits for {partner}"),
            Phase::Active if self.fallback_due().is_some() => {
                let left = self.fallback_due().map_or(0, |due| due.since(now).as_secs());
                format!("falls back to {partner} in {} if it stays healthy", rounded(left))
            }
            Phase::Active if manual => {
                "if this server goes silent, nobody takes over by itself".into()
            }
            Phase::Active if self.partner.report.as_ref().is_some_and(|r| !r.data.synced) => {
                format!(
                    "if this server goes silent, nobody takes over by itself: the databases of {partner} were never in sync"
                )
            }
            Phase::Active if self.takeover_release().is_some_and(|release| release > now) => {
                let left =
                    self.takeover_release().map_or(0, |release| release.since(now).as_secs());
                format!(
                    "if this server goes silent, {partner} takes over after {d} s, but not within the next {}",
                    rounded(left.max(1))
                )
            }
            Phase::Active => {
                format!("if this server goes silent, {partner} takes over after {d} s")
            }
        }
    }

    fn next_of_services(&self, now: MonoTime) -> String {
        let partner = self.partner_name();
        let name = self.services.down.first().map_or("a service", |down| down.name.as_str());
        match self.services_due() {
            Some(due) if due > now => {
                let left = rounded(due.since(now).as_secs());
                format!("{name} is down; hands over to {partner} in {left}, if it is ready")
            }
            _ => format!("{name} is down; hands over to {partner} as soon as it is ready"),
        }
    }
}
