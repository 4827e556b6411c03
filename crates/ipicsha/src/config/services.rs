//! `[[service]]` blocks: how a service is started, stopped, watched, and how much it matters.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::seconds;
use crate::daemon::services::split_url;

/// A service that runs on the active server only, by the way it is started and stopped.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum ServiceFile {
    /// A child process of the daemon.
    Exec(ExecFile),
    /// A unit of systemd.
    Systemd(SystemdFile),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecFile {
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) start: Vec<String>,
    /// Run before the process is sent TERM, when given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) stop: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<PathBuf>,
    /// Its checks may fail for so long after a start, until they succeed.
    #[serde(default = "exec_start_timeout")]
    pub(crate) start_timeout_seconds: f64,
    #[serde(default = "stop_timeout")]
    pub(crate) stop_timeout_seconds: f64,
    /// The role moves when it is down for too long (spec B3).
    #[serde(default = "critical")]
    pub(crate) critical: bool,
    /// Starts again before it is given up.
    #[serde(default = "restarts")]
    pub(crate) restarts: u32,
    #[serde(default, rename = "check", skip_serializing_if = "Vec::is_empty")]
    pub(crate) checks: Vec<CheckFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SystemdFile {
    pub(crate) name: String,
    pub(crate) unit: String,
    /// Starting and stopping may take so long, and its checks may fail for so long after a start.
    #[serde(default = "start_timeout")]
    pub(crate) start_timeout_seconds: f64,
    #[serde(default = "critical")]
    pub(crate) critical: bool,
    #[serde(default = "restarts")]
    pub(crate) restarts: u32,
    #[serde(default, rename = "check", skip_serializing_if = "Vec::is_empty")]
    pub(crate) checks: Vec<CheckFile>,
}

/// A check as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckFile {
    pub(crate) kind: CheckKind,
    /// Of `process`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Of `tcp`: `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// Of `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// Of `exec`: program and arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
    /// Of `sqlite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// 5 s; 60 s of `sqlite`, which reads the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interval_seconds: Option<f64>,
    #[serde(default = "check_timeout")]
    pub(crate) timeout_seconds: f64,
    /// Failures in a row before it counts.
    #[serde(default = "failures")]
    pub(crate) failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckKind {
    Process,
    Tcp,
    Http,
    Exec,
    Sqlite,
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Process {
        pid_file: PathBuf,
    },
    Tcp {
        address: String,
    },
    Http {
        url: String,
    },
    Exec {
        command: Vec<String>,
    },
    Sqlite {
        path: PathBuf,
    },
    /// Of every unit, without being written down.
    Unit {
        unit: String,
    },
}

/// A check in which every value is within its range.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) probe: Probe,
    pub(crate) interval: Duration,
    pub(crate) limit: Duration,
    pub(crate) failures: u32,
}

impl CheckFile {
    /// What it means; or what is wrong with it.
    pub(crate) fn check(&self) -> Result<Check, String> {
        let probe = self.probe()?;
        let usual = if self.kind == CheckKind::Sqlite { 60.0 } else { 5.0 };
        let span = |key: &str, value: f64| {
            let inside = (0.1..=3600.0).contains(&value);
            let wrong = || format!("`{key}` is not within 0.1 to 3600");
            inside.then(|| seconds(value).ok()).flatten().ok_or_else(wrong)
        };
        if !(1..=1000).contains(&self.failures) {
            return Err("`failures` is not within 1 to 1000".into());
        }
        Ok(Check {
            probe,
            interval: span("interval_seconds", self.interval_seconds.unwrap_or(usual))?,
            limit: span("timeout_seconds", self.timeout_seconds)?,
            failures: self.failures,
        })
    }

    fn probe(&self) -> Result<Probe, String> {
        let (kind, key) = match self.kind {
            CheckKind::Process => ("process", "pid_file"),
            CheckKind::Tcp => ("tcp", "address"),
            CheckKind::Http => ("http", "url"),
            CheckKind::Exec => ("exec", "command"),
            CheckKind::Sqlite => ("sqlite", "path"),
        };
        let given = [
            self.pid_file.as_ref().map(|_| "pid_file"),
            self.address.as_ref().map(|_| "address"),
            self.url.as_ref().map(|_| "url"),
            (!self.command.is_empty()).then_some("command"),
            self.path.as_ref().map(|_| "path"),
        ];
        let missing = || format!("a check of kind {kind:?} needs `{key}`, and only that");
        if given.into_iter().flatten().any(|other| other != key) {
            return Err(missing());
        }
        let probe = match self.kind {
            CheckKind::Process => self.pid_file.clone().map(|pid_file| Probe::Process { pid_file }),
            CheckKind::Tcp => {
                let named = |address: &String| {
                    address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
                };
                self.address.clone().filter(named).map(|address| Probe::Tcp { address })
            }
            CheckKind::Http => match &self.url {
                Some(url) => Some(split_url(url).map(|_| Probe::Http { url: url.clone() })?),
                None => None,
            },
            CheckKind::Exec => {
                let command = self.command.clone();
                (!command.is_empty()).then_some(Probe::Exec { command })
            }
            CheckKind::Sqlite => self.path.clone().map(|path| Probe::Sqlite { path }),
        };
        probe.ok_or_else(missing)
    }
}

