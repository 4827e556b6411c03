//! `protect db PATTERN`: databases that an application creates while the pair runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Server, Settings, Side, compare, fresh_pair, note,
    process::run,
    wait::{SOON, unix_ms},
    wait_for,
};
use rusqlite::Connection;
use serde_json::Value;

/// Creates each database named, as applications do: an empty file first, then tables, then rows.
const MAKER: &str = "
import os, sqlite3, sys
for path in sys.argv[1:]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, 'a').close()
    db = sqlite3.connect(path, timeout=5)
    db.execute('CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)')
    db.executemany('INSERT INTO notes(text) VALUES(?)', [('made in ' + path,), ('second',)])
    db.commit()
    db.execute('UPDATE notes SET text = text || 1')
    db.commit()
";

fn data(server: &Server, name: &str) -> PathBuf {
    server.home.join("data").join(name)
}

fn make(server: &Server, names: &[&str]) -> Result<()> {
    let paths = names.iter().map(|name| data(server, name));
    run(server.command("python3").args(["-c", MAKER]).args(paths), SOON)?.ok()?;
    Ok(())
}

fn pattern(server: &Server) -> String {
    data(server, "**/*").display().to_string()
}

/// The pattern on both servers, whose paths differ, and HA.
fn configure(pair: &mut Pair) -> Result<()> {
    pair.start()?;
    for side in Side::BOTH {
        let server = pair.server(side);
        let answer = server.ask(&["protect", "db", &pattern(server), "--name", "app"])?;
        ensure!(answer["pattern"]["name"] == "app", "{answer}");
    }
    pair.make_ready_from_started()
}

fn rows(server: &Server) -> Result<Vec<Value>> {
    Ok(server.status()?.0["databases"].as_array().cloned().unwrap_or_default())
}

fn row(server: &Server, name: &str) -> Result<Option<Value>> {
    Ok(rows(server)?.into_iter().find(|row| row["name"] == name))
}

fn wait_hold(server: &Server, name: &str, text: &str) -> Result<Value> {
    wait_for(&format!("{name} is held: {text}"), SOON, || {
        let row = row(server, name).ok()??;
        row["hold"].as_str().is_some_and(|hold| hold.contains(text)).then_some(row)
    })
}

fn wait_equal(pair: &Pair, name: &str) -> Result<()> {
    wait_for(&format!("{name} is on both"), SOON, || {
        (data(&pair.alpha, name).exists() && data(&pair.bravo, name).exists()).then_some(())
    })?;
    compare::wait_equal(&data(&pair.alpha, name), &data(&pair.bravo, name), SOON)
}

fn must_be_fenced(path: &Path) -> Result<()> {
    let said = Connection::open(path)?.execute("DELETE FROM notes", []).err();
    let said = said.context("a standby accepted a write")?.to_string();
    ensure!(said.contains("this server is standby"), "{said}");
    Ok(())
}

#[test]
fn databases_created_at_run_time_are_on_the_standby_in_both_directions() -> Result<()> {
    fresh_pair(Settings::fast().databases(&[]), |pair| {
        make_before(pair)?;
        configure(pair)?;
        wait_equal(pair, "before.db")?;
        let began = unix_ms();
        make(&pair.alpha, &["one.db", "deep/er/two.db"])?;
        wait_for("the active protects it", SOON, || row(&pair.alpha, "app/one.db").ok()?)?;
        note(&format!("a new database is protected after {} ms", unix_ms() - began));
        for name in ["one.db", "deep/er/two.db"] {
            wait_equal(pair, name)?;
            must_be_fenced(&data(&pair.bravo, name))?;
        }
        note(&format!("two new databases are on the standby after {} ms", unix_ms() - began));
        pair.wait_ready()?;
        for side in Side::BOTH {
            let mut names: Vec<_> = rows(pair.server(side))?;
            names.retain(|row| row["hold"].is_null() && row["pattern"].is_string());
            let names: Vec<_> = names.iter().map(|row| row["name"].clone()).collect();
            ensure!(names == ["app/before.db", "app/deep/er/two.db", "app/one.db"], "{names:?}");
        }
        left_alone(pair)?;

        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        make(&pair.bravo, &["three.db"])?;
        wait_equal(pair, "three.db")?;
        must_be_fenced(&data(&pair.alpha, "three.db"))?;
        Connection::open(data(&pair.bravo, "one.db"))?.execute("DELETE FROM notes", [])?;
        wait_equal(pair, "one.db")?;

        // What both know survives restarts; what comes meanwhile is taken afterwards.
        pair.wait_ready()?;
        pair.bravo.kill_everything()?;
        pair.alpha.wait("it takes over", |status| status.role() == "active")?;
        make(&pair.alpha, &["four.db"])?;
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        for name in ["before.db", "one.db", "deep/er/two.db", "three.db", "four.db"] {
            wait_equal(pair, name)?;
        }
        pair.wait_ready()
    })
}

