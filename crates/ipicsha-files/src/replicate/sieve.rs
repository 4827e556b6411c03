//! Which entries take part: the configured rules, and files of patterns as `.gitignore`.
//!
//! Decides by the rules that hold in an entry's directory and in those above. Must not know what is
//! in an entry.

use std::collections::HashMap;

use super::{DirectoryConfig, Refused};
use crate::{
    filter::{Half, Level, Rules, RulesConfig},
    hash::Hash,
    path::{Name, RelativePath},
    resolve::Root,
    watch::is_ours,
};

/// Rules of so many directories are held.
const LEVELS_MAX: usize = 4096;
/// More of a file of patterns is not read.
const PATTERN_BYTES_MAX: u64 = 1 << 20;

/// The rules of one directory tree.
#[derive(Debug)]
pub(super) struct Sieve {
    top: Level,
    ignore: Option<Name>,
    levels: HashMap<RelativePath, Level>,
    fingerprint: [u8; 32],
}

impl Sieve {
    /// From the configuration.
    ///
    /// # Errors
    /// A rule cannot be used.
    pub(super) fn new(config: &DirectoryConfig) -> Result<Self, Refused> {
        use std::os::unix::ffi::OsStrExt;
        let refused = |message: String| Refused {
            message,
            next_step: format!("correct the filter rules of the directory {}", config.name),
        };
        let mut rules = Rules::new(RulesConfig::default());
        for rule in &config.rules {
            rules.filter(rule.as_bytes()).map_err(|error| refused(error.to_string()))?;
        }
        let ignore = match config.ignore_file.as_str() {
            "" => None,
            name => {
                let checked = Name::new(name.as_bytes());
                let name = checked.map_err(|error| refused(format!("\"{name}\": {error}")))?;
                let rule = [b": ", name.as_bytes()].concat();
                rules.filter(&rule).map_err(|error| refused(error.to_string()))?;
                Some(name)
            }
        };
        let text = format!("{:?} {}", config.rules, config.ignore_file);
        let top = Level::new(&rules, Half::Sender, config.root.as_os_str().as_bytes());
        let fingerprint = *Hash::of(text.as_bytes()).as_bytes();
        Ok(Self { top, ignore, levels: HashMap::new(), fingerprint })
    }

    /// Changes with the configured rules.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether this is a file of patterns, so that a change of it changes what takes part.
    pub(super) fn is_rules(&self, path: &RelativePath) -> bool {
        self.ignore.is_some() && path.name() == self.ignore
    }

    /// Files of patterns are to be read anew.
    pub(super) fn forget(&mut self) {
        self.levels.clear();
    }

    /// Whether an entry takes no part, because of itself or of a directory above it.
    pub(super) fn excludes(&mut self, root: &Root, path: &RelativePath, directory: bool) -> bool {
        if is_ours(path.as_written()) {
            return true;
        }
        let mut at = RelativePath::root();
        let mut names = path.names().peekable();
        while let Some(name) = names.next() {
            let level = self.level(root, &at);
            let Ok(next) = at.join(&name) else { return true };
            let is_directory = directory || names.peek().is_some();
            if level.excludes(&next, is_directory) {
                return true;
            }
            at = next;
        }
        false
    }

    /// The same for an entry of a directory that itself takes part.
    pub(super) fn excludes_in(
        &mut self,
        root: &Root,
        at: &RelativePath,
        path: &RelativePath,
        directory: bool,
    ) -> bool {
        is_ours(path.as_written()) || self.level(root, at).excludes(path, directory)
    }

    /// The rules that hold in a directory.
    fn level(&mut self, root: &Root, at: &RelativePath) -> Level {
        if !self.top.reads_directories() {
            return self.top.clone();
        }
        if let Some(level) = self.levels.get(at) {
            return level.clone();
        }
        let above = at.split().map(|(parent, _)| self.level(root, &parent));
        let above = above.unwrap_or_else(|| self.top.clone());
        // A line that is no pattern is passed over with its file; the rules above hold on.
        let (level, _) = above.enter(at, |name| patterns(root, at, name));
        if self.levels.len() >= LEVELS_MAX {
            self.levels.clear();
        }
        self.levels.insert(at.clone(), level.clone());
        level
    }
}

/// The file of patterns in a directory, as filter rules.
fn patterns(root: &Root, at: &RelativePath, name: &Name) -> Option<Vec<u8>> {
    use std::io::Read;
    let file = root.dir(at).and_then(|dir| dir.open_file(name)).ok()?;
    let mut content = Vec::new();
    file.take(PATTERN_BYTES_MAX).read_to_end(&mut content).ok()?;
    Some(as_rules(&content))
}

/// Patterns in the words of `.gitignore` as filter rules: there the last one that fits counts, and
/// one with a slash inside begins where its file is.
fn as_rules(content: &[u8]) -> Vec<u8> {
    let mut rules = Vec::new();
    for line in content.split(|b| *b == b'\n').rev() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = without_spaces_at_end(line);
        let (sign, pattern) = match line {
            [] | [b'#', ..] => continue,
            [b'!', rest @ ..] => (&b"+ "[..], rest),
            [b'\\', rest @ ..] if matches!(rest, [b'#' | b'!', ..]) => (&b"- "[..], rest),
            all => (&b"- "[..], all),
        };
        if pattern.is_empty() || pattern == b"/" {
            continue;
        }
        let body = pattern.strip_suffix(b"/").unwrap_or(pattern);
        let inside = body.contains(&b'/') && !body.starts_with(b"/") && !body.starts_with(b"**");
        rules.extend_from_slice(sign);
        rules.extend_from_slice(if inside { b"/" } else { b"" });
        rules.extend_from_slice(pattern);
        rules.push(b'\n');
    }
    rules
}

fn without_spaces_at_end(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b' '] = line {
        if rest.ends_with(b"\\") {
            break;
        }
        line = rest;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_version_control_become_rules_in_reverse() {
        let content = b"# logs\n*.log\n!keep.log  \nbuild/\nsrc/gen\n\\#odd\r\n\n/top\n";
        let expected = "- /top\n- #odd\n- /src/gen\n- build/\n+ keep.log\n- *.log\n";
        assert_eq!(String::from_utf8(as_rules(content)).unwrap(), expected);
    }
}
