//! What the answers of all hosts mean. Pure: the same answers always give the same findings.

use super::{Finding, Findings, Found, Machine, Verdict, clock, leftovers, links, machine, ports, vip};
use std::collections::BTreeMap;

/// Judges the hosts that were asked. `everyone` says that these are all hosts of the inventory: what is
/// missing from their answers is then missing from the cluster.
pub fn judge(machines: &[Machine], everyone: bool) -> Vec<Finding> {
    let clocks = clock::Clocks::of(machines);
    let cluster = leftovers::Cluster::of(machines, everyone);
    let links = links::Links::of(machines);
    let vip = vip::Holders::of(machines, everyone);
    let twins = Twins::of(machines);
    let mut findings = Vec::new();
    for machine in machines {
        let mut own = Findings::of(machine.name.as_str());
        match &machine.found {
            Err(obstacle) => own.fail(obstacle.check, &obstacle.message, &obstacle.next_step),
            Ok(found) => {
                access(found, &mut own);
                twins.judge(machine.name.as_str(), found, &mut own);
                machine::system(found, &mut own);
                machine::memory(found, &mut own);
                machine::disk(found, &mut own);
                machine::sync(found, &mut own);
                clocks.judge(&machine.name, found, &mut own);
                links.judge(&machine.name, found, &mut own);
                ports::judge(found, &mut own);
                vip.judge(found, &mut own);
                cluster.judge(&machine.name, found, &mut own);
            }
        }
        findings.append(&mut own.list);
    }
    findings.extend(clocks.own());
    findings
}

/// What keeps the hosts from each other, of machines that were asked for no more than that.
pub fn obstructed(machines: &[Machine]) -> Vec<Finding> {
    let links = links::Links::of(machines);
    let mut findings = Vec::new();
    for machine in machines {
        let mut own = Findings::of(machine.name.as_str());
        if let Ok(found) = &machine.found {
            links.judge(&machine.name, found, &mut own);
        }
        findings.extend(own.list.into_iter().filter(|finding| finding.verdict == Verdict::Fail));
    }
    findings
}

/// The worst of some findings.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

fn access(found: &Found, own: &mut Findings<'_>) {
    own.ok("ssh", "reachable");
    match found.facts.user_uid {
        0 => own.ok("sudo", "commands run as root"),
        _ => own.fail(
            "sudo",
            format!("commands run as `{}`, not as root", found.facts.user_id),
            "Set `ansible_become: true`, or log in as root.",
        ),
    }
}

/// Hosts that take each other's identity: copies of one disk.
struct Twins<'a> {
    machine_ids: BTreeMap<&'a str, Vec<&'a str>>,
    hostnames: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Twins<'a> {
    fn of(machines: &'a [Machine]) -> Self {
        let mut twins = Self { machine_ids: BTreeMap::new(), hostnames: BTreeMap::new() };
        for machine in machines {
            if let Ok(found) = &machine.found {
                let name = machine.name.as_str();
                twins.machine_ids.entry(&found.facts.machine_id).or_default().push(name);
                twins.hostnames.entry(&found.facts.hostname).or_default().push(name);
            }
        }
        twins
    }

    fn judge(&self, name: &str, found: &Found, own: &mut Findings<'_>) {
        let others = |map: &BTreeMap<&str, Vec<&str>>, key: &str| {
            let all = map.get(key).filter(|_| !key.is_empty()).map(Vec::as_slice).unwrap_or_default();
            all.iter().filter(|other| **other != name).copied().collect::<Vec<_>>().join(", ")
        };
        let same_machine = others(&self.machine_ids, &found.facts.machine_id);
        if !same_machine.is_empty() {
            own.fail(
                "system",
                format!("has the machine id of {same_machine}: one machine named twice, or a copied disk"),
                "Name each machine once; on a copy run `rm /etc/machine-id; systemd-machine-id-setup` and reboot.",
            );
            return;
        }
        let same_name = others(&self.hostnames, &found.facts.hostname);
        if !same_name.is_empty() {
            own.warn(
                "system",
                format!("calls itself `{}`, as {same_name} does", found.facts.hostname),
                format!("Give it a name of its own: `hostnamectl hostname {name}`."),
            );
        }
    }
}
