//! Inspection, bad files, removal, the end of the thread.

use std::sync::{Arc, atomic::AtomicBool};

use ipicsha_core::license::LicensedRole;

use crate::{
    Command, Error, Writes, inspect,
    tests::support::{Pair, Side, application, one, python, sql, wait},
};

#[test]
fn an_inspection_says_what_is_replicated_and_what_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(
        &path,
        "CREATE TABLE good(id INTEGER PRIMARY KEY, n UNIQUE); CREATE TABLE bare(x, rowid);
         CREATE TABLE hidden(rowid, _rowid_, OID); CREATE TABLE uni(a UNIQUE, b NOT NULL UNIQUE);
         CREATE VIRTUAL TABLE f USING fts5(x); CREATE UNIQUE INDEX part ON good(n) WHERE n>5;
         CREATE TABLE nulls(k TEXT PRIMARY KEY); INSERT INTO nulls VALUES(NULL);",
    );
    let before = std::fs::read(&path).unwrap();
    let found = inspect(&path).unwrap();
    assert_eq!(found.journal_mode, "delete");
    let identities: Vec<_> =
        found.tables.iter().map(|t| (t.name.as_str(), t.identity.name())).collect();
    let expected = [
        ("bare", "rowid"),
        ("good", "PRIMARY KEY"),
        ("nulls", "PRIMARY KEY"),
        ("uni", "UNIQUE index"),
    ];
    assert_eq!(identities, expected);
    let reason = |name: &str| &found.skipped.iter().find(|s| s.table == name).unwrap().reason;
    assert!(reason("hidden").contains("hide its rowid"));
    assert!(reason("f").contains("virtual"));
    assert!(reason("f_data").contains("belongs to"));
    for warning in ["part", "NULL in its PRIMARY KEY", "switched to WAL"] {
        assert!(found.warnings.iter().any(|text| text.contains(warning)), "{warning}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before, "nothing was changed");
}

#[test]
fn a_table_only_the_application_can_write_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    let program = "
db.create_function('f',1,lambda x:x,deterministic=True)
db.create_collation('mine',lambda a,b:(a>b)-(a<b))
db.execute('CREATE TABLE fine(id INTEGER PRIMARY KEY)')
db.execute('CREATE TABLE func(id INTEGER PRIMARY KEY, v)')
db.execute('CREATE INDEX i ON func(f(v))')
db.execute('CREATE TABLE coll(id TEXT COLLATE mine PRIMARY KEY)')
db.execute('CREATE TABLE collu(id INTEGER PRIMARY KEY, v TEXT COLLATE mine UNIQUE)')
";
    assert!(python(&path, program).status().unwrap().success());
    let found = inspect(&path).unwrap();
    assert_eq!(found.tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["fine"]);
    assert_eq!(found.skipped.len(), 3, "{:?}", found.skipped);
    assert!(found.skipped.iter().all(|s| s.reason.contains("only the application")));
}

#[test]
fn files_that_cannot_be_protected_are_refused_with_a_next_step() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let refusal = |name: &str| inspect(&path(name)).unwrap_err();
    assert!(matches!(refusal("missing"), Error::Missing { .. }));
    assert!(matches!(inspect(directory.path()).unwrap_err(), Error::Directory { .. }));
    std::fs::write(
        path("text"),
        "this is a text and no database, however long it may be. ".repeat(99),
    )
    .unwrap();
    assert!(matches!(refusal("text"), Error::NotSqlite { .. }));
    sql(&path("locked"), "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let holder = application(&path("locked"));
    holder.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let locked = refusal("locked");
    assert!(matches!(locked, Error::Locked { .. }), "{locked}");
    for error in [refusal("missing"), refusal("text"), locked] {
        assert!(error.to_string().contains(directory.path().to_str().unwrap()));
        assert!(error.next_step().len() > 20);
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_held_and_taken_when_it_is_mended() {
    let mut side = Side::new(LicensedRole::Primary, "", Arc::new(AtomicBool::new(true)));
    std::fs::write(&side.path, "no database at all, but long enough to be looked at".repeat(50))
        .unwrap();
    let config = crate::WorkerConfig {
        name: ipicsha_core::id::DatabaseName("app".into()),
        path: side.path.clone(),
        capacity: crate::LogCapacity { entries: 5000, bytes: 1 << 30 },
        journal_path: side.journal(),
        rank: LicensedRole::Primary,
        create_if_missing: false,
        journaling: crate::Journaling::Wal,
    };
    let status = side.status.clone();
    let worker = crate::Worker::spawn(
        config,
        Arc::new(move |event| {
            if let crate::Event::Status(now) = event {
                *status.lock().unwrap() = Some(*now);
            }
        }),
    )
    .unwrap();
    worker.send(Command::Install);
    side.worker = Some(worker);
    let held = |text: &str| side.is(|s| s.hold.as_ref().is_some_and(|hold| hold.contains(text)));
    wait("it says so", || held("not an SQLite database"));
    let refused =
        side.ask(|done| Command::SetWrites { writes: Writes::Closed, drained: false, done });
    assert!(
        matches!(refused, Err(Error::NotReady(_))),
        "a fence that does not stand is not claimed"
    );
    std::fs::remove_file(&side.path).unwrap();
    wait("the missing file is named", || held("does not exist"));
    sql(&side.path, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    wait("it is taken", || side.is(|s| s.installed && s.hold.is_none() && s.tables == ["t"]));
    assert_eq!(one::<String>(&side.path, "PRAGMA journal_mode"), "wal");
}

#[test]
fn removal_takes_everything_away_and_can_be_repeated() {
    let pair = Pair::running("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)");
    sql(
        &pair.a.path,
        "WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<5000) INSERT INTO t SELECT v,v FROM s",
    );
    pair.wait_equal();
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%ipicsha%'";
    for side in [&pair.a, &pair.b] {
        assert!(one::<i64>(&side.path, ours) > 5);
        for _ in 0..2 {
            side.ask(|done| Command::Remove { done }).unwrap();
            assert_eq!(one::<i64>(&side.path, ours), 0);
        }
        wait("it is shown", || side.is(|s| !s.installed && !s.attached));
        sql(&side.path, "INSERT INTO t VALUES(7001,7001)");
    }
    for side in [&pair.a, &pair.b] {
        side.send(Command::Install);
    }
    pair.b.set_writes(Writes::Closed);
    pair.wait_synced();
    sql(&pair.a.path, "INSERT INTO t VALUES(7002,7002)");
    pair.wait_equal();
}

#[test]
fn commands_after_the_end_are_answered() {
    let mut pair = Pair::running("CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let sender = pair.a.worker.as_ref().unwrap().sender();
    pair.a.stop();
    let (to, answer) = std::sync::mpsc::channel();
    sender.send(Command::Remove { done: Box::new(move |result| to.send(result).unwrap()) });
    assert!(matches!(answer.recv().unwrap(), Err(Error::Stopped)));
}

#[test]
fn a_closed_gate_lets_nothing_through() {
    let pair = Pair::running("CREATE TABLE t(id INTEGER PRIMARY KEY)");
    pair.a.send(Command::SetGate(crate::Gate::Closed));
    wait("it is shown", || pair.a.is(|s| !s.attached));
    sql(&pair.a.path, "INSERT INTO t VALUES(1)");
    wait("it queues", || pair.a.is(|s| s.queue_records == 1));
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 0);
    pair.a.send(Command::SetGate(crate::Gate::Open));
    pair.wait_equal();
    assert_eq!(pair.a.finished.lock().unwrap().len(), 1, "no comparison was needed");
}
