//! A comparison that was cut off goes on where it was, where that is still correct.

use std::sync::mpsc;

use ipicsha_core::data::{CompareStep, Data, RepairReport};

use crate::{
    Command, Error, Journal, Writes,
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
        let paused = |s: &crate::DatabaseStatus| s.repair.clone().filter(|repair| repair.paused);
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
