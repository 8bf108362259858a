//! `GET /patroni`: a node's own account of itself.

use super::{PostgresState, Role, member::Tags, member::is_false};
use crate::model::{Lsn, Timeline};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The body of `GET /patroni` and of every health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub state: Option<PostgresState>,
    /// `2026-11-20 18:12:53.123456+00:00`; absent while PostgreSQL does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postmaster_start_time: Option<String>,
    pub role: Role,
    /// `server_version_num`, for example 170002.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xlog: Option<Xlog>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// The standbys connected to this node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replication: Vec<ReplicationRow>,
    /// `streaming` or `in archive recovery`, on a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub sync_standby: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub quorum_standby: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub pause: bool,
    /// Present and true when no one holds the leader key, or the store cannot be read.
    #[serde(skip_serializing_if = "is_false")]
    pub cluster_unlocked: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub failsafe_mode_is_active: bool,
    /// Seconds since the epoch at which the store was last read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dcs_last_seen: Option<u64>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_system_identifier: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub pending_restart_reason: IndexMap<String, PendingChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    #[serde(skip_serializing_if = "is_false")]
    pub watchdog_failed: bool,
    /// The program that answers, under the key that existing tools read.
    pub patroni: Software,
}

/// Which agent answers, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Software {
    pub version: String,
    pub scope: String,
    pub name: String,
}

/// WAL positions: `location` on a primary, the others on a standby.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Xlog {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_location: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_location: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicationRow {
    pub usename: String,
    pub application_name: String,
    pub client_addr: Option<String>,
    pub state: String,
    pub sync_state: String,
    pub sync_priority: i32,
}

/// A parameter whose new value waits for a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PendingChange {
    pub old_value: Option<String>,
    pub new_value: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_answer_that_patroni_gave() {
        let text = r#"{"state":"running","postmaster_start_time":"2026-11-20 17:01:02.3+00:00","role":"primary",
            "server_version":150018,"xlog":{"location":67109184},"timeline":1,
            "replication":[{"usename":"replicator","application_name":"pg2","client_addr":"10.0.0.2",
                "state":"streaming","sync_state":"async","sync_priority":0}],
            "dcs_last_seen":1795194062,"database_system_identifier":"7575028021385175078",
            "patroni":{"version":"4.0.7","scope":"demo","name":"pg1"}}"#;
        let status: NodeStatus = serde_json::from_str(text).unwrap();
        assert_eq!(status.replication[0].application_name, "pg2");
        assert_eq!(serde_json::to_value(&status).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }
}
