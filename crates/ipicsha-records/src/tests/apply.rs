//! Exactly once, the base rule, the journal, UNIQUE rules.

use std::collections::BTreeMap;

use ipicsha_core::{
    data::{DatabaseUuid, Value},
    id::Seq,
    license::LicensedRole::{Primary, Secondary},
};

use crate::{
    Error, JournalKind, Journaling,
    database::{Database, PATIENT},
    tests::support::{Node, dump, exchange, one, sql},
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
const U: &str = "CREATE TABLE u(id INTEGER PRIMARY KEY, name TEXT UNIQUE)";

fn pair(schema: &str) -> (Node, Node) {
    let (mut a, mut b) = (Node::new(Primary, schema), Node::new(Secondary, schema));
    Node::introduce(&mut a, &mut b);
    (a, b)
}

fn v(node: &Node) -> String {
    one(node.path(), "SELECT group_concat(id||'='||v) FROM t")
}

#[test]
fn a_batch_counts_once_and_what_does_not_fit_is_refused() {
    let (mut a, mut b) = pair(T);
    a.write("INSERT INTO t VALUES(1,'one')", 1);
    let first = a.batch(usize::MAX);
    assert!(b.apply(&first, usize::MAX).unwrap());
    a.acked = first.to;
    a.write("INSERT INTO t VALUES(2,'two')", 2);
    let second = a.batch(usize::MAX);
    a.acked = second.to;
    a.write("INSERT INTO t VALUES(3,'three')", 3);
    let third = a.batch(usize::MAX);
    assert!(matches!(b.apply(&third, usize::MAX), Err(Error::Mismatch(_))), "a gap");
    b.apply(&second, usize::MAX).unwrap();
    // The standby's row changed since: a duplicate must not bring the old one back.
    b.database.writer.execute_batch("UPDATE t SET v='later' WHERE id=1").unwrap();
    b.apply(&first, usize::MAX).unwrap();
    b.apply(&second, usize::MAX).unwrap();
    assert_eq!((v(&b).as_str(), b.applied()), ("1=later,2=two", Seq(2)));
    let mut foreign = third.clone();
    foreign.origin.uuid = DatabaseUuid([9; 16]);
    assert!(matches!(b.apply(&foreign, usize::MAX), Err(Error::Mismatch(_))), "another file");
    let mut restored = third.clone();
    restored.origin.incarnation += 1;
    assert!(matches!(b.apply(&restored, usize::MAX), Err(Error::Mismatch(_))), "a restored file");
    b.apply(&third, usize::MAX).unwrap();
    assert_eq!(v(&b), "1=later,2=two,3=three");
    assert_eq!(one::<i64>(b.path(), "SELECT count(*) FROM _ipicsha_log"), 0, "not captured again");
}

#[test]
fn batches_are_applied_together_unless_own_changes_may_be_concurrent() {
    let (mut a, mut b) = pair(T);
    let batches: Vec<_> = (1..=5)
        .map(|id| {
            a.write(&format!("INSERT INTO t VALUES({id},'v')"), id);
            let batch = a.batch(usize::MAX);
            a.acked = batch.to;
            batch
        })
        .collect();
    let [first, second, third, fourth, fifth] = &batches[..] else { panic!("five") };
    assert_eq!(b.apply_all(&[first, second], usize::MAX).unwrap(), 2);
    assert_eq!((v(&b).as_str(), b.applied()), ("1=v,2=v", second.to));
    let gap = b.apply_all(&[third, fifth], usize::MAX);
    assert!(matches!(gap, Err(Error::Mismatch(_))), "a gap behind the first");
    assert_eq!((v(&b).as_str(), b.applied()), ("1=v,2=v", second.to), "all or nothing");
    // What is decided about the first must be stored before the second is judged.
    b.write("INSERT INTO t VALUES(9,'own')", 9);
    assert_eq!(b.apply_all(&[third, fourth], usize::MAX).unwrap(), 1);
    assert_eq!((v(&b).as_str(), b.applied()), ("1=v,2=v,3=v,9=own", third.to));
}

#[test]
fn only_what_differs_is_written() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c);
                  INSERT INTO t VALUES(1, 0.0, 'x', NULL)";
    let (mut a, mut b) = pair(schema);
    a.write("UPDATE t SET a=-0.0, b=b, c=x'00' WHERE id=1", 1);
    exchange(&mut a, &mut b);
    let read = "SELECT group_concat(quote(a)||typeof(a)||b||quote(c)) FROM t";
    assert_eq!(one::<String>(a.path(), read), one::<String>(b.path(), read));
    let columns = |index| index == 1 || index == 3;
    let captured = b.database.table("t").unwrap();
    let expected = "UPDATE OR ABORT \"t\" SET \"a\"=?1,\"c\"=?2 WHERE \"id\" = ?3";
    assert_eq!(captured.table.update_sql(columns), expected);
}

