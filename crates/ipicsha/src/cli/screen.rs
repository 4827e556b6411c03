//! `ha-status --watch`: the status screen again and again. A daemon that is down is shown as that, and
//! looked for again.
#![allow(clippy::print_stdout)] // data goes to stdout

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    thread,
    time::Duration,
};

use super::{client, render};
use crate::{
    api::{Look, Request, Status},
    exit::Failure,
    wording,
};

/// From the upper left corner, and what is below the end is cleared.
const HOME: &str = "\x1b[H\x1b[J";

/// Seconds between two looks.
pub(super) fn every(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    let range = (0.1..=3600.0).contains(&seconds);
    range.then(|| Duration::from_secs_f64(seconds)).ok_or_else(|| "0.1 to 3600 seconds".into())
}

/// Shows it until nobody reads on, or Ctrl-C.
pub(super) fn watch(socket: &Path, every: Duration, json: bool) -> ExitCode {
    let terminal = std::io::stdout().is_terminal() && !json;
    loop {
        let text = match look(socket, json) {
            Ok(text) => text,
            Err(failure) if json => format!("{}\n", serde_json::json!({ "error": failure })),
            Err(failure) => render::failure_text(&failure),
        };
        let mut out = std::io::stdout().lock();
        let begin = if terminal { HOME } else { "" };
        let end = if terminal || json { "" } else { "\n" };
        if write!(out, "{begin}{text}{end}").and_then(|()| out.flush()).is_err() {
            return ExitCode::SUCCESS;
        }
        drop(out);
        thread::sleep(every);
    }
}

fn look(socket: &Path, json: bool) -> Result<String, Failure> {
    let value = client::ask(socket, &Request::Look(Look::Status))?;
    if json {
        return Ok(format!("{value}\n"));
    }
    Ok(wording::status(&render::parse::<Status>(value)?))
}
