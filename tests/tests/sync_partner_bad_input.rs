//! Whatever is asked of the partner, or becomes of it in the middle: a clear error with a next step,
//! rsync's exit code, and nothing half written on either server.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Ran, Settings, Side, fixture::noise, fresh_pair, net, note, process::end_of, tree::Tree,
    wait::SOON, wait_for,
};
use rustix::process::{Pid, Signal, geteuid, kill_process};

/// Folders of one test; bravo has opened `open` and nothing else.
struct Places {
    home: PathBuf,
}

impl Places {
    fn at(&self, path: &str) -> PathBuf {
        self.home.join(path)
    }

    fn there(&self, path: &str) -> String {
        format!("bravo:{}", self.at(path).display())
    }

    fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let path = self.at(path);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        Ok(fs::write(path, content)?)
    }

    /// Names anywhere that only a transfer makes for itself.
    fn temporary(&self) -> Result<Vec<String>> {
        let keys = [Tree::of(&self.at("open"))?, Tree::of(&self.at("here"))?];
        let names = keys.into_iter().flat_map(|tree| tree.0.into_keys());
        Ok(names.filter(|path| path.contains(".ipicsha.")).collect())
    }
}

fn settings() -> Settings {
    Settings::fast().sync(Side::Bravo, "allow = [\"PAIR/open\"]\ndeletions_max = 3")
}

fn trusting_pair(test: impl FnOnce(&mut Pair, &Places) -> Result<()>) -> Result<()> {
    fresh_pair(settings(), |pair| {
        pair.start()?;
        pair.trust()?;
        let places = Places { home: pair.folder().to_owned() };
        fs::create_dir(places.at("open"))?;
        fs::create_dir(places.at("here"))?;
        test(pair, &places)?;
        ensure!(places.temporary()?.is_empty(), "left behind: {:?}", places.temporary()?);
        Ok(())
    })
}

fn sync(pair: &Pair, places: &Places, words: &[&str]) -> Result<Ran> {
    pair.alpha.sync(&places.at("here"), words)
}

fn ended(ran: &Ran, code: i32, said: &str) -> Result<()> {
    ensure!(ran.code == Some(code), "exit code {code} was expected: {ran:?}");
    ensure!(ran.stderr.contains(said), "no word of {said:?}: {ran:?}");
    Ok(())
}

#[test]
fn only_what_is_opened_there_is_reached() -> Result<()> {
    trusting_pair(|pair, places| {
        places.write("here/f", b"f")?;
        places.write("shut/secret", b"secret")?;
        places.write("open/old", b"old")?;
        symlink(places.at("shut"), places.at("open/out"))?;
        let before = Tree::of(&places.at("shut"))?;
        let inside = places.there("open/new");
        let climbing = places.there("open/../shut/");
        let cases: &[(&[&str], i32, &str)] = &[
            (&["-a", "f", &places.there("shut/")], 3, "next: on bravo"),
            (&["-a", "f", &climbing], 3, "allow = ["),
            (&["-a", "f", "bravo:/etc/passwd"], 3, "is not open to the partner of bravo"),
            (&["-a", "f", "bravo:new"], 3, "write the whole path"),
            (&["-a", "f", &places.there("open/out/")], 3, "cannot use the destination"),
            (&["-a", &places.there("shut/secret"), "."], 3, "is not open"),
            (&["-a", &places.there("open/out/secret"), "."], 23, "cannot open the source"),
            (&["-a", &places.there("open/../shut/secret"), "."], 3, "is not open"),
            (&["-a", &places.there("shut/")], 3, "is not open"),
            (&["-a", "--link-dest=/etc", "f", &inside], 3, "\"/etc\" is not open"),
            (&["-ab", "--backup-dir=../../shut", "f", &inside], 3, "is not open"),
            (&["-aL", &places.there("open/"), "."], 4, "-L is not possible there"),
            (&["-aK", "./", &inside], 4, "-K is not possible there"),
        ];
        for (words, code, said) in cases {
            let ran = sync(pair, places, words)?;
            ended(&ran, *code, said).with_context(|| format!("{words:?}"))?;
            let json = sync(pair, places, &[&["--json"], *words].concat())?;
            let last = json.stdout.lines().last().context("a last line")?;
            let end: serde_json::Value = serde_json::from_str(last)?;
            ensure!(end["exit"] == *code && json.code == Some(*code), "{json:?}");
        }
        ensure!(Tree::of(&places.at("shut"))? == before && !places.at("here/secret").exists());
        // A link in the tree is copied as one and leads nobody out.
        ended(&sync(pair, places, &["-a", &places.there("open/"), "copy"])?, 0, "")?;
        ensure!(fs::symlink_metadata(places.at("here/copy/out"))?.is_symlink());
        places.write("here/tree/out/planted", b"x")?;
        let ran = sync(pair, places, &["-a", "tree/", &places.there("open/")])?;
        ended(&ran, 0, "")?;
        ensure!(Tree::of(&places.at("shut"))? == before, "a file was planted");
        ensure!(places.at("open/out/planted").exists(), "the directory replaced the link");
        Ok(())
    })
}