#[test]
fn a_batch_applied_in_pieces_is_resumed_after_a_crash() {
    let (mut a, mut b) = pair(T);
    a.write("INSERT INTO t VALUES(1,'a'),(2,'b'),(3,'c')", 1);
    let batch = a.batch(usize::MAX);
    assert!(!b.apply(&batch, 2).unwrap());
    assert_eq!((v(&b).as_str(), b.applied()), ("1=a,2=b", Seq(2)));
    b.database = Database::open(&b.database.path.clone(), 100_000).unwrap();
    assert!(b.apply(&batch, 2).unwrap());
    assert_eq!((v(&b).as_str(), b.applied()), ("1=a,2=b,3=c", Seq(3)));
}

#[test]
fn a_change_that_knew_the_other_wins_whatever_the_clocks_say() {
    let (mut a, mut b) = pair(T);
    a.write("INSERT INTO t VALUES(1,'first')", 30_000);
    exchange(&mut a, &mut b);
    b.write("UPDATE t SET v='second' WHERE id=1", 10);
    exchange(&mut a, &mut b);
    assert_eq!((v(&a).as_str(), v(&b).as_str()), ("1=second", "1=second"));
    assert!(a.losers().is_empty() && b.losers().is_empty());
}

#[test]
fn concurrent_changes_are_decided_by_stamp_and_the_loser_is_journaled() {
    for (at_a, at_b, winner) in [(5, 6, "b"), (6, 5, "a"), (5, 5, "a")] {
        let (mut a, mut b) = pair(T);
        a.write("INSERT INTO t VALUES(1,'old')", 1);
        exchange(&mut a, &mut b);
        a.write("UPDATE t SET v='a' WHERE id=1", at_a);
        b.write("UPDATE t SET v='b' WHERE id=1", at_b);
        exchange(&mut a, &mut b);
        let expected = format!("1={winner}");
        assert_eq!((v(&a), v(&b)), (expected.clone(), expected), "{at_a} against {at_b}");
        // The secondary decided; what it sent afterwards knew the primary's change.
        assert!(a.losers().is_empty());
        let losers = b.losers();
        assert_eq!(losers.len(), 1);
        let loser = if winner == "a" { "b" } else { "a" };
        assert_eq!(losers[0].kind, JournalKind::Conflict);
        assert_eq!(losers[0].key, [Value::Integer(1)]);
        let text = |v: &str| Some(vec![Value::Integer(1), Value::Text(v.into())]);
        assert_eq!((&losers[0].loser, &losers[0].winner), (&text(loser), &text(winner)));
        assert_eq!(losers[0].loser_was_own, loser == "b");
    }
}

#[test]
fn batches_that_cross_are_decided_alike_on_both_servers() {
    for (at_a, at_b, winner) in [(5, 6, "b"), (6, 5, "a"), (5, 5, "a")] {
        let (mut a, mut b) = pair(T);
        a.write("INSERT INTO t VALUES(1,'a')", at_a);
        b.write("INSERT INTO t VALUES(1,'b')", at_b);
        let (from_a, from_b) = (a.batch(usize::MAX), b.batch(usize::MAX));
        a.apply(&from_b, usize::MAX).unwrap();
        b.apply(&from_a, usize::MAX).unwrap();
        let expected = format!("1={winner}");
        assert_eq!((v(&a), v(&b)), (expected.clone(), expected), "{at_a} against {at_b}");
        assert_eq!((a.losers().len(), b.losers().len()), (1, 1));
        assert_eq!(a.losers()[0].loser, b.losers()[0].loser);
        assert_ne!(a.losers()[0].loser_was_own, b.losers()[0].loser_was_own);
    }
}

#[test]
fn a_deletion_against_an_update_is_a_conflict_and_equal_changes_are_none() {
    let (mut a, mut b) = pair(T);
    a.write("INSERT INTO t VALUES(1,'x'),(2,'y')", 1);
    exchange(&mut a, &mut b);
    a.write("DELETE FROM t WHERE id=1; UPDATE t SET v='same' WHERE id=2", 5);
    b.write("UPDATE t SET v='kept' WHERE id=1; UPDATE t SET v='same' WHERE id=2", 9);
    exchange(&mut a, &mut b);
    assert_eq!((v(&a).as_str(), v(&b).as_str()), ("1=kept,2=same", "1=kept,2=same"));
    assert_eq!(b.losers().len(), 1);
    assert_eq!(b.losers()[0].loser, None, "the deletion lost");
}

