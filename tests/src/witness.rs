//! A third machine beside the pair, with a way of its own to each server, and the witness on it.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    binary,
    faults::Noticed,
    net::{Network, Side},
    pair::{Pair, fresh_pair},
    process::{self, Ran},
    settings::Settings,
    wait::{SOON, wait_for},
};

/// The witness of a pair. What runs ends, and its machine goes, when it is dropped.
#[derive(Debug)]
pub struct Witness {
    home: PathBuf,
    network: Arc<Network>,
    daemon: Option<Child>,
}

/// Runs a test on a pair under policy `witness` that is Ready, and its witness.
///
/// # Errors
/// Those of the test.
pub fn witness_pair(
    settings: Settings,
    test: impl FnOnce(&mut Pair, &mut Witness) -> Result<()>,
) -> Result<()> {
    let settings = settings.pair("partition_policy = \"witness\"");
    fresh_pair(settings, |pair| {
        let mut witness = Witness::new(pair)?;
        let result = witness.make_ready(pair).context("the pair did not become Ready");
        let result = result.and_then(|()| test(pair, &mut witness));
        if result.is_err() {
            eprintln!("--- witness\n{}", witness.log());
        }
        result
    })
}

impl Witness {
    /// The machine, and a witness that knows nobody yet.
    ///
    /// # Errors
    /// A step fails.
    pub fn new(pair: &Pair) -> Result<Self> {
        pair.network.add_witness()?;
        let home = pair.folder().join("witness");
        fs::create_dir_all(&home)?;
        let witness = Self { home, network: Arc::clone(&pair.network), daemon: None };
        witness.configure(&[])?;
        Ok(witness)
    }

    /// Whose certificates are known, as pairs called `e2e`, `e2e1`, ...
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, pairs: &[[String; 2]]) -> Result<()> {
        self.configure_certificates(&pairs.iter().map(|pair| pair.to_vec()).collect::<Vec<_>>())
    }

    /// The same, for servers that change their certificates.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure_certificates(&self, pairs: &[Vec<String>]) -> Result<()> {
        let mut text = format!("state_directory = \"{}/state\"\n", self.home.display());
        for (number, certificates) in pairs.iter().enumerate() {
            let number = if number == 0 { String::new() } else { number.to_string() };
            text += &format!("[[pair]]\nname = \"e2e{number}\"\ncertificates = {certificates:?}\n");
        }
        // As an editor does it: never half a file.
        let path = self.config_path();
        fs::write(path.with_extension("new"), text)?;
        Ok(fs::rename(path.with_extension("new"), path)?)
    }

    fn config_path(&self) -> PathBuf {
        self.home.join("witness.toml")
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.network.command_on_witness(binary::ipicsha()?);
        command.arg("--config").arg(self.config_path());
        Ok(command)
    }

    /// Runs a verb there.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn cli(&self, arguments: &[&str]) -> Result<Ran> {
        process::run(self.command()?.args(arguments), SOON)
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&mut self) -> Result<()> {
        let before = self.log().matches("witness started").count();
        let path = self.home.join("log");
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        let mut command = self.command()?;
        command.arg("witness").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(command.spawn()?);
        wait_for("the witness listens", SOON, || {
            (self.log().matches("witness started").count() > before).then_some(())
        })
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("the witness does not run")?;
        process::signal(child.id(), Signal::KILL);
        child.wait()?;
        Ok(())
    }

    /// Process id of its daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the witness does not run")?.id())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// What its certificate is known by.
    ///
    /// # Errors
    /// The verb fails.
    pub fn certificate(&self) -> Result<String> {
        let shown: Value = self.cli(&["--json", "witness", "show"])?.json()?;
        Ok(shown["certificate"].as_str().context("a certificate")?.to_owned())
    }

    /// Writes the block `[witness]` of a server's configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell(&self, pair: &Pair, side: Side, certificate: &str) -> Result<()> {
        let address = format!("{}:3445", Network::witness_host(side));
        let block = format!("address = {address:?}\ncertificate = {certificate:?}\n");
        write_block(pair, side, &block)
    }

    fn make_ready(&mut self, pair: &mut Pair) -> Result<()> {
        self.start()?;
        let certificate = self.certificate()?;
        for side in Side::BOTH {
            self.tell(pair, side, &certificate)?;
        }
        pair.start()?;
        self.admit(pair)?;
        pair.make_ready_from_started()?;
        pair.alpha.wait("the witness answers", |status| status.witness() == Some(""))?;
        Ok(())
    }

    /// Lets both servers of the pair ask.
    ///
    /// # Errors
    /// A step fails.
    pub fn admit(&self, pair: &Pair) -> Result<()> {
        self.configure(&[[
            own_certificate(pair, Side::Alpha)?,
            own_certificate(pair, Side::Bravo)?,
        ]])
    }
}

/// Writes what follows `[witness]`, in the place of what was there.
pub(crate) fn write_block(pair: &Pair, side: Side, block: &str) -> Result<()> {
    let path = pair.server(side).config_path();
    let text = fs::read_to_string(&path)?;
    let text = text.split("\n[witness]").next().unwrap_or_default();
    Ok(fs::write(&path, format!("{text}\n[witness]\n{block}"))?)
}

/// What the certificate of a server is known by.
///
/// # Errors
/// Its daemon does not answer.
pub fn own_certificate(pair: &Pair, side: Side) -> Result<String> {
    let rows = pair.server(side).ask(&["trust", "show"])?;
    Ok(rows[0]["fingerprint"].as_str().context("a fingerprint")?.to_owned())
}

/// The primary serves again, and both are equal.
///
/// # Errors
/// It does not come to that.
pub fn as_before(pair: &mut Pair) -> Result<()> {
    pair.network.heal()?;
    if pair.bravo.status()?.role() == "active" {
        pair.bravo.wait("the standby is ready", |status| status.standby_status() == "Ready")?;
        pair.bravo.ask(&["failover"])?;
    }
    pair.wait_roles(Side::Alpha)?;
    pair.wait_ready()
}

/// Only one was written at a time.
///
/// # Errors
/// Both were.
pub fn never_two(noticed: &Noticed) -> Result<()> {
    ensure!(noticed.twice_active == 0, "both were written: {noticed:?}");
    Ok(())
}

/// What a server says of its role.
pub fn has_role(pair: &Pair, side: Side, role: &str) -> bool {
    pair.server(side).status().is_ok_and(|status| status.role() == role)
}

/// The secondary takes over.
///
/// # Errors
/// It does not.
pub fn wait_active(pair: &Pair) -> Result<()> {
    pair.bravo.wait("it takes over", |status| status.role() == "active")?;
    Ok(())
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            process::signal(child.id(), Signal::KILL);
            let _ = child.wait(); // it was ours
        }
    }
}
