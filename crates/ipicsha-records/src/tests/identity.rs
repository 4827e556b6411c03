//! Every kind of write on every rung of the identity ladder, compared by plain SELECTs.

use ipicsha_core::license::LicensedRole::{Primary, Secondary};

use crate::{
    Command, Identity, Writes,
    tests::support::{Node, Pair, application, dump, exchange, one, sql, wait},
};

/// The table under test is `t(a, b, c, v)`: `a` and `b` tell records apart, `c` is another UNIQUE
/// column, `v` the rest.
const TABLES: &[(&str, Identity, &str)] = &[
    ("integer key", Identity::PrimaryKey, "CREATE TABLE t(a INTEGER PRIMARY KEY, b, c UNIQUE, v)"),
    ("text key", Identity::PrimaryKey, "CREATE TABLE t(a TEXT PRIMARY KEY, b, c UNIQUE, v)"),
    (
        "descending key",
        Identity::PrimaryKey,
        "CREATE TABLE t(a INTEGER PRIMARY KEY DESC NOT NULL, b, c UNIQUE, v)",
    ),
    (
        "composite",
        Identity::PrimaryKey,
        "CREATE TABLE t(a INT, b INT, c UNIQUE, v, g AS (a||'-'||b) STORED, PRIMARY KEY(b, a))",
    ),
    (
        "without rowid",
        Identity::PrimaryKey,
        "CREATE TABLE t(a INT, b BLOB, c UNIQUE, v, PRIMARY KEY(a, b)) WITHOUT ROWID",
    ),
    (
        "strict",
        Identity::PrimaryKey,
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b INTEGER, c TEXT UNIQUE, v TEXT) STRICT",
    ),
    ("blob key", Identity::PrimaryKey, "CREATE TABLE t(a BLOB PRIMARY KEY, b, c UNIQUE, v)"),
    (
        "generated",
        Identity::PrimaryKey,
        "CREATE TABLE t(a INTEGER PRIMARY KEY, g AS (v||'!'), b, c UNIQUE, v)",
    ),
    ("unique", Identity::Unique, "CREATE TABLE t(a INT NOT NULL UNIQUE, b, c UNIQUE, v)"),
    (
        "unique, composite",
        Identity::Unique,
        "CREATE TABLE t(a TEXT NOT NULL, b INT NOT NULL, c UNIQUE, v);
         CREATE UNIQUE INDEX own ON t(b, a COLLATE NOCASE)",
    ),
    ("unique, nullable", Identity::Rowid, "CREATE TABLE t(a UNIQUE, b, c UNIQUE, v)"),
    ("rowid", Identity::Rowid, "CREATE TABLE t(a, b, c UNIQUE, v)"),
    ("rowid, shadowed", Identity::Rowid, "CREATE TABLE t(a, b, c UNIQUE, v, rowid, _rowid_)"),
    (
        "rowid, partial index",
        Identity::Rowid,
        "CREATE TABLE t(a, b, c UNIQUE, v); CREATE UNIQUE INDEX p ON t(a) WHERE v='x'",
    ),
];

/// Beside it: a child that cascades, and a table the application's own trigger writes.
const BESIDE: &str = "
    CREATE TABLE child(n, parent REFERENCES t(c) ON DELETE CASCADE ON UPDATE SET NULL);
    CREATE TABLE seen(what, n);
    CREATE TRIGGER own AFTER DELETE ON t BEGIN INSERT INTO seen VALUES(OLD.a, (SELECT count(*) FROM seen)); END;";

