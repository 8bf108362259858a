//! Another member leads, because an operator wants it: asked of the leader's agent, seen through, and
//! measured by a client that writes through the entry point all the while.

use super::{
    access::Access,
    http::{self, Question},
    observe, probe,
    status::is_leader,
    topology::{AgentHost, Topology},
    verify::leader_host,
};
use crate::contract::{ClusterDocument, SwitchoverRequest};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long the whole change may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A switchover that was carried out.
#[derive(Clone, Debug, Serialize)]
pub struct Switched {
    pub from: String,
    pub to: String,
    /// From the request to the new leader being in the list of members.
    pub took_ms: u64,
    /// The longest time between two acknowledged commits; `null` when no write could be tried.
    pub writes_interrupted_ms: Option<u64>,
    /// Members that do not follow the new leader yet.
    pub not_following: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SwitchoverError {
    #[error("no agent says who leads")]
    NoLeader,
    #[error("`{wanted}` is not a member; there are {known}")]
    UnknownMember { wanted: String, known: String },
    #[error("`{0}` leads already")]
    LeadsAlready(String),
    #[error("the agent on {host} does not answer: {why}")]
    NoAnswer { host: String, why: String },
    #[error("{leader} refuses (code {code}): {said}")]
    Refused { leader: String, code: u16, said: String },
    #[error("a minute after it was asked for, {0}")]
    NotSeen(String),
}

impl SwitchoverError {
    /// What the operator does next.
    pub fn next_step(&self) -> String {
        match self {
            Self::UnknownMember { .. } => "Name one of them with `--to`.".to_owned(),
            Self::LeadsAlready(_) => "Nothing is to be done.".to_owned(),
            Self::NoLeader | Self::NotSeen(_) => "See what is wrong with `pgfleet status`.".to_owned(),
            Self::NoAnswer { host, .. } => format!("See `journalctl -u pgfleet-agent` on {host}."),
            Self::Refused { .. } => {
                "A candidate must be running, streaming and not too far behind: see `pgfleet status`."
                    .to_owned()
            }
        }
    }
}

/// Makes `to`, or the best standby, the leader.
pub async fn switchover(
    topology: &Topology,
    access: &Access,
    to: Option<&str>,
) -> Result<Switched, SwitchoverError> {
    let leader = leader_host(topology, access).await.ok_or(SwitchoverError::NoLeader)?;
    let before = observe::cluster(access, leader).await.map_err(|why| no_answer(leader, why))?;
    let from = check(&before, to)?;

    let (changed, gap) = probe::during(topology, access, async |probe| {
        // A gap can only be measured from a commit before it; where nobody can write there is none to wait for.
        probe.acknowledged().await;
        let start = Instant::now();
        let changed = hand_over(topology, access, leader, &from, to).await;
        let took = start.elapsed();
        probe.acknowledged().await;
        (changed.map(|to| (to, took)), probe.longest())
    })
    .await;
    let (to, took) = changed?;
    let not_following = await_followers(topology, access, &to).await;
    Ok(Switched { from, to, took_ms: millis(took), writes_interrupted_ms: gap.map(millis), not_following })
}

/// Asks the leader to give way to `to`, or to the best standby, and returns who leads once all know it.
pub(super) async fn hand_over(
    topology: &Topology,
    access: &Access,
    leader: &AgentHost,
    from: &str,
    to: Option<&str>,
) -> Result<String, SwitchoverError> {
    ask(access, leader, from, to).await?;
    await_leader(topology, access, from).await
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn no_answer(host: &AgentHost, why: String) -> SwitchoverError {
    SwitchoverError::NoAnswer { host: host.name.to_string(), why }
}

/// The leader's name, if the change makes sense.
fn check(cluster: &ClusterDocument, to: Option<&str>) -> Result<String, SwitchoverError> {
    let leader = cluster.members.iter().find(|member| is_leader(member.role.as_str()));
    let from = leader.ok_or(SwitchoverError::NoLeader)?.name.clone();
    match to {
        Some(to) if to == from => Err(SwitchoverError::LeadsAlready(from)),
        Some(to) if !cluster.members.iter().any(|member| member.name == to) => {
            let known: Vec<_> = cluster.members.iter().map(|member| member.name.as_str()).collect();
            Err(SwitchoverError::UnknownMember { wanted: to.to_owned(), known: known.join(", ") })
        }
        _ => Ok(from),
    }
}

async fn ask(
    access: &Access,
    leader: &AgentHost,
    from: &str,
    to: Option<&str>,
) -> Result<(), SwitchoverError> {
    let body = SwitchoverRequest {
        leader: Some(from.to_owned()),
        candidate: to.map(str::to_owned),
        scheduled_at: None,
    };
    let body = serde_json::to_value(body).map_err(|error| no_answer(leader, error.to_string()))?;
    let stream = access.service(&leader.name, &leader.address, leader.api_port).await;
    let stream = stream.map_err(|error| no_answer(leader, error.to_string()))?;
    let question =
        Question { login: leader.api_login.as_ref(), ..Question::post("/switchover", body, PATIENCE) };
    let answer = http::ask(stream, &leader.address, question).await;
    let answer = answer.map_err(|error| no_answer(leader, error.to_string()))?;
    if answer.code < 300 {
        return Ok(());
    }
    Err(SwitchoverError::Refused { leader: from.to_owned(), code: answer.code, said: answer.text() })
}

/// Waits until all agents that answer name the same new leader, and it runs.
async fn await_leader(topology: &Topology, access: &Access, from: &str) -> Result<String, SwitchoverError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let views = topology.agents.iter().map(|agent| observe::cluster(access, agent));
        let mut named: BTreeMap<String, usize> = BTreeMap::new();
        let mut answers = 0;
        for view in futures_util::future::join_all(views).await.into_iter().flatten() {
            answers += 1;
            let leader = view.members.iter().find(|member| is_leader(member.role.as_str()));
            if let Some(leader) = leader.filter(|leader| leader.state == "running") {
                *named.entry(leader.name.clone()).or_default() += 1;
            }
        }
        if let [(name, count)] = named.iter().collect::<Vec<_>>().as_slice()
            && **count == answers
            && name.as_str() != from
        {
            return Ok((*name).clone());
        }
        if Instant::now() > deadline {
            return Err(SwitchoverError::NotSeen(match named.keys().next() {
                Some(name) if name == from => format!("{from} still leads"),
                _ => "no new leader is in the list of members".to_owned(),
            }));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until all members stream from the new leader; those that do not in time are named.
async fn await_followers(topology: &Topology, access: &Access, leader: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let waiting = match topology.agent(leader) {
            None => Vec::new(),
            Some(host) => match observe::cluster(access, host).await {
                Ok(view) => not_following(&view),
                Err(_) => vec![leader.to_owned()],
            },
        };
        if waiting.is_empty() || Instant::now() > deadline {
            return waiting;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn not_following(view: &ClusterDocument) -> Vec<String> {
    let followers = view.members.iter().filter(|member| !is_leader(member.role.as_str()));
    let behind =
        followers.filter(|member| !matches!(member.state.as_str(), "streaming" | "in archive recovery"));
    behind.map(|member| member.name.clone()).collect()
}
