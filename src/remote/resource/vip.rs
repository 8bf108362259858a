//! A virtual address is held by exactly one host.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// `vip`: waits until the address is held by exactly one host. If it is held here, nobody else may
/// answer ARP for it; if not, exactly one other must.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// With or without its prefix length.
    pub address: VipAddress,
    #[serde(default)]
    pub interface: Option<String>,
    /// How long to wait, in seconds.
    #[serde(default = "super::minute_secs")]
    pub timeout: u64,
}

/// An IPv4 address; a prefix length after it is allowed and of no consequence here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VipAddress(pub Ipv4Addr);

impl TryFrom<String> for VipAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address = text.parse().or_else(|_| text.parse::<Ipv4Net>().map(|net| net.addr()));
        address.map(Self).map_err(|_| format!("expected an IPv4 address such as 10.0.0.5/24, found `{text}`"))
    }
}

impl From<VipAddress> for String {
    fn from(address: VipAddress) -> String {
        address.0.to_string()
    }
}
