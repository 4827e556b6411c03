//! `[witness]`: the third machine that decides who may be active when the servers do not hear each other.

use std::net::SocketAddr;

use ipicsha_link::Fingerprint;
use serde::{Deserialize, Serialize};

/// Where the witness is, and by what it is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WitnessFile {
    /// IP:PORT.
    pub(crate) address: String,
    /// Fingerprint of its certificate.
    pub(crate) certificate: String,
}

/// The same, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WitnessAt {
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: Fingerprint,
}

impl WitnessFile {
    /// What is meant; or the key that is wrong, and why.
    pub(super) fn checked(&self) -> Result<WitnessAt, (String, String)> {
        let address = self.address.parse().map_err(|_| {
            let why = format!("{:?} is no address: write it as 192.0.2.30:3445", self.address);
            ("witness.address".to_owned(), why)
        })?;
        let fingerprint = self.certificate.parse::<Fingerprint>();
        let fingerprint =
            fingerprint.map_err(|error| ("witness.certificate".to_owned(), error.to_string()))?;
        Ok(WitnessAt { address, fingerprint })
    }
}
