//! What operators ask of agents: restart, reload, reinitialize, failover, a change of the configuration
//! that all members share. One request each, in the words of Patroni's REST API.

use super::{
    access::Access,
    http::{self, Answer, Question},
    observe,
    status::is_leader,
    topology::{AgentHost, Topology},
};
use crate::{
    contract::{ClusterDocument, SwitchoverRequest},
    diagnostic,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long an agent may take over what it does at once.
const AT_ONCE: Duration = Duration::from_secs(15);

/// How long a restart may take: a shutdown writes what is dirty, a start may have to recover.
pub const RESTART: Duration = Duration::from_secs(900);

/// How long a change of the leader may take.
pub const LEADERSHIP: Duration = Duration::from_secs(60);

/// How often the members are asked whether it has happened.
const POLL: Duration = Duration::from_millis(200);

/// A request that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no agent answers")]
    Nobody,
    #[error("`{wanted}` is not a member; there are {known}")]
    UnknownMember { wanted: String, known: String, nearest: Option<String> },
    #[error("the agent on {host} does not answer: {why}")]
    NoAnswer { host: String, why: String },
    #[error("{host} refuses (code {code}): {said}")]
    Refused { host: String, code: u16, said: String },
    #[error("{host} leads, and only a replica can be copied anew")]
    Leads { host: String },
    #[error("`{0}` leads already")]
    LeadsAlready(String),
    #[error("`{leader}` leads")]
    SomebodyLeads { leader: String, to: String },
    #[error("{what} has not been seen after {} s", .within.as_secs())]
    NotSeen { what: String, within: Duration },
    #[error("the wait for it was given up")]
    GivenUp,
}

impl RequestError {
    /// What the operator does next.
    pub fn next_step(&self) -> String {
        match self {
            Self::UnknownMember { nearest: Some(nearest), .. } => format!("Did you mean `{nearest}`?"),
            Self::UnknownMember { .. } => "Name one of them.".to_owned(),
            Self::Nobody | Self::NotSeen { .. } => "See what is wrong with `pgfleet status`.".to_owned(),
            Self::NoAnswer { host, .. } => format!("See `journalctl -u pgfleet-agent` on {host}."),
            Self::Refused { code: 401 | 403, .. } => {
                "Give the inventory the user and the password of the agents' REST API: \
                 `agent: {restapi: {authentication: {username: …, password: …}}}`."
                    .to_owned()
            }
            Self::Refused { host, .. } => {
                format!("See `pgfleet status`, and `journalctl -u pgfleet-agent` on {host}.")
            }
            Self::Leads { .. } => {
                "Make another member the leader first: `pgfleet switchover`. Then ask again.".to_owned()
            }
            Self::LeadsAlready(_) => "Nothing is to be done.".to_owned(),
            Self::SomebodyLeads { to, .. } => format!(
                "Let it give way in order, which loses nothing: `pgfleet switchover --to {to}`. \
                 Or fail over all the same, with `--force`."
            ),
            Self::GivenUp => "What was asked for goes on: see `pgfleet status`.".to_owned(),
        }
    }
}

/// The agents of the members that are named; all, where none is.
pub fn named<'a>(topology: &'a Topology, names: &[String]) -> Result<Vec<&'a AgentHost>, RequestError> {
    if names.is_empty() {
        return Ok(topology.agents.iter().collect());
    }
    names.iter().map(|name| member(topology, name)).collect()
}

/// The agent of one member.
pub fn member<'a>(topology: &'a Topology, name: &str) -> Result<&'a AgentHost, RequestError> {
    topology.agent(name).ok_or_else(|| {
        let known: Vec<_> = topology.agents.iter().map(|agent| agent.name.as_str()).collect();
        let nearest = diagnostic::nearest(name, known.iter().copied()).map(str::to_owned);
        RequestError::UnknownMember { wanted: name.to_owned(), known: known.join(", "), nearest }
    })
}

/// Restarts PostgreSQL of one member, and waits until it has.
pub async fn restart(access: &Access, agent: &AgentHost) -> Result<(), RequestError> {
    ask(access, agent, Question::post("/restart", json!({}), RESTART)).await.map(drop)
}

/// Makes one agent read its configuration again, as SIGHUP does.
pub async fn reload(access: &Access, agent: &AgentHost) -> Result<(), RequestError> {
    ask(access, agent, Question::post("/reload", json!({}), AT_ONCE)).await.map(drop)
}

/// Throws a replica's data away and copies them anew. Returns once it streams again.
pub async fn reinitialize(
    topology: &Topology,
    access: &Access,
    name: &str,
    (force, from_leader): (bool, bool),
    cancel: &CancellationToken,
    mut tell: impl FnMut(&str),
) -> Result<(), RequestError> {
    let agent = member(topology, name)?;
    if view(topology, access).await.is_some_and(|view| leader_of(&view).as_deref() == Some(name)) {
        return Err(RequestError::Leads { host: name.to_owned() });
    }
    let started =
        async || observe::node(access, agent).await.ok().and_then(|node| node.postmaster_start_time);
    let before = started().await;
    let body = json!({"force": force, "from_leader": from_leader});
    ask(access, agent, Question::post("/reinitialize", body, AT_ONCE)).await?;
    loop {
        let view = view(topology, access).await;
        let member = view.and_then(|view| view.members.into_iter().find(|member| member.name == name));
        let state = member.map_or_else(|| "not in the list of members".to_owned(), |member| member.state);
        // It streams for a moment yet, and does again when it is done: then another server does.
        if state == "streaming" && started().await.is_some_and(|now| before.as_ref() != Some(&now)) {
            return Ok(());
        }
        tell(&format!("{name} to be copied; it is {state}"));
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = cancel.cancelled() => return Err(RequestError::GivenUp),
        }
    }
}

