//! What the capture triggers cost the application: the same statements on a database with and one
//! without them.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use ipicsha_core::{id::DatabaseName, license::LicensedRole};
use ipicsha_records::{Command, Event, Journaling, Worker, WorkerConfig};
use rusqlite::{Connection, params};
use serde_json::json;

use crate::{
    Plan,
    clock::{Cost, median, timed},
    table::{Row, Table, micros},
    workload::{self, DELETE, INSERT, Record, Synchronous, UPDATE, UPDATE_INDEXED, first_id, mix},
};

const NAME: &str = "bench";
const PRESENT: u64 = 50_000;

/// What one application does in a row.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Insert,
    /// Of columns without an index: the dearest case, for the log's page is a second one.
    Update,
    /// As the goals were found.
    UpdateIndexed,
    Delete,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Insert, Self::UpdateIndexed, Self::Update, Self::Delete];

    fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update of columns without an index",
            Self::UpdateIndexed => "update of an indexed column",
            Self::Delete => "delete",
        }
    }
}

/// One kind of measurement: operation and rows in a transaction.
type Case = (Operation, u64);

/// Measures all cases: in memory, as the goals were found, and where the disk of this machine takes part.
pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        measure_in(plan, table, (memory, "in memory"))?;
    }
    measure_in(plan, table, (&std::env::temp_dir(), "on disk"))
}

fn measure_in(plan: &Plan, table: &mut Table, (at, place): (&Path, &str)) -> Result<()> {
    let folder = tempfile::tempdir_in(at)?;
    let (plain, captured) = (folder.path().join("plain"), folder.path().join("captured"));
    for path in [&plain, &captured] {
        workload::create(path, PRESENT)?;
    }
    install(&captured, folder.path())?;
    let [plain, captured] = [
        workload::open(&plain, Synchronous::Normal)?,
        workload::open(&captured, Synchronous::Normal)?,
    ];
    let cases = [1, 1000].into_iter().flat_map(|size| Operation::ALL.map(|what| (what, size)));
    let cases: Vec<Case> = cases.collect();
    let mut seen = vec![Vec::new(); cases.len()];
    // A first round warms both up and does not count.
    for round in 0..=plan.rounds {
        for (case, seen) in cases.iter().zip(&mut seen) {
            let rows = if case.1 == 1 { plan.scaled(20_000, 2_000) } else { 50_000 };
            let run = |db| run(db, *case, rows, round);
            // Who comes first alternates.
            let pair = if round % 2 == 0 {
                let with = run(&captured)?;
                (with, run(&plain)?)
            } else {
                let without = run(&plain)?;
                (run(&captured)?, without)
            };
            if round > 0 {
                seen.push(pair);
            }
        }
    }
    let rows = cases.iter().zip(&seen).map(|(case, pairs)| row(*case, place, pairs));
    rows.for_each(|row| table.add(row));
    Ok(())
}

fn row((operation, size): Case, place: &str, pairs: &[(Cost, Cost)]) -> Row {
    let of = |pick: fn(&(Cost, Cost)) -> f64| median(pairs.iter().map(pick));
    let ratio = of(|(with, without)| with.cpu / without.cpu);
    let (goal, limit) =
        if size == 1 { ("at most 1.35 x CPU", 1.35) } else { ("at most 2 x CPU", 2.0) };
    let rounds = pairs.iter().map(|(with, without)| {
        json!({ "with_us": [with.wall * 1e6, with.cpu * 1e6],
                "without_us": [without.wall * 1e6, without.cpu * 1e6] })
    });
    Row {
        what: format!("capture {place}, {}, {size}-row transactions, per row", operation.name()),
        ours: [micros(of(|p| p.0.wall)), micros(of(|p| p.0.cpu))],
        beside: [format!("{} plain SQLite", micros(of(|p| p.1.wall))), micros(of(|p| p.1.cpu))],
        judged: Some((format!("{ratio:.2} x CPU"), goal, ratio <= limit)),
        rounds: rounds.collect(),
    }
}

/// One case; rows come and go within a round, so that every round meets the same database.
fn run(db: &Connection, (operation, size): Case, rows: u64, round: u64) -> Result<Cost> {
    let base = 10 * PRESENT + round * 1_000_000 + size * 100_000_000;
    let mut insert = db.prepare_cached(INSERT)?;
    let mut update = db.prepare_cached(UPDATE)?;
    let mut update_indexed = db.prepare_cached(UPDATE_INDEXED)?;
    let mut delete = db.prepare_cached(DELETE)?;
    let changed = |n, version| Record::new(first_id(mix(base + n) % PRESENT), version);
    let records: Vec<Record> = (0..rows)
        .map(|n| match operation {
            Operation::Insert | Operation::Delete => Record::new(first_id(base + n), 0),
            // Never what is there: SQLite would write no page.
            Operation::Update => changed(n, 2 * round + 1),
            Operation::UpdateIndexed => changed(n, 2 * round + 2),
        })
        .collect();
    let ((), cost) = timed(|| {
        for chunk in records.chunks(size as usize) {
            if size > 1 {
                db.execute_batch("BEGIN IMMEDIATE")?;
            }
            for r in chunk {
                match operation {
                    Operation::Insert => {
                        insert.execute(params![r.id, r.unit, r.state, r.payload, r.ts])?
                    }
                    Operation::Update => update.execute(params![r.id, r.state, r.payload, r.ts])?,
                    Operation::UpdateIndexed => {
                        update_indexed.execute(params![r.id, r.unit, r.state, r.payload, r.ts])?
                    }
                    Operation::Delete => delete.execute([r.id])?,
                };
            }
            if size > 1 {
                db.execute_batch("COMMIT")?;
            }
        }
        Ok(())
    })?;
    Ok(cost.per(rows))
}

/// Puts the triggers into the database, as a daemon does, and ends.
fn install(path: &Path, folder: &Path) -> Result<()> {
    let (sender, events) = channel();
    let worker = spawn(path, folder, LicensedRole::Primary, sender)?;
    worker.send(Command::Install);
    let deadline = Duration::from_secs(30);
    loop {
        let event = events.recv_timeout(deadline).context("the triggers were not installed")?;
        if matches!(event, Event::Status(status) if status.installed) {
            worker.join();
            return Ok(());
        }
    }
}

/// A worker for the database at `path`; what it says goes to `events`.
pub(crate) fn spawn(
    path: &Path,
    folder: &Path,
    rank: LicensedRole,
    events: Sender<Event>,
) -> Result<Worker> {
    let config = WorkerConfig {
        name: DatabaseName(NAME.into()),
        path: path.into(),
        capacity: ipicsha_records::LogCapacity { entries: 1_000_000, bytes: 1 << 30 },
        journal_path: folder.join("journal"),
        rank,
        create_if_missing: false,
        journaling: Journaling::Wal,
    };
    // Nobody listens any more at the end.
    Ok(Worker::spawn(config, Arc::new(move |event| drop(events.send(event))))?)
}
