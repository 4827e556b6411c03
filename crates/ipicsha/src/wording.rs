//! What people read: the status screen and the like. Nothing here decides.

pub(crate) mod directories;
pub(crate) mod patterns;
pub(crate) mod replication;

use std::fmt::Write;

use chrono::{DateTime, Local};
use ipicsha_core::{
    Event,
    status::{Alarm, ServerStatus, TimelineStatus},
};

use crate::{
    api::{DatabaseRow, LogRow, PendingRepair, ServiceRow, Status},
    daemon::{HistoryEntry, PlannedRow},
    size::ByteSize,
};

/// From this lag on a queue is worth a line of its own.
const LAGS_SECONDS: f64 = 2.0;
/// A transaction log as full as this has a line of its own.
const LOG_SHOWN_PERCENT: f64 = 50.0;

/// Milliseconds since 1970 as local time.
pub(crate) fn time(unix_ms: i64) -> String {
    DateTime::from_timestamp_millis(unix_ms).map_or_else(String::new, |t| {
        t.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
    })
}

/// A span with the unit that fits.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 0.01 => format!("{:.1} ms", s * 1000.0),
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// A size with the unit that fits.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// The status screen.
pub(crate) fn status(status: &Status) -> String {
    let pair = &status.pair;
    let mut text = String::new();
    let own = pair.servers.first().map_or("", |server| server.name.as_str());
    let name = pair.config.as_ref().map_or_else(String::new, |c| format!("Pair {}   ", c.pair));
    let after = pair
        .takeover_after_seconds
        .map_or_else(String::new, |s| format!("   takeover after {s} s"));
    line(
        &mut text,
        format!(
            "{name}HA {}, {}   epoch {}{after}   as seen by {own}",
            pair.ha, pair.trust, pair.epoch
        ),
    );
    if status.time_source == "assume-synced" {
        line(&mut text, "Clock: assumed to be synchronised (time.source = assume-synced)".into());
    }
    line(
        &mut text,
        format!(
            "  {:<12} {:<10} {:<8} {:<24} {:<18} {:<12} CLOCK",
            "SERVER", "LICENSE", "ROLE", "STATE", "REASON", "HEARTBEAT"
        ),
    );
    for server in &pair.servers {
        line(&mut text, server_line(server, server.name == own));
    }
    if let Some(error) = &status.link_error {
        line(&mut text, format!("No connection to the partner: {error}"));
    }
    if let Some(problem) = &pair.witness {
        let does = if problem.is_empty() { "answers" } else { "does not answer" };
        line(&mut text, format!("Witness: {does}"));
    }
    if pair.config.is_some() {
        line(&mut text, format!("Standby server status: {}", pair.standby_status));
    }
    databases(&mut text, &status.databases);
    for row in &status.patterns {
        patterns::line(&mut text, row);
    }
    directories::table(&mut text, &status.directories);
    if let Some(planned) = &status.planned {
        line(&mut text, planned_line(planned, pair.seen_unix_ms));
    }
    for row in &status.addresses {
        let here = if row.here { "here" } else { "not here" };
        line(&mut text, format!("Address {} on {}: {here}", row.address, row.interface));
    }
    for service in &status.services {
        line(&mut text, service_line(service));
    }
    troubles(&mut text, status);
    for alarm in &pair.alarms {
        line(&mut text, format!("ALARM: {}", alarm.text()));
    }
    line(&mut text, format!("Next: {}", pair.next));
    line(&mut text, format!("Recommended action: {}", pair.recommended_action));
    text
}

/// A service, whether it runs here, and what is wrong with it.
pub(crate) fn service_line(service: &ServiceRow) -> String {
    let state = match (service.running, service.stopped_by_administrator) {
        (_, true) => "stopped by an administrator",
        (true, false) => "running here",
        (false, false) => "not running here",
    };
    let weight = if service.critical { "" } else { ", not critical" };
    let trouble = service.trouble.as_ref().map(|it| format!("; DOWN: {it}")).unwrap_or_default();
    format!("Service {} ({}{weight}): {state}{trouble}", service.name, service.driver)
}