#[test]
fn a_loser_is_restored_as_an_ordinary_write_and_reaches_the_other_server() {
    let (mut a, mut b) = pair(T);
    a.write("INSERT INTO t VALUES(1,'a')", 5);
    b.write("INSERT INTO t VALUES(1,'b')", 6);
    exchange(&mut a, &mut b);
    assert_eq!(v(&a), "1=b");
    let id = b.losers()[0].id;
    b.database.set_fence(true, crate::database::Unshipped::Nothing, PATIENT).unwrap();
    assert!(matches!(b.journal.restore(id, b.path()), Err(Error::Fenced { .. })));
    b.database.set_fence(false, crate::database::Unshipped::Nothing, PATIENT).unwrap();
    b.journal.restore(id, b.path()).unwrap();
    exchange(&mut a, &mut b);
    assert_eq!((v(&a).as_str(), v(&b).as_str()), ("1=a", "1=a"));
    assert!(b.losers()[0].restored_at.is_some());
    assert!(matches!(b.journal.restore(99, b.path()), Err(Error::NoEntry(99))));
}

#[test]
fn conflicts_are_counted_by_table() {
    let (mut a, mut b) = pair(&format!("{T}; {U}"));
    a.write("INSERT INTO t VALUES(1,'a'),(2,'a'); INSERT INTO u VALUES(1,'x')", 5);
    b.write("INSERT INTO t VALUES(1,'b'),(2,'b'); INSERT INTO u VALUES(2,'x')", 6);
    exchange(&mut a, &mut b);
    let counted = |node: &Node, database| node.journal.count_by_table(database).unwrap();
    let two_and_one = BTreeMap::from([("t".to_owned(), 2), ("u".to_owned(), 1)]);
    assert_eq!(counted(&b, "app"), two_and_one);
    assert!(counted(&b, "another").is_empty());
}

#[test]
fn a_conflict_applied_twice_is_journaled_once() {
    let (mut a, mut b) = pair(T);
    a.write("INSERT INTO t VALUES(1,'a')", 5);
    b.write("INSERT INTO t VALUES(1,'b')", 6);
    let batch = a.batch(usize::MAX);
    b.apply(&batch, usize::MAX).unwrap();
    // As after a crash between the commit of the journal and that of the database.
    b.app.execute_batch("UPDATE _ipicsha_meta SET partner_applied=0").unwrap();
    b.database = Database::open(&b.database.path.clone(), 100_000).unwrap();
    b.apply(&batch, usize::MAX).unwrap();
    assert_eq!(b.losers().len(), 1);
}

#[test]
fn swapped_unique_values_are_applied_and_a_victim_of_replace_disappears() {
    let (mut a, mut b) = pair(U);
    a.write("INSERT INTO u VALUES(1,'x'),(2,'y'),(3,'z')", 1);
    exchange(&mut a, &mut b);
    a.write("BEGIN; UPDATE u SET name='tmp' WHERE id=1; UPDATE u SET name='x' WHERE id=2; UPDATE u SET name='y' WHERE id=1; COMMIT", 2);
    a.write("REPLACE INTO u VALUES(9,'z')", 3);
    exchange(&mut a, &mut b);
    assert_eq!(dump(a.path()), dump(b.path()));
    assert_eq!(
        one::<String>(b.path(), "SELECT group_concat(id||name) FROM (SELECT * FROM u ORDER BY id)"),
        "1y,2x,9z"
    );
    assert!(b.losers().is_empty());
}

#[test]
fn records_that_collide_by_a_unique_value_end_the_same_on_both_servers() {
    for (at_a, at_b, winner) in [(5, 6, "2x"), (6, 5, "1x"), (5, 5, "1x")] {
        let (mut a, mut b) = pair(U);
        a.write("INSERT INTO u VALUES(1,'x')", at_a);
        b.write("INSERT INTO u VALUES(2,'x')", at_b);
        exchange(&mut a, &mut b);
        for node in [&a, &b] {
            let all: String = one(node.path(), "SELECT group_concat(id||name) FROM u");
            assert_eq!(all, winner, "{at_a} against {at_b}");
        }
        let unique = |node: &Node| node.losers().iter().any(|l| l.kind == JournalKind::Unique);
        assert!(unique(&a) || unique(&b));
    }
}

