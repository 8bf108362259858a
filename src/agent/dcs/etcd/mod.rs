//! The store on etcd 3.4 and later, through its JSON gateway.
//!
//! Why a renewal counts: `lease/keepalive` does not go through raft, so a member of etcd that has been
//! deposed and does not know it yet could answer it. After each keepalive the keys are therefore read
//! linearizably from the same endpoint. If that read is answered in the raft term of the keepalive, a
//! majority followed that term's leader after the keepalive, so it was the true leader that extended the
//! lease. Later elections in etcd only make leases longer.

mod gateway;
mod lease;
mod messages;
#[cfg(test)]
mod tests;
mod watcher;

pub use gateway::{Endpoint, Login};

use super::{
    BootTime, Entry, Failure, Layout, Leadership, Lease, Renewal, Sight, Snapshot, Store, Swap, Unreachable,
    layout, publish, to_json,
};
use crate::contract::{MemberDocument, Revision, StatusDocument, Term};
use crate::model::{MemberName, Scope};
use gateway::{Answer, Gateway, GatewayError};
use lease::Held;
use messages::{created_at, has_value, modified_at, range, txn};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How to reach etcd, and as whom.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    pub endpoints: Vec<Endpoint>,
    pub login: Option<Login>,
    /// With which it is spoken to; `None`: in plain text.
    pub tls: Option<Arc<crate::tls::Client>>,
    /// How long one attempt at one endpoint may take.
    pub request_timeout: Duration,
    pub namespace: String,
    pub scope: Scope,
    pub name: MemberName,
    pub ttl: Duration,
}

impl EtcdOptions {
    pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(400);
}

/// One member's access to its cluster in etcd.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    name: MemberName,
    ttl: Mutex<Duration>,
    lease: Mutex<Option<Held>>,
    /// Held while a lease is being granted, so that two calls do not take one each.
    granting: tokio::sync::Mutex<()>,
    watcher: tokio::task::JoinHandle<()>,
}

/// What the watcher in the background and the calls share.
struct Shared {
    gateway: Gateway,
    layout: Layout,
    sight: watch::Sender<Sight>,
}

/// Keys by their name below the cluster's prefix, as they were at one revision.
struct Contents {
    entries: BTreeMap<String, Entry>,
    revision: i64,
    raft_term: i64,
    endpoint: usize,
}

fn not_understood() -> Unreachable {
    Unreachable("etcd's answer is not understood".to_owned())
}

impl From<GatewayError> for Unreachable {
    fn from(error: GatewayError) -> Self {
        Unreachable(error.to_string())
    }
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        Failure::Unreachable(error.into())
    }
}

impl Shared {
    fn contents(&self, answer: &Answer) -> Result<Contents, Unreachable> {
        let (revision, raft_term) = messages::header(&answer.body).ok_or_else(not_understood)?;
        Ok(Contents { entries: self.below(&answer.body), revision, raft_term, endpoint: answer.endpoint })
    }

    fn below(&self, body: &Value) -> BTreeMap<String, Entry> {
        let entries = messages::entries(body).into_iter();
        entries.filter_map(|(path, entry)| Some((self.layout.relative(&path)?.to_owned(), entry))).collect()
    }

    /// All keys, linearizably.
    async fn read(&self) -> Result<Contents, Unreachable> {
        let request = messages::range_prefix(self.layout.prefix());
        self.contents(&self.gateway.call("/v3/kv/range", &request).await?)
    }

    async fn read_at(&self, endpoint: usize) -> Result<Contents, Unreachable> {
        let request = messages::range_prefix(self.layout.prefix());
        self.contents(&self.gateway.call_one(endpoint, "/v3/kv/range", &request).await?)
    }

