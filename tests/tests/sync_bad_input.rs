//! Whatever is asked or stands in the way: a clear error, the others transferred, rsync's exit code,
//! and nothing half written.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Ran, binary, fixture::noise, note, process::run, tree, wait::SOON, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Result<Self> {
        let folder = Self(tempfile::tempdir()?);
        fs::create_dir(folder.at("src"))?;
        fs::create_dir(folder.at("dst"))?;
        Ok(folder)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let path = self.at(path);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        Ok(fs::write(path, content)?)
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary::ipicsha()?);
        // A configuration that is not there: none is needed on one machine.
        command.arg("--config").arg(self.at("none.toml")).arg("sync");
        command.args(words).current_dir(self.0.path());
        Ok(command)
    }

    fn sync(&self, words: &[&str]) -> Result<Ran> {
        run(&mut self.command(words)?, LIMIT)
    }

    /// Names anywhere beneath the destination that only a transfer makes for itself.
    fn temporary(&self) -> Result<Vec<String>> {
        let tree = tree::Tree::of(&self.at("dst"))?;
        Ok(tree.0.into_keys().filter(|path| path.contains(".ipicsha.")).collect())
    }
}

fn ended(ran: &Ran, code: i32, said: &str) -> Result<()> {
    ensure!(ran.code == Some(code), "exit code {code} was expected: {ran:?}");
    ensure!(ran.stderr.contains(said), "no word of {said:?}: {ran:?}");
    Ok(())
}

#[test]
fn sync_refuses_words_it_does_not_know_with_the_codes_of_rsync() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("src/f", b"x")?;
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--nonsense", "src/", "dst"], 1, "--nonsense"),
        (&["-aJQ", "src/", "dst"], 1, "-Q"),
        (&[], 1, "nothing to copy"),
        (&["-a", "--max-size=lots", "src/", "dst"], 1, "is no size"),
        (&["-a", "--chmod=u~x", "src/", "dst"], 1, "not understood"),
        (&["-a", "--filter=bogus", "src/", "dst"], 1, "no filter rule"),
        (&["-a", "--exclude-from=none", "src/", "dst"], 11, "none"),
        (&["--delete", "src/", "dst"], 1, "needs --recursive"),
        (&["-a", "--append", "-W", "src/", "dst"], 1, "--whole-file"),
        (&["-a", "--link-dest=a", "--copy-dest=b", "src/", "dst"], 1, "exclude one another"),
        (&["-a", "--chown=nobody-of-this-name", "src/", "dst"], 1, "no user"),
        (&["-a", "-e", "ssh", "src/", "dst"], 4, "the trusted link"),
        (&["-a", "--iconv=utf8", "src/", "dst"], 4, "--iconv"),
        (&["-ay", "src/", "dst"], 4, "--fuzzy"),
        (&["-aU", "src/", "dst"], 4, "--atimes"),
        (&["-a", "--temp-dir=/x", "src/", "dst"], 4, "--temp-dir"),
        (&["-az", "--zc=lz4", "src/", "dst"], 4, "lz4"),
        (&["-az", "--skip-compress=gz/jpg", "src/", "dst"], 4, "--skip-compress"),
        (&["-a", "--info=name,backup", "src/", "dst"], 4, "--info=backup is not supported"),
        (&["-a", "--info=nonsense", "src/", "dst"], 1, "\"nonsense\" is not known"),
        (&["-a", "--no-W", "-B2M", "src/", "dst"], 1, "1 byte to 1 MiB"),
        (&["-a", "--stop-after=soon", "src/", "dst"], 1, "is no number"),
        (&["-a", "--stop-after=0", "src/", "dst"], 1, "1 minute or more"),
        (&["-a", "--stop-at=2020-1-1", "src/", "dst"], 1, "is no time to come"),
        (&["-a", "--stop-at=25:00", "src/", "dst"], 1, "write it as"),
        (&["-a", "--cc=md5", "src/", "dst"], 4, "md5"),
        (&["-a", "src/", "partner:/dst"], 5, "--config FILE"),
        (&["-a", "nowhere:/src/", "dst"], 5, "--config FILE"),
        (&["-a", "src/", "host::module"], 4, "SERVER:PATH"),
        (&["-a", "rsync://host/x", "dst"], 4, "SERVER:PATH"),
    ];
    for (words, code, said) in cases {
        let ran = folder.sync(words)?;
        ended(&ran, *code, said)?;
        ensure!(ran.stderr.starts_with("error: ") && ran.stdout.is_empty(), "{ran:?}");
        ensure!(fs::read_dir(folder.at("dst"))?.next().is_none(), "{words:?} changed something");
        let json = folder.sync(&[&["--json"], *words].concat())?;
        let end: serde_json::Value = serde_json::from_str(json.stdout.trim())?;
        ensure!(end["exit"] == *code && json.code == Some(*code), "{json:?}");
    }
    Ok(())
}

