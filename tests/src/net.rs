//! The network between the two servers: two network namespaces joined by a veth pair when root,
//! else two addresses of the loopback interface.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, geteuid};

use crate::{note::note, process};

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The primary.
    Alpha,
    /// The secondary.
    Bravo,
}

impl Side {
    /// Both, the primary first.
    pub const BOTH: [Self; 2] = [Self::Alpha, Self::Bravo];

    /// Name of the server.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Bravo => "bravo",
        }
    }

    /// The other server.
    pub fn other(self) -> Self {
        match self {
            Self::Alpha => Self::Bravo,
            Self::Bravo => Self::Alpha,
        }
    }
}

/// The two servers' network; it is gone when this value is dropped, with everything that runs in it.
#[derive(Debug)]
pub struct Network {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Names of the namespaces of alpha and bravo.
    Namespaces([String; 2]),
    /// Ports of alpha and bravo.
    Loopback([u16; 2]),
}

const PREFIX: &str = "ipc-";
const INTERFACE: &str = "eth0";
const TO_WITNESS: &str = "eth1";
const PORT: u16 = 3444;

/// Whether links can be cut here. Says so when they cannot: without root there are no namespaces.
///
/// # Errors
/// Under CI (variable `CI`) nothing is skipped.
pub fn can_cut(test: &str) -> Result<bool> {
    if geteuid().is_root() {
        return Ok(true);
    }
    ensure!(std::env::var_os("CI").is_none(), "CI must run the end-to-end tests as root");
    note(&format!("SKIPPED {test}: network namespaces need root"));
    Ok(false)
}

impl Network {
    /// Makes the network.
    ///
    /// # Errors
    /// `ip` refuses, or no port is free.
    pub fn new() -> Result<Self> {
        if !geteuid().is_root() {
            return Self::over_loopback();
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{PREFIX}{}-{number}", std::process::id());
        let names = [format!("{stem}a"), format!("{stem}b")];
        let network = Self { kind: Kind::Namespaces(names.clone()) }; // dropped if a step fails
        for name in &names {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let [a, b] = &names;
        let veth =
            format!("link add {INTERFACE} netns {a} type veth peer name {INTERFACE} netns {b}");
        ip(&veth.split(' ').collect::<Vec<_>>())?;
        for (name, host) in names.iter().zip(["10.77.0.1", "10.77.0.2"]) {
            ip(&["-n", name, "address", "add", &format!("{host}/24"), "dev", INTERFACE])?;
            ip(&["-n", name, "link", "set", INTERFACE, "up"])?;
        }
        Ok(network)
    }

    /// Two ports of the loopback interface.
    pub(crate) fn over_loopback() -> Result<Self> {
        let port = |_| Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let ports = Side::BOTH.map(port).into_iter().collect::<Result<Vec<u16>>>()?;
        Ok(Self { kind: Kind::Loopback([ports[0], ports[1]]) })
    }

    /// Both servers are on the loopback interface.
    pub fn is_loopback(&self) -> bool {
        matches!(self.kind, Kind::Loopback(_))
    }

    /// Address of a server, without port.
    pub fn host(&self, side: Side) -> &'static str {
        match (&self.kind, side) {
            (Kind::Loopback(_), _) => "127.0.0.1",
            (Kind::Namespaces(_), Side::Alpha) => "10.77.0.1",
            (Kind::Namespaces(_), Side::Bravo) => "10.77.0.2",
        }
    }

    /// Where a server listens for its partner.
    pub fn address(&self, side: Side) -> String {
        let port = match &self.kind {
            Kind::Namespaces(_) => PORT,
            Kind::Loopback(ports) => ports[side as usize],
        };
        format!("{}:{port}", self.host(side))
    }

    /// A port for an application: the same on both servers where each has its own network.
    ///
    /// # Errors
    /// No port is free.
    pub fn application_port(&self) -> Result<u16> {
        match self.kind {
            Kind::Namespaces(_) => Ok(8080),
            Kind::Loopback(_) => Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()),
        }
    }

