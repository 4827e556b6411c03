//! Disks and files that fail under a running pair: what fails is named, everything else goes on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, compare, fresh_pair,
    net::can_cut,
    note::note,
    process::{Ran, run},
    ready_pair,
    settings::BOARD,
    wait::SOON,
    wait_for,
};

/// A small disk of its own, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        let disk = Self(at);
        disk.system(&["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs"])?;
        Ok(disk)
    }

    fn system(&self, command: &[&str]) -> Result<()> {
        let mut program = std::process::Command::new(command[0]);
        let ran = run(program.args(&command[1..]).arg(&self.0), SOON)?;
        ensure!(ran.code == Some(0), "{command:?}: {ran:?}");
        Ok(())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no room.
    fn fill(&self) -> Result<()> {
        let full = fs::write(self.filler(), vec![0; 4 << 20]);
        ensure!(full.is_err_and(|error| error.raw_os_error() == Some(28)), "the disk is full");
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // By now nobody uses it; if somebody does, it goes with them.
        let _ = self.system(&["umount", "--lazy"]);
    }
}

/// The small disk of one server; to be mounted before its daemon starts, which has mounts of its own.
fn disk(pair: &Pair, side: Side) -> Result<Disk> {
    Disk::mount(pair.server(side).home.join("data/tight"))
}

/// A second database on the small disks of both servers.
fn protect_tight(pair: &Pair) -> Result<[PathBuf; 2]> {
    let path = |side| pair.server(side).database("tight/app");
    let paths = [path(Side::Alpha), path(Side::Bravo)];
    pair.alpha.application("tight/app")?.create()?;
    for (server, path, seed) in
        [(&pair.alpha, &paths[0], None), (&pair.bravo, &paths[1], Some("--seed"))]
    {
        let path = path.display().to_string();
        let mut verb = vec!["protect", "db", &path, "--name", "tight"];
        verb.extend(seed);
        server.ask(&verb)?;
    }
    pair.wait_ready()?;
    compare::wait_equal(&paths[0], &paths[1], SOON)?;
    Ok(paths)
}

/// The row of a database in the status of one server.
fn row(pair: &Pair, side: Side, name: &str) -> Result<serde_json::Value> {
    let status = pair.server(side).status()?;
    let rows = status.0["databases"].as_array().context("databases")?;
    rows.iter().find(|row| row["name"] == name).cloned().context("the database is not shown")
}

fn held(pair: &Pair, side: Side, name: &str, reason: &str) -> Result<()> {
    let held = || {
        let row = row(pair, side, name).ok()?;
        row["hold"].as_str().is_some_and(|hold| hold.contains(reason)).then_some(())
    };
    wait_for(&format!("{name} is held: {reason}"), SOON, held)
}

#[test]
fn a_full_disk_on_either_server_holds_only_what_lies_on_it() -> Result<()> {
    if !can_cut("a full disk")? {
        return Ok(());
    }
    fresh_pair(Settings::fast(), |pair| {
        let (active, standby) = (disk(pair, Side::Alpha)?, disk(pair, Side::Bravo)?);
        pair.make_ready()?;
        let paths = protect_tight(pair)?;
        let tight = pair.alpha.application("tight/app")?;
        let board = pair.alpha.application(BOARD)?;
        let large = "x".repeat(4000);

        standby.fill()?;
        (0..50).try_for_each(|n| tight.add_call(&format!("held {n}"), &large))?;
        held(pair, Side::Bravo, "tight", "full")?;
        board.add_call("beside", "another disk")?;
        pair.wait_equal()?;
        ensure!(pair.alpha.status()?.role() == "active", "nobody took over");
        standby.free()?;
        compare::wait_equal(&paths[0], &paths[1], SOON)?;
        // What is shown may be a tenth of a second old.
        wait_for("the hold is over", SOON, || {
            let row = row(pair, Side::Bravo, "tight").ok()?;
            row["hold"].is_null().then_some(())
        })?;

        active.fill()?;
        let refused = (0..500).find_map(|n| tight.add_call(&format!("full {n}"), &large).err());
        let refused = refused.context("the application's own disk took everything")?;
        ensure!(format!("{refused:#}").contains("disk is full"), "{refused:#}");
        board.add_call("beside too", "another disk")?;
        pair.wait_equal()?;
        active.free()?;
        tight.add_call("after", "there is room again")?;
        compare::wait_equal(&paths[0], &paths[1], SOON)
    })
}

#[test]
fn protect_refuses_a_file_on_a_read_only_disk() -> Result<()> {
    if !can_cut("a read-only disk")? {
        return Ok(());
    }
    fresh_pair(Settings::fast(), |pair| {
        let disk = disk(pair, Side::Alpha)?;
        pair.start()?;
        pair.alpha.application("tight/app")?.create()?;
        disk.system(&["mount", "-o", "remount,ro"])?;
        let path = pair.alpha.database("tight/app").display().to_string();
        pair.alpha
            .cli(&["protect", "db", &path, "--name", "tight"])?
            .refused(1, "its file system is read-only")?;
        Ok(())
    })
}

/// A file system of its own on a disk that can be made to fail.
struct FailingDisk {
    image: PathBuf,
    at: PathBuf,
}

