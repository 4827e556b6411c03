//! A full transaction log blocks nobody: HA unconfigures itself (spec C4).

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Status, fresh_pair, ready_pair, settings::BOARD, wait::SOON, wait_for,
    writers::Writers,
};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn spec_c4_alarm_at_75_percent_and_unconfigured_at_90_with_every_write_accepted() -> Result<()> {
    ready_pair(Settings::fast().log_capacity(4096), |pair| {
        ensure!(pair.alpha.cli(&["verify"])?.code == Some(0), "a ready pair is equal");
        pair.bravo.kill();
        let application = pair.alpha.application(BOARD)?;
        let write = |from: u32, to: u32| -> Result<()> {
            (from..to).try_for_each(|id| application.add_call(&format!("late {id}"), "alone"))
        };
        write(0, 3300)?;
        let filling = pair.alpha.wait("75 % is an alarm that knows the rate", |status| {
            alarm(status, "log_filling").is_some_and(|alarm| alarm["forecast"]["growth"] == "full")
                && status.0["databases"][0]["log"]["used_entries"] == 3300
        })?;
        let row = &filling.0["databases"][0];
        ensure!(row["log"]["capacity_entries"] == 4096, "{row}");
        ensure!(row["log"]["used_bytes"].as_u64().is_some_and(|bytes| bytes > 3300 * 20), "{row}");
        ensure!(row["log"]["capacity_bytes"] == 256 << 20, "{row}");
        ensure!(row["log"]["forecast"]["seconds"].is_u64(), "{row}");
        let text = pair.alpha.cli(&["ha-status"])?.ok()?;
        let shown = |line: &str| text.lines().any(|found| found.contains(line));
        ensure!(
            shown("ALARM: the transaction log of board is filled to 80 %: 90 % in about"),
            "{text}"
        );
        ensure!(shown("transaction log: 3300 of 4096 changes, about"), "{text}");
        ensure!(pair.alpha.status()?.ha() == "configured", "80 % is only an alarm");
        write(3300, 3800)?;
        let status = pair.alpha.wait("90 % unconfigures", |s| s.ha() == "not configured")?;
        ensure!(status.has_alarm("log_full"), "it says why");
        ensure!(status.recommended_action().contains("configure"), "and what to do");
        wait_for("our objects are gone", SOON, || {
            application.objects_of("_ipicsha_").ok().filter(Vec::is_empty)
        })?;
        write(3800, 4400)?;
        pair.bravo.start()?;
        pair.bravo.wait("bravo learns of it", |s| s.ha() == "not configured")?;
        pair.wait_contact()?;
        pair.alpha.ask(&["configure"])?;
        pair.wait_ready()?;
        ensure!(!pair.alpha.status()?.has_alarm("log_full"), "it is over");
        pair.wait_equal()?;
        ensure!(application.call("late 4399")?.is_some(), "nothing is lost");
        ensure!(pair.bravo.cli(&["verify"])?.code == Some(0), "verify runs on either server");
        Ok(())
    })
}

/// The alarm of this kind.
fn alarm<'a>(status: &'a Status, kind: &str) -> Option<&'a Value> {
    status.0["alarms"].as_array()?.iter().find(|alarm| alarm["kind"] == kind)
}

/// HA has ended because of an overflow: alarm and history say so, and no trace is left.
fn wait_overflow(pair: &Pair) -> Result<()> {
    let status = pair.alpha.wait("an overflow unconfigures", |s| s.ha() == "not configured")?;
    let raised = alarm(&status, "log_full").context("it says why")?;
    ensure!(raised["overflowed"] == true && raised["database"] == BOARD, "{raised}");
    ensure!(status.recommended_action().contains("configure"), "and what to do");
    let history = pair.alpha.history()?;
    let noted = |entry: &&Value| entry["event"] == "raised" && entry["alarm"]["kind"] == "log_full";
    ensure!(history.iter().filter(noted).count() == 1, "the history has it once: {history:?}");
    let application = pair.alpha.application(BOARD)?;
    wait_for("our objects are gone", SOON, || {
        application.objects_of("_ipicsha_").ok().filter(Vec::is_empty)
    })?;
    Ok(())
}

/// The administrator configures anew, and everything is on both servers.
fn configure_anew(pair: &Pair, acked: &[String]) -> Result<()> {
    pair.bravo.wait("bravo learns of it", |s| s.ha() == "not configured")?;
    pair.wait_contact()?;
    pair.alpha.ask(&["configure"])?;
    pair.wait_ready()?;
    ensure!(alarm(&pair.alpha.status()?, "log_full").is_none(), "it is over");
    pair.wait_equal()?;
    let there = pair.bravo.application(BOARD)?;
    for id in acked {
        there.call(id)?.with_context(|| format!("{id} was acknowledged and is lost"))?;
    }
    Ok(())
}

