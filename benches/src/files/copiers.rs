//! Who copies: ours, rsync with its daemon (plain TCP), rsync over ssh.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{Pair, Side, wait_for};

use super::measure::{Cost, run};

const SOON: Duration = Duration::from_secs(10);

/// A way to copy from alpha to bravo.
pub(super) trait Copier {
    fn name(&self) -> &'static str;

    /// Copies with everything that `-a` keeps.
    fn copy(&self, from: &Path, to: &Path) -> Result<Cost>;
}

/// The program under test.
pub(super) struct Ours<'a> {
    pair: &'a Pair,
}

impl<'a> Ours<'a> {
    pub(super) fn new(pair: &'a Pair) -> Self {
        Self { pair }
    }
}

impl Copier for Ours<'_> {
    fn name(&self) -> &'static str {
        "ipicsha"
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<Cost> {
        let (from, to) = (from.display().to_string(), format!("bravo:{}", to.display()));
        let mut command = self.pair.alpha.sync_command(Path::new("/"), &["-a", &from, &to])?;
        run(&self.pair.network, &mut command, self.pair.bravo.pid()?)
    }
}

/// A program that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a server of bravo's can listen: `usual` where bravo has a network of its own.
fn port(pair: &Pair, usual: u16) -> Result<u16> {
    if pair.network.is_loopback() { pair.network.application_port() } else { Ok(usual) }
}

fn listens(pair: &Pair, port: u16) -> Option<()> {
    let mut command = pair.network.command(Side::Bravo, "cat");
    let output = command.args(["/proc/net/tcp"]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).contains(&format!(":{port:04X} ")).then_some(())
}

/// rsync's daemon on bravo, as root and without chroot: its fastest way.
pub(super) struct RsyncDaemon<'a> {
    pair: &'a Pair,
    daemon: Running,
    port: u16,
    folder: PathBuf,
}

impl<'a> RsyncDaemon<'a> {
    pub(super) fn start(pair: &'a Pair, folder: &Path) -> Result<Self> {
        let config = folder.join("rsyncd.conf");
        let path = folder.display();
        let (host, port) = (pair.network.host(Side::Bravo), port(pair, 873)?);
        fs::write(
            &config,
            format!(
                "port = {port}\naddress = {host}\nuse chroot = no\nuid = root\ngid = root\n\
                 log file = {path}/rsyncd.log\n[all]\npath = {path}\nread only = no\n"
            ),
        )?;
        let mut command = pair.network.command(Side::Bravo, "rsync");
        command.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config.display()));
        let daemon = command.stdin(Stdio::null()).spawn().context("install rsync")?;
        let daemon = Running(daemon);
        wait_for("rsync's daemon listens", SOON, || listens(pair, port))?;
        Ok(Self { pair, daemon, port, folder: folder.to_owned() })
    }
}

impl Copier for RsyncDaemon<'_> {
    fn name(&self) -> &'static str {
        "rsync daemon"
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<Cost> {
        let (host, port) = (self.pair.network.host(Side::Bravo), self.port);
        let to = to.strip_prefix(&self.folder)?.display().to_string();
        let mut command = self.pair.network.command(Side::Alpha, "rsync");
        command.arg("-a").arg(from).arg(format!("rsync://{host}:{port}/all/{to}"));
        run(&self.pair.network, &mut command, self.daemon.0.id())
    }
}

/// rsync over ssh with the cipher that ssh chooses.
pub(super) struct Ssh<'a> {
    pair: &'a Pair,
    server: Running,
    shell: String,
}

impl<'a> Ssh<'a> {
    /// `None`, with a line that says why, where there is no ssh server.
    pub(super) fn start(pair: &'a Pair, folder: &Path) -> Result<Option<Self>> {
        let program = Path::new("/usr/sbin/sshd");
        if !program.exists() || !rustix::process::geteuid().is_root() {
            println!(
                "rsync over ssh is left out: no /usr/sbin/sshd (package openssh-server), or not root"
            );
            return Ok(None);
        }
        let keys = folder.join("ssh");
        fs::create_dir(&keys)?;
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o700))?;
        fs::create_dir_all("/run/sshd")?;
        for name in ["host", "user"] {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(keys.join(name));
            ensure!(command.status()?.success(), "ssh-keygen");
        }
        fs::copy(keys.join("user.pub"), keys.join("allowed"))?;
        let at = keys.display();
        let (host, port) = (pair.network.host(Side::Bravo), port(pair, 22)?);
        fs::write(
            keys.join("config"),
            format!(
                "Port {port}\nListenAddress {host}\nHostKey {at}/host\n\
                 AuthorizedKeysFile {at}/allowed\nStrictModes no\nPermitRootLogin yes\nUsePAM no\n\
                 PidFile {at}/pid\n"
            ),
        )?;
        let mut command = pair.network.command(Side::Bravo, program);
        command.args(["-D", "-e", "-f"]).arg(keys.join("config")).stdin(Stdio::null());
        let log = fs::File::create(keys.join("log"))?;
        let server = Running(command.stderr(log).spawn()?);
        wait_for("the ssh server listens", SOON, || listens(pair, port))?;
        let shell = format!(
            "ssh -p {port} -i {at}/user -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile={at}/known -o LogLevel=ERROR -F none"
        );
        Ok(Some(Self { pair, server, shell }))
    }
}

impl Copier for Ssh<'_> {
    fn name(&self) -> &'static str {
        "rsync over ssh"
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<Cost> {
        let host = self.pair.network.host(Side::Bravo);
        let mut command = self.pair.network.command(Side::Alpha, "rsync");
        command.arg("-a").arg("-e").arg(&self.shell);
        command.arg(from).arg(format!("root@{host}:{}", to.display()));
        run(&self.pair.network, &mut command, self.server.0.id())
    }
}
