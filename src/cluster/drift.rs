//! What on the hosts is no longer as we put it. Each host remembers that by itself, so that one question
//! to each of them is enough, and neither an inventory's variables nor a template is needed.

use crate::{
    engine::Worker,
    inventory::Host,
    model::HostName,
    remote::protocol::Drift,
    ssh::{Executables, Options},
};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

/// What one host answers.
#[derive(Debug, Serialize)]
pub struct HostDrift {
    pub host: HostName,
    pub drift: Vec<Drift>,
    /// Why it could not be asked, and what to do; none where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
}

#[derive(Debug, Serialize)]
pub struct Obstacle {
    pub problem: String,
    pub next_step: String,
}

/// Asks the hosts, at most `forks` at the same time; the answers come in the hosts' order.
pub async fn drift(
    hosts: &[&Host],
    options: &Options,
    executables: &Executables,
    forks: usize,
) -> Vec<HostDrift> {
    let asked = hosts.iter().map(|host| async move {
        let (drift, obstacle) = match ask(host, options, executables).await {
            Ok(drift) => (drift, None),
            Err(obstacle) => (Vec::new(), Some(obstacle)),
        };
        HostDrift { host: host.name.clone(), drift, obstacle }
    });
    stream::iter(asked).buffered(forks.max(1)).collect().await
}

async fn ask(host: &Host, options: &Options, executables: &Executables) -> Result<Vec<Drift>, Obstacle> {
    let connected = Worker::connect(host, options, executables).await;
    let mut worker =
        connected.map_err(|error| Obstacle { problem: error.problem(), next_step: error.next_step() })?;
    let drift = worker.drift().await.map_err(|lost| Obstacle {
        problem: lost.message,
        next_step: "see whether the host is up, and ask again".to_owned(),
    })?;
    worker.close().await;
    Ok(drift)
}