/// A split brain, and comparisons under way.
fn troubles(text: &mut String, status: &Status) {
    let pair = &status.pair;
    if let Some(split) = &pair.split_brain {
        line(
            text,
            format!(
                "SPLIT BRAIN since {} ({}): {} changes here, {} on the partner",
                time(split.since_unix_ms),
                span(split.seconds),
                split.changes_here,
                split.changes_on_partner
            ),
        );
        for timeline in &split.timelines {
            line(text, format!("    {}", timeline_line(timeline)));
        }
    }
    for repair in &status.pending_repairs {
        line(text, pending(repair));
    }
    if status.pending_repairs.is_empty() {
        let due = pair.alarms.contains(&Alarm::RepairDue);
        line(
            text,
            format!("Pending repairs: {}", if due { "none running, one is due" } else { "none" }),
        );
    }
}

/// What one server did before and in a split brain.
fn timeline_line(timeline: &TimelineStatus) -> String {
    let mut text = match (timeline.active_since_unix_ms, timeline.active_because) {
        (Some(since), Some(why)) => {
            format!("{}: active since {} ({why})", timeline.server, time(since))
        }
        _ => format!("{}: not active", timeline.server),
    };
    text += &match (timeline.first_change_unix_ms, timeline.last_change_unix_ms) {
        (Some(first), Some(last)) => format!(
            ", {} changes of its own from {} to {}",
            timeline.changes,
            time(first),
            time(last)
        ),
        _ if timeline.changes > 0 => format!(", {} changes of its own", timeline.changes),
        _ => ", no changes of its own".into(),
    };
    text
}

/// A comparison or repair under way.
pub(crate) fn pending(repair: &PendingRepair) -> String {
    let mut text = format!("Repair {} of {}: {}", repair.run, repair.database, repair.stage);
    if repair.tables_total > 0 {
        text += &format!(", {} of {} tables", repair.tables_done, repair.tables_total);
        text += &match repair.rows_total {
            Some(total) => format!(", {} of {total} rows", repair.rows_done.min(total)),
            None => format!(", {} rows", repair.rows_done),
        };
        text += &format!(", {} differences", repair.differences);
    }
    if let Some(rate) = repair.rows_per_second {
        text += &format!(", {rate} rows/s");
    }
    if let Some(left) = repair.seconds_left {
        text += &format!(", about {} left", span(left as f64));
    }
    text
}

/// A queue that shrinks; nothing while records are as fast as ever.
fn catching_up(row: &DatabaseRow) -> Option<String> {
    let rate = row.queue_records_per_second.filter(|_| row.lag_seconds >= LAGS_SECONDS)?;
    let left = match row.queue_seconds_left {
        Some(left) => format!("about {} left", span(left as f64)),
        None => "not getting shorter".into(),
    };
    Some(format!("    catching up: {} queued, {rate} records/s, {left}", row.queue_records))
}

fn line(text: &mut String, line: String) {
    text.push_str(line.trim_end());
    text.push('\n');
}

fn server_line(server: &ServerStatus, own: bool) -> String {
    let dash = || "-".to_owned();
    let state = match server.state {
        Some(state) => state.to_string(),
        None => "NOT REACHABLE".into(),
    };
    let reason = server.reason.map_or_else(dash, |reason| reason.to_string());
    let heartbeat = match (own, server.heartbeat_age_seconds) {
        (true, _) => dash(),
        (false, Some(age)) => format!("{} ago", span(age)),
        (false, None) => "never".into(),
    };
    let clock = server.clock_offset_seconds.map_or_else(dash, |offset| format!("{offset:+.2} s"));
    format!(
        "{} {:<12} {:<10} {:<8} {state:<24} {reason:<18} {heartbeat:<12} {clock}",
        if own { '*' } else { ' ' },
        server.name,
        server.license.map_or_else(dash, |license| license.to_string()),
        server.role.map_or_else(dash, |role| role.to_string()),
    )
}

