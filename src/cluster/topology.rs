//! The parts of a cluster as the inventory lists them, in the shape that asking them needs.

use crate::{
    inventory::{self, Inventory},
    model::{HostName, Scope, Secret},
};
use serde_json::Value;
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
    /// The parts that an inventory lists.
    pub fn of(inventory: &Inventory) -> Self {
        let (dcs, dcs_port) = match inventory.dcs() {
            inventory::Dcs::Etcd => (DcsKind::Etcd, "etcd_client_port"),
            inventory::Dcs::ZooKeeper => (DcsKind::ZooKeeper, "zookeeper_client_port"),
        };
        // The catalogue gives each of these ports a default; a host without one could not be asked.
        let dcs_hosts = inventory.group(dcs.as_str()).filter_map(|host| {
            let client_port = host.port(dcs_port)?;
            Some(DcsHost { name: host.name.clone(), address: host.address().to_owned(), client_port })
        });
        let proxies = inventory.group("haproxy").filter_map(|host| {
            Some(ProxyHost {
                name: host.name.clone(),
                address: host.address().to_owned(),
                primary_port: host.port("haproxy_primary_port")?,
                replica_port: host.port("haproxy_replica_port")?,
                stats_port: host.port("haproxy_stats_port")?,
            })
        });
        let vip = inventory.vip().map(|vip| VirtualAddress {
            address: vip.0.addr(),
            candidates: inventory.group("keepalived").map(|host| host.name.clone()).collect(),
        });
        Self {
            cluster: inventory.cluster.clone(),
            dcs,
            dcs_hosts: dcs_hosts.collect(),
            agents: inventory.group("postgres").filter_map(agent).collect(),
            proxies: proxies.collect(),
            vip,
            superuser: inventory.superuser().map(|superuser| (superuser.user, superuser.password)),
        }
    }

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

fn agent(host: &inventory::Host) -> Option<AgentHost> {
    let login = host.vars.get("agent").and_then(|agent| agent.pointer("/restapi/authentication"));
    let text = |name: &str| login.and_then(|login| login.get(name)).and_then(Value::as_str);
    // What is merged into the agent's configuration wins there too.
    let user = text("username").or(host.text("agent_api_user"));
    let api_login = user.zip(text("password").or(host.text("agent_api_password")));
    Some(AgentHost {
        name: host.name.clone(),
        address: host.address().to_owned(),
        api_port: host.port("agent_api_port")?,
        postgres_port: host.port("postgres_port")?,
        api_login: api_login.map(|(user, password)| (user.to_owned(), Secret::new(password))),
    })
}
