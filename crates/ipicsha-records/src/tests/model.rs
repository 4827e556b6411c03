//! Random histories on the real engine, as in `models/record_protocol.py`: skewed clocks, cuts,
//! lost, delayed and duplicated messages, acknowledgements that overtake batches, daemons killed
//! at any step of applying, applications killed in a transaction. Both sides converge, nothing is
//! lost without a journal entry, and nothing is called a conflict that was none. Every mutant of
//! the protocol is caught.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
};

use ipicsha_core::{
    data::{Data, Value},
    id::{DatabaseName, Seq},
    license::LicensedRole,
};

use crate::{
    Error,
    exchange::floor,
    fault::{self, Mutant, Step},
    log::Dirty,
    tests::support::{Node, dump},
};

/// So many have to pass, and a mutant has to fail in one of them.
const HISTORIES: u64 = 300;
const STEPS: usize = 600;

/// xorshift: the same history for the same seed, everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// What a history went through, so that it is known to test something.
#[derive(Debug, Default)]
struct Seen {
    conflicts: u64,
    gaps: u64,
    crashes: u64,
}

struct History {
    random: Random,
    nodes: [Node; 2],
    skew: [i64; 2],
    /// Messages on their way from each node, in order.
    wires: [VecDeque<Data>; 2],
    /// Batches that have arrived and wait to be applied; acknowledgements count at once.
    inboxes: [VecDeque<Data>; 2],
    sent: [Seq; 2],
    link: bool,
    now: i64,
    versions: u64,
    seen: Seen,
    /// Each version with the one it replaced.
    parents: BTreeMap<String, Option<String>>,
    deleted: BTreeSet<String>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
        let mut a = Node::new(LicensedRole::Primary, schema);
        let mut b = Node::new(LicensedRole::Secondary, schema);
        Node::introduce(&mut a, &mut b);
        let skew = [0, i64::try_from(random.below(60_000)).unwrap() - 30_000];
        Self {
            random,
            nodes: [a, b],
            skew,
            wires: Default::default(),
            inboxes: Default::default(),
            sent: [Seq(0); 2],
            link: true,
            now: 1_000_000,
            versions: 0,
            seen: Seen::default(),
            parents: BTreeMap::new(),
            deleted: BTreeSet::new(),
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        self.now += i64::try_from(self.random.below(50)).unwrap();
        if self.random.chance(1) {
            self.link = !self.link;
            self.attach();
        }
        let node = self.random.pick(&[0, 1]);
        match self.random.below(100) {
            0..40 => self.write(node),
            40..57 => self.send(node),
            57..80 => self.deliver(node),
            80..98 => return self.work(node),
            98 => self.crash(node),
            _ => self.nodes[node].kill_application("DELETE FROM t; INSERT INTO t VALUES(1,'lost')"),
        }
        Ok(())
    }

    /// A new connection: what was on its way is lost, both go on where the other one is.
    fn attach(&mut self) {
        (self.wires, self.inboxes) = Default::default();
        for index in 0..2 {
            let applied = self.nodes[1 - index].applied();
            self.sent[index] = applied;
            self.nodes[index].acked = applied;
            self.nodes[index].dirty = Dirty::behind(applied);
        }
    }

    fn write(&mut self, index: usize) {
        let key = self.random.below(12);
        let node = &self.nodes[index];
        let read = "SELECT v FROM t WHERE id=?1";
        let current: Option<String> =
            node.app.query_row(read, [key.cast_signed()], |row| row.get(0)).ok();
        let at = self.now + self.skew[index];
        if let Some(current) = current.as_ref().filter(|_| self.random.chance(25)) {
            node.write(&format!("DELETE FROM t WHERE id={key}"), at);
            self.deleted.insert(current.clone());
            return;
        }
        self.versions += 1;
        let version = format!("{}{}", ["A", "B"][index], self.versions);
        node.write(
            &format!(
                "INSERT INTO t VALUES({key},'{version}') ON CONFLICT(id) DO UPDATE SET v=excluded.v"
            ),
            at,
        );
        self.parents.insert(version, current);
    }

    fn send(&mut self, index: usize) {
        if self.link {
            let limit = self.random.pick(&[1, 2, 5, 1000]);
            let batch = self.nodes[index].batch_behind(self.sent[index], limit);
            self.sent[index] = batch.to;
            self.wires[index].push_back(Data::Batch(batch));
        }
    }

    /// One message of a node arrives at the partner, is lost, or arrives and is sent again.
    fn deliver(&mut self, from: usize) {
        if !self.link {
            return;
        }
        let Some(message) = self.wires[from].pop_front() else { return };
        if self.random.chance(3) {
            return;
        }
        if let Data::Ack { to, .. } = message {
            let node = &mut self.nodes[1 - from];
            node.acked = node.acked.max(to);
            node.dirty.prune(floor(node.acked, &self.inboxes[1 - from]));
            return;
        }
        if self.random.chance(10) {
            self.wires[from].push_front(message.clone());
        }
        self.inboxes[1 - from].push_back(message);
    }

