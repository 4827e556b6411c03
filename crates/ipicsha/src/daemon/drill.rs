//! `drill`: the service moves to the partner and back, and how long each took is kept (spec B5). What an
//! administrator has seen work is what he trusts at night.

use std::time::{Duration, Instant};

use ipicsha_core::{
    Event as Happened,
    admin::{AdminCommand, AdminReply, Refusal},
};
use serde_json::json;

use super::{event::Event, trust, work::Task};
use crate::{
    api::Answer,
    exit::{Failure, Kind},
};

/// How long the way back is tried.
const BACK: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(200);

pub(super) async fn run(task: &Task, stay_seconds: u64) -> Answer {
    if !task.active {
        let message = "this server is standby: a drill begins on the active server";
        return Err(Failure::new(Kind::Refused, message)
            .hinted("run it on the active server, see `ipicsha ha-status`"));
    }
    let failover = AdminCommand::Failover { dry_run: false, accept_data_loss: false };
    let there = took(&trust::ask(&task.events, failover).await?);
    let away = Instant::now();
    tokio::time::sleep(Duration::from_secs(stay_seconds)).await;
    let back = back(task).await?;
    let away = away.elapsed().saturating_sub(back);
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let (there_ms, away_ms, back_ms) = (millis(there), millis(away), millis(back));
    let happened = Event::Happened(Happened::Drill { there_ms, away_ms, back_ms });
    let _ = task.events.send(happened).await; // the daemon ends
    Ok(json!({
        "result": "drill",
        "there_seconds": there.as_secs_f64(),
        "away_seconds": away.as_secs_f64(),
        "back_seconds": back.as_secs_f64(),
    }))
}

fn took(reply: &AdminReply) -> Duration {
    if let AdminReply::FailedOver { took } = reply { *took } else { Duration::ZERO }
}

/// Asks for the role until it is here again.
async fn back(task: &Task) -> Result<Duration, Failure> {
    let begin = Instant::now();
    loop {
        let asked = Instant::now();
        let refusal = match trust::ask_plainly(&task.events, AdminCommand::TakeBack).await? {
            Ok(reply) => return Ok(took(&reply)),
            // It came later than was waited for.
            Err(Refusal::AlreadyActive) => return Ok(asked.duration_since(begin)),
            Err(refusal) => refusal,
        };
        let failure = trust::refused(&refusal);
        // Not ready yet, most likely, or slow.
        let again = matches!(failure.kind, Kind::Refused | Kind::TimedOut);
        if !again || begin.elapsed() >= BACK {
            let message =
                format!("the partner serves, and the way back failed: {}", failure.message);
            return Err(Failure::new(failure.kind, message).hinted(
                "look at `ipicsha ha-status`; `ipicsha failover` on the partner brings the service back",
            ));
        }
        tokio::time::sleep(STEP).await;
    }
}