impl FailingDisk {
    /// `None` where the kernel has no loop devices or no ext4.
    fn mount(pair: &Pair, side: Side) -> Result<Option<Self>> {
        let image = pair.server(side).home.join("disk.img");
        fs::File::create(&image)?.set_len(16 << 20)?;
        let at = pair.server(side).home.join("data/tight");
        fs::create_dir_all(&at)?;
        let disk = Self { image, at };
        let [image, at] = [&disk.image, &disk.at].map(|path| path.display().to_string());
        // The daemons have mounts of their own, from which a detached disk has to go, too.
        for arguments in [["--bind", at.as_str(), at.as_str()].as_slice(), &["--make-shared", &at]]
        {
            let mounted = system(&[["mount"].as_slice(), arguments].concat())?;
            ensure!(mounted.code == Some(0), "{mounted:?}");
        }
        let made = system(&["mkfs.ext4", "-q", &image])?.code == Some(0) && disk.attach()?;
        if !made {
            note("SKIPPED a disk that turns read-only: no loop device, or no ext4");
        }
        Ok(made.then_some(disk))
    }

    fn attach(&self) -> Result<bool> {
        let [image, at] = [&self.image, &self.at].map(|path| path.display().to_string());
        Ok(system(&["mount", "-o", "loop,errors=remount-ro", &image, &at])?.code == Some(0))
    }

    /// The kernel finds the disk damaged; all that is open stays open.
    fn fail(&self) -> Result<()> {
        let image = self.image.display().to_string();
        let device = system(&["losetup", "-n", "-O", "NAME", "-j", &image])?.stdout;
        let device = device.trim().trim_start_matches("/dev/").to_owned();
        Ok(fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "of a test")?)
    }

    fn detach(&self) -> Result<()> {
        let at = self.at.display().to_string();
        wait_for("nobody uses the disk", SOON, || {
            system(&["umount", &at]).ok().filter(|ran| ran.code == Some(0))
        })?;
        Ok(())
    }

    /// What an administrator does with a server whose disk has failed, its daemon being down.
    fn mend(&self) -> Result<()> {
        self.detach()?;
        let image = self.image.display().to_string();
        // 1: something was mended.
        let checked = system(&["fsck.ext4", "-p", "-f", &image])?;
        ensure!(matches!(checked.code, Some(0 | 1)), "{checked:?}");
        ensure!(self.attach()?, "it is mounted again");
        Ok(())
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // By now nobody uses it; if somebody does, it goes with them.
        let at = self.at.display().to_string();
        while system(&["umount", "--lazy", &at]).is_ok_and(|ran| ran.code == Some(0)) {}
    }
}

fn system(command: &[&str]) -> Result<Ran> {
    run(std::process::Command::new(command[0]).args(&command[1..]), SOON)
}

#[test]
fn a_disk_that_turns_read_only_holds_only_what_lies_on_it() -> Result<()> {
    if !can_cut("a disk that turns read-only")? {
        return Ok(());
    }
    fresh_pair(Settings::fast(), |pair| {
        let Some(active) = FailingDisk::mount(pair, Side::Alpha)? else { return Ok(()) };
        let Some(standby) = FailingDisk::mount(pair, Side::Bravo)? else { return Ok(()) };
        pair.make_ready()?;
        let paths = protect_tight(pair)?;
        let tight = pair.alpha.application("tight/app")?;
        let board = pair.alpha.application(BOARD)?;

        standby.fail()?;
        tight.add_call("held", "the standby cannot write it")?;
        held(pair, Side::Bravo, "tight", "read-only")?;
        board.add_call("beside", "another disk")?;
        pair.wait_equal()?;
        pair.bravo.kill();
        standby.mend()?;
        pair.bravo.start()?;
        compare::wait_equal(&paths[0], &paths[1], SOON)?;
        pair.wait_ready()?;

        active.fail()?;
        let refused = tight.add_call("refused", "the disk is read-only").err();
        ensure!(refused.is_some(), "the application itself is told");
        drop(tight);
        board.add_call("beside too", "another disk")?;
        pair.wait_equal()?;
        pair.alpha.kill_everything()?;
        pair.bravo.wait("it serves", |status| status.role() == "active")?;
        let tight = pair.bravo.application("tight/app")?;
        tight.add_call("after", "on the other server")?;
        active.mend()?;
        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        compare::wait_equal(&paths[0], &paths[1], SOON)
    })
}

/// Overwrites a file in the middle of its life, as a dying disk does.
fn destroy(path: &Path) -> Result<()> {
    let length = fs::metadata(path)?.len() as usize;
    fs::write(path, vec![0xA5; length.max(4096)])?;
    Ok(())
}

#[test]
fn a_damaged_journal_is_kept_and_named_and_the_pair_goes_on() -> Result<()> {
    let settings = Settings::fast().expects_error("the conflict journal was damaged");
    ready_pair(settings, |pair| {
        pair.bravo.kill();
        for file in ["state/journal.db", "state/journal.db-wal"] {
            destroy(&pair.bravo.home.join(file))?;
        }
        pair.alpha.application(BOARD)?.add_call("meanwhile", "bravo is away")?;
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        pair.wait_equal()?;
        let row = row(pair, Side::Bravo, BOARD)?;
        let warnings = row["warnings"].as_array().context("warnings")?;
        let named =
            |text: &str| warnings.iter().any(|w| w.as_str().is_some_and(|w| w.contains(text)));
        ensure!(named("journal.db.damaged-"), "it says where the old one is: {row}");
        ensure!(pair.bravo.cli(&["conflicts", "list"])?.code == Some(0), "a new one is begun");
        Ok(())
    })
}
