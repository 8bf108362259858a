//! Asks every part of a cluster at once, each with a deadline.

use super::{
    access::{Access, NoWay},
    etcd::{self, DcsFacts},
    haproxy::{self, ProxyFacts},
    http::{self, Question},
    topology::{AgentHost, DcsKind, Topology, VirtualAddress},
    zookeeper,
};
use crate::{
    contract::{ClusterDocument, NodeStatus},
    model::HostName,
};
use futures_util::future::join_all;
use std::{collections::HashMap, time::Duration};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// What everyone said, host by host; an error is the reason why there is no answer.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Hosts that SSH does not reach: why, and what to do.
    pub unreachable: HashMap<HostName, (String, String)>,
    pub nodes: HashMap<HostName, Result<NodeStatus, String>>,
    pub clusters: HashMap<HostName, ClusterDocument>,
    pub dcs: HashMap<HostName, Result<DcsFacts, String>>,
    pub proxies: HashMap<HostName, Result<Vec<ProxyFacts>, String>>,
    pub vip: HashMap<HostName, Result<bool, String>>,
}

pub async fn observe(topology: &Topology, access: &Access) -> Observed {
    let mut observed = Observed::default();
    for name in topology.hosts() {
        if let Err(error) = access.session(name) {
            let (why, step) = match &error {
                NoWay::Unreachable(connect) => (connect.problem.to_string(), connect.next_step()),
                other => (other.to_string(), String::new()),
            };
            observed.unreachable.insert(name.clone(), (why, step));
        }
    }
    let reached = |name: &HostName| !observed.unreachable.contains_key(name);

    let agents = topology.agents.iter().filter(|host| reached(&host.name));
    let agents = join_all(agents.map(|host| async move {
        let (node, cluster) = tokio::join!(node(access, host), cluster(access, host));
        (host.name.clone(), node, cluster)
    }));
    let dcs = topology.dcs_hosts.iter().filter(|host| reached(&host.name));
    let dcs = join_all(dcs.map(|host| async move {
        let facts = match topology.dcs {
            DcsKind::Etcd => etcd::ask(access, host, PATIENCE).await,
            DcsKind::ZooKeeper => zookeeper::ask(access, host, PATIENCE).await,
        };
        (host.name.clone(), facts)
    }));
    let proxies = topology.proxies.iter().filter(|host| reached(&host.name));
    let proxies = join_all(
        proxies.map(|host| async move { (host.name.clone(), haproxy::ask(access, host, PATIENCE).await) }),
    );
    let vip = topology.vip.iter().flat_map(|vip| vip.candidates.iter().map(move |name| (vip, name)));
    let vip = vip.filter(|(_, name)| reached(name));
    let vip = join_all(vip.map(|(vip, name)| async move { (name.clone(), holds(access, vip, name).await) }));

    let (agents, dcs, proxies, vip) = tokio::join!(agents, dcs, proxies, vip);
    for (name, node, cluster) in agents {
        observed.nodes.insert(name.clone(), node);
        if let Ok(cluster) = cluster {
            observed.clusters.insert(name, cluster);
        }
    }
    observed.dcs = dcs.into_iter().collect();
    observed.proxies = proxies.into_iter().collect();
    observed.vip = vip.into_iter().collect();
    observed
}

/// `GET /patroni` of one agent. It answers with 503 while PostgreSQL is down, and with a body all the same.
pub async fn node(access: &Access, host: &AgentHost) -> Result<NodeStatus, String> {
    ask_agent(access, host, "/patroni").await
}

/// `GET /cluster` of one agent.
pub async fn cluster(access: &Access, host: &AgentHost) -> Result<ClusterDocument, String> {
    ask_agent(access, host, "/cluster").await
}

async fn ask_agent<T: serde::de::DeserializeOwned>(
    access: &Access,
    host: &AgentHost,
    path: &str,
) -> Result<T, String> {
    let ask = async {
        let stream = access.service(&host.name, &host.address, host.api_port).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let answer = http::ask(stream, &host.address, Question::get(path, PATIENCE)).await;
        answer.and_then(|answer| answer.json()).map_err(|error| error.to_string())
    };
    tokio::time::timeout(PATIENCE, ask).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Whether the host has the address on one of its interfaces: the kernel's word, not keepalived's.
async fn holds(access: &Access, vip: &VirtualAddress, name: &HostName) -> Result<bool, String> {
    let session = access.session(name).map_err(|error| error.to_string())?;
    let command = format!("PATH=$PATH:/sbin:/usr/sbin ip -o addr show to {}", vip.address);
    let run = session.run(&command, b"");
    match tokio::time::timeout(PATIENCE, run).await {
        Ok(Ok(output)) if output.status == 0 => Ok(!output.stdout.trim_ascii().is_empty()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(Err(error)) => Err(error.problem.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
