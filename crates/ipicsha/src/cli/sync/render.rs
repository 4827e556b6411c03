//! What a transfer tells, as lines.
//!
//! Decides which events are shown at which verbosity, as rsync does. Data goes to stdout, errors to
//! stderr.
#![allow(clippy::print_stdout)]

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ipicsha_files::{
    path::escape,
    sync::{Event, Exit, Item, Outcome, Report, Skipped, Stats, Update, wire::Interest},
};
use serde_json::{Value, json};

use super::{format, progress::Meter, quantity, view::View};

/// Says why nothing was begun.
pub(super) fn refused(message: &str, exit: Exit, as_json: bool) {
    if as_json {
        let meaning = exit.to_string();
        let end =
            json!({ "event": "end", "exit": exit.code(), "meaning": meaning, "error": message });
        return println!("{end}");
    }
    eprintln!("error: {message}");
    eprintln!("ipicsha sync: {exit} (code {})", exit.code());
}

/// Where the files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// They stay on this machine.
    Here,
    /// To the partner.
    There,
    /// From the partner.
    FromThere,
}

/// Shows the events of a transfer.
pub(super) struct Renderer {
    view: View,
    direction: Direction,
    format: Option<String>,
    state: Mutex<State>,
    begin: Instant,
}

struct State {
    meter: Option<Meter>,
    /// A progress line without its end stands on the terminal.
    open_line: bool,
}

impl Renderer {
    pub(super) fn new(view: View, direction: Direction) -> Self {
        let default = match view.itemize {
            0 => view.tells_names().then(|| "%n%L".to_owned()),
            _ => Some("%i %n%L".to_owned()),
        };
        let format = view.out_format.clone().or(default);
        let terminal = std::io::stdout().is_terminal();
        let meter = (view.progress && !view.quiet && !view.json)
            .then(|| Meter::new(view.progress_of_all, terminal, view.human));
        let state = Mutex::new(State { meter, open_line: false });
        Self { view, direction, format, state, begin: Instant::now() }
    }

    /// What the partner needs to tell.
    pub(super) fn interest(&self) -> Interest {
        let view = &self.view;
        Interest {
            items: view.json
                || view.tells_unchanged()
                || view.tells_skips()
                || self.format.is_some(),
            progress: view.progress && !view.quiet,
            every_file: view.json || !view.progress_of_all,
        }
    }

    fn has_code(&self) -> bool {
        self.format.as_ref().is_some_and(|format| format.contains("%i"))
    }