fn make_before(pair: &Pair) -> Result<()> {
    make(&pair.alpha, &["before.db"])?;
    fs::write(data(&pair.alpha, "readme.txt"), "no database ".repeat(100))?;
    Ok(fs::write(data(&pair.alpha, "empty"), "")?)
}

/// Files that are no databases stay where they are, until they become ones.
fn left_alone(pair: &Pair) -> Result<()> {
    let status = pair.alpha.status()?;
    let left = status.0["patterns"][0]["left"].to_string();
    ensure!(left.contains("readme.txt") && left.contains("empty"), "{left}");
    for companion in ["-wal", "-shm", "-journal"] {
        ensure!(!left.contains(companion), "{left}");
    }
    let text = pair.alpha.cli(&["ha-status"])?.ok()?;
    ensure!(text.contains("Pattern ") && text.contains("not taken: "), "{text}");
    ensure!(!data(&pair.bravo, "readme.txt").exists(), "it was copied");
    make(&pair.alpha, &["empty"])?;
    wait_equal(pair, "empty")?;
    for side in Side::BOTH {
        pair.server(side).ask(&["unprotect", "db", "app/empty"])?;
    }
    pair.wait_ready()
}

#[test]
fn a_database_the_application_deletes_is_held_and_not_deleted_on_the_partner() -> Result<()> {
    fresh_pair(Settings::fast().databases(&[]), |pair| {
        make(&pair.alpha, &["keep.db", "gone.db"])?;
        configure(pair)?;
        wait_equal(pair, "gone.db")?;
        let path = data(&pair.alpha, "gone.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", path.display())); // some do not exist
        }
        wait_hold(&pair.alpha, "app/gone.db", "was deleted here")?;
        ensure!(data(&pair.bravo, "gone.db").exists(), "it was deleted on the partner");
        pair.alpha.kill();
        pair.alpha.start()?;
        wait_hold(&pair.alpha, "app/gone.db", "was deleted here")?;
        ensure!(!path.exists(), "it came back by itself");
        // The others go on.
        Connection::open(data(&pair.alpha, "keep.db"))?.execute("DELETE FROM notes", [])?;
        wait_equal(pair, "keep.db")?;

        pair.alpha.ask(&["unprotect", "db", "app/gone.db"])?;
        let only = wait_hold(&pair.alpha, "app/gone.db", "on the partner only")?;
        ensure!(only["hold"].to_string().contains("unprotect db app/gone.db"), "{only}");
        pair.bravo.ask(&["unprotect", "db", "app/gone.db"])?;
        pair.wait_ready()?;
        wait_for("nobody knows it any more", SOON, || {
            let known = |side| row(pair.server(side), "app/gone.db").ok().map(|row| row.is_some());
            (!known(Side::Alpha)? && !known(Side::Bravo)?).then_some(())
        })?;
        ensure!(!path.exists(), "it came back");
        // Made anew it stays out, until it is protected again.
        make(&pair.alpha, &["gone.db", "marker.db"])?;
        wait_equal(pair, "marker.db")?;
        ensure!(row(&pair.alpha, "app/gone.db")?.is_none(), "it was taken again");
        let out = &pair.alpha.status()?.0["patterns"][0]["excluded"];
        ensure!(*out == serde_json::json!(["gone.db"]), "{out}");
        pair.bravo.ask(&["protect", "db", &data(&pair.bravo, "gone.db").display().to_string()])?;
        pair.alpha.ask(&["protect", "db", &path.display().to_string()])?;
        wait_for("it is taken back", SOON, || row(&pair.alpha, "app/gone.db").ok()?)?;
        wait_for("both are merged", SOON, || {
            compare::differences(&path, &data(&pair.bravo, "gone.db"))
                .ok()?
                .is_empty()
                .then_some(())
        })?;
        pair.wait_ready()
    })
}

