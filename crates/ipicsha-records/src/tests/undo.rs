//! A repair is undone: what it overwrote comes back on both servers, unless it was changed since.

use ipicsha_core::data::{Data, UndoStep};

use crate::{
    Command, Error, Journal, JournalFilter, UndoReport, Writes,
    tests::support::{GENEROUS, Pair, Side, corrupt, dump, one, sql, wait},
};

const SCHEMA: &str = "
    CREATE TABLE plain(id INTEGER PRIMARY KEY, v TEXT, n);
    CREATE TABLE pairs(a TEXT, b INTEGER, v, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE TABLE uniq(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE ruled(id INTEGER PRIMARY KEY, v);
    CREATE TRIGGER rule BEFORE UPDATE ON ruled WHEN OLD.id=5 BEGIN SELECT RAISE(ABORT,'closed'); END;";
const FILL: &str = "
    WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<3000) INSERT INTO plain SELECT v,'row',v FROM s;
    INSERT INTO pairs SELECT 'k'||(id%5), id, id FROM plain WHERE id<500;
    INSERT INTO uniq SELECT id, 'n'||id FROM plain WHERE id<100; INSERT INTO ruled VALUES(4,''),(5,'');";
const RUN: u64 = 77;

/// Repaired after these faults on the secondary.
fn repaired(faults: &str) -> Pair {
    repaired_of(SCHEMA, FILL, faults)
}

fn repaired_of(schema: &str, fill: &str, faults: &str) -> Pair {
    let pair = Pair::running(schema);
    sql(&pair.a.path, fill);
    pair.wait_equal();
    corrupt(&pair.b.path, faults);
    let report = pair.a.ask(|done| Command::Compare { apply: true, run: RUN, done }).unwrap();
    assert_eq!(report.remaining(), 0, "{report:?}");
    wait("both are done", || pair.b.is(|s| s.repair.is_none()));
    wait("both are done", || pair.b.finished.lock().unwrap().iter().any(|f| f.0 == RUN));
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
    pair
}

fn undo(side: &Side, run: u64) -> Result<UndoReport, Error> {
    side.ask(|done| Command::Undo { run, done })
}

fn counts(report: &UndoReport) -> (u64, u64, u64) {
    (report.restored, report.already, report.skipped)
}

/// Whether both journals say that the repair was undone.
fn noted(pair: &Pair) -> bool {
    [&pair.a, &pair.b].into_iter().all(|side| {
        let past = Journal::open(&side.journal()).unwrap().repairs(None, 0).unwrap();
        past.iter().any(|past| past.run == RUN && past.undone.is_some())
    })
}

const FAULTS: &str = "
    UPDATE plain SET v='older' WHERE id IN (1, 5, 2999); UPDATE pairs SET v='older' WHERE b=7;
    DELETE FROM plain WHERE id=9; INSERT INTO plain VALUES(9000,'only here',0);
    UPDATE uniq SET name='tmp' WHERE id=1; UPDATE uniq SET name='n1' WHERE id=2; UPDATE uniq SET name='n2' WHERE id=1;
    INSERT INTO uniq VALUES(900,'free')";

#[test]
fn what_a_repair_overwrote_comes_back_on_both_servers_and_copies_stay() {
    let pair = repaired(FAULTS);
    let report = undo(&pair.a, RUN).unwrap();
    assert_eq!(counts(&report), (6, 0, 0), "{report:?}");
    pair.wait_equal();
    let older = "SELECT count(*) FROM plain WHERE v='older'";
    let swapped = "SELECT group_concat(name) FROM (SELECT name FROM uniq WHERE id<3 ORDER BY id)";
    for side in [&pair.a, &pair.b] {
        assert_eq!(one::<i64>(&side.path, older), 3);
        assert_eq!(one::<String>(&side.path, swapped), "n2,n1");
        assert_eq!(one::<i64>(&side.path, "SELECT count(*) FROM pairs WHERE v='older'"), 1);
        assert_eq!(one::<i64>(&side.path, "SELECT count(*) FROM plain WHERE id IN (9, 9000)"), 2);
    }
    let stays: Vec<_> =
        report.stays.iter().map(|s| (s.table.as_str(), s.to_secondary, s.to_primary)).collect();
    assert_eq!(stays, [("plain", 1, 1), ("uniq", 0, 1)]);
    wait("both know", || noted(&pair));
    let journal = Journal::open(&pair.b.journal()).unwrap();
    let losers = journal.list(&JournalFilter::default()).unwrap();
    assert_eq!(losers.iter().filter(|loser| loser.restored_at.is_some()).count(), 6);
    let again = undo(&pair.a, RUN).unwrap();
    assert_eq!(counts(&again), (0, 6, 0), "a second time changes nothing: {again:?}");
}

#[test]
fn a_record_changed_since_the_repair_is_left_and_named() {
    let pair = repaired(FAULTS);
    sql(
        &pair.a.path,
        "UPDATE plain SET n=-1 WHERE id=5; DELETE FROM plain WHERE id=2999; UPDATE pairs SET v=1 WHERE b=8",
    );
    let report = undo(&pair.a, RUN).unwrap();
    assert_eq!(counts(&report), (4, 0, 2), "{report:?}");
    let mut left: Vec<_> = report.left.iter().map(|l| (l.table.as_str(), l.key.as_str())).collect();
    left.sort_unstable();
    assert_eq!(left, [("plain", "2999"), ("plain", "5")]);
    pair.wait_equal();
    assert_eq!(one::<String>(&pair.b.path, "SELECT v||n FROM plain WHERE id=5"), "row-1");
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM plain WHERE id=2999"), 0);
}

#[test]
fn an_undo_that_was_cut_off_is_run_again() {
    let pair = repaired("UPDATE plain SET v='older'");
    let mut asked = 0;
    pair.a.cut_before(move |data| {
        let ask = matches!(data, Data::Undo { step: UndoStep::Ask { .. }, .. });
        asked += usize::from(ask);
        ask && asked == 3
    });
    let (to, answer) = std::sync::mpsc::channel();
    let done = Box::new(move |result| to.send(result).unwrap());
    pair.a.send(Command::Undo { run: RUN, done });
    pair.wait_cut();
    let cut: Result<UndoReport, Error> = answer.recv_timeout(GENEROUS).unwrap();
    assert!(matches!(cut, Err(Error::Interrupted(_))), "{cut:?}");
    assert!(!noted(&pair));
    let back = one::<i64>(&pair.a.path, "SELECT count(*) FROM plain WHERE v='older'");
    assert!(back > 0 && back < 3000, "{back}");
    assert!(matches!(undo(&pair.a, RUN), Err(Error::NotReady(_))), "without the partner");
    pair.connect();
    pair.wait_synced();
    let report = undo(&pair.a, RUN).unwrap();
    let back = back.cast_unsigned();
    assert_eq!(counts(&report), (3000 - back, back, 0));
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM plain WHERE v='older'"), 3000);
    wait("both know", || noted(&pair));
}

#[test]
fn the_undo_is_done_where_writes_are_open() {
    let pair = repaired(FAULTS);
    assert!(matches!(undo(&pair.b, RUN), Err(Error::Fenced { .. })));
    assert!(matches!(undo(&pair.a, 4711), Err(Error::NoRepair(4711))));
    pair.a.set_writes(Writes::Closed);
    pair.b.set_writes(Writes::Open);
    assert!(matches!(undo(&pair.a, RUN), Err(Error::Fenced { .. })));
    let report = undo(&pair.b, RUN).unwrap();
    assert_eq!(counts(&report), (6, 0, 0));
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.a.path, "SELECT count(*) FROM plain WHERE v='older'"), 3);
    wait("both know", || noted(&pair));
}

