//! `ipicsha sync`: rsync's words for copying trees.
//!
//! Decides where the words come from and where the answers go. What a transfer does is decided in
//! `ipicsha-files`. It needs no daemon when both ends are on this machine.

mod filters;
mod format;
mod options;
mod progress;
mod quantity;
mod remote;
mod render;
mod table;
mod text;

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use ipicsha_files::sync::{self, Exit, Outcome};

use self::{options::Wanted, render::Renderer};

/// Why nothing was begun: a code and what to say.
#[derive(Debug)]
struct Refused {
    exit: Exit,
    message: String,
}

impl Refused {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

/// The words after `sync`, when it is the verb; what comes before it holds for every verb. The
/// order of rsync's options counts and its codes for wrong words differ, so they are read here.
pub(super) fn words() -> Option<Vec<OsString>> {
    words_of(std::env::args_os().skip(1))
}

fn words_of(all: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let mut before = Vec::new();
    let mut all = all;
    while let Some(word) = all.next() {
        match word.to_str() {
            Some("sync") => return Some(before.into_iter().chain(all).collect()),
            Some("--json") => before.push(word),
            Some("--config") => drop(all.next()),
            Some("--yes" | "-y") => {}
            Some(word) if word.starts_with("--config=") => {}
            _ => return None,
        }
    }
    None
}

/// Runs the verb; the codes are rsync's.
pub(super) fn run(words: Vec<OsString>) -> ExitCode {
    let cancelled = Arc::new(AtomicBool::new(false));
    let as_json = words.iter().any(|word| word == "--json");
    let wanted = match options::read(words, &cancelled) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return ExitCode::SUCCESS,
        Err(refused) => {
            render::refused(&refused.message, refused.exit, as_json);
            return ExitCode::from(refused.exit.code());
        }
    };
    watch_signals(cancelled);
    let Wanted { options, view, sources, destination } = wanted;
    let renderer = Renderer::new(view);
    let outcome = match destination {
        Some(destination) if !options.list_only => {
            sync::local(&options, &sources, &destination, &renderer)
        }
        _ => sync::list(&options, &sources, &renderer),
    };
    renderer.end(&outcome);
    let Outcome { exit, .. } = outcome;
    ExitCode::from(exit.code())
}

/// An interrupted transfer cleans up after itself. Without signals it runs all the same.
fn watch_signals(cancelled: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let Ok(runtime) = runtime else { return };
    // Registered before the transfer begins, so that no signal is missed.
    let entered = runtime.enter();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
    drop(entered);
    let Ok(mut signals) = signals else { return };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let [interrupt, terminate, hangup] = &mut signals[..] else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &[&str]) -> Option<Vec<OsString>> {
        words_of(words.iter().map(OsString::from))
    }

    #[test]
    fn the_verb_is_found_behind_words_for_every_verb() {
        assert_eq!(found(&["sync", "-a", "x"]), Some(vec!["-a".into(), "x".into()]));
        assert_eq!(
            found(&["--config", "sync", "--json", "sync", "a"]),
            Some(vec!["--json".into(), "a".into()])
        );
        assert_eq!(found(&["ha-status", "sync"]), None);
        assert_eq!(found(&["--config=x"]), None);
    }
}
