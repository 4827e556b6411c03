//! `ntp`: the time service of this server, shown and set up (spec A5). Needs no daemon.
//!
//! Decides which of the installed services is meant and what its configuration says. Two are known:
//! chrony, and systemd-timesyncd. One file of our own is written, nobody else's is changed.
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::render;
use crate::{
    config::TimeSource,
    daemon::{time_synced, write_durably},
    exit::{Failure, Kind},
};

/// How long `enable` waits for the clock; a time service needs some exchanges.
const SETTLES: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(super) enum NtpVerb {
    /// Show whether this clock is synchronised, by which service and from which servers
    Show(PlaceArgs),
    /// Have the installed time service follow these servers, and start it
    Enable {
        /// A time server: name or IP
        server: String,
        /// A second one, for when the first is away
        backup: Option<String>,
        /// Seconds to wait until the clock is synchronised: 0 does not wait
        #[arg(long, default_value_t = SETTLES.as_secs())]
        wait: u64,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

#[derive(Args)]
pub(super) struct PlaceArgs {
    /// Work on the system beneath this directory (an image, a container) and start nothing
    #[arg(long, default_value = "/")]
    root: PathBuf,
}

/// A time service, and where it is told its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Service {
    Chrony,
    SystemdTimesyncd,
}

impl Service {
    /// The one that is installed; chrony, where both are, since it replaces the other.
    fn installed(root: &Path) -> Option<Self> {
        let there = |paths: [&str; 2]| paths.iter().any(|path| root.join(path).exists());
        if there(["usr/sbin/chronyd", "sbin/chronyd"]) {
            Some(Self::Chrony)
        } else if there(["usr/lib/systemd/systemd-timesyncd", "lib/systemd/systemd-timesyncd"]) {
            Some(Self::SystemdTimesyncd)
        } else {
            None
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Chrony => "chrony.service",
            Self::SystemdTimesyncd => "systemd-timesyncd.service",
        }
    }

    /// Our own file in its configuration.
    fn file(self, root: &Path) -> PathBuf {
        root.join(match self {
            Self::Chrony if root.join("etc/chrony/conf.d").is_dir() => {
                "etc/chrony/conf.d/ipicsha.conf"
            }
            Self::Chrony => "etc/chrony.d/ipicsha.conf",
            Self::SystemdTimesyncd => "etc/systemd/timesyncd.conf.d/ipicsha.conf",
        })
    }

    /// Why a file of our own would not be read.
    fn problem(self, root: &Path) -> Option<Failure> {
        const MAIN: &str = "etc/chrony.conf";
        let main = std::fs::read_to_string(root.join(MAIN)).unwrap_or_default();
        let reads = |line: &str| line.split_whitespace().eq(["confdir", "/etc/chrony.d"]);
        let read = match self {
            Self::Chrony => root.join("etc/chrony/conf.d").is_dir() || main.lines().any(reads),
            Self::SystemdTimesyncd => true,
        };
        let refuse = || {
            Failure::new(Kind::Refused, "chrony reads no directory with further files here").hinted(
                "add the line `confdir /etc/chrony.d` to /etc/chrony.conf, then run this again",
            )
        };
        (!read).then(refuse)
    }

    fn text(self, servers: &[&str]) -> String {
        let mut text = "# Written by `ipicsha ntp enable`.\n".to_owned();
        match self {
            Self::Chrony => {
                for (index, server) in servers.iter().enumerate() {
                    let prefer = if index == 0 { " prefer" } else { "" };
                    text += &format!("server {server} iburst{prefer}\n");
                }
                text += "makestep 1 3\n";
            }
            Self::SystemdTimesyncd => text += &format!("[Time]\nNTP={}\n", servers.join(" ")),
        }
        text
    }

    /// The servers in our file.
    fn servers(self, text: &str) -> Vec<String> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines = text.lines();
        match self {
            Self::Chrony => lines
                .filter_map(|line| line.strip_prefix("server "))
                .filter_map(|rest| words(rest).into_iter().next())
                .collect(),
            Self::SystemdTimesyncd => {
                lines.filter_map(|line| line.strip_prefix("NTP=")).flat_map(words).collect()
            }
        }
    }
}

/// What `ntp show` shows.
#[derive(Debug, Serialize)]
struct Shown {
    /// The kernel says so, whichever service keeps it.
    synchronised: bool,
    service: Option<Service>,
    /// `None`: nobody can be asked here.
    running: Option<bool>,
    /// Set by `ntp enable`.
    servers: Vec<String>,
    file: Option<PathBuf>,
}

pub(super) fn run(verb: &NtpVerb, json: bool) -> Result<ExitCode, Failure> {
    match verb {
        NtpVerb::Show(place) => show(&place.root, json),
        NtpVerb::Enable { server, backup, wait, place } => {
            let servers: Vec<&str> =
                [Some(server), backup.as_ref()].into_iter().flatten().map(String::as_str).collect();
            enable(&servers, Duration::from_secs(*wait), &place.root, json)
        }
    }
}

fn look(root: &Path) -> Shown {
    let service = Service::installed(root);
    let file = service.map(|service| service.file(root)).filter(|file| file.exists());
    let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let own = root == Path::new("/");
    Shown {
        synchronised: own && time_synced(TimeSource::Auto),
        running: service.filter(|_| own).and_then(is_running),
        servers: service
            .zip(text)
            .map(|(service, text)| service.servers(&text))
            .unwrap_or_default(),
        service,
        file,
    }
}

fn is_running(service: Service) -> Option<bool> {
    let asked = Command::new("systemctl").args(["is-active", "--quiet", service.unit()]).status();
    asked.ok().map(|status| status.success())
}

