//! Restarts of PostgreSQL, one member after another, under a client that writes all the while.
//!
//! `order` (pure) says in which order, `gate` (pure) what must hold before and after each step, `run`
//! carries it out. Stopped at any point the cluster serves, and the same request goes on: it looks anew at
//! who still waits for a restart.

mod gate;
mod order;
mod run;

pub use gate::{not_ready, reasons};
pub use order::{LIMITS, Refusal, Step};
pub use run::{Done, GO_ON, News, Rolled, Stop};

use super::{
    access::Access,
    assess, observe,
    observe::Observed,
    operator::{self, RequestError},
    status::{Status, is_leader},
    topology::Topology,
};
use order::Subject;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// All, where none is named.
    pub members: Vec<String>,
    /// Only those whose settings wait for a restart.
    pub pending: bool,
    /// Go on although others are not well.
    pub force: bool,
    /// Stop before the next member once nobody could write for longer.
    pub max_write_gap: Option<Duration>,
    /// Each member is to start anew after the request: what the switchover has started does not count.
    pub anew: bool,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum RollingError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the cluster is paused: if something goes wrong during the switchover, nobody takes over")]
    Paused,
    #[error("the agent on {host} does not answer: {why}")]
    Silent { host: String, why: String },
}

impl RollingError {
    pub fn next_step(&self) -> String {
        match self {
            Self::Request(error) => error.next_step(),
            Self::Refused(refusal) => refusal.next_step(),
            Self::Paused => "Run `pgfleet resume` first, or accept that with `--force`.".to_owned(),
            Self::Silent { host, .. } => format!(
                "See `journalctl -u pgfleet-agent` on {host}; `--force` restarts the others without it."
            ),
        }
    }
}

/// Restarts that are planned and not yet begun.
pub struct Rolling<'a> {
    topology: &'a Topology,
    access: &'a Access,
    wish: &'a Wish,
    steps: Vec<Step>,
    /// When each member's server was started, before anything was done.
    started: HashMap<String, Option<String>>,
}

impl<'a> Rolling<'a> {
    /// Looks at the members, and finds the order.
    pub async fn plan(
        topology: &'a Topology,
        access: &'a Access,
        wish: &'a Wish,
    ) -> Result<Rolling<'a>, RollingError> {
        let named = operator::named(topology, &wish.members)?;
        let named: Vec<&str> = named.iter().map(|agent| agent.name.as_str()).collect();
        let observed = observe::observe(topology, access).await;
        let status = assess::assess(topology, &observed);
        if !wish.force && !wish.pending {
            silent(&observed, &named)?;
        }
        let subjects = subjects(topology, &observed, &status, &named, wish.pending);
        let steps = order::order(&subjects, wish.force)?;
        let switches = steps.iter().any(|step| matches!(step, Step::Switchover { .. }));
        if status.pause && switches && !wish.force {
            return Err(RollingError::Paused);
        }
        let started = topology.agents.iter().map(|agent| {
            let node = observed.nodes.get(&agent.name).and_then(|node| node.as_ref().ok());
            (agent.name.to_string(), node.and_then(|node| node.postmaster_start_time.clone()))
        });
        Ok(Self { topology, access, wish, steps, started: started.collect() })
    }

    /// What is done, in this order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// Refuses when a member that is named does not answer.
fn silent(observed: &Observed, named: &[&str]) -> Result<(), RollingError> {
    let unreachable = observed.unreachable.iter().map(|(name, (why, _))| (name, why));
    let mute = observed.nodes.iter().filter_map(|(name, node)| Some((name, node.as_ref().err()?)));
    match unreachable.chain(mute).find(|(name, _)| named.contains(&name.as_str())) {
        None => Ok(()),
        Some((host, why)) => Err(RollingError::Silent { host: host.to_string(), why: why.clone() }),
    }
}

fn subjects(
    topology: &Topology,
    observed: &Observed,
    status: &Status,
    named: &[&str],
    pending_only: bool,
) -> Vec<Subject> {
    let leader = status.leader();
    let subject = |member: &super::Member| {
        let host = topology.agent(&member.name)?;
        let node = observed.nodes.get(&host.name).and_then(|node| node.as_ref().ok());
        let named = named.contains(&member.name.as_str()) && node.is_some();
        Some(Subject {
            name: member.name.clone(),
            leads: is_leader(&member.role),
            well: gate::is_well(member, leader),
            nofailover: node.is_some_and(|node| node.tags.nofailover()),
            synchronous: member.role.ends_with("_standby"),
            lag_bytes: member.lag_bytes.unwrap_or(u64::MAX),
            wanted: named && (member.pending_restart || !pending_only),
            pending: member
                .pending_restart_reason
                .iter()
                .map(|(name, change)| (name.clone(), change.clone()))
                .collect(),
        })
    };
    status.members.iter().filter_map(subject).collect()
}

