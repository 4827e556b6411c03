//! Comparison and repair of differences nobody captured.

use ipicsha_core::data::{Differences, RepairReport};

use crate::{
    Command, Error, Journal, JournalFilter, JournalKind, Writes,
    tests::support::{Pair, corrupt, dump, one, sql, wait},
};

const SCHEMA: &str = "
    CREATE TABLE plain(id INTEGER PRIMARY KEY, v TEXT, n);
    CREATE TABLE pairs(a TEXT COLLATE NOCASE, b BLOB, c INTEGER, v, w, PRIMARY KEY(a, b, c)) WITHOUT ROWID;
    CREATE TABLE sparse(k TEXT PRIMARY KEY, v, w, x, y);
    CREATE TABLE uniq(id INTEGER PRIMARY KEY, name TEXT UNIQUE, v);
    CREATE TABLE empty(id INTEGER PRIMARY KEY);";

const FILL: &str = "
    WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<10000) INSERT INTO plain SELECT v,'row '||v,v*1.5 FROM s;
    WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<3000)
        INSERT INTO pairs SELECT 'Key'||(v%50), CAST(v%7 AS BLOB), v, randomblob(9), NULL FROM s;
    WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<500) INSERT INTO sparse(k) SELECT 'k'||v FROM s;
    WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<500) INSERT INTO uniq SELECT v,'n'||v,v FROM s;";

const FAULTS: &str = "
    UPDATE plain SET v='broken' WHERE id IN (1,64,65,4096,4097,9999);
    DELETE FROM plain WHERE id IN (2,5000,10000);
    INSERT INTO plain VALUES(-5,'extra',1),(20000,'extra',2);
    UPDATE pairs SET v=NULL WHERE c=77; DELETE FROM pairs WHERE c BETWEEN 100 AND 250;
    INSERT INTO pairs VALUES('zz',x'',1,1,1),('Key1','text',5,NULL,NULL);
    UPDATE sparse SET y=0 WHERE k='k9'; INSERT INTO sparse(k) VALUES('');
    UPDATE sparse SET k='K10' WHERE k='k10';";

fn compare(pair: &Pair, apply: bool, run: u64) -> RepairReport {
    let report = pair.a.ask(|done| Command::Compare { apply, run, done }).unwrap();
    let told = || pair.b.finished.lock().unwrap().iter().find(|f| f.0 == run).cloned();
    wait("the partner is told", || told().is_some());
    assert_eq!(told().unwrap().2.unwrap(), report);
    report
}

fn of<'a>(report: &'a RepairReport, table: &str) -> &'a Differences {
    &report.tables.iter().find(|t| t.table == table).unwrap().differences
}

fn counts(found: &Differences) -> (u64, u64, u64) {
    (found.only_primary, found.only_secondary, found.differing)
}

fn filled() -> Pair {
    let pair = Pair::running(SCHEMA);
    sql(&pair.a.path, FILL);
    pair.wait_equal();
    pair
}

#[test]
fn equal_databases_have_no_differences() {
    let pair = filled();
    let report = compare(&pair, true, 1);
    assert_eq!((report.found(), report.remaining(), report.passes), (0, 0, 1));
    assert_eq!(report.rows_compared, 14_000);
    assert_eq!(report.tables.len(), 5);
}

#[test]
fn all_kinds_of_differences_are_found_shown_and_repaired() {
    let pair = filled();
    corrupt(&pair.b.path, FAULTS);
    let (a, b) = (dump(&pair.a.path), dump(&pair.b.path));
    let dry = compare(&pair, false, 2);
    assert_eq!((dump(&pair.a.path), dump(&pair.b.path)), (a.clone(), b.clone()), "nothing changed");
    assert!(!dry.applied);
    let journal = Journal::open(&pair.b.journal()).unwrap();
    assert!(journal.list(&JournalFilter::default()).unwrap().is_empty());
    let wet = compare(&pair, true, 3);
    for report in [&dry, &wet] {
        assert_eq!(counts(of(report, "plain")), (3, 2, 6));
        assert_eq!(counts(of(report, "pairs")), (151, 2, 1));
        assert_eq!(counts(of(report, "sparse")), (1, 2, 1));
        assert_eq!(counts(of(report, "uniq")), (0, 0, 0));
    }
    assert_eq!((dry.found(), dry.remaining()), (169, 169));
    assert_eq!((wet.remaining(), wet.passes), (0, 2));
    let after = dump(&pair.a.path);
    assert_eq!(after, dump(&pair.b.path));
    assert_eq!(after.len(), a.len() + 6, "only what one side had was added");
    let losers = journal.list(&JournalFilter::default()).unwrap();
    assert_eq!(losers.len(), 8, "every replaced version");
    assert!(losers.iter().all(|loser| loser.kind == JournalKind::Repair && loser.loser_was_own));
    assert_eq!(one::<i64>(&pair.a.path, "SELECT count(*) FROM plain WHERE v='broken'"), 0);
    sql(&pair.a.path, "UPDATE plain SET n=0 WHERE id=20000");
    pair.wait_equal();
}

#[test]
fn unique_values_held_by_other_records_do_not_stop_a_repair() {
    let pair = filled();
    // Swapped, taken by an extra record, and an extra record in the way of nobody.
    corrupt(
        &pair.b.path,
        "UPDATE uniq SET name='tmp' WHERE id=1; UPDATE uniq SET name='n1' WHERE id=2; UPDATE uniq SET name='n2' WHERE id=1;
         UPDATE uniq SET name='moved' WHERE id=7; INSERT INTO uniq VALUES(900,'n7',0),(901,'free',0)",
    );
    let report = compare(&pair, true, 4);
    assert_eq!(report.remaining(), 0, "{report:?}");
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
    let all = "SELECT count(*)||group_concat(name) FROM uniq WHERE id IN (1,2,7,900,901)";
    assert_eq!(one::<String>(&pair.b.path, all), "4n1,n2,n7,free");
    let journal = Journal::open(&pair.b.journal()).unwrap();
    let losers = journal.list(&JournalFilter::default()).unwrap();
    assert!(losers.iter().any(|loser| loser.describe_key() == "900"), "what had to go is kept");
}

