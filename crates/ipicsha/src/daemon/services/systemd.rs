//! Driver `systemd`: a unit that the system runs. It knows nothing of roles.

use std::{process::Stdio, time::Duration};

use tokio::process::Command;

/// Starts, stops or restarts a unit. systemd's own limits are shorter, where a unit has any.
pub(super) async fn systemctl(verb: &str, unit: &str, limit: Duration) -> Result<(), String> {
    let mut command = Command::new("systemctl");
    command.args([verb, "--", unit]).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .map_err(|_| format!("systemctl {verb} {unit} takes longer than {limit:?}"))?
        .map_err(|error| format!("systemctl: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let why = if why.is_empty() { super::exec::describe(output.status) } else { why };
    Err(format!("systemctl {verb} {unit}: {why}"))
}
