//! Health of an etcd member.

use serde::{Deserialize, Serialize};

/// `etcd_member`: waits until this member is healthy and the cluster has exactly the expected members.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdMember {
    /// The client URL of this member.
    #[serde(default = "endpoint", alias = "url")]
    pub endpoint: String,
    /// Names of the expected members; not compared when empty.
    #[serde(default)]
    pub members: Vec<String>,
    /// How long to wait, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
    /// The unit whose last journal lines tell why it isn't up.
    #[serde(default = "unit")]
    pub unit: String,
}

fn endpoint() -> String {
    "http://127.0.0.1:2379".to_owned()
}

fn unit() -> String {
    "etcd.service".to_owned()
}
