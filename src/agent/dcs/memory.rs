//! A store in memory with leases in virtual time, for tests and the simulator. Behaves as etcd does: the
//! conformance suite runs against both.

use super::{
    BootTime, Entry, Failure, Leadership, Lease, Renewal, Sight, Snapshot, Store, Swap, Unreachable, layout,
    publish, to_json,
};
use crate::contract::{MemberDocument, Revision, StatusDocument, Term};
use crate::model::MemberName;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// What tells the time to a store in memory.
pub type Clock = Arc<dyn Fn() -> BootTime + Send + Sync>;

/// The store itself, shared by the members of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct MemoryServer {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    revision: i64,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<i64, Granted>,
    next_lease: i64,
    watchers: Vec<(MemberName, watch::Sender<Sight>)>,
    faults: BTreeMap<MemberName, Fault>,
}

struct Granted {
    ends_at: BootTime,
    ttl: Duration,
}

/// What goes wrong between one member and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Requests do not arrive.
    Cut,
    /// Requests are carried out, answers are lost.
    RepliesLost,
}

impl MemoryServer {
    /// An empty store on a clock of the caller's.
    pub fn new(clock: Clock) -> Self {
        Self { state: Arc::default(), clock }
    }

    /// Connects or disconnects a member; `None` heals it.
    pub fn set_fault(&self, member: &MemberName, fault: Option<Fault>) {
        let mut state = self.lock();
        match fault {
            Some(fault) => drop(state.faults.insert(member.clone(), fault)),
            None => drop(state.faults.remove(member)),
        }
        state.tell();
    }

    /// Ends what has run out by now and tells the watchers: call it when virtual time has moved.
    pub fn expire(&self) {
        drop(self.lock());
    }

    /// The contents now, as nobody in particular sees them.
    pub fn contents(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// When the lease under the leader key ends as the store sees it.
    pub fn leader_lease_ends_at(&self) -> Option<BootTime> {
        let state = self.lock();
        let lease = state.entries.get("leader")?.lease;
        state.leases.get(&lease).map(|granted| granted.ends_at)
    }

    /// Writes a key as somebody outside of the cluster's agents would; `None` deletes it.
    pub fn edit(&self, name: &str, value: Option<&str>) {
        let mut state = self.lock();
        match value {
            Some(value) => drop(state.put(name, value.to_owned(), 0)),
            None => state.delete(name),
        }
        state.tell();
    }

    /// Writes a key under a lease of its own, as a run of the deploy side would.
    pub fn edit_leased(&self, name: &str, value: &str, ttl: Duration) {
        let mut state = self.lock();
        state.next_lease += 1;
        let (id, ends_at) = (state.next_lease, (self.clock)().after(ttl));
        state.leases.insert(id, Granted { ends_at, ttl });
        state.put(name, value.to_owned(), id);
        state.tell();
    }

    /// The state, with everything that has run out by now gone.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.clock)();
        let ended: Vec<i64> =
            state.leases.iter().filter(|(_, granted)| granted.ends_at <= now).map(|(id, _)| *id).collect();
        for lease in &ended {
            state.leases.remove(lease);
            let names: Vec<String> = state
                .entries
                .iter()
                .filter(|(_, entry)| entry.lease == *lease)
                .map(|(name, _)| name.clone())
                .collect();
            names.iter().for_each(|name| state.delete(name));
        }
        if !ended.is_empty() {
            state.tell();
        }
        state
    }
}

impl State {
    fn put(&mut self, name: &str, value: String, lease: i64) -> i64 {
        self.revision += 1;
        let created = self.entries.get(name).map_or(self.revision, |entry| entry.created);
        let entry = Entry { value, created, modified: self.revision, lease };
        self.entries.insert(name.to_owned(), entry);
        self.revision
    }

    fn delete(&mut self, name: &str) {
        if self.entries.remove(name).is_some() {
            self.revision += 1;
        }
    }

