//! What the cluster needs of a host, by its roles in the inventory, and the questions that follow from it.

use super::{Scope, routes};
use crate::{
    inventory::{Dcs, Host, Inventory},
    model::HostName,
    remote::{
        Tls,
        preflight::{Peer, Questions, Store, Vip},
    },
};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Where apt puts what it downloads.
pub const DOWNLOADS: &str = "/var/cache/apt/archives";
/// Where packages put programs.
pub const PROGRAMS: &str = "/usr";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    pub cluster: String,
    /// Where other hosts of the cluster reach this one.
    pub address: String,
    pub ports: Vec<Port>,
    pub postgres: Option<Postgres>,
    pub etcd: Option<Etcd>,
    pub haproxy: bool,
    pub keepalived: bool,
    /// Whether services speak TLS.
    pub tls: bool,
    /// The ports of other hosts that this one connects to, by their variables.
    pub dials: Vec<&'static str>,
    /// The virtual address that it shares, and VRRP's number for it.
    pub vip: Option<(Vip, u8)>,
    /// The hosts that this one must reach.
    pub peers: Vec<Peer>,
    /// The cluster's folder in the store.
    pub store_folder: String,
}

/// A port that one of our services is to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    /// The variable that chooses it.
    pub variable: &'static str,
    pub unit: &'static str,
    /// The one address that it is bound to; all of them when none.
    pub address: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    pub version: u64,
    pub data_dir: String,
    /// The parameter as it is written.
    pub shared_buffers: Option<String>,
    /// Whether packages come from the PostgreSQL project.
    pub own_repository: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    pub data_dir: String,
    pub token: String,
    pub quota_bytes: u64,
    pub client_port: u16,
    pub heartbeat_ms: u64,
}

impl Postgres {
    /// Where its WAL is, or will be.
    pub fn wal_dir(&self) -> String {
        format!("{}/pg_wal", self.data_dir)
    }
}

impl Needs {
    /// What the inventory asks of a host; `vars` are its variables with what follows from its facts.
    pub fn of(inventory: &Inventory, host: &Host, vars: &Map<String, Value>) -> Self {
        let text = |name: &str| vars.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name: &str| vars.get(name).and_then(Value::as_u64).unwrap_or_default();
        let shared_buffers = vars.get("postgres_parameters").and_then(|map| map.get("shared_buffers"));
        let has_etcd = host.is_in("etcd") && inventory.dcs() == Dcs::Etcd;
        Self {
            cluster: inventory.cluster.to_string(),
            address: host.address().to_owned(),
            ports: ports(inventory, host, vars),
            postgres: host.is_in("postgres").then(|| Postgres {
                version: number("postgres_version"),
                data_dir: text("postgres_data_dir"),
                shared_buffers: shared_buffers.map(written),
                own_repository: vars.get("postgres_apt_repository") == Some(&Value::Bool(true)),
            }),
            etcd: has_etcd.then(|| Etcd {
                data_dir: text("etcd_data_dir"),
                token: text("etcd_cluster_token"),
                quota_bytes: number("etcd_quota_backend_bytes"),
                client_port: u16::try_from(number("etcd_client_port")).unwrap_or_default(),
                heartbeat_ms: number("etcd_heartbeat_interval_ms"),
            }),
            haproxy: host.is_in("haproxy"),
            keepalived: host.is_in("keepalived"),
            tls: vars.get("tls") == Some(&Value::Bool(true)),
            dials: routes::dials(host),
            vip: inventory.vip().filter(|_| host.is_in("keepalived")).and_then(|vip| {
                let interface = Some(text("vip_interface")).filter(|name| !name.is_empty());
                let IpAddr::V4(address) = vip.0.addr() else { return None };
                Some((Vip { address, interface }, u8::try_from(number("vip_router_id")).ok()?))
            }),
            peers: peers(inventory, &host.name),
            store_folder: inventory.dcs_folder(),
        }
    }

