//! What administrators ask of watched directories: protect and unprotect, what is kept, deletions
//! that wait, comparisons and repairs (spec C2, D5).

use std::sync::Arc;

use ipicsha_core::license::LicensedRole;
use ipicsha_files::replicate::{self, Command, CommandSender, CompareReport, Done, Refused};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use super::failure;
use crate::{
    api::{Answer, DirectoryOutcome, FilesRequest},
    config::{Config, DirectoryFile, clash},
    daemon::{
        event::Event, event_loop::Daemon, hooks::Moment, moments::vetoed, persist, verbs::value,
    },
    exit::{Failure, Kind},
};

const REMEMBERED: &str = "directories.json";

/// `directories.json`: what `protect dir` added to the configuration file.
#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    added: Vec<DirectoryFile>,
}

/// Directories of the configuration file and those that `protect dir` added.
///
/// # Errors
/// Two of them cannot be together, or the list is damaged.
pub(crate) fn watched_files(config: &Config) -> Result<Vec<DirectoryFile>, Failure> {
    let path = config.state_file(REMEMBERED);
    let remembered: Remembered = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(Kind::Config, format!("{} is damaged: {error}", path.display()))
                .hinted("move it away, start the daemon, and protect the directories again")
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Remembered::default(),
        Err(error) => {
            return Err(Failure::new(Kind::Failed, format!("{}: {error}", path.display())));
        }
    };
    let mut files = config.file.directories.clone();
    for added in remembered.added {
        // What is written in the file counts.
        if !files.iter().any(|file| file.path == added.path) {
            files.push(added);
        }
    }
    match clash(&files, &config.file.server.state_directory) {
        None => Ok(files),
        Some(why) => {
            Err(Failure::new(Kind::Config, why).hinted("give each its own `name` and `path`"))
        }
    }
}

fn remember(config: &Config, files: &[DirectoryFile]) -> Result<(), Failure> {
    let blocks = &config.file.directories;
    let is_block = |file: &&DirectoryFile| blocks.iter().any(|block| block.path == file.path);
    let added = files.iter().filter(|file| !is_block(file)).cloned().collect();
    let bytes = serde_json::to_vec_pretty(&Remembered { added }).map_err(anyhow::Error::from)?;
    let path = config.state_file(REMEMBERED);
    persist::write_durably(&path, &bytes)
        .map_err(|error| Failure::new(Kind::Failed, format!("{}: {error}", path.display())))
}

fn no_directory(name: &str) -> Failure {
    Failure::new(Kind::Refused, format!("no directory is called {name}"))
        .hinted("`ipicsha ha-status` lists them")
}

impl Daemon {
    /// `protect dir`.
    pub(crate) fn protect_directory(&mut self, file: DirectoryFile, create: bool) -> Answer {
        if let Some((key, why)) = file.problem() {
            return Err(Failure::new(Kind::Usage, format!("{key}: {why}"))
                .hinted("`ipicsha protect dir --help` shows what can be said"));
        }
        let mut files = self.directories.files();
        files.push(file.clone());
        if let Some(why) = clash(&files, &self.config.file.server.state_directory) {
            return Err(Failure::new(Kind::Refused, why).hinted(
                "`ipicsha ha-status` lists what is protected; choose another path or --name",
            ));
        }
        if create {
            std::fs::create_dir_all(&file.path).map_err(|error| {
                Failure::new(Kind::Failed, format!("cannot make {}: {error}", file.path.display()))
                    .hinted("make it by hand, then protect it")
            })?;
        }
        if !file.path.is_dir() {
            let message = format!("{} is no directory", file.path.display());
            return Err(Failure::new(Kind::Refused, message)
                .hinted("make it first, or add --create: it is filled from the partner then"));
        }
        remember(&self.config, &files)?;
        let name = file.common_name();
        self.directories.add(file);
        self.measure();
        value(&self.directories.rows().into_iter().find(|row| row.name.0 == name))
    }

    /// `unprotect dir`: nothing in the directory changes.
    pub(crate) fn unprotect_directory(&mut self, name: &str) -> Answer {
        let name = self.directories.find(name).ok_or_else(|| no_directory(name))?;
        let mut files = self.directories.files();
        files.retain(|file| file.common_name() != name);
        remember(&self.config, &files)?;
        self.directories.take(&name);
        self.measure();
        let written = |file: &DirectoryFile| file.common_name() == name;
        let note = self.config.file.directories.iter().any(written).then_some(
            "it stands in the configuration file too: remove it there, or it is protected again at the next start",
        );
        Ok(json!({ "result": "done", "note": note }))
    }

