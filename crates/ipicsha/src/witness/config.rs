//! The configuration file of a witness: which pairs it serves.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipicsha_core::config::PairName;
use ipicsha_link::Fingerprint;
use serde::Deserialize;

use crate::exit::{Failure, Kind};

/// Where a witness looks when no `--config` is given.
pub(crate) const DEFAULT_PATH: &str = "/etc/ipicsha/witness.toml";

/// Both servers of a pair, and both renew theirs.
const CERTIFICATES_MAX: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "listen")]
    listen: String,
    #[serde(default = "state_directory")]
    state_directory: PathBuf,
    #[serde(default, rename = "pair")]
    pairs: Vec<PairFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PairFile {
    name: PairName,
    certificates: Vec<String>,
}

fn listen() -> String {
    format!("0.0.0.0:{}", ipicsha_link::WITNESS_PORT_DEFAULT)
}

fn state_directory() -> PathBuf {
    "/var/lib/ipicsha-witness".into()
}

/// The same, checked.
#[derive(Clone, Debug)]
pub(super) struct WitnessConfig {
    pub(super) listen: SocketAddr,
    pub(super) state_directory: PathBuf,
    pub(super) pairs: Vec<Pair>,
}

/// A pair that is served.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) name: String,
    /// Of its two servers: more while one of them is renewed.
    pub(super) certificates: Vec<Fingerprint>,
}

impl WitnessConfig {
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Kind::Config, format!("cannot read {}: {error}", path.display())).hinted(
                "give the file with `ipicsha --config FILE witness`, or start from config/witness.toml",
            )
        })?;
        Self::parse(&text).map_err(|why| {
            Failure::new(Kind::Config, format!("{}: {why}", path.display()))
                .hinted("compare with config/witness.toml")
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let listen = file.listen.parse().map_err(|_| {
            format!("listen: {:?} is no address: write it as 192.0.2.30:3445", file.listen)
        })?;
        let (mut names, mut seen, mut pairs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for pair in file.pairs {
            let name = pair.name.to_string();
            if !names.insert(name.clone()) {
                return Err(format!("pair {name}: there are two of this name"));
            }
            let parsed = pair.certificates.iter().map(|text| text.parse::<Fingerprint>());
            let certificates: Result<Vec<_>, _> = parsed.collect();
            let certificates = certificates.map_err(|error| format!("pair {name}: {error}"))?;
            if !(1..=CERTIFICATES_MAX).contains(&certificates.len()) {
                return Err(format!(
                    "pair {name}: one certificate of each server, and one more while it is renewed"
                ));
            }
            if !certificates.iter().all(|certificate| seen.insert(*certificate)) {
                return Err(format!("pair {name}: a certificate is there twice"));
            }
            pairs.push(Pair { name, certificates });
        }
        Ok(Self { listen, state_directory: file.state_directory, pairs })
    }

    /// Where the last grant of a pair is kept. A name of a pair is a name of a file.
    pub(super) fn lease_path(&self, pair: &str) -> PathBuf {
        self.state_directory.join("grants").join(format!("{pair}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn pair(name: &str, a: char, b: char) -> String {
        let (a, b) = (fingerprint(a), fingerprint(b));
        format!("[[pair]]\nname = \"{name}\"\ncertificates = [\"{a}\", \"{b}\"]\n")
    }

    #[test]
    fn pairs_are_read_and_what_cannot_be_is_named() {
        let config = WitnessConfig::parse(&(pair("a", '1', '2') + &pair("b", '3', '4'))).unwrap();
        assert_eq!(config.listen.port(), 3445);
        assert_eq!(config.pairs.len(), 2);
        for (text, word) in [
            (pair("a", '1', '2') + &pair("a", '3', '4'), "two of this name"),
            (pair("a", '1', '2') + &pair("b", '2', '4'), "twice"),
            (pair("a", '1', '1'), "twice"),
            (pair("a", 'x', '1'), "no fingerprint"),
            ("[[pair]]\nname = \"a\"\ncertificates = []".to_owned(), "of each"),
            (pair("../a", '1', '2'), "letters"),
            ("listen = \"nowhere\"".into(), "no address"),
            ("lisen = 1".into(), "lisen"),
        ] {
            let why = WitnessConfig::parse(&text).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
