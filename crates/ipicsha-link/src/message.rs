//! The few messages the link itself speaks, before the servers exchange anything else.
//!
//! Decides their bytes (postcard, pinned by a test) and makes text of the other end fit to be shown.
//! Fields are only ever appended, together with a raised [`PROTOCOL`].

use std::net::{IpAddr, SocketAddr};

use ipicsha_core::id::ServerId;
use serde::{Deserialize, Serialize};

/// Version of everything said on the link.
pub const PROTOCOL: u16 = 3;

/// The heartbeat port (spec A8).
pub const PORT_DEFAULT: u16 = 3444;

/// Longest text of the other end that is kept, in characters.
const TEXT_CHARACTERS_MAX: usize = 500;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Channel {
    /// Heartbeats and everything small and urgent.
    Control,
    /// Records.
    Data,
    /// Watched directories, behind records.
    Files,
    /// One transfer of `ipicsha sync`: both ends send, and several may be open.
    Sync,
    /// A measurement of the link: both ends send.
    Probe,
}

impl Channel {
    /// Both ends send.
    pub(crate) fn is_duplex(self) -> bool {
        matches!(self, Self::Sync | Self::Probe)
    }
}

/// First message on every connection between partners, from the one who dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u16,
    /// Software version of the sender.
    pub version: String,
    /// Who the sender is.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// What this connection is for.
    pub channel: Channel,
}

/// The only answer on such a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloAnswer {
    /// Messages may follow.
    Accepted,
    /// The connection closes; why, for people.
    Refused(String),
}

/// What an administrator wants from the trust exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrustAction {
    /// Both servers trust each other from now on (spec A1).
    Set,
    /// Both servers forget each other's certificate (spec A2).
    Delete,
}

/// What each server tells of itself in the trust exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u16,
    /// Software version of the sender.
    pub version: String,
    /// Who the sender is.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// `IP:port` where it listens; `None` when it cannot say.
    pub listen_address: Option<String>,
    /// What is asked for; the responder repeats it.
    pub action: TrustAction,
}

/// First message of the trust exchange, from the initiator.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TrustRequest {
    pub(crate) protocol: u16,
    /// OPAQUE credential request.
    pub(crate) request: Vec<u8>,
}

/// Answer of the responder to the first message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum TrustReply {
    /// OPAQUE credential response.
    Challenge(Vec<u8>),
    /// No exchange; why, for people.
    Refused(String),
}

/// Last message of the initiator: the proof of the password, and who it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TrustProof {
    /// OPAQUE credential finalization.
    pub(crate) proof: Vec<u8>,
    pub(crate) introduction: Introduction,
}

/// Last message of the responder: who it is, or why its shell refused.
pub(crate) type TrustAnswer = Result<Introduction, String>;

impl Hello {
    /// The same hello with texts that can be logged and shown.
    pub(crate) fn shown(self) -> Self {
        Self { version: printable(&self.version), name: printable(&self.name), ..self }
    }
}

impl Introduction {
    /// The same introduction with texts that can be logged and shown.
    pub(crate) fn shown(self) -> Self {
        Self {
            version: printable(&self.version),
            name: printable(&self.name),
            listen_address: self.listen_address.as_deref().map(printable),
            ..self
        }
    }

    /// Where the sender can be reached: what it says, as far as it says something usable, completed
    /// by where the connection showed it.
    pub(crate) fn address(&self, observed: SocketAddr) -> SocketAddr {
        // A listener on [::] sees IPv4 servers as ::ffff:a.b.c.d; nobody types that.
        let ip = observed.ip().to_canonical();
        let said: Option<SocketAddr> =
            self.listen_address.as_deref().and_then(|text| text.parse().ok());
        match said {
            Some(said) if said.port() == 0 => SocketAddr::new(ip, observed.port()),
            Some(said) if said.ip().is_unspecified() => SocketAddr::new(ip, said.port()),
            Some(said) => said,
            None => SocketAddr::new(ip, observed.port()),
        }
    }
}

