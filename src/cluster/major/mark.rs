//! The mark that keeps members from taking over while the old cluster is shut down, under a lease of this run:
//! should the run die in between, the mark ends, and a standby takes over.

use crate::{
    cluster::{Do, Kv, KvError},
    contract::MaintenanceMark,
    model::{HostName, Scope},
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

const TTL: Duration = Duration::from_secs(30);

/// A mark that is kept until it is taken away.
pub struct Mark {
    kv: Arc<Kv>,
    lease: i64,
    renewal: JoinHandle<()>,
}

impl Mark {
    /// Suspends automatic failover in the whole cluster, in the name of the member that leads.
    pub async fn set(
        kv: &Arc<Kv>,
        (namespace, cluster): (&str, &Scope),
        leader: &HostName,
        by: &str,
    ) -> Result<Mark, KvError> {
        let mark = MaintenanceMark {
            by: by.to_owned(),
            reason: "upgrade to another major version".to_owned(),
            nofailover: true,
            ..MaintenanceMark::default()
        };
        let member = leader.as_str().parse().map_err(|error| KvError::Refused(format!("{error}")))?;
        let key = MaintenanceMark::key(namespace, cluster, &member);
        let (lease, ttl) = kv.grant(TTL).await?;
        let text = serde_json::to_vec(&mark).unwrap_or_default();
        kv.txn(&[], &[Do::PutLeased(&key, &text, lease)], &[]).await?;
        let renewing = Arc::clone(kv);
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ttl / 3).await;
                // Without an answer there is nothing to be done but ask again: the mark ends or it does not.
                if matches!(renewing.keep_alive(lease).await, Err(KvError::NoLease)) {
                    return;
                }
            }
        });
        Ok(Mark { kv: Arc::clone(kv), lease, renewal })
    }

    /// Takes it away.
    pub async fn lift(self) -> Result<(), KvError> {
        self.renewal.abort();
        self.kv.revoke(self.lease).await
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}
