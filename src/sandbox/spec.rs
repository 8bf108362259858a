//! What a sandbox is to consist of, and the arithmetic of its network.

use super::{Error, Result};
use crate::model::HostName;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// The widest network that is made; wider means that an address is mistyped.
const WIDEST_PREFIX: u8 = 8;
/// The usual size of a network; one that holds all hosts is widened from here.
const USUAL_PREFIX: u8 = 24;

/// One host, as an inventory describes how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    pub name: HostName,
    pub address: Ipv4Addr,
    /// sshd listens on this port (the inventory's `ansible_port`).
    pub port: u16,
    /// Logs in by key and may use sudo without password (the inventory's `ansible_user`). `root` and
    /// `admin` always can.
    pub user: String,
}

/// All hosts and what they boot from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub hosts: Vec<HostSpec>,
    /// Addresses that must stay free for the hosts to take, such as a VIP.
    pub reserved: Vec<Ipv4Addr>,
    pub image: Image,
}

/// The Debian release that hosts boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Image {
    Trixie,
    Bookworm,
    Sid,
}

impl Image {
    pub const ALL: [Image; 3] = [Image::Trixie, Image::Bookworm, Image::Sid];

    /// The release's name in the archive.
    pub fn suite(self) -> &'static str {
        match self {
            Image::Trixie => "trixie",
            Image::Bookworm => "bookworm",
            Image::Sid => "sid",
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.suite())
    }
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Image, String> {
        Image::ALL
            .into_iter()
            .find(|image| image.suite() == text)
            .ok_or_else(|| format!("`{text}` is not an image; there are trixie, bookworm and sid"))
    }
}

/// The hosts' network: what it spans, and the address of the bridge in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub network: Ipv4Net,
    pub gateway: Ipv4Addr,
}

impl Spec {
    /// The /24 around the hosts' addresses, or the smallest wider network that holds them all; the
    /// gateway is its first address that is neither a host's nor reserved.
    pub fn subnet(&self) -> Result<Subnet> {
        for (index, host) in self.hosts.iter().enumerate() {
            if let Some(other) = self.hosts[..index].iter().find(|other| other.address == host.address) {
                return Err(Error::SameAddress {
                    first: other.name.clone(),
                    second: host.name.clone(),
                    address: host.address,
                });
            }
        }
        let taken: Vec<Ipv4Addr> =
            self.hosts.iter().map(|host| host.address).chain(self.reserved.iter().copied()).collect();
        // A reserved address far away (a VIP of another network) does not widen the hosts' network.
        let addresses = self.hosts.iter().map(|host| u32::from(host.address));
        let lowest = addresses.clone().min().ok_or(Error::NoHosts)?;
        let highest = addresses.max().ok_or(Error::NoHosts)?;
        let common = (lowest ^ highest).leading_zeros() as u8;
        let usable = |network: Ipv4Net| {
            let edge = |address| address == network.network() || address == network.broadcast();
            !self.hosts.iter().any(|host| edge(host.address))
        };
        let network = (WIDEST_PREFIX..=common.min(USUAL_PREFIX))
            .rev()
            .filter_map(|prefix| Ipv4Net::new(Ipv4Addr::from(lowest), prefix).ok().map(|net| net.trunc()))
            .find(|network| usable(*network))
            .ok_or(Error::Scattered {
                lowest: lowest.into(),
                highest: highest.into(),
                limit: WIDEST_PREFIX,
            })?;
        let gateway =
            network.hosts().find(|address| !taken.contains(address)).ok_or(Error::NetworkFull { network })?;
        Ok(Subnet { network, gateway })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(addresses: &[&str], reserved: &[&str]) -> Spec {
        let hosts = addresses.iter().enumerate().map(|(index, address)| HostSpec {
            name: format!("h{index}").parse().unwrap(),
            address: address.parse().unwrap(),
            port: 22,
            user: "root".into(),
        });
        Spec {
            hosts: hosts.collect(),
            reserved: reserved.iter().map(|address| address.parse().unwrap()).collect(),
            image: Image::Trixie,
        }
    }

    fn subnet(addresses: &[&str], reserved: &[&str]) -> String {
        match spec(addresses, reserved).subnet() {
            Ok(Subnet { network, gateway }) => format!("{network} via {gateway}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn takes_the_24_around_the_hosts_and_a_free_gateway() {
        assert_eq!(subnet(&["10.128.0.26", "10.128.0.11"], &[]), "10.128.0.0/24 via 10.128.0.1");
        assert_eq!(subnet(&["10.0.0.1", "10.0.0.3"], &["10.0.0.2"]), "10.0.0.0/24 via 10.0.0.4");
    }

    #[test]
    fn widens_to_hold_all_hosts() {
        assert_eq!(subnet(&["10.0.1.5", "10.0.2.5"], &[]), "10.0.0.0/22 via 10.0.0.1");
        // .0 of a /24 is a host's address only in a wider network.
        assert_eq!(subnet(&["10.0.1.0"], &[]), "10.0.0.0/23 via 10.0.0.1");
    }

    #[test]
    fn refuses_what_cannot_be_one_network() {
        assert_eq!(
            subnet(&["10.0.0.1", "192.168.0.1"], &[]),
            "the hosts' addresses 10.0.0.1 and 192.168.0.1 are too far apart for one network (at most a /8)"
        );
        assert_eq!(
            subnet(&["10.0.0.1", "10.0.0.1"], &[]),
            "hosts `h0` and `h1` have the same address 10.0.0.1"
        );
        assert_eq!(subnet(&[], &[]), "the inventory lists no hosts");
    }
}
