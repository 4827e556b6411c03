//! Two real daemons on a pair of network namespaces (as root; else over loopback), and what is
//! measured on them.

use std::{
    fs,
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Pair, Server, Side};
use rusqlite::{Connection, config::DbConfig, params};
use rustix::process::{Signal, geteuid};

use crate::{
    clock::{Cost, poll, process_cpu, timed},
    workload::{self, Changes, DELETE, INSERT, Record, Synchronous, first_id, mix},
};

/// Name of the database.
pub(crate) const NAME: &str = "bench";
/// Between two looks whether a record is visible, of ours as of PostgreSQL's.
const LATENCY_STEP: Duration = Duration::from_micros(20);
const LOOK: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(600);

/// How long it took until others saw a record on the other side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency {
    /// Seconds from the moment in which the application asks for the write and its commit.
    pub(crate) asked: Vec<f64>,
    /// Seconds from the moment in which it is told that it has committed.
    pub(crate) told: Vec<f64>,
    /// Of everything that replicates, per change.
    pub(crate) cpu: f64,
}

impl Latency {
    /// Writes single records, not too close to one another, each until it is seen.
    pub(crate) fn measure(
        first: i64,
        samples: u64,
        mut write: impl FnMut(&Record) -> Result<()>,
        mut is_seen: impl FnMut(&Record) -> Result<bool>,
    ) -> Result<Self> {
        // Timers of this thread are 50 µs late otherwise, more than what is measured here.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1000))?;
        let mut latency = Self::default();
        for (number, id) in (0..samples).zip(first..) {
            let (record, asked) = (Record::new(id, 0), Instant::now());
            write(&record)?;
            let told = Instant::now();
            poll("it is visible", LATENCY_STEP, LIMIT, || is_seen(&record))?;
            latency.asked.push(asked.elapsed().as_secs_f64());
            latency.told.push(told.elapsed().as_secs_f64());
            thread::sleep(Duration::from_micros(2_000 + mix(number) % 18_000));
        }
        Ok(latency)
    }
}

/// From empty folders to a standby that is Ready, with the same `rows` records on both servers.
pub(crate) fn make_ready(pair: &mut Pair, rows: u64) -> Result<()> {
    let (a, b) = (pair.alpha.database(NAME), pair.bravo.database(NAME));
    workload::create(&a, rows)?;
    fs::copy(&a, &b)?;
    pair.start()?;
    pair.license()?;
    pair.trust()?;
    for server in [&pair.alpha, &pair.bravo] {
        let path = server.database(NAME).display().to_string();
        server.ask(&["protect", "db", &path, "--name", NAME])?;
    }
    pair.wait_contact()?;
    pair.alpha.ask(&["configure"])?;
    pair.wait_ready()
}

/// CPU seconds of one daemon.
fn cpu(server: &Server) -> Result<f64> {
    process_cpu(server.pid()?)
}

/// Largest memory one daemon has had, in MB.
fn memory(server: &Server) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/status", server.pid()?))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1e3)
}

/// Bytes through the interface of the active, both directions; `None` where it has none of its own.
fn wire(pair: &Pair) -> Result<Option<u64>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let output = pair.network.command(Side::Alpha, "cat").arg("/proc/net/dev").output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("eth0")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Ok(Some(fields.first().context("received")? + fields.get(8).context("sent")?))
}

/// What a comparison took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) wall: f64,
    /// Of the active's and the standby's daemon.
    pub(crate) cpu: [f64; 2],
    pub(crate) wire: Option<u64>,
}

/// Runs `verify` or `repair`.
pub(crate) fn compare(pair: &Pair, verb: &str) -> Result<Compared> {
    let servers = [&pair.alpha, &pair.bravo];
    let before = [cpu(servers[0])?, cpu(servers[1])?];
    let (wall, bytes) = (Instant::now(), wire(pair)?);
    pair.alpha.ask(&[verb])?;
    let wall = wall.elapsed().as_secs_f64();
    let bytes = wire(pair)?.zip(bytes).map(|(after, before)| after - before);
    Ok(Compared {
        wall,
        cpu: [cpu(servers[0])? - before[0], cpu(servers[1])? - before[1]],
        wire: bytes,
    })
}