#[test]
fn a_record_that_loses_by_a_unique_value_is_gone_on_both_servers() {
    let (mut a, mut b) = pair(U);
    a.write("INSERT INTO u VALUES(1,'y')", 1);
    exchange(&mut a, &mut b);
    a.write("UPDATE u SET name='x' WHERE id=1", 5);
    b.write("INSERT INTO u VALUES(2,'x')", 6);
    exchange(&mut a, &mut b);
    assert_eq!(dump(a.path()), dump(b.path()));
    assert_eq!(one::<String>(a.path(), "SELECT group_concat(id||name) FROM u"), "2x");
}

#[test]
fn keys_equal_under_their_collation_are_one_record() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY, v TEXT)");
    a.write("INSERT INTO t VALUES('Key','1')", 1);
    exchange(&mut a, &mut b);
    a.write("UPDATE t SET id='KEY', v='2'", 5);
    exchange(&mut a, &mut b);
    assert_eq!((v(&a).as_str(), v(&b).as_str()), ("KEY=2", "KEY=2"));
    a.write("UPDATE t SET v='a'", 7);
    b.write("UPDATE t SET id='kEy', v='b'", 8);
    exchange(&mut a, &mut b);
    assert_eq!((v(&a).as_str(), v(&b).as_str()), ("kEy=b", "kEy=b"));
}

#[test]
fn every_value_arrives_as_it_was() {
    let (mut a, mut b) = pair("CREATE TABLE t(id, k2 BLOB, v, w REAL, PRIMARY KEY(id, k2))");
    a.write(
        "INSERT INTO t VALUES(1.5, x'', NULL, 0.1), ('1', x'00ff', CAST(x'ff00fe' AS TEXT), -0.0),
         (9223372036854775807, 'text', 'a'||char(0)||'b', 9e999), (1, zeroblob(3), x'', -9e999),
         ('ü', x'01', 1e308*10, 1e-320)",
        1,
    );
    exchange(&mut a, &mut b);
    assert_eq!(dump(a.path()).len(), 5);
    assert_eq!(dump(a.path()), dump(b.path()));
    a.write("DELETE FROM t WHERE id=1.5 OR id='1'; UPDATE t SET v=NULL", 2);
    exchange(&mut a, &mut b);
    assert_eq!(dump(a.path()).len(), 3);
    assert_eq!(dump(a.path()), dump(b.path()));
}

#[test]
fn the_applications_triggers_and_cascades_do_not_run_twice() {
    let (mut a, mut b) = pair(
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE);
         CREATE TABLE n(id INTEGER PRIMARY KEY, count); INSERT INTO n VALUES(1,0);
         CREATE TRIGGER own AFTER INSERT ON c BEGIN UPDATE n SET count=count+1; END",
    );
    a.write("PRAGMA foreign_keys=ON; INSERT INTO p VALUES(1),(2); INSERT INTO c VALUES(1,1),(2,1),(3,2)", 1);
    exchange(&mut a, &mut b);
    a.write("DELETE FROM p WHERE id=1", 2);
    exchange(&mut a, &mut b);
    assert_eq!(dump(a.path()), dump(b.path()));
    assert_eq!(one::<i64>(b.path(), "SELECT count FROM n"), 3);
    assert_eq!(one::<i64>(b.path(), "SELECT count(*) FROM c"), 1);
}

#[test]
fn commits_do_not_wait_for_the_disk_only_where_a_power_cut_can_do_no_damage() {
    const NORMAL: i64 = 1;
    const FULL: i64 = 2;
    let level = |database: &Database| -> i64 {
        database.writer.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap()
    };
    for (mode, during) in [("WAL", NORMAL), ("DELETE", FULL)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sqlite");
        sql(&path, &format!("PRAGMA journal_mode={mode}; {T}"));
        let mut database = Database::open_as(&path, 5000, Journaling::Keep).unwrap();
        let seen = database.transaction_unsynced(PATIENT, |database| Ok(level(database)));
        assert_eq!(seen.unwrap(), during, "{mode}");
        let failed: Result<(), Error> = database
            .transaction_unsynced(PATIENT, |_| Err(Error::Mismatch("a batch that does not fit")));
        assert!(matches!(failed, Err(Error::Mismatch(_))));
        let next = database.transaction(PATIENT, |database| Ok(level(database)));
        assert_eq!(next.unwrap(), FULL, "{mode}: every other transaction waits");
        database.transaction_unsynced(PATIENT, |_| Ok(())).unwrap();
        database.begin(PATIENT).unwrap();
        assert_eq!(level(&database), FULL, "{mode}: so does a switchover's");
    }
}