    fn snapshot(&self) -> Snapshot {
        layout::snapshot(&self.entries, self.revision, None)
    }

    /// Shows the contents to the watchers that are connected.
    fn tell(&mut self) {
        let snapshot = Arc::new(self.snapshot());
        for (name, watcher) in &self.watchers {
            let interrupted = self.faults.contains_key(name).then(|| "the member is cut off".to_owned());
            watcher.send_if_modified(|sight| {
                let changed = sight.interrupted != interrupted;
                sight.interrupted.clone_from(&interrupted);
                changed
            });
            if interrupted.is_none() {
                publish(watcher, &snapshot);
            }
        }
    }

    fn holds(&self, term: Term, name: &MemberName) -> Result<(), Failure> {
        match self.entries.get("leader") {
            Some(entry) if entry.created == term.0 && entry.value == name.as_str() => Ok(()),
            Some(entry) => Err(Failure::Lost(format!(
                "the leader key belongs to `{}` since revision {}",
                entry.value, entry.created
            ))),
            None => Err(Failure::Lost("there is no leader key".to_owned())),
        }
    }
}

/// One member's handle on a [`MemoryServer`].
#[derive(Clone)]
pub struct Memory {
    server: MemoryServer,
    name: MemberName,
    own: Arc<Mutex<Own>>,
    sight: watch::Sender<Sight>,
}

struct Own {
    ttl: Duration,
    lease: Option<(i64, Lease)>,
}

impl Memory {
    pub fn new(server: &MemoryServer, name: MemberName, ttl: Duration) -> Self {
        let (sight, _) = watch::channel(Sight::default());
        let mut state = server.lock();
        state.watchers.push((name.clone(), sight.clone()));
        state.tell();
        drop(state);
        Self { server: server.clone(), name, own: Arc::new(Mutex::new(Own { ttl, lease: None })), sight }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out one request, unless the member is cut off.
    fn request<T>(&self, act: impl FnOnce(&mut State, &mut Own) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut state = self.server.lock();
        let fault = state.faults.get(&self.name).copied();
        if fault == Some(Fault::Cut) {
            return Err(Unreachable("the member is cut off".to_owned()).into());
        }
        let revision = state.revision;
        let result = act(&mut state, &mut self.own());
        if state.revision != revision {
            state.tell();
        }
        match fault {
            None => result,
            Some(_) => Err(Unreachable("the answer was lost".to_owned()).into()),
        }
    }

    /// The member's lease, alive; a new one where it has none.
    fn lease(&self, state: &mut State, own: &mut Own) -> i64 {
        if let Some((id, _)) = own.lease
            && state.leases.contains_key(&id)
        {
            return id;
        }
        state.next_lease += 1;
        let now = (self.server.clock)();
        let id = state.next_lease;
        state.leases.insert(id, Granted { ends_at: now.after(own.ttl), ttl: own.ttl });
        own.lease = Some((id, Lease { sent_at: now, ttl: own.ttl }));
        id
    }

    fn current(own: &Own) -> Lease {
        own.lease.map_or(Lease { sent_at: BootTime(0), ttl: Duration::ZERO }, |(_, lease)| lease)
    }
}

impl Store for Memory {
    async fn snapshot(&self) -> Result<Arc<Snapshot>, Unreachable> {
        let read = self.request(|state, _| Ok(Arc::new(state.snapshot())));
        read.map_err(|failure| match failure {
            Failure::Unreachable(why) => why,
            Failure::Lost(why) => Unreachable(why),
        })
    }

    fn watch(&self) -> watch::Receiver<Sight> {
        self.sight.subscribe()
    }

    fn set_ttl(&self, ttl: Duration) {
        self.own().ttl = ttl;
    }

