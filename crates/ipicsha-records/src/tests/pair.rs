//! Two workers joined by channels: replication, cuts, first contact, a missing file.

use crate::{
    Journal, JournalFilter, Writes,
    tests::support::{Pair, application, one, python, sql, wait},
};

const CALLS: &str = "CREATE TABLE calls(id INTEGER PRIMARY KEY, who TEXT, n INTEGER);
    CREATE TABLE tags(name TEXT, at INTEGER, v BLOB, PRIMARY KEY(name, at)) WITHOUT ROWID;";

#[test]
pub(crate) fn changes_reach_the_standby_and_the_other_way_after_a_change_of_roles() {
    let pair = Pair::running(CALLS);
    sql(
        &pair.a.path,
        "INSERT INTO calls VALUES(1,'x',1),(2,'y',2); INSERT INTO tags VALUES('t',1,x'00ff')",
    );
    pair.wait_equal();
    sql(&pair.a.path, "UPDATE calls SET n=n+1; DELETE FROM calls WHERE id=2; UPDATE tags SET at=5");
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT n FROM calls"), 2);
    pair.a.set_writes(Writes::Closed);
    pair.b.set_writes(Writes::Open);
    sql(
        &pair.b.path,
        "INSERT INTO calls WITH RECURSIVE s(v) AS (VALUES(10) UNION ALL SELECT v+1 FROM s WHERE v<3000) SELECT v,'b',v FROM s",
    );
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.a.path, "SELECT count(*) FROM calls"), 2992);
    wait("everything is acknowledged", || pair.b.is(|s| s.queue_records == 0 && s.last_seq.0 > 0));
    assert!(
        pair.a.conflicts.lock().unwrap().is_empty() && pair.b.conflicts.lock().unwrap().is_empty()
    );
}

#[test]
pub(crate) fn a_cut_link_is_resumed_without_another_comparison() {
    let pair = Pair::running(CALLS);
    sql(&pair.a.path, "INSERT INTO calls VALUES(1,'x',1)");
    pair.wait_equal();
    wait("it is acknowledged", || pair.a.is(|s| s.queue_records == 0 && s.acked.0 == 1));
    pair.cut();
    sql(&pair.a.path, "INSERT INTO calls VALUES(2,'y',2); UPDATE calls SET n=9 WHERE id=1");
    wait("the queue is shown", || pair.a.is(|s| s.queue_records == 2 && s.lag_seconds > 0.0));
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls"), 1);
    pair.connect();
    pair.wait_equal();
    wait("the queue is empty", || pair.a.is(|s| s.queue_records == 0));
    assert_eq!(pair.a.finished.lock().unwrap().len(), 1, "only the initial comparison");
}

#[test]
fn catching_up_after_a_cut_is_shown_with_its_speed_and_the_time_left() {
    // Each row costs the standby tens of microseconds, so that there is time to watch; there is more than
    // what is applied in one piece.
    let pair = Pair::running(
        "CREATE TABLE calls(id INTEGER PRIMARY KEY, n INTEGER, CHECK(length(hex(randomblob(10000)))>n));",
    );
    pair.cut();
    sql(
        &pair.a.path,
        "PRAGMA ignore_check_constraints=ON;
         INSERT INTO calls WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<80000) SELECT v,1 FROM s",
    );
    wait("the queue is shown", || pair.a.is(|s| s.queue_records == 80_000));
    assert!(pair.a.is(|s| s.queue_per_second.is_none() && s.queue_seconds_left.is_none()));
    // Somebody else has the standby's database for a while.
    let busy = application(&pair.b.path);
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    pair.connect();
    let started = std::time::Instant::now();
    wait("it is watched for a while", || started.elapsed().as_millis() > 1200);
    assert!(pair.a.is(|s| s.queue_seconds_left.is_none()), "no estimate while it stands still");
    busy.execute_batch("ROLLBACK").unwrap();
    let mut shown = None;
    wait("it is shown", || {
        let status = pair.a.status.lock().unwrap().clone().unwrap();
        shown = status.queue_per_second.zip(status.queue_seconds_left);
        shown.is_some()
    });
    let (rate, left) = shown.expect("a rate was shown");
    assert!(rate > 0 && left <= 80_000 / rate + 1, "{rate} per second, {left} s left");
    pair.wait_equal();
    wait("nothing is shown any more", || pair.a.is(|s| s.queue_per_second.is_none()));
}

