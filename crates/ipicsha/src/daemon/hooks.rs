//! Programs of the administrator that run around role changes, repairs and alarms.
//!
//! Decides which run, in which order, and what their failure means: a `pre-` hook can veto a verb that
//! an administrator typed, everything else is only logged. Must not decide about roles.
//!
//! `hooks.d/pre-takeover` is a program, or a directory whose programs run in the order of their names.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    sync::{mpsc, oneshot},
};

/// Bytes of a hook's output that are logged.
const OUTPUT_MAX: u64 = 4096;
/// The end of the daemon waits so long for hooks.
const END_MAX: Duration = Duration::from_secs(10);
/// Hooks that may wait for those before them.
const QUEUE: usize = 256;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    PreTakeover,
    PostTakeover,
    PreRelease,
    PostRelease,
    PreStandby,
    PostStandby,
    PreRepair,
    PostRepair,
    Alarm,
}

impl Moment {
    /// All of them, for those who look whether a name means anything.
    pub(crate) const ALL: [Self; 9] = [
        Self::PreTakeover,
        Self::PostTakeover,
        Self::PreRelease,
        Self::PostRelease,
        Self::PreStandby,
        Self::PostStandby,
        Self::PreRepair,
        Self::PostRepair,
        Self::Alarm,
    ];
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreTakeover => "pre-takeover",
            Self::PostTakeover => "post-takeover",
            Self::PreRelease => "pre-release",
            Self::PostRelease => "post-release",
            Self::PreStandby => "pre-standby",
            Self::PostStandby => "post-standby",
            Self::PreRepair => "pre-repair",
            Self::PostRepair => "post-repair",
            Self::Alarm => "alarm",
        })
    }
}

/// What a hook is told, as environment variables.
pub(crate) type Told = BTreeMap<&'static str, String>;

/// A hook that failed: which, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) hook: PathBuf,
    pub(crate) how: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hook {} {}", self.hook.display(), self.how)
    }
}

/// Where the hooks are, and the queue of those that nobody waits for.
#[derive(Clone)]
pub(crate) struct Hooks {
    directory: PathBuf,
    limit: Duration,
    later: mpsc::Sender<Later>,
}

/// What waits for the hooks before it.
enum Later {
    Run(Moment, Told),
    /// Everything before it has run.
    Done(oneshot::Sender<()>),
}

impl Hooks {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(directory: PathBuf, limit: Duration) -> Self {
        for name in unknown(&directory) {
            let known = Moment::ALL.map(|moment| moment.to_string()).join(", ");
            tracing::warn!(name, known, "there is no moment of that name: this hook never runs");
        }
        let (later, mut queued) = mpsc::channel(QUEUE);
        let hooks = Self { directory: directory.clone(), limit, later };
        tokio::spawn(async move {
            while let Some(later) = queued.recv().await {
                match later {
                    Later::Run(moment, told) => run_each(&directory, limit, moment, &told).await,
                    Later::Done(done) => {
                        let _ = done.send(()); // nobody waits any more
                    }
                }
            }
        });
        hooks
    }

    /// Runs the hooks of `moment` now, one after the other, until one fails.
    ///
    /// # Errors
    /// The first that failed, cannot be run, or took too long.
    pub(crate) async fn run(&self, moment: Moment, told: &Told) -> Result<(), Failed> {
        run_all(&self.directory, self.limit, moment, told).await
    }

    /// Has the hooks of `moment` run after those that were queued before; nobody waits for them, and one
    /// that fails holds up no other.
    pub(crate) fn queue(&self, moment: Moment, told: Told) {
        if self.later.try_send(Later::Run(moment, told)).is_err() {
            tracing::error!(%moment, "too many hooks wait for those before them: it does not run");
        }
    }

    /// Waits until what is queued has run, but not for long: who ends the daemon has a limit of his own.
    pub(crate) async fn end(&self) {
        let (done, ended) = oneshot::channel();
        let waits = async {
            if self.later.send(Later::Done(done)).await.is_ok() {
                let _ = ended.await; // its task is gone
            }
        };
        if tokio::time::timeout(self.limit.min(END_MAX), waits).await.is_err() {
            tracing::error!("hooks do not end in time; those that are left do not run");
        }
    }
}