/// What the application does; both servers are compared after each.
const WRITES: &[&str] = &[
    "INSERT INTO t(a,b,c,v) VALUES(1,10,'c1','x'),(2,20,'c2','x'),(3,30,'c3','x'),(4,40,NULL,'x'),(5,50,NULL,NULL)",
    "INSERT INTO child VALUES(1,'c1'),(2,'c1'),(3,'c2'),(4,NULL)",
    "UPDATE t SET v='y' WHERE a<3",
    "UPDATE t SET a=70, b=7 WHERE a=1",
    "UPDATE t SET a=a+100, b=b+100",
    "BEGIN; UPDATE t SET c='tmp' WHERE c='c2'; UPDATE t SET c='c2' WHERE c='c3'; UPDATE t SET c='c3' WHERE c='tmp'; COMMIT",
    "REPLACE INTO t(a,b,c,v) VALUES(8,80,'c3','replaced')",
    "INSERT OR REPLACE INTO t(a,b,c,v) VALUES(8,80,'c8','again')",
    "UPDATE OR REPLACE t SET c='c2' WHERE a=104",
    "INSERT INTO t(a,b,c,v) VALUES(9,90,'c2','upsert') ON CONFLICT(c) DO UPDATE SET v='upserted'",
    "INSERT OR IGNORE INTO t(a,b,c,v) VALUES(9,90,'c2','ignored')",
    "UPDATE t SET c='moved' WHERE c='c1'",
    "DELETE FROM t WHERE c='c2'",
    "INSERT INTO t(a,b,c,v) SELECT 1000+n,n,'n'||n,n FROM (WITH RECURSIVE s(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM s WHERE n<50) SELECT n FROM s)",
    "BEGIN; DELETE FROM t; INSERT INTO t(a,b,c,v) VALUES(1,1,'c1','left'); ROLLBACK",
    "DELETE FROM t; INSERT INTO t(a,b,c,v) VALUES(1,10,'c1','new')",
    "DELETE FROM t",
];

/// Rows with their rowids, where there are any.
fn rows(node: &Node) -> Vec<String> {
    let mut rows = dump(node.path());
    let t = &node.database.table("t").unwrap().table;
    if t.identity == Identity::Rowid {
        let alias = &t.columns[0];
        let query = format!(
            "SELECT group_concat({alias}||':'||c) FROM (SELECT {alias},* FROM t ORDER BY 1)"
        );
        let ids: Option<String> = node.app.query_row(&query, [], |row| row.get(0)).unwrap();
        rows.extend(ids);
    }
    rows
}

#[test]
fn every_write_reaches_the_other_server_whatever_tells_records_apart() {
    for (name, identity, create) in TABLES {
        let schema = format!("{create};{BESIDE}");
        let (mut a, mut b) = (Node::new(Primary, &schema), Node::new(Secondary, &schema));
        Node::introduce(&mut a, &mut b);
        assert_eq!(a.database.table("t").unwrap().table.identity, *identity, "{name}");
        a.app.execute_batch("PRAGMA foreign_keys=ON").unwrap();
        for (index, statements) in WRITES.iter().enumerate() {
            a.write(statements, index as i64);
            exchange(&mut a, &mut b);
            assert_eq!(rows(&a), rows(&b), "{name}: {statements}");
        }
        assert!(one::<i64>(a.path(), "SELECT count(*) FROM seen") > 50, "{name}");
        assert!(a.losers().is_empty() && b.losers().is_empty(), "{name}");
        // And back: what one server wrote the other can change.
        b.write("INSERT INTO t(a,b,c,v) VALUES(1,1,'x','b'),(2,2,'y','b')", 100);
        exchange(&mut a, &mut b);
        a.write("UPDATE t SET v='a'; DELETE FROM t WHERE c='y'", 101);
        exchange(&mut a, &mut b);
        assert_eq!(rows(&a), rows(&b), "{name}");
        assert_eq!(one::<String>(b.path(), "SELECT group_concat(v) FROM t"), "a", "{name}");
    }
}

#[test]
fn records_without_a_key_are_named_and_the_others_flow() {
    let pair = Pair::running("CREATE TABLE t(k TEXT PRIMARY KEY, v)");
    assert!(pair.a.is(|s| s.warnings.is_empty()));
    sql(&pair.a.path, "INSERT INTO t VALUES(NULL,1),(NULL,2),('x',3); UPDATE t SET v=v+1");
    wait("the others flow", || one::<i64>(&pair.b.path, "SELECT ifnull(sum(v),0) FROM t") == 4);
    wait("it is said", || pair.a.is(|s| s.warnings.iter().any(|w| w.contains("table t has"))));
    sql(&pair.a.path, "UPDATE t SET k='y' WHERE v=2; DELETE FROM t WHERE k IS NULL");
    pair.wait_equal();
}

