//! A reader beside an application without patience.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::{
    database::open_connection,
    reader::open_reader,
    tests::support::{application, python},
};

/// A writer that is always half-way through the header of the WAL's index, and looks who has the write
/// lock then. Windows in which it lost the processor for long do not count.
const HALF_WAY: &str = r"
import fcntl, os, struct
db.execute('PRAGMA journal_mode=WAL'); db.execute('INSERT INTO t VALUES(1)')
shm = os.open(sys.argv[1] + '-shm', os.O_RDWR)
CHANGES, WRITE_LOCK = 48 + 8, 120
taken = 0
print('ready', flush=True)
until = time.monotonic() + 1
while time.monotonic() < until:
    began = time.monotonic()
    whole = os.pread(shm, 4, CHANGES)
    os.pwrite(shm, bytes(255 - b for b in whole), CHANGES)
    locks = [fcntl.fcntl(shm, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, WRITE_LOCK, 1, 0))
             for _ in range(20)]
    os.pwrite(shm, whole, CHANGES)
    if time.monotonic() - began < 0.05:
        taken += sum(struct.unpack('hhqqi4x', lock)[0] != fcntl.F_UNLCK for lock in locks)
    time.sleep(0.0001)
print(taken, flush=True)
sys.stdin.read()
";

fn start(program: &str) -> (TempDir, Child, std::path::PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.sqlite");
    application(&path).execute_batch("CREATE TABLE t(a)").unwrap();
    let mut command = python(&path, program);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    (directory, child, path)
}

fn line(output: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// How often the writer saw the write lock taken while `open`'s connection read.
fn taken(open: fn(&std::path::Path) -> Connection) -> u32 {
    let (_directory, mut child, path) = start(HALF_WAY);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut output), "ready");
    let db = open(&path);
    let until = Instant::now() + Duration::from_millis(900);
    while Instant::now() < until {
        let read: rusqlite::Result<i64> = db.query_row("SELECT a FROM t", [], |row| row.get(0));
        assert!(read.is_ok_and(|a| a == 1));
    }
    let taken = line(&mut output).parse().unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    taken
}

#[test]
fn a_half_written_header_makes_no_reader_of_ours_take_the_write_lock() {
    assert_eq!(taken(|path| open_reader(path).unwrap()), 0);
    // The same scene finds what any other reader does.
    assert!(taken(|path| open_connection(path).unwrap()) > 0);
}

#[test]
fn a_header_whose_writer_died_half_way_is_repaired() {
    let program = r"
import os
db.execute('PRAGMA journal_mode=WAL'); db.execute('INSERT INTO t VALUES(1)')
shm = os.open(sys.argv[1] + '-shm', os.O_RDWR)
os.pwrite(shm, b'half', 48 + 8)
print('ready', flush=True)
sys.stdin.read()
";
    let (_directory, mut child, path) = start(program);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut output), "ready");
    let db = open_reader(&path).unwrap();
    let a: i64 = db.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(a, 1);
    // The application goes on with the header as it is now.
    application(&path).execute_batch("INSERT INTO t VALUES(2)").unwrap();
    let rows: i64 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_reader_writes_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.sqlite");
    application(&path).execute_batch("CREATE TABLE t(a)").unwrap();
    let error = open_reader(&path).unwrap().execute_batch("INSERT INTO t VALUES(1)").unwrap_err();
    assert!(error.to_string().contains("readonly"), "{error}");
}
