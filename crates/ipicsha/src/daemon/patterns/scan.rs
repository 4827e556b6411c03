//! Looks for files that match patterns, away from the event loop.
//!
//! Decides which of them are databases. Remembers what it has looked into, so that a file that does
//! not change is opened once. Never opens a file that is protected already, under whatever name.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::pattern::{DATABASES_MAX, Part, Pattern, is_companion, matches_name};

/// Directory entries that one search looks at.
const ENTRIES_MAX: usize = 100_000;

/// A search, with everything it must not look up itself.
#[derive(Default)]
pub(crate) struct Search {
    /// In order: a file belongs to the first pattern that matches it.
    pub(crate) patterns: Vec<Wanted>,
    /// Paths that are protected.
    pub(crate) known: BTreeSet<PathBuf>,
    pub(crate) memory: Memory,
}

/// A pattern and what it has.
pub(crate) struct Wanted {
    pub(crate) pattern: Pattern,
    /// Taken out by the administrator, as paths below the root.
    pub(crate) excluded: BTreeSet<String>,
    /// Databases it has already.
    pub(crate) members: usize,
}

/// What earlier searches have seen.
#[derive(Default)]
pub(crate) struct Memory {
    /// Files that are no databases, as they were then.
    judged: HashMap<PathBuf, (Stamp, String)>,
    /// Every file that was found at a protected path: its worker may still have it open.
    files: HashMap<(u64, u64), PathBuf>,
}

/// Changes when the contents do, with or without a WAL.
type Stamp = [(u64, u64, i64, i64, u64); 2];

/// What one pattern has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Databases that are not protected yet, as paths below the root.
    pub(crate) new: Vec<String>,
    /// Files that match and are not taken, with the reason.
    pub(crate) left: Vec<(PathBuf, String)>,
    /// Why not everything that matches can be protected.
    pub(crate) problem: Option<String>,
}

/// The result, in the order of the patterns.
pub(crate) struct Outcome {
    pub(crate) found: Vec<Found>,
    pub(crate) memory: Memory,
    pub(crate) took: Duration,
}

impl Search {
    pub(crate) fn run(mut self) -> Outcome {
        let started = Instant::now();
        self.note_files();
        let mut claimed = BTreeSet::new();
        let mut judged = HashMap::new();
        let wanted = std::mem::take(&mut self.patterns);
        let found =
            wanted.iter().map(|wanted| self.one(wanted, &mut claimed, &mut judged)).collect();
        // What does not match any more is forgotten.
        self.memory.judged = judged;
        Outcome { found, memory: self.memory, took: started.elapsed() }
    }

    fn note_files(&mut self) {
        let known = &self.known;
        self.memory.files.retain(|_, path| known.contains(path));
        for path in known {
            if let Ok(metadata) = fs::metadata(path) {
                self.memory.files.insert((metadata.dev(), metadata.ino()), path.clone());
            }
        }
    }

    fn one(
        &self,
        wanted: &Wanted,
        claimed: &mut BTreeSet<PathBuf>,
        judged: &mut HashMap<PathBuf, (Stamp, String)>,
    ) -> Found {
        let mut walk = Walk::default();
        walk.directory(&wanted.pattern.root, &wanted.pattern.parts);
        let mut found = Found { problem: walk.problem, ..Found::default() };
        for path in walk.files {
            if self.known.contains(&path) || claimed.contains(&path) {
                continue;
            }
            let Some(relative) = wanted.pattern.relative(&path) else { continue };
            claimed.insert(path.clone());
            if wanted.excluded.contains(&relative) {
                continue;
            }
            match self.judge(&path, judged) {
                None => found.new.push(relative),
                Some(reason) => found.left.push((path, reason)),
            }
        }
        let room = DATABASES_MAX.saturating_sub(wanted.members);
        if found.new.len() > room {
            let over = found.new.split_off(room);
            found.problem.get_or_insert(format!(
                "it matches more than {DATABASES_MAX} databases, {} are not protected (the first is {}): protect them by narrower patterns",
                over.len(),
                over[0]
            ));
        }
        found
    }

    /// Why a file is not taken; `None`: it is a database.
    fn judge(&self, path: &Path, judged: &mut HashMap<PathBuf, (Stamp, String)>) -> Option<String> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Some("it is no regular file".into()),
            Err(error) => return Some(error.to_string()),
        };
        if let Some(other) = self.memory.files.get(&(metadata.dev(), metadata.ino())) {
            return Some(format!("it is the same file as {}", other.display()));
        }
        let stamp = stamp(path);
        if let Some(before) = self.memory.judged.get(path)
            && before.0 == stamp
        {
            judged.insert(path.to_owned(), before.clone());
            return Some(before.1.clone());
        }
        match ipicsha_records::is_database(path) {
            Ok(true) => None,
            Ok(false) => {
                let reason = "no SQLite database with a table (yet)".to_owned();
                judged.insert(path.to_owned(), (stamp, reason.clone()));
                Some(reason)
            }
            // Locked, or no permission: another look may find it changed without another stamp.
            Err(error) => Some(format!("{error}: {}", error.next_step())),
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    ["", "-wal"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        fs::metadata(name)
            .map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size()))
            .unwrap_or_default()
    })
}

/// The file tree, without following links to directories: they may lead in circles.
#[derive(Default)]
struct Walk {
    files: BTreeSet<PathBuf>,
    entries: usize,
    problem: Option<String>,
}

impl Walk {
    fn directory(&mut self, directory: &Path, parts: &[Part]) {
        let [first, rest @ ..] = parts else { return };
        if *first == Part::Directories {
            self.directory(directory, rest);
        }
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // It may appear later, or has just gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.fail(directory, &error),
        };
        for entry in entries {
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                self.problem.get_or_insert(format!(
                    "more than {ENTRIES_MAX} directory entries have to be looked at: write a narrower pattern"
                ));
                return;
            }
            let (entry, kind) = match entry.and_then(|entry| entry.file_type().map(|k| (entry, k)))
            {
                Ok(pair) => pair,
                Err(error) => return self.fail(directory, &error),
            };
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            match first {
                Part::Directories if kind.is_dir() && !name.starts_with('.') => {
                    self.directory(&entry.path(), parts);
                }
                Part::Name(pattern) if matches_name(pattern, name) => match rest {
                    [] if !kind.is_dir() && !is_companion(name) => {
                        self.files.insert(entry.path());
                    }
                    [_, ..] if kind.is_dir() => self.directory(&entry.path(), rest),
                    [..] => {}
                },
                Part::Directories | Part::Name(_) => {}
            }
        }
    }

    fn fail(&mut self, directory: &Path, error: &std::io::Error) {
        self.problem.get_or_insert(format!(
            "{} cannot be read: {error}: give the user of the daemon permission to list it",
            directory.display()
        ));
    }
}
