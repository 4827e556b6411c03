//! Many changes, and large files, in a watched directory of a real pair: nothing is missed, records are
//! not held up. Figures are noted, not judged.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Application, Pair, Settings, Side, fixture::noise, fresh_pair, note, settings::BOARD,
    tree::Tree, wait::SOON, wait_for,
};

const UPLOADS: &str = "uploads";
/// Within this the partner has everything after the last change.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks of a measurement; below what is told apart.
const LOOK_EVERY: Duration = Duration::from_micros(500);
const FILES: usize = 100_000;
const RENAMES: usize = 10_000;

fn watching(test: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    let settings = Settings::fast().directory(UPLOADS, "");
    fresh_pair(settings, |pair| {
        for side in Side::BOTH {
            fs::create_dir_all(pair.server(side).directory(UPLOADS))?;
        }
        pair.make_ready()?;
        for side in Side::BOTH {
            pair.server(side).wait("its directory is in sync", |status| {
                status.0["directories"][0]["synced"] == true
            })?;
        }
        test(pair)
    })
}

fn median(mut spans: Vec<Duration>) -> Result<Duration> {
    spans.sort_unstable();
    spans.get(spans.len() / 2).copied().context("nothing was measured")
}

/// How long until `condition`, from now on.
fn until(what: &str, condition: impl Fn() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !condition() {
        ensure!(start.elapsed() < SOON, "waited in vain: {what}");
        thread::sleep(LOOK_EVERY);
    }
    Ok(start.elapsed())
}

/// A hundred directories full of files, then names that change.
fn change_a_lot(root: &Path) -> Result<()> {
    let file = |number: usize| root.join(format!("{}/{number}", number % 100));
    for directory in 0..100 {
        fs::create_dir(root.join(directory.to_string()))?;
    }
    for number in 0..FILES {
        fs::write(file(number), number.to_string())?;
    }
    for number in 0..RENAMES {
        fs::rename(file(number), root.join(format!("{}/m{number}", number % 97)))?;
    }
    Ok(())
}

fn differences(pair: &Pair) -> Result<Vec<String>> {
    let tree = |side| Tree::of(&pair.server(side).directory(UPLOADS));
    Ok(tree(Side::Alpha)?.without_ours().differences(&tree(Side::Bravo)?.without_ours()))
}

#[test]
fn a_hundred_thousand_files_at_once_and_ten_thousand_renames_are_on_the_partner() -> Result<()> {
    watching(|pair| {
        let (here, there) = (pair.alpha.directory(UPLOADS), pair.bravo.directory(UPLOADS));
        let mut spans = Vec::new();
        for number in 0..50 {
            let name = format!("single-{number}");
            fs::write(here.join(&name), &name)?;
            let whole = || fs::read_to_string(there.join(&name)).is_ok_and(|text| text == name);
            spans.push(until("a file on the partner", whole)?);
        }
        change_a_lot(&here)?;
        let start = Instant::now();
        // A look at two hundred thousand files takes a while: first what costs little.
        let last = there.join(format!("{}/m{}", (RENAMES - 1) % 97, RENAMES - 1));
        wait_for("the last change is on the partner", EQUAL_WITHIN, || {
            last.exists().then_some(())
        })?;
        wait_for("both are equal", EQUAL_WITHIN, || {
            differences(pair).is_ok_and(|found| found.is_empty()).then_some(())
        })
        .with_context(|| format!("{:#?}", differences(pair).unwrap_or_default().first()))?;
        note(&format!(
            "watched directory: a change is on the partner after {:.0} ms (median of {}); {FILES} files \
             and {RENAMES} renames at once, equal {:.1} s after the last change",
            median(spans.clone())?.as_secs_f64() * 1000.0,
            spans.len(),
            start.elapsed().as_secs_f64()
        ));
        Ok(())
    })
}

/// From the commit of a record on the active to its being read on the standby, so many times.
fn record_spans(
    [active, standby]: [&Application; 2],
    prefix: &str,
    enough: impl Fn(usize) -> bool,
) -> Result<Vec<Duration>> {
    let mut spans = Vec::new();
    while !enough(spans.len()) {
        let id = format!("{prefix}-{}", spans.len());
        active.add_call(&id, "measured")?;
        let visible = || standby.call(&id).is_ok_and(|found| found.is_some());
        spans.push(until("a record on the standby", visible)?);
    }
    Ok(spans)
}

#[test]
fn spec_c3_a_large_upload_does_not_hold_up_records() -> Result<()> {
    const PIECE: usize = 64 << 20;
    const PIECES: usize = 32;
    watching(|pair| {
        let board = [pair.alpha.application(BOARD)?, pair.bravo.application(BOARD)?];
        let board = [&board[0], &board[1]];
        let quiet = record_spans(board, "quiet", |count| count >= 200)?;
        let (file, there): (PathBuf, PathBuf) = (
            pair.alpha.directory(UPLOADS).join("large"),
            pair.bravo.directory(UPLOADS).join("large"),
        );
        let is_there = AtomicBool::new(false);
        let busy = thread::scope(|scope| {
            let upload = scope.spawn(|| -> Result<()> {
                let sent = upload(&file, PIECE, PIECES).and_then(|length| {
                    let whole = || fs::metadata(&there).is_ok_and(|meta| meta.len() == length);
                    wait_for("the upload is on the partner", SOON * 4, || whole().then_some(()))
                });
                is_there.store(true, Ordering::Relaxed);
                sent
            });
            // At least some, also where the upload is over quickly.
            let enough = |count| count >= 50 && is_there.load(Ordering::Relaxed);
            let spans = record_spans(board, "busy", enough);
            upload.join().map_err(|_| anyhow::anyhow!("the upload has panicked"))??;
            spans
        })?;
        let (before, during) = (median(quiet)?, median(busy.clone())?);
        note(&format!(
            "records beside an upload of {} MiB: visible on the standby after {:.1} ms, without it \
             {:.1} ms (medians, {} records during the upload)",
            (PIECE * PIECES) >> 20,
            during.as_secs_f64() * 1000.0,
            before.as_secs_f64() * 1000.0,
            busy.len()
        ));
        pair.wait_same_files(UPLOADS)
    })
}

/// Writes pieces of noise; gives the length of the file.
fn upload(file: &Path, piece: usize, pieces: usize) -> Result<u64> {
    let mut out = fs::File::create(file)?;
    for number in 0..pieces {
        std::io::Write::write_all(&mut out, &noise(piece, number as u64 + 1))?;
    }
    Ok(out.metadata()?.len())
}
