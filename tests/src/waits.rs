//! How long a program on the same server waits for the lock of a database. Only the waiting that
//! SQLite itself asks for is counted, in its busy handler: neither the speed of the machine nor the
//! scheduler, but how long somebody else held the lock.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rusqlite::{Connection, ErrorCode};

use crate::{application::FENCE, server::Server};

/// Between two attempts to get the lock.
const STEP: Duration = Duration::from_millis(1);
/// Longer than any test may wait.
const HOPELESS: Duration = Duration::from_secs(20);

thread_local! {
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// SQLite calls it while another connection has the lock.
fn wait(_: i32) -> bool {
    let began = Instant::now();
    thread::sleep(STEP);
    let waited = WAITED.get() + began.elapsed();
    WAITED.set(waited);
    waited < HOPELESS
}

/// What one program met.
#[derive(Debug, Default)]
pub struct Waits {
    /// How long each attempt waited, sorted.
    sorted: Vec<Duration>,
    /// Attempts that SQLite refused with BUSY.
    pub busy: u64,
    /// SQLite's extended codes of these, and how often each came.
    pub codes: BTreeMap<i32, u64>,
    /// Attempts that could not wait: reads, and transactions that had read before they wrote. SQLite
    /// asks nobody to wait for those.
    pub impatient: u64,
    /// Attempts that the fence refused.
    pub fenced: u64,
}

impl Waits {
    /// Number of attempts that could wait.
    pub fn attempts(&self) -> usize {
        self.sorted.len()
    }

    /// How many of these found the lock taken.
    pub fn waited(&self) -> usize {
        self.sorted.iter().filter(|wait| !wait.is_zero()).count()
    }

    /// The longest wait.
    pub fn longest(&self) -> Duration {
        self.sorted.last().copied().unwrap_or_default()
    }

    /// What all but one of a thousand attempts waited at most.
    pub fn usual(&self) -> Duration {
        let rank = self.sorted.len() * 999 / 1000;
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// What a program does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Reads, without any patience.
    Read,
    /// Takes the lock and writes.
    Write,
    /// In turns takes the lock and writes, and reads and then writes in one transaction.
    WriteBothWays,
}

/// A program that runs beside the test, on one server.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Waits>>>,
}

impl Watcher {
    /// Starts it.
    pub fn start(server: &Server, database: &str, habit: Habit) -> Self {
        let (path, stop) = (server.database(database), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || watch(&path, habit, &stopped));
        Self { stop, thread: Some(thread) }
    }

    /// Ends it.
    ///
    /// # Errors
    /// SQLite refused something for another reason than the lock or the fence.
    pub fn stop(mut self) -> Result<Waits> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was stopped")?;
        thread.join().map_err(|_| anyhow::anyhow!("the watcher has panicked"))?
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // the test has failed already
        }
    }
}

fn watch(path: &Path, habit: Habit, stop: &AtomicBool) -> Result<Waits> {
    let mut db = Connection::open(path)?;
    db.busy_handler((habit != Habit::Read).then_some(wait as fn(i32) -> bool))?;
    let mut waits = Waits::default();
    let kinds: &[Attempt] = match habit {
        Habit::Read => &[Attempt::Read],
        Habit::Write => &[Attempt::Write],
        Habit::WriteBothWays => &[Attempt::Write, Attempt::ReadThenWrite],
    };
    for kind in kinds.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        WAITED.set(Duration::ZERO);
        let tried = attempt(&db, *kind);
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK")?;
        }
        match tried {
            Ok(()) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                waits.busy += 1;
                let code = error.sqlite_extended_error_code().unwrap_or_default();
                *waits.codes.entry(code).or_default() += 1;
            }
            Err(error) if error.to_string().contains(FENCE) => waits.fenced += 1,
            Err(error) => return Err(error.into()),
        }
        match kind {
            Attempt::Write => waits.sorted.push(WAITED.get()),
            Attempt::Read | Attempt::ReadThenWrite => waits.impatient += 1,
        }
        thread::sleep(STEP);
    }
    waits.sorted.sort_unstable();
    Ok(waits)
}

#[derive(Clone, Copy, Debug)]
enum Attempt {
    Read,
    ReadThenWrite,
    Write,
}

fn attempt(db: &Connection, kind: Attempt) -> rusqlite::Result<()> {
    const READ: &str = "SELECT (SELECT count(*) FROM units) + (SELECT count(*) FROM calls \
         WHERE id BETWEEN 'f' AND 'g')";
    const WRITE: &str = "UPDATE units SET place = coalesce(place, '') WHERE id = 1";
    let read = || db.query_row(READ, [], |row| row.get::<_, i64>(0));
    match kind {
        Attempt::Read => read().map(|_| ()),
        Attempt::ReadThenWrite => {
            db.execute_batch("BEGIN")?;
            read()?;
            db.execute_batch(WRITE)?;
            db.execute_batch("COMMIT")
        }
        Attempt::Write => {
            db.execute_batch("BEGIN IMMEDIATE")?;
            db.execute_batch(WRITE)?;
            db.execute_batch("COMMIT")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_connection_holds_is_waited_for_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("board.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE calls(id); CREATE TABLE units(id, place);
             BEGIN IMMEDIATE;",
        )
        .unwrap();
        let start = |habit| {
            let (path, stop) = (path.clone(), Arc::new(AtomicBool::new(false)));
            let stopped = Arc::clone(&stop);
            let thread = Some(thread::spawn(move || watch(&path, habit, &stopped)));
            Watcher { stop, thread }
        };
        let (writer, reader) = (start(Habit::Write), start(Habit::Read));
        let held = Duration::from_millis(200);
        thread::sleep(held);
        let reads = reader.stop().unwrap();
        db.execute_batch("COMMIT").unwrap();
        let writes = writer.stop().unwrap();
        assert!(writes.longest() >= held / 2, "{writes:?}"); // it began a little later
        assert!(reads.impatient > 0 && reads.busy == 0, "{reads:?}");
    }

    #[test]
    fn the_usual_wait_leaves_out_one_in_a_thousand() {
        let mut sorted = vec![Duration::ZERO; 998];
        sorted.extend([2, 9].map(Duration::from_secs));
        let waits = Waits { sorted, ..Waits::default() };
        assert_eq!(waits.usual(), Duration::from_secs(2));
        assert_eq!(waits.longest(), Duration::from_secs(9));
        assert_eq!(waits.waited(), 2);
    }
}
