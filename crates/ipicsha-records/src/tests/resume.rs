//! A comparison that was cut off goes on where it was, where that is still correct.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use ipicsha_core::data::{CompareStep, Data, RepairReport};

use crate::{
    Command, DatabaseStatus, Error, Journal, RepairProgress, Writes,
    tests::{
        seed::filled,
        support::{GENEROUS, Pair, Side, application, corrupt, dump, one, sql, wait},
    },
};

const ROWS: u32 = 200_000;
/// Of all tables together.
const ALL_ROWS: u64 = 200_000 + 66_666 + 40_000;
/// What one question covers; so much is compared again at most.
const QUESTION: u64 = 8 * 4096;

/// Rows of all large ranges that were asked about.
fn rows_asked(side: &Side) -> u64 {
    let rows = |data: &Data| {
        let Data::Compare { step: CompareStep::Ranges { ranges, .. }, .. } = data else {
            return 0;
        };
        let large = ranges.len() == 1 || ranges.iter().any(|range| range.count > 64);
        if large { ranges.iter().map(|range| range.count).sum::<u64>() } else { 0 }
    };
    side.sent.lock().unwrap().iter().map(rows).sum()
}

/// Cuts the link before the question with this number.
fn cut_at_question(pair: &Pair, number: usize) {
    let mut left = number;
    pair.a.cut_before(move |data| {
        let question = matches!(data, Data::Compare { step: CompareStep::Ranges { .. }, .. });
        left -= usize::from(question && left > 0);
        question && left == 0
    });
}

fn repair(pair: &Pair, run: u64, apply: bool) -> mpsc::Receiver<Result<RepairReport, Error>> {
    let (to, answer) = mpsc::channel();
    let done = Box::new(move |result| to.send(result).unwrap());
    pair.a.send(Command::Compare { apply, run, done });
    answer
}

fn told(pair: &Pair, run: u64) -> RepairReport {
    let find = || pair.b.finished.lock().unwrap().iter().find(|f| f.0 == run).cloned();
    wait("the partner is told", || find().is_some());
    find().unwrap().2.unwrap()
}

#[test]
fn an_initial_comparison_goes_on_after_cuts_and_restarts_of_either_side() {
    let mut pair = Pair::stopped(&filled(ROWS), &filled(ROWS));
    cut_at_question(&pair, 3);
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_cut();
    let first = rows_asked(&pair.a);
    assert!((QUESTION..=3 * QUESTION).contains(&first), "{first}");
    for side in [&pair.a, &pair.b] {
        let paused = |s: &DatabaseStatus| s.repair.clone().filter(|repair| repair.paused);
        wait("it is shown", || side.is(|s| paused(s).is_some()));
        let shown = side.status.lock().unwrap().as_ref().and_then(paused).unwrap();
        assert_eq!(shown.rows_total, Some(ALL_ROWS));
        assert_eq!(shown.seconds_left, None, "no estimate while nothing goes on");
    }
    let done = pair.a.status.lock().unwrap().as_ref().unwrap().repair.as_ref().unwrap().rows_done;
    assert!((QUESTION..ALL_ROWS).contains(&done), "{done}");
    for restarted in ["neither", "a", "b"] {
        match restarted {
            "a" => {
                pair.a.stop();
                pair.a.start(Writes::Open);
            }
            "b" => {
                pair.b.stop();
                pair.b.start(Writes::Closed);
            }
            _ => {}
        }
        cut_at_question(&pair, 3);
        pair.connect();
        pair.wait_cut();
    }
    pair.connect();
    pair.wait_synced();
    let asked = rows_asked(&pair.a);
    assert!(asked <= ALL_ROWS + 4 * QUESTION, "{asked} of {ALL_ROWS} rows were compared");
    let report = pair.a.finished_initially().unwrap();
    assert_eq!((report.rows_compared, report.found(), report.passes), (ALL_ROWS, 0, 1));
    assert_eq!(pair.a.finished.lock().unwrap().len(), 1);
}

