//! What the daemon does with patterns: protect, unprotect, take what was found here or is the
//! partner's.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::Path,
};

use ipicsha_core::{message::DatabaseState, state::NodeState, state::Role};
use ipicsha_records::{Command, Worker};
use serde_json::json;
use tokio::sync::oneshot;

use super::{Member, Outcome, PatternFile, scan::Search, scan::Wanted};
use crate::{
    api::Answer,
    config::DatabaseFile,
    daemon::{
        clock,
        event::Event,
        event_loop::Daemon,
        limits,
        verbs::{records_failure, value},
    },
    exit::{Failure, Kind},
    pattern::is_pattern,
};

/// A pattern, unless there is a file of that very name.
pub(crate) fn means_pattern(path: &Path) -> bool {
    is_pattern(path) && !path.exists()
}

impl Daemon {
    /// Looks at the directories first; the event loop does not wait for a slow disk.
    pub(crate) fn check_pattern(&mut self, file: &DatabaseFile, answer: oneshot::Sender<Answer>) {
        let limits = limits::check(file);
        let file = PatternFile::of(file);
        let checked = limits.and_then(|()| file.parse()).and_then(|pattern| {
            self.databases.patterns.check(&pattern)?;
            Ok(pattern)
        });
        let pattern = match checked {
            Ok(pattern) => pattern,
            Err(failure) => {
                let _ = answer.send(Err(failure)); // the command line went away
                return;
            }
        };
        let events = self.events.clone();
        let wanted = Wanted { pattern, excluded: [].into(), members: 0 };
        let known = self.databases.paths();
        tokio::task::spawn_blocking(move || {
            let search = Search { patterns: vec![wanted], known, ..Search::default() };
            let outcome = search.run();
            let _ = events.blocking_send(Event::ProtectPattern(file, Box::new(outcome), answer));
        });
    }

    /// Remembers the pattern and takes what it has found.
    pub(crate) fn protect_pattern(&mut self, file: PatternFile, outcome: Outcome) -> Answer {
        let text = file.pattern.clone();
        let found = outcome.found.into_iter().next().unwrap_or_default();
        if let Some(problem) = found.problem {
            return Err(Failure::new(Kind::Refused, format!("{text}: {problem}"))
                .hinted("nothing was changed; correct it and protect the pattern again"));
        }
        self.databases.patterns.add(file)?;
        for relative in &found.new {
            self.take_member(&text, relative, true);
        }
        if let Err(failure) = self.save_protected() {
            self.drop_pattern(&text);
            return Err(failure);
        }
        self.measure();
        let row = self.databases.patterns.rows().into_iter().find(|row| row.pattern == text);
        let mut databases = self.databases.rows();
        databases.retain(|row| row.pattern.as_deref() == Some(text.as_str()));
        let left = found.left.iter().map(|(path, why)| (path.display().to_string(), why));
        let left: Vec<_> = left.collect();
        Ok(json!({ "pattern": row, "databases": databases, "left": left }))
    }