#[test]
fn the_status_says_what_tells_records_apart() {
    let pair = Pair::running(
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE u(x NOT NULL UNIQUE); CREATE TABLE r(x)",
    );
    let names = |s: &crate::DatabaseStatus| -> Vec<_> {
        s.identities
            .iter()
            .map(|(table, identity)| format!("{table} {}", identity.name()))
            .collect()
    };
    let expected = ["p PRIMARY KEY", "r rowid", "u UNIQUE index"];
    wait("it is shown", || {
        pair.a.is(|s| names(s) == expected) && pair.b.is(|s| names(s) == expected)
    });
}

const COUNTED: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v)";

fn next_id(path: &std::path::Path) -> i64 {
    let app = application(path);
    app.execute("INSERT INTO t(v) VALUES('next')", []).unwrap();
    app.last_insert_rowid()
}

#[test]
fn ids_are_not_given_out_again_after_a_planned_switchover() {
    let before = format!("{COUNTED}; INSERT INTO t VALUES(500,'gone'); DELETE FROM t");
    let pair = Pair::start(&before, COUNTED, Writes::Open, Writes::Closed);
    pair.wait_synced();
    let given =
        |path: &std::path::Path| one::<i64>(path, "SELECT ifnull(sum(seq),0) FROM sqlite_sequence");
    wait("those of before", || given(&pair.b.path) == 500);
    // Gone before the change is sent: no row carries this id to the partner.
    sql(&pair.a.path, "BEGIN; INSERT INTO t VALUES(900,'short'); DELETE FROM t; COMMIT");
    wait("those of now", || given(&pair.b.path) == 900);
    pair.a.set_writes(Writes::Closed);
    pair.b.set_writes(Writes::Open);
    assert_eq!(next_id(&pair.b.path), 901);
    pair.wait_equal();
    pair.b.set_writes(Writes::Closed);
    pair.a.set_writes(Writes::Open);
    assert_eq!(next_id(&pair.a.path), 902);
}

#[test]
fn ids_that_may_never_have_arrived_are_left_out_at_a_takeover() {
    let pair = Pair::running(COUNTED);
    sql(&pair.a.path, "INSERT INTO t(v) VALUES('arrives')");
    pair.wait_equal();
    pair.cut();
    sql(&pair.a.path, "INSERT INTO t(v) VALUES('does not')");
    pair.b.set_writes(Writes::Open);
    assert_eq!(next_id(&pair.b.path), 1 + crate::sequence::LEFT_OUT + 1);
    pair.a.set_writes(Writes::Closed);
    pair.connect();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 3, "nothing collided");
}

#[test]
fn ids_are_left_out_although_the_loss_of_the_partner_was_not_noticed_yet() {
    let pair = Pair::running(COUNTED);
    sql(&pair.a.path, "INSERT INTO t(v) VALUES('arrives')");
    pair.wait_equal();
    pair.b.ask(|done| Command::SetWrites { writes: Writes::Open, drained: false, done }).unwrap();
    assert_eq!(next_id(&pair.b.path), 1 + crate::sequence::LEFT_OUT + 1);
}

#[test]
fn a_record_in_the_way_of_a_rule_over_an_expression_yields_on_the_standby_too() {
    let pair = Pair::running(
        "CREATE TABLE users(id INTEGER PRIMARY KEY, mail TEXT, gone INTEGER DEFAULT 0);
         CREATE UNIQUE INDEX lowered ON users(lower(mail)); CREATE UNIQUE INDEX present ON users(mail) WHERE gone=0;
         CREATE TABLE other(x)",
    );
    sql(&pair.a.path, "INSERT INTO users(id,mail) VALUES(1,'Ann@x'),(2,'bob@x'),(3,'cy@x')");
    pair.wait_equal();
    // No trigger of ours sees that record 1 is removed.
    sql(&pair.a.path, "INSERT OR REPLACE INTO users(id,mail) VALUES(9,'ann@X')");
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM users WHERE id IN (1,9)"), 1);
    // Two swap their values in one transaction.
    sql(
        &pair.a.path,
        "BEGIN; UPDATE users SET mail='t' WHERE id=2; UPDATE users SET mail='BOB@x' WHERE id=3;
         UPDATE users SET mail='cy@x' WHERE id=2; COMMIT; INSERT INTO other VALUES('flows')",
    );
    pair.wait_equal();
    assert!(pair.b.is(|s| s.hold.is_none()));
}
