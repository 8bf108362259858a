//! What the REST API knows: filled by the runtime, read by every request, never waited for.

use super::clock::BootTime;
use crate::contract::{DynamicConfig, NodeStatus, Snapshot};
use crate::model::{MemberName, Scope, Secret};
use std::{sync::Arc, time::Duration};

/// One consistent account of this node. The runtime replaces it as a whole whenever something changes.
#[derive(Clone, Debug)]
pub struct View {
    pub scope: Scope,
    pub name: MemberName,
    /// The body of `GET /patroni`. What follows from other fields of the view (`pause`, `cluster_unlocked`,
    /// `sync_standby`, `dcs_last_seen`, who answers) is filled in by the API.
    pub status: NodeStatus,
    /// Until when this node holds the leader key for sure; `None` when it does not hold it.
    pub leader_until: Option<BootTime>,
    /// The store's contents as last read; `None` before the first time.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The store has been silent for as long as a lease lasts: `snapshot` is too old to go by.
    pub stale: bool,
    /// When the store was last read, in seconds since the epoch.
    pub dcs_last_seen: Option<u64>,
    pub config: Arc<DynamicConfig>,
    /// How far the upstream's WAL reaches as its walreceiver last heard, on a standby.
    pub latest_end_lsn: Option<crate::model::Lsn>,
    /// When the agent's loop last went round; `/liveness` goes by it.
    pub loop_at: BootTime,
    pub counters: Counters,
    /// Name and password that unsafe requests need; a reload may change them.
    pub login: Option<(String, Secret)>,
}

/// What the agent counts for `GET /metrics`.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// The last round of the loop, from facts to decision.
    pub loop_duration: Duration,
    pub loops: u64,
    /// The last renewal of the lease, from sending to the answer.
    pub renew_latency: Duration,
    pub renewals: u64,
    pub renewals_failed: u64,
    /// Requests to the store that ended as unreachable.
    pub dcs_errors: u64,
    /// Times that this node became the primary.
    pub promotions: u64,
    /// Times that this node stepped down, by reason.
    pub demotions: std::collections::BTreeMap<&'static str, u64>,
}

impl View {
    /// The view before anything is known: every health check answers 503.
    pub fn unknown(scope: Scope, name: MemberName, now: BootTime) -> Self {
        Self {
            scope,
            name,
            status: NodeStatus::default(),
            leader_until: None,
            snapshot: None,
            stale: false,
            dcs_last_seen: None,
            config: Arc::default(),
            latest_end_lsn: None,
            loop_at: now,
            counters: Counters::default(),
            login: None,
        }
    }

    /// The store was read recently enough to go by it.
    pub fn knows_store(&self) -> bool {
        self.snapshot.is_some() && !self.stale
    }

    /// Holds the leader key at this moment. Goes false by itself: a loop that hangs cannot keep it true.
    pub fn is_leader(&self, now: BootTime) -> bool {
        self.leader_until.is_some_and(|until| until > now)
    }
}