#[test]
fn unprotecting_a_pattern_leaves_no_trace_in_its_databases() -> Result<()> {
    fresh_pair(Settings::fast().databases(&[]), |pair| {
        make(&pair.alpha, &["one.db", "two.db"])?;
        configure(pair)?;
        for name in ["one.db", "two.db"] {
            wait_equal(pair, name)?;
        }
        for side in Side::BOTH {
            let server = pair.server(side);
            server.ask(&["unprotect", "db", &pattern(server)])?;
            server.cli(&["unprotect", "db", "app"])?.refused(3, "no database is called")?;
            for name in ["one.db", "two.db"] {
                let db = Connection::open(data(server, name))?;
                let ours =
                    "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_ipicsha%' ESCAPE '\\'";
                let count: i64 = db.query_row(ours, [], |row| row.get(0))?;
                ensure!(count == 0, "{count} objects of ours are in {name} on {}", side.name());
                db.execute("DELETE FROM notes", [])?;
            }
            ensure!(server.status()?.0["patterns"] == serde_json::json!([]), "it is still there");
        }
        pair.wait_ready()?;
        ensure!(rows(&pair.alpha)?.is_empty() && rows(&pair.bravo)?.is_empty(), "rows are left");
        Ok(())
    })
}

#[test]
fn what_makes_no_sense_is_refused_with_a_next_step_and_the_rest_is_explained() -> Result<()> {
    fresh_pair(Settings::fast().databases(&[]), |pair| {
        pair.alpha.start()?;
        let server = &pair.alpha;
        let protect =
            |text: &str, more: &[&str]| server.cli(&[&["protect", "db", text], more].concat());
        protect("data/*.db", &[])?.refused(2, "relative")?;
        protect("/*.db", &[])?.refused(2, "wildcard")?;
        protect(&data(server, "**").display().to_string(), &[])?.refused(2, "names no files")?;
        let file = server.write("file", "in the place of a directory")?;
        protect(&file.join("*.db").display().to_string(), &[])?.refused(3, "cannot be read")?;
        let first = data(server, "*.db").display().to_string();
        let said = protect(&first, &["--name", "app"])?.ok()?;
        ensure!(said.contains("matches no database yet"), "{said}");
        protect(&first, &[])?.refused(3, "already protected")?;
        let elsewhere = server.home.join("other/*.db").display().to_string();
        protect(&elsewhere, &["--name", "app"])?.refused(3, "app")?;

        // Two patterns that overlap: a file belongs to the first.
        protect(&data(server, "**/*").display().to_string(), &[])?.ok()?;
        make(server, &["one.db", "sub/two.db"])?;
        let owner = |name: &str| {
            wait_for(&format!("{name} is protected"), SOON, || {
                let rows = rows(server).ok()?;
                let row = rows
                    .iter()
                    .find(|row| row["path"] == data(server, name).display().to_string())?;
                Some(row["pattern"].clone())
            })
        };
        ensure!(owner("one.db")? == first.as_str(), "{:?}", rows(server));
        ensure!(
            owner("sub/two.db")? == data(server, "**/*").display().to_string(),
            "{:?}",
            rows(server)
        );
        let path = data(server, "one.db").display().to_string();
        protect(&path, &[])?.refused(3, "already protected")?;
        // The same file under a second name is one database.
        std::os::unix::fs::symlink(data(server, "one.db"), data(server, "alias.db"))?;
        wait_for("the alias is seen", SOON, || {
            let patterns = server.status().ok()?.0["patterns"].to_string();
            patterns.contains("the same file as").then_some(())
        })?;
        Ok(())
    })
}

#[test]
fn a_pattern_has_a_limit_and_says_what_is_beyond_it() -> Result<()> {
    fresh_pair(Settings::fast().databases(&[]), |pair| {
        pair.alpha.start()?;
        let names: Vec<String> = (0..100).map(|n| format!("{n:03}.db")).collect();
        make(&pair.alpha, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
        let answer = pair.alpha.ask(&["protect", "db", &pattern(&pair.alpha)])?;
        ensure!(answer["pattern"]["databases"] == 100, "{answer}");
        make(&pair.alpha, &["beyond.db"])?;
        let status = pair
            .alpha
            .wait("the limit is shown", |status| status.0["patterns"][0]["problem"].is_string())?;
        let problem = status.0["patterns"][0]["problem"].to_string();
        for word in ["more than 100 databases", "beyond.db", "narrower"] {
            ensure!(problem.contains(word), "{problem}");
        }
        ensure!(rows(&pair.alpha)?.len() == 100, "there are more");
        pair.alpha.ask(&["unprotect", "db", &pattern(&pair.alpha)])?;
        let again = pair.alpha.cli(&["protect", "db", &pattern(&pair.alpha)])?;
        again.refused(3, "more than 100 databases")
    })
}
