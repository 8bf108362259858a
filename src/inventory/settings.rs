//! What code, rather than templates, needs to know of an inventory, in types.

use super::{
    Host, Inventory,
    catalogue::{self, VARIABLES},
    certificates,
    variable::{Kind, Reach},
};
use crate::{
    diagnostic::Diagnostic,
    model::{HostName, Scope, Secret},
};
use indexmap::IndexMap;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// What holds the leader's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dcs {
    Etcd,
    ZooKeeper,
}

/// A role of PostgreSQL with its password.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub user: String,
    pub password: Secret,
}

/// The entry points on a host of `haproxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub primary: u16,
    pub replica: u16,
    pub stats: u16,
}

/// The virtual address with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip(pub IpNet);

impl Inventory {
    pub fn dcs(&self) -> Dcs {
        match self.cluster_text("dcs") {
            Some("zookeeper") => Dcs::ZooKeeper,
            _ => Dcs::Etcd,
        }
    }

    /// `address:port` of each DCS member, for its clients.
    pub fn dcs_endpoints(&self) -> Vec<String> {
        let (group, port) = match self.dcs() {
            Dcs::Etcd => ("etcd", "etcd_client_port"),
            Dcs::ZooKeeper => ("zookeeper", "zookeeper_client_port"),
        };
        self.group(group).filter_map(|host| Some(join(host.address(), host.port(port)?))).collect()
    }

    /// The folder in the DCS that holds the cluster, `/service/NAME/`.
    pub fn dcs_folder(&self) -> String {
        let namespace = self.cluster_text("dcs_namespace").unwrap_or("/service").trim_matches('/');
        format!("/{namespace}/{}/", self.cluster)
    }

    pub fn superuser(&self) -> Option<Credentials> {
        self.credentials("superuser_name", "superuser_password")
    }

    pub fn replication(&self) -> Option<Credentials> {
        self.credentials("replication_user", "replication_password")
    }

    pub fn rewind(&self) -> Option<Credentials> {
        self.credentials("rewind_user", "rewind_password")
    }

    pub fn vip(&self) -> Option<Vip> {
        self.cluster_text("vip")?.parse().ok().map(Vip)
    }

    /// The entry points of the cluster; none without HAProxy.
    pub fn haproxy_ports(&self) -> Option<Ports> {
        let host = self.group("haproxy").next()?;
        Some(Ports {
            primary: host.port("haproxy_primary_port")?,
            replica: host.port("haproxy_replica_port")?,
            stats: host.port("haproxy_stats_port")?,
        })
    }

    /// Where clients that write connect to, `address:port`: the virtual address, else the HAProxy hosts, else
    /// PostgreSQL itself where it is alone.
    pub fn write_endpoints(&self) -> Vec<String> {
        match self.haproxy_ports() {
            Some(ports) => match self.vip() {
                Some(Vip(vip)) => vec![join(&vip.addr().to_string(), ports.primary)],
                None => self.group("haproxy").map(|host| join(host.address(), ports.primary)).collect(),
            },
            None => self
                .group("postgres")
                .filter_map(|host| Some(join(host.address(), host.port("postgres_port")?)))
                .collect(),
        }
    }

    /// As [`Inventory::write_endpoints`] for clients that only read; empty without HAProxy.
    pub fn read_endpoints(&self) -> Vec<String> {
        let Some(ports) = self.haproxy_ports() else { return Vec::new() };
        match self.vip() {
            Some(Vip(vip)) => vec![join(&vip.addr().to_string(), ports.replica)],
            None => self.group("haproxy").map(|host| join(host.address(), ports.replica)).collect(),
        }
    }

    fn cluster_text(&self, name: &str) -> Option<&str> {
        self.hosts.values().next()?.text(name)
    }

    fn credentials(&self, user: &str, password: &str) -> Option<Credentials> {
        let host = self.group("postgres").next()?;
        Some(Credentials { user: host.text(user)?.to_owned(), password: Secret::new(host.text(password)?) })
    }
}

impl Host {
    /// Where other hosts of the cluster reach this one.
    pub fn address(&self) -> &str {
        self.text("address").unwrap_or(&self.connection.host)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.vars.get(name).and_then(Value::as_str)
    }

    pub fn port(&self, name: &str) -> Option<u16> {
        self.vars.get(name).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok())
    }

    /// `address:port` of the agent's REST API.
    pub fn api_endpoint(&self) -> Option<String> {
        Some(join(self.address(), self.port("agent_api_port")?))
    }

    /// `address:port` of PostgreSQL.
    pub fn postgres_endpoint(&self) -> Option<String> {
        Some(join(self.address(), self.port("postgres_port")?))
    }
}

