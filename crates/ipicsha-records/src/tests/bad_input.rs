//! What must not be trusted: files, tables, batches, the journal. Each has a clear outcome.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use ipicsha_core::{
    data::{Batch, Change, Data, DatabaseUuid, Value},
    id::Seq,
    license::LicensedRole::{Primary, Secondary},
};

use crate::{
    Command, Error, Journal, JournalFilter, Writes, inspect, set_aside_if_damaged,
    tests::support::{Node, Pair, application, corrupt, dump, exchange, one, python, sql, wait},
};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
/// Nobody's user, to whom root's files are closed.
const NOBODY: u32 = 65534;

#[test]
fn encrypted_and_damaged_files_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    // As SQLCipher leaves it: every byte of the file looks random.
    let random: Vec<u8> = (0..4_u32)
        .flat_map(|n| [blake3::hash(&n.to_le_bytes()); 256])
        .flat_map(|h| *h.as_bytes())
        .collect();
    fs::write(&path, random).unwrap();
    let refusal = inspect(&path).unwrap_err();
    assert!(matches!(refusal, Error::NotSqlite { .. }), "{refusal}");
    assert!(refusal.to_string().contains("encrypted") && refusal.next_step().contains("encrypted"));
    // Its header is whole, the rest is not.
    fs::remove_file(&path).unwrap();
    sql(&path, "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE u(x)");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100..4096].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let refusal = inspect(&path).unwrap_err();
    assert!(refusal.to_string().contains("malformed"), "{refusal}");
}

#[test]
fn a_file_of_another_user_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sqlite");
    sql(&path, T);
    let open_folder = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open_folder).unwrap();
    let root = rustix::process::geteuid().is_root();
    for mode in [0o444, 0o000] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file = path.clone();
        // The identity of a thread is its own in Linux; root can read everything.
        let found = std::thread::spawn(move || {
            if root {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).unwrap();
            }
            inspect(&file)
        });
        let refusal = found.join().unwrap().unwrap_err();
        assert!(matches!(refusal, Error::NoPermission { .. }), "{mode:o}: {refusal}");
        assert!(refusal.next_step().contains("permission"));
    }
}

#[test]
fn a_database_in_exclusive_mode_is_held_until_it_is_released() {
    let mut pair = Pair::stopped(T, T);
    sql(&pair.a.path, "PRAGMA journal_mode=WAL");
    let holder = application(&pair.a.path);
    holder
        .execute_batch("PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES(1,'before')")
        .unwrap();
    let refusal = inspect(&pair.a.path).unwrap_err();
    assert!(matches!(refusal, Error::Locked { .. }), "{refusal}");
    assert!(refusal.next_step().contains("locking_mode"));
    pair.b.start(Writes::Closed);
    pair.a.start_without_role();
    pair.connect();
    wait("it says so", || {
        pair.a.is(|s| s.hold.as_ref().is_some_and(|hold| hold.contains("locked by another")))
    });
    holder.execute_batch("INSERT INTO t VALUES(2,'undisturbed')").unwrap();
    drop(holder);
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 2);
}

