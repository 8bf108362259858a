//! An inventory to start from: a few answers become a commented file. Pure.

use crate::model::{HostName, Scope};
use std::net::IpAddr;

/// The answers.
#[derive(Clone, Debug)]
pub struct Sketch {
    pub cluster: Scope,
    pub user: String,
    /// The distribution's own version when absent.
    pub postgres_version: Option<u16>,
    pub postgres: Vec<Machine>,
    pub etcd: Vec<Machine>,
    pub haproxy: Vec<Machine>,
    /// With prefix length; HAProxy's hosts share it.
    pub vip: Option<String>,
    pub synchronous_mode: String,
}

/// A host with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub name: HostName,
    pub address: String,
}

impl Sketch {
    /// Reads a list of hosts, `NAME=ADDRESS` or `ADDRESS`, separated by commas or spaces. Those without a name
    /// are numbered after `prefix`; the name of one that is in `known` already serves for it. The error says
    /// which word is wrong.
    pub fn machines(prefix: &str, list: &str, known: &[Machine]) -> Result<Vec<Machine>, String> {
        let words = list.split([',', ' ']).filter(|word| !word.is_empty());
        words.enumerate().map(|(index, word)| machine(prefix, index + 1, word, known)).collect()
    }

    /// Where etcd goes when nobody says: on the first three PostgreSQL hosts, or on the only one. Two hosts
    /// have no majority without a third.
    pub fn etcd_beside(postgres: &[Machine]) -> Option<Vec<Machine>> {
        match postgres.len() {
            0 | 2 => None,
            1 => Some(postgres.to_vec()),
            _ => Some(postgres[..3].to_vec()),
        }
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut file = Text { text: String::new(), written: Vec::new() };
        file.line("# An inventory of pgfleet. Every variable and its default: docs/variables.md.");
        file.line(
            "# Passwords that are not set here are generated once and kept beside this file; keep both.",
        );
        file.line("all:");
        file.line("  vars:");
        file.line("    # The cluster's name. It cannot be changed later.");
        file.line(&format!("    cluster_name: {}", self.cluster));
        file.line("    # The user that SSH logs in as. Other users than root become root by sudo.");
        file.line(&format!("    ansible_user: {}", self.user));
        file.line("");
        match self.postgres_version {
            Some(version) => file.line(&format!("    postgres_version: {version}")),
            None => {
                file.line("    # The distribution's own version when it is left out:");
                file.line("    # postgres_version: 17");
            }
        }
        file.line("    # Settings for all members. What needs a restart restarts one member after another.");
        file.line("    # postgres_parameters:");
        file.line("    #   max_connections: 200");
        file.line("    #   shared_buffers: 1GB");
        file.line("    # Who may connect from where. The agent's own lines come before these.");
        file.line("    # postgres_hba:");
        file.line("    #   - host all all 10.0.0.0/8 scram-sha-256");
        file.line("");
        file.line(
            "    # Whether a commit waits for replicas, so that no failover loses it: off, on, quorum.",
        );
        file.line(&format!("    synchronous_mode: {}", self.synchronous_mode));
        if let Some(vip) = &self.vip {
            file.line("");
            file.line("    # The virtual address that clients connect to. It must belong to no machine.");
            file.line(&format!("    vip: {vip}"));
        }
        if !self.haproxy.is_empty() {
            file.line("");
            file.line(
                "    # Clients that write connect to the first port, those that only read to the second.",
            );
            file.line("    haproxy_primary_port: 5000");
            file.line("    haproxy_replica_port: 5001");
        }
        file.line("");
        file.line("  children:");
        file.line("    # Which of them is primary is the cluster's own decision, and changes.");
        file.group("postgres", &self.postgres);
        file.line("");
        file.line("    # Holds the lock that makes one of them primary. An odd number.");
        file.group("etcd", &self.etcd);
        if !self.haproxy.is_empty() {
            file.line("");
            file.line("    # Leads clients to the primary or to the replicas.");
            file.group("haproxy", &self.haproxy);
        }
        if self.vip.is_some() {
            file.line("");
            file.line("    # Shares the virtual address.");
            file.group("keepalived", &self.haproxy);
        }
        file.text
    }
}