#[test]
pub(crate) fn a_restart_of_either_daemon_resumes_without_another_comparison() {
    let mut pair = Pair::running(CALLS);
    for round in 0..3 {
        let side = if round % 2 == 0 { &mut pair.b } else { &mut pair.a };
        side.stop();
        sql(&pair.a.path, &format!("INSERT INTO calls VALUES({round},'x',1)"));
        if round % 2 == 0 {
            pair.b.start(Writes::Closed);
        } else {
            pair.a.start(Writes::Open);
        }
        pair.connect();
        pair.wait_equal();
        pair.wait_synced();
    }
    assert_eq!(pair.a.finished.lock().unwrap().len(), 1);
    assert_eq!(pair.b.finished.lock().unwrap().len(), 1);
}

#[test]
pub(crate) fn the_active_is_not_written_in_steady_state() {
    let pair = Pair::running(CALLS);
    let app = application(&pair.a.path);
    let version = || -> i64 { app.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap() };
    let before = version();
    for n in 0..50 {
        app.execute("INSERT INTO calls VALUES(?1,'x',1)", [n]).unwrap();
    }
    let settled = || pair.a.is(|s| s.last_seq.0 == 50 && s.acked == s.last_seq);
    wait("everything is acknowledged", settled);
    pair.cut();
    pair.connect();
    pair.wait_synced();
    assert_eq!(version(), before, "another connection has written the application's database");
}

#[test]
pub(crate) fn different_contents_are_merged_at_first_contact() {
    let rows = |from: i64, to: i64, who: &str| {
        format!(
            "{CALLS} WITH RECURSIVE s(v) AS (VALUES({from}) UNION ALL SELECT v+1 FROM s WHERE v<{to})
             INSERT INTO calls SELECT v,'{who}',v FROM s;"
        )
    };
    let pair =
        Pair::start(&rows(1, 9000, "a"), &rows(8001, 12000, "b"), Writes::Open, Writes::Closed);
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.a.path, "SELECT count(*) FROM calls"), 12000);
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls WHERE who='a'"), 9000);
    let reports = [pair.a.finished_initially().unwrap(), pair.b.finished_initially().unwrap()];
    assert_eq!(reports[0], reports[1]);
    let calls = reports[0].tables.iter().find(|table| table.table == "calls").unwrap();
    let found = &calls.differences;
    assert_eq!((found.only_primary, found.only_secondary, found.differing), (8000, 3000, 1000));
    assert_eq!((found.journaled, found.remaining), (1000, 0));
    let journal = Journal::open(&pair.b.journal()).unwrap();
    let losers = journal.list(&JournalFilter::default()).unwrap();
    assert_eq!(losers.len(), 1000, "every version of the secondary that was replaced");
    assert!(losers.iter().all(|loser| loser.describe(&loser.loser).contains("who = 'b'")));
}

#[test]
fn an_initial_comparison_that_was_cut_off_begins_again() {
    let many = format!(
        "{CALLS} WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<40000)
         INSERT INTO calls SELECT v,'a',v FROM s;"
    );
    let mut pair = Pair::start(&many, CALLS, Writes::Open, Writes::Closed);
    wait("rows arrive", || one::<i64>(&pair.b.path, "SELECT count(*) FROM calls") > 0);
    pair.b.stop();
    assert!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls") < 40000, "it was not finished");
    sql(&pair.a.path, "UPDATE calls SET who='changed' WHERE id<100");
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls"), 40000);
}

#[test]
pub(crate) fn changes_during_the_initial_comparison_are_not_lost() {
    let many = format!(
        "{CALLS} WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<30000)
         INSERT INTO calls SELECT v,'a',v FROM s;"
    );
    let pair = Pair::start(&many, CALLS, Writes::Open, Writes::Closed);
    let app = application(&pair.a.path);
    for n in 0..400 {
        let key = n * 73 % 30000 + 1;
        app.execute("UPDATE calls SET n=-?1 WHERE id=?1", [key]).unwrap();
        app.execute("DELETE FROM calls WHERE id=?1", [key + 1]).unwrap();
        app.execute("INSERT INTO calls VALUES(?1,'new',1)", [50_000 + n]).unwrap();
    }
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls WHERE who='new'"), 400);
}

const RICH: &str = "PRAGMA user_version=7; PRAGMA application_id=99; PRAGMA encoding='UTF-16le';
    CREATE TABLE calls(id INTEGER PRIMARY KEY AUTOINCREMENT, who TEXT NOT NULL UNIQUE, g AS (upper(who)));
    CREATE TABLE log(id INTEGER PRIMARY KEY, x); CREATE INDEX by_x ON log(x) WHERE x>1;
    CREATE TRIGGER own AFTER INSERT ON calls BEGIN INSERT INTO log(x) VALUES(NEW.id); END;
    CREATE VIEW w AS SELECT who FROM calls; CREATE VIRTUAL TABLE f USING fts5(body);
    INSERT INTO calls(who) VALUES('ä'),('b'); INSERT INTO f VALUES('words');";

