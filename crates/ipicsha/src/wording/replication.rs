//! `dbreplication` as people read it: one table, aligned, for each database.

use std::fmt::Write;

use super::span;
use crate::replication::{DatabaseStatus, Replication, RuntimeState, TableStatus, meaning};

/// `dbreplication status`.
pub(crate) fn status(replication: &Replication) -> String {
    let role = replication.role.as_deref().unwrap_or("HA not configured");
    let mut text = format!("DBREPLICATION STATUS   as seen by {} ({role})\n", replication.server);
    for database in &replication.databases {
        put_database(&mut text, database, replication.seen_unix_ms)
            .expect("writing to a string cannot fail");
    }
    if replication.databases.is_empty() {
        text.push_str("No database is protected: `ipicsha protect db PATH`\n");
    }
    text
}

fn put_database(text: &mut String, database: &DatabaseStatus, now: i64) -> std::fmt::Result {
    writeln!(text)?;
    writeln!(text, "{}   state {} ({})", database.name, database.state, meaning(database.state))?;
    if database.path != database.name {
        writeln!(text, "  {}", database.path)?;
    }
    let lag = lag(database.queue_records, database.lag_seconds);
    writeln!(
        text,
        "  queue {}, lag {lag}, conflicts {}",
        database.queue_records, database.conflicts
    )?;
    if let Some(hold) = &database.hold {
        writeln!(text, "  HELD: {hold}")?;
    }
    if let Some(error) = &database.error {
        writeln!(text, "  not counted: {error}")?;
    }
    let head =
        ["TABLE", "ROWS", "KNOWN BY", "LAST CHANGE", "QUEUE", "LAG", "CONFLICTS", "MISMATCHES"];
    let head: Vec<String> = head.map(str::to_owned).into();
    let rows: Vec<Vec<String>> = database.tables.iter().map(|table| cells(table, now)).collect();
    if !rows.is_empty() {
        put_aligned(text, &std::iter::once(head).chain(rows).collect::<Vec<_>>())?;
    }
    for table in &database.tables {
        if let Some(reason) = &table.held {
            writeln!(text, "  held: {} ({reason})", table.table)?;
        }
    }
    for skipped in &database.skipped_tables {
        writeln!(text, "  not replicated: {} ({})", skipped.table, skipped.reason)?;
    }
    Ok(())
}

fn cells(table: &TableStatus, now: i64) -> Vec<String> {
    let ago = |at: i64| format!("{} ago", span((now - at).max(0) as f64 / 1000.0));
    let rows = match (table.rows, table.rows_complete) {
        (None, _) => "-".into(),
        (Some(rows), true) => rows.to_string(),
        (Some(rows), false) => format!(">={rows}"),
    };
    let mismatches = match &table.compared {
        None => "not verified yet".into(),
        Some(compared) if compared.repaired => {
            format!(
                "{} left of {}, repaired {}",
                compared.left,
                compared.found,
                ago(compared.at_unix_ms)
            )
        }
        Some(compared) => format!("{}, verified {}", compared.left, ago(compared.at_unix_ms)),
    };
    vec![
        table.table.clone(),
        rows,
        table.identity.clone(),
        table.last_change_unix_ms.map_or_else(|| "-".into(), ago),
        table.queue_records.to_string(),
        lag(table.queue_records, table.lag_seconds),
        table.conflicts.to_string(),
        mismatches,
    ]
}

fn lag(queue: u64, seconds: f64) -> String {
    if queue > 0 { span(seconds) } else { "-".into() }
}

