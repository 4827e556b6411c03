//! Watched directories on the status screen.

use ipicsha_files::replicate::DirectoryStatus;

use super::{bytes, line, span, time};

/// Paths that are named of each kind.
const SHOWN_MAX: usize = 5;

/// The list of watched directories; nothing where there is none.
pub(super) fn table(text: &mut String, rows: &[DirectoryStatus]) {
    if rows.is_empty() {
        return;
    }
    line(
        text,
        format!(
            "{:<40} {:>7} {:>9} {:>8} {:>8}  {:<7} CONFLICTS",
            "DIRECTORY", "ENTRIES", "SIZE", "TO SEND", "TO FETCH", "SYNCED"
        ),
    );
    for row in rows {
        line(
            text,
            format!(
                "{:<40} {:>7} {:>9} {:>8} {:>8}  {:<7} {}",
                row.name.0,
                row.entries,
                bytes(row.bytes),
                row.to_send,
                row.to_fetch,
                if row.synced { "yes" } else { "no" },
                row.conflicts_total
            ),
        );
        notes(text, row);
    }
}

/// What there is to say about one of them.
fn notes(text: &mut String, row: &DirectoryStatus) {
    if let Some(hold) = &row.hold {
        line(text, format!("    HOLD: {hold}"));
    }
    if row.held_deletions > 0 {
        let (count, name) = (row.held_deletions, &row.name);
        line(
            text,
            format!("    {count} deletions wait: `ipicsha repair files {name} --accept-deletions`"),
        );
    }
    if let Some(progress) = fetching(row) {
        line(text, progress);
    }
    if row.scanning {
        line(text, "    being read for the first time".into());
    }
    if let Some(progress) = comparing(row) {
        line(text, format!("    {progress}"));
    }
    if let Some(alarm) = &row.alarm {
        line(text, format!("    changes are noticed by {}: {alarm}", row.method));
    } else if !row.method.is_empty() {
        let last = row.last_change_unix.map(|last| format!(", last change {}", time(last * 1000)));
        line(text, format!("    noticed by {}{}", row.method, last.unwrap_or_default()));
    }
    if row.kept.entries > 0 {
        let size = bytes(row.kept.bytes);
        line(text, format!("    {} kept, {size}: `ipicsha trash list`", row.kept.entries));
    }
    let left = row.left.iter().map(|left| (&left.path, &left.reason));
    some(text, "takes no part", left, row.left_total);
    let troubles = row.troubles.iter().map(|trouble| (&trouble.path, &trouble.problem));
    some(text, "tried again", troubles, row.troubles_total);
}

fn some<'a>(
    text: &mut String,
    what: &str,
    rows: impl Iterator<Item = (&'a String, &'a String)>,
    total: u64,
) {
    let mut shown = 0;
    for (path, why) in rows.take(SHOWN_MAX) {
        line(text, format!("    {what}: {path}: {why}"));
        shown += 1;
    }
    if total > shown {
        line(text, format!("    {what}: and {} more", total - shown));
    }
}

/// What is on its way to this server.
fn fetching(row: &DirectoryStatus) -> Option<String> {
    let rate = row.bytes_per_second.filter(|_| row.to_fetch > 0)?;
    let left = row.seconds_left.map(|left| format!(", about {} left", span(left as f64)));
    Some(format!(
        "    arriving: {} entries, {}, {}/s{}",
        row.to_fetch,
        bytes(row.to_fetch_bytes),
        bytes(rate),
        left.unwrap_or_default()
    ))
}

/// How far a comparison is.
pub(crate) fn comparing(row: &DirectoryStatus) -> Option<String> {
    let progress = row.compare?;
    let name = &row.name;
    if progress.waiting_for_partner {
        return Some(format!("Comparison of {name}: waiting for the partner to read its files"));
    }
    let (done, total) = (bytes(progress.bytes_done), bytes(progress.bytes_total));
    Some(format!("Comparison of {name}: {done} of {total} read"))
}

#[cfg(test)]
mod tests {
    use ipicsha_core::file::DirectoryName;
    use ipicsha_files::replicate::{CompareProgress, KeptUsage, Left, Trouble};

    use super::*;

    fn row() -> DirectoryStatus {
        let name = DirectoryName("uploads".into());
        DirectoryStatus {
            entries: 1204,
            bytes: 5 << 20,
            synced: true,
            method: "fanotify".into(),
            ..DirectoryStatus::idle(name, "/srv/app/uploads".into())
        }
    }

    #[test]
    fn directories_in_status() {
        let quiet = row();
        let left = |path: &str| Left { path: path.into(), reason: "an SQLite database".into() };
        let busy = DirectoryStatus {
            synced: false,
            to_send: 3,
            to_fetch: 20,
            to_fetch_bytes: 90 << 20,
            bytes_per_second: Some(30 << 20),
            seconds_left: Some(3),
            held_deletions: 1200,
            conflicts_total: 2,
            alarm: Some("only inotify".into()),
            kept: KeptUsage { entries: 7, bytes: 2048 },
            left: ["a.db", "b.db"].map(left).to_vec(),
            left_total: 9,
            troubles: vec![Trouble {
                path: "x".into(),
                problem: "no space left on device".into(),
                retry_seconds: 4,
            }],
            troubles_total: 1,
            hold: Some("its root is missing: mount it".into()),
            compare: Some(CompareProgress {
                bytes_done: 1 << 20,
                bytes_total: 5 << 20,
                waiting_for_partner: false,
            }),
            ..row()
        };
        let mut text = String::new();
        table(&mut text, &[]);
        assert_eq!(text, "");
        table(&mut text, &[quiet, busy]);
        insta::assert_snapshot!(text);
    }
}