#[test]
fn rules_of_the_application_hold_for_an_undo_too() {
    let pair = repaired("UPDATE ruled SET v='older'; UPDATE uniq SET name='was' WHERE id=3");
    sql(&pair.a.path, "INSERT INTO uniq VALUES(5000,'was')");
    let report = undo(&pair.a, RUN).unwrap();
    assert_eq!(counts(&report), (1, 0, 2), "{report:?}");
    let reason = |key: &str| report.left.iter().find(|l| l.key == key).unwrap().reason.clone();
    assert!(reason("5").contains("closed"), "{report:?}");
    assert!(reason("3").contains("UNIQUE"), "{report:?}");
    pair.wait_equal();
}

const UNITS: &str = "CREATE TABLE units(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE crew(id INTEGER PRIMARY KEY, unit REFERENCES units(id) ON DELETE CASCADE);
    CREATE TABLE late(id INTEGER PRIMARY KEY, unit REFERENCES units(id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE free(id INTEGER PRIMARY KEY, v)";
const CREW: &str =
    "INSERT INTO units VALUES(1,'n1'),(2,'n2'); INSERT INTO crew VALUES(1,1),(2,2),(3,2);
    INSERT INTO late VALUES(1,1); INSERT INTO free VALUES(1,'now')";

#[test]
fn an_undo_takes_nothing_with_it_that_depends_on_a_record() {
    let faults = "UPDATE free SET v='older'; UPDATE units SET name='t' WHERE id=1;
        UPDATE units SET name='n1' WHERE id=2; UPDATE units SET name='n2' WHERE id=1";
    let pair = repaired_of(UNITS, CREW, faults);
    let report = undo(&pair.a, RUN).unwrap();
    assert_eq!(counts(&report), (1, 0, 2), "{report:?}");
    pair.wait_equal();
    for side in [&pair.a, &pair.b] {
        assert_eq!(one::<i64>(&side.path, "SELECT count(*) FROM crew"), 3, "nobody was taken out");
        assert_eq!(one::<String>(&side.path, "SELECT v FROM free"), "older");
        assert_eq!(one::<String>(&side.path, "SELECT name FROM units WHERE id=1"), "n1");
    }
}

#[test]
fn a_rule_checked_at_the_end_of_a_transaction_holds_up_one_record_only() {
    let faults = "PRAGMA foreign_keys=OFF; UPDATE free SET v='older'; UPDATE late SET unit=999";
    let pair = repaired_of(UNITS, CREW, faults);
    let report = undo(&pair.a, RUN).unwrap();
    assert_eq!(counts(&report), (1, 0, 1), "{report:?}");
    assert!(report.left[0].reason.contains("FOREIGN KEY"), "{report:?}");
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT unit FROM late"), 1);
    assert_eq!(one::<String>(&pair.b.path, "SELECT v FROM free"), "older");
}
