//! Whether hosts may leave a cluster, and what has to happen first. Pure.

use super::status::{Member, Status, is_leader};

/// Who leaves a cluster as it is now, and what that asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The leader is among those that leave: this member takes over first.
    pub successor: Option<String>,
    /// Members of the store that leave.
    pub from_dcs: Vec<String>,
}

/// Why they may not leave now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MayNotLeave {
    #[error("nobody leads the cluster")]
    NoLeader,
    #[error("no PostgreSQL would be left")]
    NothingLeft,
    #[error("{leader} leads, and no member that stays could take over: {others}")]
    NoSuccessor { leader: String, others: String },
    #[error("{kind} would be left with {healthy} healthy members of {size}; it needs {quorum}")]
    NoQuorum { kind: &'static str, healthy: usize, size: usize, quorum: usize },
}

impl MayNotLeave {
    /// What the operator does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::NoLeader => "See what is wrong with `pgfleet status`, and bring the cluster up first.",
            Self::NothingLeft => "To give up the whole cluster, use `pgfleet destroy`.",
            Self::NoSuccessor { .. } => {
                "Wait until a standby that stays streams from the leader (`pgfleet status`), or add one first."
            }
            Self::NoQuorum { .. } => {
                "Bring the unhealthy members back, or replace them one at a time (`pgfleet replace`), before others leave."
            }
        }
    }
}

/// Judges whether the hosts of these names may leave.
pub fn leaving(status: &Status, hosts: &[&str]) -> Result<Leaving, MayNotLeave> {
    let leaves = |name: &str| hosts.contains(&name);
    let (go, stay): (Vec<&Member>, Vec<&Member>) =
        status.members.iter().partition(|member| leaves(&member.name));
    if stay.is_empty() {
        return Err(MayNotLeave::NothingLeft);
    }
    let from_dcs: Vec<_> = status.dcs.members.iter().filter(|member| leaves(&member.name)).collect();
    if !from_dcs.is_empty() {
        let size = status.dcs.members.len() - from_dcs.len();
        let healthy = status.dcs.members.iter().filter(|one| one.healthy && !leaves(&one.name)).count();
        let quorum = size / 2 + 1;
        if healthy < quorum {
            return Err(MayNotLeave::NoQuorum { kind: status.dcs.kind, healthy, size, quorum });
        }
    }
    let leader = status.leader().ok_or(MayNotLeave::NoLeader)?;
    let successor = if go.contains(&leader) { Some(successor(leader, &stay)?) } else { None };
    Ok(Leaving { successor, from_dcs: from_dcs.into_iter().map(|member| member.name.clone()).collect() })
}

/// The standby that stays and lacks least; one whose commits are waited for before the others.
fn successor(leader: &Member, stay: &[&Member]) -> Result<String, MayNotLeave> {
    let fit = stay.iter().filter(|member| {
        !is_leader(&member.role) && member.state == "streaming" && member.timeline == leader.timeline
    });
    let best = fit.min_by_key(|member| {
        (!member.role.ends_with("_standby"), member.lag_bytes.unwrap_or(u64::MAX), member.name.clone())
    });
    best.map(|member| member.name.clone()).ok_or_else(|| MayNotLeave::NoSuccessor {
        leader: leader.name.clone(),
        others: stay
            .iter()
            .map(|one| format!("{} is {}", one.name, one.state))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Dcs, DcsMember};

    /// `pg-1` leads; `states` are those of pg-2, pg-3, ...; `dcs` the health of etcd-1, etcd-2, ...
    fn status(states: &[&str], dcs: &[bool]) -> Status {
        let member = |number: usize, role: &str, state: &str| Member {
            name: format!("pg-{number}"),
            host: String::new(),
            port: 5432,
            role: role.to_owned(),
            state: state.to_owned(),
            timeline: "1".parse().ok(),
            lag_bytes: Some(number as u64),
            pending_restart: false,
            pending_restart_reason: Default::default(),
        };
        let mut members = vec![member(1, "leader", "running")];
        members.extend(states.iter().enumerate().map(|(index, state)| member(index + 2, "replica", state)));
        let dcs = dcs.iter().enumerate().map(|(index, healthy)| DcsMember {
            name: format!("etcd-{}", index + 1),
            healthy: *healthy,
            leader: index == 0,
        });
        Status {
            cluster: "test".to_owned(),
            healthy: true,
            problems: Vec::new(),
            members,
            dcs: Dcs { kind: "etcd", members: dcs.collect() },
            haproxy: Vec::new(),
            vip: None,
            pause: false,
            scheduled_switchover: None,
        }
    }

    #[test]
    fn who_may_leave() {
        let three = [true, true, true];
        let go = |successor: Option<&str>, dcs: &[&str]| {
            Ok(Leaving {
                successor: successor.map(str::to_owned),
                from_dcs: dcs.iter().map(|&name| name.to_owned()).collect(),
            })
        };
        let both = ["streaming", "streaming"];
        type Case<'a> = (&'a [&'a str], &'a [bool], &'a [&'a str], Result<Leaving, &'a str>);
        let cases: &[Case<'_>] = &[
            (&both, &three, &["pg-2"], go(None, &[])),
            (&both, &three, &["pg-1"], go(Some("pg-2"), &[])),
            (&both, &three, &["pg-1", "pg-2"], go(Some("pg-3"), &[])),
            (&["starting", "streaming"], &three, &["pg-1"], go(Some("pg-3"), &[])),
            (
                &["starting"],
                &three,
                &["pg-1"],
                Err("pg-1 leads, and no member that stays could take over: pg-2 is starting"),
            ),
            (&both, &three, &["pg-1", "pg-2", "pg-3"], Err("no PostgreSQL would be left")),
            (&both, &three, &["etcd-1"], go(None, &["etcd-1"])),
            // The dead one may go; a healthy one beside it may not.
            (&both, &[true, true, false], &["etcd-3"], go(None, &["etcd-3"])),
            (
                &both,
                &[true, true, false],
                &["etcd-2"],
                Err("etcd would be left with 1 healthy members of 2; it needs 2"),
            ),
            (&both, &[true], &["etcd-1"], Err("etcd would be left with 0 healthy members of 0; it needs 1")),
        ];
        for (states, dcs, hosts, expected) in cases {
            let got = leaving(&status(states, dcs), hosts).map_err(|why| why.to_string());
            assert_eq!(got, expected.clone().map_err(str::to_owned), "{hosts:?} of {states:?}, {dcs:?}");
        }
    }
}
