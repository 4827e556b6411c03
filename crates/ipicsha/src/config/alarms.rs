//! `[alarms]`: where word of an alarm goes beside the log of the daemon and the hooks.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::seconds;

/// Where word of an alarm goes (spec F4). An empty value: not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AlarmsFile {
    /// Socket of the journal; where there is none, `syslog` is used.
    pub(crate) journal: PathBuf,
    /// Socket of syslog.
    pub(crate) syslog: PathBuf,
    /// An address that gets a JSON object by POST.
    pub(crate) webhook: String,
    pub(crate) email: EmailFile,
    /// Minutes after which an alarm that nobody acknowledged is sent again: 0 is never.
    pub(crate) repeat_minutes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EmailFile {
    pub(crate) to: Vec<String>,
    /// `ipicsha@SERVER` when empty.
    pub(crate) from: String,
    /// `smtp://HOST:PORT`, `smtp://USER@HOST?tls=required` or `smtps://USER@HOST`.
    pub(crate) server: String,
    /// File with the password of USER.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
}

impl Default for AlarmsFile {
    fn default() -> Self {
        Self {
            journal: "/run/systemd/journal/socket".into(),
            syslog: "/dev/log".into(),
            webhook: String::new(),
            email: EmailFile::default(),
            repeat_minutes: 60,
        }
    }
}

impl Default for EmailFile {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            from: String::new(),
            server: "smtp://localhost:25".into(),
            password_file: None,
        }
    }
}

impl AlarmsFile {
    /// After how long an alarm is sent again.
    pub(crate) fn repeat(&self) -> Option<Duration> {
        let minutes = (self.repeat_minutes > 0).then_some(f64::from(self.repeat_minutes))?;
        seconds(minutes * 60.0).ok()
    }
}

/// The key that is wrong, and why.
pub(super) fn check_alarms(file: &AlarmsFile) -> Result<(), (&'static str, String)> {
    let starts = |text: &str, schemes: [&str; 2]| schemes.iter().any(|s| text.starts_with(s));
    if !file.webhook.is_empty() && !starts(&file.webhook, ["http://", "https://"]) {
        return Err(("alarms.webhook", "it begins with https:// or http://".into()));
    }
    let email = &file.email;
    if let Some(address) = email.to.iter().find(|address| !address.contains('@')) {
        return Err(("alarms.email.to", format!("{address:?} is no e-mail address")));
    }
    if !email.to.is_empty() && !starts(&email.server, ["smtp://", "smtps://"]) {
        return Err(("alarms.email.server", "it begins with smtp:// or smtps://".into()));
    }
    if file.repeat_minutes > 10_080 {
        return Err(("alarms.repeat_minutes", "0 (never) to 10080".into()));
    }
    Ok(())
}
