//! The verbs of a pair's life beyond failover, with two daemons.

use anyhow::{Result, ensure};
use ipicsha_e2e::{Settings, Side, ready_pair};

#[test]
fn spec_b5_b7_a_relieved_primary_is_idle_over_a_restart_and_serves_again_after_a_fallback()
-> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.cli(&["--yes", "fallback"])?.refused(3, "there is nothing to fall back to")?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        pair.alpha.wait("it is idle", |status| status.state() == "Idle")?;
        ensure!(pair.alpha.status()?.reason() == "On Admin Request", "why");
        pair.alpha.kill();
        pair.alpha.start()?;
        pair.alpha.wait("it is still idle", |status| status.state() == "Idle")?;
        pair.wait_roles(Side::Bravo)?;
        pair.alpha.cli(&["--yes", "fallback"])?.refused(3, "bravo is active")?;
        let list = pair.bravo.ask(&["fallback", "--dry-run"])?;
        ensure!(list["result"] == "preflight", "{list}");
        let back = pair.bravo.ask(&["fallback"])?;
        ensure!(back["took_seconds"].is_number(), "{back}");
        pair.wait_roles(Side::Alpha)
    })
}

#[test]
fn spec_b13_a_paused_pair_does_not_take_over_until_it_is_resumed() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        pair.alpha.cli(&["--yes", "resume"])?.refused(3, "HA is not paused")?;
        pair.alpha.ask(&["pause", "--reason", "new kernel", "--for", "1h"])?;
        pair.bravo.wait("it is paused too", |status| status.has_alarm("paused"))?;
        pair.alpha.kill();
        pair.bravo.wait("it misses its partner", |status| status.has_alarm("takeover_needed"))?;
        pair.bravo.kill();
        pair.bravo.start()?;
        pair.bravo.wait("a restart does not forget it", |status| status.has_alarm("paused"))?;
        ensure!(pair.bravo.status()?.role() == "standby", "nothing takes over");
        pair.alpha.start()?;
        pair.wait_roles(Side::Alpha)?;
        pair.alpha.ask(&["resume"])?;
        pair.bravo.wait("resumed", |status| !status.has_alarm("paused"))?;
        pair.alpha.kill();
        pair.bravo.wait("it takes over", |status| status.role() == "active")?;
        pair.bravo.cli(&["--yes", "recover"])?.refused(3, "nothing has failed")
    })
}
