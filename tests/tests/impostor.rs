//! Servers that are not the partner: one in the middle of the trust exchange, and a third one at the
//! partner's address.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, fresh_pair, holds_for,
    pair::PASSWORD,
    process::{Background, foreign_certificate},
    ready_pair,
    settings::BOARD,
    wait::SOON,
    wait_for,
};

const PROXY: &str = include_str!("../src/python/proxy.py");

#[test]
fn spec_a1_a_server_in_the_middle_gets_no_trust_even_with_the_right_password() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        pair.start()?;
        pair.set_password(Side::Bravo)?;
        let pem = foreign_certificate(pair.folder())?;
        let target = pair.network.address(Side::Bravo);
        let host = pair.network.host(Side::Bravo);
        let listen = format!("{host}:{}", pair.network.application_port()?);
        let (log, output) = pair.bravo.create("proxy.log")?;
        let mut proxy = pair.bravo.command("python3");
        proxy.args(["-c", PROXY, &listen, &target]).arg(&pem);
        let _proxy = Background::spawn(&mut proxy, output.try_clone()?, output)?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        wait_for("the proxy listens", SOON, || said().contains("listening").then_some(()))?;

        let before = pair.states()?;
        let ran = pair.ask_trust(PASSWORD, &listen)?;
        ran.refused(6, "password wrong, or this is not your partner")?;
        ensure!(said().contains("in the middle"), "the proxy was not used: {}", said());
        ensure!(pair.states()? == before, "something was trusted");
        for side in Side::BOTH {
            ensure!(pair.server(side).status()?.trust() == "not trusted", "{} trusts", side.name());
        }
        pair.ask_trust(PASSWORD, &target)?.ok().context("the password is right")?;
        Ok(())
    })
}

/// Gives bravo's place to mallory: bravo's address, name, state and trust in alpha, but, like every
/// third server, another key.
fn become_mallory(pair: &mut Pair) -> Result<()> {
    pair.bravo.kill();
    for file in ["key.pem", "certificate.pem"] {
        let path = pair.bravo.home.join("state").join(file);
        fs::rename(&path, pair.bravo.home.join(file))
            .with_context(|| path.display().to_string())?;
    }
    pair.bravo.start()
}

#[test]
fn a_third_servers_certificate_at_the_partners_address_is_never_accepted() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        become_mallory(pair)?;
        wait_for("alpha sees another certificate", SOON, || {
            pair.alpha.log().contains("another certificate").then_some(())
        })?;
        pair.alpha.wait("its partner is lost", |status| status.has_alarm("partner_down"))?;
        pair.alpha.application(BOARD)?.add_call("not for mallory", "secret")?;
        holds_for("mallory gets nothing", Duration::from_secs(2), || {
            let status = pair.alpha.status();
            status.is_ok_and(|status| status.role() == "active" && !status.partner_reachable())
        })?;
        pair.alpha.cli(&["--yes", "failover"])?.refused(3, "")?;
        let stolen = pair.bravo.application(BOARD)?.call("not for mallory")?;
        ensure!(stolen.is_none(), "mallory received a record");

        pair.bravo.kill();
        for file in ["key.pem", "certificate.pem"] {
            fs::rename(pair.bravo.home.join(file), pair.bravo.home.join("state").join(file))?;
        }
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        pair.wait_equal()
    })
}
