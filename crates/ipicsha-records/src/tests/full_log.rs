//! Transaction logs that overflow, that do not, and that get another size (spec C4). Every write of
//! the application succeeds in all of them: `sql` panics when one does not.

use std::path::Path;

use ipicsha_core::status::LogForecast;

use crate::{
    Command, Error, LogCapacity, Writes,
    tests::support::{Pair, Side, application, dump, one, python, sql, wait},
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
const SMALL: u64 = 4096;

fn stopped() -> Pair {
    let mut pair = Pair::stopped(T, T);
    (pair.a.capacity, pair.b.capacity) = (SMALL, SMALL);
    pair
}

fn running() -> Pair {
    let mut pair = stopped();
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    pair
}

/// One transaction with so many changes.
fn write(path: &Path, from: i64, count: i64) {
    let to = from + count - 1;
    sql(
        path,
        &format!(
            "WITH RECURSIVE s(n) AS (SELECT {from} UNION ALL SELECT n+1 FROM s WHERE n<{to})
             INSERT OR REPLACE INTO t SELECT n,'v'||n FROM s"
        ),
    );
}

/// The partner has everything.
fn wait_acked(pair: &Pair) {
    let last: i64 = one(&pair.a.path, "SELECT max(seq) FROM _ipicsha_log");
    wait("the partner has it", || pair.a.is(|s| s.acked.0 == last && s.queue_records == 0));
}

/// Writes as much as the log holds several times over, in steps the partner keeps up with.
fn wrap(pair: &Pair) {
    for step in 0..10 {
        write(&pair.a.path, step * 1000, 1000);
        wait_acked(pair);
    }
    assert!(one::<i64>(&pair.a.path, "SELECT min(seq) FROM _ipicsha_log") > 4000, "it is a ring");
}

fn comparisons(pair: &Pair) -> usize {
    pair.a.finished.lock().unwrap().iter().filter(|finished| finished.2.is_ok()).count()
}

fn wait_overflow(side: &Side) {
    wait("the overflow is found", || {
        side.is(|s| {
            s.log.overflowed
                && !s.attached
                && s.hold.as_ref().is_some_and(|h| h.contains("never received"))
        })
    });
}

/// As the shell does it when the core has unconfigured HA, and the administrator configures anew.
fn configure_anew(pair: &Pair) {
    for side in [&pair.a, &pair.b] {
        side.ask(|done| Command::Remove { done }).unwrap();
        side.send(Command::Install);
    }
    pair.b.set_writes(Writes::Closed);
    pair.wait_synced();
    pair.wait_equal();
    assert!(pair.a.is(|s| !s.log.overflowed && s.hold.is_none()));
}

#[test]
fn an_overflow_while_the_daemon_was_dead_is_found_and_never_compared_in_silence() {
    for attached_first in [true, false] {
        let mut pair = running();
        write(&pair.a.path, 1, 10);
        pair.wait_equal();
        pair.a.stop();
        write(&pair.a.path, 100, 3000);
        write(&pair.a.path, 10_000, 3000);
        // The partner may call before the first look at the log, or long after.
        if attached_first {
            pair.a.start(Writes::Open);
            pair.connect();
        } else {
            pair.cut_from_b();
            pair.a.start(Writes::Open);
            wait_overflow(&pair.a);
            pair.connect();
        }
        wait_overflow(&pair.a);
        pair.a.send(Command::LinkDown);
        pair.a.send(Command::LinkUp);
        pair.b.send(Command::LinkUp);
        write(&pair.a.path, 20_000, 10);
        wait("the application goes on", || pair.a.is(|s| s.last_seq.0 == 6020));
        assert_eq!(comparisons(&pair), 1, "only the first one");
        assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 10, "nothing was sent");
        configure_anew(&pair);
        assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 6020);
    }
}

#[test]
fn one_transaction_larger_than_the_log_is_an_overflow() {
    for connected in [true, false] {
        let pair = running();
        if !connected {
            pair.cut();
        }
        write(&pair.a.path, 1, 20_000);
        wait_overflow(&pair.a);
        wait("it is full by its level, too", || pair.a.is(|s| s.log_used_percent > 90.0));
        if !connected {
            pair.connect();
        }
        write(&pair.a.path, 30_000, 5);
        wait("the application goes on", || pair.a.is(|s| s.last_seq.0 == 20_005));
        assert_eq!(comparisons(&pair), 1, "connected: {connected}");
        configure_anew(&pair);
    }
}

