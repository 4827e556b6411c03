//! Programs of the administrator around role changes and alarms, on a real pair.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Result, ensure};
use ipicsha_e2e::{Pair, Settings, Side, ready_pair, wait::SOON, wait_for};

const BLOCK: &str = "[hooks]\ndirectory = \"HOME/hooks.d\"\ntimeout_seconds = 5.0\n";

fn settings() -> Settings {
    Settings::fast().service(Side::Alpha, BLOCK).service(Side::Bravo, BLOCK)
}

/// A hook of both servers that notes what it is told.
fn note(pair: &Pair, moment: &str) -> Result<()> {
    for side in Side::BOTH {
        let out = noted(pair, side);
        hook(
            pair,
            side,
            moment,
            &format!(
                "echo $IPICSHA_MOMENT $IPICSHA_SERVER $IPICSHA_ROLE $IPICSHA_ALARM \
                 $IPICSHA_ALARM_KIND >> {}",
                out.display()
            ),
        )?;
    }
    Ok(())
}

fn hook(pair: &Pair, side: Side, moment: &str, script: &str) -> Result<()> {
    let path = pair.server(side).home.join("hooks.d").join(moment);
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn noted(pair: &Pair, side: Side) -> PathBuf {
    pair.server(side).home.join("hooks.out")
}

fn lines(pair: &Pair, side: Side) -> Vec<String> {
    let text = fs::read_to_string(noted(pair, side)).unwrap_or_default();
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn wait_line(pair: &Pair, side: Side, line: &str) -> Result<()> {
    wait_for(&format!("{line:?} is noted on {}", side.name()), SOON, || {
        lines(pair, side).iter().any(|noted| noted == line).then_some(())
    })?;
    Ok(())
}

#[test]
fn a_hook_vetoes_a_failover_and_others_run_once_after_it() -> Result<()> {
    ready_pair(settings(), |pair| {
        for moment in ["post-takeover", "post-release", "post-standby"] {
            note(pair, moment)?;
        }
        hook(pair, Side::Alpha, "pre-release", "echo the backup runs >&2; exit 1")?;
        let before = pair.states()?;
        pair.alpha.cli(&["--yes", "failover"])?.refused(3, "the backup runs")?;
        ensure!(pair.states()? == before, "a vetoed failover changed something");
        fs::remove_file(pair.alpha.home.join("hooks.d/pre-release"))?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        wait_line(pair, Side::Bravo, "post-takeover bravo active")?;
        wait_line(pair, Side::Alpha, "post-release alpha standby")?;
        pair.bravo.ask(&["failover"])?;
        pair.wait_roles(Side::Alpha)?;
        wait_line(pair, Side::Alpha, "post-takeover alpha active")?;
        wait_line(pair, Side::Bravo, "post-release bravo standby")?;
        for side in Side::BOTH {
            let lines = lines(pair, side);
            ensure!(lines.len() == 2, "each once: {lines:?}");
        }
        Ok(())
    })
}

#[test]
fn spec_f4_alarms_reach_a_hook_when_they_are_raised_and_when_they_are_over() -> Result<()> {
    ready_pair(settings(), |pair| {
        note(pair, "alarm")?;
        pair.bravo.kill();
        wait_line(pair, Side::Alpha, "alarm alpha active raised partner_down")?;
        pair.bravo.start()?;
        wait_line(pair, Side::Alpha, "alarm alpha active cleared partner_down")
    })
}
