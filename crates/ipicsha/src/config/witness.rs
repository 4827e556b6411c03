//! `[witness]`: what decides who may be active when the servers do not hear each other: a third machine, or
//! an etcd cluster.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use ipicsha_link::Fingerprint;
use serde::{Deserialize, Serialize};

/// Where the witness is, and by what it is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WitnessFile {
    /// IP:PORT of a machine that runs `ipicsha witness`.
    pub(crate) address: Option<String>,
    /// Fingerprint of its certificate.
    pub(crate) certificate: Option<String>,
    /// An etcd cluster instead.
    pub(crate) etcd: Option<EtcdFile>,
}

/// An etcd cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EtcdFile {
    /// URLs of its members.
    pub(crate) endpoints: Vec<String>,
    /// Certificate (PEM) of who signs theirs; those of the system without it.
    pub(crate) ca: Option<PathBuf>,
    /// Certificate (PEM) that is shown to them.
    pub(crate) certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub(crate) key: Option<PathBuf>,
    /// A user of etcd, where it knows users.
    pub(crate) user: Option<String>,
    /// File with his password.
    pub(crate) password_file: Option<PathBuf>,
    /// What the keys begin with.
    #[serde(default = "default_prefix")]
    pub(crate) prefix: String,
}

fn default_prefix() -> String {
    "ipicsha".into()
}

/// The same, checked.
#[derive(Clone, Debug)]
pub(crate) enum WitnessAt {
    /// A machine that runs `ipicsha witness`.
    Server { address: SocketAddr, fingerprint: Fingerprint },
    /// An etcd cluster.
    Etcd(Arc<EtcdAt>),
}

/// An etcd cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EtcdAt {
    /// Without a slash at the end; at least one.
    pub(crate) endpoints: Vec<String>,
    pub(crate) ca: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// User, and the file with his password.
    pub(crate) user: Option<(String, PathBuf)>,
    pub(crate) prefix: String,
}

/// The key that is wrong, and why.
type Wrong = (String, String);

fn wrong<T>(key: &str, why: impl Into<String>) -> Result<T, Wrong> {
    Err((key.to_owned(), why.into()))
}

impl WitnessFile {
    /// What is meant; or the key that is wrong, and why.
    pub(super) fn checked(&self) -> Result<WitnessAt, Wrong> {
        match (&self.address, &self.certificate, &self.etcd) {
            (None, None, Some(etcd)) => Ok(WitnessAt::Etcd(Arc::new(etcd.checked()?))),
            (Some(address), Some(certificate), None) => {
                let Ok(address) = address.parse() else {
                    let why = format!("{address:?} is no address: write it as 192.0.2.30:3445");
                    return wrong("witness.address", why);
                };
                match certificate.parse::<Fingerprint>() {
                    Ok(fingerprint) => Ok(WitnessAt::Server { address, fingerprint }),
                    Err(error) => wrong("witness.certificate", error.to_string()),
                }
            }
            (_, _, Some(_)) => {
                wrong("witness.etcd", "give either this or `address` and `certificate`")
            }
            (Some(_), None, None) => wrong("witness.certificate", "it is missing"),
            (None, _, None) => wrong("witness.address", "it is missing"),
        }
    }
}

impl EtcdFile {
    fn checked(&self) -> Result<EtcdAt, Wrong> {
        let endpoints: Vec<String> =
            self.endpoints.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        let is_url = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
        if endpoints.is_empty() || !endpoints.iter().all(|url| is_url(&url)) {
            let why = "give the URLs of its members: [\"https://192.0.2.31:2379\"]";
            return wrong("witness.etcd.endpoints", why);
        }
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return wrong("witness.etcd.key", "the certificate needs its key"),
            (None, Some(_)) => return wrong("witness.etcd.certificate", "the key needs it"),
        };
        let user = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => Some((user.clone(), file.clone())),
            (None, None) => None,
            (Some(_), None) => {
                return wrong("witness.etcd.password_file", "the user needs his password");
            }
            (None, Some(_)) => {
                return wrong("witness.etcd.user", "it is not said whose password this is");
            }
        };
        if user.is_some() && endpoints.iter().any(|url| url.starts_with("http://")) {
            let why = "a password goes through https:// only: anybody on the way could read it";
            return wrong("witness.etcd.endpoints", why);
        }
        if self.prefix.is_empty() {
            return wrong("witness.etcd.prefix", "the keys have to begin with something");
        }
        let (ca, prefix) = (self.ca.clone(), self.prefix.clone());
        Ok(EtcdAt { endpoints, ca, identity, user, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<WitnessAt, Wrong> {
        toml::from_str::<WitnessFile>(text).expect("it is a block").checked()
    }

    #[test]
    fn a_witness_is_a_machine_or_an_etcd_cluster() {
        let fingerprint = "1".repeat(64);
        let machine = format!("address = \"192.0.2.30:3445\"\ncertificate = \"{fingerprint}\"\n");
        assert!(matches!(checked(&machine), Ok(WitnessAt::Server { .. })));
        let etcd = "etcd.endpoints = [\"http://a:2379/\", \"https://b:2379\"]\n";
        let Ok(WitnessAt::Etcd(at)) = checked(etcd) else { panic!("it is one") };
        assert_eq!(at.endpoints, ["http://a:2379", "https://b:2379"]);
        assert_eq!((at.prefix.as_str(), &at.identity), ("ipicsha", &None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fingerprint = "1".repeat(64);
        let cases = [
            ("", "witness.address"),
            ("address = \"192.0.2.30:3445\"", "witness.certificate"),
            ("address = \"here\"\ncertificate = \"11\"", "witness.address"),
            ("address = \"192.0.2.30:1\"\ncertificate = \"11\"", "witness.certificate"),
            ("etcd.endpoints = []", "witness.etcd.endpoints"),
            ("etcd.endpoints = [\"192.0.2.31:2379\"]", "witness.etcd.endpoints"),
            ("etcd.endpoints = [\"http://a\"]\netcd.key = \"k\"", "witness.etcd.certificate"),
            ("etcd.endpoints = [\"http://a\"]\netcd.certificate = \"c\"", "witness.etcd.key"),
            ("etcd.endpoints = [\"http://a\"]\netcd.prefix = \"\"", "witness.etcd.prefix"),
            ("etcd.endpoints = [\"https://a\"]\netcd.user = \"u\"", "witness.etcd.password_file"),
            ("etcd.endpoints = [\"https://a\"]\netcd.password_file = \"p\"", "witness.etcd.user"),
            (
                "etcd.endpoints = [\"https://a\", \"http://b\"]\netcd.user = \"u\"\netcd.password_file = \"p\"",
                "witness.etcd.endpoints",
            ),
            (
                &format!("certificate = \"{fingerprint}\"\netcd.endpoints = [\"http://a\"]"),
                "witness.etcd",
            ),
        ];
        for (text, key) in cases {
            assert_eq!(checked(text).expect_err(text).0, key, "{text}");
        }
    }
}
