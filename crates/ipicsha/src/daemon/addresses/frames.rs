//! Frames that say on a network who has an address (RFC 5227, RFC 4861), and the socket they go through.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with},
};

/// Hardware address.
pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xFF; 6];
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86DD;
const REQUEST: u16 = 1;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The option of a message with the hardware address of whom it tells.
const OWN_ADDRESS: u8 = 2;
const ICMPV6: u8 = 58;
/// A message that came from another network has fewer left.
const HOPS_OF_NEIGHBOURS: u8 = 255;

/// An ARP request: with `sender` unspecified it asks whether somebody has `target`, with both the same it
/// says that we have it.
fn arp(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac);
    for word in [ARP, 1, 0x0800, 0x0604, REQUEST] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// An unsolicited neighbour advertisement that overrides what is cached.
fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([OWN_ADDRESS, 1]);
    message.extend(mac);
    icmpv6(mac, ip, all_nodes, message)
}

/// A neighbour solicitation that asks whether somebody has `target`, and claims nothing (RFC 4862).
fn solicitation(mac: Mac, target: Ipv6Addr) -> Vec<u8> {
    let [.., high, low] = target.segments();
    let asked = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00 | high & 0xFF, low);
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    icmpv6(mac, Ipv6Addr::UNSPECIFIED, asked, message)
}

/// A frame with a message to a group.
fn icmpv6(mac: Mac, from: Ipv6Addr, group: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let mut pseudo: Vec<u8> = [from.octets(), group.octets()].concat();
    pseudo.extend((message.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33];
    frame.extend(&group.octets()[12..]);
    frame.extend(mac);
    frame.extend(IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, HOPS_OF_NEIGHBOURS]);
    frame.extend(from.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// RFC 1071; the length is even.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// Who says in a frame that he has `ip`.
fn owner(frame: &[u8], ip: IpAddr) -> Option<Mac> {
    match ip {
        IpAddr::V4(ip) => {
            let is_arp =
                frame.get(12..14)? == ARP.to_be_bytes() && frame.get(28..32)? == ip.octets();
            let mac: Mac = frame.get(22..28)?.try_into().ok()?;
            is_arp.then_some(mac)
        }
        IpAddr::V6(ip) => {
            let is_told = frame.get(12..14)? == IPV6.to_be_bytes()
                && frame.get(20..22)? == [ICMPV6, HOPS_OF_NEIGHBOURS]
                && *frame.get(54)? == NEIGHBOUR_ADVERTISEMENT
                && frame.get(62..78)? == ip.octets();
            let mac: Mac = frame.get(6..12)?.try_into().ok()?;
            is_told.then_some(mac)
        }
    }
}

/// A network, as one interface of this server sees it.
pub(super) struct Network {
    socket: OwnedFd,
    mac: Mac,
}

impl Network {
    /// For what is said about addresses like `ip`. Needs `CAP_NET_RAW`.
    pub(super) fn open(interface: &str, ip: IpAddr) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
        let bytes: Option<Vec<u8>> =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let mac = bytes.and_then(|bytes| Mac::try_from(bytes).ok());
        let mac = mac.ok_or_else(|| io::Error::other(format!("{interface} is no Ethernet")))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let index = netdevice::name_to_index(&socket, interface)?;
        bind(&socket, index, if ip.is_ipv4() { ARP } else { IPV6 })?;
        Ok(Self { socket, mac })
    }

    /// Tells everybody on the network that this server has `ip` now.
    pub(super) fn announce(&self, ip: IpAddr) -> io::Result<()> {
        let frame = match ip {
            IpAddr::V4(ip) => arp(self.mac, ip, ip),
            IpAddr::V6(ip) => advertisement(self.mac, ip),
        };
        rustix::io::write(&self.socket, &frame)?;
        Ok(())
    }

    /// Whether somebody else has it: `Some` is his hardware address. Takes up to `patience`.
    pub(super) fn probe(&self, ip: IpAddr, patience: Duration) -> io::Result<Option<Mac>> {
        let question = match ip {
            IpAddr::V4(ip) => arp(self.mac, Ipv4Addr::UNSPECIFIED, ip),
            IpAddr::V6(ip) => solicitation(self.mac, ip),
        };
        rustix::io::write(&self.socket, &question)?;
        let end = Instant::now() + patience;
        let mut frame = [0; 128];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = left.try_into().ok();
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], timeout.as_ref())?;
            match rustix::io::read(&self.socket, &mut frame) {
                Ok(length) => {
                    let owner = owner(&frame[..length], ip).filter(|mac| *mac != self.mac);
                    if owner.is_some() {
                        return Ok(owner);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[allow(unsafe_code)] // neither std nor rustix knows addresses of this family
fn bind(socket: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the structure is complete, lives through the call, and its true length is given.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn frames_are_those_of_the_standards() {
        let ip = Ipv4Addr::new(192, 0, 2, 9);
        let frame = arp(MAC, ip, ip);
        assert_eq!(frame.len(), 42);
        assert_eq!(owner(&frame, ip.into()), Some(MAC));
        assert_eq!(owner(&frame, Ipv4Addr::new(192, 0, 2, 8).into()), None);
        let probe = arp(MAC, Ipv4Addr::UNSPECIFIED, ip);
        assert_eq!(owner(&probe, ip.into()), None, "a probe claims nothing");
        assert_eq!(owner(&frame[..30], ip.into()), None, "a cut frame");
    }

    #[test]
    fn frames_of_ipv6_are_those_of_the_standards() {
        let ip: Ipv6Addr = "2001:db8::a:b:9".parse().unwrap();
        let told = advertisement(MAC, ip);
        assert_eq!(told.len(), 14 + 40 + 32);
        assert_eq!(owner(&told, ip.into()), Some(MAC));
        assert_eq!(owner(&told, "2001:db8::8".parse().unwrap()), None);
        assert_eq!(owner(&told[..77], ip.into()), None, "a cut frame");
        let asked = solicitation(MAC, ip);
        assert_eq!(asked.len(), 14 + 40 + 24);
        assert_eq!(owner(&asked, ip.into()), None, "a question claims nothing");
        assert_eq!(asked[..6], [0x33, 0x33, 0xFF, 0x0B, 0, 9], "its group of the network");
        assert_eq!(asked[38..54], "ff02::1:ff0b:9".parse::<Ipv6Addr>().unwrap().octets());
        for frame in [told, asked] {
            // Over a message with its own checksum the sum is zero.
            let mut pseudo = frame[22..54].to_vec();
            pseudo.extend([0, 0, frame[18], frame[19], 0, 0, 0, ICMPV6]);
            pseudo.extend(&frame[54..]);
            assert_eq!(checksum(&pseudo), 0);
        }
    }
}
