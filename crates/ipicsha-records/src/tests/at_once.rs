//! A single commit and the way it takes: announced before it is there, applied by whoever brings it.

use std::{sync::mpsc::channel, time::Instant};

use ipicsha_core::data::{Batch, Change, Data, Value};
use rusqlite::config::DbConfig;

use crate::{
    CommandSender, Writes,
    fault::{self, Step},
    tests::support::{GENEROUS, Pair, Side, application, one, sql, wait},
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

/// Batches with one record each, made by hand behind what `a` has sent, which knows nothing of them.
struct Bringer {
    next: Batch,
    id: i64,
    sender: CommandSender,
}

impl Bringer {
    fn new(pair: &Pair) -> Self {
        sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
        pair.wait_equal();
        wait("it is acknowledged", || pair.a.is(|s| s.acked == s.last_seq));
        pair.lose_messages();
        let sender = pair.b.worker.as_ref().unwrap().sender();
        Self { next: pair.a.last_batch(), id: 1, sender }
    }

    /// Delivers the next one; whether this thread began to apply it. If so, it failed.
    fn bring(&mut self) -> bool {
        self.id += 1;
        (self.next.from, self.next.to.0) = (self.next.to, self.next.to.0 + 1);
        self.next.rows[0].seq = self.next.to;
        let columns = vec![Value::Integer(self.id), Value::Integer(0)];
        self.next.rows[0].change = Change::Upsert(columns);
        fault::arm(Some(Step::Written));
        self.sender.deliver(Data::Batch(self.next.clone()));
        let here = !fault::is_armed();
        fault::arm(None);
        here
    }

    /// Waits until the last one is there, whoever has applied it.
    fn wait(&self, side: &Side) {
        let there = format!("SELECT count(*) FROM t WHERE id={}", self.id);
        wait("it is there", || one::<i64>(&side.path, &there) == 1);
    }

    /// Delivers until this thread applies one: the worker's may be at work just then.
    fn bring_at_once(&mut self, side: &Side) {
        let deadline = Instant::now() + GENEROUS;
        while !self.bring() {
            assert!(Instant::now() < deadline, "it always had to wait");
            self.wait(side);
        }
        self.wait(side);
    }

    /// Delivers several, of which this thread must not apply one.
    fn bring_in_turn(&mut self, side: &Side) {
        for _ in 0..20 {
            assert!(!self.bring(), "applied out of its turn");
            self.wait(side);
        }
    }
}

#[test]
fn a_small_batch_is_applied_by_the_thread_that_brings_it() {
    let mut pair = Pair::running(T);
    let mut bringer = Bringer::new(&pair);
    let (to, acknowledged) = channel();
    pair.b.cut_before(move |data| {
        if let Data::Ack { to: acked, .. } = data {
            to.send(*acked).unwrap();
        }
        false
    });
    bringer.bring_at_once(&pair.b);
    let mut acks = std::iter::from_fn(|| acknowledged.recv_timeout(GENEROUS).ok());
    assert!(acks.any(|to| to == bringer.next.to), "its own thread acknowledges it");
    // A thread that has ended has nothing to bring it to.
    pair.b.stop();
    assert!(!bringer.bring());
    pair.b.start(Writes::Closed);
}

#[test]
fn whoever_brings_a_batch_waits_for_no_lock() {
    let pair = Pair::running(T);
    let mut bringer = Bringer::new(&pair);
    let deadline = Instant::now() + GENEROUS;
    loop {
        assert!(Instant::now() < deadline, "it was never tried");
        let holder = application(&pair.b.path);
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        let before = fault::locks();
        bringer.bring();
        let after = fault::locks();
        drop(holder);
        bringer.wait(&pair.b);
        assert_eq!(after.1, before.1, "it waited for the lock");
        if after.0 > before.0 {
            break;
        }
    }
}

#[test]
fn a_batch_that_may_bring_a_checkpoint_comes_in_its_turn() {
    let pair = Pair::running("PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    let mut bringer = Bringer::new(&pair);
    bringer.bring_at_once(&pair.b);
    let standby = application(&pair.b.path);
    standby.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    standby.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    // Pages go into the -wal one after the other, and are not brought back from there.
    standby.execute_batch("INSERT INTO t VALUES(-1, zeroblob(32050*508))").unwrap();
    bringer.bring_in_turn(&pair.b);
    standby.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    bringer.bring_at_once(&pair.b);
}

#[test]
fn a_batch_that_may_lose_comes_in_its_turn() {
    let pair = Pair::running(T);
    let mut bringer = Bringer::new(&pair);
    bringer.bring_at_once(&pair.b);
    pair.b.set_writes(Writes::Open);
    // The partner does not have it.
    sql(&pair.b.path, "INSERT INTO t VALUES(-1,'own')");
    pair.b.set_writes(Writes::Closed);
    bringer.bring_in_turn(&pair.b);
}
