//! The configuration file: [`ConfigFile`] is what was written, [`Config`] what it means.

mod addresses;
mod alarms;
mod directories;
mod services;
mod witness;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipicsha_core::config::{Automatic, PairName, PartitionPolicy, Profile, Timing};
use ipicsha_records::Journaling;
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) use self::alarms::EmailFile;
pub(crate) use self::{
    addresses::AddressFile,
    alarms::AlarmsFile,
    directories::{DirectoryFile, FilesFile, clash},
    services::{Check, ExecFile, Probe, ServiceFile},
    witness::{EtcdAt, WitnessAt, WitnessFile},
};
use crate::{
    exit::{Failure, Kind},
    size::ByteSize,
};

/// Where the daemon looks when no `--config` is given.
pub(crate) const DEFAULT_PATH: &str = "/etc/ipicsha/ipicsha.toml";

/// The file as written; every key is optional but the name of the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    pub(crate) server: ServerFile,
    #[serde(default)]
    pub(crate) pair: PairFile,
    #[serde(default)]
    pub(crate) heartbeat: HeartbeatFile,
    #[serde(default)]
    pub(crate) time: TimeFile,
    #[serde(default)]
    pub(crate) log: LogFile,
    #[serde(default)]
    pub(crate) files: FilesFile,
    #[serde(default)]
    pub(crate) alarms: AlarmsFile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) witness: Option<WitnessFile>,
    #[serde(default)]
    pub(crate) hooks: HooksFile,
    #[serde(default)]
    pub(crate) sync: SyncFile,
    #[serde(default, rename = "database", skip_serializing_if = "Vec::is_empty")]
    pub(crate) databases: Vec<DatabaseFile>,
    #[serde(default, rename = "directory", skip_serializing_if = "Vec::is_empty")]
    pub(crate) directories: Vec<DirectoryFile>,
    #[serde(default, rename = "address", skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<AddressFile>,
    #[serde(default, rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub(crate) services: Vec<ServiceFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerFile {
    pub(crate) name: String,
    #[serde(default = "listen")]
    pub(crate) listen: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) advertise: Option<String>,
    #[serde(default = "state_directory")]
    pub(crate) state_directory: PathBuf,
    #[serde(default = "socket")]
    pub(crate) socket: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PairFile {
    pub(crate) name: String,
    pub(crate) partition_policy: PartitionPolicy,
    pub(crate) auto_heal: bool,
    pub(crate) initialization_timeout_seconds: f64,
    pub(crate) critical_service_delay_seconds: f64,
    pub(crate) automatic_fallback_minutes: f64,
    pub(crate) takeover_window_seconds: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HeartbeatFile {
    pub(crate) profile: Profile,
    pub(crate) interval_seconds: f64,
    pub(crate) missed_count: u32,
}

/// Who vouches for the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TimeSource {
    /// The kernel's own state, as set by any NTP service.
    #[default]
    Auto,
    /// Claimed by the administrator; for demonstrations and tests, and shown everywhere.
    AssumeSynced,
    /// Nobody: HA cannot be configured.
    None,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TimeFile {
    pub(crate) source: TimeSource,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogFile {
    pub(crate) capacity_entries: u64,
    pub(crate) capacity_bytes: ByteSize,
}

/// Programs that run around role changes, repairs and alarms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HooksFile {
    pub(crate) directory: PathBuf,
    pub(crate) timeout_seconds: f64,
}

/// What `ipicsha sync` of the partner may do here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SyncFile {
    /// Directories that are open to it, with all that is beneath them.
    pub(crate) allow: Vec<PathBuf>,
    /// Entries that one transfer may delete.
    pub(crate) deletions_max: u64,
}

/// A protected database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DatabaseFile {
    pub(crate) path: PathBuf,
    /// Name common to both servers; the path when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// It stays in its rollback-journal mode instead of being switched to WAL.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) keep_journal_mode: bool,
    /// Room of its transaction log, where it differs from `[log]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_entries: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_bytes: Option<ByteSize>,
}

impl DatabaseFile {
    pub(crate) fn journaling(&self) -> Journaling {
        if self.keep_journal_mode { Journaling::Keep } else { Journaling::Wal }
    }

    pub(crate) fn common_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.path.display().to_string())
    }
}

fn listen() -> String {
    "0.0.0.0:3444".into()
}

fn state_directory() -> PathBuf {
    "/var/lib/ipicsha".into()
}

fn socket() -> PathBuf {
    "/run/ipicsha/ipicsha.sock".into()
}

