//! The link is cut: both active, seen, ended, repaired; nothing is thrown away.

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Server, Settings, Side, net, note, ready_pair, settings::BOARD, wait::SOON,
    wait::unix_ms, wait_for,
};
use serde_json::Value;

/// Cuts the link and waits until both servers are active.
fn cut(pair: &Pair) -> Result<()> {
    pair.network.cut()?;
    both_active(pair)?;
    let silence = pair.bravo.silence_before_takeover_ms()?;
    note(&format!("takeover after a cut: {silence} ms after the last heartbeat"));
    ensure!(silence >= pair.settings.takeover_after_ms(), "too early: {silence} ms");
    Ok(())
}

fn both_active(pair: &Pair) -> Result<()> {
    for side in Side::BOTH {
        pair.server(side).wait("it is active and alone", |status| {
            status.role() == "active" && !status.partner_reachable()
        })?;
    }
    Ok(())
}

/// Entries of the conflict journal of one server.
fn conflicts(server: &Server) -> Result<Vec<Value>> {
    let list = server.ask(&["conflicts", "list"])?;
    Ok(list.as_array().context("the list of conflicts")?.clone())
}

/// Brings the link back and waits until both servers show the split.
fn heal_and_see(pair: &Pair) -> Result<()> {
    let healed = unix_ms();
    pair.network.heal()?;
    for side in Side::BOTH {
        let server = pair.server(side);
        let status = server.wait("it sees the split brain", |status| status.is_split())?;
        ensure!(status.state() == "Split Brain", "{status:?}");
        ensure!(status.has_alarm("split_brain"), "{status:?}");
        ensure!(status.recommended_action().contains("go-standby"), "{status:?}");
        let after = server.entered_ms("Split Brain")? - healed;
        note(&format!("{} saw the split {after} ms after the link's return", side.name()));
        let generous = pair.settings.interval_ms() + 2000;
        ensure!(after <= generous, "noticed only after {after} ms");
    }
    Ok(())
}

/// Each server shows since when and why both are active, and from when to when both were written to.
fn timelines_are_shown(pair: &Pair) -> Result<()> {
    for side in Side::BOTH {
        let status = pair.server(side).wait("it knows the changes of both", |status| {
            let changes = |name: &str| status.timeline(name).and_then(|it| it["changes"].as_u64());
            changes("alpha") == Some(4) && changes("bravo") == Some(4)
        })?;
        let at = |server: &str, key: &str| {
            status.timeline(server).and_then(|it| it[key].as_i64()).context("a time is missing")
        };
        let took_over = at("bravo", "active_since_unix_ms")?;
        ensure!(at("alpha", "active_since_unix_ms")? < took_over, "{status:?}");
        for server in ["alpha", "bravo"] {
            let first = at(server, "first_change_unix_ms")?;
            let last = at(server, "last_change_unix_ms")?;
            ensure!(took_over <= first && first <= last && last <= unix_ms(), "{status:?}");
        }
        let shown = pair.server(side).cli(&["ha-status"])?.stdout;
        let why = "(Peer Down), 4 changes of its own from ";
        ensure!(shown.contains("bravo: active since ") && shown.contains(why), "{shown}");
    }
    Ok(())
}

#[test]
fn spec_d1_d3_d4_split_brain_is_seen_ended_and_repaired() -> Result<()> {
    if !net::can_cut("split brain")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        cut(pair)?;
        let (a, b) = (pair.alpha.application(BOARD)?, pair.bravo.application(BOARD)?);
        a.add_call("on alpha", "smoke")?;
        b.add_call("on bravo", "water")?;
        a.execute("UPDATE calls SET what = 'alpha says' WHERE id = 'first'")?;
        b.execute("UPDATE calls SET what = 'bravo says' WHERE id = 'first'")?;
        a.execute("DELETE FROM calls WHERE id = 'second'")?;
        b.execute("UPDATE calls SET what = 'bravo keeps it' WHERE id = 'second'")?;
        a.add_call("same key", "alpha's")?;
        b.add_call("same key", "bravo's")?;

        let states = pair.states()?;
        pair.bravo.cli(&["--yes", "go-standby"])?.refused(3, "no split brain")?;
        ensure!(pair.states()? == states, "a refusal changed something");

        heal_and_see(pair)?;
        timelines_are_shown(pair)?;
        pair.alpha.cli(&["--yes", "repair"])?.refused(3, "split brain")?;
        pair.bravo.ask(&["go-standby"])?;
        pair.wait_roles(Side::Alpha)?;
        pair.bravo.application(BOARD)?.must_be_fenced()?;
        let outcomes = pair.alpha.ask(&["repair"])?;
        ensure!(outcomes[0]["error"].is_null(), "{outcomes}");
        pair.alpha.wait("nothing is left to repair", |status| {
            status.no_repair_pending() && !status.has_alarm("repair_due")
        })?;
        pair.wait_equal()?;
        for id in ["on alpha", "on bravo", "same key"] {
            ensure!(pair.bravo.application(BOARD)?.call(id)?.is_some(), "{id} is lost");
        }
        losers_are_kept(pair)
    })
}

