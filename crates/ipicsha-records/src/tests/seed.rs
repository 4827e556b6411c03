//! An empty side is filled directly, beside a writing application, over cuts.

use ipicsha_core::data::{CompareStep, Data};

use crate::{
    Journal, JournalFilter, Writes,
    tests::support::{Pair, Side, application, dump, one, wait},
};

const SCHEMA: &str = "CREATE TABLE calls(id INTEGER PRIMARY KEY, who TEXT, n INTEGER);
    CREATE TABLE tags(name TEXT, at INTEGER, v BLOB, PRIMARY KEY(name, at)) WITHOUT ROWID;
    CREATE TABLE uniq(id INTEGER PRIMARY KEY, name TEXT UNIQUE);";

pub(crate) fn filled(rows: u32) -> String {
    format!(
        "{SCHEMA} WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<{rows})
         INSERT INTO calls SELECT v,'someone '||v,v FROM s;
         INSERT INTO tags SELECT who, id%7, x'00ff' FROM calls WHERE id%3=0;
         INSERT INTO uniq SELECT id, who FROM calls WHERE id%5=0;"
    )
}

/// Steps of comparisons this side has sent.
fn steps(side: &Side, which: impl Fn(&CompareStep) -> bool) -> usize {
    let sent = side.sent.lock().unwrap();
    let step = |data: &&Data| matches!(data, Data::Compare { step, .. } if which(step));
    sent.iter().filter(step).count()
}

fn by_row(step: &CompareStep) -> bool {
    matches!(step, CompareStep::Rows { .. } | CompareStep::Fix { .. })
}

#[test]
fn empty_tables_are_filled_in_large_steps_on_either_side() {
    for full_at_a in [true, false] {
        let (full, empty) = (filled(60_000), SCHEMA.to_owned());
        let (at_a, at_b) = if full_at_a { (full, empty) } else { (empty, full) };
        let pair = Pair::start(&at_a, &at_b, Writes::Open, Writes::Closed);
        pair.wait_synced();
        assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
        assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls"), 60_000);
        assert_eq!(steps(&pair.a, by_row), 0, "no record was asked for by its key");
        let large = steps(&pair.a, |step| {
            matches!(step, CompareStep::Fill { .. } | CompareStep::Fetch { .. })
        });
        assert!(large > 2 && large < 30, "{large} steps for 92,000 records");
        let report = pair.a.finished_initially().unwrap();
        let found = |table: &str| {
            let table = report.tables.iter().find(|t| t.table == table).unwrap();
            (table.differences.only_primary, table.differences.only_secondary)
        };
        let counts = [("calls", 60_000), ("tags", 20_000), ("uniq", 12_000)];
        for (table, rows) in counts {
            let expected = if full_at_a { (rows, 0) } else { (0, rows) };
            assert_eq!(found(table), expected, "{table}");
        }
        assert_eq!((report.remaining(), report.passes), (0, 2));
    }
}

#[test]
fn a_seed_goes_on_over_cuts_beside_a_writing_application() {
    let mut pair = Pair::stopped(&filled(120_000), "");
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    let app = application(&pair.a.path);
    let count = || {
        let there = pair.b.path.exists();
        if there { one::<i64>(&pair.b.path, "SELECT count(*) FROM calls") } else { 0 }
    };
    let mut n = 0;
    let mut write = |times: i64| {
        for _ in 0..times {
            n += 1;
            let key = n * 7919 % 120_000 + 1;
            app.execute("UPDATE calls SET n=-?1 WHERE id=?2", [n, key]).unwrap();
            app.execute("DELETE FROM tags WHERE name='someone '||?1", [key]).unwrap();
            app.execute("INSERT INTO calls VALUES(?1,'new',1)", [1_000_000 + n]).unwrap();
        }
    };
    for cut in 1..=4 {
        wait("it goes on", || {
            write(1);
            count() >= cut * 20_000
        });
        pair.cut();
        write(100);
        pair.connect();
    }
    wait("it is done", || {
        write(1);
        pair.b.is(|s| s.attached && s.synced && s.repair.is_none())
    });
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(
        one::<i64>(&pair.b.path, "SELECT count(*) FROM calls WHERE who='new'"),
        one::<i64>(&pair.a.path, "SELECT count(*) FROM calls WHERE who='new'")
    );
    assert!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls WHERE n<0") > 400);
    let journal = Journal::open(&pair.a.journal()).unwrap();
    assert!(journal.list(&JournalFilter::default()).unwrap().is_empty(), "the source lost nothing");
}

#[test]
fn a_record_in_the_way_of_a_fill_is_settled_as_in_any_repair() {
    // The secondary has nothing in the range of the primary's keys, but one of its UNIQUE values.
    let at_b = format!("{SCHEMA} INSERT INTO uniq VALUES(1000000,'someone 50')");
    let pair = Pair::start(&filled(9000), &at_b, Writes::Open, Writes::Closed);
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT id FROM uniq WHERE name='someone 50'"), 50);
    let journal = Journal::open(&pair.b.journal()).unwrap();
    let losers = journal.list(&JournalFilter::default()).unwrap();
    assert_eq!(losers.len(), 1);
    assert_eq!(losers[0].describe_key(), "1000000");
}
