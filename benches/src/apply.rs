//! How fast changes of the partner are applied, beside plain upserts of the same rows.
//!
//! The partner is played: it attaches, declares the databases equal, and sends batches as a primary
//! would. So only the thread of the database is measured.

use std::{
    fs,
    path::Path,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ipicsha_core::{
    data::{
        Applied, Attach, Batch, CompareStep, Data, DatabaseUuid, Follows, LogExtent, Origin,
        RepairReport, Row as Sent, Value,
    },
    id::{DatabaseName, Seq},
    license::LicensedRole,
    time::WallTime,
};
use ipicsha_records::{Command, Event, Gate, Worker, Writes};
use rusqlite::params;
use serde_json::json;

use crate::{
    Plan,
    capture::spawn,
    clock::{Cost, median, thread_cpu, timed},
    table::{Row, Table, micros, rate},
    workload::{self, Change, Changes, DELETE, Record, Synchronous},
};

const UPSERT: &str = "INSERT INTO rec VALUES(?1,?2,?3,?4,?5) ON CONFLICT(id) DO UPDATE SET \
                      unit=excluded.unit, state=excluded.state, payload=excluded.payload, \
                      ts=excluded.ts";
/// Changes that may wait for their acknowledgement, as between two servers.
const WINDOW: i64 = 64_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// The played partner's database.
const ORIGIN: Origin = Origin { uuid: DatabaseUuid([7; 16]), incarnation: 1 };

/// Measures 40 % inserts, 50 % updates, 10 % deletes, in batches of 1000.
pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    let rows = plan.scaled(200_000, 20_000);
    let folder = tempfile::tempdir()?;
    let original = folder.path().join("original");
    workload::create(&original, rows)?;
    let changes = Changes::new(rows, 0);
    let all: Vec<Vec<Change>> = (0..changes.transactions()).map(|n| changes.of(n)).collect();
    let mut pairs = Vec::new();
    for round in 0..plan.rounds {
        let (plain, ours) = (folder.path().join("plain"), folder.path().join("ours"));
        fs::copy(&original, &plain)?;
        fs::copy(&original, &ours)?;
        let pair = if round % 2 == 0 {
            let ours = apply(&ours, folder.path(), &all)?;
            (ours, upsert(&plain, &all)?)
        } else {
            let plain = upsert(&plain, &all)?;
            (apply(&ours, folder.path(), &all)?, plain)
        };
        same(&plain, &ours)?;
        pairs.push(pair);
        for name in ["plain", "ours", "journal"] {
            for suffix in ["", "-wal", "-shm"] {
                // What is not there need not go.
                let _ = fs::remove_file(folder.path().join(format!("{name}{suffix}")));
            }
        }
    }
    let of = |pick: fn(&(Cost, Cost)) -> f64| median(pairs.iter().map(pick));
    let (ratio, cpu) = (of(|p| p.1.wall / p.0.wall), of(|p| p.1.cpu / p.0.cpu));
    let rounds = pairs.iter().map(|(ours, plain)| {
        json!({ "ours_s": [ours.wall, ours.cpu], "plain_s": [plain.wall, plain.cpu], "rows": rows })
    });
    let per = |seconds: f64| micros(seconds / rows as f64);
    table.add(Row {
        what: "apply, 1000-row batches".into(),
        ours: [rate(rows, of(|p| p.0.wall)), format!("{}/row", per(of(|p| p.0.cpu)))],
        beside: [
            format!("{} plain upserts", rate(rows, of(|p| p.1.wall))),
            format!("{}/row", per(of(|p| p.1.cpu))),
        ],
        judged: Some((
            format!("{ratio:.2} x the rate ({cpu:.2} x by CPU)"),
            "at least 0.5 x",
            ratio >= 0.5,
        )),
        rounds: rounds.collect(),
    });
    Ok(())
}

fn upsert(path: &Path, all: &[Vec<Change>]) -> Result<Cost> {
    let db = workload::open(path, Synchronous::Full)?;
    let ((), cost) = timed(|| {
        let mut upsert = db.prepare_cached(UPSERT)?;
        let mut delete = db.prepare_cached(DELETE)?;
        for batch in all {
            db.execute_batch("BEGIN IMMEDIATE")?;
            for change in batch {
                match change {
                    Change::Insert(r) | Change::Update(r) => {
                        upsert.execute(params![r.id, r.unit, r.state, r.payload, r.ts])?
                    }
                    Change::Delete(id) => delete.execute([id])?,
                };
            }
            db.execute_batch("COMMIT")?;
        }
        Ok(())
    })?;
    Ok(cost)
}

/// Both ways must have had the same outcome.
fn same(a: &Path, b: &Path) -> Result<()> {
    let sums = |path: &Path| workload::sums(&workload::open(path, Synchronous::Full)?);
    let (a, b) = (sums(a)?, sums(b)?);
    ensure!(a == b, "the databases differ: {a:?} {b:?}");
    Ok(())
}

