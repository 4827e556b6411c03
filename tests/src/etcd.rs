//! An etcd on a third machine beside the pair, Debian's, as the witness.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::{
    debian::unpacked,
    net::{Network, Side},
    pair::{Pair, fresh_pair},
    process::{self, run},
    settings::Settings,
    wait::{SOON, wait_for},
    witness::write_block,
};

const PACKAGE: &str = "etcd-server";
const USERS: &str = include_str!("python/etcd_users.py");
/// Of the user that etcd knows: with a blank in it.
pub const PASSWORD: &str = "two words";
const READY: &str = "ready to serve client requests";

/// How servers and etcd know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Not at all.
    Plain,
    /// Certificates both ways.
    Tls,
    /// Etcd's certificate, and a user with a password.
    User,
}

/// What runs ends when it is dropped.
#[derive(Debug)]
pub struct Etcd {
    home: PathBuf,
    network: Arc<Network>,
    transport: Transport,
    daemon: Option<Child>,
}

/// Runs a test on a pair under policy `witness` that is Ready, and the etcd that it asks.
///
/// # Errors
/// Those of the test.
pub fn etcd_pair(
    settings: Settings,
    transport: Transport,
    test: impl FnOnce(&mut Pair, &mut Etcd) -> Result<()>,
) -> Result<()> {
    let settings = settings.pair("partition_policy = \"witness\"");
    fresh_pair(settings, |pair| {
        let mut etcd = Etcd::new(pair, transport)?;
        let result = etcd.make_ready(pair).context("the pair did not become Ready");
        let result = result.and_then(|()| test(pair, &mut etcd));
        if result.is_err() {
            eprintln!("--- etcd\n{}", etcd.log());
        }
        result
    })
}

fn program() -> Result<PathBuf> {
    let program = |home: &Path| home.join("root/usr/bin/etcd");
    let works = |home: &Path| {
        let ran = run(Command::new(program(home)).arg("--version"), SOON);
        Ok(ran.is_ok_and(|ran| ran.code == Some(0)))
    };
    Ok(program(&unpacked(PACKAGE, "e2e-etcd", works)?))
}

impl Etcd {
    fn new(pair: &Pair, transport: Transport) -> Result<Self> {
        pair.network.add_witness()?;
        let home = pair.folder().join("etcd");
        fs::create_dir_all(&home)?;
        let etcd = Self { home, network: Arc::clone(&pair.network), transport, daemon: None };
        if transport != Transport::Plain {
            etcd.make_certificates()?;
            etcd.set_password(PASSWORD)?;
        }
        Ok(etcd)
    }

    fn path(&self, name: &str) -> String {
        self.home.join(name).display().to_string()
    }

    /// One who signs, etcd's own certificate, and one for both servers.
    fn make_certificates(&self) -> Result<()> {
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.current_dir(&self.home).args(arguments.split(' '));
            run(&mut command, SOON)?.ok().map(drop)
        };
        let new = "req -x509 -newkey rsa:2048 -nodes -days 2";
        openssl(&format!("{new} -subj /CN=ca -keyout ca.key -out ca.pem"))?;
        let [alpha, bravo] = Side::BOTH.map(Network::witness_host);
        let addresses = format!("subjectAltName=IP:{alpha},IP:{bravo}");
        for (name, extension) in
            [("etcd", addresses.as_str()), ("client", "subjectAltName=DNS:client")]
        {
            let usage = "-addext basicConstraints=critical,CA:FALSE";
            let signed = "-CA ca.pem -CAkey ca.key";
            openssl(&format!(
                "{new} {signed} -subj /CN={name} -addext {extension} {usage} -keyout {name}.key -out {name}.pem"
            ))?;
        }
        Ok(())
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&mut self) -> Result<()> {
        let scheme = if self.transport == Transport::Plain { "http" } else { "https" };
        let before = self.log().matches(READY).count();
        let log = OpenOptions::new().create(true).append(true).open(self.home.join("log"))?;
        let mut command = self.network.command_on_witness(program()?);
        command.arg("--data-dir").arg(self.home.join("data"));
        command.args(["--listen-client-urls", &format!("{scheme}://0.0.0.0:2379")]);
        command.args(["--advertise-client-urls", &format!("{scheme}://127.0.0.1:2379")]);
        if self.transport != Transport::Plain {
            command.args([
                "--cert-file",
                &self.path("etcd.pem"),
                "--key-file",
                &self.path("etcd.key"),
            ]);
        }
        if self.transport == Transport::Tls {
            command.args(["--client-cert-auth", "--trusted-ca-file", &self.path("ca.pem")]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(command.spawn()?);
        wait_for("etcd listens", SOON, || {
            (self.log().matches(READY).count() > before).then_some(())
        })
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("etcd does not run")?;
        process::signal(child.id(), Signal::KILL);
        child.wait()?;
        Ok(())
    }

    /// Writes another password into the file that the servers read.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_password(&self, password: &str) -> Result<()> {
        Ok(fs::write(self.home.join("password"), format!("{password}\n"))?)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Writes the block `[witness]` of a server's configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell(&self, pair: &Pair, side: Side) -> Result<()> {
        let host = Network::witness_host(side);
        let block = match self.transport {
            Transport::Plain => format!("etcd.endpoints = [\"http://{host}:2379\"]\n"),
            // The first member of a cluster may be down.
            Transport::Tls => format!(
                "[witness.etcd]\nendpoints = [\"https://{host}:2378\", \"https://{host}:2379\"]\n\
                 ca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
                self.path("ca.pem"),
                self.path("client.pem"),
                self.path("client.key")
            ),
            Transport::User => format!(
                "[witness.etcd]\nendpoints = [\"https://{host}:2379\"]\nca = {:?}\n\
                 user = \"ipicsha\"\npassword_file = {:?}\n",
                self.path("ca.pem"),
                self.path("password")
            ),
        };
        write_block(pair, side, &block)
    }

    /// From now on nobody without a password reads or writes anything.
    fn add_users(&self) -> Result<()> {
        let base = format!("https://{}:2379", Network::witness_host(Side::Alpha));
        let mut command = self.network.command_on_witness("python3");
        command.args(["-c", USERS, &base, &self.path("ca.pem"), PASSWORD, "ipicsha"]);
        run(&mut command, SOON)?.ok().map(drop)
    }

    fn make_ready(&mut self, pair: &mut Pair) -> Result<()> {
        self.start()?;
        if self.transport == Transport::User {
            self.add_users()?;
        }
        for side in Side::BOTH {
            self.tell(pair, side)?;
        }
        pair.make_ready()?;
        pair.alpha.wait("etcd answers", |status| status.witness() == Some(""))?;
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let _ = self.kill();
        }
    }
}
