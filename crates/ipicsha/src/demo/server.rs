//! The two servers of the demonstration: folders, configuration, daemons as child processes.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use serde_json::Value;

use super::{proxy::Proxy, wait_until};
use crate::{
    api::{Look, Request, Status},
    cli::ask,
    exit::{Failure, Kind},
};

/// One server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    folder: PathBuf,
    pub(crate) config: PathBuf,
    socket: PathBuf,
    pub(crate) database: PathBuf,
    /// Where the other one reaches it.
    pub(crate) proxy: Proxy,
    process: Mutex<Option<Child>>,
}

/// Both, and the link between them.
pub(crate) struct Pair {
    pub(crate) alpha: Server,
    pub(crate) bravo: Server,
}

impl Pair {
    /// Makes the folders and starts both daemons.
    pub(crate) fn start(folder: &Path) -> Result<Self, Failure> {
        let pair = Self {
            alpha: Server::prepare(folder, "alpha", [127, 0, 0, 2])?,
            bravo: Server::prepare(folder, "bravo", [127, 0, 0, 3])?,
        };
        for server in pair.servers() {
            server.start()?;
        }
        Ok(pair)
    }

    pub(crate) fn servers(&self) -> [&Server; 2] {
        [&self.alpha, &self.bravo]
    }

    pub(crate) fn set_cut(&self, cut: bool) {
        for server in self.servers() {
            server.proxy.set_cut(cut);
        }
    }

    /// The end of both logs, for a demonstration that failed.
    pub(crate) fn print_logs(&self) {
        for server in self.servers() {
            eprintln!("--- end of the log of {}", server.name);
            let text = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(20)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Server {
    fn prepare(folder: &Path, name: &'static str, ip: [u8; 4]) -> Result<Self, Failure> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).map_err(anyhow::Error::from)?;
        let listen = free_port(ip).map_err(anyhow::Error::from)?;
        let proxy = Proxy::start(listen).map_err(anyhow::Error::from)?;
        let server = Self {
            name,
            config: folder.join("ipicsha.toml"),
            socket: folder.join("ipicsha.sock"),
            database: folder.join("board.sqlite"),
            folder,
            proxy,
            process: Mutex::new(None),
        };
        let text = format!(
            "[server]\nname = \"{name}\"\nlisten = \"{listen}\"\nadvertise = \"{}\"\n\
             state_directory = {:?}\nsocket = {:?}\n\
             [pair]\nname = \"dispatch\"\n\
             [heartbeat]\nprofile = \"fast\"\ninterval_seconds = 0.2\nmissed_count = 5\n\
             [time]\nsource = \"assume-synced\"\n\
             [[database]]\nname = \"board\"\npath = {:?}\n",
            server.proxy.address,
            server.folder.join("state"),
            server.socket,
            server.database,
        );
        fs::write(&server.config, text).map_err(anyhow::Error::from)?;
        Ok(server)
    }

    /// Starts the daemon; it ends with this process.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", &super::own_program(), "--config"])
            .arg(&self.config)
            .arg("daemon")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(anyhow::Error::from)?)
            .spawn()
            .map_err(|error| {
                Failure::new(Kind::Failed, format!("the daemon of {}: {error}", self.name))
            })?;
        *self.process() = Some(child);
        wait_until(&format!("{} starts", self.name), || {
            self.ask(&Request::Look(Look::Status)).is_ok()
        })?;
        Ok(())
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            // It may have ended by itself; either way it is gone and reaped afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<Value, Failure> {
        ask(&self.socket, request)
    }

    pub(crate) fn status(&self) -> Result<Status, Failure> {
        let value = self.ask(&Request::Look(Look::Status))?;
        Ok(serde_json::from_value(value).map_err(anyhow::Error::from)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port(ip: [u8; 4]) -> std::io::Result<SocketAddr> {
    TcpListener::bind(SocketAddr::from((ip, 0)))?.local_addr()
}
