//! Where a half of a transfer may go.
//!
//! Decides what a typed path stands for: anything for the user of this machine, only what lies
//! beneath certain directories for somebody else. There a path is absolute, tidied by its words
//! alone, and reached from the allowed directory by held directories, so that no link leads out.
//! Must not know who asks.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;

use crate::{
    meta::{Kind, Meta},
    path::RelativePath,
    place::errno_of,
    resolve::{Links, Mounts, Root},
};

/// Where a half may go.
#[derive(Clone, Debug, Default)]
pub struct Territory {
    /// `None`: everywhere.
    roots: Option<Arc<[PathBuf]>>,
}

/// A path that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outside {
    /// It does not begin with a slash.
    #[error("it must be a whole path that begins with a slash")]
    Relative,
    /// It lies beneath no allowed directory.
    #[error("it lies in no directory that is allowed")]
    NotAllowed,
}

/// The path without `.`, `..` and repeated slashes; `..` takes the name before it away.
fn tidied(path: &Path) -> Option<PathBuf> {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir => tidy.push("/"),
            Component::Normal(name) => tidy.push(name),
            Component::ParentDir => drop(tidy.pop()),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    tidy.is_absolute().then_some(tidy)
}

impl Territory {
    /// Only these directories and what is beneath them.
    pub fn beneath(roots: &[PathBuf]) -> Self {
        Self { roots: Some(roots.iter().filter_map(|root| tidied(root)).collect()) }
    }

    /// Whether there are limits: the half works for somebody else.
    pub fn is_confined(&self) -> bool {
        self.roots.is_some()
    }

