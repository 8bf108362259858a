//! The proof that a cluster works: a row written through the entry point is read from every replica, and
//! no replica can be written to.
//!
//! Everything it makes is in one schema with a name of its own, which it drops again, also after a failure.

use super::{
    access::Access,
    observe,
    sql::{self, SqlError},
    topology::{AgentHost, ProxyHost, Topology},
};
use crate::model::{HostName, Secret};
use futures_util::future::join_all;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const STATEMENT: Duration = Duration::from_secs(5);

/// How long a row may take to reach a replica.
const ARRIVAL: Duration = Duration::from_secs(15);

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was tried, as a sentence.
    pub what: String,
    pub ok: bool,
    /// What was seen.
    pub seen: String,
    pub took_ms: u64,
    /// What to do next, where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}

/// All that was tried, in order.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    pub cluster: String,
    pub verified: bool,
    pub checks: Vec<Check>,
}

/// Tries the whole chain; `tell` hears of each check as soon as it is over.
pub async fn verify(topology: &Topology, access: &Access, tell: impl FnMut(&Check)) -> Verification {
    let mut proof = Proof { topology, access, tell, checks: Vec::new() };
    proof.run().await;
    let checks = proof.checks;
    let verified = !checks.is_empty() && checks.iter().all(|check| check.ok);
    Verification { cluster: topology.cluster.to_string(), verified, checks }
}

struct Proof<'a, Tell> {
    topology: &'a Topology,
    access: &'a Access,
    tell: Tell,
    checks: Vec<Check>,
}

/// A way for clients into the cluster.
struct Entrance {
    address: String,
    port: u16,
    /// The host that opens the connection for us.
    through: HostName,
}