    /// Everything else that is asked of directories; the answer comes from elsewhere. A repair asks the
    /// hooks first.
    pub(crate) fn files_request(&self, request: FilesRequest, answer: oneshot::Sender<Answer>) {
        let FilesRequest::Compare { apply: true, .. } = request else {
            return self.files_request_now(request, answer);
        };
        let (hooks, told, events) = (self.hooks.clone(), self.told(), self.events.clone());
        tokio::spawn(async move {
            match hooks.run(Moment::PreRepair, &told).await {
                Ok(()) => {
                    let event = Event::FilesAllowed(request, answer);
                    let _ = events.send(event).await; // the daemon ends
                }
                Err(failed) => {
                    let _ = answer.send(Err(vetoed(&failed))); // the command line went away
                }
            }
        });
    }

    /// The same, with the hooks asked.
    pub(crate) fn files_request_now(&self, request: FilesRequest, answer: oneshot::Sender<Answer>) {
        let prepared = match request {
            FilesRequest::Trash { directory, limit } => {
                self.trash(directory.as_deref(), limit, answer)
            }
            FilesRequest::Restore { directory, id } => {
                self.restore(directory.as_deref(), id, answer)
            }
            FilesRequest::AcceptDeletions { directory } => {
                self.accept_deletions(directory.as_deref(), answer)
            }
            FilesRequest::Compare { directory, apply } => {
                self.compare_directories(directory.as_deref(), apply, answer)
            }
        };
        if let Err((failure, answer)) = prepared {
            let _ = answer.send(Err(failure)); // the command line went away
        }
    }

    /// Names that are meant: one, or all of them.
    fn chosen(&self, name: Option<&str>) -> Result<Vec<String>, Failure> {
        match name {
            Some(name) => Ok(vec![self.directories.find(name).ok_or_else(|| no_directory(name))?]),
            None => Ok(self.directories.files().iter().map(DirectoryFile::common_name).collect()),
        }
    }

    fn workers(&self, name: Option<&str>) -> Result<Vec<(String, CommandSender)>, Failure> {
        let names = self.chosen(name)?;
        if names.is_empty() {
            return Err(Failure::new(Kind::Refused, "no directory is protected")
                .hinted("protect one on both servers: `ipicsha protect dir PATH`"));
        }
        let worker = |name: String| match self.directories.sender(&name) {
            Some(sender) => Ok((name, sender)),
            None => Err(Failure::new(Kind::Refused, format!("{name} is not replicated now"))
                .hinted("`ipicsha ha-status` shows why; HA must be configured")),
        };
        names.into_iter().map(worker).collect()
    }