    /// What the host is asked.
    pub fn questions(&self, scope: Scope) -> Questions {
        if scope == Scope::Links {
            let ports = self.ports.iter().map(|port| port.number).collect();
            return Questions { ports, peers: self.peers.clone(), ..Questions::default() };
        }
        let mut folders = vec![DOWNLOADS.to_owned(), PROGRAMS.to_owned()];
        folders.extend(self.postgres.iter().map(|postgres| postgres.data_dir.clone()));
        folders.extend(self.etcd.iter().map(|etcd| etcd.data_dir.clone()));
        let wal = self.postgres.iter().map(|postgres| postgres.wal_dir());
        Questions {
            folders,
            ports: self.ports.iter().map(|port| port.number).collect(),
            peers: self.peers.clone(),
            postgres_data_dir: self.postgres.as_ref().map(|postgres| postgres.data_dir.clone()),
            etcd_data_dir: self.etcd.as_ref().map(|etcd| etcd.data_dir.clone()),
            store: self.etcd.as_ref().map(|etcd| Store {
                url: format!("{}://127.0.0.1:{}", if self.tls { "https" } else { "http" }, etcd.client_port),
                folder: self.store_folder.clone(),
                tls: if self.tls { Tls::of_role("etcd") } else { Tls::default() },
            }),
            synced: wal.chain(self.etcd.iter().map(|etcd| etcd.data_dir.clone())).collect(),
            vip: self.vip.as_ref().map(|(vip, _)| vip.clone()),
        }
    }
}

/// A port: its variable, the unit that listens, and the variable of its address.
type Row = (&'static str, &'static str, &'static str);

/// The ports of each role.
const PORTS: &[(&str, &[Row])] = &[
    ("etcd", &[("etcd_client_port", "etcd.service", ""), ("etcd_peer_port", "etcd.service", "")]),
    (
        "zookeeper",
        &[
            ("zookeeper_client_port", "zookeeper.service", ""),
            ("zookeeper_peer_port", "zookeeper.service", ""),
            ("zookeeper_election_port", "zookeeper.service", ""),
        ],
    ),
    (
        "postgres",
        &[
            ("postgres_port", "pgfleet-agent.service", "postgres_listen"),
            ("agent_api_port", "pgfleet-agent.service", "agent_api_listen"),
        ],
    ),
    (
        "haproxy",
        &[
            ("haproxy_primary_port", "haproxy.service", "haproxy_listen"),
            ("haproxy_replica_port", "haproxy.service", "haproxy_listen"),
            ("haproxy_stats_port", "haproxy.service", "haproxy_listen"),
        ],
    ),
];

fn ports(inventory: &Inventory, host: &Host, vars: &Map<String, Value>) -> Vec<Port> {
    let idle = match inventory.dcs() {
        Dcs::Etcd => "zookeeper",
        Dcs::ZooKeeper => "etcd",
    };
    let roles = PORTS.iter().filter(|(role, _)| host.is_in(role) && *role != idle);
    let port = |(variable, unit, listen): &Row| {
        let number = vars.get(*variable)?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        let address = vars.get(*listen).and_then(Value::as_str).and_then(|text| text.parse().ok());
        let address = address.filter(|address: &IpAddr| !address.is_unspecified());
        Some(Port { number, variable, unit, address })
    };
    roles.flat_map(|(_, ports)| ports.iter()).filter_map(port).collect()
}

/// Every other host, by the address that the cluster uses and the port of its sshd, which listens already.
fn peers(inventory: &Inventory, own: &HostName) -> Vec<Peer> {
    let others = inventory.hosts.values().filter(|host| host.name != *own);
    let peer = |host: &Host| Peer {
        name: host.name.to_string(),
        address: host.address().to_owned(),
        port: host.connection.port.unwrap_or(22),
    };
    others.map(peer).collect()
}

fn written(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