/// Reads every value of every record, as `SELECT *` does.
pub(crate) fn scan(pair: &Pair) -> Result<Cost> {
    let db = workload::open(&pair.alpha.database(NAME), Synchronous::Full)?;
    let (bytes, cost) = timed(|| {
        let mut statement = db.prepare("SELECT * FROM rec")?;
        let (columns, mut bytes) = (statement.column_count(), 0);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                bytes += match row.get_ref(column)? {
                    rusqlite::types::ValueRef::Null => 0,
                    rusqlite::types::ValueRef::Integer(_) | rusqlite::types::ValueRef::Real(_) => 8,
                    rusqlite::types::ValueRef::Text(text) => text.len(),
                    rusqlite::types::ValueRef::Blob(blob) => blob.len(),
                };
            }
        }
        Ok(bytes)
    })?;
    ensure!(bytes > 0, "nothing was read");
    Ok(cost)
}

/// Makes `count` scattered differences on the standby behind everybody's back: half of them other
/// contents, a quarter each missing and additional.
pub(crate) fn spoil(pair: &Pair, rows: u64, count: u64, round: u64) -> Result<()> {
    let db = workload::open(&pair.bravo.database(NAME), Synchronous::Full)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    db.execute_batch("BEGIN IMMEDIATE")?;
    let stride = rows / count;
    for k in 0..count {
        let id = first_id(k * stride + round % stride);
        match k % 4 {
            0 | 1 => db.execute("UPDATE rec SET payload='spoiled' WHERE id=?1", [id])?,
            2 => db.execute(DELETE, [id])?,
            _ => {
                let r = Record::new(id + 1, 0);
                db.execute(INSERT, params![r.id, r.unit, r.state, r.payload, r.ts])?
            }
        };
    }
    db.execute_batch("COMMIT")?;
    Ok(())
}

/// Both databases must hold the same.
pub(crate) fn ensure_equal(pair: &Pair) -> Result<()> {
    let sums = |server: &Server| {
        workload::sums(&workload::open(&server.database(NAME), Synchronous::Full)?)
    };
    let (a, b) = (sums(&pair.alpha)?, sums(&pair.bravo)?);
    ensure!(a == b, "the databases differ: {a:?} {b:?}");
    Ok(())
}

/// What catching up took, and how much memory the active's daemon had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaughtUp {
    pub(crate) wall: f64,
    /// Of the active's and the standby's daemon.
    pub(crate) cpu: [f64; 2],
    pub(crate) memory_mb: f64,
    pub(crate) wire: Option<u64>,
}

/// Makes the changes while the standby's daemon is stopped, then measures until they are there.
pub(crate) fn catch_up(pair: &mut Pair, changes: &Changes) -> Result<CaughtUp> {
    pair.bravo.stop_by(Signal::TERM)?;
    pair.alpha.wait("it is active and alone", |status| {
        status.role() == "active" && !status.partner_reachable()
    })?;
    let db = application(pair, Side::Alpha)?;
    changes.make(&db)?;
    drop(db);
    rustix::fs::sync();
    let (before, bytes) = (cpu(&pair.alpha)?, wire(pair)?);
    let wall = Instant::now();
    pair.bravo.start()?;
    let standby = application(pair, Side::Bravo)?;
    let last = changes.last_insert();
    poll("the standby catches up", LOOK, LIMIT, || is_there(&standby, last))?;
    let wall = wall.elapsed().as_secs_f64();
    let cpu = [cpu(&pair.alpha)? - before, cpu(&pair.bravo)?];
    let bytes = wire(pair)?.zip(bytes).map(|(after, before)| after - before);
    pair.wait_ready()?;
    // The last transaction may have more than its last insert.
    poll("both are equal", LOOK, LIMIT, || Ok(ensure_equal(pair).is_ok()))?;
    Ok(CaughtUp { wall, cpu, memory_mb: memory(&pair.alpha)?, wire: bytes })
}

fn application(pair: &Pair, side: Side) -> Result<Connection> {
    workload::open(&pair.server(side).database(NAME), Synchronous::Full)
}

fn is_there(db: &Connection, id: i64) -> Result<bool> {
    let mut look = db.prepare_cached("SELECT 1 FROM rec WHERE id=?1")?;
    Ok(look.exists([id])?)
}

/// Single inserts, each watched until it is visible on the standby.
pub(crate) fn latency(pair: &Pair, first: i64, samples: u64) -> Result<Latency> {
    let (active, standby) = (application(pair, Side::Alpha)?, application(pair, Side::Bravo)?);
    let cpu = || Ok::<_, anyhow::Error>(cpu(&pair.alpha)? + cpu(&pair.bravo)?);
    let before = cpu()?;
    let mut insert = active.prepare(INSERT)?;
    let mut latency = Latency::measure(
        first,
        samples,
        |r| Ok(insert.execute(params![r.id, r.unit, r.state, r.payload, r.ts]).map(drop)?),
        |r| is_there(&standby, r.id),
    )?;
    latency.cpu = (cpu()? - before) / samples as f64;
    Ok(latency)
}
