//! Tables rewritten behind the log's back: VACUUM renumbers rowids, a rebuild drops the triggers.

use crate::{
    Writes,
    tests::support::{Pair, one, sql, wait},
};

const BARE: &str = "CREATE TABLE bare(x); CREATE TABLE keyed(id INTEGER PRIMARY KEY, x);";
const FILL: &str = "
    WITH RECURSIVE s(v) AS (VALUES(1) UNION ALL SELECT v+1 FROM s WHERE v<3000) INSERT INTO bare SELECT 'row '||v FROM s;
    INSERT INTO keyed SELECT rowid, x FROM bare;
    DELETE FROM bare WHERE rowid%3=0";
const IDS: &str = "SELECT count(*)||'/'||total(rowid) FROM bare";

/// The primary or the secondary is active; the roles of the comparison stay the primary's.
fn active_at(primary: bool) -> Pair {
    let (a, b) =
        if primary { (Writes::Open, Writes::Closed) } else { (Writes::Closed, Writes::Open) };
    let pair = Pair::start(BARE, BARE, a, b);
    pair.wait_synced();
    pair
}

fn no_conflicts(pair: &Pair) {
    for side in [&pair.a, &pair.b] {
        assert!(side.conflicts.lock().unwrap().is_empty(), "{:?}", side.conflicts.lock().unwrap());
    }
}

#[test]
fn vacuum_renumbers_and_the_active_servers_contents_count() {
    for (primary, at_active) in [(true, true), (false, true), (true, false), (false, false)] {
        let pair = active_at(primary);
        let (active, standby) = if primary { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        sql(&active.path, FILL);
        pair.wait_equal();
        let renumbered = if at_active { active } else { standby };
        let before: String = one(&renumbered.path, IDS);
        sql(&renumbered.path, "VACUUM");
        assert_ne!(one::<String>(&renumbered.path, IDS), before, "nothing to test");
        sql(
            &active.path,
            "DELETE FROM bare WHERE x='row 1'; INSERT INTO bare VALUES('new'); UPDATE bare SET x='changed' WHERE x='row 2999'",
        );
        let same = || one::<String>(&pair.a.path, IDS) == one::<String>(&pair.b.path, IDS);
        wait("the same numbers", || {
            same() && pair.a.is(|s| s.synced && s.attached && s.repair.is_none())
        });
        pair.wait_equal();
        assert_eq!(one::<i64>(&standby.path, "SELECT count(*) FROM bare"), 2000);
        assert_eq!(
            one::<i64>(&standby.path, "SELECT count(*) FROM bare WHERE x IN ('new','changed')"),
            2
        );
        no_conflicts(&pair);
        wait("only the table concerned is compared", || {
            let finished = pair.a.finished.lock().unwrap();
            let last = finished.last().and_then(|last| last.2.as_ref().ok());
            last.is_some_and(|report| report.tables.iter().map(|t| t.table.as_str()).eq(["bare"]))
        });
        no_conflicts(&pair);
    }
}

#[test]
fn vacuum_while_the_daemon_is_down_is_noticed_at_its_start() {
    let mut pair = active_at(true);
    sql(&pair.a.path, FILL);
    pair.wait_equal();
    pair.a.stop();
    sql(&pair.a.path, "VACUUM; INSERT INTO bare VALUES('new'); DELETE FROM bare WHERE rowid<10");
    pair.a.start(Writes::Open);
    pair.connect();
    let same = || one::<String>(&pair.a.path, IDS) == one::<String>(&pair.b.path, IDS);
    wait("the same numbers", same);
    pair.wait_equal();
    no_conflicts(&pair);
}

#[test]
fn a_rebuilt_table_is_taken_from_the_active_server_without_bringing_old_rows_back() {
    for primary in [true, false] {
        let pair = active_at(primary);
        let (active, standby) = if primary { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        sql(&active.path, FILL);
        pair.wait_equal();
        sql(
            &active.path,
            "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, x);
             INSERT INTO n SELECT id, x||'!' FROM keyed WHERE id<100; DROP TABLE keyed;
             ALTER TABLE n RENAME TO keyed; COMMIT;
             DELETE FROM keyed WHERE id=5",
        );
        wait("the rows that are left", || {
            one::<i64>(&standby.path, "SELECT count(*) FROM keyed WHERE x LIKE '%!'") == 98
        });
        pair.wait_equal();
        sql(&active.path, "UPDATE keyed SET x='later' WHERE id=6; DELETE FROM keyed WHERE id=7");
        pair.wait_equal();
        assert_eq!(one::<i64>(&active.path, "SELECT count(*) FROM keyed"), 97);
        no_conflicts(&pair);
    }
}