#[test]
fn an_extra_record_of_the_secondary_that_the_primary_cannot_take_is_journaled_and_removed() {
    let pair = filled();
    // 900 comes before 950 in the order of keys, so it is offered to the primary first.
    corrupt(&pair.a.path, "INSERT INTO uniq VALUES(950,'wanted',1)");
    corrupt(&pair.b.path, "INSERT INTO uniq VALUES(900,'wanted',2)");
    let report = compare(&pair, true, 5);
    assert_eq!(report.remaining(), 0, "{report:?}");
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
    assert_eq!(one::<i64>(&pair.b.path, "SELECT id FROM uniq WHERE name='wanted'"), 950);
    let journal = Journal::open(&pair.b.journal()).unwrap();
    assert_eq!(journal.list(&JournalFilter::default()).unwrap()[0].describe_key(), "900");
}

#[test]
fn a_repair_beside_a_writing_application_loses_nothing_newer() {
    let pair = filled();
    corrupt(&pair.b.path, FAULTS);
    corrupt(&pair.b.path, "UPDATE plain SET v='stale' WHERE id>100");
    let writer = crate::tests::support::application(&pair.a.path);
    let (done, result) = std::sync::mpsc::channel();
    pair.a.send(Command::Compare {
        apply: true,
        run: 6,
        done: Box::new(move |report| done.send(report).unwrap()),
    });
    let mut n = 0;
    let report = loop {
        writer.execute("UPDATE plain SET n=-?1 WHERE id=?1%10000+1", [n * 37]).unwrap();
        n += 1;
        if let Ok(report) = result.try_recv() {
            break report.unwrap();
        }
    };
    pair.wait_equal();
    assert!(report.found() > 0, "{report:?}");
    assert_eq!(
        one::<i64>(
            &pair.a.path,
            "SELECT count(*) FROM plain WHERE v IN ('stale','broken') AND id<>20000"
        ),
        0
    );
}

#[test]
fn an_empty_table_on_one_side_is_filled_from_the_other() {
    let pair = filled();
    corrupt(&pair.b.path, "DELETE FROM plain; DELETE FROM pairs");
    corrupt(&pair.a.path, "DELETE FROM sparse; DELETE FROM uniq");
    let report = compare(&pair, true, 7);
    assert_eq!(counts(of(&report, "plain")), (10_000, 0, 0));
    assert_eq!(counts(of(&report, "pairs")), (3000, 0, 0));
    assert_eq!(counts(of(&report, "sparse")), (0, 500, 0));
    assert_eq!(counts(of(&report, "uniq")), (0, 500, 0));
    assert_eq!(report.remaining(), 0);
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
    assert_eq!(dump(&pair.a.path).len(), 14_000);
}

#[test]
fn many_extra_records_behind_one_of_the_primary_are_all_found() {
    let pair = Pair::running(SCHEMA);
    sql(&pair.a.path, "INSERT INTO plain VALUES(1,'a',0),(100000,'z',0),(100001,'gone',0)");
    pair.wait_equal();
    corrupt(
        &pair.b.path,
        "DELETE FROM plain WHERE id=100001; WITH RECURSIVE s(v) AS (VALUES(2) UNION ALL SELECT v+1 FROM s WHERE v<7001) INSERT INTO plain SELECT v,'x',0 FROM s",
    );
    let dry = compare(&pair, false, 8);
    assert_eq!(counts(of(&dry, "plain")), (1, 7000, 0));
    let wet = compare(&pair, true, 9);
    assert_eq!((counts(of(&wet, "plain")), wet.remaining()), ((1, 7000, 0), 0));
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
}

#[test]
fn a_comparison_is_refused_where_it_cannot_run_and_outlives_a_cut() {
    let pair = Pair::running(SCHEMA);
    let ask = |side: &crate::tests::support::Side| {
        side.ask(|done| Command::Compare { apply: false, run: 10, done })
    };
    assert!(matches!(ask(&pair.b), Err(Error::NotLeader)));
    sql(&pair.a.path, FILL);
    pair.wait_equal();
    corrupt(&pair.b.path, "UPDATE plain SET v='stale'");
    let (to, answer) = std::sync::mpsc::channel();
    pair.a.send(Command::Compare {
        apply: true,
        run: 11,
        done: Box::new(move |report| to.send(report.map(drop)).unwrap()),
    });
    wait("it runs", || pair.b.is(|s| s.repair.is_some()) || !answer_is_empty(&pair));
    pair.cut();
    let refused = ask(&pair.a);
    assert!(matches!(refused, Err(Error::NotReady(_) | Error::Comparing(_))), "{refused:?}");
    pair.connect();
    answer.recv().unwrap().unwrap();
    pair.wait_synced();
    let report = pair.a.ask(|done| Command::Compare { apply: true, run: 12, done }).unwrap();
    assert_eq!(report.remaining(), 0);
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
    pair.b.set_writes(Writes::Closed);
}

fn answer_is_empty(pair: &Pair) -> bool {
    pair.a.finished.lock().unwrap().iter().all(|finished| finished.0 != 11)
}
