//! Are the ports free, or held by our own services?

use super::{Findings, Found, leftovers, needs::Port};
use crate::remote::listeners::Listener;

/// Who has a port.
pub enum Holder<'a> {
    Nobody,
    /// The cluster's own service.
    Us,
    Somebody(&'a Listener),
}

/// Who has a port that the host needs.
pub fn holder<'a>(found: &'a Found, port: &Port) -> Holder<'a> {
    match found.survey.listeners.iter().find(|listener| collide(port, listener)) {
        None => Holder::Nobody,
        Some(listener) if is_ours(found, port, listener) => Holder::Us,
        Some(listener) => Holder::Somebody(listener),
    }
}

pub fn judge(found: &Found, own: &mut Findings<'_>) {
    let mut held = 0;
    for port in &found.needs.ports {
        match holder(found, port) {
            Holder::Nobody => {}
            Holder::Us => held += 1,
            Holder::Somebody(listener) => taken(port, listener, own),
        }
    }
    own.otherwise("ports", || {
        let numbers: Vec<String> = found.needs.ports.iter().map(|port| port.number.to_string()).collect();
        let numbers = numbers.join(", ");
        match held {
            _ if numbers.is_empty() => "none is needed".to_owned(),
            0 => format!("{numbers} free"),
            _ if held == found.needs.ports.len() => format!("{numbers} held by the cluster's own services"),
            _ => format!("{numbers} free, or held by the cluster's own services"),
        }
    });
}

/// Whether a socket keeps our service from its port.
fn collide(port: &Port, listener: &Listener) -> bool {
    let address = listener.address;
    listener.port == port.number
        && (address.is_unspecified() || port.address.is_none_or(|own| own == address))
}

/// Whether it is our own service, of this very cluster, that listens.
fn is_ours(found: &Found, port: &Port, listener: &Listener) -> bool {
    let unit = listener.process.as_ref().and_then(|process| process.unit.as_deref());
    unit == Some(port.unit)
        && match port.unit {
            "etcd.service" => leftovers::is_own_etcd(found),
            "pgfleet-agent.service" => leftovers::has_own_agent(found),
            "haproxy.service" => !found.survey.foreign_files.iter().any(|file| file.contains("haproxy")),
            _ => true,
        }
}

fn taken(port: &Port, listener: &Listener, own: &mut Findings<'_>) {
    let Port { number, variable, .. } = port;
    match &listener.process {
        Some(process) => own.fail(
            "ports",
            format!("{number} is taken by {process}"),
            format!(
                "If nobody needs it: `{}`. Otherwise choose another port by `{variable}`.",
                process.stop_command()
            ),
        ),
        None => own.fail(
            "ports",
            format!("{number} is taken"),
            format!(
                "`ss -ltnp sport = :{number}` says by whom. Stop it, or choose another port by `{variable}`."
            ),
        ),
    }
}
