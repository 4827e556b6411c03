//! The same behaviour on databases that stay in a rollback-journal mode, and what is special there.

use crate::{
    Journaling, Writes,
    database::{Database, PATIENT},
    inspect, inspect_as,
    tests::{
        model, pair,
        support::{Pair, application, keeping_rollback, one, python, sql, wait},
        switchover,
    },
};

/// Scenarios of other files, without a WAL.
macro_rules! without_wal {
    ($($file:ident { $($name:ident,)+ })+) => {
        $($(#[test] fn $name() { keeping_rollback($file::$name); })+)+
    };
}

without_wal! {
    pair {
        changes_reach_the_standby_and_the_other_way_after_a_change_of_roles,
        a_cut_link_is_resumed_without_another_comparison,
        a_restart_of_either_daemon_resumes_without_another_comparison,
        the_active_is_not_written_in_steady_state,
        changes_during_the_initial_comparison_are_not_lost,
        a_missing_file_is_built_from_the_partners_on_either_side,
        after_a_split_both_sides_agree_and_losers_can_be_put_back,
        a_program_of_another_language_writes_until_it_is_killed,
        the_fence_refuses_every_program_while_changes_of_the_partner_pass,
        a_replaced_file_is_held_and_served_again_when_it_is_put_back,
        different_contents_are_merged_at_first_contact,
    }
    switchover {
        a_switchover_under_four_writers_loses_nothing_acknowledged,
        an_aborted_switchover_leaves_nothing_changed,
    }
}

#[test]
fn random_histories_converge_without_a_wal() {
    model::converge(60, |work| keeping_rollback(work));
}

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";

#[test]
fn the_mode_stays_and_is_shown_with_its_warning_while_the_default_switches_and_says_so() {
    for keeps in [true, false] {
        let run = || {
            let pair = Pair::running(T);
            let expected = if keeps { "delete" } else { "wal" };
            for side in [&pair.a, &pair.b] {
                wait("the mode is shown", || {
                    side.is(|s| s.journal_mode.as_deref() == Some(expected))
                });
                assert_eq!(one::<String>(&side.path, "PRAGMA journal_mode"), expected);
                let warned = side.is(|s| s.warnings.iter().any(|w| w.contains("SQLITE_BUSY")));
                assert_eq!(warned, keeps, "{:?}", side.status.lock().unwrap());
            }
        };
        if keeps { keeping_rollback(run) } else { run() }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, T);
    let said = |journaling| inspect_as(&path, journaling).unwrap().warnings.join("\n");
    assert!(said(Journaling::Wal).contains("switched to WAL"));
    let kept = said(Journaling::Keep);
    for word in ["delete", "busy timeout", "SQLITE_BUSY", "synchronous=EXTRA"] {
        assert!(kept.contains(word), "{kept}");
    }
    sql(&path, "PRAGMA journal_mode=WAL");
    assert_eq!(inspect_as(&path, Journaling::Keep).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn every_rollback_mode_of_the_application_is_followed() {
    keeping_rollback(|| {
        let pair = Pair::running(T);
        for (n, mode) in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY"].into_iter().enumerate() {
            let program = format!(
                "db.execute('PRAGMA journal_mode={mode}')\nfor i in range(20): db.execute('INSERT INTO t VALUES(?,?)',({n}*100+i,'{mode}'))"
            );
            let output = python(&pair.a.path, &program).output().unwrap();
            assert!(output.status.success(), "{mode}: {output:?}");
            pair.wait_equal();
            let count = format!("SELECT count(*) FROM t WHERE v='{mode}'");
            assert_eq!(one::<i64>(&pair.b.path, &count), 20, "{mode}");
        }
    });
}

#[test]
fn a_reader_on_the_standby_delays_changes_and_loses_none() {
    keeping_rollback(|| {
        let pair = Pair::running(T);
        let reader = application(&pair.b.path);
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        let _: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        sql(&pair.a.path, "INSERT INTO t VALUES(1,'x'),(2,'y')");
        wait("the change is on its way", || pair.a.is(|s| s.queue_records > 0));
        let seen: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(seen, 0, "the reader's snapshot changed under it");
        reader.execute_batch("COMMIT").unwrap();
        pair.wait_equal();
        assert!(pair.b.is(|s| s.hold.is_none()), "{:?}", pair.b.status.lock().unwrap());
    });
}

#[test]
fn a_commit_waits_for_readers_and_gives_up_without_a_trace() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, T);
    let mut database = Database::open_as(&path, 5000, Journaling::Keep).unwrap();
    let insert = |database: &mut Database, id: i64, patience| {
        database.transaction(patience, |database| {
            database.writer.execute("INSERT INTO t VALUES(?1,'x')", [id]).unwrap();
            Ok(())
        })
    };
    let reader = application(&path);
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    let refused = insert(&mut database, 1, std::time::Duration::from_millis(30)).unwrap_err();
    assert!(refused.is_busy(), "{refused}");
    let leaves = std::thread::spawn(move || {
        // The writer keeps new readers out from the moment it wants to commit.
        wait("the writer waits", || {
            let other = rusqlite::Connection::open(&path).unwrap();
            other.busy_timeout(std::time::Duration::ZERO).unwrap();
            other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_err()
        });
        reader.execute_batch("COMMIT").unwrap();
        path
    });
    insert(&mut database, 2, PATIENT).unwrap();
    let path = leaves.join().unwrap();
    assert_eq!(one::<String>(&path, "SELECT group_concat(id) FROM t"), "2");
}

#[test]
fn looks_from_aside_do_not_take_the_workers_lock_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, T);
    let mut database = Database::open_as(&path, 5000, Journaling::Keep).unwrap();
    let write = || {
        let program = "db.execute('PRAGMA busy_timeout=0')\ndb.execute(\"INSERT INTO t VALUES(9,'foreign')\")";
        python(&path, program).output().unwrap()
    };
    database
        .transaction(PATIENT, |_| {
            let _ = inspect(&path); // it meets the lock
            assert!(crate::is_database(&path).unwrap());
            let said = String::from_utf8_lossy(&write().stderr).into_owned();
            assert!(said.contains("locked"), "another process wrote: {said}");
            Ok(())
        })
        .unwrap();
    assert!(write().status.success());
}

