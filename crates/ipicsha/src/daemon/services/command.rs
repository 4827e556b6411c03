//! Commands of the administrator that must have an end.
//!
//! Decides that what takes too long, or is not waited for any more, ends with everything in its group.
//! Must not know what the commands are for.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

/// Ends a group when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL); // nothing of it is left
        }
    }
}

/// Runs a program to its end; what it prints is not kept. What it leaves running is ended with it.
///
/// # Errors
/// It cannot be started, or takes longer than `limit`.
pub(super) async fn run(words: &[String], limit: Duration) -> Result<ExitStatus, String> {
    let (program, arguments) = words.split_first().ok_or("the command is empty")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let _group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
    match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => status.map_err(|error| format!("{program}: {error}")),
        Err(_) => Err(format!("{program}: no end within {} s", limit.as_secs_f64())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).into()
    }

    #[tokio::test]
    async fn what_takes_too_long_ends_with_all_that_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", pids.display());
        let (words, limit) = (words(&script), Duration::from_millis(500));
        let refused = run(&words, limit).await.unwrap_err();
        assert_eq!(refused, "sh: no end within 0.5 s");
        // Killed children are reaped by whoever is their parent by then.
        let ended = |pid: &str| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let begin = std::time::Instant::now();
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            while !ended(pid) {
                assert!(begin.elapsed() < Duration::from_secs(60), "{pid} runs on");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[tokio::test]
    async fn how_it_ended_is_told() {
        let limit = Duration::from_secs(60);
        assert_eq!(run(&words("exit 3"), limit).await.unwrap().code(), Some(3));
        assert!(run(&["/no/such/program".into()], limit).await.is_err());
        assert!(run(&[], limit).await.is_err());
    }
}