/// The status of replication counts what the list of conflicts shows.
fn are_counted(server: &Server, listed: &[Value]) -> Result<()> {
    let answer = server.ask(&["dbreplication", "status", "--db", BOARD])?;
    let database = &answer["databases"][0];
    let tables = database["tables"].as_array().context("no tables")?;
    for table in tables {
        let about = listed.iter().filter(|entry| entry["table"] == table["table"]).count();
        ensure!(table["conflicts"] == about, "not {about}: {table}");
    }
    ensure!(database["conflicts"] == listed.len(), "not {}: {database}", listed.len());
    Ok(())
}

/// Each of the three clashes has its loser in a journal, and a restored one reaches both servers.
fn losers_are_kept(pair: &Pair) -> Result<()> {
    let kept = [conflicts(&pair.alpha)?, conflicts(&pair.bravo)?];
    for (side, listed) in Side::BOTH.into_iter().zip(&kept) {
        are_counted(pair.server(side), listed)?;
    }
    for key in ["first", "second", "same key"] {
        let about = |entry: &&Value| entry["key_text"].as_str().is_some_and(|k| k.contains(key));
        let listed = kept.iter().flatten().filter(about).count();
        ensure!(listed > 0, "the loser of {key:?} is in no journal: {kept:#?}");
    }
    let (side, entry) = Side::BOTH
        .into_iter()
        .zip(&kept)
        .find_map(|(side, list)| {
            let about = |e: &&Value| e["key_text"].as_str().is_some_and(|k| k.contains("first"));
            Some((side, list.iter().find(about)?))
        })
        .context("no entry")?;
    let id = entry["id"].as_i64().context("its number")?.to_string();
    let shown = pair.server(side).ask(&["conflicts", "show", &id])?;
    let lost = if shown["loser_text"].as_str().is_some_and(|text| text.contains("alpha says")) {
        "alpha says"
    } else {
        "bravo says"
    };
    let kept = pair.alpha.application(BOARD)?.call("first")?.context("the record")?;
    ensure!(kept != lost, "winner and loser are the same: {shown}");
    if side == Side::Bravo {
        // Restoring is an ordinary write: only the active may.
        pair.bravo.cli(&["--yes", "conflicts", "restore", &id])?.refused(3, "standby")?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
    }
    pair.server(side).ask(&["conflicts", "restore", &id])?;
    for server in [&pair.alpha, &pair.bravo] {
        let application = server.application(BOARD)?;
        wait_for("the restored version is there", SOON, || {
            application.call("first").ok().flatten().filter(|what| what == lost)
        })?;
    }
    pair.wait_equal()
}

#[test]
fn a_server_that_wrote_nothing_steps_back_by_itself() -> Result<()> {
    if !net::can_cut("auto heal")? {
        return Ok(());
    }
    for writer in Side::BOTH {
        ready_pair(Settings::fast(), |pair| {
            cut(pair)?;
            pair.server(writer).application(BOARD)?.add_call("only here", writer.name())?;
            pair.network.heal()?;
            pair.wait_roles(writer)?;
            pair.wait_equal()?;
            let other = pair.server(writer.other());
            ensure!(other.application(BOARD)?.call("only here")?.is_some(), "it is lost");
            other.application(BOARD)?.must_be_fenced()?;
            ensure!(!other.status()?.has_alarm("repair_due"), "nothing is left to repair");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn with_auto_heal_off_both_stay_active_until_go_standby() -> Result<()> {
    if !net::can_cut("auto heal off")? {
        return Ok(());
    }
    ready_pair(Settings::fast().auto_heal(false), |pair| {
        cut(pair)?;
        heal_and_see(pair)?;
        pair.alpha.ask(&["go-standby"])?;
        pair.wait_roles(Side::Bravo)?;
        pair.bravo.ask(&["repair"])?;
        pair.wait_equal()
    })
}

#[test]
fn a_one_way_cut_ends_in_the_same_verdict_as_a_cut_both_ways() -> Result<()> {
    if !net::can_cut("one-way cut")? {
        return Ok(());
    }
    for silent in Side::BOTH {
        ready_pair(Settings::fast(), |pair| {
            pair.network.cut_from(silent)?;
            // Heartbeats need acknowledgements: neither direction of TCP lives without the other.
            both_active(pair)?;
            pair.network.heal()?;
            pair.wait_roles(Side::Alpha)?; // nobody wrote: the secondary steps back
            pair.alpha.application(BOARD)?.add_call("after the cut", "on alpha")?;
            pair.wait_equal()
        })
        .with_context(|| format!("what {} sends was lost", silent.name()))?;
    }
    Ok(())
}

#[test]
fn a_cut_shorter_than_d_changes_nothing() -> Result<()> {
    if !net::can_cut("short cut")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        let epoch = pair.alpha.status()?.epoch();
        pair.network.cut()?;
        pair.alpha.application(BOARD)?.add_call("during the cut", "on alpha")?;
        pair.bravo.wait("it suspects", |status| {
            status.heartbeat_age_ms().is_some_and(|age| age > 300.0)
        })?;
        pair.network.heal()?;
        pair.wait_equal()?;
        pair.wait_roles(Side::Alpha)?;
        ensure!(pair.alpha.status()?.epoch() == epoch, "somebody took over");
        Ok(())
    })
}
