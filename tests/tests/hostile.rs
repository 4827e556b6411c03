//! Bytes, files and databases that are not what they should be.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Server, Settings, Side, fresh_pair,
    process::{Background, foreign_certificate, run},
    ready_pair,
    settings::BOARD,
    wait::SOON,
    wait_for,
};

const NOISE: &str = include_str!("../src/python/noise.py");
/// Holds an exclusive lock on the database named first, and says so in the file named second.
const LOCKER: &str = "
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA locking_mode=EXCLUSIVE')
db.execute('BEGIN EXCLUSIVE')
open(sys.argv[2], 'w').close()
time.sleep(600)";

#[test]
fn random_truncated_and_oversized_bytes_on_the_port_change_nothing() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let foreign = foreign_certificate(pair.folder())?;
        let before = pair.states()?;
        let epoch = pair.alpha.status()?.epoch();
        for side in Side::BOTH {
            let partner = pair.server(side.other());
            let stolen = own_certificate(partner)?;
            for pem in [&foreign, &stolen] {
                let mut noise = partner.command("python3");
                noise.args(["-c", NOISE, &pair.network.address(side)]).arg(pem);
                let said = run(&mut noise, Duration::from_secs(120))?.ok()?;
                // 6 frames under the two names of our protocol.
                ensure!(said.trim().parse::<u32>()? >= 12, "frames did not get past TLS: {said}");
            }
        }
        pair.wait_roles(Side::Alpha)?;
        ensure!(pair.states()? == before, "the noise changed something");
        ensure!(pair.alpha.status()?.epoch() == epoch, "the noise moved a role");
        pair.alpha.application(BOARD)?.add_call("after the noise", "on alpha")?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        pair.wait_equal()
    })
}

/// The certificate and key of a server in one file, as a thief would have them.
fn own_certificate(server: &Server) -> Result<PathBuf> {
    let part = |name: &str| fs::read_to_string(server.home.join("state").join(name));
    server.write("stolen.pem", part("certificate.pem")? + &part("key.pem")?)
}

#[test]
fn a_state_file_cut_short_stops_the_daemon_and_is_not_touched() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.bravo.kill();
        let whole = pair.bravo.state_bytes()?;
        for length in [0, 1, whole.len() / 2, whole.len() - 2] {
            fs::write(pair.bravo.state_file(), &whole[..length])?;
            let (status, log) = pair.bravo.start_and_end()?;
            ensure!(status.code() == Some(78), "{length} bytes: {status}\n{log}");
            ensure!(log.contains("state.json") && log.contains("damaged"), "{log}");
            ensure!(log.contains("next: "), "no next step: {log}");
            ensure!(pair.bravo.state_bytes()? == whole[..length], "the file was touched");
        }
        fs::write(pair.bravo.state_file(), &whole)?;
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        pair.wait_equal()
    })
}

/// `protect db` of this file is refused for this reason, and nothing is protected.
fn not_protected(pair: &Pair, path: &Path, reason: &str) -> Result<()> {
    let before = pair.states()?;
    let path = path.display().to_string();
    pair.alpha.cli(&["protect", "db", &path, "--name", "other"])?.refused(1, reason)?;
    ensure!(pair.states()? == before, "the refusal changed something");
    let status = pair.alpha.status()?;
    let databases = status.0["databases"].as_array().context("databases")?;
    ensure!(databases.iter().all(|row| row["name"] != "other"), "it is protected: {status:?}");
    Ok(())
}

#[test]
fn protect_refuses_what_is_no_usable_database() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.start()?;
        let text = pair
            .alpha
            .write("data/text.sqlite", "this is a letter, not a database\n".repeat(99))?;
        not_protected(pair, &text, "not an SQLite database")?;
        ensure!(fs::read_to_string(&text)?.starts_with("this is a letter"), "the file was touched");
        not_protected(pair, &pair.alpha.database("missing"), "does not exist")?;
        ensure!(!pair.alpha.database("missing").exists(), "the file was made");
        not_protected(pair, &pair.alpha.home, "is a directory")?;

        pair.alpha.application("busy")?.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")?;
        let held = pair.alpha.home.join("held");
        let mut locker = pair.alpha.command("python3");
        locker.args(["-c", LOCKER]).arg(pair.alpha.database("busy")).arg(&held);
        let (_, output) = pair.alpha.create("locker.log")?;
        let locker = Background::spawn(&mut locker, output.try_clone()?, output)?;
        wait_for("the lock is held", SOON, || held.exists().then_some(()))?;
        not_protected(pair, &pair.alpha.database("busy"), "locked by another program")?;
        drop(locker);
        let path = pair.alpha.database("busy").display().to_string();
        pair.alpha.ask(&["protect", "db", &path, "--name", "busy"])?;
        Ok(())
    })
}
