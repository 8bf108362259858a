//! The certificates that services present right now, asked of each through the SSH connection to its host.

use super::{access::Access, topology::Topology};
use crate::{
    inventory::Certificate,
    model::HostName,
    pki::Facts,
    tls::{self, Client},
};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(4);

/// What one service presents, beside what it should.
#[derive(Clone, Debug, Serialize)]
pub struct Served {
    pub host: HostName,
    pub service: &'static str,
    pub state: State,
    /// When the certificate that it presents ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What it holds for.
    pub names: Vec<String>,
    /// Why there is nothing to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It presents the certificate that is kept for it.
    Current,
    /// A newer one is kept, which `apply` installs.
    Due,
    /// It gives no answer, or not by TLS.
    Unknown,
}

/// A place where TLS is spoken.
struct Place<'a> {
    host: &'a HostName,
    role: &'static str,
    service: &'static str,
    address: &'a str,
    port: u16,
}

/// Asks every service that has a certificate; `kept` are those that the inventory has for them.
pub async fn certificates(topology: &Topology, access: &Access, kept: &[Certificate]) -> Vec<Served> {
    let Some(client) = access.tls() else { return Vec::new() };
    let asked = places(topology).into_iter().map(|place| async move {
        let presented = tokio::time::timeout(PATIENCE, presented(access, client, &place)).await;
        let presented = presented.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let kept = kept.iter().find(|kept| kept.host == *place.host && kept.role == place.role);
        judge(&place, presented, kept, Timestamp::now())
    });
    join_all(asked).await
}

fn places(topology: &Topology) -> Vec<Place<'_>> {
    let dcs = topology.dcs_hosts.iter().map(|host| Place {
        host: &host.name,
        role: "etcd",
        service: "etcd",
        address: &host.address,
        port: host.client_port,
    });
    let agents = topology.agents.iter().flat_map(|host| {
        [("agent", host.api_port), ("postgres", host.postgres_port)].map(|(service, port)| Place {
            host: &host.name,
            role: "postgres",
            service,
            address: &host.address,
            port,
        })
    });
    let proxies = topology.proxies.iter().map(|host| Place {
        host: &host.name,
        role: "haproxy",
        service: "haproxy",
        address: &host.address,
        port: host.stats_port,
    });
    dcs.chain(agents).chain(proxies).collect()
}

async fn presented(access: &Access, client: &Client, place: &Place<'_>) -> Result<Facts, String> {
    let mut tunnel =
        access.tunnel(place.host, place.address, place.port).await.map_err(|error| error.to_string())?;
    if place.service == "postgres"
        && !tls::ask_postgres(&mut tunnel).await.map_err(|error| error.to_string())?
    {
        return Err("PostgreSQL has no TLS".to_owned());
    }
    let certificate = client.presented(place.address, tunnel).await.map_err(|error| error.to_string())?;
    Facts::of_der(&certificate).map_err(|error| error.to_string())
}

fn judge(
    place: &Place<'_>,
    presented: Result<Facts, String>,
    kept: Option<&Certificate>,
    now: Timestamp,
) -> Served {
    let mut served = Served {
        host: place.host.clone(),
        service: place.service,
        state: State::Unknown,
        ends: None,
        days_left: None,
        serial: None,
        names: Vec::new(),
        why: None,
    };
    match presented {
        Err(why) => served.why = Some(why),
        Ok(facts) => {
            let is_kept = kept.is_some_and(|kept| kept.facts == facts);
            served.state = if is_kept { State::Current } else { State::Due };
            served.ends = Timestamp::from_second(facts.not_after).ok();
            served.days_left = Some((facts.not_after - now.as_second()) / 86_400);
            served.serial = Some(facts.serial);
            served.names = facts.names.into_iter().collect();
        }
    }
    served
}