    /// Whether `path` may be used at all; `base` is where it begins when it is relative.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, base: Option<&[u8]>, path: &[u8]) -> Result<(), Outside> {
        let full = self.join(Path::new(OsStr::from_bytes(base.unwrap_or_default())), path);
        let Some(roots) = &self.roots else { return Ok(()) };
        let tidy = tidied(&full).ok_or(Outside::Relative)?;
        let allowed = roots.iter().any(|root| tidy.starts_with(root));
        if allowed { Ok(()) } else { Err(Outside::NotAllowed) }
    }

    /// `path`, seen from `base` when it is relative.
    pub(super) fn join(&self, base: &Path, path: &[u8]) -> PathBuf {
        let joined = base.join(OsStr::from_bytes(path));
        if self.is_confined() { tidied(&joined).unwrap_or(joined) } else { joined }
    }

    /// The allowed directory that `path` lies beneath, held, and the way from there.
    fn reach(roots: &[PathBuf], path: &Path) -> Result<(Root, RelativePath), Errno> {
        let tidy = tidied(path).ok_or(Errno::ACCESS)?;
        let fits = roots.iter().filter(|root| tidy.starts_with(root));
        let root = fits.max_by_key(|root| root.as_os_str().len()).ok_or(Errno::ACCESS)?;
        let rest = tidy.strip_prefix(root).unwrap_or(Path::new(""));
        let rest =
            RelativePath::new(rest.as_os_str().as_bytes()).map_err(|_| Errno::NAMETOOLONG)?;
        Ok((Root::open(root, Links::Beneath, Mounts::Cross)?, rest))
    }

    /// Holds the directory at `path` as a root of its own.
    pub(super) fn open(&self, path: &Path, links: Links) -> Result<Root, Errno> {
        match &self.roots {
            None => Root::open(path, links, Mounts::Cross),
            Some(roots) => {
                let (root, rest) = Self::reach(roots, path)?;
                // Links that lead anywhere are for the user of this machine only.
                Root::at(&*root.dir(&rest)?, Links::Refuse, Mounts::Cross)
            }
        }
    }

    /// What is at `path`, behind links; `None` when nothing is.
    pub(super) fn kind(&self, path: &Path) -> Result<Option<Kind>, Errno> {
        let Some(roots) = &self.roots else {
            return match fs::metadata(path) {
                Ok(meta) if meta.is_dir() => Ok(Some(Kind::Directory)),
                Ok(_) => Ok(Some(Kind::File)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(errno_of(&error)),
            };
        };
        let (root, rest) = Self::reach(roots, path)?;
        match root.dir(&rest) {
            Ok(_) => return Ok(Some(Kind::Directory)),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
        let Some((above, name)) = rest.split() else { return Err(Errno::NOTDIR) };
        Ok(root.dir(&above)?.find(&name)?.map(|_: Meta| Kind::File))
    }

    /// Whether a directory is at `path`.
    pub(super) fn is_dir(&self, path: &Path) -> bool {
        matches!(self.kind(path), Ok(Some(Kind::Directory)))
    }

    /// Makes one directory.
    pub(super) fn make_dir(&self, path: &Path) -> Result<(), Errno> {
        let Some(roots) = &self.roots else {
            return fs::create_dir(path).map_err(|error| errno_of(&error));
        };
        let (root, rest) = Self::reach(roots, path)?;
        let (above, name) = rest.split().ok_or(Errno::EXIST)?;
        root.dir(&above)?.make_dir(&name, 0o777)
    }

    /// Makes a directory with all that lead there.
    pub(super) fn make_dirs(&self, path: &Path) -> Result<(), Errno> {
        if !self.is_confined() {
            return fs::create_dir_all(path).map_err(|error| errno_of(&error));
        }
        let missing: Vec<&Path> = path.ancestors().take_while(|at| !self.is_dir(at)).collect();
        missing.into_iter().rev().try_for_each(|at| match self.make_dir(at) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        })
    }

    /// The path as rules are compared with it.
    pub(super) fn absolute(&self, path: &Path) -> Vec<u8> {
        let absolute = match &self.roots {
            None => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
            Some(_) => tidied(path).unwrap_or_default(),
        };
        absolute.into_os_string().into_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partner_stays_beneath_what_is_allowed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("in/d")).expect("directories");
        fs::create_dir_all(at("out/secret")).expect("directories");
        fs::write(at("in/f"), "x").expect("a file");
        symlink("../out", at("in/leaves")).expect("a link");
        symlink("d", at("in/stays")).expect("a link");
        let territory = Territory::beneath(&[at("in")]);
        let bytes = |path: &str| at(path).as_os_str().as_bytes().to_vec();

        for (path, expected) in [
            ("in", Ok(())),
            ("in/new/deep", Ok(())),
            ("in/d/../f", Ok(())),
            ("in/../out", Err(Outside::NotAllowed)),
            ("inside", Err(Outside::NotAllowed)),
            ("out", Err(Outside::NotAllowed)),
            ("", Err(Outside::NotAllowed)),
        ] {
            assert_eq!(territory.check(None, &bytes(path)), expected, "{path}");
        }
        assert_eq!(territory.check(None, b"in/d"), Err(Outside::Relative));
        assert_eq!(territory.check(Some(&bytes("in/d")), b"../f"), Ok(()));
        assert_eq!(territory.check(Some(&bytes("in/d")), b"../../out"), Err(Outside::NotAllowed));

        assert!(territory.open(&at("in/d"), Links::Refuse).is_ok());
        assert!(territory.open(&at("in/stays"), Links::Refuse).is_ok());
        for path in ["in/leaves", "in/leaves/secret", "out", "in/../out"] {
            assert!(territory.open(&at(path), Links::Follow).is_err(), "{path}");
            assert!(!territory.is_dir(&at(path)), "{path}");
            assert!(territory.make_dirs(&at(path).join("made")).is_err(), "{path}");
        }
        assert!(!at("out/made").exists() && !at("out/secret/made").exists());
        assert_eq!(territory.kind(&at("in/f")), Ok(Some(Kind::File)));
        assert_eq!(territory.kind(&at("in/none")), Ok(None));
        territory.make_dirs(&at("in/a/b/c")).expect("made");
        assert!(at("in/a/b/c").is_dir());
        assert!(Territory::beneath(&[]).check(None, b"/").is_err());
    }
}
