//! Carries out role changes, one at a time and in order: writes and services. What is to be done is
//! decided elsewhere; here it is done, and the outcome told to the core.

use std::time::{Duration, Instant};

use ipicsha_core::{ActivationFailed, Input, Stage};
use ipicsha_files::replicate as files;
use ipicsha_records::{Command, CommandSender, Done, Error, Writes};
use tokio::sync::{mpsc, oneshot};

use super::{addresses::Addresses, event::Event, services::Services};
use crate::{api::ServiceOrder, exit::Failure};

/// How long a role change waits for its addresses.
const ADDRESSES: Duration = Duration::from_secs(3);

type Senders = Vec<(String, CommandSender)>;

/// One role change.
pub(crate) enum RoleChange {
    /// Open the writes, take the addresses, then start the services: a service may write while it
    /// starts, or listen at an address.
    Activate {
        databases: Senders,
        /// The partner has shipped everything.
        drained: bool,
        /// How long an address stays without being renewed.
        lifetime: Duration,
    },
    /// Close the writes, then stop the services.
    Deactivate(Senders),
    /// Planned: nothing is lost, or nothing happens.
    CloseWrites {
        databases: Senders,
        directories: Vec<(String, files::CommandSender)>,
        limit: Duration,
    },
    /// An administrator asks something of the services.
    Service(ServiceOrder, oneshot::Sender<Result<(), Failure>>),
    /// The daemon ends: child processes with it.
    End(oneshot::Sender<()>),
}

/// Runs role changes until the daemon ends.
pub(crate) async fn run(
    mut changes: mpsc::Receiver<RoleChange>,
    mut services: Services,
    addresses: Addresses,
    events: mpsc::Sender<Event>,
) {
    while let Some(change) = changes.recv().await {
        let tell = async |input| {
            let _ = events.send(Event::Node(input)).await; // a closed channel: the daemon ends
        };
        match change {
            RoleChange::Activate { databases, drained, lifetime } => {
                let failed = |stage| move |cause| ActivationFailed { stage, cause };
                let opened = set_writes(&databases, Writes::Open, drained).await;
                let result = match opened.map_err(failed(Stage::Writes)) {
                    Ok(()) => {
                        within(addresses.take(lifetime)).await;
                        services.start_all().await.map_err(failed(Stage::Services))
                    }
                    Err(failed) => Err(failed),
                };
                tell(Input::Activated(result)).await;
            }
            RoleChange::Deactivate(senders) => {
                let closed = set_writes(&senders, Writes::Closed, false).await;
                within(addresses.give_up()).await;
                let stopped = services.stop_all().await;
                tell(Input::Deactivated(closed.and(stopped))).await;
            }
            RoleChange::CloseWrites { databases, directories, limit } => {
                // Files first: they take longer, and writers of records need not wait for them.
                let result = match flush(&directories, Instant::now() + limit).await {
                    Ok(()) => close_writes(&databases, Instant::now() + limit).await,
                    Err(cause) => Err(cause),
                };
                let closed = result.is_ok();
                if closed {
                    within(addresses.give_up()).await; // the partner takes them at once
                }
                // The partner starts its services while ours end: with writes closed here that
                // costs nothing, and waiting would lengthen the pause for every writer.
                tell(Input::WritesClosed(result)).await;
                if closed && let Err(cause) = services.stop_all().await {
                    tell(Input::Deactivated(Err(cause))).await;
                }
            }
            RoleChange::Service(order, done) => {
                let _ = done.send(services.order(order).await); // the command line went away
            }
            RoleChange::End(done) => {
                services.stop_children().await;
                let _ = done.send(()); // nobody waits any more
            }
        }
    }
}

/// Addresses hold up no role change for long: what is not done by then is tried again every second.
async fn within(change: impl Future<Output = ()>) {
    if tokio::time::timeout(ADDRESSES, change).await.is_err() {
        tracing::warn!("the addresses take too long; the role change goes on");
    }
}

/// A pair of callback and future for one command.
fn answer<T: Send + 'static>() -> (Done<T>, oneshot::Receiver<Result<T, Error>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Done<T> = Box::new(move |result| {
        let _ = sender.send(result); // the waiter gave up
    });
    (done, receiver)
}

/// Sends one command to all workers and waits for all answers; the first error with its database.
async fn all<T: Send + 'static>(
    senders: &Senders,
    command: impl Fn(Done<T>) -> Command,
) -> Result<(), String> {
    let mut waiting = Vec::new();
    for (name, sender) in senders {
        let (done, receiver) = answer();
        sender.send(command(done));
        waiting.push((name, receiver));
    }
    let mut result = Ok(());
    for (name, receiver) in waiting {
        let outcome = match receiver.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Err(_) => Err(format!("{name}: its worker ended")),
        };
        result = result.and(outcome);
    }
    result
}

async fn set_writes(senders: &Senders, writes: Writes, drained: bool) -> Result<(), String> {
    all(senders, |done| Command::SetWrites { writes, drained, done }).await
}

/// Holds all databases, ships their tails, closes them together; any failure undoes it.
async fn close_writes(senders: &Senders, deadline: Instant) -> Result<(), String> {
    let prepared = all(senders, |done| Command::Prepare { deadline, done }).await;
    let closed = match prepared {
        Ok(()) => all(senders, |done| Command::Commit { done }).await,
        Err(cause) => Err(cause),
    };
    if let Err(cause) = closed {
        for (_, sender) in senders {
            sender.send(Command::Abort);
        }
        // Databases that were closed before another one failed are opened again.
        if let Err(error) = set_writes(senders, Writes::Open, true).await {
            tracing::error!(error, "writes could not be opened again");
        }
        return Err(cause);
    }
    Ok(())
}

/// Waits until the partner has every file as it was when this was asked.
async fn flush(
    directories: &[(String, files::CommandSender)],
    deadline: Instant,
) -> Result<(), String> {
    let mut waiting = Vec::new();
    for (name, sender) in directories {
        let (to, receiver) = oneshot::channel();
        let done: files::Done<()> = Box::new(move |result| {
            let _ = to.send(result); // the waiter gave up
        });
        sender.send(files::Command::Flush { done });
        waiting.push((name, receiver));
    }
    for (name, receiver) in waiting {
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(refused))) => {
                return Err(format!("directory {name}: {refused}; {}", refused.next_step));
            }
            Ok(Err(_)) => return Err(format!("directory {name}: its worker ended")),
            Err(_) => {
                return Err(format!(
                    "directory {name}: files are still on their way; `ipicsha ha-status` shows how many"
                ));
            }
        }
    }
    Ok(())
}
