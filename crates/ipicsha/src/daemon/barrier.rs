//! `barrier`: the answer that the partner durably has everything an application committed before.
//!
//! Decides which databases are asked and how their answers become one. When a database is
//! confirmed is the business of its worker.

use std::time::{Duration, Instant};

use ipicsha_core::state::Role;
use ipicsha_records::{Command, CommandSender, Confirmed, Error};
use serde_json::json;
use tokio::sync::oneshot;

use super::event_loop::Daemon;
use crate::{
    api::Answer,
    config::seconds,
    exit::{Failure, Kind},
};

/// Longest time a barrier may wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

type Waiting = (String, oneshot::Receiver<Result<Confirmed, Error>>);

fn not_confirmed(message: impl Into<String>) -> Failure {
    Failure::new(Kind::NotConfirmed, message)
}

impl Daemon {
    /// Asks the workers at once, so that the barrier stands where the request arrived; the answers
    /// are waited for elsewhere.
    pub(crate) fn barrier(
        &self,
        database: Option<&str>,
        timeout_seconds: f64,
        answer: oneshot::Sender<Answer>,
    ) {
        let started = Instant::now();
        let prepared = self.barrier_targets(database).and_then(|targets| {
            let timeout = seconds(timeout_seconds).ok().filter(|timeout| *timeout <= TIMEOUT_MAX);
            let timeout = timeout.ok_or_else(|| {
                Failure::new(Kind::Usage, format!("{timeout_seconds} s is no timeout of a barrier"))
                    .hinted("give 0 to 3600 seconds")
            })?;
            Ok((targets, started + timeout))
        });
        let (targets, deadline) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                let _ = answer.send(Err(failure)); // the application went away
                return;
            }
        };
        let ask = |(name, sender): (String, CommandSender)| -> Waiting {
            let (to, receiver) = oneshot::channel();
            let done = Box::new(move |result| {
                let _ = to.send(result); // the application went away
            });
            sender.send(Command::Barrier { deadline, done });
            (name, receiver)
        };
        let waiting: Vec<Waiting> = targets.into_iter().map(ask).collect();
        tokio::spawn(async move {
            let result = collect(waiting, started).await;
            let _ = answer.send(result); // the application went away
        });
    }

    /// The workers to be asked; in any state but that of an active server there is nothing to ask.
    fn barrier_targets(
        &self,
        database: Option<&str>,
    ) -> Result<Vec<(String, CommandSender)>, Failure> {
        let names = match database {
            None => self.databases.names(None),
            Some(given) => vec![self.databases.find(given).ok_or_else(|| {
                Failure::new(Kind::Refused, format!("no database is called {given}"))
                    .hinted("`ipicsha ha-status` lists them")
            })?],
        };
        if names.is_empty() {
            return Err(not_confirmed("not confirmed: no database is protected")
                .hinted("protect it on both servers: `ipicsha protect db PATH`"));
        }
        match self.node.role() {
            None => {
                Err(not_confirmed("not confirmed: HA is not configured, nothing is replicated")
                    .hinted("configure HA: `ipicsha configure`"))
            }
            Some(Role::Standby) => Err(not_confirmed(
                "not confirmed: this server is standby, it commits nothing of its own",
            )
            .hinted("ask on the active server, where the application writes")),
            Some(Role::Active) => {
                let target = |name: String| match self.databases.sender(&name) {
                    Some(sender) => Ok((name, sender)),
                    None => Err(not_confirmed(format!("not confirmed: {name} is not served"))
                        .hinted("`ipicsha ha-status` shows why")),
                };
                names.into_iter().map(target).collect()
            }
        }
    }
}

/// All answers as one: confirmed only when every database is.
async fn collect(waiting: Vec<Waiting>, started: Instant) -> Answer {
    let (mut confirmed, mut missing) = (Vec::new(), Vec::new());
    let (mut names, mut next_step) = (Vec::new(), None);
    for (name, receiver) in waiting {
        match receiver.await.unwrap_or(Err(Error::Stopped)) {
            Ok(Confirmed { seq, not_covered }) => {
                confirmed
                    .push(json!({ "database": name, "seq": seq.0, "not_covered": not_covered }));
                names.push(name);
            }
            Err(error) => {
                next_step = next_step.or(Some(error.next_step()));
                missing.push((name, error.to_string()));
            }
        }
    }
    let Some(next_step) = next_step else {
        let took = started.elapsed().as_secs_f64();
        return Ok(json!({ "result": "confirmed", "confirmed": confirmed, "took_seconds": took }));
    };
    let reasons: Vec<String> =
        missing.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    let mut message = format!("not confirmed: {}", reasons.join("; "));
    if !names.is_empty() {
        message.push_str(&format!("; confirmed: {}", names.join(", ")));
    }
    let missing: Vec<_> = missing
        .iter()
        .map(|(name, reason)| json!({ "database": name, "reason": reason }))
        .collect();
    let details = json!({ "confirmed": confirmed, "not_confirmed": missing });
    Err(Failure { details: Some(details), ..not_confirmed(message) }.hinted(next_step))
}