#[test]
fn tables_that_cannot_be_replicated_are_named_while_the_others_flow() {
    let mut pair = Pair::stopped("", "");
    let program = "
db.create_function('f',1,lambda x:1,deterministic=True)
db.create_collation('mine',lambda a,b:(a>b)-(a<b))
db.execute('CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)')
db.execute('CREATE TABLE checked(id INTEGER PRIMARY KEY, v CHECK(f(v)))')
db.execute('CREATE TABLE indexed(id INTEGER PRIMARY KEY, v)')
db.execute('CREATE INDEX i ON indexed(f(v))')
db.execute('CREATE TABLE collated(id TEXT COLLATE mine PRIMARY KEY)')
db.execute('CREATE VIRTUAL TABLE words USING fts5(x)')
";
    for side in [&pair.a, &pair.b] {
        assert!(python(&side.path, program).status().unwrap().success());
    }
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    let writing = "
db.create_function('f',1,lambda x:1,deterministic=True)
db.create_collation('mine',lambda a,b:(a>b)-(a<b))
for n in range(50):
    db.execute('INSERT INTO t VALUES(?,?)',(n,'v'))
    for table in ('checked','indexed'): db.execute(f'INSERT INTO {table} VALUES(?,1)',(n,))
    db.execute('INSERT INTO collated VALUES(?)',(str(n),))
    db.execute('INSERT INTO words VALUES(?)',('text %d'%n,))
";
    assert!(python(&pair.a.path, writing).status().unwrap().success());
    wait("the ordinary table flows", || one::<i64>(&pair.b.path, "SELECT count(*) FROM t") == 50);
    for side in [&pair.a, &pair.b] {
        assert!(side.is(|s| s.hold.is_none() && s.tables == ["t"]));
        for (table, reason) in [
            ("checked", "only the application"),
            ("indexed", "only the application"),
            ("collated", "only the application"),
            ("words", "virtual"),
        ] {
            let named = |s: &crate::DatabaseStatus| {
                s.skipped_tables.iter().any(|s| s.table == table && s.reason.contains(reason))
            };
            assert!(side.is(named), "{table}");
        }
    }
}

/// Another batch made of a good one.
type Forge = fn(&mut Batch);

#[test]
fn batches_that_do_not_fit_are_not_applied_and_the_pair_finds_together_again() {
    let forgeries: [(&str, Forge); 7] = [
        ("another file", |batch| batch.origin.uuid = DatabaseUuid([7; 16])),
        ("a restored file", |batch| batch.origin.incarnation += 1),
        ("a gap", |batch| {
            batch.from = Seq(batch.from.0 + 1000);
            batch.to = Seq(batch.to.0 + 1000);
            batch.rows.iter_mut().for_each(|row| row.seq = Seq(row.seq.0 + 1000));
        }),
        ("an unknown table", |batch| batch.tables = vec!["nowhere".into()]),
        ("a table of ours", |batch| batch.tables = vec!["_ipicsha_meta".into()]),
        ("another number of columns", |batch| {
            batch.rows[0].change = Change::Upsert(vec![Value::Integer(1); 7]);
        }),
        ("a table number out of range", |batch| batch.rows[0].table = 4711),
    ];
    let pair = Pair::running(T);
    for (n, (what, forge)) in forgeries.into_iter().enumerate() {
        sql(&pair.a.path, &format!("INSERT INTO t VALUES({n},'{what}')"));
        pair.wait_equal();
        let before = dump(&pair.b.path);
        let good = pair.a.last_batch();
        let mut next = good.clone();
        // In sequence, so that nothing but the forgery is wrong.
        (next.from, next.to) = (good.to, Seq(good.to.0 + 1));
        next.rows[0].seq = next.to;
        next.rows[0].change = Change::Upsert(vec![Value::Integer(99), Value::Text(b"bad".into())]);
        forge(&mut next);
        pair.b.sent.lock().unwrap().clear();
        pair.b.send(Command::Received(Data::Batch(next)));
        wait("it attaches again", || {
            pair.b.sent.lock().unwrap().iter().any(|data| matches!(data, Data::Attach(_)))
        });
        pair.wait_synced();
        assert_eq!(dump(&pair.b.path), before, "{what}");
        // A duplicate is no reason for anything.
        pair.b.send(Command::Received(Data::Batch(good)));
        sql(&pair.a.path, &format!("UPDATE t SET v=v||'!' WHERE id={n}"));
        pair.wait_equal();
    }
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM t"), 7);
}