/// Members that have taken a change of the shared configuration, and those that have not yet.
#[derive(Clone, Debug, Serialize)]
pub struct Paused {
    pub cluster: String,
    pub pause: bool,
    /// Members that do not act by it yet.
    pub waiting: Vec<String>,
}

/// Suspends automatic failover, or takes it up again. With `wait`, returns when all members know.
pub async fn pause(
    topology: &Topology,
    access: &Access,
    pause: bool,
    wait: Option<Duration>,
    mut tell: impl FnMut(&str),
) -> Result<Paused, RequestError> {
    let wanted = if pause { Value::Bool(true) } else { Value::Null };
    ask_anyone(topology, access, || Question::patch("/config", json!({"pause": wanted}), AT_ONCE)).await?;
    let deadline = Instant::now() + wait.unwrap_or_default();
    loop {
        let nodes = topology.agents.iter().map(|agent| async move {
            let node = observe::node(access, agent).await;
            (agent.name.to_string(), node.is_ok_and(|node| node.pause == pause))
        });
        let nodes = futures_util::future::join_all(nodes).await;
        let waiting: Vec<_> = nodes.into_iter().filter(|(_, done)| !done).map(|(name, _)| name).collect();
        if waiting.is_empty() || Instant::now() >= deadline {
            return Ok(Paused { cluster: topology.cluster.to_string(), pause, waiting });
        }
        tell(&format!("{} to take it", waiting.join(", ")));
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a failover to `to` makes sense, and who leads. While somebody does, it has to be forced.
pub async fn check_failover(
    topology: &Topology,
    access: &Access,
    to: &str,
    force: bool,
) -> Result<Option<String>, RequestError> {
    member(topology, to)?;
    match leader(topology, access).await {
        Some(leader) if leader == to => Err(RequestError::LeadsAlready(leader)),
        Some(leader) if !force => Err(RequestError::SomebodyLeads { leader, to: to.to_owned() }),
        leader => Ok(leader),
    }
}

/// Makes `to` the leader whatever the present one does. Returns when it leads.
pub async fn failover(
    topology: &Topology,
    access: &Access,
    to: &str,
    mut tell: impl FnMut(&str),
) -> Result<(), RequestError> {
    let candidate = member(topology, to)?;
    let request = SwitchoverRequest { candidate: Some(to.to_owned()), ..SwitchoverRequest::default() };
    let body = json!(request);
    let question = || Question::post("/failover", body.clone(), LEADERSHIP);
    match ask(access, candidate, question()).await {
        Err(RequestError::NoAnswer { .. }) => {
            ask_anyone(topology, access, question).await?;
        }
        answer => {
            answer?;
        }
    }
    let deadline = Instant::now() + LEADERSHIP;
    loop {
        let view = view(topology, access).await;
        let leader = view.as_ref().and_then(leader_of);
        if leader.as_deref() == Some(to) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(RequestError::NotSeen { what: format!("{to} as leader"), within: LEADERSHIP });
        }
        let leads = leader.unwrap_or_else(|| "nobody".to_owned());
        tell(&format!("{to} to lead; {leads} does"));
        tokio::time::sleep(POLL).await;
    }
}

/// Who leads, as the members know it.
async fn leader(topology: &Topology, access: &Access) -> Option<String> {
    leader_of(&view(topology, access).await?)
}

fn leader_of(view: &ClusterDocument) -> Option<String> {
    view.members.iter().find(|member| is_leader(member.role.as_str())).map(|member| member.name.clone())
}

/// The list of members as the first agent that answers has it.
async fn view(topology: &Topology, access: &Access) -> Option<ClusterDocument> {
    for agent in &topology.agents {
        if let Ok(view) = observe::cluster(access, agent).await {
            return Some(view);
        }
    }
    None
}

/// Asks one agent after the other, until one answers.
async fn ask_anyone<'a>(
    topology: &Topology,
    access: &Access,
    question: impl Fn() -> Question<'a>,
) -> Result<Answer, RequestError> {
    let mut last = RequestError::Nobody;
    for agent in &topology.agents {
        match ask(access, agent, question()).await {
            Err(error @ RequestError::NoAnswer { .. }) => last = error,
            answer => return answer,
        }
    }
    Err(last)
}

/// Sends one request; an answer that refuses is an error.
pub async fn ask<'a>(
    access: &Access,
    agent: &'a AgentHost,
    question: Question<'a>,
) -> Result<Answer, RequestError> {
    let no_answer = |why: String| RequestError::NoAnswer { host: agent.name.to_string(), why };
    let stream = access.service(&agent.name, &agent.address, agent.api_port).await;
    let stream = stream.map_err(|error| no_answer(error.to_string()))?;
    let question = Question { login: agent.api_login.as_ref(), ..question };
    let answer = http::ask(stream, &agent.address, question).await;
    let answer = answer.map_err(|error| no_answer(error.to_string()))?;
    if answer.code < 300 {
        return Ok(answer);
    }
    Err(RequestError::Refused { host: agent.name.to_string(), code: answer.code, said: answer.text() })
}
