//! Patterns of database files: which paths one means, and the name a database has on both servers.
//!
//! Decides names and matches from text alone. Must not look at the file system. The name is the
//! pattern's name and the path below its literal directory, so both servers derive the same one
//! whatever that directory is called; a name of the partner's reaches no path outside it.

use std::path::{Component, Path, PathBuf};

use glob::MatchOptions;

use crate::exit::{Failure, Kind};

/// Databases that one pattern protects, at most: each has a thread and three open files.
pub(crate) const DATABASES_MAX: usize = 100;

/// Files that SQLite, or this program, keeps beside a database.
const COMPANIONS: [&str; 5] = ["-wal", "-shm", "-journal", ".ipicsha-new", ".ipicsha-room"];

/// As the shell does it: `*` and `?` match neither `/` nor a leading dot.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// One part between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `**`: any number of directories.
    Directories,
    /// Anything else.
    Name(glob::Pattern),
}

/// A pattern that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    /// The directories before the first wildcard.
    pub(crate) root: PathBuf,
    /// What the names of its databases begin with.
    pub(crate) prefix: String,
    pub(crate) parts: Vec<Part>,
}

/// Whether a path has wildcards in it.
pub(crate) fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

impl Pattern {
    /// Reads a pattern; its databases are called after `name`, else by their paths.
    ///
    /// # Errors
    /// It is relative, or has no literal directory, or cannot end in a file.
    pub(crate) fn parse(text: &str, name: Option<&str>) -> Result<Self, Failure> {
        let wrong = |why: &str, hint: &str| {
            Err(Failure::new(Kind::Usage, format!("{text:?} {why}")).hinted(hint))
        };
        let example = "write it in quotes with the whole path, for example '/srv/app/data/*.db'";
        if !text.starts_with('/') {
            return wrong("is a relative pattern", example);
        }
        let pieces: Vec<&str> = text.split('/').filter(|piece| !piece.is_empty()).collect();
        if pieces.iter().any(|piece| matches!(*piece, "." | "..")) {
            return wrong("has `.` or `..` in it", "write the path without them");
        }
        let literal = pieces.iter().take_while(|piece| !is_pattern(Path::new(piece))).count();
        if literal == 0 {
            return wrong("begins with a wildcard: it would search every disk", example);
        }
        if text.ends_with('/') || pieces.last() == Some(&"**") {
            return wrong("names no files", "end it with the names of files, such as '**/*.db'");
        }
        let mut parts = Vec::new();
        for piece in &pieces[literal..] {
            match (*piece, glob::Pattern::new(piece)) {
                ("**", _) => parts.push(Part::Directories),
                (_, Ok(pattern)) => parts.push(Part::Name(pattern)),
                (_, Err(error)) => return wrong(error.msg, example),
            }
        }
        let root: PathBuf = Path::new("/").join(pieces[..literal].join("/"));
        if name.is_some_and(|name| name.is_empty() || name.ends_with('/')) {
            return wrong("cannot have that name", "give a --name that does not end with `/`");
        }
        let prefix = name.map_or_else(|| root.display().to_string(), str::to_owned);
        Ok(Self { text: text.to_owned(), root, prefix, parts })
    }

    /// The path below the root, if the pattern means this file.
    pub(crate) fn relative(&self, path: &Path) -> Option<String> {
        let relative = path.strip_prefix(&self.root).ok()?.to_str()?;
        let pieces: Vec<&str> = relative.split('/').collect();
        let whole = Path::new(relative).components().all(|c| matches!(c, Component::Normal(_)));
        (whole && !is_companion(relative) && matches(&self.parts, &pieces))
            .then(|| relative.to_owned())
    }

    /// The name both servers know it by.
    pub(crate) fn name_of(&self, relative: &str) -> String {
        format!("{}/{relative}", self.prefix)
    }

    /// Where a database of the partner's lies here, as the path below the root.
    pub(crate) fn relative_of_name(&self, name: &str) -> Option<String> {
        let relative = name.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let canonical = !relative.contains(['\0']) && !relative.contains("//");
        self.relative(&self.root.join(relative)).filter(|found| canonical && found == relative)
    }

    /// Whether both could give one name to two files.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        let below = |inner: &Self, outer: &Self| {
            let rest = inner.prefix.strip_prefix(&outer.prefix)?;
            let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
            Some(inner.root != outer.root.join(rest))
        };
        below(self, other).or_else(|| below(other, self)).unwrap_or(false)
    }
}

/// Whether it belongs to a database instead of being one.
pub(crate) fn is_companion(path: &str) -> bool {
    COMPANIONS.iter().any(|suffix| path.ends_with(suffix))
}

/// One name of a directory or file.
pub(crate) fn matches_name(pattern: &glob::Pattern, name: &str) -> bool {
    pattern.matches_with(name, OPTIONS)
}