#[test]
fn sync_keeps_names_of_lists_inside_the_source() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("secret", b"x")?;
    folder.write("src/good", b"x")?;
    folder.write("names", b"../secret\ngood\nsub/../../secret\n/good\n")?;
    let ran = folder.sync(&["-a", "--files-from=names", "src", "dst"])?;
    ended(&ran, 23, "cannot use \"../secret\": the path contains `..`")?;
    ensure!(folder.at("dst/good").exists() && fs::read_dir(folder.at("dst"))?.count() == 1);
    Ok(())
}

#[test]
fn sync_carries_names_that_are_no_text_and_shows_them_harmlessly() -> Result<()> {
    let folder = Folder::new()?;
    let names: [&[u8]; 4] = [b"new\nline", b"bad\xff", b"\x1b[31mred", &[b'x'; 255]];
    for name in names {
        fs::write(folder.at("src").join(tree::name(name)), "x")?;
    }
    let ran = folder.sync(&["-ai", "src/", "dst"])?;
    ended(&ran, 0, "")?;
    for shown in ["new\\#012line", "bad\\#377", "\\#033[31mred"] {
        ensure!(ran.stdout.lines().any(|line| line.ends_with(shown)), "{shown}: {ran:?}");
    }
    let [source, destination] = ["src", "dst"].map(|side| tree::Tree::of(&folder.at(side)));
    let differences = source?.differences(&destination?);
    ensure!(differences.is_empty(), "{differences:?}");
    let json = folder.sync(&["-a", "--json", "-I", "src/", "dst"])?;
    for line in json.stdout.lines() {
        serde_json::from_str::<serde_json::Value>(line).with_context(|| line.to_owned())?;
    }
    Ok(())
}

/// Makes directories so deep that their whole path cannot be written in one system call.
fn make_deep(at: &Path, levels: usize) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let mut dir = openat(CWD, at, OFlags::DIRECTORY, Mode::empty())?;
    let name = "d".repeat(250);
    for _ in 0..levels {
        mkdirat(&dir, &name, Mode::from_raw_mode(0o755))?;
        let file = openat(&dir, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644))?;
        rustix::io::write(&file, b"x")?;
        dir = openat(&dir, &name, OFlags::DIRECTORY, Mode::empty())?;
    }
    Ok(())
}

fn depth(at: &Path) -> Result<usize> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let mut dir = openat(CWD, at, OFlags::DIRECTORY, Mode::empty())?;
    let mut depth = 0;
    while let Ok(below) = openat(&dir, "d".repeat(250), OFlags::DIRECTORY, Mode::empty()) {
        openat(&dir, "f", OFlags::RDONLY, Mode::empty())?;
        dir = below;
        depth += 1;
    }
    Ok(depth)
}

#[test]
fn sync_names_paths_that_are_too_long_and_goes_on() -> Result<()> {
    let folder = Folder::new()?;
    make_deep(&folder.at("src"), 20)?;
    folder.write("src/z", b"z")?;
    let ran = folder.sync(&["-a", "src/", "dst"])?;
    ended(&ran, 23, "File name too long")?;
    // 4096 bytes hold 16 names of 250 bytes with their slashes.
    ensure!(depth(&folder.at("dst"))? == 16, "{}", depth(&folder.at("dst"))?);
    ensure!(folder.at("dst/z").exists());
    for side in ["src", "dst"] {
        // Too deep for a removal by path.
        ensure!(Command::new("rm").arg("-rf").arg(folder.at(side)).status()?.success());
    }
    Ok(())
}

