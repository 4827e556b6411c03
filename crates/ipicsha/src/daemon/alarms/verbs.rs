//! `alarms list`, `alarms ack`, `alarms test`.

use serde_json::json;
use tokio::sync::oneshot;

use crate::{
    api::{AlarmsRequest, Answer},
    daemon::{clock, event_loop::Daemon, verbs::value},
    exit::{Failure, Kind},
};

impl Daemon {
    pub(crate) fn alarms_request(
        &mut self,
        request: AlarmsRequest,
        answer: oneshot::Sender<Answer>,
    ) {
        let now = clock::wall();
        let result = match request {
            AlarmsRequest::List => value(&self.alarms.view()),
            AlarmsRequest::Acknowledge { id, note } => {
                let acknowledged = self.alarms.acknowledge(now, id, note.as_deref());
                match id {
                    Some(id) if acknowledged.is_empty() => {
                        let message = format!("no alarm with the number {id} is raised here");
                        Err(Failure::new(Kind::Refused, message)
                            .hinted("`ipicsha alarms list` shows them; each server has its own"))
                    }
                    Some(_) | None => Ok(json!({ "acknowledged": acknowledged })),
                }
            }
            AlarmsRequest::Test => {
                let tested = self.alarms.test(now, self.sender());
                tokio::spawn(async move {
                    let _ = answer.send(value(&tested.await)); // the command line went away
                });
                return;
            }
        };
        let _ = answer.send(result); // the command line went away
    }
}
