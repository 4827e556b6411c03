//! Patterns of databases as people read them.

use std::fmt::Write;

use crate::api::{DatabaseRow, PatternRow};

/// Lines of the status screen.
pub(crate) fn line(text: &mut String, row: &PatternRow) {
    let mut put = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let count = match row.databases {
        1 => "1 database".to_owned(),
        n => format!("{n} databases"),
    };
    put(format!(
        "Pattern {} as {}/...: {count} (at most {})",
        row.pattern, row.name, row.databases_max
    ));
    if row.keep_journal_mode {
        put("    their journal modes are kept".into());
    }
    if let Some(problem) = &row.problem {
        put(format!("    HELD: {problem}"));
    }
    for (path, reason) in &row.left {
        put(format!("    not taken: {path} ({reason})"));
    }
    if row.left_total > row.left.len() {
        put(format!("    not taken: {} more files", row.left_total - row.left.len()));
    }
    for path in &row.excluded {
        put(format!("    taken out by `unprotect`: {path}"));
    }
}

/// The answer to `protect db PATTERN`.
pub(crate) fn protected(row: &PatternRow, databases: &[DatabaseRow]) -> String {
    let mut text = String::new();
    line(&mut text, row);
    for database in databases {
        writeln!(text, "  {} as {}", database.path, database.name)
            .expect("writing to a string cannot fail");
    }
    if databases.is_empty() {
        text.push_str(
            "It matches no database yet: each is protected within 2 s of its creation.\n",
        );
    }
    text.push_str(
        "Protect the pattern on the partner, too, with the same name; it gets each database by itself.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> PatternRow {
        PatternRow {
            pattern: "/srv/app/data/*.db".into(),
            name: "app".into(),
            keep_journal_mode: false,
            databases: 0,
            databases_max: 100,
            left: Vec::new(),
            left_total: 0,
            excluded: Vec::new(),
            problem: None,
        }
    }

    #[test]
    fn a_pattern_is_shown_with_everything_it_leaves_out() {
        let reason = "no SQLite database with a table (yet)".to_owned();
        let full = PatternRow {
            databases: 1,
            keep_journal_mode: true,
            left: vec![("/srv/app/data/new.db".into(), reason)],
            left_total: 12,
            excluded: vec!["old.db".into()],
            problem: Some("/srv/app/data/x cannot be read: Permission denied".into()),
            ..row()
        };
        let mut text = String::new();
        line(&mut text, &full);
        insta::assert_snapshot!("pattern_in_status", text);
        insta::assert_snapshot!("pattern_protected_empty", protected(&row(), &[]));
    }
}
