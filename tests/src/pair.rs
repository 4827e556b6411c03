//! The pair: both servers on their network, from empty folders to Ready.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    compare,
    net::{Network, Side},
    process::{self, Ran},
    server::Server,
    settings::Settings,
    status::Status,
    tree::Tree,
    wait::{SOON, wait_for},
};

/// Password of `ipicsadmin` on bravo.
pub const PASSWORD: &str = "correct horse battery";
/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 40;

/// Two servers. Everything that runs ends, and every file goes, when it is dropped.
#[derive(Debug)]
pub struct Pair {
    /// The primary.
    pub alpha: Server,
    /// The secondary.
    pub bravo: Server,
    /// What joins them.
    pub network: Arc<Network>,
    /// What their configuration says.
    pub settings: Settings,
    home: TempDir,
}

/// Runs a test on a pair whose daemons were never started, and shows both logs when it fails.
///
/// # Errors
/// Those of the test.
pub fn fresh_pair(settings: Settings, test: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    let mut pair = Pair::new(settings)?;
    let result = test(&mut pair).and_then(|()| pair.no_errors_logged());
    if result.is_err() {
        pair.show_logs();
    }
    result
}

/// Runs a test on a pair that is configured and Ready.
///
/// # Errors
/// Those of the test.
pub fn ready_pair(settings: Settings, test: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    fresh_pair(settings, |pair| {
        pair.make_ready().context("the pair did not become Ready")?;
        test(pair)
    })
}

impl Pair {
    fn new(settings: Settings) -> Result<Self> {
        let home = temporary_folder()?;
        let network = Arc::new(if settings.over_loopback {
            Network::over_loopback()?
        } else {
            Network::new()?
        });
        let server =
            |side: Side| Server::new(side, home.path().join(side.name()), Arc::clone(&network));
        let (alpha, bravo) = (server(Side::Alpha)?, server(Side::Bravo)?);
        let pair = Self { alpha, bravo, network, settings, home };
        for side in Side::BOTH {
            let server = pair.server(side);
            let text = pair.settings.text(side, &server.home, &pair.network);
            server.write("ipicsha.toml", text)?;
        }
        Ok(pair)
    }

    /// One of the two.
    pub fn server(&self, side: Side) -> &Server {
        match side {
            Side::Alpha => &self.alpha,
            Side::Bravo => &self.bravo,
        }
    }

    /// One of the two, to be started or stopped.
    pub fn server_mut(&mut self, side: Side) -> &mut Server {
        match side {
            Side::Alpha => &mut self.alpha,
            Side::Bravo => &mut self.bravo,
        }
    }

    /// A folder beside those of the two servers.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    /// Starts both daemons.
    ///
    /// # Errors
    /// One of them does not answer.
    pub fn start(&mut self) -> Result<()> {
        self.alpha.start()?;
        self.bravo.start()
    }

    /// Every step from empty folders to a standby that is Ready. Databases that the test has not made
    /// yet are made here.
    ///
    /// # Errors
    /// A step fails.
    pub fn make_ready(&mut self) -> Result<()> {
        self.start()?;
        self.make_ready_from_started()
    }

    /// The same when both daemons run already.
    ///
    /// # Errors
    /// A step fails.
    pub fn make_ready_from_started(&mut self) -> Result<()> {
        self.license()?;
        self.trust()?;
        self.protect()?;
        self.wait_contact()?;
        self.alpha.ask(&["configure"])?;
        self.wait_ready()
    }

    /// Installs the usual licenses.
    ///
    /// # Errors
    /// A daemon refuses.
    pub fn license(&self) -> Result<()> {
        self.install(Side::Alpha, &["base", "policy-engine-base"])?.ok()?;
        self.install(Side::Bravo, &["high-availability"])?.ok()?;
        Ok(())
    }