    /// Makes a snapshot and shows it to the watchers.
    fn show(&self, entries: &BTreeMap<String, Entry>, revision: i64) -> Arc<Snapshot> {
        let earlier = self.sight.borrow().snapshot.clone();
        let snapshot = Arc::new(layout::snapshot(entries, revision, earlier.as_deref()));
        publish(&self.sight, &snapshot);
        snapshot
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Etcd {
    /// Prepares access and begins to watch in the background. Nothing is awaited: etcd may be down.
    /// Must be called inside of a tokio runtime.
    pub fn new(options: EtcdOptions) -> Self {
        let shared = Arc::new(Shared {
            gateway: Gateway::new(options.endpoints, options.request_timeout, options.login, options.tls),
            layout: Layout::new(&options.namespace, &options.scope),
            sight: watch::channel(Sight::default()).0,
        });
        let watcher = tokio::spawn(watcher::run(Arc::clone(&shared)));
        Self(Arc::new(Inner {
            shared,
            name: options.name,
            ttl: Mutex::new(options.ttl),
            lease: Mutex::new(None),
            granting: tokio::sync::Mutex::new(()),
            watcher,
        }))
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    fn layout(&self) -> &Layout {
        &self.0.shared.layout
    }

    /// The leader key, if it is this member's of this term; else who has it.
    fn still_leads<'a>(
        &self,
        entries: &'a BTreeMap<String, Entry>,
        term: Term,
    ) -> Result<&'a Entry, Failure> {
        match entries.get("leader") {
            Some(entry) if entry.created == term.0 && entry.value == self.0.name.as_str() => Ok(entry),
            Some(entry) => Err(Failure::Lost(format!(
                "the leader key belongs to `{}` since revision {}",
                entry.value, entry.created
            ))),
            None => Err(Failure::Lost("there is no leader key".to_owned())),
        }
    }

    /// Conditions that hold while this member leads in `term`.
    fn while_leader(&self, term: Term) -> Vec<Value> {
        let leader = self.layout().leader();
        vec![created_at(&leader, term.0), has_value(&leader, self.0.name.as_str())]
    }

    /// Runs a transaction. On failure the entries that it read, by name below the prefix.
    async fn transact(&self, request: &Value) -> Result<Transacted, GatewayOrNot> {
        let answer = self.shared().gateway.call("/v3/kv/txn", request).await?;
        let (revision, _) = messages::header(&answer.body).ok_or_else(not_understood)?;
        let (succeeded, found) = messages::outcome(&answer.body);
        let found = found
            .into_iter()
            .filter_map(|(path, entry)| Some((self.layout().relative(&path)?.to_owned(), entry)))
            .collect();
        Ok(Transacted { succeeded, found, revision, repeated: answer.repeated })
    }

    /// Runs what needs the lease; once more with a new one if etcd does not know it.
    async fn with_lease(&self, request: impl Fn(i64) -> Value) -> Result<(Transacted, Held), Failure> {
        for _ in 0..2 {
            let held = self.lease().await?;
            match self.transact(&request(held.id)).await {
                Ok(done) => return Ok((done, held)),
                Err(GatewayOrNot::LeaseNotFound) => self.forget(held.id),
                Err(GatewayOrNot::Unreachable(why)) => return Err(why.into()),
            }
        }
        Err(Unreachable(GatewayError::LeaseNotFound.to_string()).into())
    }
}

/// How a transaction went.
struct Transacted {
    succeeded: bool,
    /// What its failure branch read.
    found: BTreeMap<String, Entry>,
    revision: i64,
    /// It may have been carried out by an earlier attempt already.
    repeated: bool,
}

/// Why a transaction gave no result.
enum GatewayOrNot {
    LeaseNotFound,
    Unreachable(Unreachable),
}

impl From<GatewayError> for GatewayOrNot {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::LeaseNotFound => GatewayOrNot::LeaseNotFound,
            error => GatewayOrNot::Unreachable(error.into()),
        }
    }
}

impl From<Unreachable> for GatewayOrNot {
    fn from(why: Unreachable) -> Self {
        GatewayOrNot::Unreachable(why)
    }
}

impl From<GatewayOrNot> for Failure {
    fn from(error: GatewayOrNot) -> Self {
        match error {
            GatewayOrNot::LeaseNotFound => GatewayError::LeaseNotFound.into(),
            GatewayOrNot::Unreachable(why) => why.into(),
        }
    }
}

impl Store for Etcd {
    async fn snapshot(&self) -> Result<Arc<Snapshot>, Unreachable> {
        let contents = self.shared().read().await?;
        Ok(self.shared().show(&contents.entries, contents.revision))
    }

    fn watch(&self) -> watch::Receiver<Sight> {
        self.shared().sight.subscribe()
    }

    fn set_ttl(&self, ttl: Duration) {
        *self.0.ttl.lock().unwrap_or_else(PoisonError::into_inner) = ttl;
    }

    async fn adopt(&self) -> Result<Option<Leadership>, Unreachable> {
        let contents = self.shared().read().await?;
        let Some(entry) = contents.entries.get("leader").filter(|entry| entry.value == self.0.name.as_str())
        else {
            return Ok(None);
        };
        let (id, term) = (entry.lease, Term(entry.created));
        let unknown = Lease { sent_at: BootTime(0), ttl: Duration::ZERO };
        *self.held() = Some(Held { id, asked: self.ttl(), lease: unknown });
        match self.renew(Some(term)).await {
            Ok(renewal) => {
                // Asked for by an earlier run, perhaps with another ttl: the next renewal exchanges it then.
                if let Some(held) = self.held().as_mut() {
                    held.asked = renewal.lease.ttl;
                }
                Ok(Some(Leadership { term, lease: renewal.lease }))
            }
            Err(Failure::Lost(_)) => {
                self.forget(id);
                Ok(None)
            }
            Err(Failure::Unreachable(why)) => {
                self.forget(id);
                Err(why)
            }
        }
    }

