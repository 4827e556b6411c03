//! `ipicsha sync` beside Debian's rsync: the same words on the same trees give the same trees, the
//! same itemized output and the same exit codes.
//!
//! Where the two differ on purpose is said at the end of the file.

use std::{
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{binary, fixture::Fixture, note, process::run, tree::Tree};

const LIMIT: Duration = Duration::from_secs(60);
const THREADS: usize = 3;

/// Output and exit code of one program on its own copy of a tree.
struct Tried {
    tree: Tree,
    told: Vec<String>,
    code: Option<i32>,
    stderr: String,
}

/// Lines that are compared: items in their order, then deletions, then what was skipped. Messages of
/// rsync's other process arrive at any moment; sums depend on the wire.
fn told(stdout: &str) -> Vec<String> {
    let lines: Vec<&str> = stdout.lines().filter(|line| !line.is_empty()).collect();
    let begins = |line: &str, words: &[&str]| words.iter().any(|word| line.starts_with(word));
    let deletion = |line: &&&str| begins(line, &["*deleting", "deleting "]);
    let skipped = |line: &&&str| begins(line, &["skipping ", "cannot delete"]);
    let dropped =
        |line: &&&str| begins(line, &["sent ", "total size", "Total bytes ", "File list "]);
    let rest = lines.iter().filter(|l| !deletion(l) && !skipped(l) && !dropped(l));
    let mut skips: Vec<&str> =
        lines.iter().filter(|line| line.starts_with("skipping ")).copied().collect();
    skips.sort_unstable();
    let deletions = lines.iter().filter(deletion);
    rest.chain(deletions).copied().chain(skips).map(ToOwned::to_owned).collect()
}

fn try_one(program: &Path, lead: &[&str], fixture: Fixture, words: &str) -> Result<Tried> {
    let folder = tempfile::tempdir()?;
    fixture.make(folder.path())?;
    let mut command = Command::new(program);
    command.args(lead).args(words.split(' ')).current_dir(folder.path()).env("LC_ALL", "C");
    command.env_remove("CVSIGNORE").env("HOME", folder.path()).env("TZ", "UTC");
    let ran = run(&mut command, LIMIT)?;
    let tree = Tree::of(folder.path())?;
    Ok(Tried { tree, told: told(&ran.stdout), code: ran.code, stderr: ran.stderr })
}

/// What differs between the two programs.
fn differences(fixture: Fixture, words: &str) -> Result<Vec<String>> {
    let theirs = try_one(Path::new("rsync"), &[], fixture, words)
        .context("install the Debian package `rsync`")?;
    let ours = try_one(&binary::ipicsha()?, &["sync"], fixture, words)?;
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
    Ok(found)
}

fn compare(fixture: Fixture, cases: &[&str]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(words) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = differences(fixture, words)
                        .unwrap_or_else(|error| vec![format!("{error:#}")]);
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
    note(&format!("sync: {count} cases equal to rsync on {fixture:?}"));
    Ok(())
}

#[test]
fn sync_equals_rsync_in_what_is_transferred() -> Result<()> {
    compare(
        Fixture::Basic,
        &[
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
        ],
    )
}

#[test]
fn sync_equals_rsync_in_operands() -> Result<()> {
    compare(
        Fixture::Basic,
        &[
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
        ],
    )
}

#[test]
fn sync_equals_rsync_in_deletions_and_backups() -> Result<()> {
    compare(
        Fixture::Basic,
        &[
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
        ],
    )
}

#[test]
fn sync_equals_rsync_in_rules() -> Result<()> {
    compare(
        Fixture::Rules,
        &[
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
        ],
    )
}

#[test]
fn sync_equals_rsync_in_contents() -> Result<()> {
    compare(
        Fixture::Contents,
        &[
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
        ],
    )
}

#[test]
fn sync_equals_rsync_in_facts() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        note("SKIPPED: sync of owners and devices like rsync, because that needs root");
        return Ok(());
    }
    compare(
        Fixture::Facts,
        &[
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
        ],
    )
}

// Where `sync` differs from rsync on purpose:
// - a single empty directory becomes an entry of a new destination, as every other directory does;
//   rsync gives it the destination's name;
// - deletions wait for the end of the scan in all modes, so that an error anywhere prevents them, and
//   a tree of backups inside the destination is never deleted;
// - with -H the first name of a file gets the content and the others are linked to it; rsync takes
//   the last one of a directory;
// - without -p a default access list of the destination does not change the permissions of new files;
// - times of links and pipes made within the second of the source's own time are exact, too.
