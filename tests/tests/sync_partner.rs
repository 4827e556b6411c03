//! `ipicsha sync` between the two servers, beside Debian's rsync between two of its processes: the
//! same words on the same trees give the same trees, the same itemized output and the same exit
//! codes, in both directions.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Ran, Settings, Side, Status,
    fixture::Fixture,
    fresh_pair, net, note,
    process::run,
    rsync::{self, Tried, told},
    tree::{Tree, make_old},
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// Which way the files go, seen from where the command is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    FromThere,
}

/// Two servers that trust each other; bravo has opened the folder of the pair.
fn trusting_pair(test: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    let settings = Settings::fast().sync(Side::Bravo, "allow = [\"PAIR\"]");
    fresh_pair(settings, |pair| {
        pair.start()?;
        pair.trust()?;
        test(pair)
    })
}

/// The words with one side in the folder `at` of `server`.
fn with_server(words: &str, way: Way, server: &str, at: &Path) -> Vec<String> {
    let words: Vec<&str> = words.split(' ').collect();
    let operands = words.iter().filter(|word| !word.starts_with('-')).count();
    let mut seen = 0;
    let place = |word: &&str| {
        if word.starts_with('-') {
            return (*word).to_owned();
        }
        seen += 1;
        let is_destination = operands > 1 && seen == operands;
        if is_destination != (way == Way::There) {
            return (*word).to_owned();
        }
        // With -R what comes before the dot is no part of the name.
        let dot = if words[0].contains('R') && !word.contains("/./") { "./" } else { "" };
        format!("{server}:{}/{dot}{word}", at.display())
    };
    words.iter().map(place).collect()
}

fn tried(ran: Ran, at: &Path) -> Result<Tried> {
    let typed = format!("{}/", at.display());
    let told = told(&ran.stdout.replace(&typed, ""));
    Ok(Tried { tree: Tree::of(&at.join("trees"))?, told, code: ran.code, stderr: ran.stderr })
}

fn folder(pair: &Pair, fixture: Fixture, way: Way) -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("case-").tempdir_in(pair.folder())?;
    let trees = folder.path().join("trees");
    fs::create_dir(&trees)?;
    fixture.make(&trees)?;
    if fixture == Fixture::Facts && way == Way::There {
        // No devices and no programs that run as their owner are made for a partner.
        for device in ["src/null", "dst/null", "src/d/b"] {
            fs::remove_file(trees.join(device))?;
        }
        fs::set_permissions(trees.join("src/z"), fs::Permissions::from_mode(0o755))?;
        make_old(&trees)?;
    }
    Ok(folder)
}

/// rsync with another process of itself at the other end, which a script in place of ssh starts.
fn rsync_between(pair: &Pair, fixture: Fixture, words: &str, way: Way) -> Result<Tried> {
    let folder = folder(pair, fixture, way)?;
    let (at, trees) = (folder.path(), folder.path().join("trees"));
    let script = at.join("shell");
    fs::write(&script, "#!/bin/sh\nshift\nexec sh -c \"$*\"\n")?;
    // Read by a shell, not executed: a child of another thread may still have it open for writing.
    let shell = format!("sh {}", script.display());
    let mut command = Command::new("rsync");
    command.arg("-e").arg(shell).args(with_server(words, way, "bravo", &trees));
    command.current_dir(&trees).env("LC_ALL", "C").env("TZ", "UTC").env("HOME", at);
    command.env_remove("CVSIGNORE");
    tried(run(&mut command, LIMIT).context("install the Debian package `rsync`")?, at)
}

fn ipicsha_between(pair: &Pair, fixture: Fixture, words: &str, way: Way) -> Result<Tried> {
    let folder = folder(pair, fixture, way)?;
    let (at, trees) = (folder.path(), folder.path().join("trees"));
    let words = with_server(words, way, "bravo", &trees);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A machine with much to do may need longer than people would wait.
    let words = [&["--contimeout=60"], &words[..]].concat();
    let mut command = pair.alpha.sync_command(&trees, &words)?;
    command.env("LC_ALL", "C").env("TZ", "UTC").env("HOME", at).env_remove("CVSIGNORE");
    tried(run(&mut command, LIMIT)?, at)
}

fn compare(fixture: Fixture, cases: &[&str], not: &[(Way, &str)]) -> Result<()> {
    trusting_pair(|pair| {
        for way in [Way::There, Way::FromThere] {
            let left_out = |words: &str| {
                let single = words.split(' ').filter(|word| !word.starts_with('-')).count() < 2;
                single && way == Way::There || not.contains(&(way, words))
            };
            let cases: Vec<&str> = cases.iter().copied().filter(|words| !left_out(words)).collect();
            rsync::try_all(&format!("{way:?}"), fixture, &cases, |words| {
                let theirs = rsync_between(pair, fixture, words, way)?;
                let ours = ipicsha_between(pair, fixture, words, way)?;
                Ok(rsync::differences(&theirs, &ours))
            })?;
        }
        Ok(())
    })
}

#[test]
fn sync_with_the_partner_equals_rsync_in_what_is_transferred() -> Result<()> {
    // No links are followed for a partner.
    let not = [
        (Way::There, "-aiK src/ dst"),
        (Way::FromThere, "-aiL src/ dst"),
        (Way::FromThere, "-aik src/ dst"),
        (Way::FromThere, "-ai --copy-unsafe-links src/ dst"),
    ];
    compare(Fixture::Basic, rsync::TRANSFERRED, &not)
}

#[test]
fn sync_with_the_partner_equals_rsync_in_operands() -> Result<()> {
    // rsync's receiver does not believe its own sender here.
    compare(Fixture::Basic, rsync::OPERANDS, &[(Way::FromThere, "-ai src/d/.. dst")])
}

