//! What was typed as the destination.
//!
//! Decides whether it is a directory to put things in, or the new name of a single file. Must not
//! look at entries.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;

use super::Receiver;
use crate::{
    error::Said,
    path::{Name, escape},
    place::errno_of,
    resolve::{Links, Mounts, Root},
    sync::{
        Event,
        channel::Channel,
        exit::{Exit, Fatal},
        message::{Begin, ToReceiver, ToSender},
        options::Options,
    },
};

/// Where the entries go.
#[derive(Debug)]
pub(super) struct Destination {
    typed: Vec<u8>,
    /// `None` in a dry run whose destination does not exist.
    pub(super) root: Option<Arc<Root>>,
    /// Its path, for other directories that are named from there.
    pub(super) path: PathBuf,
    /// The only entry gets this name.
    pub(super) rename: Option<Name>,
    /// It was made just now.
    pub(super) created: bool,
    /// With `--mkpath`: the directories that were made for a path.
    pub(super) made_path: Option<(Vec<u8>, u64)>,
}

impl Destination {
    pub(super) fn unknown(typed: &[u8]) -> Self {
        Self {
            typed: typed.to_vec(),
            root: None,
            path: PathBuf::new(),
            rename: None,
            created: false,
            made_path: None,
        }
    }

    fn shown(&self) -> String {
        escape(&self.typed)
    }

    /// A directory must be meant.
    fn names_directory(&self) -> bool {
        let last = self.typed.rsplit(|b| *b == b'/').next().unwrap_or_default();
        matches!(last, b"" | b"." | b"..")
    }

    fn unusable(&self, error: &std::io::Error) -> Fatal {
        let said = Said(errno_of(error));
        Fatal::new(
            Exit::Selection,
            format!("cannot use the destination \"{}\": {said}", self.shown()),
        )
    }

    /// Settles what is meant, and makes it when it has to be.
    fn settle(&mut self, options: &Options, begin: Begin) -> Result<(), Fatal> {
        let typed = if self.typed.is_empty() { &b"."[..] } else { &self.typed };
        let path = PathBuf::from(OsStr::from_bytes(typed));
        let single = begin.entries == 1 && !begin.directories;
        let refuse = |text: &str| Err(Fatal::new(Exit::Selection, text));
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => self.path = path,
            Ok(_) if begin.entries > 1 => {
                return refuse(
                    "the destination must be a directory when more than one file is copied",
                );
            }
            Ok(_) if !single => return refuse("a directory cannot be copied over a file"),
            Ok(_) => self.rename_into(options, &path)?,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.unusable(&error));
            }
            Err(_) if single && !self.names_directory() => self.rename_into(options, &path)?,
            Err(_) => self.make(options, path)?,
        }
        if !(self.created && options.dry_run) {
            let links = if options.keep_dirlinks { Links::Follow } else { Links::Refuse };
            let root = Root::open(&self.path, links, Mounts::Cross);
            self.root = Some(Arc::new(root.map_err(|errno| self.unusable(&errno.into()))?));
        }
        Ok(())
    }

    /// The only file gets the last name of what was typed, in a directory that must exist.
    fn rename_into(&mut self, options: &Options, path: &Path) -> Result<(), Fatal> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(".")).to_owned();
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let name = Name::new(name).map_err(|error| {
            Fatal::new(Exit::Selection, format!("\"{}\" is no file name: {error}", self.shown()))
        })?;
        if options.make_path && !parent.is_dir() {
            self.made_path = Some((parent.as_os_str().as_bytes().to_vec(), missing(&parent)));
            self.created = options.dry_run;
            if !options.dry_run {
                fs::create_dir_all(&parent).map_err(|error| self.unusable(&error))?;
            }
        }
        self.path = parent;
        self.rename = Some(name);
        Ok(())
    }

    fn make(&mut self, options: &Options, path: PathBuf) -> Result<(), Fatal> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let orphan = parent.is_some_and(|parent| !parent.is_dir());
        if options.make_path {
            self.made_path = Some((path.as_os_str().as_bytes().to_vec(), missing(&path)));
        }
        let made = match (options.dry_run, options.make_path) {
            (true, true) => Ok(()),
            (true, false) if orphan => Err(std::io::ErrorKind::NotFound.into()),
            (true, false) => Ok(()),
            (false, true) => fs::create_dir_all(&path),
            (false, false) => fs::create_dir(&path),
        };
        made.map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let said = Said(if missing { Errno::NOENT } else { errno_of(&error) });
            let text = format!("cannot make the directory \"{}\": {said}", self.shown());
            Fatal::new(Exit::FileIo, text)
        })?;
        // What exists by the path that was asked for does not count as made.
        self.created = !options.make_path || options.dry_run;
        self.path = path;
        Ok(())
    }
}

/// Number of directories that a path lacks.
fn missing(path: &Path) -> u64 {
    path.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.is_dir()).count() as u64
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    pub(super) fn begin(&mut self, begin: Begin) -> Result<(), Fatal> {
        if begin.entries == 0 {
            return Ok(());
        }
        self.destination.settle(self.options, begin)?;
        if let Some((path, directories)) = self.destination.made_path.clone() {
            let directories = Some(directories);
            self.report.event(Event::CreatedDestination { path, directories });
        } else if self.destination.created {
            let path = self.destination.typed.clone();
            self.report.event(Event::CreatedDestination { path, directories: None });
        }
        self.open_backup()?;
        self.open_basis();
        Ok(())
    }
}
