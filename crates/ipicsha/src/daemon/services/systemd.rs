//! Driver `systemd`: a unit that the system runs. It knows nothing of roles.

use std::{process::Stdio, time::Duration};

use tokio::process::Command;

/// How long a killed unit may take until systemd says that it is stopped.
const KILLED: Duration = Duration::from_secs(10);

/// Why systemd did not do something.
enum Failure {
    TooLong(String),
    Refused(String),
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TooLong(why) | Failure::Refused(why) => why,
        }
    }
}

/// Starts, stops or restarts a unit. systemd's own limits are shorter, where a unit has any.
pub(super) async fn systemctl(verb: &str, unit: &str, limit: Duration) -> Result<(), String> {
    Ok(ask(&[verb], unit, limit).await?)
}

/// Stops a unit; one that has not ended by then is killed, as children are.
pub(super) async fn stop(unit: &str, limit: Duration) -> Result<(), String> {
    match ask(&["stop"], unit, limit).await {
        Err(Failure::TooLong(why)) => {
            tracing::warn!(unit, why, "the unit is killed");
            // It may just have ended: whether it has, the second stop tells.
            if let Err(error) = ask(&["kill", "--signal=SIGKILL"], unit, KILLED).await {
                tracing::warn!(unit, error = String::from(error), "the unit is not killed");
            }
            Ok(ask(&["stop"], unit, KILLED).await?)
        }
        result => Ok(result?),
    }
}

async fn ask(words: &[&str], unit: &str, limit: Duration) -> Result<(), Failure> {
    let verb = words.join(" ");
    let mut command = Command::new("systemctl");
    command.args(words).args(["--", unit]).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .map_err(|_| {
            Failure::TooLong(format!("systemctl {verb} {unit} takes longer than {limit:?}"))
        })?
        .map_err(|error| Failure::Refused(format!("systemctl: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let why = if why.is_empty() { super::exec::describe(output.status) } else { why };
    Err(Failure::Refused(format!("systemctl {verb} {unit}: {why}")))
}

/// Why the system would not start a unit, as far as it knows without doing it.
pub(super) async fn unstartable(unit: &str, limit: Duration) -> Option<String> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=LoadState", "--value", "--", unit]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Some(format!("systemctl: {error}")),
        Err(_) => return None, // it says nothing either way
    };
    match String::from_utf8_lossy(&output.stdout).trim() {
        "not-found" => Some(format!("its unit {unit} is missing")),
        "masked" => Some(format!("its unit {unit} is masked")),
        state @ ("error" | "bad-setting") => Some(format!("its unit {unit} is {state}")),
        _ => None,
    }
}