impl Default for PairFile {
    fn default() -> Self {
        Self {
            name: "pair".into(),
            partition_policy: PartitionPolicy::default(),
            auto_heal: true,
            initialization_timeout_seconds: 120.0,
            critical_service_delay_seconds: 90.0,
            automatic_fallback_minutes: 0.0,
            takeover_window_seconds: 600.0,
        }
    }
}

impl Default for HeartbeatFile {
    fn default() -> Self {
        Self { profile: Profile::Standard, interval_seconds: 15.0, missed_count: 5 }
    }
}

impl Default for HooksFile {
    fn default() -> Self {
        Self { directory: "/etc/ipicsha/hooks.d".into(), timeout_seconds: 60.0 }
    }
}

impl Default for LogFile {
    fn default() -> Self {
        Self { capacity_entries: 1_000_000, capacity_bytes: ByteSize(256 << 20) }
    }
}

impl Default for SyncFile {
    fn default() -> Self {
        Self { allow: Vec::new(), deletions_max: 1000 }
    }
}

/// A configuration in which every value is within its range.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) file: ConfigFile,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) pair: PairName,
    pub(crate) timing: Timing,
    pub(crate) initialization_timeout: Duration,
    pub(crate) automatic: Automatic,
    pub(crate) hook_limit: Duration,
    pub(crate) witness: Option<WitnessAt>,
}

impl Config {
    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Kind::Config, format!("cannot read {}: {error}", path.display())).hinted(
                "give the file with `ipicsha --config FILE`, or start from config/ipicsha.toml",
            )
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let file: ConfigFile =
            toml::from_str(text).map_err(|error| unreadable(&error, text, origin))?;
        let wrong = |key: &str, why: String, hint: &str| {
            Failure::new(Kind::Config, format!("{origin}: {key}: {why}")).hinted(hint)
        };
        let address = |key: &str, value: &str| -> Result<SocketAddr, Failure> {
            let hint = "write it as IP:PORT, for example 10.0.0.1:3444";
            value.parse().map_err(|_| wrong(key, format!("{value:?} is no address"), hint))
        };
        let range = "the ranges are in config/ipicsha.toml; correct the value";
        let interval = seconds(file.heartbeat.interval_seconds)
            .map_err(|why| wrong("heartbeat.interval_seconds", why, range))?;
        let timing = Timing::new(file.heartbeat.profile, interval, file.heartbeat.missed_count)
            .map_err(|error| wrong("heartbeat", error.to_string(), range))?;
        let initialization_timeout = seconds(file.pair.initialization_timeout_seconds)
            .map_err(|why| wrong("pair.initialization_timeout_seconds", why, range))?;
        let pair = PairName::try_from(file.pair.name.clone())
            .map_err(|error| wrong("pair.name", error.to_string(), "choose another name"))?;
        if file.server.name.is_empty() || file.server.name.len() > 63 {
            return Err(wrong("server.name", "1 to 63 characters".into(), "choose another name"));
        }
        let log = (Some(file.log.capacity_entries), Some(file.log.capacity_bytes));
        if let Some((which, why)) = log_problem(log.0, log.1) {
            return Err(wrong(&format!("log.capacity_{which}"), why.into(), range));
        }
        for database in &file.databases {
            if let Some((which, why)) = log_problem(database.log_entries, database.log_bytes) {
                let key = format!("database {}: log_{which}", database.common_name());
                return Err(wrong(&key, why.into(), range));
            }
        }
        let block = |(key, why): (String, String)| {
            wrong(&key, why, "compare with the examples in config/ipicsha.toml")
        };
        check_directories(&file).map_err(block)?;
        for path in &file.sync.allow {
            let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
            if !path.is_absolute() || climbs {
                let why = format!("{path:?} is no whole path");
                return Err(wrong("sync.allow", why, "write it as \"/srv/files\", without `..`"));
            }
        }
        check_blocks(&file).map_err(block)?;
        if !(1.0..=3600.0).contains(&file.pair.initialization_timeout_seconds) {
            return Err(wrong("pair.initialization_timeout_seconds", "1 to 3600".into(), range));
        }
        if !(0.1..=3600.0).contains(&file.hooks.timeout_seconds) {
            return Err(wrong("hooks.timeout_seconds", "0.1 to 3600".into(), range));
        }
        let hook_limit = seconds(file.hooks.timeout_seconds)
            .map_err(|why| wrong("hooks.timeout_seconds", why, range))?;
        let witness = witness_of(&file).map_err(block)?;
        Ok(Self {
            hook_limit,
            witness,
            listen: address("server.listen", &file.server.listen)?,
            advertise: match &file.server.advertise {
                Some(value) => Some(address("server.advertise", value)?),
                None => None,
            },
            pair,
            timing,
            initialization_timeout,
            automatic: automatic(&file.pair).map_err(|(key, why)| wrong(key, why.into(), range))?,
            file,
        })
    }

    /// The daemon's own files.
    pub(crate) fn state_file(&self, name: &str) -> PathBuf {
        self.file.server.state_directory.join(name)
    }
}

