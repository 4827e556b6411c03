//! What people read: the status screen and the like. Nothing here decides.

pub(crate) mod patterns;

use std::fmt::Write;

use chrono::{DateTime, Local};
use ipicsha_core::{
    Event,
    status::{Alarm, ServerStatus},
};

use crate::{
    api::{DatabaseRow, Status},
    daemon::HistoryEntry,
};

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
    if pair.config.is_some() {
        line(&mut text, format!("Standby server status: {}", pair.standby_status));
    }
    databases(&mut text, &status.databases);
    for row in &status.patterns {
        patterns::line(&mut text, row);
    }
    for service in &status.services {
        let state = if service.running { "running here" } else { "not running here" };
        line(&mut text, format!("Service {} ({}): {state}", service.name, service.driver));
    }
    troubles(&mut text, status);
    for alarm in &pair.alarms {
        line(&mut text, format!("ALARM: {}", alarm.text()));
    }
    line(&mut text, format!("Next: {}", pair.next));
    line(&mut text, format!("Recommended action: {}", pair.recommended_action));
    text
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
    }
    for repair in &status.pending_repairs {
        line(
            text,
            format!(
                "Repair of {}: {}, {} of {} tables, {} rows compared, {} differences",
                repair.database,
                repair.stage,
                repair.tables_done,
                repair.tables_total,
                repair.rows_compared,
                repair.differences
            ),
        );
    }
    if status.pending_repairs.is_empty() {
        let due = pair.alarms.contains(&Alarm::RepairDue);
        line(
            text,
            format!("Pending repairs: {}", if due { "none running, one is due" } else { "none" }),
        );
    }
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
