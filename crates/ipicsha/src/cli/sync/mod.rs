//! `ipicsha sync`: rsync's words for copying trees.
//!
//! Decides where the words come from and where the answers go. What a transfer does is decided in
//! `ipicsha-files`. It needs no daemon when both ends are on this machine, and the partner's when one
//! is there.

mod filters;
mod format;
mod options;
mod partner;
mod progress;
mod quantity;
mod remote;
mod render;
mod table;
mod text;
mod until;
mod view;

use std::{
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use ipicsha_files::sync::{self, Exit, Outcome};

use self::{options::Wanted, partner::Route, render::Renderer};
use crate::config::DEFAULT_PATH;

/// An interrupted transfer waits so long for the partner to clean up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

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

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// Options and operands of `sync`.
    pub(super) words: Vec<OsString>,
    /// The configuration of this server, which says who its partner is.
    pub(super) config: PathBuf,
}

/// The words after `sync`, when it is the verb; what comes before it holds for every verb. The
/// order of rsync's options counts and its codes for wrong words differ, so they are read here.
pub(super) fn words() -> Option<Words> {
    words_of(std::env::args_os().skip(1))
}

fn words_of(all: impl Iterator<Item = OsString>) -> Option<Words> {
    let (mut before, mut config) = (Vec::new(), PathBuf::from(DEFAULT_PATH));
    let mut all = all;
    while let Some(word) = all.next() {
        match word.to_str() {
            Some("sync") => {
                return Some(Words { words: before.into_iter().chain(all).collect(), config });
            }
            Some("--json") => before.push(word),
            Some("--config") => config = all.next()?.into(),
            Some("--yes" | "-y") => {}
            Some(word) if word.starts_with("--config=") => {
                config = word.trim_start_matches("--config=").into();
            }
            _ => return None,
        }
    }
    None
}

/// Runs the verb; the codes are rsync's.
pub(super) fn run(typed: Words) -> ExitCode {
    let stop = Stop::default();
    let as_json = typed.words.iter().any(|word| word == "--json");
    let refuse = |refused: &Refused| {
        render::refused(&refused.message, refused.exit, as_json);
        ExitCode::from(refused.exit.code())
    };
    let wanted = match options::read(typed.words, &stop.cancelled) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return ExitCode::SUCCESS,
        Err(refused) => return refuse(&refused),
    };
    let route = match partner::route(&wanted, &typed.config) {
        Ok(route) => route,
        Err(refused) => return refuse(&refused),
    };
    watch_signals(&stop);
    let direction = route.direction();
    let Wanted { options, view, link, .. } = wanted;
    let renderer = Renderer::new(view, direction);
    let outcome = match route {
        Route::Here { sources, destination: Some(destination) } if !options.list_only => {
            sync::local(&options, &sources, &destination, &renderer)
        }
        Route::Here { sources, .. } => sync::list(&options, &sources, &renderer),
        Route::Partner(partner) => {
            match partner::transfer(*partner, &options, link, &renderer, &stop.given_up) {
                Ok(outcome) => outcome,
                Err(refused) => return refuse(&refused),
            }
        }
    };
    renderer.end(&outcome);
    let Outcome { exit, .. } = outcome;
    ExitCode::from(exit.code())
}

/// How a transfer is ended from outside.
#[derive(Clone, Default)]
struct Stop {
    /// It ends, and leaves things in order.
    cancelled: Arc<AtomicBool>,
    /// It waits for the partner no longer.
    given_up: Arc<AtomicBool>,
}

/// An interrupted transfer cleans up after itself. Without signals it runs all the same.
fn watch_signals(stop: &Stop) {
    let stop = stop.clone();
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
            stop.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        std::thread::sleep(GIVE_UP_AFTER);
        stop.given_up.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &[&str]) -> Option<Vec<OsString>> {
        words_of(words.iter().map(OsString::from)).map(|typed| typed.words)
    }

    #[test]
    fn the_verb_is_found_behind_words_for_every_verb() {
        assert_eq!(found(&["sync", "-a", "x"]), Some(vec!["-a".into(), "x".into()]));
        assert_eq!(
            found(&["--config", "sync", "--json", "sync", "a"]),
            Some(vec!["--json".into(), "a".into()])
        );
        let config = |words: &[&str]| words_of(words.iter().map(OsString::from)).map(|w| w.config);
        assert_eq!(config(&["--config=/x", "sync"]), Some("/x".into()));
        assert_eq!(config(&["--config", "/y", "sync"]), Some("/y".into()));
        assert_eq!(config(&["sync"]), Some(DEFAULT_PATH.into()));
        assert_eq!(found(&["ha-status", "sync"]), None);
        assert_eq!(found(&["--config=x"]), None);
    }
}
