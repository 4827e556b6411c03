//! `ipicsha demo` tells its whole story, is never silent for long, and leaves nothing behind.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{binary, note};

#[test]
fn the_demo_ends_with_both_sides_equal_and_nothing_lost() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let mut demo = Command::new(binary::ipicsha()?)
        .arg("demo")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let lines = BufReader::new(demo.stdout.take().context("its output")?).lines();
    let (mut text, mut longest, mut last) = (String::new(), Duration::ZERO, Instant::now());
    for line in lines {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        text.push_str(&line?);
        text.push('\n');
    }
    let status = demo.wait()?;
    ensure!(status.success(), "{status}\n{text}");
    ensure!(text.ends_with("lost records: 0\n"), "{text}");
    for step in 1..=6 {
        ensure!(text.contains(&format!("[{step}/6]")), "step {step} is missing:\n{text}");
    }
    note(&format!("demo: longest silence {longest:.1?}"));
    let left = std::fs::read_dir(temporary.path())?.count();
    ensure!(left == 0, "{left} entries are left in the temporary folder");
    Ok(())
}
