//! What the answers mean: who leads, how far the others are, and what is wrong. Pure.

use super::{
    observe::Observed,
    status::{Dcs, DcsMember, Frontend, Haproxy, Member, Status, Vip, is_leader},
    topology::{AgentHost, DcsKind, ProxyHost, Topology},
};
use crate::{
    contract::{ClusterDocument, ClusterMember, NodeStatus, PostgresState, Role},
    model::HostName,
};
use std::collections::BTreeSet;

/// A standby that lacks more than this is worth a word.
const WORRYING_LAG_BYTES: u64 = 64 * 1024 * 1024;

pub fn assess(topology: &Topology, observed: &Observed) -> Status {
    let mut problems = Vec::new();
    unreachable_hosts(topology, observed, &mut problems);
    let view = best_view(observed);
    let members: Vec<_> = topology.agents.iter().map(|host| member(host, observed, view)).collect();
    judge_members(topology, observed, &members, view, &mut problems);
    let dcs = judge_dcs(topology, observed, &mut problems);
    let standbys = members.iter().filter(|member| is_standby_in_service(member)).count();
    let leads = members.iter().any(|member| is_leader(&member.role));
    let haproxy = topology
        .proxies
        .iter()
        .map(|host| judge_proxy(host, observed, leads, standbys, &mut problems))
        .collect();
    let vip = judge_vip(topology, observed, &mut problems);
    let cluster = topology.cluster.to_string();
    Status {
        cluster,
        healthy: problems.is_empty(),
        problems,
        pause: view.is_some_and(|view| view.pause),
        scheduled_switchover: view.and_then(|view| view.scheduled_switchover.clone()),
        members,
        dcs,
        haproxy,
        vip,
    }
}

fn unreachable_hosts(topology: &Topology, observed: &Observed, problems: &mut Vec<String>) {
    for name in topology.hosts() {
        if let Some((why, step)) = observed.unreachable.get(name) {
            problems.push(format!("{name} cannot be reached: {why}. {step}").trim_end().to_owned());
        }
    }
}

/// The list of members as the agent tells it that ought to know best: the leader's, else anyone's.
fn best_view(observed: &Observed) -> Option<&ClusterDocument> {
    let leads = |name: &HostName| matches!(observed.nodes.get(name), Some(Ok(node)) if matches!(node.role, Role::Primary | Role::StandbyLeader));
    let leader = observed.clusters.iter().find(|(name, _)| leads(name));
    let anyone = || observed.clusters.iter().min_by_key(|(name, _)| name.as_str());
    leader.or_else(anyone).map(|(_, document)| document)
}

fn member(host: &AgentHost, observed: &Observed, view: Option<&ClusterDocument>) -> Member {
    let node = observed.nodes.get(&host.name).and_then(|node| node.as_ref().ok());
    let own_name = node.map(|node| node.patroni.name.as_str()).filter(|name| !name.is_empty());
    let name = own_name.unwrap_or(host.name.as_str());
    let listed = view.and_then(|view| view.members.iter().find(|member| member.name == name));
    Member {
        name: name.to_owned(),
        host: host.address.clone(),
        port: host.postgres_port,
        role: role(node, listed),
        state: state(node, listed),
        timeline: node.and_then(|node| node.timeline).or_else(|| listed.and_then(|listed| listed.timeline)),
        lag_bytes: lag_bytes(node, listed, observed),
        pending_restart: node.is_some_and(|node| node.pending_restart)
            || listed.is_some_and(|listed| listed.pending_restart),
        pending_restart_reason: node
            .map(|node| &node.pending_restart_reason)
            .or_else(|| listed.map(|listed| &listed.pending_restart_reason))
            .cloned()
            .unwrap_or_default(),
    }
}

fn role(node: Option<&NodeStatus>, listed: Option<&ClusterMember>) -> String {
    let known = listed.map(|listed| listed.role.as_str());
    let own = node.and_then(|node| match node.role {
        Role::Primary => Some("leader"),
        Role::StandbyLeader => Some("standby_leader"),
        Role::Replica if node.sync_standby => Some("sync_standby"),
        Role::Replica if node.quorum_standby => Some("quorum_standby"),
        Role::Replica | Role::Promoted | Role::Demoted => Some("replica"),
        Role::Uninitialized => None,
    });
    // A node knows best whether it leads; whether a commit waits for it is in the list.
    match (own, known) {
        (Some("replica"), Some(known)) if known.ends_with("_standby") => known.to_owned(),
        (Some(own), _) => own.to_owned(),
        (None, Some(known)) => known.to_owned(),
        (None, None) => "unknown".to_owned(),
    }
}

fn state(node: Option<&NodeStatus>, listed: Option<&ClusterMember>) -> String {
    match node {
        None => "unreachable".to_owned(),
        Some(node) => {
            let standby = node.role == Role::Replica && node.state == Some(PostgresState::Running);
            let replication = node.replication_state.as_deref().filter(|state| standby && !state.is_empty());
            let listed = listed.map(|listed| listed.state.as_str()).filter(|_| node.state.is_none());
            let own = node.state.map(PostgresState::as_str);
            replication.or(own).or(listed).unwrap_or("unknown").to_owned()
        }
    }
}

