//! Keeps a run's lease alive, and stops the run when it may have ended.

use super::lock::Taken;
use crate::cluster::{Kv, KvError};
use nix::time::{ClockId, clock_gettime};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether something is due: a machine that was asleep notices within this.
const TICK: Duration = Duration::from_secs(1);

/// The run stops this much before the store could have given the lock to another.
const MARGIN: Duration = Duration::from_secs(2);

/// A lease that is kept until this is dropped.
pub(super) struct Keeper {
    task: JoinHandle<()>,
    lost: Arc<OnceLock<String>>,
}

impl Keeper {
    /// Renews the lease again and again; cancels `stop` when it is lost. `since` is when it was asked for.
    pub(super) fn start(kv: Arc<Kv>, taken: Taken, since: Duration, stop: CancellationToken) -> Self {
        let lost = Arc::new(OnceLock::new());
        let why = Arc::clone(&lost);
        let task = tokio::spawn(async move {
            let reason = keep(&kv, taken, since).await;
            let _ = why.set(reason);
            stop.cancel();
        });
        Self { task, lost }
    }

    /// Why the lease is lost.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Renews until the lease is lost, and says why it is.
async fn keep(kv: &Kv, taken: Taken, since: Duration) -> String {
    let mut ends = since + taken.ttl;
    let mut due = since + taken.ttl / 3;
    let mut doubt = "no answer yet".to_owned();
    loop {
        tokio::time::sleep(TICK).await;
        let left = ends.saturating_sub(MARGIN).saturating_sub(now());
        if left.is_zero() {
            return format!("etcd has not confirmed the deploy lock in time: {doubt}");
        }
        if now() < due {
            continue;
        }
        let asked = now();
        match tokio::time::timeout(left, kv.keep_alive(taken.lease)).await {
            Ok(Ok(ttl)) => {
                // From when it was asked for: the store may have counted from then.
                ends = asked + ttl;
                due = asked + ttl / 3;
            }
            Ok(Err(KvError::NoLease)) => {
                return "the deploy lock has ended: somebody broke it, or this machine was away for too long"
                    .to_owned();
            }
            Ok(Err(error)) => doubt = error.to_string(),
            Err(_) => doubt = "no answer in time".to_owned(),
        }
    }
}

/// The clock that runs on while the machine sleeps.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