/// Names in the directory of hooks that mean nothing.
fn unknown(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| !name.starts_with('.') && !name.ends_with('~'))
        .filter(|name| !Moment::ALL.iter().any(|moment| moment.to_string() == **name))
        .collect();
    names.sort();
    names
}

async fn run_all(
    directory: &Path,
    limit: Duration,
    moment: Moment,
    told: &Told,
) -> Result<(), Failed> {
    for hook in programs(&directory.join(moment.to_string()))? {
        run_logged(&hook, limit, moment, told).await?;
    }
    Ok(())
}

/// Runs all of them, whatever becomes of those before; what failed is told in the log.
async fn run_each(directory: &Path, limit: Duration, moment: Moment, told: &Told) {
    match programs(&directory.join(moment.to_string())) {
        Ok(hooks) => {
            for hook in hooks {
                // Logged where it happens.
                let _ = run_logged(&hook, limit, moment, told).await;
            }
        }
        Err(failed) => tracing::warn!("{failed}"),
    }
}

async fn run_logged(
    hook: &Path,
    limit: Duration,
    moment: Moment,
    told: &Told,
) -> Result<(), Failed> {
    let result = run_one(hook, limit, moment, told).await;
    match &result {
        Ok(()) => tracing::info!(hook = %hook.display(), "ran"),
        Err(failed) => tracing::warn!("{failed}"),
    }
    result
}

