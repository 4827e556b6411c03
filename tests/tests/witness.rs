//! Policy `witness` on three machines: never two servers that can be written to, whatever is cut, killed
//! or frozen; and losing only the witness changes nothing.

use anyhow::{Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side,
    faults::suffer,
    fresh_pair, holds_for,
    net::can_cut,
    process::signal,
    settings::BOARD,
    wait::SOON,
    wait_for,
    witness::{
        Witness, as_before, has_role, never_two, own_certificate, wait_active, witness_pair,
    },
};
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn a_cut_between_the_servers_leaves_the_active_active() -> Result<()> {
    if !can_cut("a cut under policy witness")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, _| {
        let noticed = suffer(
            pair,
            "link cut both ways (policy witness)",
            |pair| pair.network.cut(),
            |pair| {
                ensure!(pair.bravo.status()?.role() == "standby", "it took over");
                pair.bravo
                    .cli(&["--yes", "failover", "--accept-data-loss"])?
                    .refused(3, "the witness has granted the role to the other server")?;
                as_before(pair)
            },
        )?;
        ensure!(noticed.taken_over.is_none(), "{noticed:?}");
        never_two(&noticed)
    })
}

#[test]
fn an_active_that_is_cut_off_from_both_is_fenced_before_the_standby_takes_over() -> Result<()> {
    if !can_cut("an active that is cut off from everybody")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, _| {
        let cut = |pair: &mut Pair| {
            pair.network.cut()?;
            pair.network.cut_from_witness(Side::Alpha)?;
            let status = pair.alpha.wait("it is fenced", |status| status.state() == "Fenced")?;
            ensure!(status.has_alarm("fenced") && status.recommended_action().contains("witness"));
            pair.alpha.application(BOARD)?.must_be_fenced()?;
            wait_active(pair)
        };
        let noticed = suffer(
            pair,
            "active cut off from partner and witness (policy witness)",
            cut,
            as_before,
        )?;
        never_two(&noticed)
    })
}

#[test]
fn an_active_whose_daemon_is_frozen_cannot_be_written_when_the_standby_takes_over() -> Result<()> {
    if !can_cut("a frozen daemon under policy witness")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, _| {
        let freeze = |pair: &mut Pair| {
            signal(pair.alpha.pid()?, Signal::STOP);
            wait_active(pair)?;
            let refused = pair.alpha.application(BOARD)?.add_call("frozen", "no");
            let refused = refused.expect_err("a frozen server was written").to_string();
            ensure!(refused.contains("was not renewed"), "{refused}");
            signal(pair.alpha.pid()?, Signal::CONT);
            Ok(())
        };
        let name = "SIGSTOP of the active's daemon until it was replaced (policy witness)";
        never_two(&suffer(pair, name, freeze, as_before)?)
    })
}

#[test]
fn an_active_whose_daemon_is_dead_cannot_be_written_when_the_standby_takes_over() -> Result<()> {
    if !can_cut("a dead daemon under policy witness")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, _| {
        let kill = |pair: &mut Pair| {
            pair.alpha.kill();
            wait_active(pair)?;
            pair.alpha.start()
        };
        let name = "kill -9 of the active's daemon (policy witness)";
        never_two(&suffer(pair, name, kill, as_before)?)
    })
}

#[test]
fn without_the_witness_alone_nothing_changes() -> Result<()> {
    if !can_cut("a pair without its witness")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, witness| {
        witness.kill()?;
        pair.alpha.wait("it says so", |status| status.has_alarm("witness_down"))?;
        holds_for("roles stay", Duration::from_secs(3), || {
            has_role(pair, Side::Alpha, "active") && has_role(pair, Side::Bravo, "standby")
        })?;
        pair.alpha.application(BOARD)?.add_call("without", "smoke")?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        witness.start()?;
        pair.bravo.wait("it answers", |status| {
            status.witness() == Some("") && !status.has_alarm("witness_down")
        })?;
        // It has granted the role anew as soon as what it granted before is over.
        wait_for("the grant", SOON, || witness.log().contains("epoch=3").then_some(()))?;
        pair.network.cut()?;
        holds_for("the active stays", Duration::from_secs(3), || {
            has_role(pair, Side::Bravo, "active") && has_role(pair, Side::Alpha, "standby")
        })?;
        pair.network.heal()?;
        pair.wait_equal()
    })
}