    /// Once a second: looks for new files, away from here.
    pub(crate) fn search_patterns(&mut self) {
        let known = self.databases.paths();
        let Some(search) = self.databases.patterns.search(known) else { return };
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = search.run();
            let _ = events.blocking_send(Event::Searched(Box::new(outcome))); // the daemon ends
        });
    }

    /// What the search has found.
    pub(crate) fn searched(&mut self, outcome: Outcome) {
        let mut changed = self.databases.prune_members();
        for (pattern, relative) in self.databases.patterns.searched(outcome) {
            changed |= self.take_member(&pattern, &relative, true);
        }
        if changed {
            self.save_or_log();
        }
    }

    /// The partner has a database that is not known here.
    pub(crate) fn adopt(&mut self, name: &str) {
        if self.databases.find(name).is_some() || self.databases.rank().is_none() {
            return;
        }
        let Some((pattern, relative)) = self.databases.patterns.place(name) else { return };
        if self.take_member(&pattern, &relative, false) {
            self.save_or_log();
        }
    }

    /// The partner says what it protects.
    pub(crate) fn partner_databases(&mut self, list: Vec<DatabaseState>, more: bool) {
        self.databases.partner.take(list, more);
        if !more {
            self.databases.forget_unknown();
            self.measure();
        }
    }

    /// Databases of the partner's that are not known here, as far as a pattern has room for them.
    pub(crate) fn adopt_all(&mut self) {
        for name in self.databases.partner.names() {
            self.adopt(&name);
        }
    }

    /// Takes one database in; `false`: not now, or never.
    fn take_member(&mut self, pattern: &str, relative: &str, here: bool) -> bool {
        let Some(role) = self.role_for_new() else { return false };
        let late = self.databases.is_in_sync();
        let patterns = &mut self.databases.patterns;
        let candidate = patterns.candidate(pattern, relative, here, late);
        let (file, member) = match candidate {
            Ok(candidate) => candidate,
            Err(trouble) => {
                patterns.note_trouble(pattern, trouble);
                return false;
            }
        };
        if self.databases.knows(&file) {
            let name = file.common_name();
            let reason = format!("its name {name}, or its path, is that of another database");
            let patterns = &mut self.databases.patterns;
            match here {
                true => patterns.note_left(pattern, file.path, reason),
                false => {
                    patterns.note_trouble(pattern, format!("{}: {reason}", file.path.display()))
                }
            }
            return false;
        }
        if !here && let Err(trouble) = make_directories(&file.path, relative) {
            self.databases.patterns.note_trouble(pattern, trouble);
            return false;
        }
        tracing::info!(database = file.common_name(), pattern, "it is protected from now on");
        self.databases.patterns.note(&member);
        self.databases.add_member(file, member, role);
        true
    }

    /// The role a new database begins with, if it is decided; outer `None`: it is being changed.
    fn role_for_new(&self) -> Option<Option<Role>> {
        let status = self.node.status(clock::now());
        match status.servers.first().and_then(|server| server.state) {
            Some(
                NodeState::TakingOver
                | NodeState::TakingBack
                | NodeState::FailingOver
                | NodeState::FallingBack,
            ) => None,
            Some(NodeState::Initializing) => Some(None),
            Some(_) | None => Some(self.node.role()),
        }
    }

    /// Remembers what has changed; a disk that refuses is tried again with the next change.
    pub(crate) fn save_or_log(&self) {
        if let Err(failure) = self.save_protected() {
            tracing::error!(
                error = failure.message,
                "the databases of patterns cannot be remembered"
            );
        }
    }

    /// Stops protecting a pattern and all its databases.
    pub(crate) fn unprotect_pattern(&mut self, text: &str, answer: oneshot::Sender<Answer>) {
        let in_file = |file: &DatabaseFile| file.path.as_os_str() == text;
        let note = self.config.file.databases.iter().any(in_file).then_some(
            "it stands in the configuration file too: remove it there, or it is protected again at the next start",
        );
        let workers = self.drop_pattern(text);
        if let Err(failure) = self.save_protected() {
            let _ = answer.send(Err(failure)); // the command line went away
            return;
        }
        self.measure();
        std::thread::spawn(move || {
            let result = remove_all(workers);
            let _ = answer
                .send(result.and_then(|()| value(&json!({ "result": "done", "note": note }))));
        });
    }

    fn drop_pattern(&mut self, text: &str) -> Vec<Worker> {
        self.databases.patterns.remove(text);
        self.databases.take_members(text)
    }

    /// A database of a pattern is taken out and stays out, whether or not its file is there.
    pub(crate) fn exclude(&mut self, member: &Member) {
        self.databases.patterns.forget(member, true);
    }

    /// A file that a pattern means is protected by it, or was taken out and comes back.
    pub(crate) fn protect_member(&mut self, file: &DatabaseFile) -> Option<Answer> {
        let (pattern, relative) = self.databases.patterns.owner(&file.path)?;
        let excluded = self
            .databases
            .patterns
            .files()
            .iter()
            .any(|entry| entry.pattern == pattern && entry.excluded.contains(&relative));
        let refuse = |message: String, hint: &str| {
            Some(Err(Failure::new(Kind::Refused, message).hinted(hint)))
        };
        let path = file.path.display();
        if !excluded {
            return refuse(
                format!("{path} belongs to the pattern {pattern}, which protects it by itself"),
                "`ipicsha ha-status` shows the pattern, and why a file is not taken",
            );
        }
        if !self.take_member(&pattern, &relative, file.path.exists()) {
            return refuse(
                format!("{path} cannot be taken into the pattern {pattern} now"),
                "try again in a moment; `ipicsha ha-status` shows the pattern",
            );
        }
        if let Err(failure) = self.save_protected() {
            return Some(Err(failure));
        }
        let row = |row: &crate::api::DatabaseRow| Path::new(&row.path) == file.path;
        Some(value(&self.databases.rows().into_iter().find(row)))
    }
}

