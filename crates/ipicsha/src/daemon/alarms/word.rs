//! What is said of an alarm, in the words of each way it goes.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use ipicsha_core::{status::Alarm, time::WallTime};
use serde::Serialize;

/// Who says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sender {
    pub(crate) server: String,
    pub(crate) partner: String,
    pub(crate) pair: String,
    pub(crate) role: String,
}

/// Why it is said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Raised,
    /// It is still there, and nobody has acknowledged it.
    Reminder,
    Cleared,
    /// An administrator tries whether it arrives.
    Test,
}

impl What {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Reminder => "reminder",
            Self::Cleared => "cleared",
            Self::Test => "test",
        }
    }
}

/// One message about one alarm; as JSON it is what a webhook gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Word {
    /// `ipicsha.alarm/1`.
    pub(crate) schema: &'static str,
    pub(crate) what: What,
    /// Number of the alarm on this server.
    pub(crate) id: u64,
    /// RFC 3339, UTC.
    pub(crate) at: String,
    #[serde(flatten)]
    pub(crate) sender: Sender,
    pub(crate) kind: String,
    pub(crate) critical: bool,
    pub(crate) text: String,
    pub(crate) next_step: Option<String>,
}

impl Word {
    pub(crate) fn new(what: What, id: u64, at: WallTime, sender: Sender, alarm: &Alarm) -> Self {
        let next_step = alarm.action().map(|action| action.replace("PARTNER", &sender.partner));
        Self {
            schema: "ipicsha.alarm/1",
            what,
            id,
            at: rfc3339(at),
            kind: kind(alarm),
            critical: alarm.is_critical(),
            text: alarm.text(),
            next_step: next_step.filter(|_| what != What::Cleared),
            sender,
        }
    }

    /// Of no alarm.
    pub(crate) fn test(at: WallTime, sender: Sender) -> Self {
        Self {
            schema: "ipicsha.alarm/1",
            what: What::Test,
            id: 0,
            at: rfc3339(at),
            kind: "test".into(),
            critical: false,
            text: "this is a test: alarms of this server arrive here".into(),
            next_step: None,
            sender,
        }
    }

    /// One line, without what would break one.
    pub(crate) fn line(&self) -> String {
        let next =
            self.next_step.as_ref().map_or_else(String::new, |step| format!(" (next: {step})"));
        let line =
            format!("{}: alarm {}: {}{next}", self.sender.server, self.what.text(), self.text);
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// Of an e-mail.
    pub(crate) fn subject(&self) -> String {
        let how = match (self.what, self.critical) {
            (What::Raised | What::Reminder, true) => "CRITICAL",
            (What::Raised | What::Reminder, false) => "ALARM",
            (What::Cleared, _) => "cleared",
            (What::Test, _) => "test",
        };
        let text: String = self.text.chars().filter(|c| !c.is_control()).take(120).collect();
        format!("[{}] {how} {}: {text}", self.sender.pair, self.sender.server)
    }

    /// Of an e-mail.
    pub(crate) fn body(&self) -> String {
        let mut body = format!("{}\n\n", self.text);
        if let Some(step) = &self.next_step {
            let _ = writeln!(body, "What to do: {step}\n");
        }
        let Sender { server, partner, pair, role } = &self.sender;
        let _ = writeln!(
            body,
            "Server {server} ({role}) of pair {pair}, partner {partner}\nAlarm {} {} at {}",
            self.id,
            self.what.text(),
            self.at
        );
        if matches!(self.what, What::Raised | What::Reminder) {
            let _ = writeln!(
                body,
                "\nSee `ipicsha ha-status`; `ipicsha alarms ack {}` on {server} ends the reminders.",
                self.id
            );
        }
        body
    }

    /// Priority of syslog: 2 critical, 4 warning, 6 informational.
    pub(crate) fn priority(&self) -> u8 {
        match (self.what, self.critical) {
            (What::Raised | What::Reminder, true) => 2,
            (What::Raised | What::Reminder, false) => 4,
            (What::Cleared | What::Test, _) => 6,
        }
    }

    /// A datagram of the journal's native protocol.
    pub(crate) fn journal_entry(&self) -> String {
        let one_line = |text: &str| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        let fields = [
            ("MESSAGE", self.line()),
            ("PRIORITY", self.priority().to_string()),
            ("SYSLOG_IDENTIFIER", "ipicsha".into()),
            ("IPICSHA_ALARM", self.what.text().into()),
            ("IPICSHA_ALARM_ID", self.id.to_string()),
            ("IPICSHA_ALARM_KIND", self.kind.clone()),
            ("IPICSHA_ALARM_TEXT", one_line(&self.text)),
            ("IPICSHA_NEXT_STEP", one_line(self.next_step.as_deref().unwrap_or_default())),
            ("IPICSHA_SERVER", self.sender.server.clone()),
            ("IPICSHA_PARTNER", self.sender.partner.clone()),
            ("IPICSHA_PAIR", self.sender.pair.clone()),
            ("IPICSHA_ROLE", self.sender.role.clone()),
        ];
        fields.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// A datagram of syslog (RFC 3164, facility daemon).
    pub(crate) fn syslog_line(&self) -> String {
        const DAEMON: u8 = 3 << 3;
        format!("<{}>ipicsha[{}]: {}", DAEMON | self.priority(), std::process::id(), self.line())
    }
}

/// The word programs know an alarm by.
pub(crate) fn kind(alarm: &Alarm) -> String {
    let value = serde_json::to_value(alarm).unwrap_or_default();
    value["kind"].as_str().unwrap_or_default().to_owned()
}

fn rfc3339(at: WallTime) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(at.0).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(what: What, alarm: &Alarm) -> Word {
        let sender = Sender {
            server: "alpha".into(),
            partner: "bravo".into(),
            pair: "dispatch".into(),
            role: "active".into(),
        };
        Word::new(what, 7, WallTime(1_764_000_000_000), sender, alarm)
    }

    #[test]
    fn every_way_says_what_happened_and_what_to_do() {
        let cause = "out of memory\nPRIORITY=0".to_owned();
        let alarm = Alarm::CriticalServiceDown { service: "gitea".into(), cause };
        let raised = word(What::Raised, &alarm);
        assert!(raised.subject().starts_with("[dispatch] CRITICAL alpha: the critical service"));
        assert!(raised.body().contains("`ipicsha alarms ack 7` on alpha"));
        assert_eq!(raised.line().lines().count(), 1);
        let fields: Vec<_> = raised
            .journal_entry()
            .lines()
            .map(|line| line.split_once('=').unwrap().0.to_owned())
            .collect();
        assert_eq!(fields.len(), 12, "a cause cannot add a field: {fields:?}");
        assert!(raised.syslog_line().starts_with("<26>ipicsha["), "{}", raised.syslog_line());
        let full = word(What::Raised, &Alarm::VersionDiffers);
        assert!(full.line().ends_with("(next: install the same version on both servers)"));
        let cleared = word(What::Cleared, &Alarm::VersionDiffers);
        assert_eq!((cleared.next_step.as_ref(), cleared.priority()), (None, 6));
        let json = serde_json::to_value(&full).unwrap();
        assert_eq!(json["kind"], "version_differs");
        assert_eq!(json["at"], "2025-11-24T16:00:00Z");
        assert_eq!(json["server"], "alpha");
    }
}