/// From both ends' own words where there are any: the list in the store is older by up to a loop.
fn lag_bytes(node: Option<&NodeStatus>, listed: Option<&ClusterMember>, observed: &Observed) -> Option<u64> {
    let is_leader = |node: &NodeStatus| matches!(node.role, Role::Primary | Role::StandbyLeader);
    // Of a member that does not answer the list says how far it was once.
    if node.is_none_or(is_leader) {
        return None;
    }
    let leader = observed.nodes.values().flatten().find(|node| is_leader(node));
    let end = leader.and_then(|leader| leader.xlog.as_ref()).and_then(|xlog| xlog.location);
    let reached = node
        .and_then(|node| node.xlog.as_ref())
        .and_then(|xlog| xlog.received_location.max(xlog.replayed_location));
    match (end, reached) {
        (Some(end), Some(reached)) => Some(end.bytes_since(reached)),
        _ => listed.and_then(|listed| listed.lag.as_ref()).and_then(|lag| lag.bytes()),
    }
}

fn is_standby_in_service(member: &Member) -> bool {
    !is_leader(&member.role)
        && matches!(member.state.as_str(), "streaming" | "in archive recovery" | "running")
}

fn judge_members(
    topology: &Topology,
    observed: &Observed,
    members: &[Member],
    view: Option<&ClusterDocument>,
    problems: &mut Vec<String>,
) {
    for host in &topology.agents {
        if let Some(Err(why)) = observed.nodes.get(&host.name) {
            problems.push(format!(
                "The agent on {} does not answer on port {}: {why}. See `journalctl -u pgfleet-agent` there.",
                host.name, host.api_port
            ));
        }
    }
    let leaders: Vec<_> = members.iter().filter(|member| is_leader(&member.role)).collect();
    match leaders.as_slice() {
        [] if topology.agents.is_empty() => {}
        [] => problems.push(
            "No member leads, so nothing can be written. Look at the agents' logs with `journalctl -u pgfleet-agent`, \
             and at the DCS below."
                .to_owned(),
        ),
        [leader] if leader.state != "running" && leader.state != "streaming" => {
            let (name, state) = (&leader.name, &leader.state);
            problems.push(format!("The leader {name} is not running: its state is `{state}`. See its agent's log."));
        }
        [_] => {}
        several => {
            let names: Vec<_> = several.iter().map(|member| member.name.as_str()).collect();
            problems.push(format!(
                "{} say that they lead. Ask again; if it stays, stop PostgreSQL on those that the DCS does not name.",
                names.join(" and ")
            ));
        }
    }
    let timeline = leaders.first().and_then(|leader| leader.timeline);
    for member in members.iter().filter(|member| !is_leader(&member.role) && member.state != "unreachable") {
        judge_standby(member, timeline, problems);
    }
    if view.is_some_and(|view| view.pause) {
        problems.push(
            "The cluster is paused: nobody takes over if the leader fails. Resume it with `pgfleet resume`."
                .to_owned(),
        );
    }
    let known: BTreeSet<_> = members.iter().map(|member| member.name.as_str()).collect();
    for stranger in
        view.iter().flat_map(|view| &view.members).filter(|member| !known.contains(member.name.as_str()))
    {
        problems.push(format!(
            "The DCS lists a member `{}` that the inventory does not have. Add it there, or stop its agent and remove it.",
            stranger.name
        ));
    }
}

fn judge_standby(member: &Member, timeline: Option<u32>, problems: &mut Vec<String>) {
    let (name, state) = (&member.name, &member.state);
    if !is_standby_in_service(member) {
        problems.push(match state.as_str() {
            "creating replica" => {
                format!("{name} is still being copied from the leader. Wait, and ask again.")
            }
            "starting" => format!("{name} is still starting. Wait, and ask again."),
            _ => format!(
                "{name} does not replicate: its state is `{state}`. See `journalctl -u pgfleet-agent` there."
            ),
        });
        return;
    }
    if state == "running" && timeline.is_some() {
        problems.push(format!(
            "{name} runs but does not stream from the leader. See its agent's and PostgreSQL's logs for the reason."
        ));
    }
    if let (Some(own), Some(leaders)) = (member.timeline, timeline)
        && own != leaders
    {
        problems.push(format!(
            "{name} is on timeline {own}, the leader on {leaders}. It follows by itself unless its agent's log says why not."
        ));
    }
    if let Some(lag) = member.lag_bytes.filter(|lag| *lag > WORRYING_LAG_BYTES) {
        let megabytes = lag / (1024 * 1024);
        problems.push(format!(
            "{name} lacks {megabytes} MiB of WAL. Look at its disk, its network and long queries there."
        ));
    }
}

