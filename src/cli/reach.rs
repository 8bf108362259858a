//! Connections to the hosts that a command asks.

use super::{context::Context, error::Error};
use crate::{
    cluster::{Access, Topology},
    model::HostName,
    ssh::{Options, Target},
};
use std::time::Duration;

/// Who asks how the cluster is does not want to wait long for a host that is gone.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// The parts of the cluster, and a connection to each of their hosts.
pub async fn reach(context: &Context) -> Result<(Topology, Access), Error> {
    let topology = Topology::of(&context.inventory);
    let options = context.ssh();
    let asked_for = context.common.connect_timeout.is_some();
    let connect_timeout = if asked_for { options.connect_timeout } else { PATIENCE };
    let options = Options { connect_timeout, ..options };
    let hosts = topology.hosts().into_iter().filter_map(|name| context.inventory.hosts.get(name));
    let targets = hosts.map(|host| Target::of(host, &options)).collect();
    let access = Access::open(targets, &options, usize::from(context.common.forks)).await;
    let tls = context.inventory.tls_client()?;
    Ok((topology, access.with_tls(tls)))
}

/// A connection to one host; none where it cannot be reached.
pub async fn reach_one(context: &Context, host: &HostName) -> Option<Access> {
    let options = Options { connect_timeout: PATIENCE, ..context.ssh() };
    let target = Target::of(context.inventory.hosts.get(host)?, &options);
    let tls = context.inventory.tls_client().ok()?;
    let access = Access::open(vec![target], &options, 1).await.with_tls(tls);
    access.session(host).is_ok().then_some(access)
}

/// As [`reach`]; fails when no host at all can be reached.
pub async fn reach_any(context: &Context) -> Result<(Topology, Access), Error> {
    let (topology, access) = reach(context).await?;
    if topology.hosts().iter().any(|name| access.session(name).is_ok()) {
        return Ok((topology, access));
    }
    let why = access.failures().next().map(|error| (error.to_string(), error.next_step()));
    let (why, step) = why.unwrap_or_else(|| ("the inventory lists no host".to_owned(), String::new()));
    Err(Error::Unreachable(anyhow::anyhow!("no host can be reached: {why}"), vec![step]))
}
