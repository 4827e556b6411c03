//! Random histories on the real engine, as in `models/record_protocol.py`: skewed clocks, cuts,
//! lost, delayed and duplicated messages, crashes. Both sides converge, and nothing is lost
//! without a journal entry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipicsha_core::{data::Batch, data::Value, id::Seq, license::LicensedRole};

use crate::{
    Error,
    database::Database,
    log::Dirty,
    tests::support::{Node, dump, exchange},
};

/// xorshift: the same history for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

enum Wire {
    Batch(Box<Batch>),
    Ack(Seq),
}

struct History {
    random: Random,
    nodes: [Node; 2],
    skew: [i64; 2],
    wires: [VecDeque<Wire>; 2],
    sent: [Seq; 2],
    link: bool,
    now: i64,
    versions: u64,
    gaps: u64,
    /// Each version with the one it replaced.
    parents: BTreeMap<String, Option<String>>,
    deleted: BTreeSet<String>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
        let mut a = Node::new(LicensedRole::Primary, schema);
        let mut b = Node::new(LicensedRole::Secondary, schema);
        Node::introduce(&mut a, &mut b);
        let skew = [0, i64::try_from(random.below(60_000)).unwrap() - 30_000];
        Self {
            random,
            nodes: [a, b],
            skew,
            wires: [VecDeque::new(), VecDeque::new()],
            sent: [Seq(0); 2],
            link: true,
            now: 1_000_000,
            versions: 0,
            gaps: 0,
            parents: BTreeMap::new(),
            deleted: BTreeSet::new(),
        }
    }

    fn step(&mut self) {
        self.now += i64::try_from(self.random.below(50)).unwrap();
        if self.random.chance(1) {
            self.link = !self.link;
            self.attach();
        }
        let node = usize::try_from(self.random.below(2)).unwrap();
        match self.random.below(100) {
            0..45 => self.write(node),
            45..62 => self.send(node),
            62..96 => self.deliver(node),
            _ => self.crash(node),
        }
    }

    /// A new connection: what was on its way is lost, both go on where the other one is.
    fn attach(&mut self) {
        self.wires = [VecDeque::new(), VecDeque::new()];
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
            let limit = [1, 2, 5, 1000][usize::try_from(self.random.below(4)).unwrap()];
            let batch = self.nodes[index].batch_behind(self.sent[index], limit);
            self.sent[index] = batch.to;
            self.wires[index].push_back(Wire::Batch(Box::new(batch)));
        }
    }

    fn deliver(&mut self, index: usize) {
        if !self.link {
            return;
        }
        let Some(message) = self.wires[index].pop_front() else { return };
        if self.random.chance(3) {
            return;
        }
        let partner = 1 - index;
        match message {
            Wire::Batch(batch) => {
                let limit = if self.random.chance(20) { 2 } else { usize::MAX };
                let receiver = &mut self.nodes[partner];
                match receiver.apply(&batch, limit) {
                    Ok(_) => {}
                    Err(Error::Mismatch("changes before the batch are missing")) => {
                        self.gaps += 1;
                        return self.attach();
                    }
                    Err(error) => panic!("{error}"),
                }
                let applied = receiver.applied();
                if self.random.chance(80) {
                    self.wires[partner].push_back(Wire::Ack(applied));
                }
                if self.random.chance(10) {
                    self.wires[index].push_front(Wire::Batch(batch));
                }
            }
            Wire::Ack(to) => {
                let sender = &mut self.nodes[partner];
                sender.acked = sender.acked.max(to);
                sender.dirty.prune(sender.acked);
            }
        }
    }

    /// The daemon dies; what it knew in memory is gone, and the connection with it.
    fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let path = node.database.path.clone();
        node.database = Database::open(&path, 100_000).unwrap();
        node.database.writer.execute_batch("PRAGMA synchronous=OFF").unwrap();
        self.attach();
    }

    fn check(mut self) {
        self.attach();
        let [a, b] = &mut self.nodes;
        exchange(a, b);
        assert_eq!(dump(a.path()), dump(b.path()), "not converged");
        let text = |version: &Option<Vec<Value>>| match version.as_deref() {
            Some([_, Value::Text(text)]) => Some(String::from_utf8(text.clone()).unwrap()),
            _ => None,
        };
        let losers: Vec<_> = a.losers().into_iter().chain(b.losers()).collect();
        let journal: BTreeSet<String> = losers.iter().filter_map(|l| text(&l.loser)).collect();
        let mut statement = a.app.prepare("SELECT v FROM t").unwrap();
        let stays: BTreeSet<String> =
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let replaced: BTreeSet<&String> = self.parents.values().flatten().collect();
        for version in self.parents.keys() {
            assert!(
                replaced.contains(version)
                    || self.deleted.contains(version)
                    || stays.contains(version)
                    || journal.contains(version),
                "{version} is lost without a journal entry"
            );
        }
        for entry in &losers {
            let (Some(loser), Some(winner)) = (text(&entry.loser), text(&entry.winner)) else {
                continue;
            };
            let mut ancestor = Some(loser.clone());
            while let Some(version) = ancestor {
                assert_ne!(version, winner, "{loser} lost to its own ancestor");
                ancestor = self.parents.get(&version).cloned().flatten();
            }
        }
    }
}

#[test]
fn random_histories_converge_and_lose_nothing() {
    let seeds = match std::env::var("IPICSHA_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=40).collect(),
    };
    let (mut conflicts, mut gaps) = (0, 0);
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut history = History::new(seed);
            (0..600).for_each(|_| history.step());
            let count = history.nodes.iter().map(|node| node.losers().len()).sum::<usize>();
            let gaps = history.gaps;
            history.check();
            (count, gaps)
        });
        match run {
            Ok((count, lost)) => {
                conflicts += count;
                gaps += lost;
            }
            Err(_) => panic!("replay with IPICSHA_SEED={seed}"),
        }
    }
    assert!(conflicts > 0 && gaps > 0, "histories without a conflict or a loss test nothing");
}
