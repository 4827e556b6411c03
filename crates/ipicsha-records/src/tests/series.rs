//! What the application has committed together arrives together, or not at all.

use std::{collections::BTreeMap, sync::mpsc::channel};

use ipicsha_core::{
    data::{Batch, Change, CompareStep, Data, Follows, Value},
    id::{DatabaseName, Seq},
    license::LicensedRole::{Primary, Secondary},
};

use rusqlite::Connection;

use crate::{
    Command, Gate, JournalKind, Writes,
    tests::{
        model::Random,
        support::{GENEROUS, Node, Pair, Side, application, dump, one, sql, wait},
    },
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
const U: &str = "CREATE TABLE u(id INTEGER PRIMARY KEY, name TEXT UNIQUE)";
const COUNT: &str = "SELECT count(*) FROM t";

/// One transaction of so many rows.
fn insert(side: &Side, rows: u32, v: &str) {
    let numbers = format!("WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})");
    sql(&side.path, &format!("INSERT INTO t(v) {numbers} SELECT {v} FROM n"));
}

/// Returns once the worker of `side` has done everything it can with what was given to it before.
fn until_worked_off(side: &crate::CommandSender) {
    // The first is answered behind it, before anything is worked off; the others in later rounds.
    for _ in 0..3 {
        let (to, answer) = channel();
        let done = Box::new(move |result: Result<(), crate::Error>| to.send(result).unwrap());
        side.send(Command::SetWrites { writes: Writes::Closed, drained: false, done });
        answer.recv_timeout(GENEROUS).unwrap().unwrap();
        std::thread::yield_now();
    }
}

#[test]
fn of_a_transaction_that_was_cut_off_nothing_is_served_after_a_takeover() {
    // By rows, and by bytes.
    for (rows, v) in [(3500, "'x'"), (40, "randomblob(100000)")] {
        let pair = Pair::running(T);
        sql(&pair.a.path, "INSERT INTO t VALUES(0,'before')");
        pair.wait_equal();
        let (standby, mut sent) = (pair.b.worker.as_ref().unwrap().sender(), 0);
        pair.a.cut_before(move |data| {
            sent += usize::from(matches!(data, Data::Batch(_)));
            let last = sent == 4 && matches!(data, Data::Batch(_));
            if last {
                until_worked_off(&standby);
            }
            last
        });
        insert(&pair.a, rows, v);
        pair.wait_cut();
        let begun = pair.a.batches().iter().filter(|b| b.follows == Follows::AtOnce).count();
        assert_eq!(begun, 3, "the transaction is of more than one batch");
        pair.b.set_writes(Writes::Open);
        assert_eq!(one::<i64>(&pair.b.path, COUNT), 1, "half a transaction is served");
        pair.b.set_writes(Writes::Closed);
        pair.connect();
        pair.wait_equal();
        assert_eq!(one::<i64>(&pair.b.path, COUNT), i64::from(rows) + 1);
    }
}

#[test]
fn what_has_come_whole_is_served_after_a_takeover_although_nobody_had_time_for_it() {
    let pair = Pair::running(T);
    sql(&pair.a.path, "INSERT INTO t VALUES(0,'before')");
    pair.wait_equal();
    let standby = pair.b.worker.as_ref().unwrap().sender();
    let ((busy, is_busy), (go, may_go)) = (channel(), channel());
    let done = Box::new(move |_: Result<(), crate::Error>| {
        busy.send(()).unwrap();
        let _ = may_go.recv_timeout(GENEROUS); // the test has failed
    });
    standby.send(Command::SetWrites { writes: Writes::Closed, drained: false, done });
    is_busy.recv_timeout(GENEROUS).unwrap();
    for _ in 0..3 {
        insert(&pair.a, 1500, "'x'");
    }
    let rows = || pair.a.batches().iter().map(|batch| batch.rows.len()).sum::<usize>();
    wait("all is sent", || rows() == 4501);
    let open = |done| Command::SetWrites { writes: Writes::Open, drained: false, done };
    pair.a.ask(open).unwrap(); // answered behind it
    standby.send(Command::LinkDown);
    go.send(()).unwrap();
    pair.b.ask(open).unwrap();
    assert_eq!(one::<i64>(&pair.b.path, COUNT), 4501);
}

#[test]
fn a_reader_of_the_standby_never_sees_half_a_transaction() {
    const ROWS: u32 = 2500;
    let pair = Pair::running(T);
    let standby = application(&pair.b.path);
    let rounds = 8;
    let mut count = standby.prepare(COUNT).unwrap();
    let mut seen = 0;
    for round in 1..=rounds {
        insert(&pair.a, ROWS, "'x'");
        wait("the transaction is there", || {
            seen = count.query_row([], |row| row.get(0)).unwrap();
            assert_eq!(seen % ROWS, 0, "a part of a transaction is there");
            seen == round * ROWS
        });
    }
    assert!(pair.a.batches().len() > 2 * rounds as usize, "they were more than one batch each");
}

#[test]
fn a_series_ends_at_its_bound_and_the_next_one_goes_on() {
    let pair = Pair::running(T);
    pair.a.send(Command::SetGate(Gate::Closed));
    insert(&pair.a, 30_000, "'x'");
    pair.a.send(Command::SetGate(Gate::Open));
    wait("all is there", || one::<i64>(&pair.b.path, COUNT) == 30_000);
    let batches: Vec<Batch> = pair.a.batches();
    let series: Vec<&[Batch]> =
        batches.split_inclusive(|batch| batch.follows != Follows::AtOnce).collect();
    let rows = |series: &[Batch]| series.iter().map(|batch| batch.rows.len()).sum::<usize>();
    let sizes: Vec<usize> = series.iter().map(|series| rows(series)).collect();
    assert_eq!(sizes, [10_000; 3]);
    let ends: Vec<Follows> = series.iter().map(|series| series.last().unwrap().follows).collect();
    assert_eq!(ends, [Follows::Later, Follows::Later, Follows::Nothing]);
    wait("it is acknowledged", || pair.a.is(|s| s.acked == s.last_seq));
    assert!(dump(&pair.a.path) == dump(&pair.b.path));
}

#[test]
fn large_series_do_not_wait_for_each_other() {
    // More than a window of batches, of rows and of bytes, while nothing is acknowledged in between.
    for (rows, v) in [(230_000, "'x'"), (90, "randomblob(1000000)")] {
        let mut pair = Pair::stopped(T, T);
        (pair.a.capacity, pair.b.capacity) = (1_000_000, 1_000_000);
        pair.a.start(Writes::Open);
        pair.b.start(Writes::Closed);
        pair.connect();
        pair.wait_synced();
        insert(&pair.a, rows, v);
        wait("all is there", || one::<u32>(&pair.b.path, COUNT) == rows);
        wait("it is acknowledged", || pair.a.is(|s| s.acked == s.last_seq));
    }
}

/// Two nodes, the first of which moves a UNIQUE value from record 1 to record 2, in two batches of one
/// series: the one with the value, and the one without.
fn moved() -> (Node, Node, [Batch; 2]) {
    let (mut a, mut b) = (Node::new(Primary, U), Node::new(Secondary, U));
    Node::introduce(&mut a, &mut b);
    a.write("INSERT INTO u VALUES(1,'x'),(2,'y')", 1);
    let batch = a.batch(usize::MAX);
    b.apply(&batch, usize::MAX).unwrap();
    a.acked = b.applied();
    // The record that gives it away is changed once more.
    a.write(
        "BEGIN; UPDATE u SET name='z' WHERE id=1; UPDATE u SET name='x' WHERE id=2; UPDATE u SET name='w' WHERE id=1; COMMIT",
        2,
    );
    let first = a.batch(1);
    let second = a.batch_behind(first.to, 1);
    assert_eq!((first.follows, second.follows), (Follows::AtOnce, Follows::Nothing));
    (a, b, [first, second])
}

fn names(node: &Node) -> String {
    one(node.path(), "SELECT group_concat(id||name) FROM (SELECT * FROM u ORDER BY id)")
}

#[test]
fn what_is_moved_within_a_series_is_never_missing_without_a_trace() {
    let (_a, mut b, [first, second]) = moved();
    assert_eq!(b.apply_all(&[&first, &second], usize::MAX).unwrap(), 2);
    assert_eq!((names(&b).as_str(), b.applied()), ("1w,2x", second.to));
    assert!(b.losers().is_empty(), "everything is in its new place");

    let (_a, mut b, [mut first, second]) = moved();
    first.follows = Follows::Later;
    assert_eq!(b.apply_all(&[&first], usize::MAX).unwrap(), 1);
    assert_eq!(names(&b), "2x");
    let [kept] = &b.losers()[..] else { panic!("the record that is nowhere is kept") };
    assert_eq!((kept.kind, kept.describe_key().as_str()), (JournalKind::Unique, "1"));
    assert_eq!(kept.describe(&kept.loser), "id = 1\nname = 'x'");
    assert!(kept.loser_was_own);
    b.apply(&second, usize::MAX).unwrap();
    assert_eq!(names(&b), "1w,2x");
}

#[test]
fn a_transaction_takes_in_whole_series_also_where_own_changes_may_be_concurrent() {
    let (_a, mut b, [first, second]) = moved();
    b.write("INSERT INTO u VALUES(9,'own')", 9);
    assert_eq!(b.apply_all(&[&first, &second], usize::MAX).unwrap(), 2);
    assert_eq!(names(&b), "1w,2x,9own");
    assert!(b.losers().is_empty());
}

#[test]
fn where_both_write_a_series_comes_in_pieces_and_what_is_moved_is_kept() {
    let pair = Pair::start(U, U, Writes::Open, Writes::Open);
    pair.wait_synced();
    sql(&pair.a.path, "INSERT INTO u VALUES(1,'x'),(2,'y')");
    pair.wait_equal();
    let rows = "WITH n(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM n WHERE i<1500)";
    sql(
        &pair.a.path,
        &format!(
            "BEGIN; UPDATE u SET name='z' WHERE id=1; UPDATE u SET name='x' WHERE id=2;
             INSERT INTO u {rows} SELECT i,'n'||i FROM n; UPDATE u SET name='w' WHERE id=1; COMMIT"
        ),
    );
    pair.wait_equal();
    let kept = pair.b.conflicts.lock().unwrap().clone();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!((kept[0].key.as_str(), kept[0].kind), ("1", JournalKind::Unique));
}

#[test]
fn another_message_within_a_series_makes_both_attach_anew() {
    let pair = Pair::running(T);
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    pair.wait_equal();
    let mut next = pair.a.last_batch();
    (next.from, next.to, next.follows) = (next.to, Seq(next.to.0 + 1), Follows::AtOnce);
    next.rows.clear();
    let attached = || {
        let sent = pair.b.sent.lock().unwrap();
        sent.iter().filter(|data| matches!(data, Data::Attach(_))).count()
    };
    let before = attached();
    pair.b.send(Command::Received(Data::Batch(next)));
    until_worked_off(&pair.b.worker.as_ref().unwrap().sender());
    assert_eq!(attached(), before, "it waits for the rest");
    let database = DatabaseName("app".into());
    pair.b.send(Command::Received(Data::Compare { database, run: 9, step: CompareStep::Ready }));
    wait("it attaches", || attached() > before);
    sql(&pair.a.path, "INSERT INTO t VALUES(2,'y')");
    pair.wait_equal();
}

/// Records by their number.
type Records = BTreeMap<i64, String>;

fn records(db: &Connection) -> Records {
    let mut statement = db.prepare("SELECT id, name FROM u").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// A transaction of the application, in which names go from record to record.
fn shuffle(random: &mut Random, a: &Node, now: i64) {
    let mut statements = String::from("BEGIN; ");
    for _ in 0..=random.below(5) {
        let (id, name) = (random.below(8), random.below(8));
        statements += &match random.below(5) {
            0 => format!("DELETE FROM u WHERE id={id}; "),
            1 => format!("UPDATE OR IGNORE u SET name='n{name}' WHERE id={id}; "),
            _ => format!("REPLACE INTO u VALUES({id},'n{name}'); "),
        };
    }
    a.write(&format!("{statements} COMMIT"), now);
}

/// Reads a series of at most `most` batches, while the application goes on; and what the application has
/// at its end.
fn read_series(random: &mut Random, a: &mut Node, now: i64) -> (Vec<Batch>, Records) {
    let (limit, most) = (random.pick(&[1, 2, 5]), random.pick(&[1, 2, 4, 1000]));
    let mut series: Vec<Batch> = Vec::new();
    loop {
        let from = series.last().map_or(a.acked, |batch| batch.to);
        series.push(a.batch_behind(from, limit));
        let last = series.len() == most;
        let batch = series.last_mut().unwrap();
        if batch.follows == Follows::AtOnce && last {
            batch.follows = Follows::Later;
        }
        if batch.follows != Follows::AtOnce {
            return (series, records(&a.app));
        }
        if random.chance(30) {
            shuffle(random, a, now);
        }
    }
}

#[test]
fn after_a_series_the_standby_has_what_the_active_had_and_within_one_it_has_lost_nothing() {
    let (mut ends, mut displaced) = (0, 0);
    for seed in 1..=60 {
        let mut random = Random::new(seed);
        let (mut a, mut b) = (Node::new(Primary, U), Node::new(Secondary, U));
        Node::introduce(&mut a, &mut b);
        for now in 1..=60 {
            shuffle(&mut random, &a, now);
            if random.chance(50) {
                continue;
            }
            let (series, at_a) = read_series(&mut random, &mut a, now);
            let before = records(&b.app);
            let all: Vec<&Batch> = series.iter().collect();
            assert_eq!(b.apply_all(&all, usize::MAX).unwrap(), all.len());
            a.acked = b.applied();
            let after = records(&b.app);
            if series.last().unwrap().follows == Follows::Nothing {
                assert_eq!(after, at_a, "seed {seed}, {now}");
                ends += 1;
                continue;
            }
            let kept: Vec<(String, String)> = b
                .losers()
                .iter()
                .map(|loser| (loser.describe_key(), loser.describe(&loser.loser)))
                .collect();
            let changes = || series.iter().flat_map(|batch| &batch.rows).map(|row| &row.change);
            for (id, name) in before.iter().filter(|(id, _)| !after.contains_key(id)) {
                let deleted = Change::Delete(vec![Value::Integer(*id)]);
                if !changes().any(|change| *change == deleted) {
                    let version = (id.to_string(), format!("id = {id}\nname = '{name}'"));
                    assert!(kept.contains(&version), "seed {seed}, {now}: {version:?} is lost");
                    displaced += 1;
                }
            }
        }
    }
    assert!(ends > 100 && displaced > 10, "{ends} and {displaced} prove nothing");
}

#[test]
fn two_versions_of_a_record_that_lost_at_the_same_number_of_the_two_logs_are_both_kept() {
    let (mut a, mut b) = (Node::new(Primary, U), Node::new(Secondary, U));
    Node::introduce(&mut a, &mut b);
    // Number 4 here; it loses its name against a later version of another record.
    b.write("INSERT INTO u VALUES(101,'p'),(102,'q'),(103,'r'),(1,'lost')", 10);
    a.write("INSERT INTO u VALUES(2,'lost')", 20);
    let batch = a.batch(usize::MAX);
    b.apply(&batch, usize::MAX).unwrap();
    // Number 4 there takes a name whose record comes later in the same series.
    a.write("INSERT INTO u VALUES(1,'moved')", 30);
    let batch = a.batch_behind(b.applied(), usize::MAX);
    b.apply(&batch, usize::MAX).unwrap();
    let changes = "UPDATE u SET name='n' WHERE id=1; INSERT INTO u VALUES(9,'moved')";
    a.write(&format!("BEGIN; {changes}; UPDATE u SET name='m' WHERE id=1; COMMIT"), 40);
    let batch = a.batch_behind(b.applied(), usize::MAX);
    assert!(!b.apply(&batch, 1).unwrap(), "the series has another record");
    assert_eq!(b.applied(), Seq(4));
    let losers = b.losers().into_iter().filter(|loser| loser.loser.is_some());
    let mut kept: Vec<_> = losers.map(|loser| loser.describe(&loser.loser)).collect();
    kept.sort();
    assert_eq!(kept, ["id = 1\nname = 'lost'", "id = 1\nname = 'moved'"]);
}