    async fn adopt(&self) -> Result<Option<Leadership>, Unreachable> {
        let now = (self.server.clock)();
        let adopted = self.request(|state, own| {
            let Some(entry) = state.entries.get("leader").filter(|entry| entry.value == self.name.as_str())
            else {
                return Ok(None);
            };
            let (id, term) = (entry.lease, Term(entry.created));
            let Some(granted) = state.leases.get_mut(&id) else { return Ok(None) };
            granted.ends_at = now.after(granted.ttl);
            let lease = Lease { sent_at: now, ttl: granted.ttl };
            own.lease = Some((id, lease));
            Ok(Some(Leadership { term, lease }))
        });
        adopted.map_err(|failure| Unreachable(failure.to_string()))
    }

    async fn renew(&self, held: Option<Term>) -> Result<Renewal, Failure> {
        let now = (self.server.clock)();
        self.request(|state, own| {
            if let Some(term) = held {
                state.holds(term, &self.name)?;
            }
            let old = own.lease.map(|(id, _)| id);
            let wanted = own.ttl;
            if old.and_then(|id| state.leases.get(&id)).is_some_and(|granted| granted.ttl != wanted) {
                own.lease = None;
            }
            let id = self.lease(state, own);
            if let Some(granted) = state.leases.get_mut(&id) {
                granted.ends_at = now.after(granted.ttl);
                own.lease = Some((id, Lease { sent_at: now, ttl: granted.ttl }));
            }
            if let Some(old) = old.filter(|old| *old != id) {
                state
                    .entries
                    .values_mut()
                    .filter(|entry| entry.lease == old)
                    .for_each(|entry| entry.lease = id);
                state.leases.remove(&old);
            }
            Ok(Renewal { lease: Self::current(own), snapshot: Arc::new(state.snapshot()) })
        })
    }

    async fn acquire_leader(&self, sync: Option<Revision>) -> Result<Leadership, Failure> {
        self.request(|state, own| {
            let id = self.lease(state, own);
            if let Some(entry) = state.entries.get("leader") {
                if entry.value == self.name.as_str() && entry.lease == id {
                    return Ok(Leadership { term: Term(entry.created), lease: Self::current(own) });
                }
                return Err(Failure::Lost(format!("the leader key belongs to `{}`", entry.value)));
            }
            if state.entries.get("sync").map(|entry| Revision(entry.modified)) != sync {
                return Err(Failure::Lost("`sync` has changed meanwhile".to_owned()));
            }
            let term = Term(state.put("leader", self.name.to_string(), id));
            Ok(Leadership { term, lease: Self::current(own) })
        })
    }

    async fn release(&self, term: Term) -> Result<(), Failure> {
        self.request(|state, _| {
            state.holds(term, &self.name)?;
            state.delete("leader");
            Ok(())
        })
    }

    async fn write_member(&self, member: &MemberDocument) -> Result<(), Failure> {
        self.request(|state, own| {
            let lease = self.lease(state, own);
            state.put(&format!("members/{}", self.name), to_json(member), lease);
            Ok(())
        })
    }

    async fn delete_member(&self) -> Result<(), Failure> {
        self.request(|state, _| {
            state.delete(&format!("members/{}", self.name));
            Ok(())
        })
    }

    async fn write_status(&self, term: Term, status: &StatusDocument) -> Result<(), Failure> {
        self.request(|state, _| {
            state.holds(term, &self.name)?;
            state.put("status", to_json(status), 0);
            Ok(())
        })
    }

    async fn swap(&self, swap: Swap) -> Result<Option<Revision>, Failure> {
        self.request(|state, own| {
            if let Some(term) = swap.while_leader {
                state.holds(term, &self.name)?;
            }
            let name = swap.key.as_str();
            if state.entries.get(name).map(|entry| Revision(entry.modified)) != swap.expected {
                return Err(Failure::Lost(format!("`{name}` was changed by another")));
            }
            let Some(value) = swap.value else {
                state.delete(name);
                return Ok(None);
            };
            let lease = if swap.ephemeral { self.lease(state, own) } else { 0 };
            Ok(Some(Revision(state.put(name, value, lease))))
        })
    }
}
