//! Repairs of the past: listed, and undone on the active server.

use ipicsha_records::{Command, Error, Journal, PastRepair, UndoReport};
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    event::Event,
    verbs::{records_failure, value},
    work::Task,
};
use crate::{
    api::Answer,
    exit::{Failure, Kind},
};

/// `repair list`.
pub(crate) async fn list(task: &Task, database: Option<String>, limit: usize) -> Answer {
    value(&read(task, database, limit).await?)
}

async fn read(
    task: &Task,
    database: Option<String>,
    limit: usize,
) -> Result<Vec<PastRepair>, Failure> {
    let journal = task.config.state_file("journal.db");
    let read = tokio::task::spawn_blocking(move || {
        Journal::open(&journal)?.repairs(database.as_deref(), limit)
    });
    read.await.map_err(anyhow::Error::from)?.map_err(|error| records_failure(&error))
}

/// `repair undo`: every database of the repair, one after the other.
pub(crate) async fn undo(task: &Task, run: u64) -> Answer {
    let past = read(task, None, 0).await?;
    let databases: Vec<String> =
        past.into_iter().filter(|past| past.run == run).map(|past| past.database).collect();
    if databases.is_empty() {
        return Err(Failure::new(Kind::Refused, format!("no repair has the number {run}"))
            .hinted("`ipicsha repair list` shows them"));
    }
    if !task.active {
        let message = "this server is standby; what comes back is an ordinary write";
        return Err(Failure::new(Kind::Refused, message)
            .hinted(&format!("run `ipicsha repair undo {run}` on the active server")));
    }
    let mut outcomes = Vec::new();
    for database in databases {
        outcomes.push(match undo_one(task, &database, run).await {
            Ok(report) => {
                let _ = task.events.send(Event::RepairUndone(report.clone())).await; // the daemon ends
                json!({ "database": database, "report": report, "error": null })
            }
            Err(error) => {
                let next = error.next_step();
                json!({ "database": database, "report": null, "error": error.to_string(), "next_step": next })
            }
        });
    }
    Ok(outcomes.into())
}

async fn undo_one(task: &Task, database: &str, run: u64) -> Result<UndoReport, Error> {
    let gone = || Error::NotReady(format!("{database} is not protected any more"));
    let (_, worker) = task.workers.iter().find(|(name, _)| name == database).ok_or_else(gone)?;
    let (sender, receiver) = oneshot::channel();
    worker.send(Command::Undo {
        run,
        done: Box::new(move |result| {
            let _ = sender.send(result); // the command line went away
        }),
    });
    receiver.await.unwrap_or(Err(Error::Stopped))
}
