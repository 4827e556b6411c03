//! The patterns of `protect db`: which databases each has, here and by the partner's word.
//!
//! Decides which files are taken and what is remembered of them. A database that was here once is
//! never built anew from the partner's: whoever deleted it may have meant it. Looking for files is
//! the business of `scan`, their replication that of `databases`.

mod scan;
pub(crate) mod verbs;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    api::PatternRow,
    config::DatabaseFile,
    exit::{Failure, Kind},
    pattern::{DATABASES_MAX, Pattern},
    size::ByteSize,
};
pub(crate) use scan::Outcome;
use scan::{Found, Memory, Search, Wanted};

/// Between two searches; a database is protected within twice this time.
const INTERVAL: Duration = Duration::from_millis(900);
/// A search that takes long is repeated less often: it uses at most one part in so many.
const SHARE: u32 = 20;
/// Files that are not taken, as far as they are shown.
const LEFT_SHOWN: usize = 10;

/// A pattern as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PatternFile {
    pub(crate) pattern: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) keep_journal_mode: bool,
    /// Room of the transaction log of each of its databases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_entries: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_bytes: Option<ByteSize>,
    /// Where one has another.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) limits: BTreeMap<String, (Option<u64>, Option<ByteSize>)>,
    /// Its databases, as paths below its directory, and whether each has ever been here.
    #[serde(default)]
    pub(crate) members: BTreeMap<String, bool>,
    /// Taken out by `unprotect db DATABASE`.
    #[serde(default)]
    pub(crate) excluded: BTreeSet<String>,
}

impl PatternFile {
    /// What `protect db PATTERN` asked for.
    pub(crate) fn of(file: &DatabaseFile) -> Self {
        Self {
            pattern: file.path.display().to_string(),
            name: file.name.clone(),
            keep_journal_mode: file.keep_journal_mode,
            log_entries: file.log_entries,
            log_bytes: file.log_bytes,
            limits: BTreeMap::new(),
            members: BTreeMap::new(),
            excluded: BTreeSet::new(),
        }
    }

    /// # Errors
    /// Those of [`Pattern::parse`].
    pub(crate) fn parse(&self) -> Result<Pattern, Failure> {
        Pattern::parse(&self.pattern, self.name.as_deref())
    }
}

/// What makes a database one of a pattern's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Text of the pattern.
    pub(crate) pattern: String,
    /// Path below the pattern's directory.
    pub(crate) relative: String,
    /// It has been here: a file that is gone was deleted.
    pub(crate) seen: bool,
    /// It came while the others were in sync: until it is, it does not keep a standby from taking
    /// over with the others.
    pub(crate) late: bool,
}

struct Entry {
    file: PatternFile,
    pattern: Pattern,
    found: Found,
    /// Why a database of the partner's cannot be made here.
    trouble: Option<String>,
}

/// All patterns of this server.
#[derive(Default)]
pub(crate) struct Patterns {
    all: Vec<Entry>,
    memory: Option<Memory>,
    /// A search is under way, begun with this generation.
    searching: Option<u64>,
    /// Rises with every change of the patterns.
    generation: u64,
    next: Option<Instant>,
}

impl Patterns {
    /// # Errors
    /// One of them is no pattern, or two of them could give one name to two files.
    pub(crate) fn new(files: Vec<PatternFile>) -> Result<Self, Failure> {
        let mut patterns = Self::default();
        for file in files {
            patterns.add(file)?;
        }
        Ok(patterns)
    }

    /// # Errors
    /// It is no pattern, is there already, or contradicts one that is.
    pub(crate) fn add(&mut self, file: PatternFile) -> Result<(), Failure> {
        let pattern = file.parse()?;
        self.check(&pattern)?;
        self.generation += 1;
        self.all.push(Entry { file, pattern, found: Found::default(), trouble: None });
        Ok(())
    }

