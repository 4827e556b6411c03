//! Databases, applications and pairs of workers for the tests.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use ipicsha_core::{
    data::{Applied, Batch, Data, RepairReport},
    id::{DatabaseName, Seq},
    license::LicensedRole,
};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{
    Command, CommandSender, ConflictSummary, DatabaseStatus, Error, Event, Gate, Journal,
    JournalEntry, JournalFilter, Journaling, LogCapacity, Worker, WorkerConfig, Writes,
    apply::{Setting, apply_batches},
    database::Database,
    log::{BATCH_ROWS, Dirty},
};

pub(crate) const GENEROUS: Duration = Duration::from_secs(60);

thread_local! {
    static JOURNALING: Cell<Journaling> = const { Cell::new(Journaling::Wal) };
}

/// Every database that `test` makes on this thread stays in its rollback-journal mode.
pub(crate) fn keeping_rollback(test: impl FnOnce()) {
    JOURNALING.set(Journaling::Keep);
    test();
    JOURNALING.set(Journaling::Wal);
}

/// Waits for a condition; the deadline only ends a test that hangs.
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + GENEROUS;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The application's own connection.
pub(crate) fn application(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(20)).unwrap();
    db
}

/// Changes contents without anything being captured, as a fault would.
pub(crate) fn corrupt(path: &Path, statements: &str) {
    let db = application(path);
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    db.execute_batch(statements).unwrap();
}

/// The application in another process and another SQLite.
pub(crate) fn python(path: &Path, program: &str) -> std::process::Command {
    let mut command = std::process::Command::new("python3");
    let opening = "import sqlite3,sys,time\ndb=sqlite3.connect(sys.argv[1],timeout=20,isolation_level=None)\n";
    command.arg("-c").arg(format!("{opening}{program}")).arg(path);
    command
}

/// Runs statements as the application.
pub(crate) fn sql(path: &Path, statements: &str) {
    application(path).execute_batch(statements).unwrap();
}

/// All rows of the application's tables, read plainly.
pub(crate) fn dump(path: &Path) -> Vec<String> {
    let db = application(path);
    let mut list = db
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite%'
             AND name NOT LIKE '\\_ipicsha%' ESCAPE '\\' ORDER BY name",
        )
        .unwrap();
    let names: Vec<String> =
        list.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut all = Vec::new();
    for name in names {
        let mut rows = dump_table(&db, &name);
        rows.sort();
        all.extend(rows.into_iter().map(|row| format!("{name}: {row}")));
    }
    all
}

fn dump_table(db: &Connection, name: &str) -> Vec<String> {
    let columns: Vec<String> = db
        .prepare(&format!("SELECT * FROM \"{name}\""))
        .unwrap()
        .column_names()
        .map(|column| {
            let text = format!("hex(CAST(\"{column}\" AS BLOB))");
            format!(
                "typeof(\"{column}\")||CASE typeof(\"{column}\") WHEN 'text' THEN {text} ELSE quote(\"{column}\") END"
            )
        })
        .collect();
    let query = format!("SELECT {} FROM \"{name}\"", columns.join("||','||"));
    let mut statement = db.prepare(&query).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// One value.
pub(crate) fn one<T: rusqlite::types::FromSql>(path: &Path, query: &str) -> T {
    application(path).query_row(query, [], |row| row.get(0)).unwrap()
}

pub(crate) type Finished = (u64, bool, Result<RepairReport, String>);

/// One server's worker with everything it said.
pub(crate) struct Side {
    pub(crate) directory: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) worker: Option<Worker>,
    rank: LicensedRole,
    partner: Arc<OnceLock<Arc<Mutex<Option<CommandSender>>>>>,
    sender: Arc<Mutex<Option<CommandSender>>>,
    cut: Arc<AtomicBool>,
    pub(crate) capacity: u64,
    journaling: Journaling,
    pub(crate) capacity_bytes: u64,
    pub(crate) status: Arc<Mutex<Option<DatabaseStatus>>>,
    pub(crate) finished: Arc<Mutex<Vec<Finished>>>,
    pub(crate) conflicts: Arc<Mutex<Vec<ConflictSummary>>>,
    pub(crate) sent: Arc<Mutex<Vec<Data>>>,
    /// Cuts the link just before the first message of this side for which it says so.
    pub(crate) cut_before: Arc<Mutex<Option<CutBefore>>>,
}

pub(crate) type CutBefore = Box<dyn FnMut(&Data) -> bool + Send>;

