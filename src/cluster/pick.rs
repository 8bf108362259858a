//! A member by what it is: the one that leads, one that follows, or the one of that name.
//!
//! All agents are asked at once and the first that knows is believed: a host that is gone holds nobody up.

use super::{
    access::Access,
    observe,
    status::is_leader,
    topology::{AgentHost, Topology},
};
use crate::contract::ClusterMember;
use futures_util::{StreamExt as _, stream::FuturesUnordered};

/// Which member is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    Primary,
    /// The replica that lacks least.
    Replica,
    Named(&'a str),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMember {
    #[error("no agent says who leads")]
    NoLeader,
    #[error("no replica streams from the leader")]
    NoReplica,
    #[error("`{wanted}` is no member; there are {known}")]
    Unknown { wanted: String, known: String },
}

/// Asks the agents, each over the connection that `connect` makes to its host. A name needs no answer.
pub async fn pick<'t, F>(
    topology: &'t Topology,
    wanted: Wanted<'_>,
    connect: impl Fn(&'t AgentHost) -> F,
) -> Result<&'t AgentHost, NoMember>
where
    F: Future<Output = Option<Access>>,
{
    if let Wanted::Named(name) = wanted {
        return topology.agent(name).ok_or_else(|| unknown(topology, name));
    }
    let mut last = match wanted {
        Wanted::Replica => NoMember::NoReplica,
        _ => NoMember::NoLeader,
    };
    let ask = |agent: &'t AgentHost| {
        let connect = connect(agent);
        async move {
            let access = connect.await?;
            let cluster = observe::cluster(&access, agent).await.ok();
            access.close().await;
            cluster
        }
    };
    let mut answers: FuturesUnordered<_> = topology.agents.iter().map(ask).collect();
    while let Some(answer) = answers.next().await {
        // A list without what is wanted may be an old one.
        let name = answer.as_ref().and_then(|cluster| choose(&cluster.members, wanted));
        match name.map(|name| (name, topology.agent(name))) {
            Some((_, Some(host))) => return Ok(host),
            Some((name, None)) => last = unknown(topology, name),
            None => {}
        }
    }
    Err(last)
}

fn unknown(topology: &Topology, name: &str) -> NoMember {
    let known: Vec<_> = topology.agents.iter().map(|agent| agent.name.as_str()).collect();
    NoMember::Unknown { wanted: name.to_owned(), known: known.join(", ") }
}

fn choose<'m>(members: &'m [ClusterMember], wanted: Wanted<'_>) -> Option<&'m str> {
    let member = match wanted {
        Wanted::Primary => members.iter().find(|member| is_leader(member.role.as_str())),
        Wanted::Replica => members
            .iter()
            .filter(|member| !is_leader(member.role.as_str()) && member.state == "streaming")
            .min_by_key(|member| member.lag.as_ref().and_then(|lag| lag.bytes()).unwrap_or(u64::MAX)),
        Wanted::Named(name) => members.iter().find(|member| member.name == name),
    };
    member.map(|member| member.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_chosen_by_what_it_is() {
        let members: Vec<ClusterMember> = serde_json::from_str(
            r#"[{"name": "a", "role": "leader", "state": "running", "host": "h", "port": 1, "api_url": "u"},
                {"name": "b", "role": "replica", "state": "streaming", "host": "h", "port": 1, "api_url": "u", "lag": 9},
                {"name": "c", "role": "sync_standby", "state": "streaming", "host": "h", "port": 1, "api_url": "u", "lag": 0},
                {"name": "d", "role": "replica", "state": "stopped", "host": "h", "port": 1, "api_url": "u", "lag": 0}]"#,
        )
        .unwrap();
        assert_eq!(choose(&members, Wanted::Primary), Some("a"));
        assert_eq!(choose(&members, Wanted::Replica), Some("c"));
        assert_eq!(choose(&members[3..], Wanted::Replica), None);
        assert_eq!(choose(&members[1..], Wanted::Primary), None);
    }
}
