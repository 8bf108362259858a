//! Who announces a virtual address on a network already: VRRP's advertisements, versions 2 and 3 (RFC 3768, 5798).

use serde::{Deserialize, Serialize};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::{
    io::{self, Read as _},
    net::Ipv4Addr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

const PROTOCOL: i32 = 112;
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// An advertisement: somebody holds addresses under this virtual router id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    pub from: Ipv4Addr,
    pub router_id: u8,
    pub addresses: Vec<Ipv4Addr>,
}

/// What is announced on an interface within `listen`, by multicast or to this host alone. Once for each sender
/// and id.
pub(crate) fn hear(interface: &str, listen: Duration) -> io::Result<Vec<Advert>> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(PROTOCOL)))?;
    socket.bind_device_by_index_v4(NonZeroU32::new(index))?;
    socket.join_multicast_v4_n(&EVERYBODY, &InterfaceIndexOrAddress::Index(index))?;
    let mut heard: Vec<Advert> = Vec::new();
    let deadline = Instant::now() + listen;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 1500];
        let length = match (&socket).read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let advert = buffer.get(..length).and_then(advert);
        heard.extend(advert.filter(|advert| {
            !heard.iter().any(|known| (known.from, known.router_id) == (advert.from, advert.router_id))
        }));
    }
    Ok(heard)
}

/// Reads an IPv4 packet, with its header.
fn advert(packet: &[u8]) -> Option<Advert> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let body = packet.get(header..)?;
    // Version 2 or 3, type 1.
    let &[0x21 | 0x31, router_id, _priority, count, ..] = body else { return None };
    let addresses = body.get(8..)?.chunks_exact(4).take(usize::from(count));
    let addresses = addresses.filter_map(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(Ipv4Addr::from);
    Some(Advert { from: from.into(), router_id, addresses: addresses.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An advertisement for 10.0.0.5 under id 51 from 10.0.0.9, in version 2 with a password.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0x46, 0, 0, 44, 0, 1, 0, 0, 255, 112, 0, 0, 10, 0, 0, 9, 224, 0, 0, 18];
        packet.extend([0x94, 4, 0, 0]);
        packet.extend([0x21, 51, 100, 1, 1, 1, 0, 0, 10, 0, 0, 5, b's', b'e', b'c', b'r', b'e', b't', 0, 0]);
        packet
    }

    #[test]
    fn an_advertisement_is_read_past_options_and_up_to_the_password() {
        let packet = packet();
        let expected = Advert {
            from: Ipv4Addr::new(10, 0, 0, 9),
            router_id: 51,
            addresses: vec![Ipv4Addr::new(10, 0, 0, 5)],
        };
        assert_eq!(advert(&packet), Some(expected));
        let mut other = packet.clone();
        other[24] = 0x22;
        assert_eq!(advert(&other), None, "another type");
        assert_eq!(advert(&packet[..26]), None, "cut off");
        assert_eq!(advert(&[]), None);
    }

    #[test]
    fn advertisements_are_heard_on_an_interface() {
        let sender = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(PROTOCOL)));
        let sender = sender.expect("a raw socket takes the rights of root");
        let hearing = std::thread::spawn(|| hear("lo", Duration::from_secs(1)));
        let to = std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into();
        // Until somebody listens nobody hears.
        while !hearing.is_finished() {
            sender.send_to(&packet()[24..], &to).expect("sent");
            std::thread::sleep(Duration::from_millis(50));
        }
        let heard = hearing.join().expect("a thread").expect("a socket");
        let heard: Vec<_> = heard.iter().map(|advert| (advert.from, advert.router_id)).collect();
        assert_eq!(heard, [(Ipv4Addr::LOCALHOST, 51)]);
    }
}