/// Text of the other end without control characters and of bearable length: it ends up in logs and
/// terminals.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(TEXT_CHARACTERS_MAX)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

/// An address whose port is the default one, for a server that did not say where it listens.
pub(crate) fn default_address(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, PORT_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(listen_address: Option<&str>) -> Introduction {
        Introduction {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            server: ServerId(0x0102_0304_0506_0708),
            name: "alpha".into(),
            listen_address: listen_address.map(Into::into),
            action: TrustAction::Set,
        }
    }

    fn hex(value: &impl Serialize) -> String {
        let bytes = postcard::to_stdvec(value).unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn wire_bytes_do_not_change_unnoticed() {
        let hello = |channel| Hello {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            server: ServerId(0x0102_0304_0506_0708),
            name: "alpha".into(),
            channel,
        };
        let id = "888e98a8c0e0808101";
        assert_eq!(hex(&hello(Channel::Control)), format!("0305302e312e30{id}05616c70686100"));
        assert_eq!(hex(&hello(Channel::Data)), format!("0305302e312e30{id}05616c70686101"));
        assert_eq!(hex(&hello(Channel::Files)), format!("0305302e312e30{id}05616c70686102"));
        assert_eq!(hex(&hello(Channel::Probe)), format!("0305302e312e30{id}05616c70686104"));
        assert_eq!(hex(&hello(Channel::Sync)), format!("0305302e312e30{id}05616c70686103"));
        assert_eq!(hex(&HelloAnswer::Accepted), "00");
        assert_eq!(hex(&HelloAnswer::Refused("no".into())), "01026e6f");
        assert_eq!(hex(&introduction(None)), format!("0305302e312e30{id}05616c7068610000"));
        assert_eq!(
            hex(&introduction(Some("[::]:1"))),
            format!("0305302e312e30{id}05616c70686101065b3a3a5d3a3100")
        );
        let delete = Introduction { action: TrustAction::Delete, ..introduction(None) };
        assert_eq!(hex(&delete), format!("0305302e312e30{id}05616c7068610001"));
    }

    #[test]
    fn wire_bytes_of_the_trust_exchange_do_not_change_unnoticed() {
        assert_eq!(hex(&TrustRequest { protocol: PROTOCOL, request: vec![7, 8] }), "03020708");
        assert_eq!(hex(&TrustReply::Challenge(vec![9])), "000109");
        assert_eq!(hex(&TrustReply::Refused("no".into())), "01026e6f");
        let proof = TrustProof { proof: vec![5], introduction: introduction(None) };
        assert!(hex(&proof).starts_with("01050305302e312e30"));
        assert_eq!(hex(&TrustAnswer::Err("no".into())), "01026e6f");
    }

    #[test]
    fn address_is_what_was_said_completed_by_what_was_seen() {
        let seen = default_address("10.0.0.7".parse().unwrap());
        let address = |said| introduction(said).address(seen).to_string();
        assert_eq!(address(Some("192.0.2.1:5000")), "192.0.2.1:5000");
        assert_eq!(address(Some("0.0.0.0:5000")), "10.0.0.7:5000");
        assert_eq!(address(Some("[::]:3444")), "10.0.0.7:3444");
        assert_eq!(address(Some("not an address")), "10.0.0.7:3444");
        assert_eq!(address(Some("192.0.2.1:0")), "10.0.0.7:3444");
        assert_eq!(address(None), "10.0.0.7:3444");
        let mapped = default_address("::ffff:10.0.0.7".parse().unwrap());
        assert_eq!(introduction(None).address(mapped).to_string(), "10.0.0.7:3444");
    }

    #[test]
    fn text_of_the_other_end_is_tamed() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a [31m b");
        assert_eq!(printable(&"x".repeat(10_000)).len(), TEXT_CHARACTERS_MAX);
    }
}
