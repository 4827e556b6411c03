//! Verify, repair, latency and catch-up of two real daemons, the last two beside PostgreSQL.
//!
//! Decides the order: what only reads comes first, so that every round of it meets the same records.

use anyhow::Result;
use ipicsha_e2e::{Pair, Settings, fresh_pair};
use serde_json::json;

use crate::{
    Plan,
    clock::{Cost, median, quantile},
    daemons::{self, CaughtUp, Compared, Latency, NAME},
    postgres::{self, Postgres},
    table::{Row, Table, micros, millis, rate},
    workload::Changes,
};

/// Ids of the records whose way is timed; nothing else uses these.
const TIMED: i64 = 4_000_000_000;

/// What needs two daemons.
pub(crate) const PARTS: [&str; 3] = ["compare", "latency", "catch-up"];

/// Measures these.
pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    let settings = Settings::fast().databases(&[NAME]).log_capacity(4 * plan.rows);
    if plan.wants("compare") {
        // In namespaces, where the bytes on the wire can be counted.
        fresh_pair(settings.clone(), |pair| {
            daemons::make_ready(pair, plan.rows)?;
            compare(plan, table, pair)
        })?;
    }
    if !plan.wants("latency") && !plan.wants("catch-up") {
        return Ok(());
    }
    let mut other = start_postgres(plan)?;
    fresh_pair(settings.over_loopback(), |pair| {
        daemons::make_ready(pair, plan.rows)?;
        if plan.wants("latency") {
            latency(plan, table, pair, other.as_mut())?;
        }
        if plan.wants("catch-up") {
            catch_up(plan, table, pair, other.as_mut())?;
        }
        Ok(())
    })
}

fn start_postgres(plan: &Plan) -> Result<Option<Postgres>> {
    if !postgres::is_installed() {
        println!("PostgreSQL 15 is not here: apt-get install postgresql-15 for its figures");
        return Ok(None);
    }
    Postgres::start(plan.rows).map(Some)
}

fn compare(plan: &Plan, table: &mut Table, pair: &Pair) -> Result<()> {
    let (mut verified, mut repaired) = (Vec::new(), Vec::new());
    let differences = 1000.min(plan.rows / 20);
    daemons::scan(pair)?; // warms the page cache
    for round in 0..plan.rounds {
        let before = daemons::scan(pair)?;
        let compared = daemons::compare(pair, "verify")?;
        let after = daemons::scan(pair)?;
        verified.push((
            compared,
            Cost { wall: before.wall.midpoint(after.wall), cpu: before.cpu.midpoint(after.cpu) },
        ));
        daemons::spoil(pair, plan.rows, differences, round)?;
        repaired.push(daemons::compare(pair, "repair")?);
        daemons::ensure_equal(pair)?;
    }
    table.add(verify_row(plan, &verified));
    table.add(repair_row(plan, &repaired, differences));
    Ok(())
}

fn raw(compared: &Compared) -> serde_json::Value {
    json!({ "wall_s": compared.wall, "cpu_s": compared.cpu, "wire_bytes": compared.wire })
}

fn wire(all: impl Iterator<Item = Option<u64>>) -> (f64, String) {
    let bytes = median(all.map(|bytes| bytes.map_or(f64::NAN, |bytes| bytes as f64)));
    let text = if bytes.is_nan() {
        "bytes on the wire need root".into()
    } else {
        format!("{:.0} KB on the wire", bytes / 1e3)
    };
    (bytes, text)
}

fn verify_row(plan: &Plan, all: &[(Compared, Cost)]) -> Row {
    let of = |pick: fn(&(Compared, Cost)) -> f64| median(all.iter().map(pick));
    let dearer = |c: &Compared| c.cpu[0].max(c.cpu[1]);
    let ratio = median(all.iter().map(|(c, scan)| dearer(c) / scan.cpu));
    let (bytes, on_wire) = wire(all.iter().map(|(c, _)| c.wire));
    let rounds =
        all.iter().map(|(c, scan)| json!({ "ours": raw(c), "scan_s": [scan.wall, scan.cpu] }));
    Row {
        what: format!("verify, {} equal records on each side", plan.rows),
        ours: [
            format!("{}, {on_wire}", millis(of(|p| p.0.wall))),
            format!("{} / {}", millis(of(|p| p.0.cpu[0])), millis(of(|p| p.0.cpu[1]))),
        ],
        beside: [format!("{} SELECT *", millis(of(|p| p.1.wall))), millis(of(|p| p.1.cpu))],
        judged: Some((
            format!("{ratio:.2} x CPU, {:.0} KB", bytes / 1e3),
            "at most 1.5 x CPU per side, under 200 KB",
            ratio <= 1.5 && (bytes < 200e3 || bytes.is_nan()),
        )),
        rounds: rounds.collect(),
    }
}

fn repair_row(plan: &Plan, all: &[Compared], differences: u64) -> Row {
    let of = |pick: fn(&Compared) -> f64| median(all.iter().map(pick));
    let (bytes, on_wire) = wire(all.iter().map(|c| c.wire));
    Row {
        what: format!("repair, {differences} scattered differences in {} records", plan.rows),
        ours: [
            format!("{}, {on_wire}", millis(of(|c| c.wall))),
            format!("{} / {}", millis(of(|c| c.cpu[0])), millis(of(|c| c.cpu[1]))),
        ],
        beside: Default::default(),
        judged: Some((
            format!("{:.2} MB", bytes / 1e6),
            "under 2 MB",
            bytes < 2e6 || bytes.is_nan(),
        )),
        rounds: all.iter().map(raw).collect(),
    }
}