fn show(root: &Path, json: bool) -> Result<ExitCode, Failure> {
    let shown = look(root);
    if json {
        render::raw(&serde_json::to_value(&shown).map_err(anyhow::Error::from)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("clock: {}synchronised", if shown.synchronised { "" } else { "not " });
    let running = match shown.running {
        Some(true) => ", running",
        Some(false) => ", not running",
        None => "",
    };
    match shown.service {
        Some(service) => println!("service: {}{running}", service.unit()),
        None => println!("service: neither chrony nor systemd-timesyncd is installed"),
    }
    match &shown.file {
        Some(file) => println!("servers: {} ({})", shown.servers.join(", "), file.display()),
        None => println!(
            "servers: those of the service itself; `ipicsha ntp enable SERVER` sets others"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// A name or an address, and nothing that could be a second line or an option of the service.
fn check(server: &str) -> Result<(), Failure> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    let begins = |c: char| c.is_ascii_alphanumeric() || c == ':';
    if server.len() <= 253 && server.starts_with(begins) && server.chars().all(good) {
        return Ok(());
    }
    Err(Failure::new(Kind::Usage, format!("{server:?} is no name or address of a time server"))
        .hinted("give it as `ntp1.example.org` or `192.0.2.1`"))
}

fn enable(servers: &[&str], wait: Duration, root: &Path, json: bool) -> Result<ExitCode, Failure> {
    servers.iter().try_for_each(|server| check(server))?;
    let Some(service) = Service::installed(root) else {
        return Err(Failure::new(Kind::Refused, "no time service is installed")
            .hinted("`apt-get install chrony` (or systemd-timesyncd), then run this again"));
    };
    if let Some(problem) = service.problem(root) {
        return Err(problem);
    }
    let path = service.file(root);
    write(&path, &service.text(servers)).map_err(|error| {
        let kind = if error.kind() == io::ErrorKind::PermissionDenied {
            Kind::NotPermitted
        } else {
            Kind::Failed
        };
        Failure::new(kind, format!("{}: {error}", path.display())).hinted("run it as root")
    })?;
    if root == Path::new("/") {
        start(service)?;
        settle(wait, &path)?;
    }
    show(root, json)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    write_durably(path, text.as_bytes())?;
    // The service is not root.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

fn start(service: Service) -> Result<(), Failure> {
    for words in [["enable", service.unit()], ["restart", service.unit()]] {
        let command = format!("systemctl {}", words.join(" "));
        let failed = |why: String| {
            Failure::new(Kind::Failed, format!("`{command}`: {why}")).hinted(
                "the configuration is written: start the time service by hand, then `ipicsha ntp show`",
            )
        };
        let output = Command::new("systemctl")
            .args(words)
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
    }
    Ok(())
}

/// Waits until the kernel says that the clock is kept.
fn settle(wait: Duration, path: &Path) -> Result<(), Failure> {
    let begin = Instant::now();
    while !wait.is_zero() && !time_synced(TimeSource::Auto) {
        if begin.elapsed() >= wait {
            let text = format!(
                "the clock is not synchronised {} s after the service was started ({})",
                wait.as_secs(),
                path.display()
            );
            return Err(Failure::new(Kind::TimedOut, text).hinted(
                "is the time server reachable (UDP port 123)? `ipicsha ntp show` says when it is done",
            ));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(programs: &[&str], folders: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for program in programs {
            let path = root.path().join(program);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        root
    }

    const CHRONY: &str = "usr/sbin/chronyd";
    const TIMESYNCD: &str = "usr/lib/systemd/systemd-timesyncd";

    #[test]
    fn spec_a5_the_installed_service_gets_one_file_and_one_or_two_servers() {
        for (programs, folder, file) in [
            (&[CHRONY][..], "etc/chrony/conf.d", "etc/chrony/conf.d/ipicsha.conf"),
            (&[CHRONY, TIMESYNCD], "etc/chrony.d", "etc/chrony.d/ipicsha.conf"),
            (&[TIMESYNCD], "etc", "etc/systemd/timesyncd.conf.d/ipicsha.conf"),
        ] {
            let root = system(programs, &[folder]);
            let main = root.path().join("etc/chrony.conf");
            std::fs::write(main, "pool 2.pool.ntp.org\nconfdir /etc/chrony.d\n").unwrap();
            for servers in [&["ntp1.example.org"][..], &["192.0.2.1", "2001:db8::1"]] {
                enable(servers, Duration::ZERO, root.path(), true).unwrap();
                let shown = look(root.path());
                assert_eq!(shown.servers, servers);
                assert_eq!(shown.file, Some(root.path().join(file)));
            }
        }
    }

    #[test]
    fn what_is_no_server_is_refused_and_nothing_is_written() {
        let root = system(&[CHRONY], &["etc"]);
        for bad in ["", "-f", "a b", "ntp\nserver evil", "ntp;reboot", &"x".repeat(254)] {
            let failure = enable(&[bad], Duration::ZERO, root.path(), true).unwrap_err();
            assert_eq!(failure.kind, Kind::Usage, "{bad:?}");
        }
        assert_eq!(look(root.path()).file, None);
        let failure = enable(&["ntp"], Duration::ZERO, root.path(), true).unwrap_err();
        assert!(failure.next_step.unwrap().contains("confdir"), "chrony would not read it");
        let bare = system(&[], &["etc"]);
        let failure = enable(&["ntp"], Duration::ZERO, bare.path(), true).unwrap_err();
        assert_eq!(failure.kind, Kind::Refused);
        assert!(failure.next_step.unwrap().contains("chrony"));
    }
}