/// The blocks that have modules of their own; or the key that is wrong, and why.
fn check_blocks(file: &ConfigFile) -> Result<(), (String, String)> {
    services::check_services(&file.services)?;
    addresses::check_addresses(&file.addresses)?;
    alarms::check_alarms(&file.alarms).map_err(|(key, why)| (key.to_owned(), why))
}

/// The witness, which policy `witness` cannot do without; or the key that is wrong, and why.
fn witness_of(file: &ConfigFile) -> Result<Option<WitnessAt>, (String, String)> {
    match &file.witness {
        Some(witness) => witness.checked().map(Some),
        None if file.pair.partition_policy == PartitionPolicy::Witness => {
            Err(("pair.partition_policy".into(), "\"witness\" needs a block [witness]".into()))
        }
        None => Ok(None),
    }
}

/// When roles change by themselves; or the key that is out of range, and the range.
fn automatic(pair: &PairFile) -> Result<Automatic, (&'static str, &'static str)> {
    let within = |value: f64, max: f64, unit: f64| {
        let seconds = (0.0..=max).contains(&value).then_some(value * unit);
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    };
    let critical_service_delay = within(pair.critical_service_delay_seconds, 3_600.0, 1.0)
        .ok_or(("pair.critical_service_delay_seconds", "0 to 3600"))?;
    let fallback = within(pair.automatic_fallback_minutes, 10_080.0, 60.0)
        .ok_or(("pair.automatic_fallback_minutes", "0 (never) to 10080"))?;
    let takeover_window = within(pair.takeover_window_seconds, 86_400.0, 1.0)
        .ok_or(("pair.takeover_window_seconds", "0 (nothing is held) to 86400"))?;
    let fallback_after = (!fallback.is_zero()).then_some(fallback);
    Ok(Automatic { critical_service_delay, fallback_after, takeover_window })
}

/// Which size of a transaction log is out of range (`entries` or `bytes`), and the range.
pub(crate) fn log_problem(
    entries: Option<u64>,
    bytes: Option<ByteSize>,
) -> Option<(&'static str, &'static str)> {
    const BYTES: std::ops::RangeInclusive<ByteSize> = ByteSize(1 << 20)..=ByteSize(1 << 40);
    if entries.is_some_and(|entries| !(4096..=1_000_000_000).contains(&entries)) {
        return Some(("entries", "4096 to 1000000000 changes"));
    }
    bytes.is_some_and(|bytes| !BYTES.contains(&bytes)).then_some(("bytes", "1 MiB to 1 TiB"))
}

/// Watched directories that cannot be meant, alone or together.
fn check_directories(file: &ConfigFile) -> Result<(), (String, String)> {
    for directory in &file.directories {
        if let Some((key, why)) = directory.problem() {
            return Err((format!("directory {:?}: {key}", directory.common_name()), why));
        }
    }
    match clash(&file.directories, &file.server.state_directory) {
        Some(why) => Err(("directory".into(), why)),
        None => Ok(()),
    }
}

/// A number of seconds from a configuration or a command line.
pub(crate) fn seconds(value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value).map_err(|_| format!("{value} is no number of seconds"))
}

/// File, line and the nearest known key, so that a typing error is found at once.
fn unreadable(error: &toml::de::Error, text: &str, origin: &str) -> Failure {
    let (line, column) = error.span().map_or((0, 0), |span| {
        let before = &text[..span.start.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before.len() - line_start + 1)
    });
    let message = error.message();
    let failure = Failure::new(Kind::Config, format!("{origin}:{line}:{column}: {message}"));
    match nearest_key(message) {
        Some(key) => failure.hinted(&format!("did you mean `{key}`?")),
        None => {
            failure.hinted("compare with config/ipicsha.toml; check with `ipicsha config check`")
        }
    }
}