#[test]
fn a_log_that_was_overwritten_after_it_was_received_is_no_overflow() {
    let mut pair = running();
    wrap(&pair);
    for _ in 0..2 {
        pair.a.stop();
        write(&pair.a.path, 50, 100);
        pair.a.start(Writes::Open);
        pair.connect();
        pair.wait_equal();
        pair.wait_synced();
        assert!(pair.a.is(|s| !s.log.overflowed));
    }
    assert_eq!(comparisons(&pair), 1);
}

#[test]
fn a_partner_that_never_attached_has_nothing_to_lose() {
    let mut pair = stopped();
    pair.a.start(Writes::Open);
    wait("it captures", || pair.a.is(|s| s.installed));
    write(&pair.a.path, 1, 10_000);
    wait("it is seen", || pair.a.is(|s| s.last_seq.0 == 10_000));
    assert!(pair.a.is(|s| !s.log.overflowed && s.log_used_percent == 0.0), "the log is not needed");
    pair.a.stop();
    write(&pair.a.path, 20_000, 10_000);
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    pair.wait_equal();
    assert!(pair.a.is(|s| !s.log.overflowed));
}

#[test]
fn a_restored_or_newly_installed_file_is_compared() {
    let mut pair = running();
    wrap(&pair);
    let backup = pair.a.directory.path().join("backup.sqlite");
    let program = format!("db.backup(sqlite3.connect('{}'))", backup.display());
    assert!(python(&pair.a.path, &program).status().unwrap().success());
    write(&pair.a.path, 1, 1000);
    wait_acked(&pair);
    pair.a.stop();
    for suffix in ["-wal", "-shm"] {
        let mut name = pair.a.path.clone().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name); // not there after a checkpoint
    }
    std::fs::rename(&backup, &pair.a.path).unwrap();
    write(&pair.a.path, 1, 9000);
    pair.a.start(Writes::Open);
    pair.connect();
    pair.wait_synced();
    pair.wait_equal();
    wait("it is another history", || comparisons(&pair) == 2);
    // Installed anew: the objects were removed, and the log begins again.
    pair.a.ask(|done| Command::Remove { done }).unwrap();
    write(&pair.a.path, 1, 9000);
    pair.a.send(Command::Install);
    pair.wait_synced();
    pair.wait_equal();
    wait("it is compared", || comparisons(&pair) == 3);
    pair.wait_equal();
    assert!(pair.a.is(|s| !s.log.overflowed));
}

#[test]
fn a_partner_restored_behind_what_it_acknowledged_is_compared() {
    let mut pair = running();
    write(&pair.a.path, 1, 10);
    pair.wait_equal();
    let backup = pair.b.directory.path().join("backup.sqlite");
    let program = format!("db.backup(sqlite3.connect('{}'))", backup.display());
    assert!(python(&pair.b.path, &program).status().unwrap().success());
    wrap(&pair);
    pair.b.stop();
    // Into the same file, while nobody looks: only its position tells.
    let program = format!("sqlite3.connect('{}').backup(db)", backup.display());
    assert!(python(&pair.b.path, &program).status().unwrap().success());
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_equal();
    pair.wait_synced();
    assert!(pair.a.is(|s| !s.log.overflowed));
    wait("it is compared", || comparisons(&pair) == 2);
}

#[test]
fn a_forgotten_position_is_no_overflow_but_the_partner_knows_it() {
    let mut pair = running();
    wrap(&pair);
    for lost in [false, true] {
        pair.a.stop();
        for suffix in ["", "-wal", "-shm"] {
            let mut name = pair.a.journal().into_os_string();
            name.push(suffix);
            let _ = std::fs::remove_file(name);
        }
        write(&pair.a.path, 20_000, if lost { 6000 } else { 100 });
        pair.cut_from_b();
        pair.a.start(Writes::Open);
        wait("it is open", || pair.a.is(|s| s.installed));
        assert!(pair.a.is(|s| !s.log.overflowed && s.log_used_percent < 5.0), "nobody knows");
        pair.connect();
        if lost {
            wait_overflow(&pair.a);
            assert_eq!(comparisons(&pair), 1);
        } else {
            pair.wait_equal();
            pair.wait_synced();
        }
    }
}

#[test]
fn the_position_of_a_burst_is_remembered_although_nothing_follows() {
    let pair = running();
    write(&pair.a.path, 1, 3000);
    wait_acked(&pair);
    // The daemon could be killed from now on; nothing makes it work any more.
    wait("it is remembered", || {
        one::<i64>(&pair.a.journal(), "SELECT acked FROM position") == 3000
    });
}

