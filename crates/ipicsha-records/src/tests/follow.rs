//! Schema changes on the active server reach the standby; what cannot follow is held by name.

use std::{sync::mpsc::channel, time::Instant};

use crate::{
    Command, Done, Error, Writes,
    tests::{
        pair::schema_of,
        support::{GENEROUS, Pair, application, one, sql, wait},
    },
};

const START: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b); CREATE TABLE other(x);
    CREATE INDEX by_a ON t(a);";
const FILL: &str = "WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<500)
    INSERT INTO t SELECT v,'a'||v,v%7 FROM s; INSERT INTO other SELECT a FROM t;";

/// What the application does to its schema; schema and rows are compared after each.
const CHANGES: &[&str] = &[
    "CREATE TABLE fresh(k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO fresh VALUES('x',1),('y',2)",
    "INSERT INTO fresh VALUES('z',3)",
    "ALTER TABLE t ADD COLUMN c NOT NULL DEFAULT 'd'; UPDATE t SET c='changed' WHERE id<10",
    "ALTER TABLE t RENAME COLUMN b TO bb; INSERT INTO t(id,a,bb) VALUES(1000,'n',1)",
    "ALTER TABLE t DROP COLUMN bb; DELETE FROM t WHERE id=3",
    "CREATE UNIQUE INDEX unique_a ON t(a); REPLACE INTO t(id,a) VALUES(2000,'a7')",
    "CREATE TRIGGER own AFTER INSERT ON t BEGIN INSERT INTO other VALUES('by trigger '||NEW.id); END;
     INSERT INTO t(id,a) VALUES(3000,'triggers')",
    "CREATE VIEW w AS SELECT a FROM t JOIN other ON a=x; PRAGMA user_version=41",
    "BEGIN; CREATE TABLE n(a TEXT NOT NULL UNIQUE, c, extra); INSERT INTO n(a,c) SELECT a,c FROM t WHERE id>20;
     DROP VIEW w; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT; DELETE FROM t WHERE a='a30'",
    "ALTER TABLE fresh RENAME TO renamed; UPDATE renamed SET v=v+1",
    "CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES('not replicated')",
    "PRAGMA user_version=42",
    "DROP INDEX IF EXISTS by_a; DROP TABLE renamed",
    "DROP TABLE words; UPDATE other SET x='last'; CREATE TABLE many(a, b, c, d, PRIMARY KEY(d, b)); INSERT INTO many VALUES(1,2,3,4)",
];

fn version(path: &std::path::Path) -> i64 {
    one(path, "PRAGMA user_version")
}

#[test]
fn the_schema_of_the_active_server_reaches_the_standby() {
    for primary in [true, false] {
        let (a, b) =
            if primary { (Writes::Open, Writes::Closed) } else { (Writes::Closed, Writes::Open) };
        let pair = Pair::start(START, START, a, b);
        pair.wait_synced();
        let (active, standby) = if primary { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        sql(&active.path, FILL);
        pair.wait_equal();
        for change in CHANGES {
            sql(&active.path, change);
            wait(change, || {
                schema_of(&active.path) == schema_of(&standby.path)
                    && version(&active.path) == version(&standby.path)
            });
            sql_without_virtual(&pair);
        }
        for side in [&pair.a, &pair.b] {
            assert!(side.conflicts.lock().unwrap().is_empty(), "nothing was in conflict");
            wait("nothing is held", || {
                side.is(|s| s.skipped_tables.is_empty() && s.tables == ["many", "other", "t"])
            });
        }
        let refused = application(&standby.path).execute("DELETE FROM many", []).unwrap_err();
        assert!(refused.to_string().contains(crate::REFUSAL), "new tables are fenced: {refused}");
    }
}

/// Virtual tables are not replicated: everything else is equal.
fn sql_without_virtual(pair: &Pair) {
    let rows = |path| {
        let mut rows = crate::tests::support::dump(path);
        rows.retain(|row| !row.starts_with("words"));
        rows
    };
    wait("the rows are equal", || rows(&pair.a.path) == rows(&pair.b.path));
}

#[test]
fn a_standby_that_was_away_follows_when_it_is_back() {
    let mut pair = Pair::running(START);
    sql(&pair.a.path, FILL);
    pair.wait_equal();
    pair.b.stop();
    sql(
        &pair.a.path,
        "ALTER TABLE t ADD COLUMN c; UPDATE t SET c=id; DROP TABLE other; CREATE TABLE z(x); INSERT INTO z VALUES(1)",
    );
    pair.b.start(Writes::Closed);
    pair.connect();
    wait("the schema", || schema_of(&pair.a.path) == schema_of(&pair.b.path));
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t WHERE c=id"), 500);
}

#[test]
fn at_first_contact_the_standbys_own_records_are_merged_into_the_new_schema() {
    let old = "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1,'b'),(2,'b');
        CREATE TABLE own(x); INSERT INTO own VALUES('kept')";
    let new = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, c DEFAULT 5); INSERT INTO t VALUES(2,'a',1),(3,'a',1)";
    let pair = Pair::start(new, old, Writes::Open, Writes::Closed);
    let rows = "SELECT group_concat(id||a||c) FROM (SELECT * FROM t ORDER BY id)";
    wait("it is merged", || {
        [&pair.a, &pair.b].iter().all(|side| {
            let app = application(&side.path);
            app.query_row(rows, [], |row| row.get::<_, String>(0))
                .is_ok_and(|all| all == "1b5,2a1,3a1")
        })
    });
    let held = || pair.b.is(|s| s.skipped_tables.iter().any(|skipped| skipped.table == "own"));
    wait("what only the standby has is named", held);
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM own"), 1, "and not dropped");
}

