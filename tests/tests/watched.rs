//! Watched directories on a real pair, by the verbs an administrator has (spec C2, C3, D5).

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, Status, fixture::noise, fresh_pair, net::can_cut, ready_pair, wait::SOON,
    wait_for,
};
use serde_json::Value;

const UPLOADS: &str = "uploads";

fn settings() -> Settings {
    Settings::fast().directory(UPLOADS, "deletions_max = 20\nfilter = [\"- *.tmp\"]")
}

/// A pair that is Ready and watches a directory with a file in it.
fn watching(test: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    watching_with(settings(), test)
}

fn watching_with(settings: Settings, test: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    fresh_pair(settings, |pair| {
        for side in Side::BOTH {
            fs::create_dir_all(pair.server(side).directory(UPLOADS))?;
        }
        fs::write(at(pair, Side::Alpha, "first"), "first")?;
        pair.make_ready()?;
        in_sync(pair)?;
        test(pair)
    })
}

fn at(pair: &Pair, side: Side, path: &str) -> PathBuf {
    pair.server(side).directory(UPLOADS).join(path)
}

fn row(status: &Status) -> Value {
    status.0["directories"][0].clone()
}

fn in_sync(pair: &Pair) -> Result<()> {
    for side in Side::BOTH {
        pair.server(side).wait("its directory is in sync", |status| {
            let row = row(status);
            row["synced"] == true && row["to_send"] == 0 && row["to_fetch"] == 0
        })?;
    }
    pair.wait_same_files(UPLOADS)
}

fn wait_file(pair: &Pair, side: Side, path: &str, content: Option<&str>) -> Result<()> {
    let file = at(pair, side, path);
    wait_for(&format!("{path} on {} is {content:?}", side.name()), SOON, || {
        (fs::read_to_string(&file).ok().as_deref() == content).then_some(())
    })?;
    Ok(())
}

#[test]
fn spec_c2_changes_on_either_server_are_on_the_other() -> Result<()> {
    watching(|pair| {
        wait_file(pair, Side::Bravo, "first", Some("first"))?;
        fs::create_dir_all(at(pair, Side::Alpha, "a/b"))?;
        fs::write(at(pair, Side::Alpha, "a/b/deep"), "deep")?;
        fs::write(at(pair, Side::Alpha, "left.tmp"), "takes no part")?;
        fs::write(at(pair, Side::Alpha, "big"), noise(3_000_000, 7))?;
        std::os::unix::fs::symlink("first", at(pair, Side::Alpha, "link"))?;
        wait_file(pair, Side::Bravo, "a/b/deep", Some("deep"))?;
        fs::write(at(pair, Side::Bravo, "a/from-bravo"), "hello")?;
        wait_file(pair, Side::Alpha, "a/from-bravo", Some("hello"))?;
        fs::rename(at(pair, Side::Alpha, "a"), at(pair, Side::Alpha, "renamed"))?;
        wait_file(pair, Side::Bravo, "renamed/b/deep", Some("deep"))?;
        wait_file(pair, Side::Bravo, "a/b/deep", None)?;
        ensure!(!at(pair, Side::Bravo, "left.tmp").exists(), "an excluded file travelled");
        fs::remove_file(at(pair, Side::Alpha, "left.tmp"))?;
        in_sync(pair)?;
        let verified = pair.bravo.ask(&["verify", "dir"])?;
        ensure!(verified[0]["report"]["differences"] == 0, "{verified}");
        // What the partner deletes is kept, and comes back as an ordinary change.
        fs::remove_file(at(pair, Side::Alpha, "first"))?;
        wait_file(pair, Side::Bravo, "first", None)?;
        let kept = pair.bravo.ask(&["trash", "list"])?;
        let rows = kept.as_array().context("a list")?;
        let first = rows.iter().find(|row| row["kept"]["path"] == "first").context("it is kept")?;
        ensure!(first["kept"]["reason"] == "deleted", "{first}");
        let id = first["kept"]["id"].to_string();
        pair.bravo.ask(&["trash", "restore", &id])?;
        wait_file(pair, Side::Alpha, "first", Some("first"))?;
        in_sync(pair)
    })
}

#[test]
fn spec_b5_a_planned_failover_waits_for_the_files() -> Result<()> {
    watching(|pair| {
        for number in 0..300 {
            fs::write(at(pair, Side::Alpha, &format!("f{number}")), noise(20_000, number + 1))?;
        }
        pair.alpha.ask(&["failover"])?;
        // Not waited for: the partner had them when it became active.
        let there = fs::read_dir(pair.bravo.directory(UPLOADS))?.count();
        ensure!(there >= 301, "only {there} entries were there");
        pair.wait_roles(Side::Bravo)?;
        fs::write(at(pair, Side::Bravo, "after"), "after")?;
        wait_file(pair, Side::Alpha, "after", Some("after"))?;
        in_sync(pair)
    })
}

#[test]
fn a_mass_deletion_waits_for_an_administrator() -> Result<()> {
    watching(|pair| {
        for number in 0..60 {
            fs::write(at(pair, Side::Alpha, &format!("f{number}")), "x")?;
        }
        in_sync(pair)?;
        for number in 0..60 {
            fs::remove_file(at(pair, Side::Alpha, &format!("f{number}")))?;
        }
        fs::write(at(pair, Side::Alpha, "flows"), "everything else flows")?;
        wait_file(pair, Side::Bravo, "flows", Some("everything else flows"))?;
        let held = |side: Side| {
            let status = pair.server(side).status().ok();
            status.is_some_and(|status| row(&status)["held_deletions"].as_u64() > Some(0))
        };
        // First where they were made, then where they are to happen: neither believes the other.
        for side in Side::BOTH {
            let server = pair.server(side);
            wait_for("deletions wait", SOON, || held(side).then_some(()))?;
            let alarms = server.status()?.0["alarms"].to_string();
            ensure!(alarms.contains("deletions_held"), "{alarms}");
            ensure!(at(pair, Side::Bravo, "f59").exists(), "a held deletion happened");
            let text = server.cli(&["ha-status"])?.stdout;
            ensure!(text.contains("--accept-deletions"), "{text}");
            server.ask(&["repair", "files", UPLOADS, "--accept-deletions"])?;
        }
        wait_file(pair, Side::Bravo, "f59", None)?;
        in_sync(pair)?;
        for side in Side::BOTH {
            pair.server(side).wait("the alarm is over", |status| {
                !status.0["alarms"].to_string().contains("deletions_held")
            })?;
        }
        Ok(())
    })
}

