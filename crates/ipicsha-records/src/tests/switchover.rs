//! The planned switchover under writers: nothing acknowledged is lost, and any failure before the
//! second phase leaves nothing changed.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    Command, Error, Writes,
    tests::support::{GENEROUS, Pair, application, dump, one, sql, wait},
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, w INTEGER)";

/// Writes until told to stop or refused; returns the acknowledged ids and the refusals.
fn writer(path: &Path, number: i64, stop: &Arc<AtomicBool>) -> JoinHandle<(Vec<i64>, Vec<String>)> {
    let (path, stop) = (path.to_owned(), stop.clone());
    std::thread::spawn(move || {
        let db = application(&path);
        let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
        let mut id = number * 1_000_000;
        while !stop.load(Ordering::SeqCst) && refused.len() < 3 {
            id += 1;
            // Without a WAL, and without any pause, SQLite's own back-off lets one writer starve.
            std::thread::sleep(Duration::from_micros(500));
            match db.execute("INSERT INTO t VALUES(?1,?2)", [id, number]) {
                Ok(_) => acknowledged.push(id),
                Err(error) => refused.push(error.to_string()),
            }
        }
        (acknowledged, refused)
    })
}

fn prepare(pair: &Pair, within: Duration) -> Result<crate::Prepared, Error> {
    let deadline = Instant::now() + within;
    pair.a.ask(|done| Command::Prepare { deadline, done })
}

#[test]
pub(crate) fn a_switchover_under_four_writers_loses_nothing_acknowledged() {
    let pair = Pair::running(T);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..=4).map(|n| writer(&pair.a.path, n, &stop)).collect();
    wait("they write", || one::<i64>(&pair.b.path, "SELECT count(DISTINCT w) FROM t") == 4);
    let prepared = prepare(&pair, GENEROUS).unwrap();
    let at_b = dump(&pair.b.path);
    assert_eq!(dump(&pair.a.path), at_b, "the partner has everything while the lock is held");
    assert!(prepared.seq.0 > 0);
    pair.a.ask(|done| Command::Commit { done }).unwrap();
    let mut acknowledged = Vec::new();
    for writer in writers {
        let (ids, refused) = writer.join().unwrap();
        assert!(refused.iter().all(|text| text.contains(crate::REFUSAL)), "{refused:?}");
        assert_eq!(refused.len(), 3, "every writer sees the refusal");
        acknowledged.extend(ids);
    }
    assert_eq!(
        acknowledged.len(),
        at_b.len(),
        "nothing acknowledged is missing, nothing else there"
    );
    pair.b.set_writes(Writes::Open);
    sql(&pair.b.path, "INSERT INTO t VALUES(1,9)");
    pair.wait_equal();
    wait("it is shown", || pair.a.is(|s| s.writes == Writes::Closed));
}

#[test]
pub(crate) fn an_aborted_switchover_leaves_nothing_changed() {
    let pair = Pair::running(T);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..=4).map(|n| writer(&pair.a.path, n, &stop)).collect();
    prepare(&pair, GENEROUS).unwrap();
    let before = one::<i64>(&pair.a.path, "SELECT count(*) FROM t");
    pair.a.send(Command::Abort);
    wait("they go on", || one::<i64>(&pair.a.path, "SELECT count(*) FROM t") > before + 10);
    let committed = pair.a.ask(|done| Command::Commit { done });
    assert!(matches!(committed, Err(Error::NotPrepared(_))));
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        assert_eq!(writer.join().unwrap().1, Vec::<String>::new());
    }
    pair.wait_equal();
}

#[test]
fn the_deadline_rolls_back_by_itself() {
    let pair = Pair::running(T);
    prepare(&pair, Duration::from_millis(300)).unwrap();
    // Waits for the lock until the deadline has passed.
    sql(&pair.a.path, "INSERT INTO t VALUES(1,1)");
    let committed = pair.a.ask(|done| Command::Commit { done });
    assert!(matches!(committed, Err(Error::NotPrepared(_))));
    pair.wait_equal();
}

#[test]
fn a_partner_that_does_not_answer_or_a_cut_rolls_back() {
    let mut pair = Pair::running(T);
    pair.b.stop();
    sql(&pair.a.path, "INSERT INTO t VALUES(1,1)");
    let (to, answer) = std::sync::mpsc::channel();
    let deadline = Instant::now() + Duration::from_millis(300);
    pair.a.send(Command::Prepare {
        deadline,
        done: Box::new(move |result| to.send(result).unwrap()),
    });
    assert!(matches!(answer.recv().unwrap(), Err(Error::NotPrepared(_))));
    sql(&pair.a.path, "INSERT INTO t VALUES(2,1)");
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_equal();
    pair.wait_synced();
    prepare(&pair, GENEROUS).unwrap();
    pair.cut();
    let committed = pair.a.ask(|done| Command::Commit { done });
    assert!(matches!(committed, Err(Error::NotPrepared(_))));
    sql(&pair.a.path, "INSERT INTO t VALUES(3,1)");
    assert!(matches!(prepare(&pair, GENEROUS), Err(Error::NotReady(_))), "not connected");
    pair.connect();
    pair.wait_equal();
}

#[test]
fn a_batch_of_the_partner_waits_while_a_switchover_is_prepared() {
    let pair = Pair::running(T);
    prepare(&pair, GENEROUS).unwrap();
    pair.b.set_writes(Writes::Open);
    sql(&pair.b.path, "INSERT INTO t VALUES(7,7)");
    wait("it is sent", || pair.b.is(|s| s.queue_records == 1));
    pair.a.ask(|done| Command::Commit { done }).unwrap();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.a.path, "SELECT w FROM t WHERE id=7"), 7);
}
