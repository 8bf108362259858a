//! Addresses and ports.

use super::Subject;
use crate::{diagnostic::Diagnostics, inventory::Host};
use std::{collections::HashMap, net::IpAddr};

pub(super) fn check(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    one_address_each(subject, wrong);
    reachable_from_others(subject, wrong);
    for host in subject.hosts.values() {
        one_port_each(subject, host, wrong);
    }
    if subject.size("postgres") == 0 {
        wrong.push(
            subject
                .at_group("postgres", "no host is in the group `postgres`".to_owned())
                .label("expected at least one")
                .help("name the machines that PostgreSQL runs on below `children: {postgres: {hosts: ...}}`"),
        );
    }
}

fn one_address_each(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let mut by_address: HashMap<&str, &Host> = HashMap::new();
    let mut by_connection: HashMap<(&str, Option<u16>), &Host> = HashMap::new();
    for host in subject.hosts.values() {
        let variable =
            if subject.drafts[&host.name].vars.contains_key("address") { "address" } else { "ansible_host" };
        if let Some(other) = by_address.insert(host.address(), host) {
            let message =
                format!("hosts `{}` and `{}` have one address, {}", other.name, host.name, host.address());
            let diagnostic = subject.about_host(host, variable, message);
            wrong.push(diagnostic.label("expected an address that no other host has"));
            continue;
        }
        if let Some(other) = by_connection.insert((&host.connection.host, host.connection.port), host) {
            let message = format!("hosts `{}` and `{}` are reached at one address", other.name, host.name);
            let diagnostic = subject.about_host(host, "ansible_host", message);
            wrong.push(diagnostic.label("expected another address, or another `ansible_port`"));
        }
    }
}

/// A loopback address means another machine to each host.
fn reachable_from_others(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    if subject.hosts.len() < 2 {
        return;
    }
    for host in subject.hosts.values() {
        let loopback =
            host.address() == "localhost" || host.address().parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if loopback {
            let message = format!("the other hosts cannot reach `{}` at {}", host.name, host.address());
            wrong.push(
                subject
                    .about_host(host, "ansible_host", message)
                    .label("expected an address on the network that the hosts share")
                    .help(
                        "where SSH must connect to this one, set `address` to the host's own address besides",
                    ),
            );
        }
    }
}

/// What listens on a host: the group, the variable, what it is.
const PORTS: [(&str, &str, &str); 10] = [
    ("etcd", "etcd_client_port", "etcd's clients"),
    ("etcd", "etcd_peer_port", "etcd's peers"),
    ("zookeeper", "zookeeper_client_port", "ZooKeeper's clients"),
    ("zookeeper", "zookeeper_peer_port", "ZooKeeper's followers"),
    ("zookeeper", "zookeeper_election_port", "ZooKeeper's election"),
    ("postgres", "postgres_port", "PostgreSQL"),
    ("postgres", "agent_api_port", "the agent's API"),
    ("haproxy", "haproxy_primary_port", "HAProxy's entry to the primary"),
    ("haproxy", "haproxy_replica_port", "HAProxy's entry to the replicas"),
    ("haproxy", "haproxy_stats_port", "HAProxy's statistics"),
];

fn one_port_each(subject: &Subject<'_>, host: &Host, wrong: &mut Diagnostics) {
    let mut taken: HashMap<u16, (&str, &str)> = HashMap::new();
    for (_, variable, what) in PORTS.iter().filter(|(group, ..)| host.is_in(group)) {
        let Some(port) = host.port(variable) else { continue };
        let Some((other_variable, other)) = taken.insert(port, (variable, what)) else { continue };
        let message = format!("port {port} of host `{}` is for {other} and for {what}", host.name);
        // The one that somebody wrote is the one to point at.
        let written = |name: &str| subject.drafts[&host.name].vars.contains_key(name);
        let (at, else_at) =
            if written(variable) { (*variable, other_variable) } else { (other_variable, *variable) };
        let diagnostic =
            subject.about_host(host, at, message).label(format!("`{at}` and `{else_at}` must differ"));
        if !wrong.0.iter().any(|earlier| earlier.at == diagnostic.at) {
            wrong.push(diagnostic);
        }
    }
}