#[test]
fn spec_d5_files_are_compared_and_repaired_from_the_primary_with_a_plan_first() -> Result<()> {
    watching(|pair| {
        fs::write(at(pair, Side::Alpha, "stealth"), "one")?;
        in_sync(pair)?;
        // Same size, same time: only reading it anew shows the difference.
        let file = at(pair, Side::Bravo, "stealth");
        let modified = fs::metadata(&file)?.modified()?;
        pair.bravo.kill();
        fs::write(&file, "two")?;
        fs::File::options().write(true).open(&file)?.set_modified(modified)?;
        pair.bravo.start()?;
        pair.wait_ready()?;
        pair.bravo.cli(&["--yes", "repair", "files"])?.refused(3, "primary")?;
        let plan = pair.alpha.ask(&["repair", "files", "--dry-run"])?;
        ensure!(plan[0]["report"]["applied"] == false, "{plan}");
        pair.alpha.ask(&["repair", "files"])?;
        in_sync(pair)?;
        let compared = pair.alpha.ask(&["compare"])?;
        ensure!(compared["directories"][0]["report"]["differences"] == 0, "{compared}");
        ensure!(compared["databases"][0]["report"].is_object(), "{compared}");
        pair.alpha.cli(&["verify", "dir"])?.ok()?;
        Ok(())
    })
}

#[test]
fn spec_d1_both_sides_of_a_split_keep_their_files_and_the_newer_one_wins() -> Result<()> {
    if !can_cut("spec_d1_both_sides_of_a_split_keep_their_files_and_the_newer_one_wins")? {
        return Ok(());
    }
    watching_with(settings().auto_heal(false), |pair| {
        fs::write(at(pair, Side::Alpha, "both"), "before")?;
        in_sync(pair)?;
        pair.network.cut()?;
        pair.bravo.wait("it took over", |status| status.role() == "active")?;
        fs::write(at(pair, Side::Alpha, "both"), "older")?;
        fs::write(at(pair, Side::Alpha, "only-alpha"), "a")?;
        std::thread::sleep(std::time::Duration::from_millis(20)); // another time stamp
        fs::write(at(pair, Side::Bravo, "both"), "newer")?;
        fs::write(at(pair, Side::Bravo, "only-bravo"), "b")?;
        pair.network.heal()?;
        for side in Side::BOTH {
            pair.server(side).wait("the split is seen", |s| s.state() == "Split Brain")?;
        }
        pair.bravo.ask(&["go-standby"])?;
        pair.wait_roles(Side::Alpha)?;
        wait_file(pair, Side::Alpha, "both", Some("newer"))?;
        in_sync(pair)?;
        let kept = pair.alpha.ask(&["trash", "list"])?.to_string();
        ensure!(kept.contains("conflict") && kept.contains("both"), "{kept}");
        wait_file(pair, Side::Alpha, "only-bravo", Some("b"))?;
        wait_file(pair, Side::Bravo, "only-alpha", Some("a"))
    })
}

#[test]
fn directories_are_protected_and_unprotected_by_verbs_with_clear_refusals() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let path = |side: Side| pair.server(side).home.join("notes").display().to_string();
        let [here, there] = Side::BOTH.map(path);
        let protect = |side: Side, arguments: &[&str]| {
            pair.server(side).cli(&[&["protect", "dir"], arguments].concat())
        };
        protect(Side::Alpha, &[&here, "--name", "notes"])?.refused(3, "is no directory")?;
        protect(Side::Alpha, &["relative"])?.refused(2, "absolute")?;
        let state = pair.alpha.home.join("state/x").display().to_string();
        protect(Side::Alpha, &[&state])?.refused(3, "state directory")?;
        let rule = ["--filter", "nonsense"];
        protect(Side::Alpha, &[&[&here as &str], &rule[..]].concat())?.refused(2, "filter")?;
        protect(Side::Alpha, &[&here, "--name", "notes", "--create"])?.ok()?;
        protect(Side::Alpha, &[&here, "--name", "other"])?.refused(3, "lie in one another")?;
        // Only one of the two watches it: the other says so, with the command.
        pair.bravo.wait("it names the directory", |status| {
            row(status)["hold"].as_str().is_some_and(|hold| hold.contains("ipicsha protect dir"))
        })?;
        protect(Side::Bravo, &[&there, "--name", "notes", "--create"])?.ok()?;
        fs::write(PathBuf::from(&here).join("x"), "x")?;
        wait_for("the file travels", SOON, || fs::read(PathBuf::from(&there).join("x")).ok())?;
        for side in Side::BOTH {
            pair.server(side).ask(&["unprotect", "dir", "notes"])?;
            pair.server(side)
                .cli(&["unprotect", "dir", "notes"])?
                .refused(3, "no directory is called")?;
        }
        pair.alpha.cli(&["verify", "dir", "notes"])?.refused(3, "no directory is called")?;
        ensure!(PathBuf::from(&there).join("x").exists(), "unprotect changed the directory");
        pair.wait_ready()
    })
}
