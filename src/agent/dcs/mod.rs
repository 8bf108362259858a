//! The store that a cluster agrees through. Owns how its keys are laid out, read, watched and swapped;
//! never decides what to write.
//!
//! One rule holds in every store: an outcome that is not understood is [`Failure::Unreachable`].
//! [`Failure::Lost`] is said only where the store has positively shown that the condition no longer holds.

mod etcd;
mod layout;
mod memory;

#[cfg(test)]
mod conformance;

pub use crate::contract::{Leader, Revision, Snapshot, Term, Versioned};
pub use etcd::{Endpoint, Etcd, EtcdOptions, Login};
pub use layout::{Entry, Key, Layout};
pub use memory::{Fault, Memory, MemoryServer};

use super::clock::BootTime;
use crate::contract::{FailoverDocument, History, MemberDocument, StatusDocument, SyncDocument};
use serde::Serialize;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The store did not answer in a way that is understood. A write may or may not have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store cannot be reached: {0}")]
pub struct Unreachable(pub String);

/// Why an operation on the store gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The store has positively said that the condition does not hold: the key belongs to another, was
    /// changed by another, or is gone. Nothing was written.
    #[error("{0}")]
    Lost(String),
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

impl Failure {
    pub fn is_lost(&self) -> bool {
        matches!(self, Failure::Lost(_))
    }
}

/// How long the keys of this member live at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When the request that extended it was sent. The store counts from later than that.
    pub sent_at: BootTime,
    pub ttl: Duration,
}

impl Lease {
    /// The moment until which the store cannot have ended it.
    pub fn ends_at(&self) -> BootTime {
        self.sent_at.after(self.ttl)
    }
}

/// The leader key, taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub term: Term,
    pub lease: Lease,
}

/// A lease, extended; with what the store held right after.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    pub lease: Lease,
    /// Linearizable, read after the extension. Lacks this member's key if its lease had ended.
    pub snapshot: Arc<Snapshot>,
}

/// What a watcher sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// The newest known contents; `None` until the store was read once.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why the watch is interrupted, while it is. It reconnects by itself.
    pub interrupted: Option<String>,
}

/// A compare-and-swap of one shared key.
#[derive(Clone, Debug, PartialEq)]
pub struct Swap {
    pub key: Key,
    /// The revision that the decision was based on; `None`: there was no such key.
    pub expected: Option<Revision>,
    /// `None` deletes the key.
    pub value: Option<String>,
    /// Only while this member holds the leader key of this term.
    pub while_leader: Option<Term>,
    /// The key dies with this member's lease.
    pub ephemeral: bool,
}

impl Swap {
    pub fn new(key: Key, expected: Option<Revision>, value: Option<String>) -> Self {
        Self { key, expected, value, while_leader: None, ephemeral: false }
    }

    pub fn while_leader(mut self, term: Term) -> Self {
        self.while_leader = Some(term);
        self
    }

    pub fn ephemeral(mut self) -> Self {
        self.ephemeral = true;
        self
    }
}