    async fn renew(&self, held: Option<Term>) -> Result<Renewal, Failure> {
        self.renew_lease(held).await
    }

    async fn acquire_leader(&self, sync: Option<Revision>) -> Result<Leadership, Failure> {
        let (leader, sync_path) = (self.layout().leader(), self.layout().key(super::Key::Sync));
        let seen = sync.map_or(0, |revision| revision.0);
        let request = |lease| {
            txn(
                vec![created_at(&leader, 0), modified_at(&sync_path, seen)],
                vec![messages::put(&leader, self.0.name.as_str(), lease)],
                vec![range(&leader)],
            )
        };
        let (done, held) = self.with_lease(request).await?;
        let term = match done.found.get("leader") {
            _ if done.succeeded => Term(done.revision),
            Some(entry) if entry.value == self.0.name.as_str() && entry.lease == held.id => {
                Term(entry.created)
            }
            Some(entry) => {
                return Err(Failure::Lost(format!("the leader key belongs to `{}`", entry.value)));
            }
            None => return Err(Failure::Lost("`sync` has changed meanwhile".to_owned())),
        };
        let lease = held.lease;
        if lease.ends_at().since(BootTime::now()) > lease.ttl / 2 {
            return Ok(Leadership { term, lease });
        }
        // The lease is not fresh: a leader begins with a whole one.
        let lease = self.renew_lease(Some(term)).await?.lease;
        Ok(Leadership { term, lease })
    }

    async fn release(&self, term: Term) -> Result<(), Failure> {
        let leader = self.layout().leader();
        let request = txn(self.while_leader(term), vec![messages::delete(&leader)], vec![range(&leader)]);
        let done = self.transact(&request).await?;
        if done.succeeded {
            return Ok(());
        }
        match self.still_leads(&done.found, term) {
            Err(_) if done.repeated => Ok(()),
            Err(lost) => Err(lost),
            Ok(_) => Err(not_understood().into()),
        }
    }

    async fn write_member(&self, member: &MemberDocument) -> Result<(), Failure> {
        let (path, value) = (self.layout().member(&self.0.name), to_json(member));
        let request = |lease| txn(vec![], vec![messages::put(&path, &value, lease)], vec![]);
        self.with_lease(request).await.map(drop)
    }

    async fn delete_member(&self) -> Result<(), Failure> {
        let request = txn(vec![], vec![messages::delete(&self.layout().member(&self.0.name))], vec![]);
        Ok(self.transact(&request).await.map(drop)?)
    }

    async fn write_status(&self, term: Term, status: &StatusDocument) -> Result<(), Failure> {
        let put = messages::put(&self.layout().status(), &to_json(status), 0);
        let request = txn(self.while_leader(term), vec![put], vec![range(&self.layout().leader())]);
        let done = self.transact(&request).await?;
        if done.succeeded {
            return Ok(());
        }
        self.still_leads(&done.found, term).and(Err(not_understood().into()))
    }

    async fn swap(&self, swap: Swap) -> Result<Option<Revision>, Failure> {
        let (name, path) = (swap.key.as_str(), self.layout().key(swap.key));
        let mut compare = vec![modified_at(&path, swap.expected.map_or(0, |revision| revision.0))];
        compare.extend(swap.while_leader.into_iter().flat_map(|term| self.while_leader(term)));
        let request = |lease| {
            let write = match &swap.value {
                Some(value) => messages::put(&path, value, lease),
                None => messages::delete(&path),
            };
            txn(compare.clone(), vec![write], vec![range(&path), range(&self.layout().leader())])
        };
        let done = match swap.ephemeral {
            true => self.with_lease(request).await?.0,
            false => self.transact(&request(0)).await?,
        };
        if done.succeeded {
            return Ok(swap.value.map(|_| Revision(done.revision)));
        }
        let found = done.found.get(name);
        if done.repeated && found.map(|entry| &entry.value) == swap.value.as_ref() {
            return Ok(found.map(|entry| Revision(entry.modified)));
        }
        if let Some(term) = swap.while_leader {
            self.still_leads(&done.found, term)?;
        }
        Err(Failure::Lost(format!("`{name}` was changed by another")))
    }
}