/// Columns as wide as their widest cell, numbers to the right.
fn put_aligned(text: &mut String, rows: &[Vec<String>]) -> std::fmt::Result {
    const RIGHT: [usize; 5] = [1, 3, 4, 5, 6];
    let columns = rows.first().map_or(0, Vec::len);
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if RIGHT.contains(&column) {
                write!(line, " {cell:>width$} ")?;
            } else {
                write!(line, " {cell:<width$} ")?;
            }
        }
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `dbreplication runtimestate`.
pub(crate) fn runtime_state(state: &RuntimeState) -> String {
    let partner = state.partner.as_deref().unwrap_or("(no partner)");
    let shown = |state: Option<u8>| match state {
        Some(state) => format!("{state} {}", meaning(state)),
        None => "- unknown".into(),
    };
    let mut text = format!("DBREPLICATION RUNTIME STATE   as seen by {}\n", state.server);
    let head = ["DATABASE".to_owned(), state.server.clone(), partner.to_owned()];
    let rows = state.databases.iter().map(|database| {
        [database.name.clone(), shown(Some(database.here)), shown(database.partner)]
    });
    let rows: Vec<[String; 3]> = std::iter::once(head).chain(rows).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    for [name, here, there] in &rows {
        writeln!(text, "  {name:<first$}   {here:<second$}   {there}")
            .expect("writing to a string cannot fail");
    }
    text.push_str(if state.good {
        "Every database is set up and good on both servers.\n"
    } else {
        "Not every database is good on both servers: see `ipicsha dbreplication status` and `ipicsha ha-status`.\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::{Compared, DatabaseState, Skipped};

    fn table(name: &str) -> TableStatus {
        TableStatus {
            table: name.into(),
            identity: "PRIMARY KEY".into(),
            rows: Some(2),
            rows_complete: true,
            last_change_unix_ms: None,
            queue_records: 0,
            lag_seconds: 0.0,
            conflicts: 0,
            compared: None,
            held: None,
        }
    }

    fn replication() -> Replication {
        let at = |seconds_ago: i64| 1_000_000_000 - seconds_ago * 1000;
        let compared =
            |found, left, repaired| Compared { at_unix_ms: at(90), repaired, found, left };
        let tables = vec![
            TableStatus {
                rows: Some(1_234_567),
                last_change_unix_ms: Some(at(3)),
                queue_records: 12,
                lag_seconds: 0.25,
                conflicts: 3,
                compared: Some(compared(0, 0, false)),
                ..table("calls")
            },
            TableStatus {
                rows_complete: false,
                identity: "rowid".into(),
                compared: Some(compared(4, 1, true)),
                held: Some("its schema differs from the partner's".into()),
                ..table("a table with a long name")
            },
            table("units"),
        ];
        let database = DatabaseStatus {
            name: "app".into(),
            path: "/srv/app.sqlite".into(),
            state: 3,
            queue_records: 12,
            lag_seconds: 0.25,
            conflicts: 3,
            hold: None,
            error: None,
            tables,
            skipped_tables: vec![Skipped { table: "words".into(), reason: "it is virtual".into() }],
        };
        let gone = DatabaseStatus {
            name: "/srv/gone.db".into(),
            path: "/srv/gone.db".into(),
            state: 4,
            queue_records: 0,
            hold: Some("its file was deleted here".into()),
            error: Some("/srv/gone.db does not exist".into()),
            tables: Vec::new(),
            skipped_tables: Vec::new(),
            ..database.clone()
        };
        Replication {
            schema: "ipicsha.dbreplication/1".into(),
            server: "alpha".into(),
            role: Some("active".into()),
            seen_unix_ms: 1_000_000_000,
            databases: vec![database, gone],
        }
    }

    #[test]
    fn every_database_has_its_tables_below_it() {
        insta::assert_snapshot!("dbreplication_status", status(&replication()));
        let empty = Replication { databases: Vec::new(), role: None, ..replication() };
        insta::assert_snapshot!("dbreplication_status_empty", status(&empty));
    }

    #[test]
    fn every_state_is_shown_with_its_meaning_on_both_servers() {
        let states = (0..5).map(|n| DatabaseState {
            name: format!("app/{n}.db"),
            here: n,
            partner: (n != 1).then_some(4 - n),
        });
        let bad = RuntimeState {
            schema: "ipicsha.runtimestate/1".into(),
            server: "alpha".into(),
            partner: Some("bravo".into()),
            databases: states.collect(),
            good: false,
        };
        insta::assert_snapshot!("runtimestate", runtime_state(&bad));
        let database = DatabaseState { name: "app".into(), here: 2, partner: Some(2) };
        let good = RuntimeState { databases: vec![database], good: true, ..bad };
        insta::assert_snapshot!("runtimestate_good", runtime_state(&good));
    }
}