/// The known key that is most like the unknown one, from serde's own message.
fn nearest_key(message: &str) -> Option<String> {
    if !message.contains("unknown field") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let like = |key: &&str| (strsim::jaro_winkler(unknown, key) * 1000.0) as u64;
    quoted.max_by_key(like).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[server]\nname = \"alpha\"\n";

    #[test]
    fn defaults_are_those_of_a8() {
        let config = Config::parse(SMALL, "test").unwrap();
        assert_eq!(config.timing, Timing::default());
        assert_eq!(config.listen.port(), 3444);
    }

    #[test]
    fn the_example_shows_every_setting_with_its_default() {
        let text = include_str!("../../../config/ipicsha.toml");
        let config = Config::parse(text, "config/ipicsha.toml").unwrap();
        assert_eq!(config.timing, Timing::default());
        // Every key of the defaults stands in the example, if only in a comment.
        let shown = toml::to_string(&config.file).unwrap();
        for key in shown.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
            assert!(text.contains(key), "{key} is missing in config/ipicsha.toml");
        }
        for key in [
            "advertise",
            "stop_timeout_seconds",
            "directory",
            "unit",
            "stop =",
            "keep_journal_mode",
            "log_entries",
            "log_bytes",
            "[files]",
            "bandwidth_limit",
            "[[directory]]",
            "filter",
            "ignore_file",
            "keep_days",
            "keep_bytes",
            "deletions_max",
            "deletions_percent_max",
        ] {
            assert!(text.contains(key), "{key} is missing in config/ipicsha.toml");
        }
    }

    #[test]
    fn an_unknown_key_names_file_line_and_the_nearest_known_key() {
        let text = format!("{SMALL}[heartbeat]\nintervall_seconds = 15\n");
        let failure = Config::parse(&text, "/etc/x.toml").unwrap_err();
        assert!(failure.message.starts_with("/etc/x.toml:4:"), "{}", failure.message);
        assert_eq!(failure.next_step.as_deref(), Some("did you mean `interval_seconds`?"));
        assert_eq!(failure.kind.code(), 78);
    }

    #[test]
    fn the_size_of_a_log_is_checked_where_it_is_written() {
        let parse = |text: &str| Config::parse(&format!("{SMALL}{text}"), "x");
        let config = parse(
            "[log]\ncapacity_bytes = \"64 MiB\"\n[[database]]\npath = \"/a\"\nlog_entries = 5000\n",
        )
        .unwrap();
        assert_eq!(config.file.log.capacity_bytes, ByteSize(64 << 20));
        assert_eq!(config.file.databases[0].log_entries, Some(5000));
        for (text, word) in [
            ("[log]\ncapacity_entries = 4095\n", "log.capacity_entries: 4096 to"),
            ("[log]\ncapacity_bytes = 1048575\n", "log.capacity_bytes: 1 MiB to"),
            ("[log]\ncapacity_bytes = \"much\"\n", "no size"),
            ("[[database]]\npath = \"/a\"\nlog_bytes = \"2 TiB\"\n", "database /a: log_bytes"),
            ("[[database]]\npath = \"/a\"\nlog_entries = 7\n", "database /a: log_entries"),
        ] {
            let failure = parse(text).unwrap_err();
            assert!(failure.message.contains(word), "{}", failure.message);
            assert_eq!(failure.kind.code(), 78);
        }
    }

    #[test]
    fn what_is_open_to_the_partner_is_named_by_whole_paths() {
        let parse = |text: &str| Config::parse(&format!("{SMALL}[sync]\n{text}"), "x");
        let config = parse("allow = [\"/srv\", \"/data/in\"]\ndeletions_max = 5\n").unwrap();
        assert_eq!(config.file.sync.allow, [Path::new("/srv"), Path::new("/data/in")]);
        assert_eq!(config.file.sync.deletions_max, 5);
        assert!(Config::parse(SMALL, "x").unwrap().file.sync.allow.is_empty());
        for text in ["allow = [\"srv\"]", "allow = [\"\"]", "allow = [\"/srv/../etc\"]"] {
            let failure = parse(text).unwrap_err();
            assert!(failure.message.contains("sync.allow"), "{}", failure.message);
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (key, value) in [
            ("interval_seconds", "4"),
            ("interval_seconds", "601"),
            ("interval_seconds", "-1"),
            ("missed_count", "4"),
            ("missed_count", "31"),
        ] {
            let text = format!("{SMALL}[heartbeat]\n{key} = {value}\n");
            let failure = Config::parse(&text, "x").unwrap_err();
            assert_eq!(failure.kind.code(), 78, "{key} = {value}");
            assert!(failure.next_step.is_some());
        }
    }
}
