//! What the configuration files of a test pair say.

use std::path::Path;

use crate::net::{Network, Side};

/// Name of the database that pairs have unless a test says otherwise.
pub const BOARD: &str = "board";

/// Builder of the configuration of both servers. The start is the `fast` profile with D = 1 s.
#[derive(Clone, Debug)]
pub struct Settings {
    profile: &'static str,
    interval_seconds: f64,
    missed_count: u32,
    time_source: [&'static str; 2],
    auto_heal: bool,
    /// Blocks at the end of each file.
    services: [String; 2],
    sync: [String; 2],
    log_capacity: u64,
    /// More lines of `[pair]`.
    pair: String,
    /// Without network namespaces, also as root.
    pub(crate) over_loopback: bool,
    /// Text of the ERROR lines that the test brings about.
    pub(crate) expected_error: Option<&'static str>,
    /// Names of the protected databases.
    pub(crate) databases: Vec<String>,
    /// More arguments for `protect db`.
    pub(crate) protect_arguments: Vec<&'static str>,
}

impl Settings {
    /// 0.2 s x 5, so D is one second.
    pub fn fast() -> Self {
        Self {
            profile: "fast",
            interval_seconds: 0.2,
            missed_count: 5,
            time_source: ["assume-synced"; 2],
            auto_heal: true,
            services: [String::new(), String::new()],
            sync: [String::new(), String::new()],
            log_capacity: 1_000_000,
            pair: String::new(),
            over_loopback: false,
            expected_error: None,
            databases: vec![BOARD.into()],
            protect_arguments: vec![],
        }
    }

    /// The reference's ranges, at their smallest: 5 s x 5 (spec A8).
    pub fn slowest() -> Self {
        Self { profile: "standard", interval_seconds: 5.0, ..Self::fast() }
    }

    /// Joins the servers by the loopback interface, also as root: for figures beside what is measured
    /// there. Links cannot be cut then.
    #[must_use]
    pub fn over_loopback(mut self) -> Self {
        self.over_loopback = true;
        self
    }

    /// Another missed count.
    #[must_use]
    pub fn missed_count(mut self, count: u32) -> Self {
        self.missed_count = count;
        self
    }

    /// D.
    pub fn takeover_after_ms(&self) -> i64 {
        (self.interval_seconds * f64::from(self.missed_count) * 1000.0).round() as i64
    }

    /// One heartbeat.
    pub fn interval_ms(&self) -> i64 {
        (self.interval_seconds * 1000.0).round() as i64
    }

    /// Who vouches for the clock of one server.
    #[must_use]
    pub fn time_source(mut self, side: Side, source: &'static str) -> Self {
        self.time_source[side as usize] = source;
        self
    }

    /// The test makes a person necessary: ERROR lines with this text are expected.
    #[must_use]
    pub fn expects_error(mut self, text: &'static str) -> Self {
        self.expected_error = Some(text);
        self
    }

    /// Changes that the transaction log of each database holds.
    #[must_use]
    pub fn log_capacity(mut self, changes: u64) -> Self {
        self.log_capacity = changes;
        self
    }

    /// Whether a server that wrote nothing during a split steps back by itself.
    #[must_use]
    pub fn auto_heal(mut self, on: bool) -> Self {
        self.auto_heal = on;
        self
    }

    /// A line of `[pair]`, on both servers.
    #[must_use]
    pub fn pair(mut self, line: &str) -> Self {
        self.pair.push_str(&format!("{line}\n"));
        self
    }

    /// A `[[service]]` block of one server; `HOME` in it stands for the server's folder.
    #[must_use]
    pub fn service(mut self, side: Side, block: &str) -> Self {
        self.services[side as usize].push_str(block);
        self
    }

    /// A directory that both servers watch: `files/NAME` in the folder of each; `more` are further lines of
    /// its block.
    #[must_use]
    pub fn directory(mut self, name: &str, more: &str) -> Self {
        for side in &mut self.services {
            side.push_str(&format!(
                "[[directory]]\npath = \"HOME/files/{name}\"\nname = {name:?}\n{more}\n"
            ));
        }
        self
    }

    /// The `[sync]` block of one server; `PAIR` in it stands for the folder of both servers.
    #[must_use]
    pub fn sync(mut self, side: Side, block: &str) -> Self {
        self.sync[side as usize] = format!("[sync]\n{block}\n");
        self
    }

    /// Other databases than the board.
    #[must_use]
    pub fn databases(mut self, names: &[&str]) -> Self {
        self.databases = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// More arguments for `protect db`, on both servers.
    #[must_use]
    pub fn protect_with(mut self, arguments: &[&'static str]) -> Self {
        self.protect_arguments = arguments.to_vec();
        self
    }

    /// The configuration file of one server whose files are in `home`.
    pub(crate) fn text(&self, side: Side, home: &Path, network: &Network) -> String {
        let pair = home.parent().unwrap_or(home).display().to_string();
        let home = home.display();
        format!(
            "[server]\nname = {name:?}\nlisten = {listen:?}\nstate_directory = \"{home}/state\"\n\
             socket = \"{home}/ipicsha.sock\"\n\n[pair]\nname = \"e2e\"\nauto_heal = {auto_heal}\n\
             takeover_window_seconds = 0.0\n{pair}\n\
             [heartbeat]\nprofile = {profile:?}\ninterval_seconds = {interval:?}\nmissed_count = {count}\n\n\
             [time]\nsource = {source:?}\n\n[log]\ncapacity_entries = {capacity}\n\n{sync}\n{services}",
            name = side.name(),
            listen = network.address(side),
            auto_heal = self.auto_heal,
            pair = self.pair,
            profile = self.profile,
            interval = self.interval_seconds,
            count = self.missed_count,
            source = self.time_source[side as usize],
            capacity = self.log_capacity,
            sync = self.sync[side as usize].replace("PAIR", &pair),
            services = self.services[side as usize].replace("HOME", &home.to_string()),
        )
    }
}