struct Text {
    text: String,
    written: Vec<HostName>,
}

impl Text {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A host's variables are written the first time that it is named.
    fn group(&mut self, name: &str, machines: &[Machine]) {
        self.line(&format!("    {name}:"));
        self.line("      hosts:");
        for machine in machines {
            if self.written.contains(&machine.name) {
                self.line(&format!("        {}:", machine.name));
            } else {
                self.line(&format!(
                    "        {}: {{ansible_host: {}}}",
                    machine.name,
                    quoted(&machine.address)
                ));
                self.written.push(machine.name.clone());
            }
        }
    }
}

/// IPv6 addresses need quotes within braces.
fn quoted(address: &str) -> String {
    if address.contains(':') { format!("\"{address}\"") } else { address.to_owned() }
}

fn machine(prefix: &str, number: usize, word: &str, known: &[Machine]) -> Result<Machine, String> {
    let parse = |name: &str| name.parse::<HostName>().map_err(|error| error.to_string());
    let (name, address) = match word.split_once('=') {
        Some((name, address)) => (parse(name)?, address),
        None => match known.iter().find(|machine| machine.address == word || machine.name.as_str() == word) {
            Some(machine) => return Ok(machine.clone()),
            // A word that is no address is a name that resolves.
            None if word.parse::<IpAddr>().is_err() => (parse(word)?, word),
            None => (parse(&format!("{prefix}-{number}"))?, word),
        },
    };
    let numeric = address.chars().all(|c| c.is_ascii_digit() || c == '.');
    let is_name = !numeric && address.parse::<HostName>().is_ok();
    if address.parse::<IpAddr>().is_err() && !is_name {
        return Err(format!("`{address}` is neither an IP address nor a host name"));
    }
    Ok(Machine { name, address: address.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Inventory;

    fn sketch(postgres: &str, haproxy: &str, vip: Option<&str>) -> Sketch {
        let postgres = Sketch::machines("pg", postgres, &[]).unwrap();
        let etcd = Sketch::etcd_beside(&postgres).unwrap();
        Sketch {
            cluster: "demo".parse().unwrap(),
            user: "root".to_owned(),
            postgres_version: Some(17),
            haproxy: Sketch::machines("haproxy", haproxy, &postgres).unwrap(),
            vip: vip.map(str::to_owned),
            synchronous_mode: "off".to_owned(),
            postgres,
            etcd,
        }
    }

    #[test]
    fn what_it_writes_loads_without_a_warning() {
        for sketch in [
            sketch("10.0.0.1", "", None),
            sketch("a=10.0.0.1,b=10.0.0.2,c=10.0.0.3,d=10.0.0.4", "a,b", Some("10.0.0.9/24")),
            sketch("10.0.0.1 10.0.0.2 10.0.0.3", "lb=10.0.0.7", None),
            sketch("fd00::1, fd00::2, fd00::3", "", None),
            sketch("pg1.example.org,pg2.example.org,pg3.example.org", "", None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("inventory.yml");
            std::fs::write(&path, sketch.text()).unwrap();
            let inventory = Inventory::inspect(&path, &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
            assert_eq!(inventory.warnings, []);
            assert_eq!(inventory.group("postgres").count(), sketch.postgres.len());
            assert_eq!(inventory.group("keepalived").count(), if sketch.vip.is_some() { 2 } else { 0 });
        }
    }

    #[test]
    fn names_hosts_that_have_none_and_knows_those_that_do() {
        let postgres = Sketch::machines("pg", "one=10.0.0.1, 10.0.0.2", &[]).unwrap();
        let names: Vec<&str> = postgres.iter().map(|machine| machine.name.as_str()).collect();
        assert_eq!(names, ["one", "pg-2"]);
        assert_eq!(Sketch::machines("haproxy", "10.0.0.1,pg-2", &postgres).unwrap(), postgres);
        assert!(Sketch::machines("pg", "10.0.0.1000", &[]).is_err());
        assert!(Sketch::machines("pg", "a b=c/d", &[]).is_err());
        assert_eq!(Sketch::etcd_beside(&postgres), None);
    }
}
