//! Random histories: edits on both sides while the link is cut, the gates close and nodes are
//! killed.
//!
//! What is checked in the end, with a walker of its own: both sides are equal in names, bytes,
//! modes, owners, times and links, and stay so; and every content that was in either directory after
//! its writers had ended is still there, or kept. What a writer overwrote or deleted itself is not in
//! its directory any more at that moment, so everything that is missed later was taken by the
//! engine.

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    edits::Writer,
    pair::Pair,
    random::Random,
    walk::{self, Tree},
};

/// Histories that two nodes go through one after the other.
const IN_A_ROW: u64 = 20;
const ROWS: u64 = 10;
/// Rows at a time; mostly they wait.
const AT_A_TIME: usize = 4;

/// Number of one row, and with it everything that happens in it but the moment.
const SEED: &str = "IPICSHA_REPLICATE_SEED";
/// Keeps the folders of a failing row.
const KEEP: &str = "IPICSHA_REPLICATE_KEEP";

#[test]
fn whatever_happens_both_sides_are_equal_in_the_end_and_nothing_is_lost() {
    let seeds: Vec<u64> = match env::var(SEED) {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (1..=ROWS).collect(),
    };
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    if let Err(failure) = row(*seed) {
                        eprintln!("{failure}");
                        failures.lock().expect("a list").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("a list");
    assert!(failures.is_empty(), "{} of {} rows failed", failures.len(), seeds.len());
}

fn row(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    // Now and then what is kept is on another file system.
    let memory = random.pick(&[[false, false], [true, true], [false, true], [true, false]]);
    let mut pair = Pair::start(memory);
    for number in 0..IN_A_ROW {
        let begin = Instant::now();
        if let Err(problem) = history(&mut pair, &mut random) {
            let kept = env::var_os(KEEP).map(|_| pair.keep());
            return Err(format!(
                "history {number} of row {seed} failed (again with {SEED}={seed}, folders \
                 {kept:?}, after {:?}): {problem}",
                begin.elapsed()
            ));
        }
    }
    Ok(())
}

/// One history, from two equal directories to two equal directories.
fn history(pair: &mut Pair, random: &mut Random) -> Result<(), String> {
    pair.link.set_slow(random.one_in(2));
    if random.one_in(2) {
        // Both change without knowing of each other.
        pair.link.connect(0, false);
        pair.link.connect(1, false);
    }
    let steps = 5 + random.below(40);
    let pause = 1 + random.below(8);
    let mut writers = [0, 1].map(|side| Writer {
        root: pair.homes[side].root.clone(),
        away: pair.homes[side].away.clone(),
        random: Random::new(random.next()),
    });
    thread::scope(|scope| {
        for writer in &mut writers {
            scope.spawn(move || {
                for _ in 0..steps {
                    writer.step();
                    thread::sleep(writer.random.milliseconds(pause));
                }
            });
        }
        let troubles = random.below(5);
        for _ in 0..troubles {
            thread::sleep(random.milliseconds(1 + steps * pause / (troubles + 1)));
            trouble(pair, random);
        }
    });
    if random.one_in(4) {
        trouble(pair, random);
    }
    let seen = pair.trees();
    thread::sleep(random.milliseconds(30));
    pair.heal();
    let end = pair.converge()?;
    nothing_is_lost(pair, &seen, &end)
}

/// Something happens to the pair.
fn trouble(pair: &mut Pair, random: &mut Random) {
    let side = usize::from(random.one_in(2));
    match random.below(7) {
        0 => {
            pair.link.connect(0, false);
            pair.link.connect(1, false);
        }
        1 => pair.link.connect(side, false),
        2 | 3 => {
            pair.kill(side);
            pair.run(side);
            pair.gate(side, true);
            pair.link.connect(0, true);
            pair.link.connect(1, true);
        }
        4 => pair.gate(side, false),
        // It comes back after a moment in which contents were under way.
        _ => {
            thread::sleep(Duration::from_millis(random.below(20)));
            pair.heal();
        }
    }
}

fn nothing_is_lost(pair: &Pair, seen: &[Tree; 2], end: &Tree) -> Result<(), String> {
    let there = walk::contents(end);
    let mut missing: Vec<_> = seen.iter().flat_map(walk::contents).collect();
    missing.retain(|(hash, _)| !there.contains_key(hash));
    if missing.is_empty() {
        return Ok(());
    }
    let kept = pair.kept();
    missing.retain(|(hash, _)| !kept.contains_key(hash));
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("lost: {missing:?}\nseen: {seen:?}\nat the end: {end:?}\n{}", pair.state()))
}