#[test]
fn a_witness_that_is_slow_or_hangs_changes_no_role() -> Result<()> {
    if !can_cut("a slow witness")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, witness| {
        let stay = |what: &str, span| {
            holds_for(what, span, || {
                has_role(pair, Side::Alpha, "active") && has_role(pair, Side::Bravo, "standby")
            })
        };
        // Every answer comes late, but within D.
        let pid = witness.pid()?;
        for _ in 0..5 {
            signal(pid, Signal::STOP);
            stay("a late answer", Duration::from_millis(500))?;
            signal(pid, Signal::CONT);
            stay("answers again", Duration::from_millis(300))?;
        }
        // None at all: the connection stands, and nobody is there.
        signal(pid, Signal::STOP);
        pair.alpha.wait("it says so", |status| status.has_alarm("witness_down"))?;
        stay("a witness that hangs", Duration::from_secs(3))?;
        pair.alpha.application(BOARD)?.add_call("slow", "smoke")?;
        signal(pid, Signal::CONT);
        pair.alpha.wait("it answers", |status| !status.has_alarm("witness_down"))?;
        pair.wait_equal()
    })
}

#[test]
fn a_witness_that_cannot_be_asked_is_named_with_the_next_step() -> Result<()> {
    if !can_cut("a witness that refuses")? {
        return Ok(());
    }
    let settings = Settings::fast().pair("partition_policy = \"witness\"");
    fresh_pair(settings, |pair| {
        let (status, log) = pair.alpha.start_and_end()?;
        ensure!(status.code() == Some(78) && log.contains("[witness]"), "{log}");
        let mut witness = Witness::new(pair)?;
        witness.start()?;
        let certificate = witness.certificate()?;
        witness.tell(pair, Side::Alpha, &"00".repeat(32))?;
        witness.tell(pair, Side::Bravo, &certificate)?;
        pair.start()?;
        pair.license()?;
        pair.trust()?;
        pair.protect()?;
        pair.wait_contact()?;
        pair.alpha.ask(&["configure"])?;
        pair.alpha.wait("another certificate is named", |status| {
            status.witness().is_some_and(|problem| problem.contains("another certificate"))
        })?;
        witness.tell(pair, Side::Alpha, &certificate)?;
        pair.alpha.stop_by(Signal::USR1)?;
        pair.alpha.start()?;
        pair.alpha.wait("it is not known there", |status| {
            status.witness().is_some_and(|problem| problem.contains("does not know"))
        })?;
        let own = own_certificate(pair, Side::Alpha)?;
        witness.configure(&[["11".repeat(32), "22".repeat(32)], [own, "33".repeat(32)]])?;
        pair.alpha.wait("the name of the pair is another", |status| {
            status.witness().is_some_and(|problem| problem.contains("no pair called e2e"))
        })?;
        witness.admit(pair)?;
        pair.alpha.wait("it answers", |status| status.witness() == Some(""))?;
        let shown = witness.cli(&["witness", "show"])?.ok()?;
        ensure!(shown.contains(&certificate) && shown.contains("Pair e2e: epoch"), "{shown}");
        pair.wait_ready()
    })
}

#[test]
fn what_the_witness_keeps_after_unconfigure_ends_for_good_when_the_partner_has_heard_of_it()
-> Result<()> {
    if !can_cut("unconfigure under policy witness")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, witness| {
        let keeps = |witness: &Witness| -> Result<bool> {
            Ok(witness.cli(&["witness", "show"])?.ok()?.contains("without end"))
        };
        pair.network.cut()?;
        wait_for("the partner is missed", SOON, || {
            pair.alpha.status().is_ok_and(|status| status.has_alarm("partner_down")).then_some(())
        })?;
        pair.alpha.ask(&["unconfigure"])?;
        ensure!(keeps(witness)?, "the partner would take over");
        pair.bravo
            .cli(&["--yes", "failover", "--accept-data-loss"])?
            .refused(3, "it keeps the role for the other server")?;
        ensure!(has_role(pair, Side::Bravo, "standby"), "it took over");
        pair.alpha.application(BOARD)?.add_call("alone", "smoke")?;
        pair.network.heal()?;
        pair.bravo.wait("it hears of it", |status| status.state() == "Not Configured")?;
        wait_for("it is given back", SOON, || (!keeps(witness).ok()?).then_some(()))?;
        witness.kill()?;
        witness.start()?;
        pair.alpha.ask(&["configure"])?;
        pair.wait_ready()?;
        pair.wait_equal()?;
        pair.alpha.kill();
        wait_active(pair)
    })
}

#[test]
fn unconfigure_needs_the_partner_or_the_witness_or_an_administrator_who_knows() -> Result<()> {
    if !can_cut("unconfigure without anybody")? {
        return Ok(());
    }
    witness_pair(Settings::fast(), |pair, witness| {
        witness.kill()?;
        pair.alpha.kill();
        pair.bravo.wait("the partner is missed", |status| status.has_alarm("partner_down"))?;
        pair.bravo.cli(&["--yes", "unconfigure"])?.refused(3, "ipicsha unconfigure --force")?;
        ensure!(has_role(pair, Side::Bravo, "standby"), "it ended");
        pair.bravo.application(BOARD)?.must_be_fenced()?;
        pair.bravo.ask(&["unconfigure", "--force"])?;
        pair.bravo.application(BOARD)?.add_call("alone", "smoke")
    })
}
