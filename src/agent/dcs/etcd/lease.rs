//! The lease under a member's keys: granted, kept alive with proof, exchanged when the ttl changes.

use super::{
    Etcd, EtcdOptions, Failure, Lease, Renewal, Unreachable,
    gateway::GatewayError,
    messages::{self, leased_by, number, txn},
    not_understood,
};
use crate::contract::Term;
use serde_json::json;
use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

/// How often a renewal is tried when etcd answers and the answer proves nothing.
const ROUNDS: usize = 3;

/// The lease under this member's keys.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub id: i64,
    /// The ttl that it was asked for with; etcd may have granted more.
    pub asked: Duration,
    pub lease: Lease,
}

impl Etcd {
    pub(super) fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ttl(&self) -> Duration {
        *self.0.ttl.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a lease that etcd does not know any more.
    pub(super) fn forget(&self, id: i64) {
        let mut held = self.held();
        if held.is_some_and(|held| held.id == id) {
            *held = None;
        }
    }

    /// This member's lease; a new one where it has none.
    pub(super) async fn lease(&self) -> Result<Held, Unreachable> {
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

    /// Moves this member's keys to a lease with the ttl that is wanted now. Neither lease is revoked, whatever
    /// happens: a key that is still under it (the outcome of a request may be unknown, another request may
    /// be under way) would go with it. A lease that nobody keeps alive ends by itself.
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
        Ok(())
    }

    /// Extends the lease, or finds out that the term is over. Bounded like any other call, although it takes
    /// several requests.
    pub(super) async fn renew_lease(&self, held: Option<Term>) -> Result<Renewal, Failure> {
        let current = *self.held();
        let bound = self.shared().gateway.longest_call() + EtcdOptions::REQUEST_TIMEOUT;
        let renewing = async {
            if let Some(current) = current.filter(|current| current.asked != self.ttl()) {
                // A failure is not the end: the old lease is renewed below, and the exchange tried next time.
                drop(self.exchange(current).await);
            }
            let mut doubt = Unreachable("etcd does not keep the lease".to_owned());
            for _ in 0..ROUNDS {
                match self.keep_alive(held).await? {
                    Ok(renewal) => return Ok(renewal),
                    Err(why) => doubt = why,
                }
            }
            Err(doubt.into())
        };
        match tokio::time::timeout(bound, renewing).await {
            Ok(result) => result,
            Err(_) => {
                Err(Unreachable(format!("the lease was not renewed within {} ms", bound.as_millis())).into())
            }
        }
    }

    /// One keepalive and the read that proves it. The inner error: it proves nothing, try again.
    async fn keep_alive(&self, held: Option<Term>) -> Result<Result<Renewal, Unreachable>, Failure> {
        let doubt = |why: &str| Ok(Err(Unreachable(why.to_owned())));
        let current = self.lease().await?;
        let request = json!({"ID": current.id.to_string()});
        let answer = match self.shared().gateway.call("/v3/lease/keepalive", &request).await {
            Ok(answer) => Some(answer),
            Err(GatewayError::LeaseNotFound) => None,
            Err(error) => return Err(error.into()),
        };
        let contents = match &answer {
            Some(answer) => self.shared().read_at(answer.endpoint).await,
            None => self.shared().read().await,
        };
        let contents = match contents {
            Ok(contents) => contents,
            Err(why) => return Ok(Err(why)),
        };
        let snapshot = self.shared().show(&contents.entries, contents.revision);
        if let Some(term) = held {
            let leader = self.still_leads(&contents.entries, term)?;
            if leader.lease != current.id {
                // An exchange of leases whose answer was lost. The lease that counts is the key's.
                *self.held() = Some(Held { id: leader.lease, ..current });
                return doubt("the leader key was under another lease");
            }
        }
        let alive = answer.and_then(|answer| {
            let ttl = u64::try_from(number(&answer.body["result"]["TTL"])).ok().filter(|ttl| *ttl > 0)?;
            Some((answer, Duration::from_secs(ttl)))
        });
        let Some((answer, ttl)) = alive else {
            if held.is_none() {
                self.forget(current.id);
            }
            // With a term: the key is there and its lease is not, so one of two answers is out of date.
            return doubt("etcd does not know the lease");
        };
        let raft_term = messages::header(&answer.body["result"]).map(|(_, raft_term)| raft_term);
        if raft_term != Some(contents.raft_term) {
            return doubt("etcd is electing a leader");
        }
        let lease = Lease { sent_at: answer.sent_at, ttl };
        if let Some(held) = self.held().as_mut().filter(|held| held.id == current.id) {
            held.lease = lease;
        }
        Ok(Ok(Renewal { lease, snapshot }))
    }
}
