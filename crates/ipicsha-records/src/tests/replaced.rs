//! Files deleted, replaced or restored from a backup under a running daemon.

use std::path::{Path, PathBuf};

use crate::{
    Command, Writes,
    tests::support::{Pair, Side, one, python, sql, wait},
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bare(x)";

fn held(side: &Side, text: &str) -> bool {
    side.is(|s| s.hold.as_ref().is_some_and(|hold| hold.contains(text)))
}

fn remove_file(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = std::fs::remove_file(&name);
    }
}

/// A backup of the file as it is now, made with SQLite's own means.
fn backup(side: &Side) -> PathBuf {
    let to = side.directory.path().join("backup.sqlite");
    let text = to.display();
    let made = python(&side.path, &format!("db.backup(sqlite3.connect('{text}'))")).status();
    assert!(made.unwrap().success());
    to
}

/// Puts a backup into the file, likewise.
fn restore(side: &Side, backup: &Path) {
    let restore = format!("sqlite3.connect('{}').backup(db)", backup.display());
    let restored = python(&side.path, &restore).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
}

fn writes(primary: bool) -> (Writes, Writes) {
    if primary { (Writes::Open, Writes::Closed) } else { (Writes::Closed, Writes::Open) }
}

fn wait_for_what_the_backup_had_not(pair: &Pair) {
    wait("it comes back", || {
        one::<i64>(&pair.a.path, "SELECT count(*) FROM t WHERE v='after'") == 2
    });
}

fn filled(primary: bool) -> Pair {
    let (a, b) = writes(primary);
    let pair = Pair::start(T, T, a, b);
    pair.wait_synced();
    let active = if primary { &pair.a } else { &pair.b };
    sql(
        &active.path,
        "INSERT INTO t VALUES(1,'before'),(2,'before'); INSERT INTO bare VALUES('b')",
    );
    pair.wait_equal();
    pair
}

#[test]
fn a_deleted_file_is_held_and_built_again_when_it_is_protected_again() {
    for (primary, at_active) in [(true, true), (true, false), (false, true), (false, false)] {
        let pair = filled(primary);
        let side = if primary == at_active { &pair.a } else { &pair.b };
        remove_file(&side.path);
        wait("it is noticed", || held(side, "replaced or deleted"));
        assert!(!side.path.exists(), "nothing is put in its place unasked");
        side.send(Command::Install);
        wait("it is built", || side.path.exists());
        pair.wait_equal();
        pair.wait_synced();
        assert_eq!(one::<i64>(&side.path, "SELECT count(*) FROM t"), 2);
        let fenced = side.is(|s| s.writes == Writes::Closed);
        assert_eq!(fenced, !at_active);
    }
}

#[test]
fn another_file_in_its_place_is_held_until_it_is_protected_again() {
    let pair = filled(true);
    let copy = backup(&pair.a);
    sql(&pair.a.path, "INSERT INTO t VALUES(3,'after'); UPDATE t SET v='after' WHERE id=1");
    pair.wait_equal();
    remove_file(&pair.a.path);
    std::fs::rename(&copy, &pair.a.path).unwrap();
    wait("it is noticed", || held(&pair.a, "replaced or deleted"));
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 3, "nothing was taken over");
    pair.a.send(Command::Install);
    pair.wait_equal();
    pair.wait_synced();
    // The primary's version counts, and what only the partner has is not lost.
    assert_eq!(
        one::<String>(&pair.a.path, "SELECT group_concat(id||v) FROM t"),
        "1before,2before,3after"
    );
    assert_eq!(pair.b.conflicts.lock().unwrap().len(), 1, "the newer version is in the journal");
    sql(&pair.a.path, "INSERT INTO t VALUES(4,'flows')");
    pair.wait_equal();
}