#[test]
fn sync_goes_on_when_one_of_many_may_not_be_read() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        note("SKIPPED: sync as another user, because that needs root");
        return Ok(());
    }
    let folder = Folder::new()?;
    for (path, mode) in [("src/a", 0o644), ("src/b", 0o000), ("src/c", 0o644), ("src/d/in", 0o644)]
    {
        folder.write(path, path.as_bytes())?;
        fs::set_permissions(folder.at(path), fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(folder.at("src/d"), fs::Permissions::from_mode(0o000))?;
    fs::create_dir(folder.at("src/readonly"))?;
    folder.write("src/readonly/f", b"f")?;
    fs::set_permissions(folder.at("src/readonly"), fs::Permissions::from_mode(0o555))?;
    folder.write("dst/extra", b"not to be deleted")?;
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::chown(folder.at("dst"), Some(65_534), Some(65_534))?;
    // The program may lie where only root may go.
    let program = folder.at("ipicsha");
    fs::copy(binary::ipicsha()?, &program)?;
    let mut command = Command::new(&program);
    command.args(["sync", "-ai", "--delete", "src/", "dst"]).current_dir(folder.0.path());
    let ran = run(command.uid(65_534).gid(65_534), LIMIT)?;
    ended(&ran, 23, "cannot open \"b\": Permission denied (13)")?;
    ended(&ran, 23, "cannot list \"d\": Permission denied (13)")?;
    ensure!(!ran.stdout.contains(" b\n"), "what did not come is not told: {ran:?}");
    for (path, there) in
        [("a", true), ("b", false), ("c", true), ("readonly/f", true), ("extra", true)]
    {
        ensure!(folder.at("dst").join(path).exists() == there, "{path}: {ran:?}");
    }
    // Its owner may write over a file that is read-only.
    fs::set_permissions(folder.at("dst/a"), fs::Permissions::from_mode(0o444))?;
    let mut command = Command::new(&program);
    command.args(["sync", "-I", "-p", "--inplace", "src/a", "dst"]).current_dir(folder.0.path());
    ended(&run(command.uid(65_534).gid(65_534), LIMIT)?, 0, "")?;
    ensure!(fs::metadata(folder.at("dst/a"))?.permissions().mode() & 0o777 == 0o644);
    let mode = fs::metadata(folder.at("dst/readonly"))?.permissions().mode() & 0o7777;
    ensure!(mode == 0o555 && folder.temporary()?.is_empty(), "{mode:o}");
    Ok(())
}

/// Runs a shell with mounts of its own, which end with it.
fn with_mounts(folder: &Folder, script: &str) -> Result<Option<Ran>> {
    if !rustix::process::geteuid().is_root() {
        note("SKIPPED: sync to full and read-only file systems, because mounting needs root");
        return Ok(None);
    }
    let program = binary::ipicsha()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    command.arg(program).current_dir(folder.0.path());
    Ok(Some(run(&mut command, LIMIT)?))
}

#[test]
fn sync_ends_on_a_full_disk_with_nothing_half_written() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("src/a", b"small")?;
    folder.write("src/b", &noise(3_000_000, 7))?;
    let script = "mount -t tmpfs -o size=1m none dst
        code=0; \"$1\" sync -a src/ dst || code=$?
        ls -A dst; exit $code";
    let Some(ran) = with_mounts(&folder, script)? else { return Ok(()) };
    ended(&ran, 11, "cannot write \"b\": No space left on device (28)")?;
    ensure!(ran.stdout == "a\n", "{ran:?}");
    Ok(())
}

#[test]
fn sync_says_what_a_read_only_destination_refuses() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("src/a", b"a")?;
    folder.write("src/d/b", b"b")?;
    let script = "mount -t tmpfs -o ro none dst
        code=0; \"$1\" sync -a src/ dst || code=$?
        exit $code";
    let Some(ran) = with_mounts(&folder, script)? else { return Ok(()) };
    ended(&ran, 23, "cannot create a file for \"a\": Read-only file system (30)")?;
    ended(&ran, 23, "cannot make the directory \"d\": Read-only file system (30)")
}

