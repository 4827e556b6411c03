//! Whom this server trusts: exactly one partner, by the bytes of its certificate (spec A1, A2).

use serde::{Deserialize, Serialize};

use crate::id::ServerId;

/// The partner as pinned by the trust exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    /// Its identity for life.
    pub server: ServerId,
    /// Its name, as its administrator calls it.
    pub name: String,
    /// `IP:port` where it listens for this server.
    pub address: String,
    /// Its certificate (DER); nothing else is accepted, but for the next.
    pub certificate: Vec<u8>,
    /// The one it is about to use, while it renews its certificate.
    #[serde(default)]
    pub next_certificate: Option<Vec<u8>>,
}