    fn line(&self, text: &str) {
        if !self.view.quiet {
            self.write(text, true);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, text: &str, whole: bool) {
        let mut state = self.state();
        let mut out = std::io::stdout().lock();
        let lead = if std::mem::take(&mut state.open_line) && whole { "\n" } else { "" };
        // Whoever reads may be gone; the transfer goes on.
        let _ = if whole {
            writeln!(out, "{lead}{text}")
        } else {
            state.open_line = true;
            write!(out, "\r{text}").and_then(|()| out.flush())
        };
    }

    fn item(&self, item: &Item) {
        let change = &item.change;
        let Some(format) = &self.format else { return };
        let significant = change.is_significant();
        let told = if self.has_code() {
            significant
                || item.linked_to.is_some()
                || self.view.itemize > 1
                || self.view.tells_unchanged()
        } else {
            let directory = item.kind == ipicsha_files::Kind::Directory && significant;
            let local = matches!(change.update, Update::Local | Update::HardLink) && significant;
            directory || local || item.linked_to.is_some() || change.update == Update::Transfer
        };
        if told {
            self.line(&format::item(format, item, self.direction));
        } else if self.view.tells_unchanged() {
            self.line(&format!("{} is uptodate", item.path));
        }
    }

    fn skipped(&self, skipped: &Skipped) {
        match skipped {
            Skipped::Directory(name) => self.line(&format!("skipping directory {name}")),
            Skipped::NotRegular(path) if self.view.tells_irregular() => {
                self.line(&format!("skipping non-regular file \"{path}\""));
            }
            Skipped::Quietly(text) if self.view.tells_skips() => self.line(text),
            Skipped::UnsafeLink { path, target } if self.view.tells_unsafe_links() => {
                let target = escape(target);
                self.line(&format!("ignoring unsafe symlink \"{path}\" -> \"{target}\""));
            }
            Skipped::NotRegular(_) | Skipped::Quietly(_) | Skipped::UnsafeLink { .. } => {}
        }
    }

    fn text(&self, event: &Event) {
        match event {
            Event::Begun if self.view.tells_scan() && self.view.recursive => {
                self.line(match self.direction {
                    Direction::Here | Direction::There => "sending incremental file list",
                    Direction::FromThere => "receiving incremental file list",
                });
            }
            Event::Begun => {}
            Event::Item(item) => self.item(item),
            Event::Listed(item) => self.line(&format::listed(item, self.view.human)),
            Event::Deleted { path, kind } => {
                let shown = self.view.deletions.unwrap_or(self.format.is_some());
                let format =
                    self.format.as_deref().filter(|f| f.contains("%i") || f.contains("%o"));
                if shown {
                    let format = format.unwrap_or("deleting %n");
                    self.line(&format::deletion(format, path, *kind));
                }
            }
            Event::CreatedDestination { path, directories } => {
                if self.view.tells_names() || self.has_code() {
                    let path = escape(path);
                    let path = path.trim_end_matches('/');
                    self.line(&match directories {
                        None => format!("created directory {path}"),
                        Some(1) => format!("created 1 directory for {path}"),
                        Some(count) => format!("created {count} directories for {path}"),
                    });
                }
            }
            Event::Skipped(skipped) => self.skipped(skipped),
            Event::Problem { text, .. } => eprintln!("ipicsha sync: {text}"),
            Event::Notice(text) if !self.view.quiet => eprintln!("ipicsha sync: {text}"),
            Event::Notice(_) => {}
            Event::Progress(progress) => {
                let line = self.state().meter.as_mut().and_then(|meter| meter.line(progress));
                if let Some(line) = line {
                    let whole = !std::io::stdout().is_terminal()
                        || progress.file_done && !self.view.progress_of_all;
                    self.write(&line, whole);
                }
            }
        }
    }

    /// Numbers, and why it ended early.
    pub(super) fn end(&self, outcome: &Outcome) {
        if self.view.json {
            return println!("{}", end_as_json(outcome, self.begin));
        }
        self.end_progress(outcome);
        if !self.view.list_only {
            if self.view.stats {
                self.stats(&outcome.stats);
            }
            if self.view.tells_summary() {
                self.summary(&outcome.stats);
            }
        }
        if let Some(fatal) = &outcome.fatal {
            eprintln!("error: {fatal}");
        }
        if outcome.exit != Exit::Success {
            eprintln!("ipicsha sync: {} (code {})", outcome.exit, outcome.exit.code());
        }
    }

    /// However short it was, progress of the whole transfer has a last line.
    fn end_progress(&self, outcome: &Outcome) {
        let ended = outcome.fatal.is_none().then_some(&outcome.stats);
        let last = self.state().meter.as_mut().and_then(|meter| meter.last(ended));
        if let Some(line) = last {
            self.write(&line, !std::io::stdout().is_terminal());
        }
        if std::mem::take(&mut self.state().open_line) {
            println!();
        }
    }

    fn stats(&self, stats: &Stats) {
        let n = |number: u64| quantity::human(number, self.view.human);
        let (entries, created, deleted) = (stats.entries, stats.created, stats.deleted);
        self.line(&format!("\nNumber of files: {}{entries}", n(entries.total())));
        self.line(&format!("Number of created files: {}{created}", n(created.total())));
        self.line(&format!("Number of deleted files: {}{deleted}", n(deleted.total())));
        self.line(&format!("Number of regular files transferred: {}", n(stats.transferred)));
        self.line(&format!("Total file size: {} bytes", n(stats.total_bytes)));
        self.line(&format!("Total transferred file size: {} bytes", n(stats.transferred_bytes)));
        self.line(&format!("Literal data: {} bytes", n(stats.literal_bytes)));
        self.line(&format!("Matched data: {} bytes", n(stats.matched_bytes)));
        let (sent, received) = self.both_ways(stats);
        self.line(&format!("Total bytes sent: {}", n(sent)));
        self.line(&format!("Total bytes received: {}", n(received)));
    }

    /// Bytes that this machine sent and received; both halves here count as the sender.
    fn both_ways(&self, stats: &Stats) -> (u64, u64) {
        match self.direction {
            Direction::Here | Direction::There => (stats.sent_bytes, stats.received_bytes),
            Direction::FromThere => (stats.received_bytes, stats.sent_bytes),
        }
    }

    fn summary(&self, stats: &Stats) {
        let n = |number: u64| quantity::human(number, self.view.human);
        let bytes = stats.sent_bytes + stats.received_bytes;
        let rate = bytes as f64 / self.begin.elapsed().as_secs_f64().max(0.5);
        let rate = match self.view.human {
            0 => format!("{rate:.2}"),
            1 => format!("{}.{:02}", quantity::grouped(rate as u64), (rate * 100.0) as u64 % 100),
            level => quantity::human(rate as u64, level),
        };
        let (sent, received) = self.both_ways(stats);
        let (sent, received) = (n(sent), n(received));
        self.line(&format!("\nsent {sent} bytes  received {received} bytes  {rate} bytes/sec"));
        let total = n(stats.total_bytes);
        let speedup = stats.total_bytes as f64 / bytes.max(1) as f64;
        let dry = if self.view.dry_run { " (DRY RUN)" } else { "" };
        self.line(&format!("total size is {total}  speedup is {speedup:.2}{dry}"));
    }
}

impl Report for Renderer {
    fn event(&self, event: Event) {
        if !self.view.json {
            return self.text(&event);
        }
        if let Some(value) = as_json(&event, self.view.progress) {
            self.write(&value.to_string(), true);
        }
    }
}

fn kind_name(kind: ipicsha_files::Kind) -> &'static str {
    use ipicsha_files::Kind;
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharacterDevice => "character_device",
        Kind::BlockDevice => "block_device",
    }
}

