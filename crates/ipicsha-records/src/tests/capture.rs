//! What the triggers log, and that installing and removing leave the application alone.

use ipicsha_core::{
    data::{Change, Standing, Value},
    license::LicensedRole,
};

use crate::{
    Error, Writes, capture,
    database::{self, Database},
    tests::support::{Node, Pair, application, one, sql, wait},
};

const NAMES: &str = "CREATE TABLE names(id INTEGER PRIMARY KEY, name TEXT UNIQUE, n INTEGER)";

fn log(node: &Node) -> Vec<(i64, String)> {
    let mut statement =
        node.app.prepare("SELECT op, quote(k1) FROM _ipicsha_log ORDER BY seq").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn logged_by(statements: &str) -> Vec<(i64, String)> {
    let node = Node::new(LicensedRole::Primary, NAMES);
    node.app.execute_batch("INSERT INTO names VALUES(1,'a',0),(2,'b',0)").unwrap();
    node.app.execute_batch(statements).unwrap();
    log(&node).split_off(2)
}

fn entry(op: i64, key: i64) -> (i64, String) {
    (op, key.to_string())
}

/// In which order SQLite runs two triggers is not said; each record is sent as it is.
fn sorted(mut entries: Vec<(i64, String)>) -> Vec<(i64, String)> {
    entries.sort();
    entries
}

#[test]
fn a_key_that_moves_is_logged_twice_by_whatever_name_it_is_set() {
    for key in ["id", "ID", "\"id\"", "rowid", "oid", "_rowid_"] {
        for statement in [
            format!("UPDATE names SET {key}=9 WHERE id=1"),
            format!("UPDATE names SET n=1, {key}=id+8 WHERE name='a'"),
            format!("UPDATE names SET (n,{key})=(5,9) WHERE id=1"),
            format!("INSERT INTO names VALUES(1,'z',0) ON CONFLICT(id) DO UPDATE SET {key}=9"),
        ] {
            let logged = sorted(logged_by(&statement));
            assert_eq!(logged, [entry(2, 9), entry(3, 1)], "{statement}");
        }
    }
    let without_key = "CREATE TABLE notes(note TEXT)";
    let node = Node::new(LicensedRole::Primary, without_key);
    node.app.execute_batch("INSERT INTO notes VALUES('a'); UPDATE notes SET oid=7").unwrap();
    assert_eq!(sorted(log(&node)), [entry(1, 1), entry(2, 7), entry(3, 1)]);
    let cascading = "CREATE TABLE unit(name TEXT PRIMARY KEY) WITHOUT ROWID;
        CREATE TABLE member(unit TEXT PRIMARY KEY REFERENCES unit ON UPDATE CASCADE)";
    let node = Node::new(LicensedRole::Primary, cascading);
    node.app
        .execute_batch(
            "PRAGMA foreign_keys=ON; INSERT INTO unit VALUES('x'); INSERT INTO member VALUES('x');
             UPDATE unit SET name='y'",
        )
        .unwrap();
    let both = [(1, "'x'"), (2, "'y'"), (3, "'x'")].map(|(op, key)| vec![(op, key.to_owned()); 2]);
    assert_eq!(sorted(log(&node)), both.concat());
}

#[test]
fn every_kind_of_write_is_logged_under_the_right_key() {
    assert_eq!(logged_by("INSERT INTO names VALUES(7,'x',0)"), [entry(1, 7)]);
    assert_eq!(logged_by("UPDATE names SET n=1 WHERE id=2"), [entry(2, 2)]);
    assert_eq!(logged_by("DELETE FROM names WHERE id=1"), [entry(3, 1)]);
    assert_eq!(logged_by("DELETE FROM names"), [entry(3, 1), entry(3, 2)]);
    assert_eq!(logged_by("INSERT OR IGNORE INTO names VALUES(1,'z',0)"), []);
    assert_eq!(
        logged_by("INSERT INTO names VALUES(1,'z',0) ON CONFLICT(id) DO UPDATE SET n=5"),
        [entry(2, 1)]
    );
    // The victim of REPLACE goes without a delete trigger: it is logged as suspect.
    assert_eq!(logged_by("REPLACE INTO names VALUES(5,'a',0)"), [entry(4, 1), entry(1, 5)]);
    assert_eq!(
        logged_by("UPDATE OR REPLACE names SET name='a' WHERE id=2"),
        [entry(4, 1), entry(2, 2)]
    );
    assert_eq!(logged_by("BEGIN; DELETE FROM names; ROLLBACK"), []);
}

#[test]
fn a_suspect_is_sent_as_deletion_only_when_it_is_gone() {
    let mut node = Node::new(LicensedRole::Primary, NAMES);
    node.app.execute_batch("INSERT INTO names VALUES(1,'a',0),(2,'b',0)").unwrap();
    node.acked = node.batch(usize::MAX).to;
    // Refused by the UNIQUE rule after the probe has logged its suspicion.
    node.app.execute_batch("INSERT OR IGNORE INTO names VALUES(3,'a',0)").unwrap();
    assert_eq!(log(&node).split_off(2), [entry(4, 1)]);
    assert_eq!(node.batch(usize::MAX).rows, []);
    node.app.execute_batch("REPLACE INTO names VALUES(3,'a',0)").unwrap();
    let rows = node.batch(usize::MAX).rows;
    let changes: Vec<_> = rows.into_iter().map(|row| row.change).collect();
    let integer = Value::Integer;
    assert_eq!(
        changes,
        [
            Change::Delete(vec![integer(1)]),
            Change::Upsert(vec![integer(3), Value::Text("a".into()), integer(0)])
        ]
    );
}

#[test]
fn a_change_before_a_suspicion_is_still_sent() {
    let mut node = Node::new(LicensedRole::Primary, NAMES);
    node.write("INSERT INTO names VALUES(1,'a',0)", 1000);
    node.write("INSERT OR IGNORE INTO names VALUES(3,'a',0)", 2000);
    let batch = node.batch(usize::MAX);
    assert_eq!(batch.rows.len(), 1);
    assert_eq!(batch.rows[0].wall.0, 1000);
    assert_eq!(batch.to.0, 2);
}

#[test]
fn a_record_is_sent_once_with_its_last_stamp_and_a_prefix_can_be_resumed() {
    let mut node = Node::new(LicensedRole::Primary, NAMES);
    node.write("INSERT INTO names VALUES(1,'a',0)", 1000);
    node.write("INSERT INTO names VALUES(2,'b',0)", 2000);
    node.write("UPDATE names SET n=1 WHERE id=1", 3000);
    let batch = node.batch(1);
    assert_eq!((batch.rows[0].seq.0, batch.rows[0].wall.0, batch.to.0), (2, 2000, 2));
    node.acked = batch.to;
    let batch = node.batch(1);
    assert_eq!((batch.rows[0].seq.0, batch.rows[0].wall.0, batch.to.0), (3, 3000, 3));
}

fn schema_text(path: &std::path::Path) -> Vec<String> {
    let db = application(path);
    let mut statement =
        db.prepare("SELECT type||name||tbl_name||ifnull(sql,'') FROM sqlite_schema").unwrap();
    let mut all: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    all.sort();
    all
}

#[test]
fn removal_leaves_the_schema_as_it_was_byte_for_byte() {
    let schema = "CREATE TABLE \"odd \"\"name\"(\"k 1\" TEXT COLLATE NOCASE, b BLOB, g AS (b||b), v, PRIMARY KEY(b, \"k 1\"), UNIQUE(v, b));
        CREATE TABLE s(a INTEGER PRIMARY KEY, b TEXT) STRICT; CREATE UNIQUE INDEX part ON s(b) WHERE a>5;
        CREATE TRIGGER own AFTER INSERT ON s BEGIN UPDATE s SET b='t' WHERE a=NEW.a; END;
        CREATE VIEW w AS SELECT * FROM s; CREATE VIRTUAL TABLE f USING fts5(x); CREATE TABLE nopk(x);";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, schema);
    let before = schema_text(&path);
    let mut db = Database::open(&path, 100_000).unwrap();
    db.set_fence(true, database::Unshipped::Nothing, database::PATIENT).unwrap();
    assert!(schema_text(&path).len() > before.len() + 10);
    let skipped: Vec<&str> = db.skipped.iter().map(|skipped| skipped.table.as_str()).collect();
    assert_eq!(skipped, ["f", "f_config", "f_content", "f_data", "f_docsize", "f_idx"]);
    assert!(db.warnings.iter().any(|warning| warning.contains("part")), "{:?}", db.warnings);
    drop(db);
    database::remove(&path).unwrap();
    assert_eq!(schema_text(&path), before);
    database::remove(&path).unwrap();
}

#[test]
fn opening_again_writes_nothing_and_repairs_what_was_dropped() {
    let node = Node::new(LicensedRole::Primary, NAMES);
    let version = |node: &Node| one_version(&node.app);
    let before = version(&node);
    drop(Database::open(node.path(), 100_000).unwrap());
    assert_eq!(version(&node), before, "an installed database is not written");
    node.app
        .execute_batch(
            "CREATE TABLE n2(id INTEGER PRIMARY KEY, name TEXT UNIQUE, n INTEGER);
             DROP TABLE names; ALTER TABLE n2 RENAME TO names;",
        )
        .unwrap();
    let db = Database::open(node.path(), 100_000).unwrap();
    let standing = db.table("names").unwrap().standing;
    assert_eq!(standing, Standing::Counts, "what was written without triggers has to be compared");
    sql(node.path(), "INSERT INTO names VALUES(4,'again',0)");
    assert_eq!(log(&node), [entry(1, 4)]);
}

/// Makes our tables what version 0.1 made them before it knew when what it applied was written.
fn to_format_2(path: &std::path::Path) {
    sql(
        path,
        "ALTER TABLE _ipicsha_meta DROP COLUMN partner_applied_ms; UPDATE _ipicsha_meta SET format=2",
    );
}

#[test]
fn a_file_of_the_format_before_is_served_without_another_comparison() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let mut pair = Pair::running(schema);
    sql(&pair.a.path, "INSERT INTO t VALUES(1,'before')");
    pair.wait_equal();
    wait("it is acknowledged", || pair.a.is(|s| s.acked == s.last_seq));
    pair.a.stop();
    pair.b.stop();
    to_format_2(&pair.a.path);
    to_format_2(&pair.b.path);
    sql(&pair.a.path, "INSERT INTO t VALUES(2,'while it was down')");
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 2);
    assert_eq!(pair.a.finished.lock().unwrap().len(), 1, "they were compared once");
    for side in [&pair.a, &pair.b] {
        assert_eq!(one::<i64>(&side.path, "SELECT format FROM _ipicsha_meta"), capture::FORMAT);
    }
}