pub(crate) fn schema_of(path: &std::path::Path) -> Vec<String> {
    let db = application(path);
    let mut statement = db
        .prepare(
            "SELECT type||name||ifnull(sql,'') FROM sqlite_schema WHERE substr(name,1,9)<>'_ipicsha_'
             AND substr(tbl_name,1,9)<>'_ipicsha_' ORDER BY 1",
        )
        .unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
pub(crate) fn a_missing_file_is_built_from_the_partners_on_either_side() {
    for missing_at_a in [false, true] {
        let (at_a, at_b) = if missing_at_a { ("", RICH) } else { (RICH, "") };
        let (writes_a, writes_b) = if missing_at_a {
            (Writes::Closed, Writes::Open)
        } else {
            (Writes::Open, Writes::Closed)
        };
        let pair = Pair::start(at_a, at_b, writes_a, writes_b);
        pair.wait_synced();
        let (full, built) = if missing_at_a { (&pair.b, &pair.a) } else { (&pair.a, &pair.b) };
        assert_eq!(schema_of(&built.path), schema_of(&full.path));
        for pragma in ["user_version", "application_id", "page_size", "encoding", "journal_mode"] {
            let read = |path| one::<rusqlite::types::Value>(path, &format!("PRAGMA {pragma}"));
            assert_eq!(read(&built.path), read(&full.path), "{pragma}");
        }
        let rows = "SELECT group_concat(id||who||g) FROM (SELECT * FROM calls ORDER BY id)";
        assert_eq!(one::<String>(&built.path, rows), "1äÄ,2bB".replace('Ä', "ä"));
        assert_eq!(one::<i64>(&built.path, "SELECT count(*) FROM log"), 2);
        let refused = application(&built.path).execute("DELETE FROM log", []).unwrap_err();
        assert!(refused.to_string().contains(crate::REFUSAL), "{refused}");
        assert!(built.is(|s| s.skipped_tables.iter().any(|skipped| skipped.table == "f")));
    }
}

#[test]
fn a_file_missing_on_both_servers_is_waited_for() {
    let pair = Pair::start("", "", Writes::Open, Writes::Closed);
    let says = |side: &crate::tests::support::Side| {
        side.is(|s| s.hold.as_ref().is_some_and(|hold| hold.contains("on both servers")))
    };
    wait("both say so", || says(&pair.a) && says(&pair.b));
    sql(&pair.a.path, CALLS);
    sql(&pair.a.path, "INSERT INTO calls VALUES(1,'x',1)");
    wait("it is taken over", || pair.b.path.exists());
    pair.wait_synced();
    pair.wait_equal();
    assert!(pair.a.is(|s| s.hold.is_none()) && pair.b.is(|s| s.hold.is_none()));
}

#[test]
fn a_table_with_another_schema_is_held_by_name_while_the_others_flow() {
    let old = "CREATE TABLE x(id INTEGER PRIMARY KEY, a); CREATE TABLE y(id INTEGER PRIMARY KEY)";
    let new =
        "CREATE TABLE x(id INTEGER PRIMARY KEY, a, b); CREATE TABLE y(id INTEGER PRIMARY KEY)";
    // Two active servers: nobody can say whose schema is the newer one.
    let pair = Pair::start(new, old, Writes::Open, Writes::Open);
    pair.wait_synced();
    sql(
        &pair.a.path,
        "INSERT INTO x VALUES(1,2,3); INSERT INTO y VALUES(1); CREATE TABLE z(id INTEGER PRIMARY KEY); INSERT INTO z VALUES(5)",
    );
    wait("the others flow", || one::<i64>(&pair.b.path, "SELECT count(*) FROM y") == 1);
    let held = |side: &crate::tests::support::Side, name: &str| {
        side.is(|s| {
            s.skipped_tables.iter().any(|t| t.table == name && t.reason.contains("partner"))
        })
    };
    wait("they are named", || held(&pair.a, "x") && held(&pair.b, "x") && held(&pair.a, "z"));
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM x"), 0);
    sql(&pair.b.path, "ALTER TABLE x ADD COLUMN b; CREATE TABLE z(id INTEGER PRIMARY KEY)");
    pair.wait_equal();
    wait("nothing is held", || pair.a.is(|s| s.skipped_tables.is_empty() && s.tables.len() == 3));
}

#[test]
pub(crate) fn after_a_split_both_sides_agree_and_losers_can_be_put_back() {
    let pair = Pair::running(CALLS);
    sql(&pair.a.path, "INSERT INTO calls VALUES(1,'old',0),(2,'old',0)");
    pair.wait_equal();
    pair.cut();
    pair.b.set_writes(Writes::Open);
    sql(&pair.a.path, "UPDATE calls SET who='a' WHERE id=1; INSERT INTO calls VALUES(10,'a',1)");
    std::thread::sleep(std::time::Duration::from_millis(20));
    sql(&pair.b.path, "UPDATE calls SET who='b' WHERE id=1; INSERT INTO calls VALUES(20,'b',1)");
    pair.connect();
    pair.wait_equal();
    wait("both are at rest", || {
        pair.a.is(|s| s.queue_records == 0) && pair.b.is(|s| s.queue_records == 0)
    });
    let all = "SELECT group_concat(id||who) FROM (SELECT * FROM calls ORDER BY id)";
    assert_eq!(one::<String>(&pair.a.path, all), "1b,2old,10a,20b");
    let side = [&pair.a, &pair.b]
        .into_iter()
        .find(|side| !side.conflicts.lock().unwrap().is_empty())
        .unwrap();
    let journal = Journal::open(&side.journal()).unwrap();
    let losers = journal.list(&JournalFilter::default()).unwrap();
    assert_eq!(losers.len(), 1);
    journal.restore(losers[0].id, &side.path).unwrap();
    wait("it is back on both", || {
        [&pair.a, &pair.b].iter().all(|s| one::<String>(&s.path, all) == "1a,2old,10a,20b")
    });
}

#[test]
pub(crate) fn a_program_of_another_language_writes_until_it_is_killed() {
    let pair = Pair::running(CALLS);
    let program = "
n=0
while True:
    n+=1
    db.execute('BEGIN IMMEDIATE')
    db.execute('INSERT INTO calls VALUES(?,?,0)',(2*n,'py'))
    db.execute('INSERT INTO calls VALUES(?,?,0)',(2*n+1,'py'))
    db.execute('COMMIT')
";
    let mut child = python(&pair.a.path, program).spawn().unwrap();
    wait("it writes", || one::<i64>(&pair.b.path, "SELECT count(*) FROM calls") > 200);
    child.kill().unwrap();
    child.wait().unwrap();
    pair.wait_equal();
    assert_eq!(
        one::<i64>(&pair.b.path, "SELECT count(*)%2 FROM calls"),
        0,
        "transactions are whole"
    );
}

#[test]
pub(crate) fn the_fence_refuses_every_program_while_changes_of_the_partner_pass() {
    let mut pair = Pair::running(CALLS);
    sql(&pair.a.path, "INSERT INTO calls VALUES(1,'x',1)");
    pair.wait_equal();
    for statement in [
        "INSERT INTO calls VALUES(5,'no',0)",
        "INSERT OR IGNORE INTO calls VALUES(5,'no',0)",
        "REPLACE INTO calls VALUES(1,'no',0)",
        "UPDATE OR IGNORE calls SET n=5",
        "DELETE FROM calls",
        "INSERT INTO tags VALUES('t',1,NULL)",
    ] {
        let output =
            python(&pair.b.path, &format!("db.execute(\"{statement}\")")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(crate::REFUSAL), "{statement}: {text}");
    }
    let output =
        python(&pair.b.path, "print(db.execute('SELECT who FROM calls').fetchall())").output();
    assert_eq!(
        String::from_utf8(output.unwrap().stdout).unwrap().trim(),
        "[('x',)]",
        "reading is free"
    );
    sql(&pair.a.path, "UPDATE calls SET n=7; DELETE FROM tags");
    pair.wait_equal();
    pair.b.stop();
    let refused = application(&pair.b.path).execute("DELETE FROM calls", []).unwrap_err();
    assert!(refused.to_string().contains(crate::REFUSAL), "without the daemon: {refused}");
}

#[test]
pub(crate) fn a_replaced_file_is_held_and_served_again_when_it_is_put_back() {
    let pair = Pair::running(CALLS);
    let aside = pair.b.directory.path().join("aside");
    std::fs::rename(&pair.b.path, &aside).unwrap();
    let held = |text: &str| pair.b.is(|s| s.hold.as_ref().is_some_and(|hold| hold.contains(text)));
    wait("the loss is noticed", || held("replaced or deleted"));
    sql(&pair.a.path, "INSERT INTO calls VALUES(1,'x',1)");
    std::fs::rename(&aside, &pair.b.path).unwrap();
    pair.wait_equal();
    assert_eq!(pair.a.finished.lock().unwrap().iter().filter(|f| f.2.is_ok()).count(), 1);
}
