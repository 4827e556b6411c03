//! `ipicsha sync` beside Debian's rsync: the same words on the same trees give the same trees, the
//! same itemized output and the same exit codes.
//!
//! Where the two differ on purpose is said at the end of the file.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use ipicsha_e2e::{
    binary,
    fixture::Fixture,
    note,
    process::run,
    rsync::{self, Tried, told},
    tree::Tree,
};

const LIMIT: Duration = Duration::from_secs(60);
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

fn compare(fixture: Fixture, cases: &[&str]) -> Result<()> {
    rsync::try_all("here", fixture, cases, |words| {
        let theirs = try_one(Path::new("rsync"), &[], fixture, words)
            .context("install the Debian package `rsync`")?;
        let ours = try_one(&binary::ipicsha()?, &["sync"], fixture, words)?;
        Ok(rsync::differences(&theirs, &ours))
    })
}

#[test]
fn sync_equals_rsync_in_what_is_transferred() -> Result<()> {
    compare(Fixture::Basic, rsync::TRANSFERRED)
}

#[test]
fn sync_equals_rsync_in_operands() -> Result<()> {
    compare(Fixture::Basic, rsync::OPERANDS)
}

#[test]
fn sync_equals_rsync_in_deletions_and_backups() -> Result<()> {
    compare(Fixture::Basic, rsync::DELETIONS_AND_BACKUPS)
}

#[test]
fn sync_equals_rsync_in_rules() -> Result<()> {
    compare(Fixture::Rules, rsync::RULES)
}

#[test]
fn sync_equals_rsync_in_contents() -> Result<()> {
    compare(Fixture::Contents, rsync::CONTENTS)
}

#[test]
fn sync_equals_rsync_in_numbers_and_progress() -> Result<()> {
    compare(Fixture::Contents, rsync::SHOWN)
}

#[test]
fn sync_equals_rsync_in_facts() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        note("SKIPPED: sync of owners and devices like rsync, because that needs root");
        return Ok(());
    }
    compare(Fixture::Facts, rsync::FACTS)
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