/// The programs of one moment, in order; none where nothing is.
fn programs(path: &Path) -> Result<Vec<PathBuf>, Failed> {
    let failed = |error: io::Error| Failed {
        hook: path.to_owned(),
        how: format!("cannot be read: {error}"),
    };
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // What an editor or a package manager left is no hook.
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !name.ends_with('~') && !name.contains(".dpkg-") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

async fn run_one(hook: &Path, limit: Duration, moment: Moment, told: &Told) -> Result<(), Failed> {
    let failed = |how: String| Failed { hook: hook.to_owned(), how };
    let mode = fs::metadata(hook).map_err(|error| failed(format!("cannot be read: {error}")))?;
    if mode.permissions().mode() & 0o111 == 0 {
        return Err(failed("is not executable: `chmod +x` it, or move it away".into()));
    }
    let mut command = Command::new(hook);
    command.env("IPICSHA_MOMENT", moment.to_string()).envs(told);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let output = (read(child.stdout.take()), read(child.stderr.take()));
    let ended = tokio::time::timeout(limit, async {
        let (status, _, errors) = tokio::join!(child.wait(), output.0, output.1);
        (status, errors)
    });
    match ended.await {
        Ok((Ok(status), _)) if status.success() => Ok(()),
        Ok((Ok(status), errors)) => {
            let said = errors.trim();
            let colon = if said.is_empty() { "" } else { ": " };
            Err(failed(format!("failed ({status}){colon}{said}")))
        }
        Ok((Err(error), _)) => Err(failed(format!("cannot be waited for: {error}"))),
        Err(_) => {
            if let Some(group) = group {
                // What it has started goes with it.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait().await;
            Err(failed(format!("took longer than {} s and was killed", limit.as_secs_f64())))
        }
    }
}

/// The first part of what a hook prints; the rest is read and forgotten, so that it never blocks.
async fn read(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else { return String::new() };
    let mut bytes = Vec::new();
    let mut part = (&mut output).take(OUTPUT_MAX);
    let _ = part.read_to_end(&mut bytes).await; // what was read is shown
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    let text = String::from_utf8_lossy(&bytes);
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, mode: u32, script: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn hooks(&self, limit: Duration) -> Hooks {
            Hooks::new(self.0.path().to_owned(), limit)
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn hooks_of_a_moment_run_in_the_order_of_their_names_and_know_what_happens() {
        let folder = Folder::new();
        let out = folder.0.path().join("out");
        for name in ["20-second", "10-first", "30-third~", ".hidden"] {
            let script = format!("echo $0 $IPICSHA_MOMENT $IPICSHA_ROLE >> {}", out.display());
            folder.write(&format!("post-takeover/{name}"), 0o755, &script);
        }
        let hooks = folder.hooks(LONG);
        let told = Told::from([("IPICSHA_ROLE", "active".into())]);
        assert_eq!(hooks.run(Moment::PostTakeover, &told).await, Ok(()));
        assert_eq!(hooks.run(Moment::PreTakeover, &told).await, Ok(()), "there is none");
        let text = fs::read_to_string(out).unwrap();
        let names: Vec<&str> =
            text.lines().map(|line| line.rsplit('/').next().unwrap_or_default()).collect();
        assert_eq!(names, ["10-first post-takeover active", "20-second post-takeover active"]);
    }

    #[tokio::test]
    async fn a_hook_that_fails_hangs_or_is_not_executable_is_named() {
        let folder = Folder::new();
        let failing = folder.write("pre-release/1", 0o755, "echo the backup runs >&2; exit 3");
        let never = folder.0.path().join("never");
        folder.write("pre-release/2", 0o755, &format!("touch {}", never.display()));
        let pids = folder.0.path().join("pids");
        let script = format!("sleep 1000 & echo $! > {}; sleep 1000", pids.display());
        folder.write("pre-standby", 0o755, &script);
        folder.write("pre-repair", 0o644, "true");
        let (hooks, told) = (folder.hooks(LONG), Told::new());
        let failed = hooks.run(Moment::PreRelease, &told).await.unwrap_err();
        assert_eq!(failed.hook, failing);
        assert!(failed.how.contains("exit status: 3): the backup runs"), "{failed}");
        assert!(!never.exists(), "those behind it do not run");
        let failed = hooks.run(Moment::PreRepair, &told).await.unwrap_err();
        assert!(failed.how.contains("chmod +x"), "{failed}");
        let hooks = folder.hooks(Duration::from_millis(200));
        let failed = hooks.run(Moment::PreStandby, &told).await.unwrap_err();
        assert!(failed.how.contains("took longer than 0.2 s"), "{failed}");
        // It may have been killed before it wrote down its child.
        let pid = fs::read_to_string(pids).unwrap_or_default();
        let ended = || match fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let deadline = tokio::time::Instant::now() + LONG;
        while !pid.is_empty() && !ended() {
            assert!(tokio::time::Instant::now() < deadline, "{pid} runs on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn names_that_mean_nothing_are_noticed() {
        let folder = Folder::new();
        for name in ["pre-takeover", "post-repair/1", "pre-tkeover", "README", ".git"] {
            folder.write(name, 0o755, "true");
        }
        assert_eq!(unknown(folder.0.path()), ["README", "pre-tkeover"]);
        assert_eq!(unknown(Path::new("/nonexistent")), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_hook_that_floods_its_output_ends_and_costs_no_memory() {
        let folder = Folder::new();
        folder.write("alarm", 0o755, "head -c 10000000 /dev/zero >&2; exit 1");
        let failed = folder.hooks(LONG).run(Moment::Alarm, &Told::new()).await.unwrap_err();
        assert!(failed.how.len() < 5000, "{} bytes", failed.how.len());
    }

    #[tokio::test]
    async fn a_queued_hook_that_fails_holds_up_no_other_and_the_end_waits_for_all() {
        let folder = Folder::new();
        let out = folder.0.path().join("out");
        folder.write("post-release/1", 0o755, "exit 1");
        folder.write("post-release/2", 0o755, &format!("sleep 0.3; echo 2 >> {}", out.display()));
        let hooks = folder.hooks(LONG);
        hooks.queue(Moment::PostRelease, Told::new());
        hooks.end().await;
        assert_eq!(fs::read_to_string(out).unwrap(), "2\n");
    }

    #[tokio::test]
    async fn queued_hooks_run_one_after_the_other() {
        let folder = Folder::new();
        let out = folder.0.path().join("out");
        let script = format!("sleep 0.1; echo $IPICSHA_N >> {}", out.display());
        folder.write("alarm", 0o755, &script);
        let hooks = folder.hooks(LONG);
        for n in ["1", "2", "3"] {
            hooks.queue(Moment::Alarm, Told::from([("IPICSHA_N", n.into())]));
        }
        let deadline = tokio::time::Instant::now() + LONG;
        while fs::read_to_string(&out).unwrap_or_default() != "1\n2\n3\n" {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", fs::read_to_string(&out));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