fn remove_all(workers: Vec<Worker>) -> Result<(), Failure> {
    let (sender, results) = std::sync::mpsc::channel();
    for worker in &workers {
        let sender = sender.clone();
        worker.send(Command::Remove {
            done: Box::new(move |result| {
                let _ = sender.send(result); // an earlier one has failed
            }),
        });
    }
    drop(sender);
    let outcome =
        results.iter().try_for_each(|result| result.map_err(|error| records_failure(&error)));
    workers.into_iter().for_each(Worker::join);
    outcome
}

/// Makes the directories between the pattern's and the file, like the ones they are in. None of
/// them may be a link: it could lead out of the pattern's directory.
fn make_directories(path: &Path, relative: &str) -> Result<(), String> {
    let depth = relative.split('/').count();
    let ancestors: Vec<&Path> = path.ancestors().skip(1).take(depth).collect();
    for directory in ancestors.into_iter().rev() {
        let failed =
            |error: std::io::Error| format!("{} cannot be made: {error}", directory.display());
        match fs::symlink_metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) if path.ancestors().nth(depth) == Some(directory) && directory.is_dir() => {}
            Ok(_) => return Err(format!("{} is no directory", directory.display())),
            Err(_) if path.ancestors().nth(depth) == Some(directory) => {
                return Err(format!("{} does not exist: create it", directory.display()));
            }
            Err(_) => {
                let parent = directory.parent().unwrap_or(Path::new("/"));
                let like = fs::metadata(parent).map_err(failed)?;
                fs::DirBuilder::new()
                    .mode(like.mode() & 0o7777)
                    .create(directory)
                    .map_err(failed)?;
                chown(directory, Some(like.uid()), Some(like.gid())).map_err(failed)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_below_the_patterns_and_never_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("data");
        let missing = make_directories(&root.join("a/b/x.db"), "a/b/x.db").unwrap_err();
        assert!(missing.contains("does not exist"), "{missing}");
        fs::create_dir(&root).unwrap();
        make_directories(&root.join("a/b/x.db"), "a/b/x.db").unwrap();
        assert!(root.join("a/b").is_dir() && !root.join("a/b/x.db").exists());
        make_directories(&root.join("x.db"), "x.db").unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let refused = make_directories(&root.join("link/c/x.db"), "link/c/x.db").unwrap_err();
        assert!(refused.contains("no directory"), "{refused}");
        assert!(fs::read_dir(&outside).unwrap().next().is_none(), "it went through the link");
        // The pattern's own directory was named by the administrator: it may be one.
        std::os::unix::fs::symlink(&root, directory.path().join("alias")).unwrap();
        make_directories(&directory.path().join("alias/d/x.db"), "d/x.db").unwrap();
        assert!(root.join("d").is_dir());
    }
}
