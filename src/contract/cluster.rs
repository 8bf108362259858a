//! `GET /cluster`: all members, as the store knows them.

use super::{DynamicConfig, PendingChange, Snapshot, member::Tags, member::is_false, shown_restart};
use crate::model::{MemberName, Scope, Timeline};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The body of `GET /cluster`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterDocument {
    pub members: Vec<ClusterMember>,
    pub scope: String,
    #[serde(skip_serializing_if = "is_false")]
    pub pause: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_switchover: Option<ScheduledSwitchover>,
}

/// A switchover that waits for its time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScheduledSwitchover {
    pub at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// One line of the list of members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMember {
    pub name: String,
    pub role: ClusterRole,
    /// A state of PostgreSQL; on a standby that replicates, how: `streaming`, `in archive recovery`.
    pub state: String,
    pub api_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub pending_restart_reason: IndexMap<String, PendingChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lag: Option<Lag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lag: Option<Lag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
}

/// What a member is, in the list of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterRole {
    Leader,
    StandbyLeader,
    SyncStandby,
    QuorumStandby,
    #[default]
    #[serde(other)]
    Replica,
}

impl ClusterRole {
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterRole::Leader => "leader",
            ClusterRole::StandbyLeader => "standby_leader",
            ClusterRole::SyncStandby => "sync_standby",
            ClusterRole::QuorumStandby => "quorum_standby",
            ClusterRole::Replica => "replica",
        }
    }
}

impl std::fmt::Display for ClusterRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Bytes behind the leader as the store last knew it, or the word `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Lag {
    Bytes(u64),
    Unknown(String),
}

impl Lag {
    pub fn unknown() -> Self {
        Lag::Unknown("unknown".to_owned())
    }

    pub fn bytes(&self) -> Option<u64> {
        match self {
            Lag::Bytes(bytes) => Some(*bytes),
            Lag::Unknown(_) => None,
        }
    }
}

impl ClusterDocument {
    /// The list of members that follows from a snapshot of the store.
    pub fn of(scope: &Scope, snapshot: &Snapshot, config: &DynamicConfig) -> Self {
        let members =
            snapshot.members.keys().map(|name| ClusterMember::of(name, snapshot, config)).collect::<Vec<_>>();
        let scheduled_switchover = snapshot.failover.as_ref().and_then(|failover| {
            let failover = &failover.value;
            Some(ScheduledSwitchover {
                at: failover.scheduled_at.clone()?,
                from: failover.leader.clone(),
                to: failover.member.clone(),
            })
        });
        Self { members, scope: scope.to_string(), pause: config.pause, scheduled_switchover }
    }
}

impl ClusterMember {
    fn of(name: &MemberName, snapshot: &Snapshot, config: &DynamicConfig) -> Self {
        let member = &snapshot.members[name];
        let leads = snapshot.leader.as_ref().is_some_and(|leader| leader.name == *name);
        let role = if leads && config.standby_cluster.is_some() {
            ClusterRole::StandbyLeader
        } else if leads {
            ClusterRole::Leader
        } else if config.synchronous_mode.is_on() && snapshot.is_synchronous(name) {
            if config.synchronous_mode.is_quorum() {
                ClusterRole::QuorumStandby
            } else {
                ClusterRole::SyncStandby
            }
        } else {
            ClusterRole::Replica
        };
        let state = match (&member.replication_state, role) {
            (Some(replication), role) if role != ClusterRole::Leader && !replication.is_empty() => {
                replication.clone()
            }
            _ => member.state.map(|state| state.to_string()).unwrap_or_default(),
        };
        let address = member.postgres_address();
        let mut line = Self {
            name: name.to_string(),
            role,
            state,
            api_url: member.api_url.clone(),
            port: address.as_ref().map(|(_, port)| *port),
            host: address.map(|(host, _)| host),
            timeline: member.timeline,
            pending_restart: member.pending_restart,
            pending_restart_reason: member.pending_restart_reason.clone(),
            scheduled_restart: member.scheduled_restart.as_ref().map(shown_restart),
            tags: member.tags.clone(),
            ..Self::default()
        };
        if !leads {
            let end = snapshot.status.as_ref().map(|status| status.value.optime).unwrap_or_default();
            let place = |lsn: Option<crate::model::Lsn>| match lsn.filter(|lsn| lsn.0 != 0) {
                Some(lsn) => (Some(lsn.to_string()), Some(Lag::Bytes(end.bytes_since(lsn)))),
                None => (Some("unknown".to_owned()), Some(Lag::unknown())),
            };
            (line.receive_lsn, line.receive_lag) = place(member.receive_lsn);
            (line.replay_lsn, line.replay_lag) = place(member.replay_lsn);
            (line.lsn, line.lag) = place(member.position());
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn says_who_leads_and_how_far_the_others_are() {
        let mut snapshot = Snapshot::default();
        for (name, document) in [
            (
                "pg1",
                json!({"conn_url": "postgres://10.0.0.1:5432/postgres", "api_url": "http://10.0.0.1:8008/patroni",
                "state": "running", "role": "primary", "timeline": 3, "xlog_location": 200}),
            ),
            (
                "pg2",
                json!({"conn_url": "postgres://10.0.0.2:5432/postgres", "state": "running", "role": "replica",
                "replication_state": "streaming", "timeline": 3, "xlog_location": 150, "receive_lsn": 150, "replay_lsn": 100}),
            ),
            ("pg3", json!({"state": "creating replica", "role": "uninitialized", "tags": {"nosync": true}})),
        ] {
            snapshot.members.insert(name.parse().unwrap(), serde_json::from_value(document).unwrap());
        }
        snapshot.leader = Some(super::super::Leader::of("pg1".parse().unwrap(), 7));
        snapshot.status = Some(super::super::Versioned::new(
            super::super::StatusDocument { optime: crate::model::Lsn(190), ..Default::default() },
            9,
        ));
        let document = ClusterDocument::of(&"demo".parse().unwrap(), &snapshot, &DynamicConfig::default());
        insta::assert_json_snapshot!(document, @r#"
{
  "members": [
    {
      "name": "pg1",
      "role": "leader",
      "state": "running",
      "api_url": "http://10.0.0.1:8008/patroni",
      "host": "10.0.0.1",
      "port": 5432,
      "timeline": 3
    },
    {
      "name": "pg2",
      "role": "replica",
      "state": "streaming",
      "api_url": "",
      "host": "10.0.0.2",
      "port": 5432,
      "timeline": 3,
      "receive_lsn": "0/96",
      "receive_lag": 40,
      "replay_lsn": "0/64",
      "replay_lag": 90,
      "lsn": "0/96",
      "lag": 40
    },
    {
      "name": "pg3",
      "role": "replica",
      "state": "creating replica",
      "api_url": "",
      "tags": {
        "nosync": true
      },
      "receive_lsn": "unknown",
      "receive_lag": "unknown",
      "replay_lsn": "unknown",
      "replay_lag": "unknown",
      "lsn": "unknown",
      "lag": "unknown"
    }
  ],
  "scope": "demo"
}
"#);
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<ClusterDocument>(&text).unwrap(), document);
    }
}
