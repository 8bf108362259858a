//! Which hosts connect to which ports of which others, and where somebody has to listen so that it can be tried.
//! Pure.

use super::{
    Machine, Scope,
    needs::{Needs, Port},
    ports::{self, Holder},
};
use crate::{
    inventory::Host,
    model::HostName,
    remote::{
        Tls,
        preflight::links::{At, Dial, Door},
    },
};

/// The ports that hosts of a role connect to on others, by their variables.
const DIALLED: &[(&str, &[&str])] = &[
    // A member restarts when the agents say that PostgreSQL is well.
    ("etcd", &["etcd_client_port", "etcd_peer_port", "agent_api_port"]),
    ("zookeeper", &["zookeeper_peer_port", "zookeeper_election_port"]),
    ("postgres", &["etcd_client_port", "zookeeper_client_port", "postgres_port", "agent_api_port"]),
    ("haproxy", &["postgres_port", "agent_api_port"]),
];

/// The ports of others that a host connects to, by their variables.
pub fn dials(host: &Host) -> Vec<&'static str> {
    let roles = DIALLED.iter().filter(|(role, _)| host.is_in(role));
    let mut variables: Vec<_> = roles.flat_map(|(_, variables)| variables.iter().copied()).collect();
    variables.sort_unstable();
    variables.dedup();
    variables
}

/// Where a host listens for the others.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Where they meet to compare clocks and packets.
    meeting: Option<u16>,
    /// Ports of services that do not run yet.
    services: Vec<u16>,
}

impl Opened {
    /// From the answers to doors, in their order.
    pub fn of(doors: &[Door], answers: Vec<Result<u16, String>>) -> Self {
        let mut opened = Self::default();
        for (door, port) in doors.iter().zip(answers) {
            match (door.port, port) {
                (0, Ok(port)) => opened.meeting = Some(port),
                (_, Ok(port)) => opened.services.push(port),
                // Somebody was quicker: who it is shows as soon as a service starts there.
                (_, Err(_)) => {}
            }
        }
        opened
    }
}

/// What has to be listened on at a host: a place to meet, and every port that others need and nobody has.
pub fn doors(to: &Machine, all: &[Machine]) -> Vec<Door> {
    let Ok(found) = &to.found else { return Vec::new() };
    let others = all.iter().filter(|other| other.name != to.name);
    let dialled: Vec<&str> = others
        .filter_map(|other| other.found.as_ref().ok())
        .flat_map(|other| other.needs.dials.clone())
        .collect();
    let free = |port: &&Port| {
        dialled.contains(&port.variable) && matches!(ports::holder(found, port), Holder::Nobody)
    };
    let services = found.needs.ports.iter().filter(free);
    let services = services.map(|port| Door { port: port.number, address: port.address });
    std::iter::once(Door { port: 0, address: None }).chain(services).collect()
}

/// A port of another host that is to be tried.
#[derive(Clone, Debug)]
pub struct Route {
    pub to: HostName,
    /// The service's port; none where the two only meet.
    pub port: Option<Port>,
    pub dial: Dial,
}

/// What a host tries: to meet every other, and every port of them that it needs. `opened` is in the order of
/// all machines.
pub fn routes(from: &Machine, all: &[Machine], opened: &[Opened], scope: Scope) -> Vec<Route> {
    let Ok(own) = &from.found else { return Vec::new() };
    let mut routes = Vec::new();
    for (machine, opened) in all.iter().zip(opened).filter(|(machine, _)| machine.name != from.name) {
        let Ok(found) = &machine.found else { continue };
        let mut add = |port: Option<&Port>, number: u16, at: At| {
            let dial = Dial { address: found.needs.address.clone(), port: number, at };
            routes.push(Route { to: machine.name.clone(), port: port.cloned(), dial });
        };
        let door = || At::Door(machine.name.to_string());
        if let Some(port) = opened.meeting {
            add(None, port, door());
        }
        for port in found.needs.ports.iter().filter(|port| own.needs.dials.contains(&port.variable)) {
            match ports::holder(found, port) {
                Holder::Us => add(Some(port), port.number, service(&own.needs, port, scope)),
                Holder::Nobody if opened.services.contains(&port.number) => {
                    add(Some(port), port.number, door());
                }
                Holder::Nobody | Holder::Somebody(_) => {}
            }
        }
    }
    routes
}

/// How a service is spoken to by a host with these needs. What a bootstrap puts right, as certificates, is no
/// obstacle to it.
fn service(from: &Needs, port: &Port, scope: Scope) -> At {
    let tls = (from.tls && scope == Scope::Everything).then(|| match (&from.etcd, &from.postgres) {
        (Some(_), None) => Tls::of_role("etcd"),
        (Some(_), _) if port.unit == "etcd.service" => Tls::of_role("etcd"),
        (_, Some(_)) => Tls::of_role("postgres"),
        // HAProxy has both in one file, and nobody asks it for them.
        (None, None) => Tls { client_cert: None, client_key: None, ..Tls::of_role("haproxy") },
    });
    At::Service { tls, is_postgres: port.variable == "postgres_port" }
}