/// Starts a slow transfer of `src/big` and waits until its first bytes are there.
fn slow_transfer(folder: &Folder, words: &[&str]) -> Result<std::process::Child> {
    let lead = ["-a", "--bwlimit=500"];
    let mut command = folder.command(&[&lead, words, &["src/", "dst"]].concat())?;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait_for("the transfer has begun", SOON, || {
        let names = fs::read_dir(folder.at("dst")).ok()?;
        let begun = |entry: fs::DirEntry| {
            let name = entry.file_name();
            name.as_bytes().starts_with(b".ipicsha.") && entry.metadata().is_ok_and(|m| m.len() > 0)
        };
        names.filter_map(Result::ok).any(begun).then_some(())
    })?;
    Ok(child)
}

#[test]
fn sync_stops_at_its_time_and_goes_on_where_it_was() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("src/big", &noise(40_000_000, 1))?;
    // A minute at 500 KiB in a second.
    let child = slow_transfer(&folder, &["--partial", "--stop-after=1"])?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(30), "{:?} {said}", output.status);
    ensure!(said.contains("the time to stop has come"), "{said}");
    ensure!(folder.temporary()?.is_empty(), "{:?}", folder.temporary()?);
    let come = fs::metadata(folder.at("dst/big"))?.len();
    ensure!((1..40_000_000).contains(&come), "{come} bytes have come");
    // Enough time changes nothing.
    let words = ["-a", "--no-W", "--stats", "--stop-after=1000000", "--stop-at=2999-1-1T12:00"];
    let ran = folder.sync(&[&words[..], &["src/", "dst"]].concat())?;
    ended(&ran, 0, "")?;
    ensure!(!ran.stdout.lines().any(|line| line == "Matched data: 0 bytes"), "{ran:?}");
    ensure!(fs::read(folder.at("dst/big"))? == noise(40_000_000, 1));
    Ok(())
}

#[test]
fn sync_shows_how_far_the_whole_is_however_short_it_was() -> Result<()> {
    let folder = Folder::new()?;
    for name in ["a", "b", "d/c"] {
        folder.write(&format!("src/{name}"), &noise(50_000, 1))?;
    }
    let ran = folder.sync(&["-a", "--info=progress2", "src/", "dst"])?;
    ended(&ran, 0, "")?;
    let last = ran.stdout.lines().last().context("a line")?;
    ensure!(last.starts_with("        150,000 100% "), "{ran:?}");
    ensure!(last.ends_with(" (xfr#3, to-chk=0/5)"), "{ran:?}");
    Ok(())
}

#[test]
fn sync_tells_vanished_files_apart_from_failed_ones() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("src/big", &noise(1_200_000, 1))?;
    folder.write("src/gone", b"x")?;
    folder.write("src/stays", b"x")?;
    let child = slow_transfer(&folder, &[])?;
    fs::remove_file(folder.at("src/gone"))?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(24), "{:?} {said}", output.status);
    ensure!(said.contains("\"gone\" has vanished"), "{said}");
    ensure!(folder.at("dst/stays").exists() && folder.at("dst/big").exists());
    Ok(())
}

#[test]
fn sync_ended_by_a_signal_leaves_nothing_half_written_unless_asked() -> Result<()> {
    for (words, kept) in [(&[][..], false), (&["--partial"][..], true)] {
        let folder = Folder::new()?;
        folder.write("src/big", &noise(20_000_000, 1))?;
        let child = slow_transfer(&folder, words)?;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(20), "{:?} {said}", output.status);
        ensure!(folder.temporary()?.is_empty(), "{:?}", folder.temporary()?);
        ensure!(folder.at("dst/big").exists() == kept, "{words:?}");
        // What was kept is completed by the next run.
        ended(&folder.sync(&["-a", "src/", "dst"])?, 0, "")?;
        let [source, destination] = ["src/big", "dst/big"].map(|path| fs::read(folder.at(path)));
        ensure!(source? == destination?);
    }
    Ok(())
}