impl Side {
    pub(crate) fn new(rank: LicensedRole, schema: &str, cut: Arc<AtomicBool>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sqlite");
        if !schema.is_empty() {
            sql(&path, schema);
        }
        Self {
            path,
            directory,
            worker: None,
            rank,
            partner: Arc::default(),
            sender: Arc::default(),
            cut,
            capacity: 100_000,
            journaling: JOURNALING.get(),
            capacity_bytes: 1 << 30,
            status: Arc::default(),
            finished: Arc::default(),
            conflicts: Arc::default(),
            sent: Arc::default(),
            cut_before: Arc::default(),
        }
    }

    /// Cuts the link before the first message this side is about to send that `which` accepts.
    pub(crate) fn cut_before(&self, which: impl FnMut(&Data) -> bool + Send + 'static) {
        *self.cut_before.lock().unwrap() = Some(Box::new(which));
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.path().join("journal.db")
    }

    /// Starts the worker, as after a start of the daemon.
    pub(crate) fn start(&mut self, writes: Writes) {
        self.start_without_role();
        self.send(Command::SetWrites {
            writes,
            drained: false,
            done: Box::new(|result| result.unwrap()),
        });
    }

    /// The same before the core has decided who may write.
    pub(crate) fn start_without_role(&mut self) {
        let config = WorkerConfig {
            name: DatabaseName("app".into()),
            path: self.path.clone(),
            capacity: LogCapacity { entries: self.capacity, bytes: self.capacity_bytes },
            journal_path: self.journal(),
            rank: self.rank,
            create_if_missing: true,
            journaling: self.journaling,
        };
        let (partner, cut) = (self.partner.clone(), self.cut.clone());
        let (status, finished) = (self.status.clone(), self.finished.clone());
        let (conflicts, sent) = (self.conflicts.clone(), self.sent.clone());
        let cut_before = self.cut_before.clone();
        let events = move |event| match event {
            Event::Send(data) => {
                let mut cuts = cut_before.lock().unwrap();
                if cuts.as_mut().is_some_and(|cuts| cuts(&data)) {
                    cut.store(true, Ordering::SeqCst);
                    *cuts = None;
                }
                drop(cuts);
                if !cut.load(Ordering::SeqCst) {
                    sent.lock().unwrap().push(data.clone());
                }
                if !cut.load(Ordering::SeqCst) {
                    let to = partner.get().unwrap().lock().unwrap().clone();
                    if let Some(to) = to {
                        // Over the wire format, as in reality.
                        let bytes = postcard::to_stdvec(&data).unwrap();
                        to.deliver(postcard::from_bytes(&bytes).unwrap());
                    }
                }
            }
            Event::Status(now) => *status.lock().unwrap() = Some(*now),
            Event::ConflictJournaled(summary) => conflicts.lock().unwrap().push(summary),
            Event::RepairFinished { run, initial, result } => {
                finished.lock().unwrap().push((run, initial, result));
            }
        };
        let worker = Worker::spawn(config, Arc::new(events)).unwrap();
        *self.sender.lock().unwrap() = Some(worker.sender());
        worker.send(Command::Install);
        worker.send(Command::SetGate(Gate::Open));
        self.worker = Some(worker);
    }

    pub(crate) fn send(&self, command: Command) {
        self.worker.as_ref().unwrap().send(command);
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(crate::Done<T>) -> Command,
    ) -> Result<T, Error> {
        let (to, answer) = mpsc::channel();
        self.send(command(Box::new(move |result| to.send(result).unwrap())));
        answer.recv_timeout(GENEROUS).unwrap()
    }

    pub(crate) fn set_writes(&self, writes: Writes) {
        self.ask(|done| Command::SetWrites { writes, drained: true, done }).unwrap();
    }

    pub(crate) fn stop(&mut self) {
        *self.sender.lock().unwrap() = None;
        self.worker.take().unwrap().join();
        *self.status.lock().unwrap() = None;
    }

    pub(crate) fn is(&self, condition: impl Fn(&DatabaseStatus) -> bool) -> bool {
        self.status.lock().unwrap().as_ref().is_some_and(condition)
    }

    /// The batches it has sent.
    pub(crate) fn batches(&self) -> Vec<Batch> {
        let sent = self.sent.lock().unwrap();
        let batches = sent.iter().filter_map(|data| match data {
            Data::Batch(batch) => Some(batch.clone()),
            Data::Invite { .. }
            | Data::Attach(_)
            | Data::Schema { .. }
            | Data::Ack { .. }
            | Data::Compare { .. }
            | Data::Undo { .. }
            | Data::Expect { .. } => None,
        });
        batches.collect()
    }

