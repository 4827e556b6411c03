//! Whoever gets the alarms of one server: an HTTP and a mail server in its namespace.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    net::Side,
    pair::Pair,
    process::Background,
    wait::{SOON, wait_for},
};

const SINK: &str = include_str!("python/sink.py");

/// Both servers; they end with this value.
#[derive(Debug)]
pub struct Sink {
    _process: Background,
    output: std::path::PathBuf,
}

impl Sink {
    /// Starts them and has this server tell its alarms there; before its daemon starts.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start(pair: &Pair, side: Side) -> Result<Self> {
        let (server, host) = (pair.server(side), pair.network.host(side));
        let (output, file) = server.create("sink.out")?;
        let (_, errors) = server.create("sink.err")?;
        let mut command = server.command("python3");
        command.args(["-c", SINK, host]);
        let sink = Self { _process: Background::spawn(&mut command, file, errors)?, output };
        let ports = wait_for("the sink listens", SOON, || sink.lines().into_iter().next())?;
        let port = |name: &str| ports[name].as_u64().context("a port");
        let block = format!(
            "[alarms]\njournal = \"\"\nsyslog = \"\"\nwebhook = \"http://{host}:{}/alarm\"\n\
             [alarms.email]\nto = [\"ops@example.org\"]\nserver = \"smtp://{host}:{}\"\n",
            port("webhook")?,
            port("mail")?
        );
        let config = server.config_path();
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, format!("{text}\n{block}"))?;
        Ok(sink)
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Words the webhook got: what, and of which kind of alarm.
    pub fn words(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let word = |line: &Value| (text(&line["word"]["what"]), text(&line["word"]["kind"]));
        self.lines().iter().filter(|line| line["way"] == "webhook").map(word).collect()
    }

    /// Subjects and texts of the mails.
    pub fn mails(&self) -> Vec<String> {
        let text = |line: &Value| line["text"].as_str().map(str::to_owned);
        self.lines().iter().filter(|line| line["way"] == "mail").filter_map(text).collect()
    }

    /// Waits for a word at the webhook.
    ///
    /// # Errors
    /// It does not come.
    pub fn wait(&self, what: &str, kind: &str) -> Result<()> {
        let word = (what.to_owned(), kind.to_owned());
        wait_for(&format!("{what} {kind} arrives"), SOON, || {
            self.words().contains(&word).then_some(())
        })
    }
}