#[test]
fn a_repair_goes_on_after_a_cut_while_its_caller_waits() {
    let pair = Pair::start(&filled(ROWS), &filled(ROWS), Writes::Open, Writes::Closed);
    pair.wait_synced();
    // One in the first question, others in the last ones: nothing is found twice, none is missed.
    let faults = "UPDATE calls SET n=-1 WHERE id IN (5, 150000, 199999); DELETE FROM tags WHERE name='someone 999'";
    corrupt(&pair.b.path, faults);
    corrupt(&pair.b.path, "INSERT INTO uniq VALUES(3,'extra')");
    let before = rows_asked(&pair.a);
    cut_at_question(&pair, 5);
    let answer = repair(&pair, 21, true);
    pair.wait_cut();
    assert!(answer.try_recv().is_err(), "its caller goes on waiting");
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls WHERE n=-1"), 2);
    sql(&pair.a.path, "UPDATE calls SET n=7 WHERE id=6");
    let again = repair(&pair, 22, true).recv_timeout(GENEROUS).unwrap();
    assert!(matches!(again, Err(Error::Comparing(_))), "one at a time: {again:?}");
    pair.connect();
    let report = answer.recv_timeout(GENEROUS).unwrap().unwrap();
    assert_eq!((report.found(), report.remaining(), report.passes), (5, 0, 2));
    assert_eq!(report.rows_compared, ALL_ROWS);
    let asked = rows_asked(&pair.a) - before;
    assert!(asked <= 2 * ALL_ROWS + 2 * QUESTION, "{asked} rows in two passes");
    assert_eq!(told(&pair, 21), report);
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
}

#[test]
fn a_repair_goes_on_after_a_restart_of_the_daemon_that_leads_it() {
    let mut pair = Pair::start(&filled(ROWS), &filled(ROWS), Writes::Open, Writes::Closed);
    pair.wait_synced();
    corrupt(&pair.b.path, "UPDATE calls SET n=-1 WHERE id IN (5, 199999)");
    cut_at_question(&pair, 5);
    let answer = repair(&pair, 31, true);
    pair.wait_cut();
    pair.a.stop();
    assert!(matches!(answer.recv_timeout(GENEROUS).unwrap(), Err(Error::Stopped)));
    pair.a.start(Writes::Open);
    wait("it is shown", || {
        pair.a.is(|s| s.repair.as_ref().is_some_and(|repair| repair.paused && repair.run == 31))
    });
    pair.connect();
    let report = told(&pair, 31);
    assert_eq!((report.found(), report.remaining(), report.rows_compared), (2, 0, ALL_ROWS));
    assert_eq!(dump(&pair.a.path), dump(&pair.b.path));
    wait("it is over", || pair.a.is(|s| s.repair.is_none()));
    for side in [&pair.a, &pair.b] {
        let past = Journal::open(&side.journal()).unwrap().repairs(None, 0).unwrap();
        let repair = past.iter().find(|past| past.run == 31).unwrap();
        assert_eq!(repair.report.as_ref(), Some(&report));
        assert!(repair.ended.is_some() && repair.undone.is_none() && !repair.initial);
    }
}

#[test]
fn the_result_reaches_a_partner_that_was_cut_off_just_before_it() {
    let pair = Pair::start(&filled(3000), &filled(3000), Writes::Open, Writes::Closed);
    pair.wait_synced();
    pair.a.cut_before(|data| matches!(data, Data::Compare { step: CompareStep::Done(_), .. }));
    let answer = repair(&pair, 41, false);
    pair.wait_cut();
    let report = answer.recv_timeout(GENEROUS).unwrap().unwrap();
    pair.connect();
    assert_eq!(told(&pair, 41), report);
    pair.wait_synced();
}

