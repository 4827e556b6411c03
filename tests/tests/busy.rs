//! Applications without patience: what they notice of the replication beside them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Server, Settings, Side, net, note, ready_pair,
    settings::BOARD,
    wait::SOON,
    wait_for,
    waits::{Habit, Waits, Watcher},
    writers::{Seen, Writers},
};

const DEFERRED: &str = include_str!("../src/python/deferred.py");
/// Writes of one application.
const WRITES: usize = 10_000;
/// What nobody may be kept waiting longer than. Asserted of all but one attempt in a thousand: the
/// longest wait of all is noted, but it also measures how long a busy machine let the daemon wait for
/// the processor or the disk while it had the lock.
const PATIENCE: Duration = Duration::from_millis(500);

fn start(server: &Server, prefix: &str) -> Result<Writers> {
    Writers::start_script(server, BOARD, prefix, 1, DEFERRED)
}

/// Ends a writer that must not have met a lock.
fn end(writers: Writers, writes: usize) -> Result<Seen> {
    let seen = writers.stop()?;
    ensure!(seen.acked.len() >= writes, "only {} writes", seen.acked.len());
    ensure!(seen.refused == 0, "{} times BUSY in {} writes", seen.refused, seen.acked.len());
    Ok(seen)
}

fn not_kept_waiting(what: &str, waits: &Waits) -> Result<()> {
    ensure!(waits.attempts() > 20, "{what}: only {} attempts", waits.attempts());
    ensure!(waits.usual() <= PATIENCE, "{what} waited {:?}", waits.usual());
    Ok(())
}

/// Readers do not wait in WAL, unless somebody locks them out: without a busy timeout that would be
/// BUSY at once.
fn no_read_is_busy(reads: &Waits) -> Result<()> {
    ensure!(reads.impatient > 100, "only {} reads", reads.impatient);
    ensure!(
        reads.busy == 0,
        "{} of {} reads were BUSY: {:?}",
        reads.busy,
        reads.impatient,
        reads.codes
    );
    Ok(())
}

fn all_there(pair: &Pair, seen: &Seen) -> Result<()> {
    for side in Side::BOTH {
        let application = pair.server(side).application(BOARD)?;
        for id in &seen.acked {
            application.call(id)?.with_context(|| format!("{id} is lost on {}", side.name()))?;
        }
    }
    Ok(())
}

/// The active writes, the standby applies and, in between, is killed and comes back.
fn steady(pair: &mut Pair, active: Side, prefix: &str) -> Result<()> {
    let reader = Watcher::start(pair.server(active.other()), BOARD, Habit::Read);
    let writer = Watcher::start(pair.server(active.other()), BOARD, Habit::Write);
    let impatient = start(pair.server(active), prefix)?;
    impatient.wait_acked(WRITES / 2)?;
    pair.server_mut(active.other()).kill();
    impatient.wait_acked(WRITES * 6 / 10)?;
    pair.server_mut(active.other()).start()?;
    impatient.wait_acked(WRITES)?;
    let seen = end(impatient, WRITES)?;
    pair.wait_equal()?;

    let (reads, writes) = (reader.stop()?, writer.stop()?);
    no_read_is_busy(&reads)?;
    not_kept_waiting("an application on the standby", &writes)?;
    ensure!(writes.fenced == writes.attempts() as u64, "not all were refused: {writes:?}");
    note(&format!(
        "{} active: {} deferred transactions without busy timeout, 0 BUSY; standby meanwhile: {} \
         reads without busy timeout, 0 BUSY; {} of {} writers met the lock before the fence, 99.9 % \
         waited at most {:?}, the longest {:?}",
        active.name(),
        seen.acked.len(),
        reads.impatient,
        writes.waited(),
        writes.attempts(),
        writes.usual(),
        writes.longest(),
    ));
    all_there(pair, &seen)
}

#[test]
fn without_busy_timeout_ten_thousand_deferred_transactions_meet_no_lock_either_way() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        steady(pair, Side::Alpha, "a")?;
        pair.wait_roles(Side::Alpha)?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        steady(pair, Side::Bravo, "b")?;
        pair.wait_roles(Side::Bravo)
    })
}

/// Cuts the link and lets an application write on each side.
fn apart(pair: &Pair) -> Result<[Seen; 2]> {
    pair.network.cut()?;
    for side in Side::BOTH {
        pair.server(side).wait("its writes are open", |status| {
            status.role() == "active" && status.state() != "Taking Over"
        })?;
    }
    let [a, b] = [start(&pair.alpha, "a")?, start(&pair.bravo, "b")?];
    a.wait_acked(WRITES / 5)?;
    b.wait_acked(WRITES / 5)?;
    let seen = [end(a, WRITES / 5)?, end(b, WRITES / 5)?];
    let [a, b] = seen.each_ref().map(|seen| seen.acked.len());
    note(&format!("apart: {a} and {b} deferred transactions without busy timeout, 0 BUSY"));
    pair.network.heal()?;
    for side in Side::BOTH {
        pair.server(side).wait("it sees the split brain", |status| status.is_split())?;
    }
    Ok(seen)
}

/// Alpha has to write what bravo brings, and its application writes too. A transaction that reads
/// before it writes cannot be spared then: SQLite lets nobody wait whose view is old, whoever else
/// writes.
fn merge(pair: &Pair, bravos: &Seen) -> Result<()> {
    let patient = Watcher::start(&pair.alpha, BOARD, Habit::WriteBothWays);
    let reader = Watcher::start(&pair.alpha, BOARD, Habit::Read);
    pair.bravo.ask(&["go-standby"])?;
    pair.wait_roles(Side::Alpha)?;
    let last = bravos.acked.last().context("bravo wrote nothing")?;
    let application = pair.alpha.application(BOARD)?;
    wait_for("alpha has what bravo wrote", SOON, || application.call(last).ok().flatten())?;
    let (writes, reads) = (patient.stop()?, reader.stop()?);
    no_read_is_busy(&reads)?;
    not_kept_waiting("the application of the active", &writes)?;
    ensure!(writes.fenced == 0, "the active was fenced: {writes:?}");
    ensure!(writes.waited() > 0, "nothing came in while it wrote");
    note(&format!(
        "merge after a split, active: {} of {} writers met the daemon's lock, 99.9 % waited at most \
         {:?}, the longest {:?}; {} of {} transactions that had read before the daemon wrote were \
         refused (BUSY, as beside any second writer); {} reads, 0 BUSY",
        writes.waited(),
        writes.attempts(),
        writes.usual(),
        writes.longest(),
        writes.busy,
        writes.impatient,
        reads.impatient,
    ));
    pair.alpha.ask(&["repair"])?;
    pair.wait_equal()
}

#[test]
fn while_both_sides_changes_are_merged_the_application_goes_on() -> Result<()> {
    if !net::can_cut("merge under writers")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        let seen = apart(pair)?;
        merge(pair, &seen[1])?;
        // The merge is over: nothing but the application writes.
        let impatient = start(&pair.alpha, "c")?;
        impatient.wait_acked(WRITES / 5)?;
        let after = end(impatient, WRITES / 5)?;
        pair.wait_equal()?;
        seen.iter().chain([&after]).try_for_each(|seen| all_there(pair, seen))
    })
}
