//! The reference's smallest D for real: 5 s x 5 (spec A8, B2).

use anyhow::{Result, ensure};
use ipicsha_e2e::{Settings, Side, note, ready_pair, settings::BOARD, wait_for};
use std::time::Duration;

#[test]
fn spec_a8_b2_with_5_s_x_5_nobody_takes_over_before_25_s_of_silence() -> Result<()> {
    ready_pair(Settings::slowest(), |pair| {
        let epoch = pair.bravo.status()?.epoch();
        pair.alpha.kill_everything()?;
        let mut longest_wait = 0.0_f64;
        wait_for("bravo is active", Duration::from_secs(60), || {
            let status = pair.bravo.status().ok()?;
            if status.role() == "standby" {
                longest_wait = longest_wait.max(status.heartbeat_age_ms().unwrap_or_default());
            }
            (status.role() == "active").then_some(())
        })?;
        let silence = pair.bravo.silence_before_takeover_ms()?;
        note(&format!(
            "5 s x 5: takeover after {silence} ms of silence, seen as standby up to {longest_wait:.0} ms"
        ));
        ensure!(silence >= pair.settings.takeover_after_ms(), "too early: {silence} ms");
        ensure!(pair.bravo.status()?.epoch() > epoch, "no new epoch");
        pair.bravo.application(BOARD)?.add_call("taken over", "on bravo")?;
        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        pair.wait_equal()
    })
}