#[test]
fn after_missed_changes_a_comparison_begins_anew() {
    let mut pair = Pair::stopped(&filled(ROWS), &filled(ROWS));
    pair.a.capacity = 4096;
    cut_at_question(&pair, 6);
    pair.a.start(Writes::Open);
    pair.b.start(Writes::Closed);
    pair.connect();
    pair.wait_cut();
    // More than the ring holds, in what was compared already.
    let app = application(&pair.a.path);
    app.execute("UPDATE calls SET who='changed' WHERE id<20000", []).unwrap();
    pair.connect();
    pair.wait_synced();
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls WHERE who='changed'"), 19_999);
}

#[test]
fn after_a_change_of_the_schema_a_repair_begins_anew() {
    let pair = Pair::start(&filled(ROWS), &filled(ROWS), Writes::Open, Writes::Closed);
    pair.wait_synced();
    corrupt(&pair.b.path, "UPDATE calls SET n=-1 WHERE id IN (5, 199999)");
    cut_at_question(&pair, 5);
    let answer = repair(&pair, 51, true);
    pair.wait_cut();
    sql(&pair.a.path, "CREATE TABLE added(id INTEGER PRIMARY KEY); INSERT INTO added VALUES(1)");
    pair.connect();
    let report = answer.recv_timeout(GENEROUS).unwrap().unwrap();
    assert_eq!(report.remaining(), 0);
    assert!(report.tables.iter().any(|table| table.table == "added"), "{report:?}");
    pair.wait_equal();
    assert_eq!(one::<i64>(&pair.b.path, "SELECT count(*) FROM calls WHERE n=-1"), 0);
}

/// Differences of every kind: rows only one side has, one by one and in masses, and others.
fn make_different(pair: &Pair) {
    corrupt(
        &pair.b.path,
        "UPDATE calls SET n=-1 WHERE id IN (5, 700, 9500);
         DELETE FROM calls WHERE id BETWEEN 3000 AND 8999; INSERT OR IGNORE INTO uniq VALUES(3,'extra')",
    );
    corrupt(
        &pair.a.path,
        "DELETE FROM calls WHERE id>14000; DELETE FROM uniq WHERE id=3; DELETE FROM tags",
    );
}

/// Cuts the link before the message for which `which` says so, whoever sends it.
fn cut_before(pair: &Pair, which: impl FnMut(&CompareStep) -> bool + Send + 'static) {
    let which = Arc::new(Mutex::new(which));
    for side in [&pair.a, &pair.b] {
        let which = Arc::clone(&which);
        side.cut_before(move |data| match data {
            Data::Compare { step, .. } => (*which.lock().unwrap())(step),
            Data::Invite { .. }
            | Data::Attach(_)
            | Data::Schema { .. }
            | Data::Batch(_)
            | Data::Ack { .. }
            | Data::Undo { .. }
            | Data::Expect { .. } => false,
        });
    }
}

/// A repair that is cut off once ends with both sides equal.
fn repair_over_a_cut(pair: &Pair, run: u64, what: &str) {
    let answer = repair(pair, run, true);
    pair.wait_cut();
    for side in [&pair.a, &pair.b] {
        side.cut_before(|_| false);
    }
    pair.connect();
    let report = answer.recv_timeout(GENEROUS).unwrap().unwrap();
    assert_eq!(report.remaining(), 0, "cut before {what}");
    assert_eq!(told(pair, run), report, "cut before {what}");
    assert!(dump(&pair.a.path) == dump(&pair.b.path), "cut before {what}");
    wait("it is over", || pair.a.is(|s| s.repair.is_none()));
}

type Which = fn(&CompareStep) -> bool;

