//! What the store holds of one cluster, at one revision.

use super::{DynamicConfig, MaintenanceMark, MemberDocument};
use crate::model::{Lsn, MemberName, Timeline};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// A point in the store's history, or of one key in it: etcd's `mod_revision`, ZooKeeper's `version`.
/// Only equality means something across keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub i64);

/// One uninterrupted holding of the leader key: the revision at which the key was created (etcd's
/// `create_revision`, ZooKeeper's `czxid`). A later term has a greater number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub i64);

/// A document together with the revision that a compare-and-swap of it names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versioned<T> {
    pub value: T,
    pub revision: Revision,
}

impl<T> Versioned<T> {
    pub fn new(value: T, revision: i64) -> Self {
        Self { value, revision: Revision(revision) }
    }
}

/// Who holds the leader key.
#[derive(Clone, Debug, PartialEq)]
pub struct Leader {
    pub name: MemberName,
    pub term: Term,
    pub revision: Revision,
    /// The lease (etcd) or session (ZooKeeper) that the key lives by.
    pub lease: i64,
}

impl Leader {
    /// A leader whose key was created, and last written, at `revision`.
    pub fn of(name: MemberName, revision: i64) -> Self {
        Self { name, term: Term(revision), revision: Revision(revision), lease: revision }
    }
}

/// All keys of one cluster, read at one moment. What cannot be parsed is as if it were absent, except
/// `initialize` and `config`, whose presence alone means something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The store's revision at which all of this was true.
    pub revision: Revision,
    /// The system identifier; empty while somebody bootstraps.
    pub initialize: Option<Versioned<String>>,
    /// The dynamic configuration as it stands in the store.
    pub config: Option<Versioned<Arc<DynamicConfig>>>,
    pub leader: Option<Leader>,
    pub members: BTreeMap<MemberName, MemberDocument>,
    pub status: Option<Versioned<StatusDocument>>,
    pub sync: Option<Versioned<SyncDocument>>,
    pub failover: Option<Versioned<FailoverDocument>>,
    pub history: Option<Versioned<History>>,
    /// Member name to API URL, of those that must agree when the store is away.
    pub failsafe: Option<Versioned<BTreeMap<String, String>>>,
    /// By the member that each is about. Those without a lease are left out: they would never end.
    pub maintenance: BTreeMap<MemberName, MaintenanceMark>,
}

impl Snapshot {
    /// The member is one of those that hold every commit acknowledged by the leader that `/sync` names.
    pub fn is_synchronous(&self, name: &MemberName) -> bool {
        self.sync.as_ref().is_some_and(|sync| sync.value.standbys().any(|standby| standby == name.as_str()))
    }

    /// A run that works on the cluster has taken the member out of service.
    pub fn is_drained(&self, name: &MemberName) -> bool {
        self.maintenance.get(name).is_some_and(|mark| mark.drain)
    }

    /// The revision of `/sync`, `None` when there is no such key: what a claim of the leader key names.
    pub fn sync_revision(&self) -> Option<Revision> {
        self.sync.as_ref().map(|sync| sync.revision)
    }

    /// Whether both hold the same, whatever the store's revision was.
    pub fn same_contents(&self, other: &Snapshot) -> bool {
        let Snapshot {
            revision: _,
            initialize,
            config,
            leader,
            members,
            status,
            sync,
            failover,
            history,
            failsafe,
            maintenance,
        } = self;
        (initialize, config, leader, status)
            == (&other.initialize, &other.config, &other.leader, &other.status)
            && (sync, failover, history) == (&other.sync, &other.failover, &other.history)
            && (failsafe, maintenance) == (&other.failsafe, &other.maintenance)
            && members == &other.members
    }

    /// The leader, when its member key is there too.
    pub fn leader_member(&self) -> Option<(&MemberName, &MemberDocument)> {
        self.members.get_key_value(&self.leader.as_ref()?.name)
    }
}

/// `status`: how far the leader was when it last said so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusDocument {
    pub optime: Lsn,
    /// Positions of the permanent slots, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, u64>,
    /// Slots of members that are away and not forgotten yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retain_slots: Vec<String>,
}

