//! Policy `witness` with an etcd cluster as the witness: the same promises as with one of our own.

use std::time::Duration;

use anyhow::{Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side,
    etcd::{PASSWORD, Transport, etcd_pair},
    faults::suffer,
    holds_for,
    net::can_cut,
    settings::BOARD,
    witness::{as_before, has_role, never_two, wait_active},
};

#[test]
fn etcd_leaves_the_active_active_when_the_servers_are_cut() -> Result<()> {
    if !can_cut("a cut with etcd as the witness")? {
        return Ok(());
    }
    etcd_pair(Settings::fast(), Transport::Plain, |pair, _| {
        let refused = |pair: &mut Pair| {
            ensure!(has_role(pair, Side::Bravo, "standby"), "it took over");
            pair.bravo
                .cli(&["--yes", "failover", "--accept-data-loss"])?
                .refused(3, "the witness has granted the role to the other server")?;
            as_before(pair)
        };
        let name = "link cut both ways (etcd as the witness)";
        let noticed = suffer(pair, name, |pair| pair.network.cut(), refused)?;
        ensure!(noticed.taken_over.is_none(), "{noticed:?}");
        never_two(&noticed)
    })
}

#[test]
fn etcd_gives_the_role_of_an_active_that_is_cut_off_to_the_standby() -> Result<()> {
    if !can_cut("an active that is cut off from everybody, with etcd as the witness")? {
        return Ok(());
    }
    etcd_pair(Settings::fast(), Transport::Tls, |pair, _| {
        let cut = |pair: &mut Pair| {
            pair.network.cut()?;
            pair.network.cut_from_witness(Side::Alpha)?;
            pair.alpha.wait("it is fenced", |status| status.state() == "Fenced")?;
            pair.alpha.application(BOARD)?.must_be_fenced()?;
            wait_active(pair)
        };
        let name = "active cut off from partner and witness (etcd as the witness)";
        never_two(&suffer(pair, name, cut, as_before)?)
    })
}

#[test]
fn etcd_gives_the_role_of_a_dead_active_to_the_standby() -> Result<()> {
    if !can_cut("a dead active with etcd as the witness")? {
        return Ok(());
    }
    etcd_pair(Settings::fast(), Transport::Tls, |pair, _| {
        let kill = |pair: &mut Pair| {
            pair.alpha.kill();
            wait_active(pair)?;
            pair.alpha.start()
        };
        let name = "kill -9 of the active's daemon (etcd as the witness)";
        never_two(&suffer(pair, name, kill, as_before)?)
    })
}

#[test]
fn without_etcd_alone_nothing_changes_and_what_it_had_granted_counts_afterwards() -> Result<()> {
    if !can_cut("a pair without its etcd")? {
        return Ok(());
    }
    etcd_pair(Settings::fast(), Transport::Tls, |pair, etcd| {
        etcd.kill()?;
        let status = pair.alpha.wait("it says so", |status| status.has_alarm("witness_down"))?;
        ensure!(status.witness().is_some_and(|problem| problem.contains("etcd at https://")));
        holds_for("roles stay", Duration::from_secs(3), || {
            has_role(pair, Side::Alpha, "active") && has_role(pair, Side::Bravo, "standby")
        })?;
        pair.alpha.application(BOARD)?.add_call("without", "smoke")?;
        etcd.start()?;
        pair.alpha.wait("it answers", |status| {
            status.witness() == Some("") && !status.has_alarm("witness_down")
        })?;
        pair.network.cut()?;
        holds_for("the active stays", Duration::from_secs(5), || {
            has_role(pair, Side::Alpha, "active") && has_role(pair, Side::Bravo, "standby")
        })?;
        pair.network.heal()?;
        pair.wait_equal()
    })
}

#[test]
fn etcd_keeps_the_role_of_a_server_that_left_alone_until_the_partner_knows() -> Result<()> {
    if !can_cut("unconfigure with etcd as the witness")? {
        return Ok(());
    }
    etcd_pair(Settings::fast(), Transport::Plain, |pair, etcd| {
        pair.network.cut()?;
        pair.alpha.wait("the partner is missed", |status| status.has_alarm("partner_down"))?;
        pair.alpha.ask(&["unconfigure"])?;
        etcd.kill()?;
        etcd.start()?;
        pair.bravo
            .cli(&["--yes", "failover", "--accept-data-loss"])?
            .refused(3, "it keeps the role for the other server")?;
        pair.network.heal()?;
        pair.bravo.wait("it hears of it", |status| status.state() == "Not Configured")?;
        pair.alpha.ask(&["configure"])?;
        pair.wait_ready()?;
        pair.alpha.kill();
        wait_active(pair)
    })
}

#[test]
fn etcd_with_users_serves_one_with_a_password_also_after_it_has_forgotten_him() -> Result<()> {
    if !can_cut("an etcd with users")? {
        return Ok(());
    }
    etcd_pair(Settings::fast(), Transport::User, |pair, etcd| {
        // A token does not outlive the etcd that gave it.
        etcd.kill()?;
        pair.alpha.wait("it is missed", |status| status.has_alarm("witness_down"))?;
        etcd.start()?;
        pair.alpha.wait("it answers", |status| status.witness() == Some(""))?;
        pair.wait_ready()?;
        pair.alpha.kill();
        wait_active(pair)?;
        // Whoever has the wrong password is told what is wrong.
        etcd.set_password("another")?;
        pair.alpha.start()?;
        let status = pair.alpha.wait("it says why", |status| {
            status.witness().is_some_and(|problem| problem.contains("invalid user ID or password"))
        })?;
        ensure!(status.has_alarm("witness_down"), "{status:?}");
        etcd.set_password(PASSWORD)?;
        pair.alpha.wait("it is asked again", |status| status.witness() == Some(""))?;
        Ok(())
    })
}