    fn trash(&self, name: Option<&str>, limit: usize, answer: Waiter) -> Prepared {
        let names = match self.chosen(name) {
            Ok(names) => names,
            Err(failure) => return Err((failure, answer)),
        };
        let state = self.config.state_file("directories");
        tokio::task::spawn_blocking(move || {
            let mut rows = Vec::new();
            let listed = names.iter().try_for_each(|name| {
                let kept = replicate::list_kept(&super::folder(&state, name))?;
                rows.extend(kept.into_iter().map(|kept| (name.clone(), kept)));
                Ok::<(), Refused>(())
            });
            rows.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.kept_unix));
            rows.truncate(limit);
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(directory, kept)| json!({ "directory": directory, "kept": kept }))
                .collect();
            let result = listed.map_err(|refused| failure(&refused)).and_then(|()| value(&rows));
            let _ = answer.send(result); // the command line went away
        });
        Ok(())
    }

    fn restore(&self, name: Option<&str>, id: u64, answer: Waiter) -> Prepared {
        let config = self.chosen(name).and_then(|names| match &names[..] {
            [name] => {
                // Which of the two this server is plays no part in putting a file back.
                let config = self.directories.config_of(name, LicensedRole::Primary);
                config.ok_or_else(|| no_directory(name))
            }
            _ => Err(Failure::new(Kind::Usage, "several directories are protected")
                .hinted("say which one: `ipicsha trash restore ID --dir NAME`")),
        });
        let config = match config {
            Ok(config) => config,
            Err(failure) => return Err((failure, answer)),
        };
        tokio::task::spawn_blocking(move || {
            let restored = replicate::restore_kept(&config, id);
            let result = restored
                .map(|path| json!({ "result": "done", "path": path }))
                .map_err(|refused| failure(&refused));
            let _ = answer.send(result); // the command line went away
        });
        Ok(())
    }

    fn accept_deletions(&self, name: Option<&str>, answer: Waiter) -> Prepared {
        let workers = match self.workers(name) {
            Ok(workers) => workers,
            Err(failure) => return Err((failure, answer)),
        };
        let waiting = ask_all(workers, |done| Command::AcceptDeletions { done });
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            for (name, receiver) in waiting {
                match outcome(receiver).await {
                    Ok(count) => accepted.push(json!({ "directory": name, "accepted": count })),
                    Err(refused) => {
                        let _ = answer.send(Err(failure(&refused))); // the command line went away
                        return;
                    }
                }
            }
            let _ = answer.send(Ok(json!({ "result": "done", "accepted": accepted })));
        });
        Ok(())
    }

    fn compare_directories(&self, name: Option<&str>, apply: bool, answer: Waiter) -> Prepared {
        let workers = match self.workers(name) {
            Ok(workers) => workers,
            // Where nothing is protected nothing differs.
            Err(_) if name.is_none() && self.directories.files().is_empty() => {
                let _ = answer.send(Ok(json!([]))); // the command line went away
                return Ok(());
            }
            Err(failure) => return Err((failure, answer)),
        };
        let asker = Arc::new(());
        let waiting = ask_all(workers, |done: Done<CompareReport>| Command::Compare {
            apply,
            asker: Arc::downgrade(&asker),
            done,
        });
        tokio::spawn(async move {
            let mut answer = answer;
            tokio::select! {
                outcomes = compared(waiting) => {
                    let result = refused_by_all(&outcomes).map_or_else(|| value(&outcomes), Err);
                    let _ = answer.send(result); // the command line went away
                }
                // Nobody waits for it: the workers give it up.
                () = answer.closed() => {}
            }
            drop(asker);
        });
        Ok(())
    }
}

async fn compared(waiting: Vec<(String, Outcome<CompareReport>)>) -> Vec<DirectoryOutcome> {
    let mut outcomes = Vec::new();
    for (directory, receiver) in waiting {
        let (report, error, next_step) = match outcome(receiver).await {
            Ok(report) => (Some(report), None, None),
            Err(refused) => (None, Some(refused.message), Some(refused.next_step)),
        };
        outcomes.push(DirectoryOutcome { directory, report, error, next_step });
    }
    outcomes
}

/// Where nothing at all was done, it is a refusal and no outcome.
fn refused_by_all(outcomes: &[DirectoryOutcome]) -> Option<Failure> {
    if outcomes.iter().any(|outcome| outcome.report.is_some()) {
        return None;
    }
    let first = outcomes.first()?;
    let message = format!("{}: {}", first.directory, first.error.as_deref().unwrap_or_default());
    let failure = Failure::new(Kind::Refused, message);
    Some(failure.hinted(first.next_step.as_deref().unwrap_or("try again")))
}

type Waiter = oneshot::Sender<Answer>;
/// Under way, or refused with the one who waits.
type Prepared = Result<(), (Failure, Waiter)>;
type Outcome<T> = oneshot::Receiver<Result<T, Refused>>;

/// Gives all workers a command.
fn ask_all<T: Send + 'static>(
    workers: Vec<(String, CommandSender)>,
    command: impl Fn(Done<T>) -> Command,
) -> Vec<(String, Outcome<T>)> {
    let ask = |(name, sender): (String, CommandSender)| {
        let (to, receiver) = oneshot::channel();
        sender.send(command(Box::new(move |result| {
            let _ = to.send(result); // the command line went away
        })));
        (name, receiver)
    };
    workers.into_iter().map(ask).collect()
}

async fn outcome<T>(receiver: Outcome<T>) -> Result<T, Refused> {
    receiver.await.unwrap_or_else(|_| {
        Err(Refused {
            message: "the worker of the directory has ended".into(),
            next_step: "look at the log of the daemon, then at `ipicsha ha-status`".into(),
        })
    })
}
