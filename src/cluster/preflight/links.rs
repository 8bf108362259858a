//! Do the hosts get through to each other: to every port that they need, quickly, with packets of every size?

use super::{Findings, Found, Machine, needs::Port};
use crate::{
    model::HostName,
    remote::preflight::links::{Large, Measured, Reached, Unreached},
};
use std::collections::BTreeMap;

/// What a host found out with another: by a port that it needs, or, with none, where they only met.
#[derive(Clone, Debug)]
pub struct Contact {
    pub with: HostName,
    pub port: Option<Port>,
    pub result: Result<Reached, Unreached>,
}

impl Contact {
    pub fn measured(&self) -> Option<&Measured> {
        self.result.as_ref().ok()?.measured.as_ref()
    }

    fn round_trip_ms(&self) -> Option<f64> {
        let reached = self.result.as_ref().ok()?;
        // Of a connection's time some is the far host's.
        Some(reached.measured.as_ref().map_or(reached.connect_ms, |measured| measured.round_trip_ms))
    }
}

/// All hosts that answered, by name.
pub struct Links<'a>(BTreeMap<&'a HostName, &'a Found>);

impl<'a> Links<'a> {
    pub fn of(machines: &'a [Machine]) -> Self {
        let found =
            machines.iter().filter_map(|machine| Some((&machine.name, &**machine.found.as_ref().ok()?)));
        Self(found.collect())
    }

    pub fn judge(&self, host: &HostName, found: &Found, own: &mut Findings<'_>) {
        reach(found, own);
        if found.contacts.is_empty() {
            return;
        }
        ports(found, own);
        heartbeats(found, own);
        if found.contacts.iter().all(|contact| contact.port.is_none() || contact.result.is_ok()) {
            own.otherwise("links", || told(found));
        }
        self.packets(host, found, own);
    }

    /// What becomes of large packets on the way.
    fn packets(&self, host: &HostName, found: &Found, own: &mut Findings<'_>) {
        let mut largest = None;
        let mut judged: Vec<&HostName> = Vec::new();
        for contact in &found.contacts {
            let Some(measured) = contact.measured().filter(|_| !judged.contains(&&contact.with)) else {
                continue;
            };
            let with = &contact.with;
            largest = largest.max(measured.mtu);
            if let Large::Lost { up_to } = measured.large {
                judged.push(with);
                lost(with, measured.mtu, up_to, own);
            } else if let Some((here, there)) = measured.mtu.zip(self.mtu(with, host))
                && here > there
            {
                judged.push(with);
                own.warn(
                    "mtu",
                    format!("sends {with} packets of up to {here} bytes, and gets such of up to {there} from it"),
                    format!(
                        "Give both the same size (`ip link set dev INTERFACE mtu {there}`, and the same in the \
                         network's configuration): what has to come in one packet is lost on the way there."
                    ),
                );
            }
        }
        if let Some(largest) = largest {
            own.otherwise("mtu", || format!("packets of {largest} bytes get through to all others"));
        }
    }

    /// The size of the packets that a host sends another.
    fn mtu(&self, from: &HostName, to: &HostName) -> Option<u32> {
        let mut contacts = self.0.get(from)?.contacts.iter().filter(|contact| contact.with == *to);
        contacts.find_map(|contact| contact.measured()?.mtu)
    }
}

/// Every port of another host that this one needs.
fn ports(found: &Found, own: &mut Findings<'_>) {
    let mut failed: BTreeMap<(&HostName, String), Vec<(&Port, &Unreached)>> = BTreeMap::new();
    for contact in found.contacts.iter().filter(|contact| !is_silent(found, &contact.with)) {
        if let (Some(port), Err(why)) = (&contact.port, &contact.result) {
            failed.entry((&contact.with, why.to_string())).or_default().push((port, why));
        }
    }
    for ((with, why), ports) in failed {
        let Some((_, kind)) = ports.first() else { continue };
        let names: Vec<_> =
            ports.iter().map(|(port, _)| format!("{} (`{}`)", port.number, port.variable)).collect();
        let numbers: Vec<_> = ports.iter().map(|(port, _)| port.number.to_string()).collect();
        let mut peers = found.needs.peers.iter().filter(|peer| peer.name == with.as_str());
        let address = peers.next().map_or(with.as_str(), |peer| peer.address.as_str());
        own.fail(
            "links",
            format!("does not get through to {with}:{}: {why}", names.join(", ")),
            next_step(kind, &found.needs.address, with, address, &numbers.join(",")),
        );
    }
}

