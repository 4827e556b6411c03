//! What users notice of a fault: an application writes on both servers, every write that was acknowledged is
//! known with its time, and afterwards each must still be there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    net::Side,
    note::note,
    pair::Pair,
    server::Server,
    settings::BOARD,
    wait::{SOON, wait_for},
    writers::Writers,
};

const SCRIPT: &str = include_str!("python/stamped.py");
const BARRIERED: &str = include_str!("python/barriered.py");

/// The clock the writers use too, in seconds.
fn monotonic() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A write that was acknowledged.
#[derive(Clone, Debug)]
struct Write {
    id: String,
    at: f64,
}

fn writes(lines: &[String]) -> Result<Vec<Write>> {
    let one = |line: &String| {
        let (id, at) = line.split_once(' ').context("an id and a time")?;
        Ok(Write { id: id.to_owned(), at: at.parse()? })
    };
    lines.iter().map(one).collect()
}

/// What was noticed, in seconds.
#[derive(Debug)]
pub struct Noticed {
    /// Until the other server's history says something; `None`: it never did.
    pub detected: Option<f64>,
    /// Until it acknowledged a write; `None`: it did not take over.
    pub taken_over: Option<f64>,
    /// Longest time in which nobody could write.
    pub gap: f64,
    /// Acknowledged writes that are nowhere afterwards.
    pub lost: usize,
    /// Writes acknowledged by the old active after the new one had acknowledged its first.
    pub twice_active: usize,
    /// Writes confirmed by a barrier, up to the takeover; and those of them that the new active lacks.
    pub barriered: (usize, usize),
}

impl Noticed {
    /// As a row of the table in README.md.
    fn row(&self, fault: &str) -> String {
        let seconds =
            |span: Option<f64>| span.map_or_else(|| "-".into(), |span| format!("{span:.2} s"));
        format!(
            "| {fault} | {} | {} | {} | {} | {} of {} | {} |",
            seconds(self.detected),
            seconds(self.taken_over),
            seconds(Some(self.gap)),
            self.lost,
            self.barriered.1,
            self.barriered.0,
            self.twice_active
        )
    }
}

/// Makes `fault` happen to alpha, the active server, while applications write; `heal` ends with a pair
/// whose servers are equal.
///
/// # Errors
/// A step fails.
pub fn suffer(
    pair: &mut Pair,
    name: &str,
    fault: impl FnOnce(&mut Pair) -> Result<()>,
    heal: impl FnOnce(&mut Pair) -> Result<()>,
) -> Result<Noticed> {
    let start =
        |side: Side| Writers::start_script(pair.server(side), BOARD, side.name(), 1, SCRIPT);
    let (on_alpha, on_bravo) = (start(Side::Alpha)?, start(Side::Bravo)?);
    let barriered = barriered(&pair.alpha)?;
    on_alpha.wait_acked(50)?;
    barriered.wait_acked(10)?;
    let (before, began, began_unix) = (on_alpha.acked() + on_bravo.acked(), monotonic(), unix_ms());
    fault(pair)?;
    // Somebody writes again, or still does.
    wait_for("writes go on after the fault", SOON, || {
        (on_alpha.acked() + on_bravo.acked() > before + 100).then_some(())
    })?;
    std::thread::sleep(Duration::from_secs(2));
    let after = monotonic();
    let barriered = behind_barriers(pair, barriered, &on_bravo)?;
    heal(pair)?;
    let (alphas, bravos) = (writes(&on_alpha.stop()?.acked)?, writes(&on_bravo.stop()?.acked)?);
    pair.wait_equal()?;
    let entry_of =
        |entry: &serde_json::Value| entry["at_unix_ms"].as_i64().filter(|at| *at >= began_unix);
    let detected = pair.bravo.history()?.iter().find_map(entry_of);
    let taken_over = bravos.first().filter(|first| first.at < after).map(|first| first.at);
    let mut times: Vec<f64> =
        alphas.iter().chain(&bravos).map(|write| write.at).filter(|at| *at <= after).collect();
    times.sort_by(f64::total_cmp);
    let gap = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    let active = pair.alpha.application(BOARD)?;
    let mut lost = 0;
    for write in alphas.iter().chain(&bravos) {
        lost += usize::from(active.call(&write.id)?.is_none());
    }
    let noticed = Noticed {
        detected: detected.map(|at| (at - began_unix) as f64 / 1000.0),
        taken_over: taken_over.map(|at| at - began),
        gap,
        lost,
        barriered,
        twice_active: taken_over.map_or(0, |first| {
            alphas.iter().filter(|write| write.at > first && write.at < after).count()
        }),
    };
    note(&noticed.row(name));
    ensure!(noticed.lost == 0, "{name}: acknowledged writes are lost: {noticed:?}");
    ensure!(noticed.barriered.1 == 0, "{name}: confirmed writes are lost: {noticed:?}");
    Ok(noticed)
}

/// An application that asks for a barrier after each of its writes.
///
/// # Errors
/// Python cannot be started.
pub fn barriered(server: &Server) -> Result<Writers> {
    Writers::start_script(server, BOARD, "barriered", 1, BARRIERED)
}

/// Writes that a barrier confirmed before the other server took its first; and how many of them that one
/// lacks, before the old active comes back.
fn behind_barriers(pair: &Pair, confirmed: Writers, on_bravo: &Writers) -> Result<(usize, usize)> {
    let first = writes(&on_bravo.so_far())?.first().map(|write| write.at);
    let confirmed = writes(&confirmed.stop()?.acked)?;
    let Some(first) = first else { return Ok((confirmed.len(), 0)) };
    let there = pair.bravo.application(BOARD)?;
    let (mut count, mut lost) = (0, 0);
    for write in confirmed.iter().filter(|write| write.at < first) {
        count += 1;
        lost += usize::from(there.call(&write.id)?.is_none());
    }
    Ok((count, lost))
}
