//! `[[address]]` blocks: addresses that the active server has and the standby has not.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An address that moves with the role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddressFile {
    /// With the length of its network.
    pub(crate) address: Prefix,
    pub(crate) interface: String,
}

/// An address and the length of its network: `192.0.2.9/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Prefix {
    pub(crate) ip: IpAddr,
    pub(crate) length: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address with its network: write it as 192.0.2.9/24");
        let (ip, length) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let usable = !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast();
        (usable && (1..=longest).contains(&length)).then_some(Self { ip, length }).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

/// The key that is wrong, and why.
pub(super) fn check_addresses(files: &[AddressFile]) -> Result<(), (String, String)> {
    for (index, file) in files.iter().enumerate() {
        let key = format!("address {}: interface", file.address);
        let good = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        let name = &file.interface;
        if name.is_empty() || name.len() > 15 || name.starts_with('-') || !name.chars().all(good) {
            return Err((key, format!("{name:?} is no name of an interface")));
        }
        if files[..index].iter().any(|other| other.address.ip == file.address.ip) {
            return Err((format!("address {}", file.address), "it is there twice".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_network_and_can_be_given_to_an_interface() {
        for good in ["192.0.2.9/24", "10.0.0.1/32", "2001:db8::9/64"] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
        for bad in
            ["192.0.2.9", "192.0.2.9/33", "192.0.2.9/0", "127.0.0.1/8", "::/64", "host/24", "/24"]
        {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        let file = |address: &str, interface: &str| AddressFile {
            address: address.parse().unwrap(),
            interface: interface.into(),
        };
        assert!(
            check_addresses(&[file("192.0.2.9/24", "eth0"), file("192.0.2.8/24", "eth0")]).is_ok()
        );
        for bad in ["", "-eth0", "eth 0", "interface-name-too-long", "a/b"] {
            assert!(check_addresses(&[file("192.0.2.9/24", bad)]).is_err(), "{bad}");
        }
        let twice = [file("192.0.2.9/24", "eth0"), file("192.0.2.9/25", "eth1")];
        assert!(check_addresses(&twice).is_err());
    }
}