#[test]
fn values_that_the_schema_refuses_are_not_applied_and_the_hold_says_so() {
    const S: &str = "CREATE TABLE s(id INTEGER PRIMARY KEY, v INTEGER NOT NULL) STRICT";
    let refused =
        [(Value::Text(b"bad".into()), "TEXT value in INTEGER"), (Value::Null, "NOT NULL")];
    for (value, reason) in refused {
        let pair = Pair::running(S);
        sql(&pair.a.path, "INSERT INTO s VALUES(1,1)");
        pair.wait_equal();
        wait("it is acknowledged", || pair.a.is(|s| s.acked == s.last_seq));
        let before = dump(&pair.b.path);
        let mut next = pair.a.last_batch();
        (next.from, next.to) = (next.to, Seq(next.to.0 + 1));
        next.rows[0].seq = next.to;
        next.rows[0].change = Change::Upsert(vec![Value::Integer(99), value]);
        pair.b.send(Command::Received(Data::Batch(next)));
        let held = |reason: &str| {
            pair.b.is(|s| s.hold.as_ref().is_some_and(|hold| hold.to_string().contains(reason)))
        };
        wait("it is held", || held(reason));
        assert_eq!(dump(&pair.b.path), before, "{reason}");
        // What the partner really has is sent anew with the next connection.
        pair.cut();
        sql(&pair.a.path, "UPDATE s SET v=2");
        pair.connect();
        pair.wait_equal();
        wait("the hold is over", || pair.b.is(|s| s.hold.is_none()));
    }
}

/// Overwrites the pages of a journal, but for its header.
fn damage(journal: &Path) {
    let mut bytes = fs::read(journal).unwrap();
    bytes[100..].fill(0x5A);
    fs::write(journal, bytes).unwrap();
}

#[test]
fn a_damaged_journal_is_kept_aside_and_replication_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.db");
    assert_eq!(set_aside_if_damaged(&journal).unwrap(), None, "there is none yet");
    drop(Journal::open(&journal).unwrap());
    assert_eq!(set_aside_if_damaged(&journal).unwrap(), None, "it is whole");
    for garbage in [true, false] {
        let _ = fs::remove_file(journal.with_extension("db-wal"));
        if garbage {
            fs::write(&journal, "no journal any more ".repeat(500)).unwrap();
        } else {
            drop(Journal::open(&journal).unwrap());
            application(&journal).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            damage(&journal);
        }
        let bytes = fs::read(&journal).unwrap();
        let aside = set_aside_if_damaged(&journal).unwrap().expect("it is damaged");
        assert_eq!(fs::read(&aside).unwrap(), bytes, "it is kept as it was");
        fs::remove_file(&aside).unwrap();
        let fresh = Journal::open(&journal).unwrap();
        assert!(fresh.list(&JournalFilter::default()).unwrap().is_empty());
    }
}

#[test]
fn nothing_is_overwritten_while_the_journal_cannot_take_the_loser() {
    let (mut a, mut b) = (Node::new(Primary, T), Node::new(Secondary, T));
    Node::introduce(&mut a, &mut b);
    a.write("INSERT INTO t VALUES(1,'a')", 9);
    b.write("INSERT INTO t VALUES(1,'b')", 5);
    // The loser is b's own version; its journal has lost the table it goes to.
    let journal = b.database.path.with_file_name("journal.db");
    sql(&journal, "DROP TABLE journal");
    let batch = a.batch(usize::MAX);
    let refused = b.apply(&batch, usize::MAX).unwrap_err();
    assert!(refused.to_string().contains("journal"), "{refused}");
    assert_eq!(one::<String>(b.path(), "SELECT v FROM t"), "b", "nothing was applied");
    assert_eq!(b.applied(), Seq(0));
    b.journal = Journal::open(&journal).unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(one::<String>(b.path(), "SELECT v FROM t"), "a");
    assert_eq!(b.losers().len(), 1);
}

#[test]
fn an_entry_whose_bytes_mean_nothing_is_named_and_the_others_are_shown() {
    let (mut a, mut b) = (Node::new(Primary, T), Node::new(Secondary, T));
    Node::introduce(&mut a, &mut b);
    for id in 1..=2 {
        a.write(&format!("INSERT INTO t VALUES({id},'a')"), 9);
        b.write(&format!("INSERT INTO t VALUES({id},'b')"), 5);
    }
    exchange(&mut a, &mut b);
    corrupt(
        &b.database.path.with_file_name("journal.db"),
        "UPDATE journal SET loser_row=x'ffffffffffff' WHERE id=1",
    );
    assert!(matches!(b.journal.show(1), Err(Error::DamagedEntry { id: 1, .. })));
    assert!(b.journal.show(2).unwrap().is_some());
}