fn item_as_json(event: &str, item: &Item) -> Value {
    json!({
        "event": event,
        "path": item.path.to_string(),
        "kind": kind_name(item.kind),
        "change": item.change.code(item.kind),
        "size": item.size,
        "mode": format!("{:04o}", item.mode),
        "uid": item.uid,
        "gid": item.gid,
        "mtime_seconds": item.mtime.seconds,
        "mtime_nanoseconds": item.mtime.nanoseconds,
        "target": item.target.as_ref().map(|target| escape(target)),
        "linked_to": item.linked_to.as_ref().map(ToString::to_string),
    })
}

fn as_json(event: &Event, progress: bool) -> Option<Value> {
    let told = |what: &str, text: String| json!({ "event": what, "text": text });
    Some(match event {
        Event::Begun => json!({ "event": "begin" }),
        Event::Item(item) => item_as_json("item", item),
        Event::Listed(item) => item_as_json("listed", item),
        Event::Deleted { path, kind } => {
            json!({ "event": "deleted", "path": path.to_string(), "kind": kind_name(*kind) })
        }
        Event::CreatedDestination { path, .. } => {
            json!({ "event": "created_destination", "path": escape(path) })
        }
        Event::Skipped(Skipped::Directory(name)) => told("skipped", format!("directory {name}")),
        Event::Skipped(Skipped::NotRegular(path)) => {
            told("skipped", format!("non-regular file \"{path}\""))
        }
        Event::Skipped(Skipped::UnsafeLink { path, target }) => {
            told("skipped", format!("unsafe symlink \"{path}\" -> \"{}\"", escape(target)))
        }
        Event::Skipped(Skipped::Quietly(text)) => told("skipped", text.clone()),
        Event::Problem { text, vanished } => {
            json!({ "event": "problem", "text": text, "vanished": vanished })
        }
        Event::Notice(text) => told("notice", text.clone()),
        Event::Progress(at) if progress => json!({
            "event": "progress",
            "path": at.path.to_string(),
            "file_bytes": at.file_bytes,
            "file_size": at.file_size,
            "files": at.files_done,
            "bytes": at.bytes,
            "planned_bytes": at.planned_bytes,
        }),
        Event::Progress(_) => return None,
    })
}

fn end_as_json(outcome: &Outcome, begin: Instant) -> Value {
    let stats = &outcome.stats;
    json!({
        "event": "end",
        "exit": outcome.exit.code(),
        "meaning": outcome.exit.to_string(),
        "error": outcome.fatal.as_ref().map(ToString::to_string),
        "entries": stats.entries.total(),
        "created": stats.created.total(),
        "deleted": stats.deleted.total(),
        "transferred": stats.transferred,
        "total_bytes": stats.total_bytes,
        "transferred_bytes": stats.transferred_bytes,
        "literal_bytes": stats.literal_bytes,
        "matched_bytes": stats.matched_bytes,
        "seconds": begin.elapsed().as_secs_f64(),
    })
}