#[test]
fn words_that_cannot_be_meant_are_refused() -> Result<()> {
    trusting_pair(|pair, places| {
        places.write("here/f", b"f")?;
        let there = places.there("open/");
        let cases: &[(&[&str], i32, &str)] = &[
            (&["-a", "f", "charlie:/x"], 5, "its partner is \"bravo\""),
            (&["-a", &there, &there], 1, "cannot both be on the partner"),
            (&["-a", "f", &there, "."], 1, "all sources must be on the same server"),
            (&["-a", "-e", "ssh", "f", &there], 4, "the trusted link"),
            (&["-a", "f", "bravo::module"], 4, "SERVER:PATH"),
            (&["-az", "--zl=99", "f", &there], 1, "--compress-level"),
        ];
        for (words, code, said) in cases {
            ended(&sync(pair, places, words)?, *code, said)?;
        }
        Ok(())
    })
}

#[test]
fn without_trust_or_daemon_the_next_step_is_said() -> Result<()> {
    fresh_pair(settings(), |pair| {
        let places = Places { home: pair.folder().to_owned() };
        for name in ["open", "here"] {
            fs::create_dir(places.at(name))?;
        }
        places.write("here/f", b"f")?;
        let words = ["-a", "f", &places.there("open/")];
        ended(&sync(pair, &places, &words)?, 5, "trust set")?;
        pair.start()?;
        ended(&sync(pair, &places, &words)?, 5, "trust set")?;
        ended(&sync(pair, &places, &["-a", "f", "partner:/x"])?, 5, "trusts no partner")?;
        pair.trust()?;
        ended(&sync(pair, &places, &words)?, 0, "")?;
        // This server's daemon is not needed, the partner's is.
        pair.alpha.stop_by(Signal::TERM)?;
        ended(&sync(pair, &places, &["-aI", "f", &places.there("open/")])?, 0, "")?;
        pair.bravo.stop_by(Signal::TERM)?;
        let ran = sync(pair, &places, &words)?;
        ended(&ran, 10, "cannot reach")?;
        ensure!(ran.stderr.contains("\nnext: "), "{ran:?}");
        pair.start()?;
        // Trust deleted there only: it does not answer this server any more.
        pair.bravo.ask(&["trust", "delete", "--local-only"])?;
        ended(&sync(pair, &places, &words)?, 5, "next: ")
    })
}

#[test]
fn who_may_not_read_the_key_is_told_who_may() -> Result<()> {
    if !geteuid().is_root() {
        note("SKIPPED: sync with the partner as another user, because that needs root");
        return Ok(());
    }
    use std::os::unix::process::CommandExt;
    trusting_pair(|pair, places| {
        fs::set_permissions(pair.folder(), fs::Permissions::from_mode(0o755))?;
        let program = places.at("ipicsha");
        fs::copy(ipicsha_e2e::binary::ipicsha()?, &program)?;
        let mut command = std::process::Command::new(&program);
        command.arg("--config").arg(pair.alpha.config_path());
        command.args(["sync", "-a", "bravo:/x", "."]).current_dir(places.at("here"));
        let ran = ipicsha_e2e::process::run(command.uid(65_534).gid(65_534), SOON)?;
        ended(&ran, 5, "run it as root")
    })
}

