//! A full transaction log blocks nobody: HA unconfigures itself (spec C4).

use anyhow::{Result, ensure};
use ipicsha_e2e::{Settings, ready_pair, settings::BOARD, wait::SOON, wait_for};

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
        pair.alpha.wait("75 % is an alarm", |status| status.has_alarm("log_filling"))?;
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
