//! Health of a PostgreSQL cluster, as its agents tell it.

use serde::{Deserialize, Serialize};

/// `postgres_cluster`: waits until the cluster has one leader and every expected member runs; replicas
/// stream on the leader's timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresCluster {
    /// The agent's REST API.
    #[serde(default = "super::agent_url")]
    pub url: String,
    /// Names of the expected members; those that the cluster knows when empty.
    #[serde(default)]
    pub members: Vec<String>,
    /// How far a replica may be behind, in bytes; not looked at when absent.
    #[serde(default)]
    pub max_lag: Option<u64>,
    /// No member may still need a restart for a changed parameter.
    #[serde(default)]
    pub no_pending_restart: bool,
    /// How long to wait, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
    /// The unit whose last journal lines tell why the agent isn't up.
    #[serde(default = "unit")]
    pub unit: String,
}

fn unit() -> String {
    "pgfleet-agent.service".to_owned()
}