#[test]
fn spec_c4_an_overflow_while_the_daemon_was_killed_unconfigures_at_its_start() -> Result<()> {
    ready_pair(Settings::fast().log_capacity(4096), |pair| {
        pair.alpha.application(BOARD)?.add_call("shipped", "before")?;
        pair.alpha.ask(&["barrier"])?;
        pair.bravo.kill();
        pair.alpha.kill();
        let writers = Writers::start_bulk(&pair.alpha, BOARD, "orphan", 2, 50)?;
        writers.wait_acked(5000)?;
        pair.alpha.start()?;
        wait_overflow(pair)?;
        writers.wait_acked(50 + writers.acked() / 2)?;
        // It is not forgotten until HA is configured anew.
        pair.alpha.stop_by(Signal::USR1)?;
        pair.alpha.start()?;
        pair.alpha.wait("a restart does not forget it", |status| status.has_alarm("log_full"))?;
        let seen = writers.stop()?;
        ensure!(seen.refused == 0, "the application was stopped");
        pair.bravo.start()?;
        configure_anew(pair, &seen.acked)
    })
}

#[test]
fn spec_c4_one_transaction_larger_than_the_log_unconfigures_and_succeeds() -> Result<()> {
    ready_pair(Settings::fast().log_capacity(4096), |pair| {
        let others = Writers::start(&pair.alpha, BOARD, "small", 2)?;
        others.wait_acked(20)?;
        let large = Writers::start_bulk(&pair.alpha, BOARD, "large", 1, 10_000)?;
        large.wait_acked(10_000)?;
        wait_overflow(pair)?;
        others.wait_acked(20 + others.acked() / 2)?;
        // Each of them ends well only if none of its commits failed.
        let (large, others) = (large.stop()?, others.stop()?);
        ensure!(large.refused + others.refused == 0, "the application was stopped");
        configure_anew(pair, &[large.acked, others.acked].concat())
    })
}

#[test]
fn a_log_gets_more_room_while_the_partner_is_away_and_keeps_it() -> Result<()> {
    ready_pair(Settings::fast().log_capacity(4096), |pair| {
        pair.bravo.kill();
        let application = pair.alpha.application(BOARD)?;
        let write = |from: u32, to: u32| -> Result<()> {
            application.execute("BEGIN")?;
            (from..to).try_for_each(|id| application.add_call(&format!("late {id}"), "alone"))?;
            application.execute("COMMIT")
        };
        write(0, 3400)?;
        pair.alpha.wait("75 % is an alarm", |status| status.has_alarm("log_filling"))?;
        let path = pair.alpha.database(BOARD).display().to_string();
        let protect =
            |limits: &[&str]| pair.alpha.cli(&[&["protect", "db", &path], limits].concat());
        protect(&["--log-entries", "4095"])?.refused(2, "4096 to 1000000000")?;
        protect(&["--log-bytes", "1KiB"])?.refused(2, "1 MiB to 1 TiB")?;
        ensure!(protect(&["--log-bytes", "much"])?.code == Some(2), "no size at all");
        protect(&["--log-entries", "4200"])?.ok()?;
        protect(&["--log-entries", "4096"])?.refused(3, "3400 changes")?;
        protect(&[])?.refused(3, "already protected")?;
        protect(&["--log-entries", "50000", "--log-bytes", "64MiB", "--name", "other"])?
            .refused(3, "already protected")?;
        let said = protect(&["--log-entries", "50000", "--log-bytes", "64MiB"])?.ok()?;
        ensure!(said.contains("50000 changes, 64 MiB"), "{said}");
        pair.alpha.wait("there is room", |status| !status.has_alarm("log_filling"))?;
        write(3400, 8000)?;
        pair.alpha.stop_by(Signal::USR1)?;
        pair.alpha.start()?;
        pair.alpha.wait("the room is remembered", |status| {
            let log = &status.0["databases"][0]["log"];
            log["capacity_entries"] == 50_000
                && log["capacity_bytes"] == 64 << 20
                && log["used_entries"] == 8000
        })?;
        pair.bravo.start()?;
        pair.wait_ready()?;
        pair.wait_equal()?;
        ensure!(pair.alpha.status()?.ha() == "configured", "nothing has ended");
        Ok(())
    })
}

#[test]
fn databases_of_a_pattern_have_its_limits_or_their_own() -> Result<()> {
    fresh_pair(Settings::fast().databases(&[]), |pair| {
        for name in ["one", "two"] {
            pair.alpha.application(name)?.create()?;
        }
        pair.alpha.start()?;
        let pattern = pair.alpha.home.join("data/*.sqlite").display().to_string();
        let wrong = ["protect", "db", &pattern, "--log-entries", "7"];
        pair.alpha.cli(&wrong)?.refused(2, "4096 to 1000000000")?;
        pair.alpha.ask(&["protect", "db", &pattern, "--log-entries", "5000"])?;
        let one = pair.alpha.database("one").display().to_string();
        let row = pair.alpha.ask(&["protect", "db", &one, "--log-bytes", "2MiB"])?;
        ensure!(row["log"]["capacity_bytes"] == 2 << 20, "{row}");
        for _ in 0..2 {
            pair.alpha.wait("both have their limits", |status| {
                let rows = status.0["databases"].as_array().map_or(&[][..], Vec::as_slice);
                let of = |name: &str, entries: u64, bytes: u64| {
                    rows.iter().any(|row| {
                        row["path"].as_str().is_some_and(|path| path.ends_with(name))
                            && row["log"]["capacity_entries"] == entries
                            && row["log"]["capacity_bytes"] == bytes
                    })
                };
                of("one.sqlite", 5000, 2 << 20) && of("two.sqlite", 5000, 256 << 20)
            })?;
            pair.alpha.stop_by(Signal::USR1)?;
            pair.alpha.start()?;
        }
        Ok(())
    })
}