impl<Tell: FnMut(&Check)> Proof<'_, Tell> {
    async fn run(&mut self) {
        let Some(superuser) = self.topology.superuser.clone() else {
            let problem = SqlError::NoWay("the inventory gives no superuser to connect as".to_owned());
            self.note("log in", Instant::now(), Err(problem), "Put hosts into the group `postgres`.");
            return;
        };
        let schema = format!("pgfleet_verify_{:08x}", rand::random::<u32>());
        let row = format!("{:016x}", rand::random::<u64>());
        let mut writer = None;
        for entrance in entrances(self.topology, self.access).await {
            let client = self.write(&entrance, &superuser, &schema, &row).await;
            writer = writer.or(client);
        }
        if let Some(writer) = writer {
            let patience = match self.read_everywhere(&superuser, &schema, &row).await {
                0 => Duration::ZERO,
                _ => ARRIVAL,
            };
            self.read_entrance(&superuser, &schema, &row, patience).await;
            let start = Instant::now();
            let dropped =
                sql::execute(&writer, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE"), STATEMENT).await;
            let dropped = dropped.map(|()| "nothing is left behind".to_owned());
            self.note(
                "remove what was written",
                start,
                dropped,
                &format!("Run `DROP SCHEMA {schema} CASCADE`."),
            );
        }
    }

    fn note(&mut self, what: &str, start: Instant, seen: Result<String, SqlError>, next_step: &str) -> bool {
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, seen) = match seen {
            Ok(seen) => (true, seen),
            Err(error) => (false, error.to_string()),
        };
        let next_step = (!ok).then(|| next_step.to_owned());
        let check = Check { what: what.to_owned(), ok, seen, took_ms, next_step };
        (self.tell)(&check);
        self.checks.push(check);
        ok
    }

    /// Writes the row; gives the connection where that worked.
    async fn write(
        &mut self,
        entrance: &Entrance,
        superuser: &(String, Secret),
        schema: &str,
        row: &str,
    ) -> Option<Client> {
        let start = Instant::now();
        let place = format!("{}:{}", entrance.address, entrance.port);
        let attempt = async {
            let endpoint = (entrance.address.as_str(), entrance.port);
            let client = sql::connect(self.access, &entrance.through, endpoint, superuser, STATEMENT).await?;
            let statements = format!(
                "CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE IF NOT EXISTS {schema}.proof (row text); \
                 DELETE FROM {schema}.proof; INSERT INTO {schema}.proof VALUES ('{row}')"
            );
            sql::execute(&client, &statements, STATEMENT).await?;
            let server = sql::text(&client, "SELECT host(inet_server_addr())", STATEMENT).await?;
            Ok((client, server.unwrap_or_default()))
        };
        let next = "See what `pgfleet status` says of the leader and of the entry point.";
        match attempt.await {
            Ok((client, server)) => {
                let server = self.name_of(&server);
                self.note(
                    &format!("write through {place}"),
                    start,
                    Ok(format!("{server} acknowledged a row")),
                    next,
                );
                Some(client)
            }
            Err(error) => {
                self.note(&format!("write through {place}"), start, Err(error), next);
                None
            }
        }
    }

    fn name_of(&self, address: &str) -> String {
        let host = self.topology.agents.iter().find(|agent| agent.address == address);
        host.map_or_else(|| address.to_owned(), |agent| agent.name.to_string())
    }

    /// Looks at each PostgreSQL by itself: exactly one is the primary, the others have the row and
    /// refuse to be written to. Returns how many replicas have the row.
    async fn read_everywhere(&mut self, superuser: &(String, Secret), schema: &str, row: &str) -> usize {
        let looks = self.topology.agents.iter().map(|agent| look(self.access, agent, superuser, schema, row));
        let looks = join_all(looks).await;
        let mut primaries = Vec::new();
        let mut replicas = 0;
        for (agent, look) in self.topology.agents.iter().zip(looks) {
            let name = &agent.name;
            let log = format!("See `journalctl -u pgfleet-agent` and PostgreSQL's log on {name}.");
            match look {
                Err((start, error)) => {
                    self.note(&format!("log in to {name}"), start, Err(error), &log);
                }
                Ok(Look::Primary) => primaries.push(name.to_string()),
                Ok(Look::Replica { read, refused }) => {
                    let arrived =
                        self.note(&format!("read the row from the replica {name}"), read.0, read.1, &log);
                    replicas += usize::from(arrived);
                    let step = "Stop PostgreSQL there at once: a second writable server loses data.";
                    self.note(
                        &format!("see a write on the replica {name} refused"),
                        refused.0,
                        refused.1,
                        step,
                    );
                }
            }
        }
        let seen = match primaries.as_slice() {
            [one] => Ok(format!("it is {one}")),
            [] => Err(SqlError::NoWay("no server accepts writes".to_owned())),
            several => Err(SqlError::NoWay(format!("{} accept writes", several.join(" and ")))),
        };
        self.note(
            "find exactly one server that accepts writes",
            Instant::now(),
            seen,
            "See `pgfleet status`.",
        );
        replicas
    }

    /// Logs in through the replicas' port; HAProxy may need a moment to see a replica that has just come up.
    async fn enter(
        &self,
        proxy: &ProxyHost,
        superuser: &(String, Secret),
        patience: Duration,
    ) -> Result<Client, SqlError> {
        let deadline = Instant::now() + patience;
        let endpoint = (proxy.address.as_str(), proxy.replica_port);
        loop {
            match sql::connect(self.access, &proxy.name, endpoint, superuser, STATEMENT).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(100)).await,
                result => return result,
            }
        }
    }

    /// Reads through the replicas' entry point, where there is one and somebody behind it.
    async fn read_entrance(
        &mut self,
        superuser: &(String, Secret),
        schema: &str,
        row: &str,
        patience: Duration,
    ) {
        if self.topology.agents.len() < 2 {
            return;
        }
        for proxy in &self.topology.proxies {
            let start = Instant::now();
            let attempt = async {
                let client = self.enter(proxy, superuser, patience).await?;
                await_row(&client, schema, row).await?;
                let query = "SELECT pg_is_in_recovery()::text || ' ' || host(inet_server_addr())";
                let said = sql::text(&client, query, STATEMENT).await?.unwrap_or_default();
                match said.split_once(' ') {
                    Some(("true", server)) => Ok(format!("{} has it", self.name_of(server))),
                    _ => Err(SqlError::NoWay("it leads to the primary".to_owned())),
                }
            };
            let seen = attempt.await;
            let what = format!("read the row through {}:{}", proxy.address, proxy.replica_port);
            self.note(&what, start, seen, "See what `pgfleet status` says of HAProxy and of the replicas.");
        }
    }
}