/// A store for one cluster, as one member sees it. Clones share the member's lease and connections, and
/// calls may run at the same time: a slow write does not hold up a renewal.
///
/// Every call ends within a time that the store bounds by itself (its request timeout times its endpoints).
pub trait Store: Clone + Send + Sync + 'static {
    /// Reads all keys of the cluster, linearizably.
    fn snapshot(&self) -> impl Future<Output = Result<Arc<Snapshot>, Unreachable>> + Send;

    /// The contents as they change, kept up to date in the background for as long as the store lives.
    /// Also sees what [`Store::snapshot`] and [`Store::renew`] read. May lag: deciding writes name revisions.
    fn watch(&self) -> watch::Receiver<Sight>;

    /// The time to live that leases are asked for from now on; a held lease is exchanged at the next
    /// renewal. The store may grant more.
    fn set_ttl(&self, ttl: Duration);

    /// Takes up the lease of an agent of this name that ran before, if its leader key is still there.
    fn adopt(&self) -> impl Future<Output = Result<Option<Leadership>, Unreachable>> + Send;

    /// Extends this member's lease, and takes a new one where it has none. With a term: `Lost` unless the
    /// leader key is still this member's, of that term.
    fn renew(&self, held: Option<Term>) -> impl Future<Output = Result<Renewal, Failure>> + Send;

    /// Takes the leader key if nobody holds it, and if `sync` is still at the revision that the candidate
    /// has seen (`None`: absent). Asking again after `Unreachable` finds out whether it was taken.
    fn acquire_leader(
        &self,
        sync: Option<Revision>,
    ) -> impl Future<Output = Result<Leadership, Failure>> + Send;

    /// Deletes the leader key of this term.
    fn release(&self, term: Term) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Writes this member's key under its lease.
    fn write_member(&self, member: &MemberDocument) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Deletes this member's key.
    fn delete_member(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Writes `status` while this member leads in this term.
    fn write_status(
        &self,
        term: Term,
        status: &StatusDocument,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Writes or deletes one shared key if it is still at the expected revision. Returns the new revision,
    /// `None` after a deletion.
    fn swap(&self, swap: Swap) -> impl Future<Output = Result<Option<Revision>, Failure>> + Send;

    /// Wins or loses the race to bootstrap. The key is empty, and it vanishes with its writer until
    /// [`Store::finish_initialize`]: a machine that dies during initdb does not block the cluster for ever.
    fn create_initialize(&self) -> impl Future<Output = Result<Revision, Failure>> + Send {
        async {
            let swap = Swap::new(Key::Initialize, None, Some(String::new())).ephemeral();
            self.swap(swap).await.map(Option::unwrap_or_default)
        }
    }

    /// Writes the system identifier for good.
    fn finish_initialize(
        &self,
        expected: Option<Revision>,
        system_identifier: &str,
    ) -> impl Future<Output = Result<Revision, Failure>> + Send {
        let swap = Swap::new(Key::Initialize, expected, Some(system_identifier.to_owned()));
        async { self.swap(swap).await.map(Option::unwrap_or_default) }
    }

    /// Swaps the dynamic configuration.
    fn write_config(
        &self,
        expected: Option<Revision>,
        document: &serde_json::Map<String, serde_json::Value>,
    ) -> impl Future<Output = Result<Option<Revision>, Failure>> + Send {
        self.swap(Swap::new(Key::Config, expected, Some(to_json(document))))
    }

    /// Swaps `sync` while this member leads in this term.
    fn write_sync(
        &self,
        term: Term,
        expected: Option<Revision>,
        sync: &SyncDocument,
    ) -> impl Future<Output = Result<Option<Revision>, Failure>> + Send {
        self.swap(Swap::new(Key::Sync, expected, Some(to_json(sync))).while_leader(term))
    }

    /// Swaps what an operator asked for; `None` strikes it off.
    fn write_failover(
        &self,
        expected: Option<Revision>,
        failover: Option<&FailoverDocument>,
    ) -> impl Future<Output = Result<Option<Revision>, Failure>> + Send {
        self.swap(Swap::new(Key::Failover, expected, failover.map(to_json)))
    }

    /// Swaps the history of timelines while this member leads in this term.
    fn write_history(
        &self,
        term: Term,
        expected: Option<Revision>,
        history: &History,
    ) -> impl Future<Output = Result<Option<Revision>, Failure>> + Send {
        self.swap(Swap::new(Key::History, expected, Some(to_json(history))).while_leader(term))
    }
}

/// Compact JSON of a document of ours. These are maps with string keys, which always serialise.
fn to_json(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

/// Publishes newer contents; those who wait are woken only if something else than the revision changed.
fn publish(sight: &watch::Sender<Sight>, snapshot: &Arc<Snapshot>) {
    sight.send_if_modified(|sight| {
        let news = match &sight.snapshot {
            Some(known) if known.revision > snapshot.revision => return false,
            Some(known) => !known.same_contents(snapshot),
            None => true,
        };
        sight.snapshot = Some(Arc::clone(snapshot));
        news
    });
}