#[test]
fn no_more_is_deleted_there_than_its_server_allows() -> Result<()> {
    trusting_pair(|pair, places| {
        places.write("here/src/f", b"f")?;
        for number in 0..5 {
            places.write(&format!("open/dst/{number}"), b"x")?;
        }
        let to = places.there("open/dst");
        let left = || Ok::<_, anyhow::Error>(fs::read_dir(places.at("open/dst"))?.count());
        let words = ["-a", "--delete", "--max-delete=1000", "src/", &to];
        ended(&sync(pair, places, &words)?, 25, "`deletions_max` in `[sync]`")?;
        ensure!(left()? == 3, "{}", left()?);
        ended(
            &sync(pair, places, &["-a", "--delete", "--max-delete=1", "src/", &to])?,
            25,
            "limit",
        )?;
        ensure!(left()? == 2, "{}", left()?);
        ended(&sync(pair, places, &["-a", "--delete", "src/", &to])?, 0, "")?;
        ensure!(left()? == 1, "{}", left()?);
        Ok(())
    })
}

#[test]
fn no_more_is_moved_away_from_there_than_its_server_allows() -> Result<()> {
    trusting_pair(|pair, places| {
        for number in 0..5 {
            places.write(&format!("open/src/{number}"), b"x")?;
        }
        let words = ["-a", "--remove-source-files", &places.there("open/src/"), "dst"];
        let count = |path: &str| Ok::<_, anyhow::Error>(fs::read_dir(places.at(path))?.count());
        let ran = sync(pair, places, &words)?;
        ended(&ran, 25, "2 files have arrived and are left at the source")?;
        ensure!((count("open/src")?, count("here/dst")?) == (2, 5), "{ran:?}");
        ended(&sync(pair, places, &words)?, 0, "")?;
        ensure!(count("open/src")? == 0, "{} are left", count("open/src")?);
        Ok(())
    })
}

#[test]
fn problems_there_are_told_here_and_the_rest_is_transferred() -> Result<()> {
    trusting_pair(|pair, places| {
        // A directory in the way of a file there, and a name that exists only here.
        places.write("here/src/a", b"a")?;
        places.write("here/src/way", b"w")?;
        places.write("open/dst/way/full", b"x")?;
        let ran = sync(pair, places, &["-ai", "src/", &places.there("open/dst")])?;
        ended(&ran, 23, "bravo: cannot make way for \"way\"")?;
        ensure!(places.at("open/dst/a").exists() && places.at("open/dst/way/full").exists());
        let missing = places.there("open/none");
        let ran = sync(pair, places, &["-ai", &missing, &places.there("open/dst/a"), "."])?;
        ended(&ran, 23, "none\": No such file")?;
        ensure!(places.at("here/a").exists());
        ended(&sync(pair, places, &["-a", "src/", &places.there("open/no/such")])?, 11, "bravo: ")
    })
}

/// Bytes that are worth being kept of a transfer.
const WORTH_KEEPING: u64 = 100_000;

/// Starts a slow transfer and waits until some of its bytes are in the folder `to`.
fn slow(pair: &Pair, places: &Places, words: &[&str], to: &Path) -> Result<Child> {
    let words = [&["-a", "--bwlimit=500"], words].concat();
    let mut command = pair.alpha.sync_command(&places.at("here"), &words)?;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait_for("the transfer has begun", SOON, || {
        let begun = |entry: fs::DirEntry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(".ipicsha.")
                && entry.metadata().is_ok_and(|meta| meta.len() > WORTH_KEEPING)
        };
        fs::read_dir(to).ok()?.filter_map(Result::ok).any(begun).then_some(())
    })?;
    Ok(child)
}

