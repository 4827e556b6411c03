//! What the demonstration shows, in order, and the table at its end.
#![allow(clippy::print_stdout)] // the story is what this verb is for

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use ipicsha_core::state::{NodeState, Role};
use rusqlite::types::Value;

use super::{
    board::{self, Acknowledged, Users, contents, next_call, open},
    server::{Pair, Server},
    wait_until,
};
use crate::{
    api::{Conflicts, Request, Work},
    exit::{Failure, Kind},
    wording::span,
};

const PASSWORD: &str = "demonstration only";
const SAMPLES: usize = 200;

/// Measured times, in the order of the story.
#[derive(Default)]
struct Figures {
    rows: Vec<(&'static str, String)>,
    acknowledged: BTreeSet<i64>,
}

impl Figures {
    fn add(&mut self, what: &'static str, seconds: f64) {
        self.rows.push((what, span(seconds)));
    }
}

/// Tells the whole story; an error ends it.
pub(crate) fn tell(pair: &Pair) -> Result<(), Failure> {
    let mut figures = Figures::default();
    set_up(pair, &mut figures)?;
    replicate(pair, &mut figures)?;
    planned_failover(pair, &mut figures)?;
    kill_the_active(pair, &mut figures)?;
    split_brain(pair, &mut figures)?;
    finish(pair, &figures)
}

fn step(number: u32, text: &str) {
    println!("\n[{number}/6] {text}");
}

fn say(text: &str) {
    println!("      {text}");
}

fn database(error: rusqlite::Error) -> Failure {
    Failure::new(Kind::Failed, format!("the board's database: {error}"))
}

fn is(server: &Server, role: Role) -> bool {
    server.status().is_ok_and(|status| status.pair.servers[0].role == Some(role))
}

fn ready(server: &Server) -> bool {
    server.status().is_ok_and(|status| status.pair.standby_status == "Ready")
}

fn set_up(pair: &Pair, figures: &mut Figures) -> Result<(), Failure> {
    step(1, "Trust and configure: two servers that know nothing of each other become a pair");
    let (alpha, bravo) = (&pair.alpha, &pair.bravo);
    open(&alpha.database).and_then(|c| c.execute_batch(board::SCHEMA)).map_err(database)?;
    say("alpha has the dispatch board's database with its data, bravo has none");
    let license = |feature: &str| {
        format!("feature = \"{feature}\"\nissued_to = \"demonstration\"\nserial = \"demo\"\n")
    };
    alpha.ask(&Request::Work(Work::LicenseInstall {
        texts: vec![license("base"), license("policy-engine-base")],
        replace: true,
    }))?;
    bravo.ask(&Request::Work(Work::LicenseInstall {
        texts: vec![license("high-availability")],
        replace: true,
    }))?;
    bravo.ask(&Request::Work(Work::TrustPassword { password: PASSWORD.into() }))?;
    let start = Instant::now();
    let (address, password) = (bravo.proxy.address.to_string(), PASSWORD.to_owned());
    let trusted = alpha.ask(&Request::Work(Work::TrustSet { address, password }))?;
    figures
        .add("trust exchange (password proof, certificates pinned)", start.elapsed().as_secs_f64());
    say(&format!("trusted: certificate {}", trusted["fingerprint"].as_str().unwrap_or("")));
    wait_until("the servers compare their clocks", || {
        let measured = |s: &Server| {
            s.status().is_ok_and(|status| {
                status.pair.servers.iter().any(|row| row.clock_offset_seconds.is_some())
            })
        };
        measured(alpha) && measured(bravo)
    })?;
    let start = Instant::now();
    alpha.ask(&Request::Work(Work::Configure { interval_seconds: None, missed_count: None }))?;
    wait_until("the standby becomes Ready", || ready(alpha) && ready(bravo))?;
    figures.add(
        "configure until the standby is Ready (database seeded)",
        start.elapsed().as_secs_f64(),
    );
    say("alpha is active, bravo standby and Ready; D is 0.2 s x 5 = 1 s (profile fast)");
    Ok(())
}

fn replicate(pair: &Pair, figures: &mut Figures) -> Result<(), Failure> {
    step(2, "Records written on the active appear on the standby");
    let active = open(&pair.alpha.database).map_err(database)?;
    let standby = open(&pair.bravo.database).map_err(database)?;
    let mut seen = standby.prepare("SELECT 1 FROM calls WHERE id = ?1").map_err(database)?;
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let id = next_call();
        let sql = "INSERT INTO calls VALUES (?1, datetime('now'), 'Harbour 4', NULL)";
        active.execute(sql, [id]).map_err(database)?;
        let committed = Instant::now();
        figures.acknowledged.insert(id);
        while !seen.exists([id]).map_err(database)? {
            if committed.elapsed() > Duration::from_secs(10) {
                return Err(Failure::new(Kind::TimedOut, format!("call {id} does not arrive")));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        times.push(committed.elapsed().as_secs_f64());
        std::thread::sleep(Duration::from_millis(3));
    }
    times.sort_by(f64::total_cmp);
    let (median, p99) = (times[SAMPLES / 2], times[SAMPLES * 99 / 100]);
    figures.add("commit on the active to visible on the standby, median", median);
    figures.add("the same, 99 of 100", p99);
    say(&format!("{SAMPLES} calls, each seen on bravo: median {}", span(median)));
    let refused = standby.execute("DELETE FROM calls", []);
    say(&format!(
        "bravo itself refuses writes: {}",
        refused.err().map_or_else(|| "NO".into(), |error| error.to_string())
    ));
    Ok(())
}

/// The longest pause between two acknowledged writes.
fn longest_gap(calls: &[Acknowledged]) -> Duration {
    calls.windows(2).map(|w| w[1].at - w[0].at).max().unwrap_or_default()
}

fn users(pair: &Pair, active_first: bool) -> Users {
    let paths: [PathBuf; 2] = [pair.alpha.database.clone(), pair.bravo.database.clone()];
    let [a, b] = paths;
    Users::start(4, if active_first { [a, b] } else { [b, a] })
}

fn end_users(users: Users, figures: &mut Figures) -> Result<Vec<Acknowledged>, Failure> {
    let (calls, errors) = users.finish();
    figures.acknowledged.extend(calls.iter().map(|call| call.id));
    match errors.first() {
        None => Ok(calls),
        Some(error) => {
            let message = format!("a user saw an error that is not clean: {error}");
            Err(Failure::new(Kind::Failed, message))
        }
    }
}

fn planned_failover(pair: &Pair, figures: &mut Figures) -> Result<(), Failure> {
    step(3, "Planned failover while four users write, there and back");
    for (from, to, alpha_first) in
        [(&pair.alpha, &pair.bravo, true), (&pair.bravo, &pair.alpha, false)]
    {
        let users = users(pair, alpha_first);
        wait_until("the users write", || users.count() > 50)?;
        let request = Request::Work(Work::Failover { dry_run: false, accept_data_loss: false });
        let reply = from.ask(&request)?;
        let before = users.count();
        wait_until("the users write again", || users.count() > before + 50)?;
        let calls = end_users(users, figures)?;
        let gap = longest_gap(&calls).as_secs_f64();
        let took = reply["took_seconds"].as_f64().unwrap_or_default();
        say(&format!(
            "{} -> {}: handed over in {}, longest pause between two writes {}, {} acknowledged",
            from.name,
            to.name,
            span(took),
            span(gap),
            calls.len()
        ));
        if alpha_first {
            figures.add("planned failover (writes closed until the other is active)", took);
            figures.add("planned failover, longest pause between two writes", gap);
        }
        wait_until("the standby is Ready again", || ready(to))?;
    }
    Ok(())
}

fn kill_the_active(pair: &Pair, figures: &mut Figures) -> Result<(), Failure> {
    step(4, "kill -9 of the active: the standby takes over after D");
    let users = users(pair, true);
    wait_until("the users write", || users.count() > 50)?;
    pair.alpha.kill();
    let killed = Instant::now();
    std::thread::sleep(Duration::from_millis(20)); // these calls reach nobody until alpha is back
    let calls = end_users(users, figures)?;
    let late = calls.iter().filter(|call| call.at > killed).count();
    say(&format!("alpha is gone; {late} calls were acknowledged there and never sent"));
    let bravo = open(&pair.bravo.database).map_err(database)?;
    let id = next_call();
    let sql = "INSERT INTO calls VALUES (?1, datetime('now'), 'Hill 9', 2)";
    wait_until("bravo accepts writes", || bravo.execute(sql, [id]).is_ok())?;
    figures.acknowledged.insert(id);
    figures.add(
        "kill -9 of the active until bravo accepts writes (D is 1 s)",
        killed.elapsed().as_secs_f64(),
    );
    say("bravo is active and accepts writes");
    let start = Instant::now();
    pair.alpha.start()?;
    wait_until("alpha is back as standby", || {
        is(&pair.alpha, Role::Standby) && ready(&pair.bravo)
    })?;
    figures
        .add("start of the old active until it is a Ready standby", start.elapsed().as_secs_f64());
    say("alpha is back, as standby; what it had not sent is merged");
    Ok(())
}

fn split_brain(pair: &Pair, figures: &mut Figures) -> Result<(), Failure> {
    step(5, "The link is cut: both serve, and the split brain is seen when it returns");
    let split = |server: &Server| {
        server.status().is_ok_and(|s| s.pair.servers[0].state == Some(NodeState::SplitBrain))
    };
    pair.set_cut(true);
    wait_until("alpha takes over behind the cut", || is(&pair.alpha, Role::Active))?;
    for (server, place) in [(&pair.alpha, "Park 1"), (&pair.bravo, "Bridge 2")] {
        let connection = open(&server.database).map_err(database)?;
        let id = next_call();
        let insert = "INSERT INTO calls VALUES (?1, datetime('now'), ?2, 3)";
        wait_until("the board accepts writes", || connection.execute(insert, (id, place)).is_ok())?;
        figures.acknowledged.insert(id);
        connection
            .execute("UPDATE units SET status = ?1 WHERE id = 1", [place])
            .map_err(database)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    say("both wrote: one new call each, and both changed unit 1");
    pair.set_cut(false);
    let start = Instant::now();
    wait_until("both see the split brain", || split(&pair.alpha) && split(&pair.bravo))?;
    figures.add(
        "link back until both show the split brain (interval 0.2 s)",
        start.elapsed().as_secs_f64(),
    );
    let status = pair.alpha.status()?;
    say(&format!("recommended: {}", status.pair.recommended_action));
    let start = Instant::now();
    pair.bravo.ask(&Request::Work(Work::GoStandby))?;
    wait_until("bravo is a Ready standby", || {
        ready(&pair.alpha) && is(&pair.bravo, Role::Standby)
    })?;
    figures.add("go-standby until the pair is Ready", start.elapsed().as_secs_f64());
    let start = Instant::now();
    pair.alpha.ask(&Request::Work(Work::Repair { dry_run: false, database: None }))?;
    figures.add("repair (compare and mend)", start.elapsed().as_secs_f64());
    let list = Conflicts::List { database: None, table: None, limit: 10 };
    let kept = pair.alpha.ask(&Request::Work(Work::Conflicts(list)))?;
    let kept = kept.as_array().map_or(0, Vec::len);
    say(&format!("repaired; {kept} version(s) that lost are kept: `ipicsha conflicts list`"));
    Ok(())
}

fn finish(pair: &Pair, figures: &Figures) -> Result<(), Failure> {
    step(6, "Both databases are compared, row by row");
    let mut rows = [Vec::new(), Vec::new()];
    wait_until("both databases are equal", || {
        let read = [contents(&pair.alpha.database), contents(&pair.bravo.database)];
        if let [Ok(a), Ok(b)] = read {
            rows = [a, b];
        }
        rows[0] == rows[1] && !rows[0].is_empty()
    })?;
    let present: BTreeSet<i64> = rows[0]
        .iter()
        .filter(|row| row.len() == 4) // calls, not units
        .filter_map(|row| if let Some(Value::Integer(id)) = row.first() { Some(*id) } else { None })
        .collect();
    let lost = figures.acknowledged.difference(&present).count();
    say(&format!("equal: {} rows on each side", rows[0].len()));
    println!("\n{:<62} {:>10}", "Measured", "time");
    for (what, time) in &figures.rows {
        println!("{what:<62} {time:>10}");
    }
    println!("\nacknowledged records: {}", figures.acknowledged.len());
    println!("lost records: {lost}");
    if lost > 0 {
        return Err(Failure::new(Kind::Failed, format!("{lost} acknowledged records are missing")));
    }
    Ok(())
}