#[test]
fn sync_with_the_partner_equals_rsync_in_deletions_and_backups() -> Result<()> {
    compare(Fixture::Basic, rsync::DELETIONS_AND_BACKUPS, &[])
}

#[test]
fn sync_with_the_partner_equals_rsync_in_rules() -> Result<()> {
    compare(Fixture::Rules, rsync::RULES, &[])
}

#[test]
fn sync_with_the_partner_equals_rsync_in_contents() -> Result<()> {
    compare(Fixture::Contents, rsync::CONTENTS, &[])
}

#[test]
fn sync_with_the_partner_equals_rsync_in_numbers_and_progress() -> Result<()> {
    // How much of a content is there already depends on the blocks.
    let differs = rsync::SHOWN.iter().filter(|words| words.contains("--stats"));
    let not =
        [Way::There, Way::FromThere].map(|way| differs.clone().map(move |words| (way, *words)));
    // rsync's other end does not tell without -v that it made the destination; ours does.
    let made = [Way::There, Way::FromThere].map(|way| (way, "-a --progress src/ new"));
    let not: Vec<_> = not.into_iter().flatten().chain(made).collect();
    compare(Fixture::Contents, rsync::SHOWN, &not)
}

#[test]
fn sync_with_the_partner_equals_rsync_in_facts() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        note("SKIPPED: sync of owners with the partner like rsync, because that needs root");
        return Ok(());
    }
    compare(Fixture::Facts, rsync::FACTS, &[])
}

#[test]
fn sync_knows_the_partner_by_name_and_lists_what_it_has() -> Result<()> {
    trusting_pair(|pair| {
        let at = pair.folder().join("work");
        fs::create_dir_all(at.join("there/d"))?;
        fs::write(at.join("there/d/f"), "f")?;
        let there = at.join("there").display().to_string();
        for server in ["partner", "bravo"] {
            let new = format!("from-{server}");
            let from = format!("{server}:{there}/");
            pair.alpha.sync(&at, &["-a", &from, &new])?.ok()?;
            ensure!(fs::read(at.join(&new).join("d/f"))? == b"f");
            let listed = pair.alpha.sync(&at, &["-r", &from])?.ok()?;
            ensure!(listed.lines().any(|line| line.ends_with(" d/f")), "{listed}");
        }
        // The name of this server is this server.
        let own = format!("alpha:{there}/");
        pair.alpha.sync(&at, &["-a", &own, "from-alpha"])?.ok()?;
        ensure!(fs::read(at.join("from-alpha/d/f"))? == b"f");
        Ok(())
    })
}

#[test]
fn sync_compresses_on_the_way_when_that_is_asked_for() -> Result<()> {
    if !net::can_cut("bytes of sync on the way")? {
        return Ok(());
    }
    trusting_pair(|pair| {
        let at = pair.folder().join("work");
        fs::create_dir(&at)?;
        let words = "words and words ".repeat(100_000);
        fs::write(at.join("words"), &words)?;
        let cases: &[(&[&str], bool)] = &[
            (&["-a"], false),
            (&["-az"], true),
            (&["-az", "--zc=auto"], true),
            (&["-az", "--zc=none"], false),
            (&["-a", "--zc=zstd"], true),
            (&["-a", "--zl=3"], true),
            (&["-a", "--zl=0"], false),
        ];
        for (number, (options, compressed)) in cases.iter().enumerate() {
            let copy = at.join(number.to_string());
            let to = format!("partner:{}", copy.display());
            let before = pair.network.sent_bytes(Side::Alpha)?;
            pair.alpha.sync(&at, &[*options, &["words", &to]].concat())?.ok()?;
            let sent = pair.network.sent_bytes(Side::Alpha)? - before;
            // Heartbeats are on the way as well, but far fewer bytes.
            ensure!((sent < words.len() as u64 / 2) == *compressed, "{options:?}: {sent} bytes");
            ensure!(fs::read_to_string(&copy)? == words);
        }
        Ok(())
    })
}

#[test]
fn sync_onto_a_watched_directory_leaves_it_watched() -> Result<()> {
    const UPLOADS: &str = "uploads";
    fresh_pair(Settings::fast().directory(UPLOADS, "deletions_max = 20"), |pair| {
        let at = [Side::Alpha, Side::Bravo].map(|side| pair.server(side).directory(UPLOADS));
        for (at, name) in at.iter().zip(["a", "b"]) {
            fs::create_dir_all(at)?;
            fs::write(at.join(name), name)?;
        }
        let new = pair.folder().join("new");
        fs::create_dir(&new)?;
        fs::write(new.join("c"), "c")?;
        pair.make_ready()?;
        let synced = |status: &Status| status.0["directories"][0]["synced"] == true;
        pair.bravo.wait("its directory is in sync", synced)?;
        let markers = at.each_ref().map(|at| at.join(".ipicsha/root"));
        let before = [fs::read(&markers[0])?, fs::read(&markers[1])?];
        let there = format!("bravo:{}", at[1].display());
        pair.alpha.sync(&new, &["-a", "--delete", "./", &there])?.ok()?;
        pair.wait_same_files(UPLOADS)?;
        ensure!(at[0].join("c").exists() && !at[0].join("a").exists());
        fs::write(at[0].join("d"), "d")?;
        pair.alpha.sync(&at[0], &["-a", "--delete", "./", &there])?.ok()?;
        ensure!([fs::read(&markers[0])?, fs::read(&markers[1])?] == before, "a marker changed");
        // Entered anew, it still is the directory that the index is about.
        pair.bravo.stop_by(Signal::TERM)?;
        pair.bravo.start()?;
        pair.bravo.wait("its directory is in sync", synced)?;
        pair.wait_same_files(UPLOADS)
    })
}
