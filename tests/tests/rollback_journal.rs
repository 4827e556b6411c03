//! A database that stays in its rollback-journal mode (`protect db --keep-journal-mode`), with an
//! application in another process that has a busy timeout.

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Pair, Settings, Side, fresh_pair, note, settings::BOARD, writers::Writers};

/// Makes the database as an application does that never heard of WAL.
fn make(pair: &Pair) -> Result<()> {
    pair.alpha.application(BOARD)?.execute(
        "CREATE TABLE calls(id TEXT PRIMARY KEY, what TEXT NOT NULL, weight REAL, note BLOB);
         INSERT INTO calls(id, what) VALUES('first', 'smoke in the hall');",
    )
}

fn row(pair: &Pair, side: Side) -> Result<serde_json::Value> {
    let status = pair.server(side).status()?;
    status.0["databases"].get(0).cloned().context("no database")
}

#[test]
fn a_writer_in_delete_mode_is_followed_through_failover_and_takeover() -> Result<()> {
    fresh_pair(Settings::fast().protect_with(&["--keep-journal-mode"]), |pair| {
        make(pair)?;
        pair.make_ready()?;
        for side in Side::BOTH {
            let row = row(pair, side)?;
            ensure!(row["journal_mode"] == "delete", "{}: {row}", side.name());
            let warned = row["warnings"].to_string();
            ensure!(warned.contains("SQLITE_BUSY") && warned.contains("EXTRA"), "{row}");
        }
        // Each raises on any other error than the fence, SQLITE_BUSY after five seconds included.
        let on_alpha = Writers::start(&pair.alpha, BOARD, "a", 2)?;
        let on_bravo = Writers::start(&pair.bravo, BOARD, "b", 2)?;
        on_alpha.wait_acked(30)?;
        let there = pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        on_bravo.wait_acked(30)?;
        let back = pair.bravo.ask(&["failover"])?;
        pair.wait_roles(Side::Alpha)?;
        on_alpha.wait_acked(30 + on_alpha.acked() / 2)?;
        let (alphas, bravos) = (on_alpha.stop()?, on_bravo.stop()?);
        ensure!(alphas.refused > 0 && bravos.refused > 0, "nobody met the fence");
        pair.wait_equal()?;

        let doomed = Writers::start(&pair.alpha, BOARD, "c", 1)?;
        doomed.wait_acked(10)?;
        pair.alpha.kill_everything()?;
        let killed = doomed.after_kill();
        pair.bravo.wait("it takes over", |status| status.role() == "active")?;
        pair.bravo.application(BOARD)?.add_call("after the takeover", "on bravo")?;
        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        pair.wait_equal()?;
        let all = alphas.acked.iter().chain(&bravos.acked).chain(&killed.acked);
        for id in all.clone() {
            let found = pair.alpha.application(BOARD)?.call(id)?;
            ensure!(found.is_some(), "{id} was acknowledged and is lost");
        }
        for side in Side::BOTH {
            ensure!(row(pair, side)?["journal_mode"] == "delete", "{}", side.name());
        }
        note(&format!(
            "delete mode: failover under writers took {} s, back {} s; {} acknowledged, 0 lost",
            there["took_seconds"],
            back["took_seconds"],
            all.count()
        ));
        Ok(())
    })
}

#[test]
fn by_default_the_file_is_switched_to_wal_and_protect_says_so() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        make(pair)?;
        pair.start()?;
        let path = pair.alpha.database(BOARD).display().to_string();
        let said = pair.alpha.cli(&["protect", "db", &path, "--name", BOARD])?.ok()?;
        ensure!(said.contains("switched to WAL"), "{said}");
        pair.alpha.ask(&["unprotect", "db", BOARD])?;
        let keeps = ["protect", "db", &path, "--name", BOARD, "--keep-journal-mode"];
        let said = pair.alpha.cli(&keeps)?.ok()?;
        ensure!(said.contains("stays in journal mode delete"), "{said}");
        ensure!(said.contains("busy timeout"), "{said}");
        pair.alpha.ask(&["unprotect", "db", BOARD])?;
        pair.make_ready_from_started()?;
        for side in Side::BOTH {
            let status = pair.server(side).wait("it is in WAL mode", |status| {
                status.0["databases"][0]["journal_mode"] == "wal"
            })?;
            ensure!(status.0["databases"][0]["warnings"] == serde_json::json!([]), "{status:?}");
        }
        Ok(())
    })
}
