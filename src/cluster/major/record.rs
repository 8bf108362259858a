//! Where an upgrade stands, as the cluster's etcd remembers it between two runs.

use super::Control;
use crate::{
    cluster::{Do, Kv, KvError},
    model::{HostName, PgMajor, Scope},
    remote::resource::Transfer,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far an upgrade is. Each is noted before what it names can have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The old cluster is being shut down.
    Stopping,
    /// All members are down, and have the same data.
    Stopped,
    /// The new data are complete.
    Upgraded,
    /// The new cluster is being started: clients may get to it from here on.
    Opening,
    /// The new cluster has a primary.
    Opened,
    /// All members run the new version; the old data are still there.
    Done,
}

impl Phase {
    /// In words, behind "it had come so far that".
    pub fn words(self) -> &'static str {
        match self {
            Phase::Stopping => "the old cluster was being shut down",
            Phase::Stopped => "the old cluster was shut down",
            Phase::Upgraded => "the data were upgraded, and nothing was started yet",
            Phase::Opening => "the new primary was being started",
            Phase::Opened => "the new primary served",
            Phase::Done => "all members ran the new version",
        }
    }
}

/// An upgrade that is under way, or whose old data are still there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub from: PgMajor,
    pub to: PgMajor,
    pub phase: Phase,
    pub transfer: Transfer,
    /// Who led, and whose data were upgraded.
    pub primary: HostName,
    /// When clients could no longer write, and when they could again.
    pub stopped: Timestamp,
    #[serde(default)]
    pub opened: Option<Timestamp>,
    /// What the agents had in the store, by name.
    pub store: BTreeMap<String, String>,
    /// The new cluster as pg_upgrade has left it.
    #[serde(default)]
    pub fresh: Option<Control>,
}

impl Record {
    fn key(cluster: &Scope) -> String {
        format!("/pgfleet/{cluster}/major-upgrade")
    }

    /// What is remembered; `None` where no upgrade has begun.
    pub async fn load(kv: &Kv, cluster: &Scope) -> Result<Option<Record>, KvError> {
        let key = Self::key(cluster);
        let found = kv.read(&[Do::Get(&key)]).await?;
        let Some(pair) = found.first() else { return Ok(None) };
        let unreadable = |error| KvError::Refused(format!("{key} is unreadable: {error}"));
        serde_json::from_slice(&pair.value).map(Some).map_err(unreadable)
    }

    pub async fn save(&self, kv: &Kv, cluster: &Scope) -> Result<(), KvError> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        kv.txn(&[], &[Do::Put(&Self::key(cluster), &text)], &[]).await.map(drop)
    }

    pub async fn forget(kv: &Kv, cluster: &Scope) -> Result<(), KvError> {
        kv.txn(&[], &[Do::Delete(&Self::key(cluster))], &[]).await.map(drop)
    }

    /// For how long clients could not write, once they can.
    pub fn interrupted_ms(&self) -> Option<u64> {
        let between = self.opened?.as_millisecond() - self.stopped.as_millisecond();
        u64::try_from(between).ok()
    }
}
