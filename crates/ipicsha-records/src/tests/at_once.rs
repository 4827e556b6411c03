//! A single commit and the way it takes: announced before it is there, applied by whoever brings it.

use std::time::Instant;

use ipicsha_core::data::{Change, Data, Value};

use crate::{
    Writes,
    tests::support::{Pair, one, sql, wait},
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x)";

/// What `a` has sent since, as one letter each: Expect, Batch, or another.
fn letters(pair: &Pair) -> String {
    let sent = pair.a.sent.lock().unwrap();
    let letter = |data: &Data| match data {
        Data::Expect { .. } => 'E',
        Data::Batch(_) => 'B',
        Data::Invite { .. }
        | Data::Attach(_)
        | Data::Schema { .. }
        | Data::Ack { .. }
        | Data::Compare { .. }
        | Data::Undo { .. } => '-',
    };
    sent.iter().map(letter).collect()
}

#[test]
fn a_commit_after_a_pause_is_announced() {
    let pair = Pair::running(T);
    pair.a.sent.lock().unwrap().clear();
    // Whether it is said before the commit, and whether a pause was one, is a matter of speed.
    wait("one is announced", || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        sql(&pair.a.path, "INSERT INTO t(x) VALUES('x')");
        letters(&pair).contains('E')
    });
    pair.wait_equal();
}

#[test]
fn a_server_that_sends_nothing_announces_nothing() {
    let pair = Pair::running(T);
    pair.a.send(crate::Command::SetGate(crate::Gate::Closed));
    wait("the exchange has ended", || pair.a.is(|s| !s.attached));
    pair.a.sent.lock().unwrap().clear();
    std::thread::sleep(std::time::Duration::from_millis(20));
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    wait("it queues", || pair.a.is(|s| s.queue_records == 1));
    assert_eq!(letters(&pair), "");
    // Nor does a standby, whose partner's changes are writes, too.
    pair.a.send(crate::Command::SetGate(crate::Gate::Open));
    pair.wait_equal();
    let sent = pair.b.sent.lock().unwrap();
    assert!(!sent.iter().any(|data| matches!(data, Data::Expect { .. })), "{sent:?}");
}

#[test]
fn a_small_batch_is_applied_by_the_thread_that_brings_it() {
    let mut pair = Pair::running(T);
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
    pair.wait_equal();
    let mut next = pair.a.last_batch();
    let sender = pair.b.worker.as_ref().unwrap().sender();
    let deadline = Instant::now() + crate::tests::support::GENEROUS;
    // Its own thread may be at work just then, and then it comes in its turn.
    let at_once = (2..).find(|id| {
        assert!(Instant::now() < deadline, "it always had to wait");
        (next.from, next.to.0) = (next.to, next.to.0 + 1);
        next.rows[0].seq = next.to;
        next.rows[0].change = Change::Upsert(vec![Value::Integer(*id), Value::Integer(0)]);
        sender.deliver(Data::Batch(next.clone()));
        let at_once = one::<i64>(&pair.b.path, "SELECT max(id) FROM t") == *id;
        wait("it is there", || one::<i64>(&pair.b.path, "SELECT max(id) FROM t") == *id);
        at_once
    });
    assert!(at_once.is_some());
    wait("its own thread acknowledges it", || {
        let sent = pair.b.sent.lock().unwrap();
        sent.iter().any(|data| matches!(data, Data::Ack { to, .. } if *to == next.to))
    });
    pair.b.stop();
    sender.deliver(Data::Batch(next));
    pair.b.start(Writes::Closed);
}