/// Waits until the agents have made up their minds about changed settings, which they hear of through the
/// store: what waits for a restart has been the same for a moment. Returns the members that wait.
pub async fn settled(topology: &Topology, access: &Access) -> Vec<String> {
    const QUIET: Duration = Duration::from_millis(1500);
    const LIMIT: Duration = Duration::from_secs(20);
    let begun = Instant::now();
    let mut last: Option<(Vec<Option<String>>, Instant)> = None;
    loop {
        let nodes = topology.agents.iter().map(|agent| observe::node(access, agent));
        let nodes = futures_util::future::join_all(nodes).await;
        let told = nodes.iter().map(|node| {
            let node = node.as_ref().ok().filter(|node| node.pending_restart)?;
            Some(reasons(&node.pending_restart_reason))
        });
        let told: Vec<Option<String>> = told.collect();
        let since = match &last {
            Some((before, since)) if *before == told => *since,
            _ => Instant::now(),
        };
        if since.elapsed() >= QUIET || begun.elapsed() >= LIMIT {
            let waiting = topology.agents.iter().zip(told).filter(|(_, told)| told.is_some());
            return waiting.map(|(agent, _)| agent.name.to_string()).collect();
        }
        last = Some((told, since));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{AgentHost, DcsKind};
    use serde_json::{Value, json};

    fn topology() -> Topology {
        let agents = ["a", "b", "c"].map(|name| AgentHost {
            name: name.parse().unwrap(),
            address: name.to_owned(),
            api_port: 8008,
            postgres_port: 5432,
            api_login: None,
        });
        Topology {
            cluster: "demo".parse().unwrap(),
            dcs: DcsKind::Etcd,
            dcs_hosts: Vec::new(),
            agents: agents.into(),
            proxies: Vec::new(),
            vip: None,
            superuser: None,
        }
    }

    /// `a` leads; `b` streams, waits for a restart and is never to lead; `c` does not answer.
    fn observed() -> Observed {
        let node = |document: Value| Ok(serde_json::from_value(document).unwrap());
        let mut observed = Observed::default();
        observed.nodes.insert(
            "a".parse().unwrap(),
            node(json!({"state": "running", "role": "primary", "timeline": 1, "patroni": {"name": "a"}})),
        );
        let pending = json!({"max_connections": {"old_value": "100", "new_value": "200"}});
        observed.nodes.insert(
            "b".parse().unwrap(),
            node(json!({"state": "running", "role": "replica", "timeline": 1, "quorum_standby": true,
                "replication_state": "streaming", "tags": {"nofailover": true}, "pending_restart": true,
                "pending_restart_reason": pending, "patroni": {"name": "b"}})),
        );
        observed.nodes.insert("c".parse().unwrap(), Err("connection refused".to_owned()));
        observed
    }

    #[test]
    fn what_members_say_becomes_what_the_order_is_found_by() {
        let (topology, observed) = (topology(), observed());
        let status = assess::assess(&topology, &observed);
        let told = |pending_only| {
            let subjects = subjects(&topology, &observed, &status, &["a", "b", "c"], pending_only);
            let line = |subject: Subject| {
                let flags = [
                    (subject.leads, "leads"),
                    (subject.well, "well"),
                    (subject.nofailover, "nofailover"),
                    (subject.synchronous, "synchronous"),
                    (subject.wanted, "wanted"),
                ];
                let flags = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag);
                let pending = subject.pending.iter().map(|(name, _)| name.as_str());
                [subject.name.as_str()].into_iter().chain(flags).chain(pending).collect::<Vec<_>>().join(" ")
            };
            subjects.into_iter().map(line).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(
            told(false),
            "a leads well wanted\nb well nofailover synchronous wanted max_connections\nc"
        );
        assert_eq!(told(true), "a leads well\nb well nofailover synchronous wanted max_connections\nc");
    }

    #[test]
    fn who_is_named_has_to_answer() {
        let observed = observed();
        assert!(silent(&observed, &["a", "b"]).is_ok());
        let refused = silent(&observed, &["a", "c"]).unwrap_err();
        assert_eq!(refused.to_string(), "the agent on c does not answer: connection refused");
        assert!(refused.next_step().contains("--force"), "{}", refused.next_step());
    }
}