#[test]
fn a_file_is_a_database_once_it_has_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new.db");
    std::fs::write(&path, "").unwrap();
    assert!(!crate::is_database(&path).unwrap(), "empty");
    std::fs::write(&path, "no database at all".repeat(100)).unwrap();
    assert!(!crate::is_database(&path).unwrap(), "text");
    std::fs::remove_file(&path).unwrap();
    sql(&path, "PRAGMA user_version=1");
    assert!(!crate::is_database(&path).unwrap(), "no table yet");
    sql(&path, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
    assert!(crate::is_database(&path).unwrap());
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM sqlite_schema"), 1, "it was changed");
}

#[test]
fn a_kept_database_goes_on_when_the_application_switches_to_wal() {
    keeping_rollback(|| {
        let pair = Pair::start(T, T, Writes::Open, Writes::Closed);
        pair.wait_synced();
        wait("it switches", || one::<String>(&pair.a.path, "PRAGMA journal_mode=WAL") == "wal");
        sql(&pair.a.path, "INSERT INTO t VALUES(1,'x')");
        pair.wait_equal();
        wait("the mode is shown", || pair.a.is(|s| s.journal_mode.as_deref() == Some("wal")));
    });
}

#[test]
fn a_comparison_that_meets_locks_leaves_nothing_out() {
    keeping_rollback(|| {
        let many = format!(
            "{T}; INSERT INTO t WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<12000) SELECT v,'x' FROM s"
        );
        let pair = Pair::start(
            &many,
            &format!("{T}; INSERT INTO t VALUES(7,'other')"),
            Writes::Open,
            Writes::Closed,
        );
        let path = pair.a.path.clone();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let holder = application(&path);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // Longer than a reader waits.
                    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(230));
                    holder.execute_batch("COMMIT").unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(8));
                }
            });
            pair.wait_synced();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        pair.wait_equal();
        assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 12_000);
    });
}
