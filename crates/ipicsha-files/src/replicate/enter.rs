//! The watched directory is entered, if it is the one the index is about.
//!
//! Decides by a marker in it: an empty mount point, or another directory of the same name, is not
//! taken for one in which everything was deleted. Must not know the partner.

use std::{io::Write, sync::Arc};

use rustix::io::Errno;

use super::{
    engine::{Engine, Message, Step},
    index,
};
use crate::{
    error::Said,
    marker::{MARKER, OWN},
    path::Name,
    resolve::{Dir, Links, Mounts, Root},
    watch::{Options, Watcher},
};

/// What the marker says.
enum Marker {
    Right,
    Missing,
}

impl Engine {
    /// Enters the root, or says why not.
    pub(super) fn enter_root(&mut self) -> Step<()> {
        let shown = self.config.root.display().to_string();
        let root = match Root::open(&self.config.root, Links::Refuse, Mounts::Stay) {
            Ok(root) => root,
            Err(errno) => {
                self.hold_for(format!(
                    "the directory {shown} cannot be opened: {}; mount it, create it or make it \
                     readable",
                    Said(errno)
                ));
                self.report.changed();
                return Ok(());
            }
        };
        match self.check_marker(&root) {
            Ok(Marker::Right) => {}
            Ok(Marker::Missing) => {
                self.marker_missing = true;
                self.hold_for(format!(
                    "the marker .ipicsha/root is missing in {shown}, which was not empty before; \
                     mount the file system, or accept the deletions if all of it was removed on \
                     purpose"
                ));
                self.report.changed();
                return Ok(());
            }
            Err(errno) => {
                self.hold_for(format!(
                    "the marker .ipicsha/root in {shown} cannot be read or written: {}; make the \
                     directory writable",
                    Said(errno)
                ));
                self.report.changed();
                return Ok(());
            }
        }
        self.marker_missing = false;
        if self.watcher.is_none() && !self.start_watcher() {
            return Ok(());
        }
        self.find_rescued(&root);
        self.hold = None;
        self.root = Some(Arc::new(root));
        self.report.changed();
        if self.index.meta.rules != self.sieve.fingerprint() {
            self.rules_changed()?;
            self.index.meta.rules = self.sieve.fingerprint();
        }
        self.scan.everything();
        self.fetch.wake();
        Ok(())
    }

    fn start_watcher(&mut self) -> bool {
        let inbox = self.inbox.clone();
        // After the end nobody needs hints.
        let wake = move || drop(inbox.send(Message::Watch));
        match Watcher::start(&self.config.root, Options::default(), wake) {
            Ok(watcher) => {
                self.report.method(&watcher.status());
                self.watcher = Some(watcher);
                true
            }
            Err(error) => {
                self.hold_for(error.to_string());
                self.report.changed();
                false
            }
        }
    }

    fn check_marker(&mut self, root: &Root) -> Result<Marker, Errno> {
        let own = Name::new(OWN).expect("it is a name");
        let marker = Name::new(MARKER).expect("it is a name");
        let found = match root.top().child(&own) {
            Ok(dir) => read(&dir, &marker)?,
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        let is_new = self.index.meta.marker.is_none();
        if found.is_some() && found == self.index.meta.marker {
            return Ok(Marker::Right);
        }
        if !is_new && self.index.counts.entries > 0 {
            return Ok(Marker::Missing);
        }
        let text = index::random().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match root.top().make_dir(&own, 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let dir = root.top().child(&own)?;
        match dir.remove_file(&marker) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let mut file = dir.create_file(&marker, 0o600)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|error| crate::place::errno_of(&error))?;
        dir.sync()?;
        root.top().sync()?;
        self.index.meta.marker = Some(text);
        Ok(Marker::Right)
    }
}

fn read(dir: &Dir, marker: &Name) -> Result<Option<String>, Errno> {
    use std::io::Read;
    let file = match dir.open_file(marker) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mut text = String::new();
    match file.take(64).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        // Not ours.
        Err(_) => Ok(None),
    }
}