fn end(mut child: Child) -> Result<Ran> {
    end_of(&mut child, SOON * 3)?;
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// The two ways of one slow transfer: words, and the folder that receives.
fn both_ways(places: &Places) -> [([String; 2], PathBuf); 2] {
    let here = places.at("here/dst");
    [
        (["src/".to_owned(), places.there("open/dst")], places.at("open/dst")),
        ([places.there("open/src/"), "dst".to_owned()], here),
    ]
}

fn two_trees(places: &Places, bytes: usize) -> Result<()> {
    for side in ["here", "open"] {
        places.write(&format!("{side}/src/big"), &noise(bytes, 7))?;
        places.write(&format!("{side}/src/gone"), b"x")?;
        fs::create_dir_all(places.at(side).join("dst"))?;
    }
    Ok(())
}

#[test]
fn an_interrupted_transfer_ends_on_both_servers() -> Result<()> {
    trusting_pair(|pair, places| {
        two_trees(places, 20_000_000)?;
        for (words, to) in both_ways(places) {
            for (more, kept) in [(&[][..], false), (&["--partial"][..], true)] {
                let words: Vec<&str> =
                    more.iter().copied().chain(words.iter().map(String::as_str)).collect();
                let child = slow(pair, places, &words, &to)?;
                kill_process(Pid::from_child(&child), Signal::INT)?;
                ended(&end(child)?, 20, "interrupted")?;
                let settled = || places.temporary().ok()?.is_empty().then_some(());
                wait_for("nothing half written is left", SOON, settled)?;
                ensure!(to.join("big").exists() == kept, "{words:?}");
                // What was kept is the beginning of what comes next.
                let ran = sync(pair, places, &[&["-a", "--stats"], &words[more.len()..]].concat())?;
                ended(&ran, 0, "")?;
                let matched = ran.stdout.lines().any(|line| line == "Matched data: 0 bytes");
                ensure!(matched != kept, "{ran:?}");
                ensure!(fs::read(to.join("big"))? == noise(20_000_000, 7));
                fs::remove_file(to.join("big"))?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_daemon_that_ends_in_the_middle_is_noticed_and_what_is_kept_is_used() -> Result<()> {
    trusting_pair(|pair, places| {
        two_trees(places, 20_000_000)?;
        for (words, to) in both_ways(places) {
            let words = ["--partial", &words[0], &words[1]];
            let child = slow(pair, places, &words, &to)?;
            pair.bravo.stop_by(Signal::TERM)?;
            let ran = end(child)?;
            ensure!(matches!(ran.code, Some(12 | 14 | 20)), "{ran:?}");
            ensure!(ran.stderr.contains("error: "), "{ran:?}");
            ensure!(to.join("big").exists(), "what had come is kept: {ran:?}");
            ensure!(places.temporary()?.is_empty(), "{:?}", places.temporary()?);
            pair.bravo.start()?;
            ended(&sync(pair, places, &["-a", words[1], words[2]])?, 0, "")?;
            ensure!(fs::read(to.join("big"))? == noise(20_000_000, 7));
            fs::remove_file(to.join("big"))?;
        }
        Ok(())
    })
}

#[test]
fn a_cut_link_ends_a_transfer_in_time_and_it_goes_on_where_it_was() -> Result<()> {
    if !net::can_cut("a cut link during sync")? {
        return Ok(());
    }
    trusting_pair(|pair, places| {
        two_trees(places, 20_000_000)?;
        let [_, (words, to)] = both_ways(places);
        let words = ["--partial", "--timeout=2", &words[0], &words[1]];
        let child = slow(pair, places, &words, &to)?;
        pair.network.cut()?;
        let ran = end(child)?;
        ensure!(matches!(ran.code, Some(12 | 30)), "{ran:?}");
        ensure!(to.join("big").exists() && places.temporary()?.is_empty(), "{ran:?}");
        let ran = sync(pair, places, &["-a", "--contimeout=1", words[2], words[3]])?;
        ended(&ran, 35, "took longer than 1 s")?;
        pair.network.heal()?;
        ended(&sync(pair, places, &["-a", words[2], words[3]])?, 0, "")?;
        ensure!(fs::read(to.join("big"))? == noise(20_000_000, 7));
        Ok(())
    })
}

#[test]
fn files_that_vanish_are_told_apart() -> Result<()> {
    trusting_pair(|pair, places| {
        two_trees(places, 1_500_000)?;
        for (words, to) in both_ways(places) {
            let words = [words[0].as_str(), words[1].as_str()];
            let child = slow(pair, places, &words, &to)?;
            let side = if words[0] == "src/" { "here" } else { "open" };
            fs::remove_file(places.at(side).join("src/gone"))?;
            ended(&end(child)?, 24, "\"gone\" has vanished")?;
            ensure!(to.join("big").exists() && !to.join("gone").exists());
        }
        Ok(())
    })
}

#[test]
fn one_of_many_that_may_not_be_read_is_told_and_the_others_come() -> Result<()> {
    if !geteuid().is_root() {
        note("SKIPPED: sync of unreadable files with the partner, because mounting needs root");
        return Ok(());
    }
    fresh_pair(settings(), |pair| {
        let places = Places { home: pair.folder().to_owned() };
        let mut mounted = Vec::new();
        for side in ["here", "open"] {
            for number in 0..700 {
                places.write(&format!("{side}/src/{number}"), b"x")?;
            }
            places.write(&format!("{side}/src/secret"), b"")?;
            // Mounted before the daemon starts, which sees the file systems that there are then.
            mounted.push(Mounted::unreadable(&places.at(side).join("src/secret"))?);
        }
        pair.start()?;
        pair.trust()?;
        for (words, to) in both_ways(&places) {
            let ran = sync(pair, &places, &["-r", &words[0], &words[1]])?;
            ended(&ran, 23, "cannot open \"secret\": Permission denied (13)")?;
            ensure!(fs::read_dir(&to)?.count() == 700 && !to.join("secret").exists(), "{ran:?}");
        }
        drop(mounted); // nobody could look at them either
        ensure!(places.temporary()?.is_empty(), "{:?}", places.temporary()?);
        Ok(())
    })
}

#[test]
fn trust_that_is_deleted_ends_a_transfer() -> Result<()> {
    trusting_pair(|pair, places| {
        two_trees(places, 20_000_000)?;
        let [(words, to), _] = both_ways(places);
        let child = slow(pair, places, &[&words[0], &words[1]], &to)?;
        pair.bravo.ask(&["trust", "delete", "--local-only"])?;
        let ran = end(child)?;
        ensure!(matches!(ran.code, Some(10 | 12)), "{ran:?}");
        let settled = || places.temporary().ok()?.is_empty().then_some(());
        wait_for("nothing half written is left", SOON, settled)
    })
}

#[test]
fn a_full_or_read_only_disk_there_is_told_and_nothing_half_written_is_left() -> Result<()> {
    if !geteuid().is_root() {
        note("SKIPPED: sync to a full disk of the partner, because mounting needs root");
        return Ok(());
    }
    fresh_pair(settings(), |pair| {
        let places = Places { home: pair.folder().to_owned() };
        places.write("here/src/a", b"small")?;
        places.write("here/src/b", &noise(3_000_000, 7))?;
        // Mounted before the daemon starts, which sees the file systems that there are then.
        let _full = Mounted::tmpfs(&places.at("open/full"), "size=1m")?;
        let _fixed = Mounted::tmpfs(&places.at("open/fixed"), "ro")?;
        pair.start()?;
        pair.trust()?;
        let ran = sync(pair, &places, &["-a", "src/", &places.there("open/full")])?;
        ended(&ran, 11, "bravo: cannot write \"b\": No space left on device (28)")?;
        ensure!(places.at("open/full/a").exists() && !places.at("open/full/b").exists());
        ensure!(places.temporary()?.is_empty(), "{:?}", places.temporary()?);
        let ran = sync(pair, &places, &["-a", "src/", &places.there("open/fixed")])?;
        ended(&ran, 23, "bravo: cannot create a file for \"a\": Read-only file system (30)")
    })
}

/// A file system that goes with this value.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(at)?;
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "none"]).arg(at);
        ipicsha_e2e::process::run(&mut command, Duration::from_secs(10))?.ok()?;
        Ok(Self(at.to_owned()))
    }

    /// In place of a file one of the kernel's that can only be written, even by root.
    fn unreadable(at: &Path) -> Result<Self> {
        let denied = |path: &PathBuf| {
            let error = fs::File::open(path).err();
            error.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        let buses = fs::read_dir("/sys/bus")?.filter_map(Result::ok);
        let found = buses.map(|bus| bus.path().join("drivers_probe")).find(denied);
        let found = found.context("no file beneath /sys/bus that can only be written")?;
        let mut command = std::process::Command::new("mount");
        command.arg("--bind").arg(found).arg(at);
        ipicsha_e2e::process::run(&mut command, Duration::from_secs(10))?.ok()?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, as the daemon may still hold it.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