    /// A program that will run on a server. It dies with the thread that starts it, so that not even
    /// a test that is killed leaves anything running.
    pub fn command(&self, side: Side, program: impl AsRef<Path>) -> Command {
        let mut command = match &self.kind {
            Kind::Loopback(_) => Command::new("setpriv"),
            Kind::Namespaces(names) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &names[side as usize], "setpriv"]);
                command
            }
        };
        command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
        command
    }

    /// Bytes that a server has sent to the other one so far.
    ///
    /// # Errors
    /// There are no namespaces: nobody counts.
    pub fn sent_bytes(&self, side: Side) -> Result<u64> {
        ensure!(matches!(self.kind, Kind::Namespaces(_)), "bytes are counted as root only");
        let table = self.command(side, "cat").arg("/proc/net/dev").output()?;
        let table = String::from_utf8(table.stdout)?;
        let prefix = format!("{INTERFACE}:");
        let of_link = table.lines().find_map(|line| line.trim().strip_prefix(&prefix));
        // Eight columns of what came stand before it.
        let sent = of_link.and_then(|row| row.split_whitespace().nth(8));
        Ok(sent.with_context(|| format!("no {INTERFACE} in {table}"))?.parse()?)
    }

    /// Cuts the link in both directions.
    ///
    /// # Errors
    /// There are no namespaces, or `iptables` refuses.
    pub fn cut(&self) -> Result<()> {
        self.cut_from(Side::Alpha)?;
        self.cut_from(Side::Bravo)
    }

    /// Cuts one direction: nothing that `side` sends arrives.
    ///
    /// # Errors
    /// There are no namespaces, or `iptables` refuses.
    pub fn cut_from(&self, side: Side) -> Result<()> {
        self.iptables(side, &["-A", "OUTPUT", "-o", INTERFACE, "-j", "DROP"])?;
        self.iptables(side.other(), &["-A", "INPUT", "-i", INTERFACE, "-j", "DROP"])
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// There are no namespaces, or `iptables` refuses.
    pub fn heal(&self) -> Result<()> {
        for side in Side::BOTH {
            self.iptables(side, &["-F"])?;
        }
        Ok(())
    }

    fn iptables(&self, side: Side, arguments: &[&str]) -> Result<()> {
        ensure!(matches!(self.kind, Kind::Namespaces(_)), "links can be cut as root only");
        succeed(self.command(side, "iptables").arg("-w").args(arguments))
    }

    /// Adds a third machine, with a link of its own to each server.
    ///
    /// # Errors
    /// There are no namespaces, or `ip` refuses.
    pub fn add_witness(&self) -> Result<()> {
        let Kind::Namespaces(names) = &self.kind else { bail!("a third machine needs root") };
        let witness = witness_of(names);
        ip(&["netns", "add", &witness])?;
        ip(&["-n", &witness, "link", "set", "lo", "up"])?;
        for side in Side::BOTH {
            let (name, there) = (&names[side as usize], format!("to-{}", side.name()));
            let link = format!(
                "link add {TO_WITNESS} netns {name} type veth peer name {there} netns {witness}"
            );
            ip(&link.split(' ').collect::<Vec<_>>())?;
            let own = format!("10.78.{}.1/24", side as usize);
            ip(&["-n", name, "address", "add", &own, "dev", TO_WITNESS])?;
            ip(&["-n", name, "link", "set", TO_WITNESS, "up"])?;
            let own = format!("{}/24", Self::witness_host(side));
            ip(&["-n", &witness, "address", "add", &own, "dev", &there])?;
            ip(&["-n", &witness, "link", "set", &there, "up"])?;
        }
        Ok(())
    }

    /// Address of the third machine as a server sees it.
    pub fn witness_host(side: Side) -> &'static str {
        match side {
            Side::Alpha => "10.78.0.3",
            Side::Bravo => "10.78.1.3",
        }
    }

    /// A program that will run on the third machine.
    pub fn command_on_witness(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        if let Kind::Namespaces(names) = &self.kind {
            command.args(["netns", "exec", &witness_of(names), "setpriv"]);
        }
        command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
        command
    }

    /// Cuts the way of one server to the third machine, in both directions.
    ///
    /// # Errors
    /// `iptables` refuses.
    pub fn cut_from_witness(&self, side: Side) -> Result<()> {
        self.iptables(side, &["-A", "OUTPUT", "-o", TO_WITNESS, "-j", "DROP"])?;
        self.iptables(side, &["-A", "INPUT", "-i", TO_WITNESS, "-j", "DROP"])
    }

    /// Every process that runs on a server; empty without namespaces.
    pub fn pids(&self, side: Side) -> Vec<u32> {
        match &self.kind {
            Kind::Namespaces(names) => pids(&names[side as usize]),
            Kind::Loopback(_) => Vec::new(),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Kind::Namespaces(names) = &self.kind {
            for name in names.iter().chain([&witness_of(names)]) {
                delete(name);
            }
        }
    }
}

/// Name of the third machine beside these two.
fn witness_of(names: &[String; 2]) -> String {
    format!("{}w", names[0].trim_end_matches('a'))
}

/// Removes what a test that was killed has left behind.
fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if process::is_left_over(&name, PREFIX) {
            delete(&name);
        }
    }
    Ok(())
}

/// Ends everything in a namespace and removes it.
fn delete(name: &str) {
    if !Path::new("/run/netns").join(name).exists() {
        return;
    }
    for pid in pids(name) {
        process::signal(pid, Signal::KILL);
    }
    if let Err(error) = ip(&["netns", "delete", name]) {
        eprintln!("{error:#}");
    }
}

fn pids(namespace: &str) -> Vec<u32> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn ip(arguments: &[&str]) -> Result<()> {
    succeed(Command::new("ip").args(arguments))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