fn databases(text: &mut String, rows: &[DatabaseRow]) {
    if rows.is_empty() {
        line(text, "No database is protected: `ipicsha protect db PATH`".into());
        return;
    }
    line(
        text,
        format!(
            "{:<40} {:>7} {:>8} {:>9} {:>6}  {:<7} CONFLICTS",
            "DATABASE", "TABLES", "QUEUE", "LAG", "LOG", "SYNCED"
        ),
    );
    for row in rows {
        let all = row.tables.len() + row.skipped_tables.len();
        line(
            text,
            format!(
                "{:<40} {:>7} {:>8} {:>9} {:>4.0} %  {:<7} {}",
                row.name,
                format!("{}/{all}", row.tables.len()),
                row.queue_records,
                span(row.lag_seconds),
                row.log_used_percent,
                if row.synced { "yes" } else { "no" },
                row.conflicts_total
            ),
        );
        if let Some(catching_up) = catching_up(row) {
            line(text, catching_up);
        }
        if row.log_used_percent >= LOG_SHOWN_PERCENT {
            line(text, log(&row.log));
        }
        if let Some(hold) = &row.hold {
            line(text, format!("    HELD: {hold}"));
        }
        for skipped in &row.skipped_tables {
            line(text, format!("    not replicated: {} ({})", skipped.table, skipped.reason));
        }
        for warning in &row.warnings {
            line(text, format!("    warning: {warning}"));
        }
    }
}

/// How full a transaction log is, and where it is heading.
fn log(log: &LogRow) -> String {
    format!(
        "    transaction log: {} of {} changes, about {} of {}; {}",
        log.used_entries,
        log.capacity_entries,
        ByteSize(log.used_bytes),
        ByteSize(log.capacity_bytes),
        log.forecast.text()
    )
}

/// A failover at a time set before.
fn planned_line(planned: &PlannedRow, now: i64) -> String {
    match (planned.at_unix_ms, &planned.last_error) {
        (Some(at), _) => format!(
            "Planned: failover at {} (in {}); `ipicsha failover --cancel` ends it",
            time(at),
            span((at - now).max(0) as f64 / 1000.0)
        ),
        (None, Some(error)) => format!("The planned failover did not happen: {error}"),
        (None, None) => "Planned: nothing".into(),
    }
}

/// One line of the history.
pub(crate) fn history(entry: &HistoryEntry) -> String {
    let mut text = format!("{}  ", time(entry.at_unix_ms));
    let written = match &entry.event {
        Event::State { role, from, to, reason, epoch } => {
            let role = role.map_or_else(|| "none".into(), |role| role.to_string());
            write!(text, "{from} -> {to} ({reason}), role {role}, epoch {epoch}")
        }
        Event::Raised { alarm } => write!(text, "ALARM {}", alarm.text()),
        Event::Cleared { alarm } => write!(text, "cleared: {}", alarm.text()),
        Event::Repaired { run, database, found, left } => {
            write!(text, "repair {run} of {database}: {found} differed, {left} left")
        }
        Event::Drill { there_ms, away_ms, back_ms } => {
            let span = |ms: u64| span(ms as f64 / 1000.0);
            write!(
                text,
                "drill: there in {}, back in {}, {} in between",
                span(*there_ms),
                span(*back_ms),
                span(*away_ms)
            )
        }
        Event::Planned { error: None } => write!(text, "the planned failover is done"),
        Event::Planned { error: Some(error) } => {
            write!(text, "the planned failover did not happen: {error}")
        }
        Event::RepairUndone { run, database, restored, skipped } => {
            write!(
                text,
                "repair {run} of {database} undone: {restored} put back, {skipped} left as they are"
            )
        }
    };
    written.expect("writing to a string cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repair() -> PendingRepair {
        PendingRepair {
            run: 123_456,
            database: "app".into(),
            stage: "comparing".into(),
            table: None,
            tables_done: 1,
            tables_total: 3,
            rows_compared: 500,
            differences: 2,
            paused: false,
            rows_done: 500,
            rows_total: Some(2000),
            rows_per_second: None,
            seconds_left: None,
        }
    }

    #[test]
    fn a_repair_shows_a_rate_and_the_time_left_only_when_they_are_known() {
        let text =
            "Repair 123456 of app: comparing, 1 of 3 tables, 500 of 2000 rows, 2 differences";
        assert_eq!(pending(&repair()), text);
        let known = PendingRepair { rows_per_second: Some(50), seconds_left: Some(30), ..repair() };
        assert_eq!(pending(&known), format!("{text}, 50 rows/s, about 30.0 s left"));
        let large = PendingRepair { rows_total: None, ..repair() };
        assert!(pending(&large).contains(", 500 rows, "));
    }
}
