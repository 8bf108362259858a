//! The state of a cluster as it is told: the document of `pgfleet status --format json`.

use crate::{
    contract::{PendingChange, ScheduledSwitchover},
    model::Timeline,
};
use indexmap::IndexMap;
use serde::Serialize;

/// What is known of a cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub cluster: String,
    /// Nothing is wrong: `problems` is empty.
    pub healthy: bool,
    /// Sentences: what is wrong, and what to do.
    pub problems: Vec<String>,
    /// Automatic failover is suspended.
    pub pause: bool,
    /// A switchover that waits for its time.
    pub scheduled_switchover: Option<ScheduledSwitchover>,
    pub members: Vec<Member>,
    pub dcs: Dcs,
    pub haproxy: Vec<Haproxy>,
    /// `null` where the inventory has none.
    pub vip: Option<Vip>,
}

/// PostgreSQL on one host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    pub name: String,
    /// The address that other hosts use.
    pub host: String,
    pub port: u16,
    /// `leader`, `standby_leader`, `sync_standby`, `quorum_standby`, `replica`, or `unknown`.
    pub role: String,
    /// A state of PostgreSQL in Patroni's words; `unreachable` when nobody answers there.
    pub state: String,
    pub timeline: Option<Timeline>,
    /// Bytes of WAL that it lacks; `null` for the leader, and where it is not known.
    pub lag_bytes: Option<u64>,
    pub pending_restart: bool,
    /// The settings that wait for the restart, where the agent says which.
    pub pending_restart_reason: IndexMap<String, PendingChange>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dcs {
    /// `etcd` or `zookeeper`.
    pub kind: &'static str,
    pub members: Vec<DcsMember>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DcsMember {
    pub name: String,
    pub healthy: bool,
    pub leader: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Haproxy {
    pub name: String,
    pub host: String,
    pub frontends: Vec<Frontend>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frontend {
    pub port: u16,
    /// `primary` or `replica`.
    pub serves: &'static str,
    /// How many servers behind it take connections.
    pub backends_up: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vip {
    pub address: String,
    /// The one host that has it.
    pub holder: Option<String>,
}

impl Member {
    /// Whether its agent answers.
    pub fn is_there(&self) -> bool {
        self.state != "unreachable"
    }
}

impl Status {
    /// The member that leads, where exactly one does.
    pub fn leader(&self) -> Option<&Member> {
        let mut leaders = self.members.iter().filter(|member| is_leader(&member.role));
        let leader = leaders.next()?;
        leaders.next().is_none().then_some(leader)
    }
}

/// Whether a role is that of a leader.
pub fn is_leader(role: &str) -> bool {
    matches!(role, "leader" | "standby_leader")
}
