//! The right to write ends by itself, whoever is alive then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipicsha_core::time::WallTime;

use crate::{
    Command, EXPIRED, REFUSAL, Writes,
    tests::support::{Pair, application, one, sql, wait},
};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a)";
const WRITE: &str = "INSERT INTO t(a) VALUES(1)";

fn from_now(seconds: i64) -> Option<WallTime> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Some(WallTime(i64::try_from(now.as_millis()).unwrap() + seconds * 1000))
}

fn refused(path: &std::path::Path, statement: &str) -> Option<String> {
    application(path).execute(statement, []).err().map(|error| error.to_string())
}

fn ours(path: &std::path::Path) -> i64 {
    one(
        path,
        "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_ipicsha\\_l_%' ESCAPE '\\' AND type='trigger'",
    )
}

#[test]
fn writes_end_with_the_right_also_without_the_daemon() {
    let mut pair = Pair::running(SCHEMA);
    pair.wait_synced();
    pair.a.send(Command::AllowWrites(from_now(60)));
    wait("the row", || ours(&pair.a.path) == 3);
    sql(&pair.a.path, WRITE);
    pair.wait_equal();
    pair.a.send(Command::AllowWrites(from_now(1)));
    wait("the shorter right", || refused(&pair.a.path, WRITE).is_some_and(|e| e.contains(EXPIRED)));
    pair.a.send(Command::AllowWrites(from_now(60)));
    wait("the right again", || refused(&pair.a.path, WRITE).is_none());
    pair.a.send(Command::AllowWrites(from_now(1)));
    pair.a.stop();
    std::thread::sleep(Duration::from_millis(1100));
    for statement in [WRITE, "UPDATE t SET a=2", "DELETE FROM t"] {
        assert!(refused(&pair.a.path, statement).is_some_and(|e| e.contains(EXPIRED)));
    }
}

#[test]
fn a_clock_that_is_put_back_does_not_lengthen_a_right() {
    let pair = Pair::running(SCHEMA);
    pair.wait_synced();
    pair.a.send(Command::AllowWrites(from_now(60)));
    wait("the row", || ours(&pair.a.path) == 3);
    let since: i64 = one(&pair.a.path, "SELECT since FROM _ipicsha_right");
    let until: i64 = one(&pair.a.path, "SELECT until FROM _ipicsha_right");
    assert!((60_000..63_000).contains(&(until - since)), "{since} to {until}");
    // As the file would look to a clock an hour behind.
    sql(&pair.a.path, "UPDATE _ipicsha_right SET since=since+3600000, until=until+3600000");
    assert!(refused(&pair.a.path, WRITE).is_some_and(|e| e.contains(EXPIRED)));
}

#[test]
fn new_tables_a_role_change_and_another_policy_are_followed() {
    let pair = Pair::running(SCHEMA);
    pair.wait_synced();
    pair.a.send(Command::AllowWrites(from_now(60)));
    wait("the row", || ours(&pair.a.path) == 3);
    sql(&pair.a.path, "CREATE TABLE another(x)");
    wait("triggers of the new table", || ours(&pair.a.path) == 6);
    pair.wait_equal();
    assert_eq!(ours(&pair.b.path), 0, "on a standby the fence is enough");
    pair.a.set_writes(Writes::Closed);
    assert!(refused(&pair.a.path, WRITE).is_some_and(|e| e.contains(REFUSAL)));
    assert_eq!(ours(&pair.a.path), 0);
    pair.a.send(Command::AllowWrites(from_now(-1)));
    pair.a.set_writes(Writes::Open);
    assert!(refused(&pair.a.path, WRITE).is_some_and(|e| e.contains(EXPIRED)), "opened without");
    pair.a.send(Command::AllowWrites(None));
    wait("no limit", || ours(&pair.a.path) == 0);
    sql(&pair.a.path, WRITE);
    pair.wait_equal();
}

#[test]
fn unconfiguring_leaves_nothing() {
    let pair = Pair::running(SCHEMA);
    pair.wait_synced();
    pair.a.send(Command::AllowWrites(from_now(60)));
    wait("the row", || ours(&pair.a.path) == 3);
    pair.a.ask(|done| Command::Remove { done }).unwrap();
    let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_ipicsha%' ESCAPE '\\'";
    assert_eq!(one::<i64>(&pair.a.path, left), 0);
    sql(&pair.a.path, WRITE);
}
