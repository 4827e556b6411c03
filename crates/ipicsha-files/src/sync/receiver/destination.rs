//! What was typed as the destination.
//!
//! Decides whether it is a directory to put things in, or the new name of a single file. Must not
//! look at entries.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;

use super::Receiver;
use crate::{
    error::Said,
    marker,
    meta::Kind,
    path::{Name, escape},
    resolve::{Links, Root},
    sync::{
        Event,
        channel::Channel,
        exit::{Exit, Fatal},
        message::{Begin, ToReceiver, ToSender},
        options::Options,
        territory::Territory,
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

    fn unusable(&self, errno: Errno) -> Fatal {
        let said = Said(errno);
        Fatal::new(
            Exit::Selection,
            format!("cannot use the destination \"{}\": {said}", self.shown()),
        )
    }

    /// Settles what is meant, and makes it when it has to be.
    fn settle(&mut self, options: &Options, begin: Begin) -> Result<(), Fatal> {
        let typed = if self.typed.is_empty() { &b"."[..] } else { &self.typed };
        let territory = &options.territory;
        let path = territory.join(Path::new(""), typed);
        let single = begin.entries == 1 && !begin.directories;
        let refuse = |text: &str| Err(Fatal::new(Exit::Selection, text));
        match territory.kind(&path) {
            Ok(Some(Kind::Directory)) => self.path = path,
            Ok(Some(_)) if begin.entries > 1 => {
                return refuse(
                    "the destination must be a directory when more than one file is copied",
                );
            }
            Ok(Some(_)) if !single => return refuse("a directory cannot be copied over a file"),
            Ok(Some(_)) => self.rename_into(options, &path)?,
            Err(errno) => return Err(self.unusable(errno)),
            Ok(None) if single && !self.names_directory() => self.rename_into(options, &path)?,
            Ok(None) => self.make(options, path)?,
        }
        if !(self.created && options.dry_run) {
            let links = if options.keep_dirlinks { Links::Follow } else { Links::Refuse };
            let root = territory.open(&self.path, links);
            let root = root.map_err(|errno| self.unusable(errno))?;
            if is_own(&self.path, &root) {
                let shown = self.shown();
                let text = format!(
                    "\"{shown}\" holds the marker of the directory that is watched there\n\
                     next: name another destination"
                );
                return Err(Fatal::new(Exit::Selection, text));
            }
            self.root = Some(Arc::new(root));
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
        let territory = &options.territory;
        if options.make_path && !territory.is_dir(&parent) {
            let missing = missing(territory, &parent);
            self.made_path = Some((parent.as_os_str().as_bytes().to_vec(), missing));
            self.created = options.dry_run;
            if !options.dry_run {
                territory.make_dirs(&parent).map_err(|errno| self.unusable(errno))?;
            }
        }
        self.path = parent;
        self.rename = Some(name);
        Ok(())
    }

    fn make(&mut self, options: &Options, path: PathBuf) -> Result<(), Fatal> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let territory = &options.territory;
        let orphan = parent.is_some_and(|parent| !territory.is_dir(parent));
        if options.make_path {
            let missing = missing(territory, &path);
            self.made_path = Some((path.as_os_str().as_bytes().to_vec(), missing));
        }
        let made = match (options.dry_run, options.make_path) {
            (true, true) => Ok(()),
            (true, false) if orphan => Err(Errno::NOENT),
            (true, false) => Ok(()),
            (false, true) => territory.make_dirs(&path),
            (false, false) => territory.make_dir(&path),
        };
        made.map_err(|errno| {
            let said = Said(errno);
            let text = format!("cannot make the directory \"{}\": {said}", self.shown());
            Fatal::new(Exit::FileIo, text)
        })?;
        // What exists by the path that was asked for does not count as made.
        self.created = !options.make_path || options.dry_run;
        self.path = path;
        Ok(())
    }
}

/// Whether a destination is the directory of our own in a watched one.
fn is_own(path: &Path, root: &Root) -> bool {
    let named = path.file_name().is_some_and(|name| name.as_bytes() == marker::OWN);
    named && marker::has_marker(root.top())
}

/// Number of directories that a path lacks.
fn missing(territory: &Territory, path: &Path) -> u64 {
    let lacks = |at: &&Path| !at.as_os_str().is_empty() && !territory.is_dir(at);
    path.ancestors().take_while(lacks).count() as u64
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