fn capacity(side: &Side, entries: u64) -> Result<(), Error> {
    let capacity = LogCapacity { entries, bytes: 1 << 30 };
    side.ask(|done| Command::SetCapacity { capacity, done })
}

#[test]
fn more_room_ends_an_alarm_and_loses_nothing() {
    let pair = running();
    pair.cut();
    write(&pair.a.path, 1, 3500);
    wait("it fills", || pair.a.is(|s| s.log_used_percent > 85.0));
    capacity(&pair.a, 20_000).unwrap();
    wait("there is room", || {
        pair.a.is(|s| s.log_used_percent < 18.0 && s.log.capacity.entries == 20_000)
    });
    write(&pair.a.path, 10_000, 9000);
    wait("it is all kept", || pair.a.is(|s| s.log.entries == 12_500 && !s.log.overflowed));
    pair.connect();
    pair.wait_equal();
    pair.wait_synced();
    assert_eq!(comparisons(&pair), 1, "the log had everything");
}

#[test]
fn less_room_is_refused_while_it_would_be_an_alarm_and_costs_the_application_nothing() {
    let mut pair = running();
    capacity(&pair.a, 60_000).unwrap();
    pair.cut();
    write(&pair.a.path, 1, 5000);
    wait("it is seen", || pair.a.is(|s| s.log.entries == 5000));
    let refused = capacity(&pair.a, SMALL).unwrap_err();
    assert!(refused.to_string().contains("5000 changes"), "{refused}");
    assert!(pair.a.is(|s| s.log.capacity.entries == 60_000));
    pair.connect();
    for from in [10_000, 60_000] {
        write(&pair.a.path, from, 40_000);
        wait_acked(&pair);
    }
    let length = || one::<i64>(&pair.a.path, "SELECT count(*) FROM _ipicsha_log");
    assert!(length() > 59_000, "{}", length());
    capacity(&pair.a, SMALL).unwrap();
    // Nothing is left to be deleted within a transaction of the application.
    assert!(length() <= 4096, "{}", length());
    write(&pair.a.path, 1, 2000);
    wait_acked(&pair);
    assert!(length() <= 4096 + 1024);
    // The same by the configuration, at a start.
    capacity(&pair.a, 60_000).unwrap();
    write(&pair.a.path, 10_000, 40_000);
    wait_acked(&pair);
    pair.a.stop();
    pair.a.start(Writes::Open);
    wait("it is open", || pair.a.is(|s| s.installed));
    assert!(one::<i64>(&pair.a.path, "SELECT count(*) FROM _ipicsha_log") <= 4096);
    pair.connect();
    write(&pair.a.path, 1, 10);
    pair.wait_equal();
    pair.wait_synced();
    assert_eq!(comparisons(&pair), 1);
}

#[test]
fn bytes_fill_a_log_before_its_entries_do() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY)";
    let mut pair = Pair::stopped(schema, schema);
    pair.a.capacity_bytes = 1 << 20;
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    pair.cut();
    let db = application(&pair.a.path);
    for n in 0..800 {
        db.execute("INSERT INTO t VALUES(?1||hex(randomblob(500)))", [n]).unwrap();
    }
    wait("it fills", || pair.a.is(|s| s.log.entries == 800));
    assert!(
        pair.a.is(|s| (75.0..90.0).contains(&s.log_used_percent)),
        "{:?}",
        pair.a.status.lock().unwrap()
    );
    assert!(pair.a.is(|s| (800_000..900_000).contains(&s.log.bytes)));
    wait("nothing grows any more", || pair.a.is(|s| s.log.forecast != LogForecast::Unknown));
    pair.connect();
    pair.wait_equal();
    wait("it is empty", || pair.a.is(|s| s.log.bytes == 0 && s.log_used_percent == 0.0));
    assert_eq!(dump(&pair.b.path).len(), 800);
}

#[test]
fn what_is_remembered_for_after_a_kill_never_looks_like_an_overflow() {
    let pair = running();
    for step in 0..10 {
        write(&pair.a.path, step * 1000, 1000);
        wait_acked(&pair);
        let saved = one::<i64>(&pair.a.journal(), "SELECT acked FROM position");
        let last = one::<i64>(&pair.a.path, "SELECT max(seq) FROM _ipicsha_log");
        // Everything the daemon would count as not acknowledged fits in by far.
        assert!(last - saved <= SMALL as i64 / 16, "{saved} of {last}");
    }
}
