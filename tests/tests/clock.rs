//! Clocks more than 30 s apart: records wait, nobody merges by a clock that is wrong (spec D2).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::wait::SOON;
use ipicsha_e2e::{Launch, Pair, Settings, Side, holds_for, ready_pair, settings::BOARD, wait_for};
use rustix::process::Signal;

fn restart(pair: &mut Pair, offset: Option<i32>) -> Result<()> {
    pair.bravo.stop_by(Signal::TERM)?;
    pair.bravo.launch(&Launch { clock_offset_seconds: offset, ..Launch::default() })
}

#[test]
fn spec_d2_clocks_31_s_apart_hold_the_records_and_agreeing_clocks_release_them() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        restart(pair, Some(31))?;
        for side in Side::BOTH {
            let status = pair.server(side).wait("it sees the clocks apart", |status| {
                status.has_alarm("clocks_apart") && status.partner_reachable()
            })?;
            ensure!(status.standby_status().starts_with("Not Ready"), "{status:?}");
            ensure!(status.recommended_action().contains("clock"), "{status:?}");
        }
        let (alpha, bravo) = (pair.alpha.application(BOARD)?, pair.bravo.application(BOARD)?);
        alpha.add_call("held back", "on alpha")?;
        pair.alpha.wait("the record queues", |status| status.queue() > 0)?;
        holds_for("the record is not applied", Duration::from_secs(2), || {
            bravo.call("held back").is_ok_and(|call| call.is_none())
        })?;
        pair.alpha.cli(&["--yes", "failover"])?.refused(3, "clock")?;
        bravo.must_be_fenced()?;

        restart(pair, None)?;
        pair.wait_roles(Side::Alpha)?;
        let bravo = pair.bravo.application(BOARD)?;
        wait_for("the record arrives", SOON, || bravo.call("held back").ok().flatten())
            .context("after the clocks agree again")?;
        pair.wait_equal()?;
        ensure!(!pair.alpha.status()?.has_alarm("clocks_apart"), "the alarm is over");
        Ok(())
    })
}