    /// Installs licenses for these features.
    ///
    /// # Errors
    /// The files cannot be written; a refusal is no error here.
    pub fn install(&self, side: Side, features: &[&str]) -> Result<Ran> {
        let server = self.server(side);
        let mut arguments = vec!["--yes".to_owned(), "license".into(), "install".into()];
        for feature in features {
            let text = format!(
                "feature = {feature:?}\nissued_to = \"End to end\"\nserial = \"{}-{feature}\"\n\
                 expires = \"2099-12-31\"\n",
                side.name()
            );
            let path = server.write(&format!("{feature}.toml"), text)?;
            arguments.push(path.display().to_string());
        }
        server.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Sets the admin password of bravo, and trust from alpha with it.
    ///
    /// # Errors
    /// A step fails.
    pub fn trust(&self) -> Result<()> {
        self.set_password(Side::Bravo)?;
        self.ask_trust(PASSWORD, &self.network.address(Side::Bravo))?.ok()?;
        Ok(())
    }

    /// Sets the admin password of a server.
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn set_password(&self, side: Side) -> Result<()> {
        let file = self.server(side).write("password", PASSWORD)?;
        let file = file.display().to_string();
        self.server(side).cli(&["trust", "password", "--password-file", &file])?.ok()?;
        Ok(())
    }

    /// Asks for trust from alpha.
    ///
    /// # Errors
    /// The command cannot be run; a refusal is no error here.
    pub fn ask_trust(&self, password: &str, address: &str) -> Result<Ran> {
        let file = self.alpha.write("partner-password", password)?;
        let file = file.display().to_string();
        self.alpha.cli(&["--yes", "trust", "set", address, "--password-file", &file])
    }

    /// Makes the databases on alpha where they are missing and protects them on both servers; bravo
    /// gets its copies from alpha.
    ///
    /// # Errors
    /// A step fails.
    pub fn protect(&self) -> Result<()> {
        for name in &self.settings.databases {
            let path = self.alpha.database(name);
            if !path.exists() {
                self.alpha.application(name)?.create()?;
            }
            let more = &self.settings.protect_arguments[..];
            let path = path.display().to_string();
            self.alpha.ask(&[&["protect", "db", &path, "--name", name], more].concat())?;
            let path = self.bravo.database(name).display().to_string();
            self.bravo
                .ask(&[&["protect", "db", &path, "--name", name, "--seed"], more].concat())?;
        }
        Ok(())
    }

    /// Waits until both servers have heard each other and compared their clocks.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_contact(&self) -> Result<()> {
        for side in Side::BOTH {
            self.server(side).wait("it hears its partner", |status| {
                status.partner_reachable() && status.clock_offset_seconds().is_some()
            })?;
        }
        Ok(())
    }

    /// Waits until both servers say that the standby is Ready.
    ///
    /// # Errors
    /// It is not.
    pub fn wait_ready(&self) -> Result<()> {
        for side in Side::BOTH {
            self.server(side).wait("the standby is Ready", |status| {
                status.standby_status() == "Ready" && !status.role().is_empty()
            })?;
        }
        Ok(())
    }

    /// Waits until one server is active, the other standby, and Ready.
    ///
    /// # Errors
    /// It does not happen.
    pub fn wait_roles(&self, active: Side) -> Result<()> {
        let settled = |role: &'static str| {
            move |status: &Status| status.role() == role && status.standby_status() == "Ready"
        };
        self.server(active).wait("it is active", settled("active"))?;
        self.server(active.other()).wait("it is standby", settled("standby"))?;
        Ok(())
    }

    /// Waits until all databases are equal on both servers.
    ///
    /// # Errors
    /// They are not; the differences are shown.
    pub fn wait_equal(&self) -> Result<()> {
        for name in &self.settings.databases {
            compare::wait_equal(&self.alpha.database(name), &self.bravo.database(name), SOON)?;
        }
        Ok(())
    }

    /// Waits until a watched directory is equal on both servers, as an eye of its own sees it.
    ///
    /// # Errors
    /// It is not; the differences are shown.
    pub fn wait_same_files(&self, name: &str) -> Result<()> {
        let mut last = Vec::new();
        let trees = || -> Result<Vec<String>> {
            let [a, b] = Side::BOTH.map(|side| Tree::of(&self.server(side).directory(name)));
            Ok(a?.without_ours().differences(&b?.without_ours()))
        };
        let equal = wait_for(&format!("{name} is the same on both"), SOON, || {
            last = trees().unwrap_or_else(|error| vec![format!("{error:#}")]);
            last.is_empty().then_some(())
        });
        equal.with_context(|| format!("{last:#?}"))
    }

    /// The state files of both servers as they are now.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn states(&self) -> Result<[Vec<u8>; 2]> {
        Ok([self.alpha.state_bytes()?, self.bravo.state_bytes()?])
    }

    /// ERROR means that a person must act: only a test that says so makes that necessary.
    fn no_errors_logged(&self) -> Result<()> {
        for side in Side::BOTH {
            let log = self.server(side).log();
            let listed = |line: &str| {
                self.settings.expected_error.is_some_and(|expected| line.contains(expected))
            };
            let bad = |line: &&str| {
                line.contains(" ERROR ") && !listed(line) || line.contains("panicked at")
            };
            if let Some(line) = log.lines().find(bad) {
                bail!("the log of {} has: {line}", side.name());
            }
        }
        Ok(())
    }

    fn show_logs(&self) {
        for side in Side::BOTH {
            let tail = self.server(side).log_tail(LOG_LINES);
            eprintln!("--- last {LOG_LINES} lines of the log of {}\n{tail}", side.name());
        }
    }
}

/// A folder for one pair; those of tests that were killed go now.
fn temporary_folder() -> Result<TempDir> {
    const PREFIX: &str = "ipicsha-e2e-";
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        if process::is_left_over(&entry.file_name().to_string_lossy(), PREFIX) {
            let _ = std::fs::remove_dir_all(entry.path()); // another test sweeps too
        }
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}