#[test]
fn a_file_of_a_later_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, NAMES);
    drop(Database::open(&path, 5000).unwrap());
    sql(&path, "UPDATE _ipicsha_meta SET format=99; DROP TRIGGER _ipicsha_1i");
    let schema = schema_text(&path);
    let error = Database::open(&path, 5000).err().unwrap();
    assert!(matches!(error, Error::Format { format: 99, .. }), "{error}");
    assert!(error.next_step().contains("install the same version"), "{}", error.next_step());
    assert_eq!(schema_text(&path), schema);
}

fn one_version(db: &rusqlite::Connection) -> i64 {
    db.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap()
}

#[test]
fn the_ring_keeps_its_size_and_its_newest_entries() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, NAMES);
    drop(Database::open(&path, 4096).unwrap());
    let fill = "WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<20000)
        INSERT INTO names SELECT v,'n'||v,v FROM s";
    sql(&path, fill);
    assert!(one::<i64>(&path, "SELECT count(*) FROM _ipicsha_log") <= 4096 + 1024);
    assert_eq!(one::<i64>(&path, "SELECT max(seq) FROM _ipicsha_log"), 20000);
    let last = "SELECT k1 FROM _ipicsha_log ORDER BY seq DESC LIMIT 1";
    assert_eq!(one::<i64>(&path, last), 20000);
}
