//! How much the transaction log of each database may hold: what is configured, what `protect` was
//! told since, and a change while the database is served (spec C4).

use ipicsha_records::{Command, LogCapacity};
use tokio::sync::oneshot;

use super::{
    event::Event,
    event_loop::Daemon,
    verbs::{records_failure, save_protected, value},
};
use crate::{
    api::Answer,
    config::{DatabaseFile, LogFile, log_problem},
    exit::{Failure, Kind},
};

/// What a database has by its own settings, and by the defaults where it has none.
pub(crate) fn capacity_of(file: &DatabaseFile, defaults: &LogFile) -> LogCapacity {
    LogCapacity {
        entries: file.log_entries.unwrap_or(defaults.capacity_entries),
        bytes: file.log_bytes.unwrap_or(defaults.capacity_bytes).0,
    }
}

/// Refuses limits that no log can have.
pub(crate) fn check(file: &DatabaseFile) -> Result<(), Failure> {
    match log_problem(file.log_entries, file.log_bytes) {
        None => Ok(()),
        Some((_, range)) => Err(Failure::new(Kind::Usage, format!("the transaction log cannot have that size: {range}"))
            .hinted("choose --log-entries and --log-bytes within their ranges; at least twice the largest bulk job of the application")),
    }
}

/// The databases of the configuration file and those that were `added` by `protect`. Of one that is in
/// both, what `protect` was told last counts until its block in the file, which `was` like this, is
/// changed.
pub(crate) fn newest(
    configured: &[DatabaseFile],
    added: Vec<DatabaseFile>,
    was: &[DatabaseFile],
) -> Vec<DatabaseFile> {
    let same =
        |a: &DatabaseFile, b: &DatabaseFile| a.common_name() == b.common_name() && a.path == b.path;
    let newest = |block: &DatabaseFile| {
        let told = added.iter().find(|added| same(added, block));
        told.filter(|_| was.contains(block)).unwrap_or(block).clone()
    };
    let mut files: Vec<DatabaseFile> = configured.iter().map(newest).collect();
    files.extend(added.into_iter().filter(|file| !configured.iter().any(|b| same(b, file))));
    files
}

impl Daemon {
    /// `protect` again, for a database that is protected: only its limits change.
    pub(crate) fn change_limits(&mut self, wanted: &DatabaseFile, answer: oneshot::Sender<Answer>) {
        let known = self.databases.same(wanted);
        let Some(mut file) = known else {
            let message = format!("{} is already protected", wanted.common_name());
            let failure = Failure::new(Kind::Refused, message)
                .hinted("`ipicsha ha-status` shows it; another file needs another --name");
            let _ = answer.send(Err(failure)); // the command line went away
            return;
        };
        file.log_entries = wanted.log_entries.or(file.log_entries);
        file.log_bytes = wanted.log_bytes.or(file.log_bytes);
        let name = file.common_name();
        let Some(sender) = self.databases.sender(&name) else {
            let result = self.keep_limits(file);
            let _ = answer.send(result); // the command line went away
            return;
        };
        // In force first, remembered then: what is refused is not remembered.
        let capacity = capacity_of(&file, &self.config.file.log);
        let events = self.events.clone();
        sender.send(Command::SetCapacity {
            capacity,
            done: Box::new(move |result| {
                match result {
                    Ok(()) => {
                        let _ = events.blocking_send(Event::LimitsSet(file, answer)); // it ends
                    }
                    Err(error) => {
                        let refused = Failure { kind: Kind::Refused, ..records_failure(&error) };
                        let _ = answer.send(Err(refused)); // the command line went away
                    }
                }
            }),
        });
    }

    /// They are in force: remembers them.
    pub(crate) fn keep_limits(&mut self, file: DatabaseFile) -> Answer {
        let name = file.common_name();
        let mut files = self.databases.files();
        if let Some(known) = files.iter_mut().find(|known| known.common_name() == name) {
            known.clone_from(&file);
        } else if let Some(member) = self.databases.member(&name) {
            self.databases.patterns.set_limits(&member, &file);
        } else {
            let message = format!("{name} is not protected any more");
            return Err(Failure::new(Kind::Refused, message).hinted("protect it again"));
        }
        save_protected(&self.config, &files, &self.databases.patterns.files())?;
        self.databases.replace(file);
        self.measure();
        value(&self.databases.rows().into_iter().find(|row| row.name == name))
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn database(path: &str, log_entries: Option<u64>) -> DatabaseFile {
        DatabaseFile {
            path: path.into(),
            name: None,
            keep_journal_mode: false,
            log_entries,
            log_bytes: None,
        }
    }

    #[test]
    fn what_was_said_last_counts() {
        let block = database("/a", Some(5000));
        let told = vec![database("/a", Some(9000)), database("/b", None)];
        // The block is as it was when `protect` was told.
        let files = newest(slice::from_ref(&block), told.clone(), slice::from_ref(&block));
        assert_eq!(files, told);
        // It was changed since.
        let changed = database("/a", Some(7000));
        let files = newest(slice::from_ref(&changed), told, &[block]);
        assert_eq!(files, [changed, database("/b", None)]);
    }

    #[test]
    fn a_database_has_its_own_limits_where_it_has_some() {
        let defaults = LogFile::default();
        let capacity = capacity_of(&database("/a", Some(5000)), &defaults);
        assert_eq!((capacity.entries, capacity.bytes), (5000, defaults.capacity_bytes.0));
    }
}
