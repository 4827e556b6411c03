//! Trac, a wiki with tickets on SQLite that nobody here wrote: installed unmodified from PyPI, run as
//! a service of the pair, used over HTTP like by a browser, and by its command `trac-admin`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    net::Network,
    process::{Ran, run},
    server::Server,
    venv,
    wait::{SOON, wait_for},
};

/// Name of its database in the pair.
pub const DATABASE: &str = "trac";
/// The user that edits, and the password.
const USER: [&str; 2] = ["anna", "over and out"];
const BROWSER: &str = include_str!("python/trac.py");
/// Added to the configuration that Trac writes: a field of its own for tickets.
const CONFIGURATION: &str = "\n[ticket-custom]\nstation = text\n";

/// The `[[service]]` block that runs Trac under the pair.
pub const SERVICE: &str = "[[service]]\nname = \"trac\"\ndriver = \"exec\"\n\
     directory = \"HOME\"\nstart = [\"/bin/sh\", \"trac.sh\"]\n";

/// One Trac on one server.
#[derive(Clone, Debug)]
pub struct Trac {
    url: String,
}

impl Trac {
    /// Writes how Trac is started on `server`.
    ///
    /// # Errors
    /// Trac cannot be installed, or the file cannot be written.
    pub fn configure(server: &Server, network: &Network, port: u16) -> Result<Self> {
        let (tracd, host) = (venv::program("tracd")?, network.host(server.side));
        let text = format!(
            "exec {tracd:?} --single-env --hostname {host} --port {port} \
             --basic-auth env,htpasswd,trac env\n"
        );
        server.write("trac.sh", text)?;
        Ok(Self { url: format!("http://{host}:{port}") })
    }

    /// Makes environment and database on `server`, as on any new machine.
    ///
    /// # Errors
    /// Trac refuses.
    pub fn initialise(server: &Server) -> Result<()> {
        let database = format!("sqlite:{}", server.database(DATABASE).display());
        admin(server, &["initenv", "Dispatch", &database])?.ok()?;
        let configuration = Self::configuration(server);
        let text = fs::read_to_string(&configuration)?;
        fs::write(&configuration, text + CONFIGURATION)?;
        let mut hash = Command::new("openssl");
        let hash = run(hash.args(["passwd", "-apr1", USER[1]]), SOON)?.ok()?;
        server.write("htpasswd", format!("{}:{hash}", USER[0]))?;
        admin(server, &["permission", "add", USER[0], "TRAC_ADMIN"])?.ok()?;
        Ok(())
    }

    /// Gives `to` the environment of `from`, all but the database, as an administrator would.
    ///
    /// # Errors
    /// The files cannot be copied.
    pub fn copy_environment(from: &Server, to: &Server) -> Result<()> {
        for name in ["env", "htpasswd"] {
            let mut copy = Command::new("cp");
            copy.arg("--archive").arg(from.home.join(name)).arg(&to.home);
            run(&mut copy, SOON)?.ok()?;
        }
        let configuration = Self::configuration(to);
        let path = |server: &Server| server.database(DATABASE).display().to_string();
        let text = fs::read_to_string(&configuration)?;
        ensure!(text.contains(&path(from)), "the path of the database is not in {text}");
        Ok(fs::write(&configuration, text.replace(&path(from), &path(to)))?)
    }

    fn configuration(server: &Server) -> PathBuf {
        server.home.join("env/conf/trac.ini")
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&self, server: &Server) -> Result<()> {
        let what = format!("Trac answers on {}", server.side.name());
        wait_for(&what, SOON, || self.get(server, "/about").ok())?;
        Ok(())
    }

    /// Logs in; the login counts on both servers.
    ///
    /// # Errors
    /// It is refused.
    pub fn login(&self, server: &Server) -> Result<()> {
        self.browse(server, &[&["login"], &USER[..]].concat()).map(|_| ())
    }

    /// Makes or edits a page of the wiki.
    ///
    /// # Errors
    /// It is refused.
    pub fn edit(&self, server: &Server, page: &str, text: &str) -> Result<()> {
        self.browse(server, &["wiki", page, text]).map(|_| ())
    }

    /// Creates a ticket and gives its number.
    ///
    /// # Errors
    /// It is refused.
    pub fn ticket(&self, server: &Server, summary: &str) -> Result<String> {
        let printed = self.browse(server, &["ticket", summary, "somebody must look"])?;
        Ok(printed.trim().to_owned())
    }

    /// Comments on a ticket, and raises its priority.
    ///
    /// # Errors
    /// It is refused.
    pub fn comment(&self, server: &Server, ticket: &str, text: &str) -> Result<()> {
        self.browse(server, &["comment", ticket, text]).map(|_| ())
    }

    /// Sets the user's name.
    ///
    /// # Errors
    /// It is refused.
    pub fn set_name(&self, server: &Server, name: &str) -> Result<()> {
        self.browse(server, &["prefs", name]).map(|_| ())
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// It does not answer with a page.
    pub fn get(&self, server: &Server, path: &str) -> Result<String> {
        self.browse(server, &["get", path])
    }

    fn browse(&self, server: &Server, arguments: &[&str]) -> Result<String> {
        let cookies = server.home.parent().context("the folder of the pair")?.join("cookies");
        let mut command = server.command("python3");
        command.args(["-c", BROWSER, &self.url]).arg(cookies).args(arguments);
        run(&mut command, SOON)?.ok()
    }
}

/// Runs `trac-admin`, Trac's own way to write its database from outside.
///
/// # Errors
/// It cannot be run; a refusal is no error here.
pub fn admin(server: &Server, arguments: &[&str]) -> Result<Ran> {
    let mut command = server.command(venv::program("trac-admin")?);
    command.arg(server.home.join("env")).args(arguments);
    run(&mut command, SOON)
}
