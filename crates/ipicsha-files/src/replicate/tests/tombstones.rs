//! What was deleted is remembered as long as it may matter, and no longer.

use std::fs;

use super::{
    super::index::Index,
    pair::{Pair, Side, eventually},
};

fn database(side: &Side) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(side.config.state.join("index.db")).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    database
}

fn tombstones(side: &Side) -> u64 {
    let count: i64 = database(side)
        .query_row("SELECT count(*) FROM entry WHERE present = 0", [], |row| row.get(0))
        .unwrap();
    count.unsigned_abs()
}

/// All deletions but that of `recent` are from 1970, for both servers.
fn age(pair: &Pair) {
    for side in [&pair.a, &pair.b] {
        let sql = "UPDATE entry SET known_primary = min(known_primary, 1), told_primary = min(told_primary, 1),
            known_secondary = min(known_secondary, 1), told_secondary = min(told_secondary, 1)
            WHERE present = 0 AND path <> CAST('recent' AS BLOB)";
        assert_eq!(database(side).execute(sql, []).unwrap(), 3);
    }
}

/// A pair that does not run, whose files were made by one server and deleted by the other.
fn with_deletions() -> Pair {
    let mut pair = Pair::running();
    for path in ["again", "recent", "never/one"] {
        pair.a.write(path, "old");
    }
    pair.settle_equal();
    for path in ["again", "recent", "never/one"] {
        fs::remove_file(pair.b.path(path)).unwrap();
    }
    fs::remove_dir(pair.b.path("never")).unwrap();
    pair.settle_equal();
    pair.stop_a();
    pair.stop_b();
    pair
}

#[test]
fn deletions_are_forgotten_a_month_after_both_servers_had_them() {
    let mut pair = with_deletions();
    assert_eq!((tombstones(&pair.a), tombstones(&pair.b)), (4, 4), "nothing is old yet");
    age(&pair);
    pair.start_a();
    pair.a.write("new", "1");
    pair.a.until("it is noticed", |status| status.entries == 1);
    assert_eq!(tombstones(&pair.a), 4, "nobody has said what the partner has");
    pair.start_b();
    pair.connect();
    for side in [&pair.a, &pair.b] {
        eventually("only the new one is known", || tombstones(side) == 1);
    }
    pair.settle_equal();
    for side in [&pair.a, &pair.b] {
        // What the status says is told a moment later.
        side.until("it is counted", |status| {
            (status.entries, status.to_send, status.to_fetch) == (1, 0, 0)
        });
    }
}

#[test]
fn deletions_that_only_one_server_has_forgotten_stay_and_what_is_made_anew_arrives() {
    for (forgets, makes) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut pair = with_deletions();
        let config = [&pair.a, &pair.b][forgets].config.clone();
        let mut index = Index::open(&config.state).unwrap();
        assert_eq!(index.purge(i64::MAX, i64::MAX.unsigned_abs(), 100).unwrap(), 4);
        // Everything is told once more, the deletions as well.
        index.meta.noted = index.meta.noted.map(|(id, _)| (id, 0));
        index.commit().unwrap();
        drop(index);
        pair.start();
        [&pair.a, &pair.b][makes].write("again", "new");
        pair.settle_equal();
        assert_eq!(pair.a.read("again"), "new");
        assert!(!pair.a.has("never") && !pair.a.has("recent"), "a deletion was undone");
        for side in [&pair.a, &pair.b] {
            assert_eq!(side.status().conflicts_total, 0);
        }
        fs::remove_file([&pair.a, &pair.b][1 - makes].path("again")).unwrap();
        pair.settle_equal();
        assert!(!pair.a.has("again"));
    }
}