fn matches(parts: &[Part], pieces: &[&str]) -> bool {
    match (parts, pieces) {
        ([], []) => true,
        ([Part::Directories, rest @ ..], _) => {
            let below = pieces.split_first().filter(|(first, _)| !first.starts_with('.'));
            matches(rest, pieces) || below.is_some_and(|(_, below)| matches(parts, below))
        }
        ([Part::Name(pattern), rest @ ..], [first, below @ ..]) => {
            matches_name(pattern, first) && matches(rest, below)
        }
        ([], _) | (_, []) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text, None).unwrap()
    }

    #[test]
    fn both_servers_derive_the_same_name_from_different_paths() {
        let here = Pattern::parse("/srv/app/data/*.db", Some("app")).unwrap();
        let there = Pattern::parse("/var/lib/app/*.db", Some("app")).unwrap();
        let relative = here.relative(Path::new("/srv/app/data/one.db")).unwrap();
        let name = here.name_of(&relative);
        assert_eq!(name, "app/one.db");
        assert_eq!(there.relative_of_name(&name).as_deref(), Some("one.db"));
        // Without a name it is the path, as with a single database.
        let plain = pattern("/srv/app/data/*.db");
        assert_eq!(plain.name_of("one.db"), "/srv/app/data/one.db");
        assert_eq!(plain.relative_of_name("/srv/app/data/one.db").as_deref(), Some("one.db"));
    }

    #[test]
    fn matching_is_that_of_the_shell() {
        let cases = [
            ("/d/*.db", "/d/a.db", true),
            ("/d/*.db", "/d/.a.db", false),
            ("/d/*.db", "/d/e/a.db", false),
            ("/d/*.db", "/d/a.sqlite", false),
            ("/d/**/*.db", "/d/a.db", true),
            ("/d/**/*.db", "/d/e/f/a.db", true),
            ("/d/**/*.db", "/d/.e/a.db", false),
            ("/d/*/x?.db", "/d/e/x1.db", true),
            ("/d/[ab].db", "/d/b.db", true),
            ("/d/[ab].db", "/d/c.db", false),
            ("/d/**/e/*", "/d/x/e/y", true),
            ("/d/*", "/d/a.db-wal", false),
            ("/d/*", "/d/a.db-shm", false),
            ("/d/*", "/d/a.db-journal", false),
            ("/d/*", "/d/a.db.ipicsha-new", false),
            ("/d/*", "/other/a.db", false),
        ];
        for (text, path, expected) in cases {
            let found = pattern(text).relative(Path::new(path)).is_some();
            assert_eq!(found, expected, "{text} and {path}");
        }
    }

    #[test]
    fn a_name_of_the_partner_reaches_no_other_path() {
        let app = Pattern::parse("/srv/data/**/*.db", Some("app")).unwrap();
        assert_eq!(app.relative_of_name("app/x/y.db").as_deref(), Some("x/y.db"));
        for name in [
            "app/../../etc/y.db",
            "app/x/../y.db",
            "app//etc/y.db",
            "app/./y.db",
            "app/x//y.db",
            "app/y.db/",
            "app/",
            "app",
            "apple/y.db",
            "other/y.db",
            "/srv/data/y.db",
            "app/.hidden/y.db",
            "app/y.db-wal",
            "app/y.txt",
            "app/\0y.db",
        ] {
            assert_eq!(app.relative_of_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn wrong_patterns_are_refused_with_a_next_step() {
        for (text, why) in [
            ("data/*.db", "relative"),
            ("/*.db", "wildcard"),
            ("/**/x.db", "wildcard"),
            ("/srv/**", "no files"),
            ("/srv/*/", "no files"),
            ("/srv/a**b/x", "single path component"),
            ("/srv/../*.db", "`..`"),
            ("/srv/[x.db", "range"),
        ] {
            let failure = Pattern::parse(text, None).unwrap_err();
            assert!(failure.message.contains(why), "{text}: {}", failure.message);
            assert_eq!(failure.kind, Kind::Usage);
            assert!(failure.next_step.is_some());
        }
        assert!(Pattern::parse("/srv/*.db", Some("")).is_err());
        assert!(Pattern::parse("/srv/*.db", Some("x/")).is_err());
    }

    #[test]
    fn names_that_could_mean_two_files_contradict() {
        let named = |text, name| Pattern::parse(text, Some(name)).unwrap();
        let cases = [
            (named("/a/*.db", "x"), named("/b/*.db", "x"), true),
            (named("/a/*.db", "x"), named("/b/*.db", "y"), false),
            (named("/a/**/*.db", "x"), named("/b/*.db", "x/sub"), true),
            (named("/a/**/*.db", "x"), named("/a/sub/*.db", "x/sub"), false),
            (named("/a/*.db", "x"), named("/b/*.db", "xy"), false),
            (pattern("/a/*.db"), pattern("/a/*.sqlite"), false),
            (pattern("/a/**/*.db"), pattern("/a/b/*.db"), false),
            (named("/b/*.db", "/a"), pattern("/a/*.db"), true),
        ];
        for (one, other, expected) in cases {
            assert_eq!(one.contradicts(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.contradicts(&one), expected, "{other:?} {one:?}");
        }
    }
}
