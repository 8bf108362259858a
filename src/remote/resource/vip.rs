//! A virtual address is held by exactly one host.

use super::await_condition;
use crate::remote::{
    arp,
    host::{Context, Finding, Manage},
    protocol::Failure,
    wait::Look,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::{net::Ipv4Addr, time::Duration};

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

/// How long one probe listens for answers.
const LISTEN: Duration = Duration::from_millis(600);

impl Vip {
    async fn condition(&self) -> Look {
        let (address, interface) = (self.address.0, self.interface.clone());
        // The raw socket is read in a thread of its own: everything else here is awaited.
        let probed =
            tokio::task::spawn_blocking(move || arp::probe(address, interface.as_deref(), LISTEN)).await;
        match probed.map_err(|error| error.to_string()).and_then(|probed| probed) {
            Ok(found) => match self.judge(&found) {
                Ok(()) => Look::Satisfied,
                Err(missing) => Look::Missing(missing),
            },
            Err(reason) => Look::Missing(format!("{} can't be probed: {reason}", self.address.0)),
        }
    }

    fn judge(&self, found: &arp::Answers) -> Result<(), String> {
        let address = self.address.0;
        let others = found.others.join(", ");
        match (found.held_here, found.others.len()) {
            (true, 0) | (false, 1) => Ok(()),
            (false, 0) => Err(format!("nobody holds {address}")),
            (true, _) => Err(format!("{address} is held here and by {others} as well")),
            (false, _) => Err(format!("{address} is held by several hosts: {others}")),
        }
    }
}

impl Manage for Vip {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let limit = Duration::from_secs(self.timeout);
        await_condition(context, limit, Some("keepalived.service"), async || self.condition().await).await
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}
