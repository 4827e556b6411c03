//! Counting beside the application and the worker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipicsha_core::id::Seq;

use crate::{
    Identity, TableCensus, census,
    tests::support::{GENEROUS, Pair, application, keeping_rollback, one, sql, wait},
};

const TABLES: &str = "CREATE TABLE pk(id INTEGER PRIMARY KEY, v);
    CREATE TABLE pair(a TEXT COLLATE NOCASE, b INT, v, PRIMARY KEY(a, b));
    CREATE TABLE norow(k TEXT, n INT, PRIMARY KEY(k, n)) WITHOUT ROWID;
    CREATE TABLE uni(name TEXT NOT NULL UNIQUE, v);
    CREATE TABLE \"odd \"\"name\"(rowid TEXT, v);
    CREATE TABLE none(v);";

fn fill(rows: u64) -> String {
    let from =
        format!("WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<{rows})");
    format!(
        "BEGIN; {from} INSERT INTO pk SELECT v,v FROM s; {from} INSERT INTO pair SELECT v%7,v,v FROM s;
         {from} INSERT INTO norow SELECT v%3,v FROM s; {from} INSERT INTO uni SELECT 'n'||v,v FROM s;
         {from} INSERT INTO \"odd \"\"name\" SELECT 'x',v FROM s; COMMIT;"
    )
}

#[test]
fn tables_of_every_identity_are_counted_whole_and_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, TABLES);
    for rows in [1, 1999, 2000, 2001, 12_345] {
        sql(
            &path,
            "DELETE FROM pk; DELETE FROM pair; DELETE FROM norow; DELETE FROM uni; DELETE FROM \"odd \"\"name\"",
        );
        sql(&path, &fill(rows));
        sql(&path, "INSERT OR IGNORE INTO pair VALUES(NULL,1,1)");
        let counted = census(&path, Seq(0), GENEROUS).unwrap();
        let expected: BTreeMap<&str, (u64, Identity)> = [
            ("pk", (rows, Identity::PrimaryKey)),
            ("pair", (rows, Identity::PrimaryKey)),
            ("norow", (rows, Identity::PrimaryKey)),
            ("uni", (rows, Identity::Unique)),
            ("odd \"name", (rows, Identity::Rowid)),
            ("none", (0, Identity::Rowid)),
        ]
        .into();
        let seen: BTreeMap<&str, (u64, Identity)> =
            counted.tables.iter().map(|(n, t)| (n.as_str(), (t.rows, t.identity))).collect();
        assert_eq!(seen, expected);
        let whole = |t: &TableCensus| t.complete && t.queue == 0 && t.changed_ms.is_none();
        assert!(counted.tables.values().all(whole), "{counted:?}");
    }
    let cut = census(&path, Seq(0), Duration::ZERO).unwrap();
    assert!(cut.tables.values().all(|table| !table.complete), "{cut:?}");
}

#[test]
fn queue_and_last_change_are_those_of_each_table() {
    let pair = Pair::running(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, v); CREATE TABLE b(id INTEGER PRIMARY KEY); CREATE TABLE c(id INTEGER PRIMARY KEY)",
    );
    sql(&pair.a.path, "INSERT INTO a VALUES(1,1)");
    pair.wait_equal();
    wait("it is acknowledged", || pair.a.is(|s| s.queue_records == 0 && s.acked.0 == 1));
    pair.cut();
    sql(&pair.a.path, "INSERT INTO b VALUES(1),(2); UPDATE a SET v=2; UPDATE a SET v=3");
    wait("the queue is shown", || pair.a.is(|s| s.queue_records == 4));
    let acked = pair.a.status.lock().unwrap().as_ref().unwrap().acked;
    let counted = census(&pair.a.path, acked, GENEROUS).unwrap();
    let of = |name: &str| counted.tables[name].clone();
    assert_eq!((of("a").queue, of("b").queue, of("c").queue), (2, 2, 0));
    let ms = |what: &str, t: &str| {
        one::<i64>(
            &pair.a.path,
            &format!(
                "SELECT {what}(ms) FROM _ipicsha_log WHERE seq>1 AND t=(SELECT t FROM _ipicsha_tab WHERE name='{t}')"
            ),
        )
    };
    for table in ["a", "b"] {
        assert_eq!(of(table).changed_ms, Some(ms("max", table)), "{table}");
        assert_eq!(of(table).oldest_queued_ms, Some(ms("min", table)), "{table}");
    }
    assert_eq!((of("c").changed_ms, of("c").oldest_queued_ms), (None, None));
    // The standby logs nothing of what it applies; its worker knows when that was made.
    let applied = pair.b.status.lock().unwrap().as_ref().unwrap().applied_ms.clone();
    let first = one::<i64>(&pair.a.path, "SELECT ms FROM _ipicsha_log WHERE seq=1");
    assert_eq!(applied, BTreeMap::from([("a".to_owned(), first)]));
}

/// Filled tables whose names need no quotes.
fn plain(rows: u64) -> String {
    format!("{TABLES} {}", fill(rows)).replace("\"odd \"\"name\"", "odd")
}

#[test]
fn an_application_without_busy_timeout_does_not_notice_the_counting() {
    let count_beside = || {
        let pair = Pair::running(&plain(40_000));
        let stop = Arc::new(AtomicBool::new(false));
        let counting = std::thread::spawn({
            let (path, stop) = (pair.b.path.clone(), stop.clone());
            move || {
                let mut times = 0;
                while !stop.load(Ordering::SeqCst) {
                    let counted = census(&path, Seq(0), GENEROUS).unwrap();
                    assert_eq!(counted.tables["uni"].rows, 40_000);
                    times += 1;
                }
                times
            }
        });
        let app = application(&pair.a.path);
        for n in 0..200 {
            app.execute("UPDATE pk SET v=-?1 WHERE id=?1", [n + 1]).unwrap();
        }
        pair.wait_equal();
        stop.store(true, Ordering::SeqCst);
        assert!(counting.join().unwrap() > 0);
        assert!(pair.b.is(|s| s.hold.is_none()));
    };
    count_beside();
    keeping_rollback(count_beside);
    let pair = Pair::running(&plain(20_000));
    let app = application(&pair.a.path);
    app.busy_timeout(Duration::ZERO).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                census(&pair.a.path, Seq(0), GENEROUS).unwrap();
            }
        });
        let result = (0..500)
            .try_for_each(|n| app.execute("UPDATE pk SET v=-?1 WHERE id=?1", [n + 1]).map(drop));
        stop.store(true, Ordering::SeqCst);
        result.unwrap();
    });
}
