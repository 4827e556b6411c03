//! Running programs to their end, within a limit, with everything they say.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::wait::wait_for;

/// A program that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Ran {
    /// What it printed, when it ended well.
    ///
    /// # Errors
    /// It ended with another exit code than 0.
    pub fn ok(self) -> Result<String> {
        ensure!(
            self.code == Some(0),
            "exit {:?}\nstdout: {}\nstderr: {}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }

    /// What it printed as JSON, when it ended well.
    ///
    /// # Errors
    /// Another exit code than 0, or no JSON.
    pub fn json(self) -> Result<Value> {
        let text = self.ok()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Checks a refusal: this exit code, this reason on stderr (in any case of letters), and a next
    /// step.
    ///
    /// # Errors
    /// One of the three is missing.
    pub fn refused(&self, code: i32, reason: &str) -> Result<()> {
        let said = self.stderr.to_lowercase();
        ensure!(self.code == Some(code), "exit code {code} was expected: {self:?}");
        ensure!(said.contains("error: "), "no line `error:`: {self:?}");
        ensure!(said.contains(&reason.to_lowercase()), "no word of {reason:?}: {self:?}");
        let next = self.stderr.lines().find_map(|line| line.strip_prefix("next: "));
        ensure!(next.is_some_and(|step| !step.trim().is_empty()), "no next step: {self:?}");
        ensure!(self.stdout.is_empty(), "talk belongs on stderr: {self:?}");
        Ok(())
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or it is still running after `limit` (it is killed then).
pub fn run(command: &mut Command, limit: Duration) -> Result<Ran> {
    let described = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {described}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = end_of(&mut child, limit);
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Ok(status) => Ok(Ran { code: status.code(), stdout, stderr }),
        Err(error) => bail!("{described}: {error}\nstdout: {stdout}\nstderr: {stderr}"),
    }
}

/// Waits for the end of a child.
///
/// # Errors
/// It is still running after `limit`.
pub fn end_of(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    wait_for("the program ends", limit, || child.try_wait().transpose())?.context("its exit status")
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes); // a broken pipe ends the text
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn text(collected: JoinHandle<String>) -> String {
    collected.join().unwrap_or_default()
}

/// Whether `name` is `PREFIX` + process id + `-` + anything, of a process that is gone.
pub(crate) fn is_left_over(name: &str, prefix: &str) -> bool {
    let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
    owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}

/// Sends a signal to one process; one that is gone is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal); // it may have ended
    }
}

/// A process that leads its own group and ends with the test, however the test ends.
#[derive(Debug)]
pub struct Background {
    /// The leader of the group.
    pub child: Child,
}

impl Background {
    /// Starts it; what it says goes to `output`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command, output: File, errors: File) -> Result<Self> {
        let described = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {described}"))?;
        Ok(Self { child })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// Kills a child that leads its own process group, and its group, and reaps it.
pub fn kill_group(child: &mut Child) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(pid, Signal::KILL); // it may have ended
    }
    let _ = child.wait();
}

/// A certificate with its key in one file, as anybody can make one in bravo's name.
///
/// # Errors
/// `openssl` is not installed.
pub fn foreign_certificate(folder: &Path) -> Result<PathBuf> {
    certificate(folder, "foreign", "bravo")
}

/// A certificate of one's own with its key, in the file `NAME.pem`.
///
/// # Errors
/// `openssl` is not installed.
pub fn own_certificate(folder: &Path, name: &str) -> Result<PathBuf> {
    certificate(folder, name, name)
}

fn certificate(folder: &Path, stem: &str, subject: &str) -> Result<PathBuf> {
    let (pem, key) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    make.args(["-nodes", "-days", "30", "-subj"]).arg(format!("/CN={subject}"));
    make.arg("-out").arg(&pem).arg("-keyout").arg(&key);
    run(&mut make, Duration::from_secs(30))?.ok()?;
    fs::write(&pem, fs::read_to_string(&pem)? + &fs::read_to_string(&key)?)?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_owned_is_left_over() {
        let mut child = Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        assert!(is_left_over(&format!("x-{dead}-0a"), "x-"));
        assert!(!is_left_over(&format!("x-{}-0a", std::process::id()), "x-"));
        assert!(!is_left_over("x-other", "x-") && !is_left_over(&format!("y-{dead}-0"), "x-"));
    }
}
