//! Who answers for an IPv4 address on the local network: an ARP probe (RFC 5227), which claims nothing and
//! updates nobody's tables.

use nix::ifaddrs::getifaddrs;
use serde::{Deserialize, Serialize};
use socket2::Socket;
use std::{
    io::{self, Read},
    mem::{size_of, zeroed},
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd},
    time::{Duration, Instant},
};

/// Who holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// An interface of this host has it.
    pub held_here: bool,
    /// The hardware addresses of other hosts that answered for it.
    pub others: Vec<String>,
}

type Mac = [u8; 6];
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];
const ETHERTYPE_ARP: u16 = 0x0806;

/// Asks on `interface`, or on the one whose network has the address, and listens for `listen`.
pub(crate) fn probe(address: Ipv4Addr, interface: Option<&str>, listen: Duration) -> Result<Answers, String> {
    let name = interface.map_or_else(|| interface_of(address), |name| Ok(name.to_owned()))?;
    let mut answers = Answers::default();
    let mut macs = Vec::new();
    for entry in getifaddrs().map_err(|error| error.to_string())? {
        let ip = entry.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(|ip| ip.ip());
        answers.held_here |= ip == Some(address);
        if let Some(mac) =
            entry.address.as_ref().and_then(|link| link.as_link_addr()).and_then(|link| link.addr())
        {
            macs.push((entry.interface_name, mac));
        }
    }
    let own = macs.iter().find(|(interface, _)| *interface == name).map(|(_, mac)| *mac);
    let own = own.ok_or_else(|| format!("there is no interface {name}"))?;
    let others = ask(&name, own, address, listen).map_err(|error| format!("{name}: {error}"))?;
    answers.others = others.iter().map(readable).collect();
    Ok(answers)
}

/// The interface whose network has the address.
pub(crate) fn interface_of(address: Ipv4Addr) -> Result<String, String> {
    let mut entries = getifaddrs().map_err(|error| error.to_string())?;
    let found = entries.find(|entry| {
        let ip = entry.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(|ip| ip.ip());
        let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in()).map(|mask| mask.ip());
        ip.zip(mask).map(|(ip, mask)| (u32::from(ip), u32::from(mask))).is_some_and(|(ip, mask)| {
            // The address alone, as the virtual one itself may be there, is no network.
            mask != u32::MAX && ip & mask == u32::from(address) & mask
        })
    });
    found
        .map(|entry| entry.interface_name)
        .ok_or_else(|| format!("no interface has {address} in its network"))
}

fn readable(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn ask(interface: &str, own: Mac, address: Ipv4Addr, listen: Duration) -> io::Result<Vec<Mac>> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let socket = open(index)?;
    let packet = request(own, address);
    let mut found: Vec<Mac> = Vec::new();
    // A probe may be lost; asking twice is what the RFC does too.
    for _ in 0..2 {
        send(&socket, index, &packet)?;
        let deadline = Instant::now() + listen / 2;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut buffer = [0; 128];
            let length = match (&socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(mac) = answer(&buffer[..length], address)
                && mac != own
                && !found.contains(&mac)
            {
                found.push(mac);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// An ARP request from no address at all for `address`.
fn request(own: Mac, address: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[..8].copy_from_slice(&REQUEST);
    packet[8..14].copy_from_slice(&own);
    packet[24..].copy_from_slice(&address.octets());
    packet
}

/// Whose answer for `address` a packet is.
fn answer(packet: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let is_answer = packet.get(..8)? == REPLY && packet.get(14..18)? == address.octets();
    is_answer.then(|| packet[8..14].try_into().ok()).flatten()
}

fn open(index: u32) -> io::Result<Socket> {
    let protocol = libc::c_int::from(ETHERTYPE_ARP.to_be());
    // SAFETY: the call takes no pointer; a descriptor that it returns is ours alone.
    let socket = unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        Socket::from_raw_fd(raw)
    };
    let address = link_address(index);
    // SAFETY: the address lives until the call returns, and its length is its own.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn send(socket: &Socket, index: u32, packet: &[u8]) -> io::Result<()> {
    let address = link_address(index);
    // SAFETY: packet and address live until the call returns, each with its own length.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// ARP to everybody on an interface.
fn link_address(index: u32) -> libc::sockaddr_ll {
    // SAFETY: the structure is plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ETHERTYPE_ARP.to_be();
    address.sll_ifindex = index as libc::c_int;
    address.sll_halen = 6;
    address.sll_addr[..6].fill(0xff);
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_other_packets() {
        let address = Ipv4Addr::new(10, 0, 0, 5);
        let mac = [2, 0, 0, 0, 0, 7];
        let mut packet = request(mac, address).to_vec();
        assert_eq!(answer(&packet, address), None, "a request is no answer");
        packet[..8].copy_from_slice(&REPLY);
        packet[14..18].copy_from_slice(&address.octets());
        assert_eq!(answer(&packet, address), Some(mac));
        assert_eq!(answer(&packet, Ipv4Addr::new(10, 0, 0, 6)), None);
        assert_eq!(answer(&packet[..10], address), None);
    }
}
