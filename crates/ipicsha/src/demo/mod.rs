//! `ipicsha demo`: a whole pair on one machine, from trust to repair, measured. Two real daemons,
//! real TLS, real SQLite; the link runs through a small proxy so that it can be cut without root.
#![allow(clippy::print_stdout)] // the story is what this verb is for

mod board;
mod proxy;
mod server;
mod story;

use std::time::{Duration, Instant};

use crate::exit::{Failure, Kind};

/// Runs the story; with `keep` the pair stays until this process ends.
pub(crate) fn run(keep: bool) -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("ipicsha-demo-{}", std::process::id()));
    let pair = server::Pair::start(&folder)?;
    let told = story::tell(&pair);
    match (told, keep) {
        (Ok(()), false) => {
            drop(pair);
            std::fs::remove_dir_all(&folder).map_err(anyhow::Error::from)?;
            Ok(())
        }
        (Ok(()), true) => {
            println!("\nThe pair goes on. In another terminal:");
            for server in pair.servers() {
                println!("  {} --config {} ha-status", own_program(), server.config.display());
            }
            println!("The databases: {}/{{alpha,bravo}}/board.sqlite", folder.display());
            println!("End it with Ctrl-C here.");
            loop {
                std::thread::park();
            }
        }
        (Err(failure), _) => {
            pair.print_logs();
            Err(failure.hinted(&format!("the logs are in {}", folder.display())))
        }
    }
}

fn own_program() -> String {
    std::env::current_exe().map_or_else(|_| "ipicsha".into(), |path| path.display().to_string())
}

/// Waits until `condition` holds; says every second that it still waits.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Result<Duration, Failure> {
    const LIMIT: Duration = Duration::from_secs(60);
    let start = Instant::now();
    let mut told = start;
    while !condition() {
        if start.elapsed() > LIMIT {
            return Err(Failure::new(Kind::TimedOut, format!("waited in vain: {what}")));
        }
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            println!("      ... {what} ({:.0} s)", start.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}