type Timed = (Instant, Result<String, SqlError>);

enum Look {
    Primary,
    Replica { read: Timed, refused: Timed },
}

async fn look(
    access: &Access,
    agent: &AgentHost,
    superuser: &(String, Secret),
    schema: &str,
    row: &str,
) -> Result<Look, (Instant, SqlError)> {
    let start = Instant::now();
    let endpoint = (agent.address.as_str(), agent.postgres_port);
    let client = sql::connect(access, &agent.name, endpoint, superuser, STATEMENT).await;
    let client = client.map_err(|error| (start, error))?;
    let recovering = sql::text(&client, "SELECT pg_is_in_recovery()", STATEMENT).await;
    if recovering.map_err(|error| (start, error))?.as_deref() == Some("f") {
        return Ok(Look::Primary);
    }
    let read = (start, await_row(&client, schema, row).await);
    let start = Instant::now();
    let refused =
        match sql::execute(&client, &format!("INSERT INTO {schema}.proof VALUES ('no')"), STATEMENT).await {
            Err(error) if error.is_read_only() => Ok("it says that it is read-only".to_owned()),
            Err(error) => Err(error),
            Ok(()) => Err(SqlError::NoWay("it was accepted".to_owned())),
        };
    Ok(Look::Replica { read, refused: (start, refused) })
}

/// Asks until the row is there.
async fn await_row(client: &Client, schema: &str, row: &str) -> Result<String, SqlError> {
    let deadline = Instant::now() + ARRIVAL;
    loop {
        // The table itself arrives by replication too.
        let query = format!("SELECT count(*) FROM {schema}.proof WHERE row = '{row}'");
        match sql::text(client, &query, STATEMENT).await {
            Ok(Some(count)) if count != "0" => return Ok("it has the row".to_owned()),
            Ok(_) => {}
            Err(error) if error.is_refusal() => {}
            Err(error) => return Err(error),
        }
        if Instant::now() > deadline {
            return Err(SqlError::NoWay(format!("the row did not arrive within {} s", ARRIVAL.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every way in for clients that write: the virtual address, each HAProxy, else the leader itself.
async fn entrances(topology: &Topology, access: &Access) -> Vec<Entrance> {
    let mut found = Vec::new();
    if let (Some(vip), Some(proxy)) = (&topology.vip, topology.proxies.first()) {
        // From a database host, so that the address has to be reached over the network.
        let from = topology.agents.iter().map(|agent| &agent.name).chain(&vip.candidates);
        let mut from = from.filter(|name| access.session(name).is_ok());
        let outside = from.clone().find(|name| !vip.candidates.contains(name));
        if let Some(through) = outside.or_else(|| from.next()) {
            let address = vip.address.to_string();
            found.push(Entrance { address, port: proxy.primary_port, through: through.clone() });
        }
    }
    found.extend(topology.proxies.iter().map(|proxy| Entrance {
        address: proxy.address.clone(),
        port: proxy.primary_port,
        through: proxy.name.clone(),
    }));
    if found.is_empty()
        && let Some(leader) = leader_host(topology, access).await
    {
        let address = leader.address.clone();
        found.push(Entrance { address, port: leader.postgres_port, through: leader.name.clone() });
    }
    found
}

/// The host of the member that leads, as any agent tells it; the only one, where there is one.
pub async fn leader_host<'a>(topology: &'a Topology, access: &Access) -> Option<&'a AgentHost> {
    for agent in &topology.agents {
        if let Ok(cluster) = observe::cluster(access, agent).await
            && let Some(leader) =
                cluster.members.iter().find(|member| super::status::is_leader(member.role.as_str()))
        {
            return topology.agent(&leader.name);
        }
    }
    match topology.agents.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}