/// Members of etcd whose heartbeats are on their way for longer than it is patient.
fn heartbeats(found: &Found, own: &mut Findings<'_>) {
    let Some(etcd) = &found.needs.etcd else { return };
    let members = found
        .contacts
        .iter()
        .filter(|contact| contact.port.as_ref().is_some_and(|port| port.variable == "etcd_peer_port"));
    let farthest = members.filter_map(|contact| Some((&contact.with, contact.round_trip_ms()?)));
    let Some((with, ms)) = farthest.max_by(|a, b| a.1.total_cmp(&b.1)) else { return };
    if ms > etcd.heartbeat_ms as f64 {
        let (beat, election) = (ms.ceil() as u64, (ms * 10.0).ceil() as u64);
        own.warn(
            "links",
            format!(
                "a round trip to {with} takes {ms:.0} ms, and etcd's heartbeats come every {} ms",
                etcd.heartbeat_ms
            ),
            format!(
                "Set `etcd_heartbeat_interval_ms` to {beat} or more, and `etcd_election_timeout_ms` to \
                 {election} or more."
            ),
        );
    }
}

fn lost(with: &HostName, mtu: Option<u32>, up_to: Option<u32>, own: &mut Findings<'_>) {
    let size = mtu.map(|mtu| format!(" of up to {mtu} bytes")).unwrap_or_default();
    match up_to {
        Some(up_to) => own.fail(
            "mtu",
            format!("packets{size} to or from {with} get lost, those of up to {up_to} arrive"),
            format!(
                "Set `ip link set dev INTERFACE mtu {up_to}` on both hosts and in their network's configuration, \
                 or let ICMP's `fragmentation needed` through on the way."
            ),
        ),
        None => own.fail(
            "mtu",
            format!("a connection to {with} stands, and nothing large gets through it"),
            format!("Find where it gets lost: `tracepath {with}`."),
        ),
    }
}

fn next_step(why: &Unreached, from: &str, to: &HostName, address: &str, ports: &str) -> String {
    match why {
        Unreached::Silent | Unreached::Refused | Unreached::Other(_) => format!(
            "Let {from} through to port {ports} of {to} in the firewalls there and on the way (`nft list ruleset`)."
        ),
        Unreached::Stranger => format!(
            "Is {address} the address of {to} alone? `arping -D {address}` tells; so does a proxy on the way."
        ),
        Unreached::Insecure(_) => {
            "`pgfleet certs` tells which certificate is presented; `pgfleet apply` installs the right one."
                .to_owned()
        }
    }
}

/// Each host reaches each other somehow, by the address that the cluster uses.
fn reach(found: &Found, own: &mut Findings<'_>) {
    let address = &found.needs.address;
    let is_address = address.parse::<std::net::Ipv4Addr>().is_ok();
    if is_address && !found.facts.all_ipv4_addresses.contains(address) {
        own.warn(
            "network",
            format!("no interface has {address}, by which the others are to reach this host"),
            "Right where addresses are translated on the way; otherwise set `address` to the host's own.",
        );
    }
    let peers = || found.needs.peers.iter().zip(&found.survey.peers);
    let silent: Vec<&str> =
        peers().map(|(peer, _)| peer.name.as_str()).filter(|name| distance(found, name).is_none()).collect();
    if !silent.is_empty() {
        own.fail(
            "network",
            format!("does not reach {}", silent.join(", ")),
            "Are they up, and do routes and firewalls let the cluster's hosts reach each other?",
        );
    }
    let slowest = peers().filter_map(|(peer, _)| distance(found, &peer.name)).max_by(f64::total_cmp);
    own.otherwise("network", || match slowest {
        None => "there is no other host".to_owned(),
        Some(ms) => format!("reaches all others, the farthest in {ms:.1} ms"),
    });
}

/// The shortest round trip to another host, on whichever port it answers.
fn distance(found: &Found, with: &str) -> Option<f64> {
    let peers = found.needs.peers.iter().zip(&found.survey.peers);
    let asked = peers.filter(|(peer, _)| peer.name == with).filter_map(|(_, answer)| *answer);
    let met = found.contacts.iter().filter(|contact| contact.with.as_str() == with);
    asked.chain(met.filter_map(Contact::round_trip_ms)).min_by(f64::total_cmp)
}

/// No port of the other host answers: said once, and not for each of them.
fn is_silent(found: &Found, with: &HostName) -> bool {
    found.needs.peers.iter().any(|peer| peer.name == with.as_str())
        && distance(found, with.as_str()).is_none()
}

fn told(found: &Found) -> String {
    let needed = || found.contacts.iter().filter(|contact| contact.port.is_some());
    let mut hosts: Vec<&HostName> = needed().map(|contact| &contact.with).collect();
    hosts.dedup();
    match (needed().count(), hosts.len()) {
        (0, _) => "needs no port of another host".to_owned(),
        (1, _) => "gets through to the one port of another host that it needs".to_owned(),
        (ports, 1) => format!("gets through to the {ports} ports of another host that it needs"),
        (ports, hosts) => format!("gets through to the {ports} ports of {hosts} hosts that it needs"),
    }
}
