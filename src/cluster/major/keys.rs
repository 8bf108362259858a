//! What the agents keep in the store of a cluster that becomes another one: its identity, its past, who may
//! take over. The configuration that all members share stays.

use crate::cluster::{Do, If, Kv, KvError};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Keys that say something of the old data. All begin with the cluster's folder.
const OF_THE_DATA: [&str; 6] = ["initialize", "history", "status", "sync", "failsafe", "failover"];

/// The keys could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MovedOn {
    #[error("somebody leads the cluster in the store already")]
    Led,
    #[error("etcd: {0}")]
    Store(#[from] KvError),
}

/// What the store holds now, to be put back by [`restore`].
pub async fn saved(kv: &Kv, folder: &str) -> Result<BTreeMap<String, String>, KvError> {
    let keys = OF_THE_DATA.map(|name| format!("{folder}{name}"));
    let reads: Vec<Do<'_>> = keys.iter().map(|key| Do::Get(key)).collect();
    let found = kv.read(&reads).await?;
    let pair = |pair: crate::cluster::Pair| {
        let name = pair.key.strip_prefix(folder)?.to_owned();
        Some((name, String::from_utf8(pair.value).ok()?))
    };
    Ok(found.into_iter().filter_map(pair).collect())
}

/// Makes the store one of a cluster that is yet to be: the agent that has a primary's data makes it of them.
pub async fn renew(kv: &Kv, folder: &str) -> Result<(), MovedOn> {
    write(kv, folder, &BTreeMap::new()).await
}

/// Puts back what was there.
pub async fn restore(kv: &Kv, folder: &str, saved: &BTreeMap<String, String>) -> Result<(), MovedOn> {
    write(kv, folder, saved).await
}

/// How long the key of a leader that is down may last.
const LEASE: Duration = Duration::from_secs(60);

/// All or nothing, and only while nobody leads.
async fn write(kv: &Kv, folder: &str, values: &BTreeMap<String, String>) -> Result<(), MovedOn> {
    let leader = format!("{folder}leader");
    let keys = OF_THE_DATA.map(|name| (name, format!("{folder}{name}")));
    let writes: Vec<Do<'_>> = keys
        .iter()
        .map(|(name, key)| match values.get(*name) {
            Some(value) => Do::Put(key, value.as_bytes()),
            None => Do::Delete(key),
        })
        .collect();
    let begun = Instant::now();
    while !kv.txn(&[If::Absent(&leader)], &writes, &[]).await?.held {
        if begun.elapsed() >= LEASE {
            return Err(MovedOn::Led);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