#[test]
fn a_repair_may_be_cut_off_before_every_kind_of_message() {
    let pair = Pair::start(&filled(20_000), &filled(20_000), Writes::Open, Writes::Closed);
    pair.wait_synced();
    let kinds: [(&str, Which); 9] = [
        ("Ranges", |step| matches!(step, CompareStep::Ranges { .. })),
        ("DifferingRanges", |step| matches!(step, CompareStep::DifferingRanges(_))),
        ("Rows", |step| matches!(step, CompareStep::Rows { .. })),
        ("DifferingKeys", |step| matches!(step, CompareStep::DifferingKeys(_))),
        ("Fix", |step| matches!(step, CompareStep::Fix { .. })),
        ("Fixed", |step| matches!(step, CompareStep::Fixed { .. })),
        ("Fill", |step| matches!(step, CompareStep::Fill { .. })),
        ("Fetch", |step| matches!(step, CompareStep::Fetch { .. })),
        ("Fetched", |step| matches!(step, CompareStep::Fetched { .. })),
    ];
    for (run, (what, which)) in (100..).zip(kinds) {
        make_different(&pair);
        cut_before(&pair, which);
        repair_over_a_cut(&pair, run, what);
    }
}

#[test]
fn a_repair_may_be_cut_off_before_any_message() {
    let pair = Pair::start(&filled(20_000), &filled(20_000), Writes::Open, Writes::Closed);
    pair.wait_synced();
    let messages = |side: &Side| {
        let sent = side.sent.lock().unwrap();
        sent.iter().filter(|data| matches!(data, Data::Compare { .. })).count()
    };
    let before = messages(&pair.a) + messages(&pair.b);
    make_different(&pair);
    let report = repair(&pair, 200, true).recv_timeout(GENEROUS).unwrap().unwrap();
    assert!(report.found() > 12_000 && report.remaining() == 0, "{report:?}");
    let all = messages(&pair.a) + messages(&pair.b) - before;
    // Spread over all of them, and others with each number of messages.
    for (run, part) in (201..).zip(1..=8) {
        let (number, mut left) = (all * part / 9, all * part / 9);
        make_different(&pair);
        cut_before(&pair, move |_| {
            left -= 1;
            left == 0
        });
        repair_over_a_cut(&pair, run, &format!("message {number} of {all}"));
    }
}

/// Waits within a worker until the other side shows how fast a comparison is; `None`: it never did.
fn shown_rate(status: &Mutex<Option<DatabaseStatus>>) -> Option<RepairProgress> {
    let deadline = Instant::now() + GENEROUS;
    while Instant::now() < deadline {
        let shown = status.lock().unwrap().as_ref().and_then(|status| status.repair.clone());
        if let Some(shown) = shown.filter(|shown| shown.rows_per_second.is_some()) {
            return Some(*shown);
        }
        thread::sleep(Duration::from_millis(2));
    }
    None
}

#[test]
fn both_sides_show_how_fast_a_comparison_is_and_what_is_left() {
    let pair = Pair::start(&filled(ROWS), &filled(ROWS), Writes::Open, Writes::Closed);
    pair.wait_synced();
    // The one that is to answer, or to ask, takes its time; the other one shows what it knows.
    let (to, seen) = mpsc::channel();
    for (slow, shows, turn) in [(&pair.b, &pair.a, 4), (&pair.a, &pair.b, 7)] {
        let (status, to, mut number) = (Arc::clone(&shows.status), to.clone(), 0);
        slow.cut_before(move |data| {
            let which = |step: &CompareStep| {
                matches!(step, CompareStep::Ranges { .. } | CompareStep::DifferingRanges(_))
            };
            number += usize::from(matches!(data, Data::Compare { step, .. } if which(step)));
            if number == turn {
                number += 100;
                to.send(shown_rate(&status)).unwrap();
            }
            false
        });
    }
    let report = repair(&pair, 300, false).recv_timeout(GENEROUS * 3).unwrap().unwrap();
    assert_eq!(report.found(), 0);
    for _ in [&pair.a, &pair.b] {
        let shown = seen.try_recv().unwrap().expect("it never showed how fast it is");
        let (rate, left) = (shown.rows_per_second.unwrap(), ALL_ROWS - shown.rows_done);
        assert!(shown.rows_done >= QUESTION && rate > 0, "{shown:?}");
        assert_eq!(shown.seconds_left, Some(left.div_ceil(rate)), "{shown:?}");
    }
}
