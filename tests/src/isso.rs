//! Isso, a comment server on SQLite that nobody here wrote: installed unmodified from PyPI, run as a
//! service of the pair, used over HTTP.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    net::Network,
    process::{Background, run},
    server::Server,
    venv,
    wait::{SOON, wait_for},
};

/// Name of its database in the pair.
pub const DATABASE: &str = "comments";
/// The page that is commented on.
const THREAD: &str = "/dispatch/";
const REQUEST: &str = include_str!("python/request.py");

/// The `[[service]]` block that runs Isso under the pair.
///
/// # Errors
/// Isso cannot be installed.
pub fn service() -> Result<String> {
    let run = venv::program("isso")?;
    Ok(format!(
        "[[service]]\nname = \"isso\"\ndriver = \"exec\"\ndirectory = \"HOME\"\n\
         start = [{run:?}, \"-c\", \"isso.cfg\", \"run\"]\n"
    ))
}

/// One Isso on one server.
#[derive(Clone, Debug)]
pub struct Isso {
    url: String,
}

impl Isso {
    /// Writes its configuration on `server`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(server: &Server, network: &Network, port: u16) -> Result<Self> {
        let url = format!("http://{}:{port}", network.host(server.side));
        let database = server.database(DATABASE);
        let text = format!(
            "[general]\ndbpath = {}\nhost = {url}/\n\n[moderation]\nenabled = false\n\n\
             [server]\nlisten = {url}\npublic-endpoint = {url}\n\n[guard]\nenabled = false\n",
            database.display()
        );
        server.write("isso.cfg", text)?;
        Ok(Self { url })
    }

    /// Runs Isso by itself for a moment, so that it makes its database as on any new machine.
    ///
    /// # Errors
    /// It does not answer.
    pub fn first_start(&self, server: &Server) -> Result<()> {
        let (_, log) = server.create("isso-first.log")?;
        let mut command = server.command(venv::program("isso")?);
        command.args(["-c", "isso.cfg", "run"]).current_dir(&server.home);
        let _isso = Background::spawn(&mut command, log.try_clone()?, log)?;
        self.wait(server)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&self, server: &Server) -> Result<()> {
        wait_for(&format!("Isso answers on {}", server.side.name()), SOON, || {
            self.comments(server).ok()
        })?;
        Ok(())
    }

    /// Posts a comment.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn post(&self, server: &Server, text: &str) -> Result<()> {
        let body = serde_json::json!({ "text": text, "author": "e2e", "title": "dispatch" });
        let path = format!("/new?uri={THREAD}");
        let (status, answer) = self.request(server, "POST", &path, &body.to_string())?;
        ensure!(status == "201", "{status}: {answer}");
        Ok(())
    }

    /// Texts of all comments, sorted.
    ///
    /// # Errors
    /// It does not answer.
    pub fn comments(&self, server: &Server) -> Result<Vec<String>> {
        let path = format!("/?uri={THREAD}&plain=1");
        let (status, answer) = self.request(server, "GET", &path, "")?;
        if status == "404" {
            return Ok(Vec::new()); // nobody has commented on this page yet
        }
        ensure!(status == "200", "{status}: {answer}");
        let answer: Value = serde_json::from_str(&answer)?;
        let replies = answer["replies"].as_array().context("no list of comments")?;
        let text = |reply: &Value| Some(reply["text"].as_str()?.trim().to_owned());
        let mut texts: Vec<String> = replies.iter().filter_map(text).collect();
        texts.sort_unstable();
        Ok(texts)
    }

    fn request(
        &self,
        server: &Server,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(String, String)> {
        let mut command = server.command("python3");
        command.args(["-c", REQUEST, method, &format!("{}{path}", self.url), body]);
        let text = run(&mut command, SOON)?.ok()?;
        let (status, answer) = text.split_once('\n').context("an answer")?;
        Ok((status.to_owned(), answer.to_owned()))
    }
}