    /// # Errors
    /// It is there already, or contradicts one that is.
    pub(crate) fn check(&self, pattern: &Pattern) -> Result<(), Failure> {
        if self.all.iter().any(|entry| entry.pattern.text == pattern.text) {
            let message = format!("the pattern {} is already protected", pattern.text);
            return Err(Failure::new(Kind::Refused, message).hinted("`ipicsha ha-status` shows it"));
        }
        let other = self.all.iter().find(|entry| entry.pattern.contradicts(pattern));
        other.map_or(Ok(()), |other| {
            let message = format!(
                "the name {} could mean a database of this pattern and one of {}, called {}",
                pattern.prefix, other.pattern.text, other.pattern.prefix
            );
            Err(Failure::new(Kind::Refused, message).hinted("choose another --name"))
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// To be remembered.
    pub(crate) fn files(&self) -> Vec<PatternFile> {
        self.all.iter().map(|entry| entry.file.clone()).collect()
    }

    /// One of its databases gets another transaction log.
    pub(crate) fn set_limits(&mut self, member: &Member, file: &DatabaseFile) {
        let limits = (file.log_entries, file.log_bytes);
        for entry in self.all.iter_mut().filter(|entry| entry.pattern.text == member.pattern) {
            entry.file.limits.insert(member.relative.clone(), limits);
        }
    }

    /// The databases that all patterns have.
    pub(crate) fn members(&self) -> Vec<(DatabaseFile, Member)> {
        let of = |entry: &Entry| {
            let members = entry.file.members.iter();
            members
                .map(|(relative, seen)| entry.member(relative.clone(), *seen, false))
                .collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
    }

    /// The pattern of this text, or of this name if only one has it.
    pub(crate) fn find(&self, text: &str) -> Option<String> {
        let named = || {
            let mut named = self.all.iter().filter(|entry| entry.pattern.prefix == text);
            named.next().filter(|_| named.next().is_none())
        };
        let found = self.all.iter().find(|entry| entry.pattern.text == text).or_else(named);
        found.map(|entry| entry.pattern.text.clone())
    }

    /// The first pattern that means this file, and the path below its directory.
    pub(crate) fn owner(&self, path: &Path) -> Option<(String, String)> {
        self.all
            .iter()
            .find_map(|entry| Some((entry.pattern.text.clone(), entry.pattern.relative(path)?)))
    }

    /// Where a database of the partner's belongs here.
    pub(crate) fn place(&self, name: &str) -> Option<(String, String)> {
        self.all.iter().find_map(|entry| {
            let relative = entry.pattern.relative_of_name(name)?;
            let free = !entry.file.excluded.contains(&relative);
            free.then(|| (entry.pattern.text.clone(), relative))
        })
    }

    /// The path of a database of the partner's that was taken out here.
    pub(crate) fn excluded_path(&self, name: &str) -> Option<PathBuf> {
        self.all.iter().find_map(|entry| {
            let relative = entry.pattern.relative_of_name(name)?;
            let path = entry.pattern.root.join(&relative);
            entry.file.excluded.contains(&relative).then_some(path)
        })
    }

    fn entry(&mut self, text: &str) -> Option<&mut Entry> {
        self.all.iter_mut().find(|entry| entry.pattern.text == text)
    }

    /// The database below a pattern's directory, before it is taken.
    ///
    /// # Errors
    /// The pattern has as many as it may have.
    pub(crate) fn candidate(
        &mut self,
        text: &str,
        relative: &str,
        seen: bool,
        late: bool,
    ) -> Result<(DatabaseFile, Member), String> {
        let entry = self.entry(text).ok_or("the pattern is not protected any more")?;
        let known = entry.file.members.contains_key(relative);
        if !known && entry.file.members.len() >= DATABASES_MAX {
            return Err(format!(
                "{relative} is not protected: the pattern has {DATABASES_MAX} databases, protect them by narrower patterns"
            ));
        }
        Ok(entry.member(relative.to_owned(), seen, late))
    }

    /// It is taken, or has been seen here.
    pub(crate) fn note(&mut self, member: &Member) {
        if let Some(entry) = self.entry(&member.pattern) {
            entry.file.excluded.remove(&member.relative);
            entry.file.members.insert(member.relative.clone(), member.seen);
            entry.trouble = None;
            self.generation += 1;
        }
    }

    /// It is not one of the pattern's any more; `excluded`: and shall not become one again.
    pub(crate) fn forget(&mut self, member: &Member, excluded: bool) {
        if let Some(entry) = self.entry(&member.pattern) {
            entry.file.members.remove(&member.relative);
            if excluded {
                entry.file.excluded.insert(member.relative.clone());
            }
            self.generation += 1;
        }
    }

    pub(crate) fn remove(&mut self, text: &str) {
        self.all.retain(|entry| entry.pattern.text != text);
        self.generation += 1;
    }

    pub(crate) fn note_trouble(&mut self, text: &str, trouble: String) {
        if let Some(entry) = self.entry(text)
            && entry.trouble.as_ref() != Some(&trouble)
        {
            tracing::warn!(pattern = text, trouble, "a database of the partner's is not taken");
            entry.trouble = Some(trouble);
        }
    }

    /// A file that was found cannot be taken.
    pub(crate) fn note_left(&mut self, text: &str, path: PathBuf, reason: String) {
        if let Some(entry) = self.entry(text) {
            entry.found.left.push((path, reason));
        }
    }

    /// The search that is due now.
    pub(crate) fn search(&mut self, known: BTreeSet<PathBuf>) -> Option<Search> {
        let due = self.next.is_none_or(|at| Instant::now() >= at);
        if self.all.is_empty() || self.searching.is_some() || !due {
            return None;
        }
        self.searching = Some(self.generation);
        let wanted = |entry: &Entry| Wanted {
            pattern: entry.pattern.clone(),
            excluded: entry.file.excluded.clone(),
            members: entry.file.members.len(),
        };
        let patterns = self.all.iter().map(wanted).collect();
        Some(Search { patterns, known, memory: self.memory.take().unwrap_or_default() })
    }

    /// Its result; the databases it found, unless the patterns have changed meanwhile.
    pub(crate) fn searched(&mut self, outcome: Outcome) -> Vec<(String, String)> {
        let begun = self.searching.take();
        self.memory = Some(outcome.memory);
        self.next = Some(Instant::now() + INTERVAL.max(outcome.took * SHARE));
        if begun != Some(self.generation) {
            self.next = None;
            return Vec::new();
        }
        let mut new = Vec::new();
        for (entry, found) in self.all.iter_mut().zip(outcome.found) {
            if let Some(problem) =
                found.problem.as_ref().filter(|_| found.problem != entry.found.problem)
            {
                tracing::warn!(pattern = entry.pattern.text, problem, "not all is protected");
            }
            let text = &entry.pattern.text;
            new.extend(found.new.iter().map(|relative| (text.clone(), relative.clone())));
            entry.found = found;
        }
        new
    }

    /// How many patterns cannot protect everything they match.
    pub(crate) fn problems(&self) -> usize {
        self.all.iter().filter(|entry| entry.problem().is_some()).count()
    }

    /// For the status.
    pub(crate) fn rows(&self) -> Vec<PatternRow> {
        self.all.iter().map(Entry::row).collect()
    }
}

impl Entry {
    fn member(&self, relative: String, seen: bool, late: bool) -> (DatabaseFile, Member) {
        let path = self.pattern.root.join(&relative);
        let name = self.pattern.name_of(&relative);
        let same = path.to_str() == Some(name.as_str());
        let own = self.file.limits.get(&relative).copied().unwrap_or_default();
        let file = DatabaseFile {
            path,
            name: (!same).then_some(name),
            keep_journal_mode: self.file.keep_journal_mode,
            log_entries: own.0.or(self.file.log_entries),
            log_bytes: own.1.or(self.file.log_bytes),
        };
        (file, Member { pattern: self.pattern.text.clone(), relative, seen, late })
    }

    fn problem(&self) -> Option<String> {
        self.found.problem.clone().or_else(|| self.trouble.clone())
    }

    fn row(&self) -> PatternRow {
        let left =
            |(path, reason): &(PathBuf, String)| (path.display().to_string(), reason.clone());
        PatternRow {
            pattern: self.pattern.text.clone(),
            name: self.pattern.prefix.clone(),
            keep_journal_mode: self.file.keep_journal_mode,
            databases: self.file.members.len(),
            databases_max: DATABASES_MAX,
            left: self.found.left.iter().take(LEFT_SHOWN).map(left).collect(),
            left_total: self.found.left.len(),
            excluded: self.file.excluded.iter().cloned().collect(),
            problem: self.problem(),
        }
    }
}