    /// The newest batch it has sent.
    pub(crate) fn last_batch(&self) -> Batch {
        self.batches().pop().unwrap()
    }

    pub(crate) fn finished_initially(&self) -> Option<RepairReport> {
        let finished = self.finished.lock().unwrap();
        finished.iter().rev().find(|f| f.1 && f.2.is_ok()).and_then(|f| f.2.clone().ok())
    }
}

/// Two servers; `a` is the primary.
pub(crate) struct Pair {
    pub(crate) a: Side,
    pub(crate) b: Side,
    cut: Arc<AtomicBool>,
}

impl Pair {
    /// Started, connected, with these databases ("" is a missing file).
    pub(crate) fn start(at_a: &str, at_b: &str, writes_a: Writes, writes_b: Writes) -> Self {
        let mut pair = Self::stopped(at_a, at_b);
        pair.a.start(writes_a);
        pair.b.start(writes_b);
        pair.connect();
        pair
    }

    pub(crate) fn stopped(at_a: &str, at_b: &str) -> Self {
        let cut = Arc::new(AtomicBool::new(true));
        let a = Side::new(LicensedRole::Primary, at_a, cut.clone());
        let b = Side::new(LicensedRole::Secondary, at_b, cut.clone());
        a.partner.set(b.sender.clone()).unwrap();
        b.partner.set(a.sender.clone()).unwrap();
        Self { a, b, cut }
    }

    /// Active primary, standby secondary, equal.
    pub(crate) fn running(schema: &str) -> Self {
        let pair = Self::start(schema, schema, Writes::Open, Writes::Closed);
        pair.wait_synced();
        pair
    }

    pub(crate) fn connect(&self) {
        self.cut.store(false, Ordering::SeqCst);
        self.a.send(Command::LinkUp);
        self.b.send(Command::LinkUp);
    }

    /// Waits until `cut_before` has cut the link, then lets both notice it.
    pub(crate) fn wait_cut(&self) {
        wait("the link is cut", || self.cut.load(Ordering::SeqCst));
        self.cut();
    }

    /// From now on nothing arrives, and neither side knows.
    pub(crate) fn lose_messages(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.a.send(Command::LinkDown);
        self.b.send(Command::LinkDown);
        let down = |side: &Side| side.is(|status| !status.attached);
        wait("both see the cut", || down(&self.a) && down(&self.b));
    }

    /// The same while the worker of `a` does not run.
    pub(crate) fn cut_from_b(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.b.send(Command::LinkDown);
        wait("b sees the cut", || self.b.is(|status| !status.attached));
    }