/// `sync`: the standbys that may take over without losing an acknowledged commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncDocument {
    pub leader: Option<String>,
    /// Names separated by commas.
    pub sync_standby: Option<String>,
    /// Quorum mode: how many of the others have to be heard before one may win.
    pub quorum: u32,
}

impl SyncDocument {
    pub fn new(leader: &str, standbys: impl IntoIterator<Item = impl AsRef<str>>, quorum: u32) -> Self {
        let names = standbys.into_iter().map(|name| name.as_ref().to_owned()).collect::<Vec<_>>();
        let sync_standby = (!names.is_empty()).then(|| names.join(","));
        Self { leader: Some(leader.to_owned()), sync_standby, quorum }
    }

    pub fn standbys(&self) -> impl Iterator<Item = &str> {
        let names = self.sync_standby.as_deref().unwrap_or_default();
        names.split(',').map(str::trim).filter(|name| !name.is_empty())
    }
}

/// `failover`: what an operator asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailoverDocument {
    /// The leader that shall step down; absent for a failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The member that shall lead; absent: the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// ISO 8601 with an offset; absent: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

/// `history`: where each timeline ended, and who led the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(pub Vec<HistoryEntry>);

/// `[timeline, lsn, reason, timestamp, new leader]`; old entries lack the last two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Value>", into = "Vec<Value>")]
pub struct HistoryEntry {
    pub timeline: Timeline,
    pub lsn: Lsn,
    pub reason: String,
    pub timestamp: Option<String>,
    pub new_leader: Option<String>,
}

/// The entry is not a list of a timeline, a position, a reason and perhaps a time and a name.
#[derive(Debug, thiserror::Error)]
#[error("not a history entry; expected [timeline, lsn, reason, timestamp, new leader]")]
pub struct InvalidHistoryEntry;

impl TryFrom<Vec<Value>> for HistoryEntry {
    type Error = InvalidHistoryEntry;

    fn try_from(entry: Vec<Value>) -> Result<Self, InvalidHistoryEntry> {
        let text = |index: usize| entry.get(index).and_then(Value::as_str).map(str::to_owned);
        let timeline = entry.first().and_then(Value::as_u64).and_then(|timeline| timeline.try_into().ok());
        let lsn = entry.get(1).and_then(Value::as_u64).map(Lsn);
        Ok(Self {
            timeline: timeline.ok_or(InvalidHistoryEntry)?,
            lsn: lsn.ok_or(InvalidHistoryEntry)?,
            reason: text(2).unwrap_or_default(),
            timestamp: text(3),
            new_leader: text(4),
        })
    }
}

impl From<HistoryEntry> for Vec<Value> {
    fn from(entry: HistoryEntry) -> Vec<Value> {
        let mut list = vec![entry.timeline.into(), entry.lsn.0.into(), entry.reason.into()];
        list.extend([entry.timestamp, entry.new_leader].into_iter().map_while(|text| text.map(Value::from)));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_survives_a_round_trip() {
        let text = r#"[[1,25165984,"no recovery target specified"],[2,50331808,"no recovery target specified","2026-11-20T17:00:01.5+00:00","pg2"]]"#;
        let history: History = serde_json::from_str(text).unwrap();
        assert_eq!(history.0[1].new_leader.as_deref(), Some("pg2"));
        assert_eq!(serde_json::to_string(&history).unwrap(), text);
        assert!(serde_json::from_str::<History>(r#"[["one"]]"#).is_err());
    }

    #[test]
    fn sync_names_are_separated_by_commas() {
        let sync: SyncDocument =
            serde_json::from_str(r#"{"leader":"pg1","sync_standby":"pg2, pg3","quorum":0}"#).unwrap();
        assert_eq!(sync.standbys().collect::<Vec<_>>(), ["pg2", "pg3"]);
        let empty: SyncDocument = serde_json::from_str(r#"{"leader":"pg1","sync_standby":null}"#).unwrap();
        assert_eq!(empty.standbys().count(), 0);
        assert_eq!(SyncDocument::new("pg1", ["a", "b"], 1).sync_standby.as_deref(), Some("a,b"));
    }
}
