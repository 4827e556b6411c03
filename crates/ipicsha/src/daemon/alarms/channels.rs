//! The ways word of an alarm goes. Each blocks, and none longer than its limit.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lettre::{
    Message, SmtpTransport, Transport as _,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};

use super::word::Word;
use crate::config::AlarmsFile;

/// How long one attempt may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// The journal, or syslog where there is no journal.
    System {
        journal: PathBuf,
        syslog: PathBuf,
    },
    Webhook(String),
    Email(Box<Email>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Email {
    to: Vec<String>,
    from: String,
    server: String,
    password_file: Option<PathBuf>,
}

impl Channel {
    /// All that are configured.
    pub(super) fn all(file: &AlarmsFile, server: &str) -> Vec<Self> {
        let mut all = Vec::new();
        let there = |path: &Path| !path.as_os_str().is_empty() && path.exists();
        if there(&file.journal) || there(&file.syslog) {
            all.push(Self::System { journal: file.journal.clone(), syslog: file.syslog.clone() });
        }
        if !file.webhook.is_empty() {
            all.push(Self::Webhook(file.webhook.clone()));
        }
        let email = &file.email;
        if !email.to.is_empty() {
            let own = format!("ipicsha@{server}");
            all.push(Self::Email(Box::new(Email {
                to: email.to.clone(),
                from: if email.from.is_empty() { own } else { email.from.clone() },
                server: email.server.clone(),
                password_file: email.password_file.clone(),
            })));
        }
        all
    }

    /// For an administrator; without secrets an address may carry.
    pub(super) fn name(&self) -> String {
        match self {
            Self::System { .. } => "journal or syslog".into(),
            Self::Webhook(url) => {
                let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next());
                let host = host.and_then(|host| host.rsplit('@').next());
                format!("webhook at {}", host.unwrap_or_default())
            }
            Self::Email(email) => format!("e-mail to {}", email.to.join(", ")),
        }
    }

    /// One attempt.
    ///
    /// # Errors
    /// Why it did not arrive.
    pub(super) fn send(&self, word: &Word) -> Result<(), String> {
        match self {
            Self::System { journal, syslog } => system(journal, syslog, word),
            Self::Webhook(url) => post(url, word),
            Self::Email(email) => email.send(word),
        }
    }
}

fn system(journal: &Path, syslog: &Path, word: &Word) -> Result<(), String> {
    let said = match datagram(journal, &word.journal_entry()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            datagram(syslog, &word.syslog_line())
        }
        said => said,
    };
    said.map_err(|error| error.to_string())
}

fn datagram(path: &Path, text: &str) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(LIMIT))?;
    socket.send_to(text.as_bytes(), path).map(drop)
}

fn post(url: &str, word: &Word) -> Result<(), String> {
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(LIMIT))
        .tls_config(tls)
        .build()
        .new_agent();
    let json = serde_json::to_vec(word).map_err(|error| error.to_string())?;
    let request = agent.post(url).header("content-type", "application/json");
    request.send(&json[..]).map(drop).map_err(|error| error.to_string())
}

impl Email {
    fn send(&self, word: &Word) -> Result<(), String> {
        let mailbox = |address: &str| -> Result<Mailbox, String> {
            address.parse().map_err(|error| format!("{address:?}: {error}"))
        };
        let mut message = Message::builder().from(mailbox(&self.from)?).subject(word.subject());
        for address in &self.to {
            message = message.to(mailbox(address)?);
        }
        let message = message
            .header(ContentType::TEXT_PLAIN)
            .body(word.body())
            .map_err(|error| error.to_string())?;
        self.transport()?.send(&message).map(drop).map_err(|error| said(&error))
    }

    fn transport(&self) -> Result<SmtpTransport, String> {
        let mut builder = SmtpTransport::from_url(&self.server)
            .map_err(|error| format!("{}: {error}", self.server))?
            .timeout(Some(LIMIT));
        if let Some(path) = &self.password_file {
            let password = std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            let user = self.server.split("://").nth(1).and_then(|rest| rest.rsplit_once('@'));
            let user = user.map_or("", |(user, _)| user).to_owned();
            builder = builder.credentials(Credentials::new(user, password.trim_end().to_owned()));
        }
        Ok(builder.build())
    }
}

/// An error with its causes: what a mail server said is in the last of them.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::EmailFile,
        daemon::alarms::word::{Sender, What},
    };
    use ipicsha_core::{status::Alarm, time::WallTime};

    fn word() -> Word {
        Word::new(What::Raised, 1, WallTime(0), Sender::default(), &Alarm::SplitBrain)
    }

    #[test]
    fn the_journal_gets_it_and_else_syslog() {
        let folder = tempfile::tempdir().unwrap();
        let [journal, syslog] = ["journal", "log"].map(|name| folder.path().join(name));
        let at_syslog = UnixDatagram::bind(&syslog).unwrap();
        let mut file = AlarmsFile { journal: journal.clone(), syslog, ..AlarmsFile::default() };
        let channels = Channel::all(&file, "alpha");
        let mut buffer = [0; 4096];
        channels[0].send(&word()).unwrap();
        let got = at_syslog.recv(&mut buffer).unwrap();
        assert!(buffer[..got].starts_with(b"<26>ipicsha["));
        let at_journal = UnixDatagram::bind(&journal).unwrap();
        channels[0].send(&word()).unwrap();
        let got = at_journal.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
        assert!(text.contains("\nIPICSHA_ALARM_KIND=split_brain\n"), "{text}");
        (file.journal, file.syslog) = (PathBuf::new(), PathBuf::new());
        assert_eq!(Channel::all(&file, "alpha"), []);
    }

    #[test]
    fn nothing_secret_is_in_a_name_and_a_failure_says_why() {
        let hook = Channel::Webhook("http://user:secret@127.0.0.1:1/path?token=secret".into());
        assert_eq!(hook.name(), "webhook at 127.0.0.1:1");
        assert!(!hook.send(&word()).unwrap_err().contains("secret"));
        let email = EmailFile {
            to: vec!["ops@example.org".into()],
            server: "smtp://127.0.0.1:1".into(),
            ..EmailFile::default()
        };
        let file = AlarmsFile { journal: PathBuf::new(), email, ..AlarmsFile::default() };
        let channel = Channel::all(&file, "alpha").pop().unwrap();
        assert_eq!(channel.name(), "e-mail to ops@example.org");
        assert!(channel.send(&word()).unwrap_err().contains("refused"));
    }
}