fn judge_dcs(topology: &Topology, observed: &Observed, problems: &mut Vec<String>) -> Dcs {
    let kind = topology.dcs.as_str();
    let mut members = Vec::new();
    let mut healthy = 0;
    for host in &topology.dcs_hosts {
        let (leader, ailment) = match observed.dcs.get(&host.name) {
            None => (false, Some(None)),
            Some(Err(why)) => (false, Some(Some(why.clone()))),
            Some(Ok(facts)) => (facts.leader, facts.ailment.clone().map(Some)),
        };
        healthy += usize::from(ailment.is_none());
        members.push(DcsMember { name: host.name.to_string(), healthy: ailment.is_none(), leader });
        if let Some(Some(why)) = ailment {
            let unit = match topology.dcs {
                DcsKind::Etcd => "etcd",
                DcsKind::ZooKeeper => "zookeeper",
            };
            problems.push(format!(
                "{kind} on {} is not healthy: {why}. See `journalctl -u {unit}` there.",
                host.name
            ));
        }
    }
    let quorum = topology.dcs_hosts.len() / 2 + 1;
    if !members.is_empty() && healthy < quorum {
        problems.push(format!(
            "{kind} has lost its quorum: {healthy} of {} members are healthy, {quorum} are needed. \
             Bring its hosts back; until then nobody can take over.",
            members.len()
        ));
    } else if !members.is_empty() && !members.iter().any(|member| member.leader) {
        problems.push(format!("No member of {kind} leads. It elects one within seconds; ask again."));
    }
    Dcs { kind, members }
}

fn judge_proxy(
    host: &ProxyHost,
    observed: &Observed,
    cluster_leads: bool,
    standbys: usize,
    problems: &mut Vec<String>,
) -> Haproxy {
    let facts = observed.proxies.get(&host.name);
    if let Some(Err(why)) = facts {
        problems.push(format!(
            "HAProxy on {} does not answer on its statistics port {}: {why}. See `journalctl -u haproxy` there.",
            host.name, host.stats_port
        ));
    }
    let facts = facts.and_then(|facts| facts.as_ref().ok());
    let mut frontends = Vec::new();
    for (serves, port) in [("primary", host.primary_port), ("replica", host.replica_port)] {
        let behind = facts.into_iter().flatten().find(|proxy| proxy.name.to_lowercase().contains(serves));
        let up = behind.map_or(0, |proxy| proxy.up.len());
        frontends.push(Frontend { port, serves, backends_up: up });
        let Some(_) = facts else { continue };
        let Some(behind) = behind else {
            problems.push(format!(
                "HAProxy on {} has no proxy for the {serves} port {port}. Run `pgfleet apply` to write its configuration.",
                host.name
            ));
            continue;
        };
        let said: Vec<_> = behind.down.iter().map(|(name, said)| format!("{name} {said}")).collect();
        let checks = format!("its checks say: {}", said.join(", "));
        match (serves, up) {
            ("primary", 0) if cluster_leads => problems.push(format!(
                "HAProxy on {} sees no primary behind port {port}; {checks}. Can it reach the agents' REST port?",
                host.name
            )),
            ("primary", up) if up > 1 => problems.push(format!(
                "HAProxy on {} sees {up} primaries behind port {port}: {}. Ask again; it must not last.",
                host.name,
                behind.up.join(", ")
            )),
            ("replica", 0) if standbys > 0 => problems.push(format!(
                "HAProxy on {} sees no replica behind port {port}; {checks}. Can it reach the agents' REST port?",
                host.name
            )),
            _ => {}
        }
    }
    Haproxy { name: host.name.to_string(), host: host.address.clone(), frontends }
}

fn judge_vip(topology: &Topology, observed: &Observed, problems: &mut Vec<String>) -> Option<Vip> {
    let vip = topology.vip.as_ref()?;
    let mut holders = Vec::new();
    for name in &vip.candidates {
        match observed.vip.get(name) {
            Some(Ok(true)) => holders.push(name.to_string()),
            Some(Err(why)) => {
                problems.push(format!("It is not known whether {name} holds {}: {why}.", vip.address))
            }
            Some(Ok(false)) | None => {}
        }
    }
    match holders.as_slice() {
        [] => problems.push(format!(
            "No host that answers holds the virtual address {}. See `journalctl -u keepalived` on {}.",
            vip.address,
            vip.candidates.iter().map(HostName::as_str).collect::<Vec<_>>().join(" and ")
        )),
        [_] => {}
        several => problems.push(format!(
            "{} hold the virtual address {} at the same time: keepalived on one does not hear the other (VRRP, IP protocol 112).",
            several.join(" and "),
            vip.address
        )),
    }
    let holder = (holders.len() == 1).then(|| holders.remove(0));
    Some(Vip { address: vip.address.to_string(), holder })
}

#[cfg(test)]
#[path = "assess_tests.rs"]
mod tests;
