//! The `[[directory]]` blocks and `[files]`: what was written about watched directories, and whether
//! it can be meant.

use std::path::{Component, Path, PathBuf};

use ipicsha_files::{
    filter::{Rules, RulesConfig},
    replicate::{GuardLimits, KeepLimits},
};
use serde::{Deserialize, Serialize};

use crate::size::ByteSize;

const DAY_SECONDS: f64 = 86_400.0;

/// What holds for all watched directories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FilesFile {
    /// Bytes per second to the partner; without it as many as the link takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_limit: Option<ByteSize>,
}

/// A watched directory (spec C2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectoryFile {
    pub(crate) path: PathBuf,
    /// Name common to both servers; the path when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Filter rules in rsync's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filter: Vec<String>,
    /// Files of patterns of what takes no part, as `.gitignore`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) ignore_file: String,
    #[serde(default = "keep_days")]
    pub(crate) keep_days: f64,
    #[serde(default = "keep_bytes")]
    pub(crate) keep_bytes: ByteSize,
    #[serde(default = "deletions_max")]
    pub(crate) deletions_max: u64,
    #[serde(default = "deletions_percent_max")]
    pub(crate) deletions_percent_max: u32,
}

fn keep_days() -> f64 {
    KeepLimits::default().age.as_secs_f64() / DAY_SECONDS
}

fn keep_bytes() -> ByteSize {
    ByteSize(KeepLimits::default().bytes)
}

fn deletions_max() -> u64 {
    GuardLimits::default().files
}

fn deletions_percent_max() -> u32 {
    GuardLimits::default().percent
}

impl DirectoryFile {
    /// With every setting as it is unless it is written.
    pub(crate) fn new(path: PathBuf, name: Option<String>) -> Self {
        Self {
            path,
            name,
            filter: Vec::new(),
            ignore_file: String::new(),
            keep_days: keep_days(),
            keep_bytes: keep_bytes(),
            deletions_max: deletions_max(),
            deletions_percent_max: deletions_percent_max(),
        }
    }

    pub(crate) fn common_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.path.display().to_string())
    }

    pub(crate) fn keep(&self) -> KeepLimits {
        let age = std::time::Duration::from_secs_f64(self.keep_days * DAY_SECONDS);
        KeepLimits { age, bytes: self.keep_bytes.0 }
    }

    pub(crate) fn guard(&self) -> GuardLimits {
        GuardLimits {
            percent: self.deletions_percent_max,
            files: self.deletions_max,
            ..GuardLimits::default()
        }
    }

    /// What is wrong with it: the key, and why.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        if !is_plain(&self.path) {
            return Some(("path", "it must be absolute, without `.` and `..`".into()));
        }
        if self.common_name().is_empty() || self.common_name().len() > 255 {
            return Some(("name", "1 to 255 characters".into()));
        }
        if !(0.0..=3650.0).contains(&self.keep_days) {
            return Some(("keep_days", "0 to 3650 days".into()));
        }
        if !(1..=1_000_000_000).contains(&self.deletions_max) {
            return Some(("deletions_max", "1 to 1000000000 deletions".into()));
        }
        if !(1..=100).contains(&self.deletions_percent_max) {
            return Some(("deletions_percent_max", "1 to 100 %".into()));
        }
        if self.ignore_file.contains('/') {
            return Some(("ignore_file", "a name without `/`, for example `.gitignore`".into()));
        }
        let mut rules = Rules::new(RulesConfig::default());
        let wrong = |rule: &String| {
            let error = rules.filter(rule.as_bytes()).err()?;
            Some(("filter", format!("{rule:?}: {error}")))
        };
        self.filter.iter().find_map(wrong)
    }
}

fn is_plain(path: &Path) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(plain) && path.components().count() > 1
}

/// Which two of them cannot be together, and why; also with the daemon's own state directory.
pub(crate) fn clash(files: &[DirectoryFile], state: &Path) -> Option<String> {
    let nested = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    for (index, file) in files.iter().enumerate() {
        let (name, path) = (file.common_name(), file.path.display());
        if nested(&file.path, state) {
            return Some(format!(
                "{path} and the state directory {} lie in one another",
                state.display()
            ));
        }
        for other in &files[..index] {
            if other.common_name() == name {
                return Some(format!("two directories are called {name}"));
            }
            if nested(&other.path, &file.path) {
                return Some(format!("{path} and {} lie in one another", other.path.display()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, name: &str) -> DirectoryFile {
        DirectoryFile::new(path.into(), Some(name.into()))
    }

    #[test]
    fn what_cannot_be_meant_is_named_with_its_key() {
        let key = |change: fn(&mut DirectoryFile)| {
            let mut file = file("/srv/app", "app");
            change(&mut file);
            file.problem().map(|(key, _)| key)
        };
        assert_eq!(key(|_| {}), None);
        assert_eq!(key(|f| f.filter = vec!["- *.tmp".into(), "+ /keep/***".into()]), None);
        assert_eq!(key(|f| f.path = "srv".into()), Some("path"));
        assert_eq!(key(|f| f.path = "/srv/../etc".into()), Some("path"));
        assert_eq!(key(|f| f.path = "/".into()), Some("path"));
        assert_eq!(key(|f| f.name = Some(String::new())), Some("name"));
        assert_eq!(key(|f| f.keep_days = -1.0), Some("keep_days"));
        assert_eq!(key(|f| f.deletions_max = 0), Some("deletions_max"));
        assert_eq!(key(|f| f.deletions_percent_max = 101), Some("deletions_percent_max"));
        assert_eq!(key(|f| f.ignore_file = "a/b".into()), Some("ignore_file"));
        assert_eq!(key(|f| f.filter = vec!["nonsense".into()]), Some("filter"));
    }

    #[test]
    fn directories_neither_share_names_nor_lie_in_one_another() {
        let state = Path::new("/var/lib/ipicsha");
        let of = |files: &[DirectoryFile]| clash(files, state).unwrap_or_default();
        assert_eq!(of(&[file("/srv/a", "a"), file("/srv/ab", "b")]), "");
        assert!(of(&[file("/srv/a", "a"), file("/srv/b", "a")]).contains("are called a"));
        assert!(of(&[file("/srv/a", "a"), file("/srv/a/b", "b")]).contains("in one another"));
        assert!(of(&[file("/var/lib", "a")]).contains("state directory"));
        assert!(of(&[file("/var/lib/ipicsha/x", "a")]).contains("state directory"));
    }

    #[test]
    fn limits_are_those_that_are_written() {
        let file: DirectoryFile = toml::from_str(
            "path = \"/srv/a\"\nkeep_days = 0.5\nkeep_bytes = \"2 MiB\"\ndeletions_max = 7\n",
        )
        .unwrap();
        assert_eq!(file.keep().age.as_secs(), 43_200);
        assert_eq!(file.keep().bytes, 2 << 20);
        assert_eq!(file.guard(), GuardLimits { files: 7, ..GuardLimits::default() });
        assert_eq!(file.common_name(), "/srv/a");
    }
}
