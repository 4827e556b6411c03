//! Alarms reach whom they concern, on a real pair: by webhook and by mail, once (spec F4).

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Pair, Settings, Side, Sink, fresh_pair, wait::SOON, wait_for};
use rustix::process::Signal;

fn with_sinks(test: impl FnOnce(&mut Pair, &mut [Option<Sink>; 2]) -> Result<()>) -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        let mut sinks =
            [Some(Sink::start(pair, Side::Alpha)?), Some(Sink::start(pair, Side::Bravo)?)];
        pair.start()?;
        pair.make_ready_from_started()?;
        test(pair, &mut sinks)
    })
}

fn sink(sinks: &[Option<Sink>; 2], side: Side) -> Result<&Sink> {
    sinks[side as usize].as_ref().context("the sink runs")
}

#[test]
fn a_lost_partner_is_told_by_webhook_and_mail_until_it_is_acknowledged_and_back() -> Result<()> {
    with_sinks(|pair, sinks| {
        pair.alpha.cli(&["alarms", "test"])?.ok()?;
        let alpha = sink(sinks, Side::Alpha)?;
        alpha.wait("test", "test")?;
        pair.bravo.stop_by(Signal::KILL)?;
        alpha.wait("raised", "partner_down")?;
        let mail = wait_for("the mail arrives", SOON, || {
            alpha.mails().into_iter().find(|mail| mail.contains("partner is down"))
        })?;
        for part in
            ["Subject: [e2e] ALARM alpha: the partner is down", "ipicsha alarms ack", "(active)"]
        {
            ensure!(mail.contains(part), "{part} is missing: {mail}");
        }
        let listed = pair.alpha.ask(&["alarms", "list"])?;
        let alarm = &listed["alarms"][0];
        ensure!(
            alarm["alarm"]["kind"] == "partner_down" && alarm["acknowledged_unix_ms"].is_null(),
            "{listed}"
        );
        let id = alarm["id"].to_string();
        pair.alpha.cli(&["alarms", "ack", "999"])?.refused(3, "alarms list")?;
        pair.alpha.cli(&["alarms", "ack", &id, "--note", "a new disk"])?.ok()?;
        let text = pair.alpha.cli(&["alarms", "list"])?.ok()?;
        ensure!(text.contains("a new disk") && text.contains("webhook at "), "{text}");
        pair.bravo.start()?;
        alpha.wait("cleared", "partner_down")?;
        let words = alpha.words();
        let raised = words.iter().filter(|(what, kind)| what == "raised" && kind == "partner_down");
        ensure!(raised.count() == 1, "it is told once: {words:?}");
        Ok(())
    })
}

#[test]
fn what_both_servers_see_only_one_tells() -> Result<()> {
    with_sinks(|pair, sinks| {
        pair.bravo.ask(&["pause", "--reason", "new memory", "--for", "10m"])?;
        for server in [&pair.alpha, &pair.bravo] {
            server.wait("it is paused", |status| status.has_alarm("paused"))?;
        }
        let alpha = sink(sinks, Side::Alpha)?;
        alpha.wait("raised", "paused")?;
        pair.bravo.ask(&["resume"])?;
        alpha.wait("cleared", "paused")?;
        let told = sink(sinks, Side::Bravo)?.words();
        ensure!(told.iter().all(|(_, kind)| kind != "paused"), "both tell it: {told:?}");
        Ok(())
    })
}

#[test]
fn a_way_on_which_nothing_arrives_is_named() -> Result<()> {
    with_sinks(|pair, sinks| {
        sinks[Side::Alpha as usize] = None; // both servers are gone
        let tested = pair.alpha.cli(&["alarms", "test"])?;
        ensure!(tested.code == Some(7), "{tested:?}");
        ensure!(tested.stdout.contains("FAIL  webhook at "), "{tested:?}");
        pair.bravo.stop_by(Signal::KILL)?;
        wait_for("the list says that word does not arrive", SOON, || {
            let text = pair.alpha.cli(&["alarms", "list"]).ok()?.ok().ok()?;
            let all = ["not arrived anywhere yet", "e-mail to ops@example.org: does not arrive"];
            all.iter().all(|part| text.contains(part)).then_some(())
        })
    })
}