impl ServiceFile {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Exec(file) => &file.name,
            Self::Systemd(file) => &file.name,
        }
    }

    pub(crate) fn is_critical(&self) -> bool {
        match self {
            Self::Exec(file) => file.critical,
            Self::Systemd(file) => file.critical,
        }
    }

    /// For so long after a start its checks may fail until they succeed.
    pub(crate) fn start_timeout(&self) -> Duration {
        let limit = match self {
            Self::Exec(file) => file.start_timeout_seconds,
            Self::Systemd(file) => file.start_timeout_seconds,
        };
        seconds(limit).unwrap_or_default() // it was found to be within its range
    }

    /// Its checks: those written down, and of a unit whether it is active.
    pub(crate) fn checks(&self) -> Result<Vec<Check>, String> {
        match self {
            Self::Exec(file) => file.checks.iter().map(CheckFile::check).collect(),
            Self::Systemd(file) => {
                let active = Check {
                    probe: Probe::Unit { unit: file.unit.clone() },
                    interval: Duration::from_secs(5),
                    limit: Duration::from_secs(5),
                    failures: failures(),
                };
                let written = file.checks.iter().map(CheckFile::check);
                std::iter::once(Ok(active)).chain(written).collect()
            }
        }
    }

    fn problem(&self) -> Option<String> {
        let (restarts, own) = match self {
            Self::Exec(exec) if exec.start.is_empty() => (0, "`start` is empty"),
            Self::Exec(exec) if !(0.1..=600.0).contains(&exec.stop_timeout_seconds) => {
                (0, "`stop_timeout_seconds` is not within 0.1 to 600")
            }
            Self::Exec(exec) if !(0.0..=3600.0).contains(&exec.start_timeout_seconds) => {
                (0, "`start_timeout_seconds` is not within 0 to 3600")
            }
            Self::Systemd(unit) if !(0.1..=3600.0).contains(&unit.start_timeout_seconds) => {
                (0, "`start_timeout_seconds` is not within 0.1 to 3600")
            }
            Self::Exec(ExecFile { restarts, .. }) | Self::Systemd(SystemdFile { restarts, .. }) => {
                (*restarts, "")
            }
        };
        if !own.is_empty() {
            return Some(own.into());
        }
        if restarts > 1000 {
            return Some("`restarts` is not within 0 to 1000".into());
        }
        self.checks().err()
    }
}

/// What cannot be said by types: names, programs, limits and checks of services.
pub(super) fn check_services(services: &[ServiceFile]) -> Result<(), (String, String)> {
    let mut names = std::collections::BTreeSet::new();
    for service in services {
        let name = service.name();
        let key = format!("service {name:?}");
        if let Some(problem) = service.problem() {
            return Err((key, problem));
        }
        if name.is_empty() || name.contains('/') || !names.insert(name) {
            return Err((key, "each service needs a name of its own, without `/`".into()));
        }
    }
    Ok(())
}

fn stop_timeout() -> f64 {
    10.0
}

fn exec_start_timeout() -> f64 {
    30.0
}

fn start_timeout() -> f64 {
    100.0
}

fn check_timeout() -> f64 {
    5.0
}

fn critical() -> bool {
    true
}

fn restarts() -> u32 {
    3
}

fn failures() -> u32 {
    3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(check: &str) -> Result<Check, String> {
        let file: CheckFile = toml::from_str(check).map_err(|error| error.message().to_owned())?;
        file.check()
    }

    #[test]
    fn every_kind_of_check_needs_what_it_looks_at_and_nothing_else() {
        for good in [
            "kind = \"process\"\npid_file = \"/run/app.pid\"",
            "kind = \"tcp\"\naddress = \"127.0.0.1:80\"",
            "kind = \"http\"\nurl = \"http://127.0.0.1/healthz\"",
            "kind = \"exec\"\ncommand = [\"true\"]",
            "kind = \"sqlite\"\npath = \"/var/lib/app.db\"",
        ] {
            let check = parsed(good).unwrap();
            let usual = if good.contains("sqlite") { 60 } else { 5 };
            assert_eq!(check.interval, Duration::from_secs(usual));
            assert_eq!((check.limit, check.failures), (Duration::from_secs(5), 3));
        }
        for bad in [
            "kind = \"tcp\"",
            "kind = \"tcp\"\naddress = \"127.0.0.1\"",
            "kind = \"http\"\nurl = \"https://127.0.0.1\"",
            "kind = \"exec\"\ncommand = []",
            "kind = \"sqlite\"\naddress = \"127.0.0.1:80\"",
            "kind = \"sqlite\"\npath = \"/a\"\nurl = \"http://a\"",
            "kind = \"exec\"\ncommand = [\"true\"]\nfailures = 0",
            "kind = \"exec\"\ncommand = [\"true\"]\ninterval_seconds = 0.0",
            "kind = \"exec\"\ncommand = [\"true\"]\ntimeout_seconds = nan",
            "kind = \"exec\"\ncommand = [\"true\"]\ntimeout = 3",
            "kind = \"smtp\"",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
