//! The store on etcd 3.4 and later, through its JSON gateway.
//!
//! Why a renewal counts: `lease/keepalive` does not go through raft, so a member of etcd that has been
//! deposed and does not know it yet could answer it. After each keepalive the keys are therefore read
//! linearizably from the same endpoint. If that read is answered in the raft term of the keepalive, a
//! majority followed that term's leader after the keepalive, so it was the true leader that extended the
//! lease. Later elections in etcd only make leases longer.

mod gateway;
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
use messages::{created_at, has_value, leased_by, modified_at, number, range, txn};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How to reach etcd, and as whom.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    pub endpoints: Vec<Endpoint>,
    pub login: Option<Login>,
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

/// The lease under this member's keys.
#[derive(Clone, Copy)]
struct Held {
    id: i64,
    /// The ttl that it was asked for with; etcd may have granted more.
    asked: Duration,
    lease: Lease,
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
            gateway: Gateway::new(options.endpoints, options.request_timeout, options.login),
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

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ttl(&self) -> Duration {
        *self.0.ttl.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a lease that etcd does not know any more.
    fn forget(&self, id: i64) {
        let mut held = self.held();
        if held.is_some_and(|held| held.id == id) {
            *held = None;
        }
    }

    /// This member's lease; a new one where it has none.
    async fn lease(&self) -> Result<Held, Unreachable> {
        let _granting = self.0.granting.lock().await;
        let known = *self.held();
        match known {
            Some(held) => Ok(held),
            None => {
                let granted = self.grant().await?;
                *self.held() = Some(granted);
                Ok(granted)
            }
        }
    }

    async fn grant(&self) -> Result<Held, Unreachable> {
        let asked = self.ttl();
        let seconds = asked.as_millis().div_ceil(1000).max(1);
        let answer =
            self.shared().gateway.call("/v3/lease/grant", &json!({"TTL": seconds.to_string()})).await?;
        let (id, ttl) = (number(&answer.body["ID"]), number(&answer.body["TTL"]));
        match u64::try_from(ttl) {
            Ok(ttl) if ttl > 0 && id != 0 => {
                let lease = Lease { sent_at: answer.sent_at, ttl: Duration::from_secs(ttl) };
                Ok(Held { id, asked, lease })
            }
            _ => Err(not_understood()),
        }
    }

    /// Ends a lease that has no keys any more, without waiting for it. If that fails it runs out by itself.
    fn revoke_later(&self, id: i64) {
        let shared = Arc::clone(&self.0.shared);
        tokio::spawn(async move {
            drop(shared.gateway.call("/v3/lease/revoke", &json!({"ID": id.to_string()})).await);
        });
    }

    /// Moves this member's keys to a lease with the ttl that is wanted now. Whatever goes wrong leaves them
    /// where they are.
    async fn exchange(&self, old: Held) -> Result<(), Unreachable> {
        let new = self.grant().await?;
        let contents = self.shared().read().await?;
        let paths: Vec<String> = contents
            .entries
            .iter()
            .filter(|(_, entry)| entry.lease == old.id)
            .map(|(name, _)| format!("{}{name}", self.layout().prefix()))
            .collect();
        let compare = paths.iter().map(|path| leased_by(path, old.id)).collect();
        let moves = paths.iter().map(|path| messages::put_lease(path, new.id)).collect();
        let answer = self.shared().gateway.call("/v3/kv/txn", &txn(compare, moves, vec![])).await?;
        let (moved, _) = messages::outcome(&answer.body);
        if moved {
            *self.held() = Some(new);
        }
        self.revoke_later(if moved { old.id } else { new.id });
        Ok(())
    }

    /// One keepalive and the read that proves it. `None`: it proves nothing, try again.
    async fn keep_alive(&self, held: Option<Term>) -> Result<Option<Renewal>, Failure> {
        let current = self.lease().await?;
        let request = json!({"ID": current.id.to_string()});
        let gateway = &self.shared().gateway;
        let (answer, alive) = match gateway.call("/v3/lease/keepalive", &request).await {
            Ok(answer) => {
                let ttl = number(&answer.body["result"]["TTL"]);
                (Some(answer), u64::try_from(ttl).ok().filter(|ttl| *ttl > 0))
            }
            Err(GatewayError::LeaseNotFound) => (None, None),
            Err(error) => return Err(error.into()),
        };
        let contents = match &answer {
            Some(answer) => self.shared().read_at(answer.endpoint).await?,
            None => self.shared().read().await?,
        };
        let snapshot = self.shared().show(&contents.entries, contents.revision);
        if let Some(term) = held {
            let leader = self.still_leads(&contents.entries, term)?;
            if leader.lease != current.id {
                // An exchange of leases whose answer was lost. The lease that counts is the key's.
                *self.held() = Some(Held { id: leader.lease, ..current });
                return Ok(None);
            }
        }
        let (Some(answer), Some(ttl)) = (answer, alive) else {
            self.forget(current.id);
            return match held {
                // The key is there and its lease is not: one of two answers is out of date.
                Some(_) => {
                    *self.held() = Some(current);
                    Err(Unreachable("etcd contradicts itself about the lease".to_owned()).into())
                }
                None => Ok(None),
            };
        };
        let raft_term = messages::header(&answer.body["result"]).map(|(_, raft_term)| raft_term);
        if raft_term != Some(contents.raft_term) {
            return Ok(None);
        }
        let lease = Lease { sent_at: answer.sent_at, ttl: Duration::from_secs(ttl) };
        if let Some(held) = self.held().as_mut().filter(|held| held.id == current.id) {
            held.lease = lease;
        }
        Ok(Some(Renewal { lease, snapshot }))
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
        let current = *self.held();
        if let Some(current) = current.filter(|current| current.asked != self.ttl()) {
            // A failure is not the end: the old lease is renewed below, and the exchange tried next time.
            drop(self.exchange(current).await);
        }
        for _ in 0..3 {
            match self.keep_alive(held).await {
                Ok(Some(renewal)) => return Ok(renewal),
                Ok(None) => {}
                Err(why) => return Err(why),
            }
        }
        Err(Unreachable("etcd is electing a leader".to_owned()).into())
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
        if done.succeeded {
            return Ok(Leadership { term: Term(done.revision), lease: held.lease });
        }
        match done.found.get("leader") {
            Some(entry) if entry.value == self.0.name.as_str() && entry.lease == held.id => {
                Ok(Leadership { term: Term(entry.created), lease: held.lease })
            }
            Some(entry) => Err(Failure::Lost(format!("the leader key belongs to `{}`", entry.value))),
            None => Err(Failure::Lost("`sync` has changed meanwhile".to_owned())),
        }
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
