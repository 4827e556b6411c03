//! Two servers that both have data meet for the first time (spec A7).

use std::{fs, path::Path};

use crate::{
    Journal, JournalEntry, JournalFilter, JournalKind, Writes,
    tests::support::{Pair, Side, application, dump, one, sql},
};

const SCHEMA: &str = "CREATE TABLE calls(id INTEGER PRIMARY KEY, who TEXT, n INTEGER);
    CREATE TABLE tags(name TEXT PRIMARY KEY, v);";

fn journaled(side: &Side) -> Vec<JournalEntry> {
    Journal::open(&side.journal()).unwrap().list(&JournalFilter::default()).unwrap()
}

fn who(path: &Path, id: i64) -> String {
    one(path, &format!("SELECT who FROM calls WHERE id={id}"))
}

/// Runs `statements` in a file that a pair has written in, each with the moment it was captured at.
fn of_an_earlier_pair(statements: &[(&str, i64)]) -> tempfile::TempDir {
    let earlier = Pair::running(SCHEMA);
    for (statement, ms) in statements {
        let app = application(&earlier.a.path);
        let last: i64 =
            app.query_row("SELECT ifnull(max(seq),0) FROM _ipicsha_log", [], |r| r.get(0)).unwrap();
        app.execute_batch(statement).unwrap();
        app.execute("UPDATE _ipicsha_log SET ms=?1 WHERE seq>?2", [*ms, last]).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    let to = copy.path().join("app.sqlite").display().to_string();
    application(&earlier.a.path).execute("VACUUM INTO ?1", [to]).unwrap();
    copy
}

/// Both servers with these files, active and standby.
fn meet(at_a: &Path, at_b: &Path) -> Pair {
    let mut pair = Pair::stopped("", "");
    for (side, from) in [(&pair.a, at_a), (&pair.b, at_b)] {
        fs::copy(from.join("app.sqlite"), &side.path).unwrap();
    }
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    pair.wait_equal();
    pair
}

#[test]
fn records_of_one_side_are_kept_on_both_and_nothing_is_deleted() {
    let at_a = format!(
        "{SCHEMA} INSERT INTO calls VALUES(1,'a',1),(2,'a',2); INSERT INTO tags VALUES('a',1)"
    );
    let at_b = format!(
        "{SCHEMA} INSERT INTO calls VALUES(3,'b',1); INSERT INTO tags VALUES('b',1),('c',1)"
    );
    let pair = Pair::start(&at_a, &at_b, Writes::Open, Writes::Closed);
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(dump(&pair.b.path).len(), 6);
    assert!(journaled(&pair.a).is_empty() && journaled(&pair.b).is_empty());
}

#[test]
fn without_times_the_primarys_is_kept_and_the_other_journaled() {
    let at = |who: &str| format!("{SCHEMA} INSERT INTO calls VALUES(1,'{who}',1),(2,'same',2)");
    // Whichever of them is active.
    for (writes_a, writes_b) in [(Writes::Open, Writes::Closed), (Writes::Closed, Writes::Open)] {
        let pair = Pair::start(&at("a"), &at("b"), writes_a, writes_b);
        pair.wait_synced();
        pair.wait_equal();
        assert_eq!(who(&pair.b.path, 1), "a");
        let losers = journaled(&pair.b);
        assert_eq!(losers.len(), 1);
        assert!(losers[0].describe(&losers[0].loser).contains("who = 'b'"));
        assert!(journaled(&pair.a).is_empty());
    }
}

#[test]
fn spec_a7_c1_the_newest_is_kept_where_both_servers_know_when_theirs_was_written() {
    let at_a = of_an_earlier_pair(&[
        ("INSERT INTO calls VALUES(1,'a early',0),(2,'a early',0)", 1_000),
        ("INSERT INTO calls VALUES(3,'a late',0),(4,'a same',0)", 5_000),
    ]);
    let at_b = of_an_earlier_pair(&[
        ("INSERT INTO calls VALUES(1,'b',0),(3,'b',0)", 1_000),
        ("UPDATE calls SET who='b late' WHERE id=1; UPDATE calls SET n=n WHERE id=3", 3_000),
        ("INSERT INTO calls VALUES(4,'b same',0),(9,'b only',0)", 5_000),
    ]);
    // Written while nothing was captured: nobody knows when.
    crate::tests::support::corrupt(
        &at_b.path().join("app.sqlite"),
        "INSERT INTO calls VALUES(2,'b unknown',0)",
    );
    let pair = meet(at_a.path(), at_b.path());
    for path in [&pair.a.path, &pair.b.path] {
        let all: Vec<String> = [1, 2, 3, 4, 9].into_iter().map(|id| who(path, id)).collect();
        assert_eq!(all, ["b late", "a early", "a late", "a same", "b only"]);
    }
    let texts = |side: &Side| {
        let losers = journaled(side);
        assert!(losers.iter().all(|l| l.kind == JournalKind::Repair && l.loser_was_own));
        let mut texts: Vec<_> = losers.iter().map(|l| l.describe(&l.loser)).collect();
        texts.sort();
        texts
    };
    assert_eq!(texts(&pair.a), ["id = 1\nwho = 'a early'\nn = 0"]);
    let at_b = ["id = 2\nwho = 'b unknown'", "id = 3\nwho = 'b'", "id = 4\nwho = 'b same'"];
    assert_eq!(texts(&pair.b), at_b.map(|text| format!("{text}\nn = 0")));
    let report = pair.a.finished_initially().unwrap();
    let calls = report.tables.iter().find(|table| table.table == "calls").unwrap();
    assert_eq!((calls.differences.differing, calls.differences.journaled), (4, 4));
    sql(&pair.a.path, "UPDATE calls SET n=7");
    pair.wait_equal();
}

#[test]
fn a_server_started_clean_takes_over_all_that_the_other_has() {
    for at_b in ["", SCHEMA] {
        let at_a = format!("{SCHEMA} INSERT INTO calls VALUES(1,'a',1),(2,'a',2)");
        let pair = Pair::start(&at_a, at_b, Writes::Open, Writes::Closed);
        pair.wait_synced();
        pair.wait_equal();
        assert_eq!(dump(&pair.b.path).len(), 2);
        assert!(journaled(&pair.b).is_empty());
    }
}