    pub(crate) fn wait_synced(&self) {
        let synced = |side: &Side| side.is(|s| s.attached && s.synced && s.repair.is_none());
        let deadline = Instant::now() + GENEROUS;
        while !(synced(&self.a) && synced(&self.b)) {
            let (a, b) = (&self.a.status, &self.b.status);
            assert!(Instant::now() < deadline, "never compared\na: {a:?}\nb: {b:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until both sides hold the same, seen by plain SELECTs.
    pub(crate) fn wait_equal(&self) {
        let deadline = Instant::now() + GENEROUS;
        loop {
            let (a, b) = (dump(&self.a.path), dump(&self.b.path));
            if a == b {
                return;
            }
            if Instant::now() > deadline {
                let only = |x: &[String], y: &[String]| {
                    x.iter().filter(|row| !y.contains(row)).take(5).cloned().collect::<Vec<_>>()
                };
                panic!(
                    "never equal; only at a: {:?}; only at b: {:?}\na: {:?}\nb: {:?}",
                    only(&a, &b),
                    only(&b, &a),
                    self.a.status.lock().unwrap(),
                    self.b.status.lock().unwrap()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One server without its thread: the engine's parts, driven by hand.
pub(crate) struct Node {
    _directory: TempDir,
    pub(crate) database: Database,
    pub(crate) app: Connection,
    pub(crate) dirty: Dirty,
    pub(crate) journal: Journal,
    pub(crate) role: LicensedRole,
    pub(crate) acked: Seq,
}

impl Node {
    pub(crate) fn new(role: LicensedRole, schema: &str) -> Self {
        // Hundreds of histories: in memory where the system has such a place.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let directory = directory.unwrap();
        let path = directory.path().join("app.sqlite");
        sql(&path, schema);
        let database = Database::open_as(&path, 100_000, JOURNALING.get()).unwrap();
        database.writer.execute_batch("PRAGMA synchronous=OFF").unwrap();
        let app = application(&path);
        app.execute_batch("PRAGMA synchronous=OFF").unwrap();
        let journal = Journal::open(&directory.path().join("journal.db")).unwrap().without_sync();
        Self {
            _directory: directory,
            database,
            app,
            dirty: Dirty::default(),
            journal,
            role,
            acked: Seq(0),
        }
    }

    /// Both have agreed that nothing is to be exchanged yet.
    pub(crate) fn introduce(a: &mut Self, b: &mut Self) {
        let (at_a, at_b) = (a.database.meta.origin, b.database.meta.origin);
        for (node, other) in [(a, at_b), (b, at_a)] {
            node.database
                .update_meta(|meta| {
                    meta.applied = Some(Applied { origin: other, seq: Seq(0), wall: None });
                    meta.synced = true;
                })
                .unwrap();
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.database.path
    }

    /// The daemon dies and is started again; what it knew in memory is gone.
    pub(crate) fn restart(&mut self) {
        let path = self.database.path.clone();
        self.database = Database::open_as(&path, 100_000, JOURNALING.get()).unwrap();
        self.database.writer.execute_batch("PRAGMA synchronous=OFF").unwrap();
    }

    /// The application dies in the middle of a transaction and is started again.
    pub(crate) fn kill_application(&mut self, statements: &str) {
        self.app.execute_batch(&format!("BEGIN; {statements}")).unwrap();
        self.app = application(&self.database.path);
        self.app.execute_batch("PRAGMA synchronous=OFF").unwrap();
    }

    /// The application writes, at this moment of its clock.
    pub(crate) fn write(&self, statements: &str, ms: i64) {
        let last = crate::log::extent(&self.app).unwrap().last;
        self.app.execute_batch(statements).unwrap();
        let stamp = "UPDATE _ipicsha_log SET ms=?1 WHERE seq>?2";
        self.app.execute(stamp, [ms, last.0]).unwrap();
    }

    /// What would be sent behind `acked`, at most `limit` rows.
    pub(crate) fn batch(&mut self, limit: usize) -> Batch {
        self.batch_behind(self.acked, limit)
    }

    /// What would be sent behind `from`, at most `limit` rows.
    pub(crate) fn batch_behind(&mut self, from: Seq, limit: usize) -> Batch {
        let (database, dirty) = (&self.database, &mut self.dirty);
        let tables = database.tables.values().map(|c| c.table.name.clone()).collect();
        let name = DatabaseName("app".into());
        database
            .snapshot(|db| {
                dirty.refresh(db, database)?;
                dirty.batch(db, database, &tables, &name, from, limit.min(BATCH_ROWS))
            })
            .unwrap()
            .0
    }

    /// Applies up to `limit` rows of a batch; whether that was all of it.
    pub(crate) fn apply(&mut self, batch: &Batch, limit: usize) -> Result<bool, Error> {
        self.apply_all(&[batch], limit).map(|finished| finished == 1)
    }

    /// Applies batches at once; how many as a whole.
    pub(crate) fn apply_all(&mut self, batches: &[&Batch], limit: usize) -> Result<usize, Error> {
        let name = DatabaseName("app".into());
        let mut setting = Setting {
            name: &name,
            role: self.role,
            journal: &mut self.journal,
            patience: crate::database::SHORT,
            dirty: &mut self.dirty,
            received: None,
        };
        let batches = batches.iter().copied();
        apply_batches(&mut self.database, &mut setting, batches, limit).map(|done| done.finished)
    }

    pub(crate) fn applied(&self) -> Seq {
        self.database.meta.applied.unwrap().seq
    }

    pub(crate) fn losers(&self) -> Vec<JournalEntry> {
        self.journal.list(&JournalFilter::default()).unwrap()
    }
}

/// Exchanges everything between two nodes until both are at rest.
pub(crate) fn exchange(a: &mut Node, b: &mut Node) {
    for _ in 0..6 {
        let batch = a.batch(usize::MAX);
        b.apply(&batch, usize::MAX).unwrap();
        a.acked = b.applied();
        let batch = b.batch(usize::MAX);
        a.apply(&batch, usize::MAX).unwrap();
        b.acked = a.applied();
    }
}