    /// The oldest waiting batch is applied, perhaps only a part of it, perhaps not to its end.
    fn work(&mut self, index: usize) -> Result<(), Error> {
        let Some(Data::Batch(batch)) = self.inboxes[index].front().cloned() else { return Ok(()) };
        let limit = if self.random.chance(20) { 2 } else { usize::MAX };
        let dies = self.random.chance(4);
        let step = self.random.pick(&[Step::Written, Step::Journaled, Step::Committed]);
        fault::arm(dies.then_some(step));
        let applied = self.nodes[index].apply(&batch, limit);
        fault::arm(None);
        match applied {
            Ok(finished) => {
                if finished {
                    self.inboxes[index].pop_front();
                }
            }
            Err(Error::Stopped) => {
                self.crash(index);
                return Ok(());
            }
            Err(Error::Mismatch("changes before the batch are missing")) => {
                self.seen.gaps += 1;
                self.attach();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if self.random.chance(80) {
            let to = self.nodes[index].applied();
            let origin = batch.origin;
            self.wires[index].push_back(Data::Ack {
                database: DatabaseName("app".into()),
                origin,
                to,
            });
        }
        Ok(())
    }

    /// The daemon dies; what it knew in memory is gone, and the connection with it.
    fn crash(&mut self, index: usize) {
        self.seen.crashes += 1;
        self.nodes[index].restart();
        self.attach();
    }

    /// Exchanges everything, then looks for what must never be.
    fn check(&mut self) -> Result<(), String> {
        self.attach();
        for _ in 0..6 {
            for index in [0, 1] {
                let batch = self.nodes[index].batch(usize::MAX);
                let partner = &mut self.nodes[1 - index];
                partner.apply(&batch, usize::MAX).map_err(|error| error.to_string())?;
                self.nodes[index].acked = self.nodes[1 - index].applied();
            }
        }
        let [a, b] = &self.nodes;
        if dump(a.path()) != dump(b.path()) {
            return Err("not converged".into());
        }
        let losers: Vec<_> = a.losers().into_iter().chain(b.losers()).collect();
        let journal: BTreeSet<String> = losers.iter().filter_map(|l| text(&l.loser)).collect();
        let mut statement = a.app.prepare("SELECT v FROM t").unwrap();
        let stays: BTreeSet<String> =
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let replaced: BTreeSet<&String> = self.parents.values().flatten().collect();
        let kept = |version: &String| {
            replaced.contains(version)
                || self.deleted.contains(version)
                || stays.contains(version)
                || journal.contains(version)
        };
        if let Some(lost) = self.parents.keys().find(|version| !kept(version)) {
            return Err(format!("{lost} is lost without a journal entry"));
        }
        for entry in &losers {
            let (Some(loser), Some(winner)) = (text(&entry.loser), text(&entry.winner)) else {
                continue;
            };
            if self.descends(&loser, &winner) {
                return Err(format!("{loser} lost to its own ancestor {winner}"));
            }
            if self.descends(&winner, &loser) {
                return Err(format!("{loser} was replaced by {winner}, which knew it"));
            }
        }
        self.seen.conflicts = losers.len() as u64;
        Ok(())
    }

    fn descends(&self, version: &str, from: &str) -> bool {
        let mut version = Some(version);
        while let Some(name) = version {
            if name == from {
                return true;
            }
            version = self.parents.get(name).and_then(Option::as_deref);
        }
        false
    }
}

fn text(version: &Option<Vec<Value>>) -> Option<String> {
    match version.as_deref() {
        Some([_, Value::Text(text)]) => Some(String::from_utf8(text.clone()).unwrap()),
        _ => None,
    }
}

/// One history on this thread's engine, with or without a mistake in it.
fn history(seed: u64, mutant: Option<Mutant>) -> Result<Seen, String> {
    fault::mutate(mutant);
    let mut history = History::new(seed);
    let result = (0..STEPS)
        .try_for_each(|_| history.step())
        .map_err(|error| error.to_string())
        .and_then(|()| history.check());
    fault::mutate(None);
    result.map(|()| history.seen)
}

/// Runs `work` on two threads.
fn on_two_threads(work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(&work);
        work();
    });
}

#[test]
fn random_histories_converge_and_lose_nothing() {
    converge(HISTORIES, |work| work());
}

/// Runs so many histories, or the one asked for, each thread's within `around`.
pub(crate) fn converge(histories: u64, around: impl Fn(&dyn Fn()) + Sync) {
    let (first, last) = match std::env::var("IPICSHA_SEED") {
        Ok(seed) => (seed.parse().unwrap(), seed.parse().unwrap()),
        Err(_) => (1, histories),
    };
    let next = AtomicU64::new(first);
    let [conflicts, gaps, crashes] = [const { AtomicU64::new(0) }; 3];
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed > last {
                break;
            }
            match history(seed, None) {
                Ok(seen) => {
                    conflicts.fetch_add(seen.conflicts, Ordering::SeqCst);
                    gaps.fetch_add(seen.gaps, Ordering::SeqCst);
                    crashes.fetch_add(seen.crashes, Ordering::SeqCst);
                }
                Err(reason) => panic!("{reason}: replay with IPICSHA_SEED={seed}"),
            }
        }
    };
    on_two_threads(|| around(&work));
    for (what, count) in [("conflict", conflicts), ("gap", gaps), ("crash", crashes)] {
        assert!(count.into_inner() > 0, "histories without a {what} test nothing");
    }
}

#[test]
fn every_mutant_of_the_protocol_is_caught() {
    let mutants = [
        Mutant::PlainTimestamps,
        Mutant::TrimOnAck,
        Mutant::SupersededSent,
        Mutant::SupersededForgotten,
        Mutant::PointerPastUnsent,
        Mutant::FirstStamp,
        Mutant::GapAccepted,
        Mutant::PointerApart,
    ];
    let next = AtomicU64::new(0);
    on_two_threads(|| {
        loop {
            let index = next.fetch_add(1, Ordering::SeqCst);
            let Some(mutant) = mutants.get(usize::try_from(index).unwrap()) else { break };
            let caught = (1..=HISTORIES).any(|seed| history(seed, Some(*mutant)).is_err());
            assert!(caught, "{mutant:?} is not caught");
        }
    });
}
