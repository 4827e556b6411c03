//! A partner that says what no honest one would: nothing it says gives a file power or ends the worker.

use std::{
    any::Any,
    fs,
    os::unix::fs::MetadataExt,
    sync::{Arc, mpsc::channel},
};

use ipicsha_core::{
    file::{Contents, DirectoryName, Entry, File, IndexId, Known, Version},
    id::Seq,
};

use super::{
    super::{Command, index::Index, row::Told},
    pair::{Pair, Side, eventually},
};

fn ticket() -> Box<dyn Any + Send> {
    Box::new(())
}

fn name() -> DirectoryName {
    DirectoryName("d".into())
}

/// What the index of a side that does not run says of the partner's entry.
fn told(side: &Side, path: &str) -> Told {
    let index = Index::open(&side.config.state).unwrap();
    index.get(path.as_bytes()).unwrap().unwrap().told.unwrap()
}

fn index_of(side: &Side) -> IndexId {
    Index::open(&side.config.state).unwrap().meta.id
}

#[test]
fn no_file_gets_power_through_what_an_audit_finds() {
    let mut pair = Pair::running();
    pair.b.write("tool", "runs as who starts it");
    pair.settle_equal();
    pair.stop_a();
    let Told { known, version } = told(&pair.a, "tool");
    pair.start_a();
    pair.connect();
    pair.settle();
    let mtime_ns = version.mtime_ns + 1_000_000_000;
    let version = Version { mode: 0o4755, mtime_ns, ..version };
    let entry = Entry { path: b"tool".to_vec(), seq: Seq(1), version, known };
    let (sender, repaired) = channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    let asker = Arc::new(());
    pair.a.send(Command::Compare { apply: true, asker: Arc::downgrade(&asker), done });
    let found = vec![entry];
    let audited = File::Audited { directory: name(), id: 1, to: Seq(0), found, last: false };
    pair.a.send(Command::Received(audited, ticket()));
    assert_eq!(repaired.recv().unwrap().unwrap().to_here, 1);
    let mode = || fs::metadata(pair.a.path("tool")).unwrap().mode() & 0o7777;
    eventually("the repair", || mode() != 0o644);
    assert_eq!(mode(), 0o755, "a file that runs as its owner");
}

#[test]
fn a_size_that_no_file_has_is_not_taken_and_the_rest_is() {
    let mut pair = Pair::running();
    pair.a.write("before", "1");
    pair.settle_equal();
    pair.stop_a();
    let index = index_of(&pair.a);
    pair.start_a();
    pair.connect();
    pair.settle();
    let entry = |path: &str| {
        let contents = Contents::File { size: u64::MAX, hash: [7; 32] };
        let version = Version { contents, mode: 0o644, ..Version::absent(1) };
        let known = Known { primary: 1, secondary: 0 };
        Entry { path: path.into(), seq: Seq(1), version, known }
    };
    let entries = vec![entry("one"), entry("two")];
    let entries = File::Entries { directory: name(), index, from: Seq(0), to: Seq(0), entries };
    pair.b.send(Command::Received(entries, ticket()));
    pair.a.write("after", "2");
    pair.settle_equal();
    assert_eq!(pair.b.read("after"), "2");
}

#[test]
fn an_index_full_of_the_largest_files_opens_again() {
    let mut pair = Pair::running();
    pair.a.write("file", "1");
    pair.settle_equal();
    pair.stop_b();
    let mut index = Index::open(&pair.b.config.state).unwrap();
    let mut row = index.get(b"file").unwrap().unwrap();
    let contents = Contents::File { size: i64::MAX.unsigned_abs(), hash: [7; 32] };
    let mut own = row.own.take().unwrap();
    own.version.contents = contents;
    row.own = Some(own);
    for path in [&b"x"[..], b"y", b"z"] {
        index.put(path, None, &row).unwrap();
    }
    index.commit().unwrap();
    drop(index);
    pair.start_b();
    pair.connect();
    pair.settle_equal();
}
