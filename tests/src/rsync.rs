//! The same words for Debian's rsync and for `ipicsha sync`: what is tried, and what of their output
//! is compared.
//!
//! Decides which cases there are. Must not know where the two ends are.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Result, ensure};

use crate::{fixture::Fixture, note, tree::Tree};

const THREADS: usize = 3;

/// Output and exit code of one program on its own copy of a tree.
#[derive(Debug)]
pub struct Tried {
    /// What is there afterwards.
    pub tree: Tree,
    /// Lines that are compared.
    pub told: Vec<String>,
    /// Its exit code.
    pub code: Option<i32>,
    /// What it said, for a test that fails.
    pub stderr: String,
}

/// Lines that are compared: items in their order, then deletions, then what was skipped, then progress.
/// Messages of rsync's other process arrive at any moment; sums depend on the wire.
pub fn told(stdout: &str) -> Vec<String> {
    // On a line of progress the last word counts.
    let lines = stdout.lines().map(|line| line.rsplit('\r').next().unwrap_or(line));
    let (progress, lines): (Vec<&str>, Vec<&str>) =
        lines.filter(|line| !line.is_empty()).partition(|line| line.contains("B/s "));
    let begins = |line: &str, words: &[&str]| words.iter().any(|word| line.starts_with(word));
    let deletion = |line: &&&str| begins(line, &["*deleting", "deleting "]);
    let ends = |line: &str, words: &[&str]| words.iter().any(|word| line.ends_with(word));
    let left_out = |line: &&&str| {
        begins(line, &["skipping ", "not creating new "])
            || ends(line, &[" exists", " is uptodate"])
    };
    let skipped = |line: &&&str| left_out(line) || begins(line, &["cannot delete"]);
    let dropped =
        |line: &&&str| begins(line, &["sent ", "total size", "Total bytes ", "File list "]);
    let rest = lines.iter().filter(|l| !deletion(l) && !skipped(l) && !dropped(l));
    let mut skips: Vec<&str> = lines.iter().filter(left_out).copied().collect();
    skips.sort_unstable();
    let deletions = lines.iter().filter(deletion);
    let told = rest.chain(deletions).copied().chain(skips).map(ToOwned::to_owned);
    told.chain(progress.into_iter().map(without_time)).collect()
}

/// Progress without speed and time, and without what was still to be looked at, which is told at other
/// moments: `      1,234 100% (xfr#5,`.
fn without_time(line: &str) -> String {
    let done = line.find('%').map_or(line, |at| &line[..=at]);
    let file = line.find("(xfr#").map_or("", |at| line[at..].split(' ').next().unwrap_or(""));
    format!("{done} {file}")
}

/// What differs between rsync and the program under test.
pub fn differences(theirs: &Tried, ours: &Tried) -> Vec<String> {
    let mut found = theirs.tree.differences(&ours.tree);
    if theirs.told != ours.told {
        found.push(format!("rsync told {:#?}\nipicsha told {:#?}", theirs.told, ours.told));
    }
    if theirs.code != ours.code {
        found.push(format!("rsync ended with {:?}, ipicsha with {:?}", theirs.code, ours.code));
    }
    if !found.is_empty() {
        found.push(format!("rsync said: {}\nipicsha said: {}", theirs.stderr, ours.stderr));
    }
    found
}