fn latency(
    plan: &Plan,
    table: &mut Table,
    pair: &mut Pair,
    mut other: Option<&mut Postgres>,
) -> Result<()> {
    let samples = plan.scaled(300, 100);
    let (mut ours, mut theirs, mut durable) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let first = TIMED + round.cast_signed() * 1000;
        ours.push(daemons::latency(pair, first, samples)?);
        if let Some(other) = &mut other {
            theirs.push(other.latency(first, samples)?);
            other.set_durable(true)?;
            durable.push(other.latency(first + 500, samples)?);
            other.set_durable(false)?;
        }
    }
    let all = [&ours[..], &theirs, &durable];
    table.add(latency_row("commit to visible on the standby, from its call", all, |l| &l.asked));
    table.add(latency_row("commit to visible on the standby, from its return", all, |l| &l.told));
    Ok(())
}

fn catch_up(
    plan: &Plan,
    table: &mut Table,
    pair: &mut Pair,
    mut other: Option<&mut Postgres>,
) -> Result<()> {
    let (mut caught_up, mut they_caught_up) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let changes = Changes::new(plan.rows, round);
        caught_up.push(daemons::catch_up(pair, &changes)?);
        if let Some(other) = &mut other {
            they_caught_up.push(other.catch_up(&changes)?);
        }
    }
    table.add(catch_up_row(plan.rows, &caught_up, &they_caught_up));
    table.add(memory_row(plan.rows, &caught_up));
    Ok(())
}

/// Ours, theirs, and theirs with a durable subscriber; `which` times of each.
fn latency_row(
    what: &str,
    [ours, theirs, durable]: [&[Latency]; 3],
    which: fn(&Latency) -> &[f64],
) -> Row {
    let at = |all: &[Latency], part| {
        median(all.iter().map(|l| quantile(which(l).iter().copied(), part)))
    };
    let text =
        |all: &[Latency]| format!("median {}, p99 {}", millis(at(all, 0.5)), millis(at(all, 0.99)));
    let cpu = |all: &[Latency]| format!("{}/change", micros(median(all.iter().map(|l| l.cpu))));
    let raw = |all: &[Latency]| -> serde_json::Value {
        let of = |l: &Latency, part| quantile(which(l).iter().copied(), part);
        all.iter()
            .map(|l| json!({ "median_s": of(l, 0.5), "p99_s": of(l, 0.99), "cpu_s": l.cpu }))
            .collect()
    };
    let (mine, mine_worst) = (at(ours, 0.5), at(ours, 0.99));
    let ahead = !theirs.is_empty() && mine <= at(theirs, 0.5);
    let beside = if theirs.is_empty() {
        Default::default()
    } else {
        [
            format!("{} PostgreSQL; {} with a durable subscriber", text(theirs), text(durable)),
            cpu(theirs),
        ]
    };
    Row {
        what: what.into(),
        ours: [text(ours), cpu(ours)],
        beside,
        judged: Some((
            format!("{} / {}", millis(mine), millis(mine_worst)),
            "median below 2 ms, p99 below 15 ms, ahead of PostgreSQL",
            mine < 2e-3 && mine_worst < 15e-3 && ahead,
        )),
        rounds: json!({
            "ours": raw(ours), "postgresql": raw(theirs), "postgresql_durable": raw(durable),
        }),
    }
}

fn catch_up_row(rows: u64, ours: &[CaughtUp], theirs: &[Cost]) -> Row {
    let wall = median(ours.iter().map(|c| c.wall));
    let cpu = |side: usize| median(ours.iter().map(|c| c.cpu[side])) / rows as f64;
    let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| theirs.wall / ours.wall));
    let beside = if theirs.is_empty() {
        Default::default()
    } else {
        let (wall, cpu) =
            (median(theirs.iter().map(|c| c.wall)), median(theirs.iter().map(|c| c.cpu)));
        [
            format!("{wall:.2} s, {} PostgreSQL", rate(rows, wall)),
            format!("{}/change", micros(cpu / rows as f64)),
        ]
    };
    let rounds = ours.iter().map(|c| {
        json!({ "wall_s": c.wall, "cpu_s": c.cpu, "memory_mb": c.memory_mb, "wire_bytes": c.wire })
    });
    let others = theirs.iter().map(|c| json!({ "wall_s": c.wall, "cpu_s": c.cpu }));
    let judged = (!theirs.is_empty())
        .then(|| (format!("{ratio:.2} x as fast"), "ahead of PostgreSQL", ratio > 1.0));
    Row {
        what: format!("catch-up of {rows} changes"),
        ours: [
            format!("{wall:.2} s, {}", rate(rows, wall)),
            format!("{} + {}/change", micros(cpu(0)), micros(cpu(1))),
        ],
        beside,
        judged,
        rounds: json!({
            "ours": rounds.collect::<Vec<_>>(), "postgresql": others.collect::<Vec<_>>(),
        }),
    }
}

fn memory_row(rows: u64, ours: &[CaughtUp]) -> Row {
    let peak = median(ours.iter().map(|c| c.memory_mb));
    Row {
        what: format!("memory of the active's daemon, {rows} changes queued"),
        ours: [format!("{peak:.0} MB at most"), String::new()],
        beside: Default::default(),
        judged: None,
        rounds: ours.iter().map(|c| json!(c.memory_mb)).collect(),
    }
}
