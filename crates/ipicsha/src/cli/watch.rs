//! Waiting for the daemon with a line about how far it is: one that is written over on a terminal,
//! one now and then elsewhere. It asks for the status beside the request that is waited for.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use super::client;
use crate::{
    api::{Answer, Look, Request, Status},
    exit::{Failure, Kind},
    wording,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines where they are not written over.
const LINE: Duration = Duration::from_secs(10);

/// Sends the request and shows comparisons under way until its answer comes.
pub(crate) fn ask(socket: &Path, request: Request) -> Answer {
    let (to, answer) = channel();
    let path = socket.to_owned();
    thread::spawn(move || {
        let _ = to.send(client::ask(&path, &request)); // the other thread waits for nothing else
    });
    let mut shown = Shown::new();
    let answer = loop {
        match answer.recv_timeout(LOOK) {
            Ok(answer) => break answer,
            Err(RecvTimeoutError::Timeout) => shown.look(socket),
            Err(RecvTimeoutError::Disconnected) => {
                break Err(Failure::new(Kind::Failed, "the request ended without an answer"));
            }
        }
    };
    shown.clear();
    answer
}

struct Shown {
    terminal: bool,
    since: Instant,
    /// What the pending ones did, and whether they were cut off.
    stages: Vec<(String, bool)>,
    written: bool,
}

impl Shown {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, since: Instant::now(), stages: Vec::new(), written: false }
    }

    fn look(&mut self, socket: &Path) {
        let Ok(value) = client::ask(socket, &Request::Look(Look::Status)) else { return };
        let Ok(status) = serde_json::from_value::<Status>(value) else { return };
        let pending = &status.pending_repairs;
        let files = status.directories.iter().filter_map(wording::directories::comparing);
        let text: Vec<String> = pending.iter().map(wording::pending).chain(files).collect();
        if text.is_empty() {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        if self.terminal {
            // What does not fit into the line would leave parts of itself behind.
            let line: String = text.join("; ").chars().take(columns().max(20) - 1).collect();
            self.written = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush()).is_ok();
            return;
        }
        let stages: Vec<_> = pending.iter().map(|p| (p.database.clone(), p.paused)).collect();
        let cut_off = stages.iter().any(|(_, paused)| *paused);
        let changed = stages != self.stages && (cut_off || !self.stages.is_empty());
        if changed || self.since.elapsed() >= LINE {
            for line in text {
                let _ = writeln!(stderr, "{line}"); // nobody reads it
            }
            self.since = Instant::now();
        }
        self.stages = stages;
    }

    fn clear(&self) {
        if self.written {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K").and_then(|()| stderr.flush()); // nobody reads it
        }
    }
}

/// Width of the terminal.
fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col))
}
