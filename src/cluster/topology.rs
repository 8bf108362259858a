//! The parts of a cluster as the inventory lists them, in the shape that asking them needs.

use crate::model::{HostName, Scope, Secret};
use std::net::IpAddr;

/// Who there is to ask.
#[derive(Clone, Debug)]
pub struct Topology {
    pub cluster: Scope,
    pub dcs: DcsKind,
    pub dcs_hosts: Vec<DcsHost>,
    pub agents: Vec<AgentHost>,
    pub proxies: Vec<ProxyHost>,
    pub vip: Option<VirtualAddress>,
    /// The superuser, as whom writes are proved.
    pub superuser: Option<(String, Secret)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DcsKind {
    Etcd,
    ZooKeeper,
}

impl DcsKind {
    /// As the inventory spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            DcsKind::Etcd => "etcd",
            DcsKind::ZooKeeper => "zookeeper",
        }
    }
}

/// A member of the DCS.
#[derive(Clone, Debug)]
pub struct DcsHost {
    pub name: HostName,
    pub address: String,
    pub client_port: u16,
}

/// PostgreSQL with the agent beside it.
#[derive(Clone, Debug)]
pub struct AgentHost {
    pub name: HostName,
    pub address: String,
    pub api_port: u16,
    pub postgres_port: u16,
    /// User and password of the REST API's unsafe methods.
    pub api_login: Option<(String, Secret)>,
}

/// HAProxy with its entry points.
#[derive(Clone, Debug)]
pub struct ProxyHost {
    pub name: HostName,
    pub address: String,
    pub primary_port: u16,
    pub replica_port: u16,
    pub stats_port: u16,
}

/// The virtual address, and who may hold it.
#[derive(Clone, Debug)]
pub struct VirtualAddress {
    pub address: IpAddr,
    pub candidates: Vec<HostName>,
}

impl Topology {
    /// Every host that has a part, once, in the inventory's order of parts.
    pub fn hosts(&self) -> Vec<&HostName> {
        let parts = self.dcs_hosts.iter().map(|host| &host.name);
        let parts = parts.chain(self.agents.iter().map(|host| &host.name));
        let parts = parts.chain(self.proxies.iter().map(|host| &host.name));
        let parts = parts.chain(self.vip.iter().flat_map(|vip| &vip.candidates));
        let mut hosts: Vec<&HostName> = Vec::new();
        for name in parts {
            if !hosts.contains(&name) {
                hosts.push(name);
            }
        }
        hosts
    }

    pub fn agent(&self, name: &str) -> Option<&AgentHost> {
        self.agents.iter().find(|agent| agent.name.as_str() == name)
    }
}
