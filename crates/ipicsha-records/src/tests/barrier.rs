//! A barrier is answered when the partner durably has everything that was committed before it, and
//! not a moment earlier; where that cannot be known it says why.

use std::{
    sync::mpsc::{Receiver, TryRecvError, channel},
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{Data, Follows},
    id::Seq,
};

use crate::{
    Command, Confirmed, Error, Gate, Writes,
    durable::{Wal, counted},
    tests::support::{GENEROUS, Pair, Side, application, corrupt, dump, one, sql, wait},
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

/// Asks for a barrier; the answer comes later.
fn begin(side: &Side, within: Duration) -> Receiver<Result<Confirmed, Error>> {
    let (to, answer) = channel();
    let deadline = Instant::now() + within;
    side.send(Command::Barrier {
        deadline,
        done: Box::new(move |result| to.send(result).unwrap()),
    });
    answer
}

fn ask(side: &Side) -> Result<Confirmed, Error> {
    begin(side, GENEROUS).recv_timeout(GENEROUS).unwrap()
}

fn nothing_yet(answer: &Receiver<Result<Confirmed, Error>>) {
    assert!(matches!(answer.try_recv(), Err(TryRecvError::Empty)), "answered too early");
}

/// The application's lock on the database of `side`, taken before `side` acknowledges `from` or more, and
/// held until nothing is cut off there any more; says twice that it is taken.
fn hold_from(side: &Side, from: Seq) -> [Receiver<()>; 2] {
    let (holder, (to, held), (also_to, also_held)) =
        (application(&side.path), channel(), channel());
    side.cut_before(move |data| {
        let reached = matches!(data, Data::Ack { to, .. } if *to >= from);
        if reached && holder.is_autocommit() {
            holder.execute_batch("BEGIN IMMEDIATE").unwrap();
            to.send(()).unwrap();
            also_to.send(()).unwrap();
        }
        false
    });
    [held, also_held]
}

/// The side has sent its log up to `seq`.
fn sent(side: &Side, seq: Seq) -> bool {
    let sent = side.sent.lock().unwrap();
    sent.iter().any(|data| matches!(data, Data::Batch(batch) if batch.to >= seq))
}

#[test]
fn what_was_committed_before_is_at_the_partner_when_it_returns() {
    for primary in [true, false] {
        let (a, b) =
            if primary { (Writes::Open, Writes::Closed) } else { (Writes::Closed, Writes::Open) };
        let pair = Pair::start(T, T, a, b);
        pair.wait_synced();
        let (active, standby) = if primary { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        for round in 1..=20 {
            sql(&active.path, &format!("INSERT INTO t VALUES({round},'x')"));
            let confirmed = ask(active).unwrap();
            assert_eq!(confirmed, Confirmed { seq: Seq(round), not_covered: vec![] });
            assert_eq!(one::<i64>(&standby.path, "SELECT count(*) FROM t"), round);
        }
    }
}

#[test]
fn it_waits_while_the_gate_is_closed_and_ends_when_it_is_acknowledged() {
    let pair = Pair::running(T);
    pair.a.send(Command::SetGate(Gate::Closed));
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    let answer = begin(&pair.a, GENEROUS);
    wait("it queues", || pair.a.is(|s| !s.attached && s.queue_records == 1));
    nothing_yet(&answer);
    pair.a.send(Command::SetGate(Gate::Open));
    assert_eq!(answer.recv_timeout(GENEROUS).unwrap().unwrap().seq, Seq(1));
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 1);
}

#[test]
fn sent_is_not_confirmed_until_the_partner_has_committed() {
    let pair = Pair::running(T);
    let holder = application(&pair.b.path);
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    let (patient, hasty) = (begin(&pair.a, GENEROUS), begin(&pair.a, Duration::from_millis(100)));
    wait("it is sent", || sent(&pair.a, Seq(1)));
    let error = hasty.recv_timeout(GENEROUS).unwrap().unwrap_err();
    assert!(matches!(error, Error::Unconfirmed { missing: 1, reason: None }), "{error}");
    nothing_yet(&patient);
    holder.execute_batch("ROLLBACK").unwrap();
    patient.recv_timeout(GENEROUS).unwrap().unwrap();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_lost_connection_is_told_at_once() {
    let pair = Pair::running(T);
    let holder = application(&pair.b.path);
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    let answer = begin(&pair.a, GENEROUS);
    wait("it is sent", || sent(&pair.a, Seq(1)));
    pair.cut();
    let error = answer.recv_timeout(GENEROUS).unwrap().unwrap_err();
    assert!(matches!(error, Error::NotConnected(_)), "{error}");
    let error = ask(&pair.a).unwrap_err();
    assert!(matches!(error, Error::NotConnected(_)), "also without any connection: {error}");
    drop(holder);
    pair.connect();
    ask(&pair.a).unwrap();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 1);
}

#[test]
fn the_standby_and_a_server_without_ha_refuse_it() {
    let mut pair = Pair::running(T);
    assert!(matches!(ask(&pair.b), Err(Error::Fenced { .. })));
    pair.a.ask(|done| Command::Remove { done }).unwrap();
    let error = ask(&pair.a).unwrap_err();
    assert!(error.to_string().contains("HA is not configured"), "{error}");
    pair.a.send(Command::Install);
    pair.wait_synced();
    ask(&pair.a).unwrap();
    // The thread ends while somebody waits.
    pair.a.send(Command::SetGate(Gate::Closed));
    let answer = begin(&pair.a, GENEROUS);
    pair.a.stop();
    assert!(matches!(answer.recv_timeout(GENEROUS).unwrap(), Err(Error::Stopped)));
}

#[test]
fn a_comparison_that_has_not_ended_confirms_nothing() {
    let many = format!(
        "{T}; WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n<30000)
         INSERT INTO t SELECT n,'x' FROM s"
    );
    for (at_a, at_b, writes_a, writes_b) in [
        (many.as_str(), T, Writes::Open, Writes::Closed),
        (T, many.as_str(), Writes::Closed, Writes::Open),
    ] {
        let pair = Pair::start(at_a, at_b, writes_a, writes_b);
        let active = if writes_a == Writes::Open { &pair.a } else { &pair.b };
        ask(active).unwrap();
        assert!(dump(&pair.a.path) == dump(&pair.b.path), "confirmed before it was there");
    }
}

#[test]
fn a_table_that_has_just_been_made_or_rebuilt_is_there_too() {
    for primary in [true, false] {
        let (a, b) =
            if primary { (Writes::Open, Writes::Closed) } else { (Writes::Closed, Writes::Open) };
        let pair = Pair::start(T, T, a, b);
        pair.wait_synced();
        let (active, standby) = if primary { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        for round in 0..5 {
            sql(
                &active.path,
                &format!(
                    "CREATE TABLE new{round}(id INTEGER PRIMARY KEY, v);
                     INSERT INTO new{round} VALUES(1,'without a trigger')"
                ),
            );
            ask(active).unwrap();
            assert_eq!(one::<i64>(&standby.path, &format!("SELECT count(*) FROM new{round}")), 1);
            sql(
                &active.path,
                &format!(
                    "BEGIN; CREATE TABLE other(id INTEGER PRIMARY KEY, v, w{round});
                     INSERT INTO other(id,v) SELECT id,v FROM t; DROP TABLE t;
                     ALTER TABLE other RENAME TO t;
                     INSERT INTO t(id) VALUES({round}); COMMIT"
                ),
            );
            ask(active).unwrap();
            assert_eq!(one::<i64>(&standby.path, "SELECT count(*) FROM t"), round + 1);
        }
    }
}

#[test]
fn what_is_not_replicated_is_named() {
    let pair =
        Pair::running("CREATE TABLE t(id TEXT PRIMARY KEY); CREATE VIRTUAL TABLE f USING fts5(x)");
    sql(&pair.a.path, "INSERT INTO t VALUES(NULL); INSERT INTO t VALUES('x')");
    let named = ask(&pair.a).unwrap().not_covered;
    assert!(named.iter().any(|text| text.starts_with("f (")), "{named:?}");
    assert!(named.iter().any(|text| text.contains("table t has records with NULL")), "{named:?}");
}

#[test]
fn what_is_sent_and_what_is_acknowledged_was_synced_before() {
    let pair = Pair::running(T);
    let synced = || [&pair.a, &pair.b].map(|side| counted::of(&side.path));
    for id in 1..=20 {
        let before = synced();
        sql(&pair.a.path, &format!("INSERT INTO t VALUES({id},'x')"));
        wait("it is acknowledged", || pair.a.is(|s| s.last_seq.0 == id && s.acked == s.last_seq));
        let after = synced();
        assert!(after[0] > before[0], "sent change {id} without a sync");
        assert!(after[1] > before[1], "acknowledged change {id} without a sync");
    }
    corrupt(&pair.b.path, "DELETE FROM t WHERE id<9");
    let before = synced();
    pair.a.ask(|done| Command::Compare { apply: true, run: 5, done }).unwrap();
    assert!(synced()[0] > before[0], "a repair sent rows without a sync");
}

#[test]
fn what_is_committed_while_batches_are_sent_is_synced_before_it_is_sent() {
    let pair = Pair::running(T);
    pair.a.send(Command::SetGate(Gate::Closed));
    let rows = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2500)";
    sql(&pair.a.path, &format!("INSERT INTO t {rows} SELECT i,'x' FROM n"));
    let (path, mut first) = (pair.a.path.clone(), true);
    let (to, seen) = channel();
    pair.a.cut_before(move |data| {
        let Data::Batch(batch) = data else { return false };
        let brings_it = format!("{:?}", batch.rows).contains(&format!("{:?}", b"later"));
        to.send((brings_it, counted::of(&path))).unwrap();
        if std::mem::take(&mut first) {
            // Read behind what is being sent.
            sql(&path, "UPDATE t SET v='later' WHERE id=1500");
        }
        false
    });
    pair.a.send(Command::SetGate(Gate::Open));
    let before = seen.recv_timeout(GENEROUS).unwrap().1;
    let after = std::iter::from_fn(|| seen.recv_timeout(GENEROUS).ok()).find(|batch| batch.0);
    assert!(after.unwrap().1 > before, "it was sent without a sync");
    pair.wait_equal();
}

#[test]
fn a_record_that_changes_again_while_it_waits_is_waited_for() {
    let pair = Pair::start(T, T, Writes::Open, Writes::Open);
    pair.wait_synced();
    pair.a.send(Command::SetGate(Gate::Closed));
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    wait("it queues", || pair.a.is(|s| !s.attached && s.queue_records == 1));
    let answer = begin(&pair.a, GENEROUS);
    let rows = "WITH n(i) AS (SELECT 2 UNION ALL SELECT i+1 FROM n WHERE i<11000)"; // two series
    sql(&pair.a.path, &format!("INSERT INTO t {rows} SELECT i,'x' FROM n"));
    sql(&pair.a.path, "UPDATE t SET v='y' WHERE id=1");
    // What is acknowledged is there, and nothing more is until then.
    let [held, first_is_there] = hold_from(&pair.b, Seq(1));
    let mut series_ended = false;
    pair.a.cut_before(move |data| {
        let Data::Batch(batch) = data else { return false };
        if std::mem::replace(&mut series_ended, batch.follows != Follows::AtOnce) {
            first_is_there.recv_timeout(GENEROUS).unwrap();
        }
        false
    });
    pair.a.send(Command::SetGate(Gate::Open));
    held.recv_timeout(GENEROUS).unwrap();
    wait("the place is acknowledged", || pair.a.is(|s| s.acked >= Seq(1)));
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t WHERE id=1"), 0);
    nothing_yet(&answer);
    pair.b.cut_before(|_| false);
    answer.recv_timeout(GENEROUS).unwrap().unwrap();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t WHERE id=1"), 1);
}

#[test]
fn a_record_whose_unique_value_moves_while_batches_are_sent_stays_until_its_new_one_is_there() {
    // Where both are open a batch is applied by itself.
    let unique = "CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)";
    let pair = Pair::start(unique, unique, Writes::Open, Writes::Open);
    pair.wait_synced();
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    wait("it is acknowledged", || pair.a.is(|s| s.acked == Seq(1)));
    pair.a.send(Command::SetGate(Gate::Closed));
    let rows = "WITH n(i) AS (SELECT 2 UNION ALL SELECT i+1 FROM n WHERE i<1502)";
    sql(&pair.a.path, &format!("INSERT INTO t {rows} SELECT i,'n'||i FROM n"));
    wait("it queues", || pair.a.is(|s| !s.attached && s.queue_records == 1501));
    let answer = begin(&pair.a, GENEROUS);
    // What was known when the barrier was asked for is there, and nothing more is until then.
    let [held, known_is_there] = hold_from(&pair.b, Seq(1502));
    let (path, mut moved) = (pair.a.path.clone(), false);
    pair.a.cut_before(move |data| {
        let Data::Batch(batch) = data else { return false };
        if !std::mem::replace(&mut moved, true) {
            // From a record the partner has to one that is still to be sent.
            sql(&path, "UPDATE t SET v='y' WHERE id=1; UPDATE t SET v='x' WHERE id=1502");
        }
        if batch.to > Seq(1502) {
            known_is_there.recv_timeout(GENEROUS).unwrap();
        }
        false
    });
    pair.a.send(Command::SetGate(Gate::Open));
    held.recv_timeout(GENEROUS).unwrap();
    answer.recv_timeout(GENEROUS).unwrap().unwrap();
    let names =
        "SELECT group_concat(id||v) FROM (SELECT * FROM t WHERE id IN (1,1502) ORDER BY id)";
    assert_eq!(one::<String>(&pair.b.path, names), "1x,1502n1502");
    pair.b.cut_before(|_| false);
    pair.wait_equal();
    assert_eq!(one::<String>(&pair.b.path, names), "1y,1502x");
}

#[test]
fn only_what_nobody_wrote_since_the_last_sync_is_not_synced_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    let app = application(&path);
    app.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t(v)")
        .unwrap();
    let wal = Wal::of(&path);
    let syncs = || {
        let before = counted::of(&path);
        wal.sync_unless_synced().unwrap();
        counted::of(&path) - before
    };
    assert_eq!(syncs(), 1, "nothing is known of what was there before");
    assert_eq!(syncs(), 0);
    app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
    assert_eq!(syncs(), 1, "a commit after the sync is not durable");
    // The sync that is begun while the application writes is too early for the rest.
    app.execute_batch("BEGIN; INSERT INTO t VALUES(zeroblob(9000000))").unwrap();
    wal.sync().unwrap();
    app.execute_batch("COMMIT").unwrap();
    assert_eq!(syncs(), 1, "what was written after the sync began is not durable");
    // From the beginning again, over what is there: neither name nor length change.
    app.execute_batch("PRAGMA wal_checkpoint(RESTART)").unwrap();
    wal.sync().unwrap();
    app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    assert_eq!(syncs(), 1, "what was written over older pages is not durable");
    assert_eq!(syncs(), 0);
    // Another file by that name.
    app.execute_batch("PRAGMA journal_mode=DELETE; PRAGMA journal_mode=WAL").unwrap();
    app.execute_batch("INSERT INTO t VALUES(3)").unwrap();
    assert_eq!(syncs(), 1, "a new -wal was never synced");
    assert_eq!(syncs(), 0);
}

#[test]
fn a_sync_that_failed_once_is_not_believed_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    let log = directory.path().join("app.sqlite-wal");
    // The kernel cannot sync it, as it cannot sync a disk that is gone.
    std::os::unix::fs::symlink("/dev/null", &log).unwrap();
    let wal = Wal::of(&path);
    assert!(matches!(wal.sync(), Err(Error::NotDurable { .. })));
    std::fs::remove_file(&log).unwrap();
    std::fs::write(&log, "in order again").unwrap();
    assert!(matches!(wal.sync(), Err(Error::NotDurable { .. })), "what was lost is still lost");
    assert!(matches!(wal.sync_unless_synced(), Err(Error::NotDurable { .. })));
    assert!(Wal::of(&path).sync().is_ok());
}