fn apply(path: &Path, folder: &Path, all: &[Vec<Change>]) -> Result<Cost> {
    let (sender, events) = channel();
    let worker = spawn(path, folder, LicensedRole::Secondary, sender)?;
    worker.send(Command::Install);
    worker.send(Command::SetWrites {
        writes: Writes::Closed,
        drained: false,
        done: Box::new(|_| {}),
    });
    worker.send(Command::SetGate(Gate::Open));
    worker.send(Command::LinkUp);
    let partner = Partner { worker: &worker, events: &events };
    partner.attach()?;
    let mut from = Seq(0);
    let batches = all.iter().map(|changes| {
        let batch = batch(from, changes);
        from = batch.to;
        batch
    });
    let batches: Vec<Batch> = batches.collect();
    let (wall, cpu) = (Instant::now(), thread_cpu("records")?);
    let mut acked = Seq(0);
    for batch in batches {
        let from = batch.from;
        while from.0 - acked.0 >= WINDOW {
            acked = partner.acknowledged()?;
        }
        partner.send(Data::Batch(batch));
    }
    while acked < from {
        acked = partner.acknowledged()?;
    }
    let cost = Cost { wall: wall.elapsed().as_secs_f64(), cpu: thread_cpu("records")? - cpu };
    worker.join();
    Ok(cost)
}

/// The changes of one transaction as they travel.
fn batch(from: Seq, changes: &[Change]) -> Batch {
    let rows = changes.iter().zip(from.0 + 1..).map(|(change, seq)| {
        let change = match change {
            Change::Insert(record) | Change::Update(record) => {
                ipicsha_core::data::Change::Upsert(columns(record))
            }
            Change::Delete(id) => ipicsha_core::data::Change::Delete(vec![Value::Integer(*id)]),
        };
        Sent { table: 0, seq: Seq(seq), wall: WallTime(1_700_000_000_000), change }
    });
    Batch {
        database: name(),
        origin: ORIGIN,
        from,
        to: Seq(from.0 + changes.len() as i64),
        to_wall: None,
        base: Seq(0),
        tables: vec!["rec".into()],
        rows: rows.collect(),
        sequences: Vec::new(),
        follows: Follows::Nothing,
    }
}

fn columns(r: &Record) -> Vec<Value> {
    let text = |text: &String| Value::Text(text.clone().into_bytes());
    vec![
        Value::Integer(r.id),
        text(&r.unit),
        Value::Integer(r.state),
        text(&r.payload),
        Value::Integer(r.ts),
    ]
}

fn name() -> DatabaseName {
    DatabaseName("bench".into())
}

/// The primary, played.
struct Partner<'a> {
    worker: &'a Worker,
    events: &'a Receiver<Event>,
}

impl Partner<'_> {
    fn send(&self, data: Data) {
        self.worker.send(Command::Received(data));
    }

    fn next(&self) -> Result<Data> {
        loop {
            let event = self.events.recv_timeout(PATIENCE).context("the worker says nothing")?;
            if let Event::Send(data) = event {
                return Ok(data);
            }
        }
    }

    /// Positions are agreed, and a comparison that finds nothing is led.
    fn attach(&self) -> Result<()> {
        let Data::Attach(theirs) = self.next()? else { bail!("no attach") };
        let applied =
            theirs.log.map(|log| Applied { origin: log.origin, seq: log.last, wall: None });
        self.send(Data::Attach(Attach {
            log: Some(LogExtent { origin: ORIGIN, first: Seq(1), last: Seq(0), last_wall: None }),
            applied,
            open: true,
            ..theirs
        }));
        self.compare(CompareStep::Begin { apply: true, initial: true, tables: Vec::new() });
        let Data::Compare { step: CompareStep::Ready, .. } = self.next()? else {
            bail!("no comparison")
        };
        let report = RepairReport {
            database: name(),
            tables: Vec::new(),
            passes: 1,
            rows_compared: 0,
            applied: true,
        };
        self.compare(CompareStep::Done(report));
        Ok(())
    }

    fn compare(&self, step: CompareStep) {
        self.send(Data::Compare { database: name(), run: 1, step });
    }

    /// Up to where everything is applied now.
    fn acknowledged(&self) -> Result<Seq> {
        match self.next()? {
            Data::Ack { to, .. } => Ok(to),
            other @ (Data::Invite { .. }
            | Data::Attach(_)
            | Data::Schema { .. }
            | Data::Batch(_)
            | Data::Compare { .. }
            | Data::Undo { .. }
            | Data::Expect { .. }) => bail!("no acknowledgement: {other:?}"),
        }
    }
}
