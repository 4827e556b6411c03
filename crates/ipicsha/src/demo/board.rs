//! The dispatch board: a small application on SQLite that knows nothing of ipicsha. Its users write
//! to the server that accepts them and go to the other one when they are refused.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rusqlite::{Connection, types::Value};

/// The application's schema.
pub(crate) const SCHEMA: &str = "
CREATE TABLE units(id INTEGER PRIMARY KEY, callsign TEXT NOT NULL, status TEXT NOT NULL);
CREATE TABLE calls(id INTEGER PRIMARY KEY, opened TEXT NOT NULL, place TEXT NOT NULL, unit INTEGER);
CREATE INDEX calls_by_unit ON calls(unit);
INSERT INTO units VALUES (1, 'Engine 1', 'free'), (2, 'Ladder 3', 'free'), (3, 'Medic 7', 'free');
";

pub(crate) fn open(path: &PathBuf) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// Every row of the application's tables, with types.
pub(crate) fn contents(path: &PathBuf) -> rusqlite::Result<Vec<Vec<Value>>> {
    let connection = open(path)?;
    let mut rows = Vec::new();
    for sql in ["SELECT * FROM units ORDER BY id", "SELECT * FROM calls ORDER BY id"] {
        let mut statement = connection.prepare(sql)?;
        let width = statement.column_count();
        let read = statement.query_map([], |row| (0..width).map(|i| row.get(i)).collect())?;
        for row in read {
            rows.push(row?);
        }
    }
    Ok(rows)
}

/// A call that was acknowledged, and when.
#[derive(Clone, Copy)]
pub(crate) struct Acknowledged {
    pub(crate) id: i64,
    pub(crate) at: Instant,
}

/// Users who write all the time.
pub(crate) struct Users {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    errors: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

static NEXT_CALL: AtomicI64 = AtomicI64::new(1000);

/// A number no other call has.
pub(crate) fn next_call() -> i64 {
    NEXT_CALL.fetch_add(1, Ordering::SeqCst)
}

impl Users {
    /// `count` users who begin at the first of `databases`.
    pub(crate) fn start(count: usize, databases: [PathBuf; 2]) -> Self {
        let mut users = Self {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            errors: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (stop, databases) = (Arc::clone(&users.stop), databases.clone());
            let (acknowledged, errors) =
                (Arc::clone(&users.acknowledged), Arc::clone(&users.errors));
            users.threads.push(thread::spawn(move || {
                work(&databases, &stop, &acknowledged, &errors);
            }));
        }
        users
    }

    /// Acknowledged so far.
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends it; every acknowledged call in order of time, and what went wrong unexpectedly.
    pub(crate) fn finish(self) -> (Vec<Acknowledged>, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            if thread.join().is_err() {
                eprintln!("a user of the board ended in a panic");
            }
        }
        let take = |list: &Mutex<Vec<Acknowledged>>| {
            std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let mut acknowledged = take(&self.acknowledged);
        acknowledged.sort_by_key(|call| call.at);
        let errors =
            std::mem::take(&mut *self.errors.lock().unwrap_or_else(PoisonError::into_inner));
        (acknowledged, errors)
    }
}

fn work(
    databases: &[PathBuf; 2],
    stop: &AtomicBool,
    acknowledged: &Mutex<Vec<Acknowledged>>,
    errors: &Mutex<Vec<String>>,
) {
    let mut at = 0;
    let mut connection = open(&databases[at]);
    while !stop.load(Ordering::SeqCst) {
        let id = next_call();
        let written = match &connection {
            Ok(connection) => connection.execute(
                "INSERT INTO calls VALUES (?1, datetime('now'), 'Main Street 1', ?2)",
                (id, id % 3 + 1),
            ),
            Err(_) => Ok(0),
        };
        match written {
            Ok(1) => {
                let call = Acknowledged { id, at: Instant::now() };
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(call);
            }
            Ok(_) => connection = open(&databases[at]),
            Err(error) => {
                if !error.to_string().contains("IPICSHA: this server is standby") {
                    let text = error.to_string();
                    errors.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                }
                at = 1 - at;
                connection = open(&databases[at]);
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}