/// An address and a port as URLs have them.
fn join(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) fn cluster(hosts: &IndexMap<HostName, Host>) -> Result<Scope, Diagnostic> {
    let name = hosts.values().find_map(|host| host.text("cluster_name"));
    let name = name.ok_or_else(|| Diagnostic::error("the inventory has no `cluster_name`"))?;
    name.parse().map_err(|error: crate::model::InvalidName| Diagnostic::error(error.to_string()))
}

/// What all hosts have in common: the cluster's variables, the members of each group, `hostvars`.
pub(super) fn global(
    hosts: &IndexMap<HostName, Host>,
    groups: &IndexMap<String, Vec<HostName>>,
) -> Map<String, Value> {
    let mut global = Map::new();
    if let Some(host) = hosts.values().next() {
        for variable in VARIABLES.iter().filter(|variable| variable.reach == Reach::Cluster) {
            if let Some(value) = host.vars.get(variable.name) {
                global.insert(variable.name.to_owned(), value.clone());
            }
        }
    }
    let has_tls = global.get("tls") == Some(&Value::Bool(true));
    global.insert("scheme".to_owned(), if has_tls { "https" } else { "http" }.into());
    global.insert("tls_files".to_owned(), certificates::files(has_tls));
    for (group, _) in catalogue::GROUPS {
        let members = groups.get(group).into_iter().flatten().filter_map(|name| hosts.get(name));
        let members = members.enumerate().map(|(index, host)| member(group, index, host)).collect();
        global.insert(format!("{group}_members"), Value::Array(members));
    }
    let hostvars = hosts.values().map(|host| {
        let mut vars = host.vars.clone();
        vars.extend(super::load::magic(host.name.as_str(), &host.groups));
        (host.name.to_string(), Value::Object(vars))
    });
    global.insert("hostvars".to_owned(), Value::Object(hostvars.collect()));
    global
}

fn member(group: &str, index: usize, host: &Host) -> Value {
    let port = |name: &str| host.port(name);
    let (name, address) = (&host.name, host.address());
    match group {
        "etcd" => json!({
            "name": name, "address": address,
            "client_port": port("etcd_client_port"), "peer_port": port("etcd_peer_port"),
        }),
        "zookeeper" => json!({
            "name": name, "address": address, "id": index + 1, "client_port": port("zookeeper_client_port"),
            "peer_port": port("zookeeper_peer_port"), "election_port": port("zookeeper_election_port"),
        }),
        "postgres" => json!({
            "name": name, "address": address,
            "port": port("postgres_port"), "api_port": port("agent_api_port"),
        }),
        "keepalived" => json!({"name": name, "address": address, "priority": host.vars.get("vip_priority")}),
        _ => json!({"name": name, "address": address}),
    }
}

pub(super) fn secrets(inventory: &Inventory) -> Vec<Secret> {
    let mut texts: Vec<String> = Vec::new();
    let mut add = |value: &Value| {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty())
            && !texts.iter().any(|known| known == text)
        {
            texts.push(text.to_owned());
        }
    };
    for host in inventory.hosts.values() {
        for (name, value) in &host.vars {
            let secret = match catalogue::find(name) {
                Some(variable) => matches!(variable.kind, Kind::Secret { .. }),
                None => crate::yaml::is_secret_key(name),
            };
            if secret {
                add(value);
            }
            secrets_within(value, &mut add);
        }
    }
    for definition in inventory.drafts.values().flat_map(|draft| draft.vars.values()) {
        let document = &definition.origin.document;
        document.opened().iter().for_each(|secret| add(&Value::from(secret.expose())));
        // Of a file that is sealed as a whole, what its owner made up; pgfleet's own settings are no secrets.
        let own = catalogue::find(&definition.name).is_none_or(|variable| variable.kind == Kind::Map);
        if document.is_sealed() && own {
            texts_within(&definition.value, &mut add);
        }
    }
    inventory.former.iter().for_each(|secret| add(&Value::from(secret.expose())));
    texts.into_iter().map(Secret::new).collect()
}

/// All texts, at any depth.
fn texts_within(value: &Value, add: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(map) => map.values().for_each(|value| texts_within(value, add)),
        Value::Array(items) => items.iter().for_each(|item| texts_within(item, add)),
        _ => add(value),
    }
}

/// Texts below keys that sound like a password's, at any depth (`custom`, `agent`).
fn secrets_within(value: &Value, add: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if crate::yaml::is_secret_key(key) {
                    add(value);
                }
                secrets_within(value, add);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secrets_within(item, add)),
        _ => {}
    }
}