#[test]
fn a_change_that_never_reached_the_partner_is_held_and_not_undone() {
    let pair = Pair::running(START);
    sql(&pair.a.path, FILL);
    pair.wait_equal();
    pair.cut();
    sql(
        &pair.a.path,
        "CREATE TABLE z(x); INSERT INTO z VALUES('only here'); ALTER TABLE t ADD COLUMN c; UPDATE t SET c='only here'",
    );
    wait("it is noticed", || pair.a.is(|s| s.tables.contains(&"z".to_owned())));
    pair.a.set_writes(Writes::Closed);
    pair.b.set_writes(Writes::Open);
    sql(
        &pair.b.path,
        "INSERT INTO other VALUES('flows'); CREATE TABLE from_b(x); INSERT INTO from_b VALUES(1)",
    );
    pair.connect();
    wait("the others flow", || {
        one::<i64>(&pair.a.path, "SELECT count(*) FROM other WHERE x='flows'") == 1
            && schema_of(&pair.a.path).iter().any(|object| object.contains("from_b"))
    });
    let held = |table: &str| pair.a.is(|s| s.skipped_tables.iter().any(|s| s.table == table));
    wait("they are named", || held("z") && held("t"));
    assert_eq!(one::<i64>(&pair.a.path, "SELECT count(*) FROM t, z WHERE c=z.x"), 500);
}

/// The application creates a table and fills it; the worker hears of that together with `command`.
fn at_once_with<T: Send + 'static>(
    pair: &Pair,
    command: impl FnOnce(Done<T>) -> Command,
) -> Result<T, Error> {
    let ((release, held), (to, answer)) = (channel::<()>(), channel());
    let busy = Box::new(move |_| held.recv().unwrap());
    pair.a.send(Command::SetWrites { writes: Writes::Open, drained: true, done: busy });
    sql(
        &pair.a.path,
        "CREATE TABLE fresh(id INTEGER PRIMARY KEY, v); INSERT INTO fresh VALUES(1,'acknowledged')",
    );
    pair.a.send(command(Box::new(move |result| to.send(result).unwrap())));
    release.send(()).unwrap();
    answer.recv_timeout(GENEROUS).unwrap()
}

const FRESH: &str = "SELECT count(*) FROM fresh WHERE v='acknowledged'";

#[test]
fn a_table_created_just_before_writes_are_closed_is_not_lost() {
    let pair = Pair::running(START);
    pair.cut();
    let writes = Writes::Closed;
    at_once_with(&pair, |done| Command::SetWrites { writes, drained: false, done }).unwrap();
    pair.b.set_writes(Writes::Open);
    pair.connect();
    let held = || pair.a.is(|s| s.skipped_tables.iter().any(|s| s.table == "fresh"));
    wait("it is named", held);
    assert_eq!(one::<i64>(&pair.a.path, FRESH), 1);
    let refused = application(&pair.a.path).execute("INSERT INTO fresh VALUES(2,'')", []);
    assert!(refused.unwrap_err().to_string().contains(crate::REFUSAL));
}

#[test]
fn a_switchover_waits_for_a_table_that_was_just_created() {
    let pair = Pair::running(START);
    let deadline = Instant::now() + GENEROUS;
    let prepare = |done| Command::Prepare { deadline, done };
    if at_once_with(&pair, prepare).is_err() {
        wait("it is prepared", || pair.a.ask(prepare).is_ok());
    }
    assert_eq!(one::<i64>(&pair.b.path, FRESH), 1);
    pair.a.ask(|done| Command::Commit { done }).unwrap();
    pair.b.set_writes(Writes::Open);
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.a.path, FRESH), 1);
}
