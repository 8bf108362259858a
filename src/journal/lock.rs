//! The deploy lock: one run at a time changes a cluster. It is a key under a lease, so that it ends by itself
//! when the machine that holds it is gone.

use super::{author::Author, keys, process::Process};
use crate::{
    cluster::{Do, If, Kv, KvError},
    model::Scope,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the lock outlives a machine that is gone.
pub const TTL: Duration = Duration::from_secs(15);

/// Who holds the lock: the value of its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The run's id in the history.
    pub run: String,
    pub who: Author,
    pub since: Timestamp,
    pub command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

impl Holder {
    pub fn new(command: &str) -> Self {
        let since = Timestamp::now();
        // In the order of time, and unlike those of others who begin in the same second.
        let run = format!("{}-{:04x}", since.strftime("%Y%m%d-%H%M%S"), rand::random::<u16>());
        Self { run, who: Author::here(), since, command: command.to_owned(), process: Process::current() }
    }

    /// What others are told.
    pub fn describe(&self) -> String {
        format!("{} runs `pgfleet {}` since {:.0}", self.who, self.command, self.since)
    }

    /// Whether nobody is behind it any more, as far as this machine can tell.
    pub fn has_died(&self) -> bool {
        self.process.as_ref().is_some_and(Process::has_ended)
    }

    pub(super) fn parse(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_else(|_| Self {
            run: String::new(),
            who: Author { user: "somebody".to_owned(), machine: "unknown".to_owned() },
            since: Timestamp::UNIX_EPOCH,
            command: "?".to_owned(),
            process: None,
        })
    }
}

/// A lock that this run holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub lease: i64,
    pub ttl: Duration,
}

/// Takes the lock in one transaction with the first entry in the history, and reads the stored inventory on the
/// way. The outer error is the store's; the inner one says who holds it.
pub(super) async fn take(
    kv: &Kv,
    cluster: &Scope,
    holder: &Holder,
    entry: &[u8],
) -> Result<(Result<Taken, Holder>, Option<Vec<u8>>), KvError> {
    let (lease, ttl) = kv.grant(TTL).await?;
    let (lock, run, inventory) =
        (keys::lock(cluster), keys::run(cluster, &holder.run), keys::inventory(cluster));
    let value = serde_json::to_vec(holder).unwrap_or_default();
    let outcome = kv
        .txn(
            &[If::Absent(&lock)],
            &[Do::PutLeased(&lock, &value, lease), Do::Put(&run, entry), Do::Get(&inventory)],
            &[Do::Get(&lock), Do::Get(&inventory)],
        )
        .await?;
    let stored = outcome.get(&inventory).map(|pair| pair.value.clone());
    let other = outcome.get(&lock).map(|pair| (Holder::parse(&pair.value), pair.lease));
    match other {
        // The first answer was lost, and this is the second.
        Some((found, own)) if found.run == holder.run && own == lease => {
            Ok((Ok(Taken { lease, ttl }), stored))
        }
        Some((other, _)) => {
            // It would end by itself.
            let _ = kv.revoke(lease).await;
            Ok((Err(other), stored))
        }
        None => Ok((Ok(Taken { lease, ttl }), stored)),
    }
}

/// Who holds the lock now, and under which lease.
pub async fn holder(kv: &Kv, cluster: &Scope) -> Result<Option<(Holder, i64)>, KvError> {
    let found = kv.read(&[Do::Get(&keys::lock(cluster))]).await?;
    Ok(found.first().map(|pair| (Holder::parse(&pair.value), pair.lease)))
}

/// Breaks the lock of a run that `seen` shows. The run notices, and stops before its next play.
pub async fn unlock(kv: &Kv, seen: (&Holder, i64)) -> Result<(), KvError> {
    // The lease is that run's alone: whoever took the lock since has another one.
    kv.revoke(seen.1).await
}