#[test]
fn a_backup_restored_into_the_open_file_is_noticed_and_compared() {
    for at_active in [true, false] {
        let pair = filled(true);
        let side = if at_active { &pair.a } else { &pair.b };
        let copy = backup(side);
        sql(
            &pair.a.path,
            "INSERT INTO t VALUES(3,'after'); UPDATE t SET v='after' WHERE id=1; DELETE FROM t WHERE id=2",
        );
        pair.wait_equal();
        wait("it is acknowledged", || pair.a.is(|s| s.acked.0 == 6));
        restore(side, &copy);
        // As many entries as were read before: their numbers alone would not show it.
        if at_active {
            sql(
                &pair.a.path,
                "UPDATE t SET v='restored' WHERE id=2; UPDATE t SET v='restored' WHERE id<3; INSERT INTO t VALUES(9,'new')",
            );
        }
        let comparisons = || pair.a.finished.lock().unwrap().iter().filter(|f| f.2.is_ok()).count();
        if at_active {
            wait("it is compared", || comparisons() > 1);
        }
        pair.wait_equal();
        pair.wait_synced();
        sql(&pair.a.path, "INSERT INTO t VALUES(10,'flows')");
        pair.wait_equal();
        let rows: String =
            one(&pair.a.path, "SELECT group_concat(id||v) FROM (SELECT * FROM t ORDER BY id)");
        let expected = if at_active {
            "1restored,2restored,3after,9new,10flows"
        } else {
            "1after,3after,10flows"
        };
        assert_eq!(rows, expected);
    }
}

#[test]
fn a_backup_from_before_the_protection_is_another_history() {
    let pair = Pair::stopped(T, T);
    let copy = backup(&pair.a);
    let mut pair = pair;
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'kept')");
    pair.wait_equal();
    restore(&pair.a, &copy);
    sql(&pair.a.path, "INSERT INTO t VALUES(2,'new')");
    wait("it comes back from the partner", || {
        one::<i64>(&pair.a.path, "SELECT count(*) FROM t") == 2
    });
    pair.wait_equal();
    pair.wait_synced();
    sql(&pair.a.path, "INSERT INTO t VALUES(3,'flows')");
    pair.wait_equal();
}

#[test]
fn a_backup_restored_in_place_while_the_daemon_was_down_is_noticed() {
    for written_on in [false, true] {
        let mut pair = filled(true);
        let copy = backup(&pair.a);
        sql(&pair.a.path, "INSERT INTO t VALUES(3,'after'),(4,'after')");
        pair.wait_equal();
        wait("it is acknowledged", || pair.a.is(|s| s.acked.0 == 5));
        pair.a.stop();
        restore(&pair.a, &copy);
        if written_on {
            // Past the numbers of before: they alone would not show it.
            sql(
                &pair.a.path,
                "INSERT INTO t VALUES(5,'n'),(6,'n'),(7,'n'); UPDATE t SET v='m' WHERE id=1",
            );
        }
        pair.a.start(Writes::Open);
        pair.connect();
        wait_for_what_the_backup_had_not(&pair);
        pair.wait_equal();
    }
}

#[test]
fn a_backup_with_a_shorter_log_is_noticed_once() {
    let pair = filled(true);
    let copy = backup(&pair.a);
    for id in 10..40 {
        sql(&pair.a.path, &format!("INSERT INTO t VALUES({id},'after')"));
    }
    pair.wait_equal();
    wait("it is acknowledged", || pair.a.is(|s| s.acked.0 == 33));
    restore(&pair.a, &copy);
    sql(&pair.a.path, "INSERT INTO t VALUES(50,'new')");
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 33);
    assert_eq!(one::<i64>(&pair.a.path, "SELECT incarnation FROM _ipicsha_meta"), 2);
}

#[test]
fn a_backup_is_noticed_by_what_the_partner_has_applied_where_nothing_is_remembered_here() {
    let mut pair = filled(true);
    let copy = backup(&pair.a);
    sql(&pair.a.path, "INSERT INTO t VALUES(3,'after'),(4,'after')");
    pair.wait_equal();
    wait("it is acknowledged", || pair.a.is(|s| s.acked.0 == 5));
    pair.a.stop();
    restore(&pair.a, &copy);
    // The memory of the daemon is as old as the backup, as after a crash.
    sql(&pair.a.journal(), "UPDATE position SET acked=3, ms=NULL");
    std::thread::sleep(std::time::Duration::from_millis(5));
    // The numbers of before, given out again.
    sql(&pair.a.path, "INSERT INTO t VALUES(5,'n'),(6,'n'),(7,'n')");
    pair.a.start(Writes::Open);
    pair.connect();
    wait_for_what_the_backup_had_not(&pair);
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t WHERE v='n'"), 3);
}
