//! Foreign applications: Python processes that write through the sqlite3 module of Python and know
//! nothing of this project. Each remembers every write that was acknowledged to it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{
    process::{Background, end_of, kill_group},
    server::Server,
    wait::{SOON, wait_for},
};

const SCRIPT: &str = include_str!("python/writer.py");

/// Python processes that write into one database of one server.
#[derive(Debug)]
pub struct Writers {
    stop: PathBuf,
    writers: Vec<Writer>,
}

#[derive(Debug)]
struct Writer {
    process: Background,
    acked: PathBuf,
    refused: PathBuf,
    errors: PathBuf,
}

/// What the writers of one server have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Ids of all writes that were acknowledged.
    pub acked: Vec<String>,
    /// Writes that were refused: by the fence, or what else the script counts.
    pub refused: u64,
}

impl Writers {
    /// Starts `count` writers on `server`; their ids begin with `prefix`.
    ///
    /// # Errors
    /// Python cannot be started.
    pub fn start(server: &Server, database: &str, prefix: &str, count: usize) -> Result<Self> {
        Self::start_script(server, database, prefix, count, SCRIPT)
    }

    /// The same with so many calls in each transaction.
    ///
    /// # Errors
    /// Python cannot be started.
    pub fn start_bulk(
        server: &Server,
        database: &str,
        prefix: &str,
        count: usize,
        calls: usize,
    ) -> Result<Self> {
        let script = SCRIPT.replace("calls = 1\n", &format!("calls = {calls}\n"));
        Self::start_script(server, database, prefix, count, &script)
    }

    /// Starts `count` writers of another kind: the script takes the arguments that `writer.py` does.
    ///
    /// # Errors
    /// Python cannot be started.
    pub fn start_script(
        server: &Server,
        database: &str,
        prefix: &str,
        count: usize,
        script: &str,
    ) -> Result<Self> {
        let mut writers =
            Self { stop: server.home.join(format!("{prefix}.stop")), writers: vec![] };
        for number in 0..count {
            let stem = format!("{}-{prefix}{number}", server.side.name());
            let acked = server.home.join(format!("{stem}.acked"));
            let (refused, output) = server.create(&format!("{stem}.refused"))?;
            let (errors, complaints) = server.create(&format!("{stem}.errors"))?;
            let mut command = server.command("python3");
            command.args(["-c", script]).arg(server.database(database)).arg(&stem);
            command.arg(&acked).arg(&writers.stop);
            let process = Background::spawn(&mut command, output, complaints)?;
            writers.writers.push(Writer { process, acked, refused, errors });
        }
        Ok(writers)
    }

    /// Waits until every writer has had at least `count` writes acknowledged.
    ///
    /// # Errors
    /// One of them does not get that far.
    pub fn wait_acked(&self, count: usize) -> Result<()> {
        wait_for(&format!("every writer has {count} writes"), SOON, || {
            self.writers.iter().all(|w| lines(&w.acked).len() >= count).then_some(())
        })
        .with_context(|| self.complaints())
    }

    /// What was acknowledged so far.
    pub(crate) fn so_far(&self) -> Vec<String> {
        self.writers.iter().flat_map(|writer| lines(&writer.acked)).collect()
    }

    /// How many writes were acknowledged so far.
    pub fn acked(&self) -> usize {
        self.writers.iter().map(|writer| lines(&writer.acked).len()).sum()
    }

    /// Ends the writers.
    ///
    /// # Errors
    /// One of them met another error than the fence, or does not end.
    pub fn stop(mut self) -> Result<Seen> {
        fs::write(&self.stop, "")?;
        let mut seen = Seen::default();
        for writer in &mut self.writers {
            let status = end_of(&mut writer.process.child, SOON)?;
            let errors = fs::read_to_string(&writer.errors)?;
            ensure!(status.success() && errors.is_empty(), "a writer failed: {status} {errors}");
            seen.acked.extend(lines(&writer.acked));
            seen.refused += fs::read_to_string(&writer.refused)?.trim().parse::<u64>()?;
        }
        Ok(seen)
    }

    /// What was acknowledged to writers that were killed with their server.
    pub fn after_kill(mut self) -> Seen {
        for writer in &mut self.writers {
            kill_group(&mut writer.process.child);
        }
        // A line that was cut short was never finished: it does not count.
        let acked = self.writers.iter().flat_map(|writer| lines(&writer.acked)).collect();
        Seen { acked, refused: 0 }
    }

    fn complaints(&self) -> String {
        let text = |writer: &Writer| fs::read_to_string(&writer.errors).unwrap_or_default();
        self.writers.iter().map(text).collect()
    }
}

/// Complete lines of a file.
fn lines(path: &PathBuf) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(ToOwned::to_owned).collect()
}