/// Tries all cases, several at a time.
///
/// # Errors
/// Some differ: all of them are shown.
pub fn try_all(
    what: &str,
    fixture: Fixture,
    cases: &[&str],
    differences: impl Fn(&str) -> Result<Vec<String>> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(words) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found =
                        differences(words).unwrap_or_else(|error| vec![format!("{error:#}")]);
                    if !found.is_empty() {
                        let text = format!("== {words} ({fixture:?})\n{}", found.join("\n"));
                        failures.lock().expect("no thread panics").push(text);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics");
    let (count, bad) = (cases.len(), failures.len());
    ensure!(bad == 0, "{bad} of {count} cases differ:\n{}", failures.join("\n"));
    note(&format!("sync: {count} cases equal to rsync {what} on {fixture:?}"));
    Ok(())
}

/// What is transferred: on [`Fixture::Basic`].
pub const TRANSFERRED: &[&str] = &[
    "-ai src/ dst",
    "-ain src/ dst",
    "-av src/ dst",
    "-aq src/ dst",
    "-aii src/ dst",
    "-ri src/ dst",
    "-rni src/ dst",
    "-rti src/ dst",
    "-rlptgoi src/ dst",
    "-i src/ dst",
    "-i src/d dst",
    "-i src/a src/b dst",
    "-di src/ dst",
    "-dri src/ dst",
    "-aic src/ dst",
    "-aiu src/ dst",
    "-aiI src/ dst",
    "-ai --size-only src/ dst",
    "-ai --modify-window=5 src/ dst",
    "-ai --modify-window=-1 src/ dst",
    "-ai --existing src/ dst",
    "-ai --ignore-existing src/ dst",
    "-ai --existing --ignore-existing src/ dst",
    "-ai --max-size=2 src/ dst",
    "-ai --min-size=3 src/ dst",
    "-ai --no-p src/ dst",
    "-ai --no-t src/ dst",
    "-ai --no-o --no-g src/ dst",
    "-ai --no-l src/ dst",
    "-ai --no-D src/ dst",
    "-ai --no-r src/ dst",
    "-aiE --no-p src/ dst",
    "-aiO src/ dst",
    "-aiJ src/ dst",
    "-aix src/ dst",
    "-aim src/ dst",
    "-aiS src/ dst",
    "-aiz src/ dst",
    "-aiW src/ dst",
    "-aiL src/ dst",
    "-aik src/ dst",
    "-aiK src/ dst",
    "-ai --safe-links src/ dst",
    "-ai --copy-unsafe-links src/ dst",
    "-ai --chmod=D750,F640 src/ dst",
    "-ai --chmod=go-rwx src/ dst",
    "-rti --chmod=a+x src/ dst",
    "-ai --inplace src/ dst",
    "-ai --append src/ dst",
    "-ai --delay-updates src/ dst",
    "-ai --partial src/ dst",
    "-ai --preallocate src/ dst",
    "-ai --fsync src/ dst",
    "-ai --bwlimit=100000 src/ dst",
    "-ai --remove-source-files src/ dst",
    "-ai --numeric-ids src/ dst",
    "-aiH src/ dst",
    "-ai --out-format=%i|%n|%l|%M|%o src/ dst",
    "-ai --info=name0 src/ dst",
    "-a --info=name src/ dst",
    "-a --info=name2 src/ dst",
    "-a --info=none src/ dst",
    "-av --info=flist0 src/ dst",
    "-av --info=none,name src/ dst",
    "-a --info=stats src/ dst",
    "-rt --info=name,nonreg0 src/ dst",
    "-a --info=skip,name --ignore-existing src/ dst",
    "-a --info=skip,name --existing src/ dst",
    "-a --stats src/ dst",
    "-an --stats src/ dst",
    "-a --stats --delete src/ dst",
    "-a --info=stats2 src/ new",
];

/// Numbers and progress: on [`Fixture::Contents`].
pub const SHOWN: &[&str] = &[
    "-a --stats src/ dst",
    "-ah --stats src/ dst",
    "-ahh --stats src/ dst",
    "-a --no-h --stats src/ dst",
    "-a --progress src/ dst",
    "-a --progress src/ new",
    "-ah --progress src/ dst",
    "-aP src/ dst",
    "-aP --no-progress src/ dst",
    "-a --info=progress2 src/ dst",
    "-ah --info=progress2 src/ new",
    "-a --info=progress src/ dst",
    "-a --list-only -h src/",
];

/// Operands: on [`Fixture::Basic`].
pub const OPERANDS: &[&str] = &[
    "-ai src dst",
    "-ai src dst/",
    "-ai src new",
    "-ai src/ new",
    "-ain src/ new",
    "-ai src/. dst",
    "-ai src/d/.. dst",
    "-ai src/a new",
    "-ai src/a new/",
    "-ai src/a no/new",
    "-ai src/ no/new",
    "-ai --mkpath src/a no/new",
    "-ai --mkpath src/ no/new",
    "-ai src/a dst/b",
    "-ai src/l dst",
    "-ai src/a src/d dst",
    "-ai src/ src/d/ dst",
    "-ai nosuch src/a dst",
    "-ai src/ dst/b",
    "-ai src/d dst/b",
    "-v src/a dst",
    "-aiR src/d/c new",
    "-aiR src/d/ new",
    "-aiR src/./d/e new",
    "-aiR --no-implied-dirs src/d/c new",
    "-ai --list-only src",
    "-r src",
    "src/",
    "-ai --link-dest=../dst src/ new",
    "-ai --link-dest=../src src/ new",
    "-aii --link-dest=../src src/ new",
    "-ai --compare-dest=../src src/ new",
    "-ai --compare-dest=../dst src/ new",
    "-ai --copy-dest=../src src/ new",
    "-ai --copy-dest=../dst src/ new",
];

/// Deletions and backups: on [`Fixture::Basic`].
pub const DELETIONS_AND_BACKUPS: &[&str] = &[
    "-ai --delete src/ dst",
    "-ain --delete src/ dst",
    "-av --delete src/ dst",
    "-ai --del src/ dst",
    "-ai --delete-before src/ dst",
    "-ai --delete-during src/ dst",
    "-ai --delete-delay src/ dst",
    "-ai --delete-after src/ dst",
    "-aiu --delete src/ dst",
    "-ai --delete src/a dst",
    "-i --delete src/ dst",
    "-di --delete src/ dst",
    "-ai --delete --exclude=extra src/ dst",
    "-ai --delete --delete-excluded --exclude=extra src/ dst",
    "-ai --delete --max-delete=2 src/ dst",
    "-ai --delete --max-delete=0 src/ dst",
    "-ai --delete --ignore-errors src/ dst",
    "-ai --force src/ dst",
    "-aib src/ dst",
    "-aib --suffix=.o src/ dst",
    "-aib --backup-dir=bak src/ dst",
    "-aib --backup-dir=../bak --delete src/ dst",
    "-aib --delete src/ dst",
    "-aib --inplace src/ dst",
    "-aib --delay-updates src/ dst",
];

/// Rules: on [`Fixture::Rules`].
pub const RULES: &[&str] = &[
    "-ai -F src/ dst",
    "-ai -FF src/ dst",
    "-ai -F --delete src/ dst",
    "-ai -FF --delete src/ dst",
    "-ai -F --delete-after src/ dst",
    "-ai -F --delete-excluded src/ dst",
    "-aiC src/ dst",
    "-aiC --delete src/ dst",
    "-ai --exclude=*.o src/ dst",
    "-ai --exclude=*.o --delete src/ dst",
    "-ai --exclude=/a --delete src/ dst",
    "-ai --exclude=a/b src/ dst",
    "-ai --exclude=b/ src/ dst",
    "-ai --exclude=**/g.* src/ dst",
    "-ai --exclude=/a/** src/ dst",
    "-ai --exclude=*** src/ dst",
    "-ai --exclude=c/*** src/ dst",
    "-ai --exclude=[ac] src/ dst",
    "-ai --exclude=? src/ dst",
    "-ai --exclude=top.[!c] src/ dst",
    "-ai --exclude=a --include=a src/ dst",
    "-ai --include=a/ --include=*.c --exclude=* src/ dst",
    "-aim --include=*/ --include=*.c --exclude=* src/ dst",
    "-aim --exclude=*.c --exclude=.* src/ dst",
    "-aim --delete --exclude=x src/ dst",
    "-ai --exclude-from=patterns src/ dst",
    "-ai --include-from=patterns --exclude=* src/ dst",
    "-ai --exclude-from=none src/ dst",
    "-ai --delete --filter=P_*.o src/ dst",
    "-ai --delete --filter=protect,keepme src/ dst",
    "-ai --delete --filter=hide,top.c src/ dst",
    "-ai --delete --filter=-s_top.* src/ dst",
    "-ai --delete --filter=-r_*.o src/ dst",
    "-ai --filter=dir-merge,-_.cvsignore src/ dst",
    "-ai --filter=:C src/ dst",
    "-ai --filter=merge_patterns src/ dst",
    "-ai --filter=-!_*/ src/ dst",
    "-ai --filter=! src/ dst",
    "-ai --filter=bogus src/ dst",
    "-ai --exclude=src src dst",
    "-ai --exclude=/src/a src dst",
    "-ai --delete-before --exclude=stale.o src/ dst",
    "-ai --files-from=names src dst",
    "-ri --files-from=names src dst",
    "-ari --files-from=names src dst",
    "-ai0 --files-from=names0 src dst",
    "-ai --files-from=names-of-directories src dst",
    "-ai0 --no-R --files-from=names0 src dst",
    "-ai --files-from=names --delete src dst",
    "-ai --files-from=none src dst",
];

/// Contents: on [`Fixture::Contents`].
pub const CONTENTS: &[&str] = &[
    "-ai src/ dst",
    "-ai --no-whole-file src/ dst",
    "-aiB700 --no-W src/ dst",
    "-aic --no-W src/ dst",
    "-ai --inplace src/ dst",
    "-ai --inplace --no-W src/ dst",
    "-ai --append src/ dst",
    "-ai --append-verify src/log dst",
    "-ai --no-W --delay-updates src/ dst",
    "-aib src/ dst",
    "-aib --inplace src/ dst",
    "-aiS src/ dst",
    "-aiS --inplace src/ dst",
    "-aiz --no-W src/ dst",
    "-ai --partial --bwlimit=50m src/ dst",
    "-ai --max-size=250k src/ dst",
    "-ai --min-size=250K src/ dst",
];

/// Facts, for root: on [`Fixture::Facts`].
pub const FACTS: &[&str] = &[
    "-ai src/ dst",
    "-aiH src/ dst",
    "-aiHn src/ dst",
    "-aiA src/ dst",
    "-aiX src/ dst",
    "-aiHAX src/ dst",
    "-aiHAXS --delete src/ dst",
    "-aiHAXii src/ dst",
    "-aiHAXb src/ dst",
    "-aiH --delete src/ dst",
    "-aiH --existing src/ dst",
    "-aiH --ignore-existing src/ dst",
    "-aiHu src/ dst",
    "-aiS src/ dst",
    "-aiS --inplace src/ dst",
    "-aic src/ dst",
    "-aiE --no-p src/ dst",
    "-rlpti src/ dst",
    "-rlptgi src/ dst",
    "-rloi src/ dst",
    "-riD src/ dst",
    "-ri --specials src/ dst",
    "-ai --no-D src/ dst",
    "-aiR src/ dst",
    "-ai src/x dst/d",
    "-ai src/d/y2 dst/y",
    "-ai --usermap=1234:1,*:2 src/ dst",
    "-ai --groupmap=5678:root src/ dst",
    "-ai --chown=:daemon src/ dst",
    "-ai --chown=nobody:nogroup src/ dst",
    "-ai --link-dest=../src src/ new",
    "-ai --link-dest=../src src/ dst",
    "-ai --compare-dest=../src src/ dst",
    "-aiX --copy-dest=../src src/ new",
];
