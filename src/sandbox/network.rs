//! The network of a sandbox: a namespace with a bridge, a pair of interfaces to this machine, and
//! address translation for what leaves. Each part is made if it is missing.

use super::{
    Error, Name, Result,
    command::{inside, run, run_with_input},
    record::{Link, Record},
};
use crate::model::Digest;
use ipnet::Ipv4Net;
use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

pub(super) const BRIDGE: &str = "br0";
/// The sandbox's end of the pair.
const UPLINK: &str = "uplink";
/// Links take a /30 each of this network, which is meant for what is between two networks.
const LINKS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 16);
const NAMESPACES: &str = "/run/netns";
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The names that the parts of one sandbox have on this machine.
pub(super) struct Names {
    /// The namespace's and the table's.
    pub namespace: String,
    /// This machine's end of the pair; an interface's name has at most 15 characters.
    pub uplink: String,
    short: String,
}

impl Names {
    pub fn of(sandbox: &Name) -> Names {
        let digest = Digest::of(sandbox.as_str().as_bytes()).to_string();
        let short = digest.get(..6).unwrap_or(&digest).to_owned();
        Names { namespace: format!("pgfleet-{sandbox}"), uplink: format!("pgf-{short}"), short }
    }

    /// Where the namespace can be opened.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.namespace)
    }

    /// What systemd-nspawn calls the host with this number.
    pub fn machine(&self, number: usize) -> String {
        format!("{}{number}", self.machine_prefix())
    }

    /// What the names of all its machines begin with.
    pub fn machine_prefix(&self) -> String {
        format!("{}-", self.short)
    }

    /// The bridge's port to the host with this number, as systemd-nspawn names it.
    pub fn port(&self, number: usize) -> String {
        format!("vb-{}", self.machine(number))
    }
}

/// Makes everything that is missing of the sandbox's network.
pub(super) fn ensure(record: &Record) -> Result<()> {
    let names = Names::of(&record.name);
    ensure_namespace(&names)?;
    ensure_uplink(&names, record.link)?;
    let namespace = names.path();
    let Link { machine, sandbox } = record.link;
    let (network, gateway) = (record.subnet.network, record.subnet.gateway);
    if !interface_exists(inside(&namespace, "ip"), BRIDGE)? {
        run(inside(&namespace, "ip").args(["link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"]))?;
    }
    let script = format!(
        "link set lo up\naddr replace {gateway}/{} dev {BRIDGE}\nlink set {BRIDGE} up\n\
         addr replace {sandbox}/30 dev {UPLINK}\nlink set {UPLINK} up\nroute replace default via {machine}\n",
        network.prefix_len()
    );
    run_with_input(inside(&namespace, "ip").args(["-batch", "-"]), &script)?;
    run(inside(&namespace, "sh").args(["-c", &format!("echo 1 > {IP_FORWARD}")]))?;
    let table = &names.namespace;
    let translate = |from: String| {
        format!(
            "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain postrouting {{\n    \
             type nat hook postrouting priority srcnat;\n    ip saddr {from} ip daddr != {from} masquerade\n  }}\n}}\n"
        )
    };
    run_with_input(inside(&namespace, "nft").args(["-f", "-"]), &translate(network.to_string()))?;
    let link = Ipv4Net::new_assert(machine, 30).trunc();
    run_with_input(Command::new("nft").args(["-f", "-"]), &translate(link.to_string()))?;
    Ok(())
}

/// Removes the sandbox's network. The processes in it have ended.
pub(super) fn remove(sandbox: &Name) -> Result<()> {
    let names = Names::of(sandbox);
    if interface_exists(Command::new("ip"), &names.uplink)? {
        run(Command::new("ip").args(["link", "delete", &names.uplink]))?;
    }
    if tables()?.contains(&names.namespace) {
        run(Command::new("nft").args(["delete", "table", "ip", &names.namespace]))?;
    }
    if names.path().exists() {
        run(Command::new("ip").args(["netns", "delete", &names.namespace]))?;
    }
    Ok(())
}

/// Puts the bridge's port to a host up or down.
pub(super) fn set_port(sandbox: &Name, number: usize, up: bool) -> Result<()> {
    let names = Names::of(sandbox);
    let state = if up { "up" } else { "down" };
    run(inside(&names.path(), "ip").args(["link", "set", &names.port(number), state]))?;
    Ok(())
}

/// Whether the bridge's port to a host exists and is up.
pub(super) fn port_is_up(sandbox: &Name, number: usize) -> bool {
    let names = Names::of(sandbox);
    let shown = run(inside(&names.path(), "ip").args(["-o", "link", "show", "dev", &names.port(number)]));
    // The flags in angle brackets hold UP when the port is meant to be up.
    shown.is_ok_and(|line| {
        let flags = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        flags.is_some_and(|(flags, _)| flags.split(',').any(|flag| flag == "UP"))
    })
}

/// A pair of addresses that nothing on this machine, no other sandbox and no host uses.
pub(super) fn choose_link(taken: &[Link], network: Ipv4Net) -> Result<Link> {
    let addresses = run(Command::new("ip").args(["-4", "-o", "addr", "show"]))?;
    let mut used = networks_in(&addresses);
    used.push(network);
    used.extend(taken.iter().map(|link| Ipv4Net::new_assert(link.machine, 30).trunc()));
    first_free_link(&used).ok_or(Error::NoLink)
}

fn first_free_link(used: &[Ipv4Net]) -> Option<Link> {
    let free = |link: &Ipv4Net| !used.iter().any(|other| other.contains(link) || link.contains(other));
    let link = LINKS.subnets(30).ok()?.find(free)?;
    let mut addresses = link.hosts();
    Some(Link { machine: addresses.next()?, sandbox: addresses.next()? })
}

/// The networks in what `ip -o addr` prints.
fn networks_in(text: &str) -> Vec<Ipv4Net> {
    text.split_ascii_whitespace()
        .filter_map(|word| word.parse::<Ipv4Net>().ok())
        .map(|net| net.trunc())
        .collect()
}

/// Turns forwarding on; true if it was off.
pub(super) fn enable_forwarding() -> Result<bool> {
    let was_off = fs::read_to_string(IP_FORWARD).map_err(Error::io("cannot read", IP_FORWARD))?.trim() == "0";
    if was_off {
        fs::write(IP_FORWARD, "1").map_err(Error::io("cannot write", IP_FORWARD))?;
    }
    Ok(was_off)
}

pub(super) fn disable_forwarding() -> Result<()> {
    fs::write(IP_FORWARD, "0").map_err(Error::io("cannot write", IP_FORWARD))
}

fn ensure_namespace(names: &Names) -> Result<()> {
    if is_namespace(&names.path()) {
        return Ok(());
    }
    if names.path().exists() {
        // `ip netns add` was killed between making the file and mounting the namespace on it.
        fs::remove_file(names.path()).map_err(Error::io("cannot remove", names.path()))?;
    }
    run(Command::new("ip").args(["netns", "add", &names.namespace])).map(drop)
}

pub(super) fn is_namespace(path: &Path) -> bool {
    use nix::sys::statfs;
    const NSFS: statfs::FsType = statfs::FsType(0x6e73_6673);
    File::open(path).is_ok_and(|file| statfs::fstatfs(&file).is_ok_and(|stat| stat.filesystem_type() == NSFS))
}

fn ensure_uplink(names: &Names, link: Link) -> Result<()> {
    if !interface_exists(Command::new("ip"), &names.uplink)? {
        let pair = ["type", "veth", "peer", "name", UPLINK, "netns", &names.namespace];
        run(Command::new("ip").args(["link", "add", &names.uplink]).args(pair))?;
    }
    let script = format!("addr replace {}/30 dev {1}\nlink set {1} up\n", link.machine, names.uplink);
    run_with_input(Command::new("ip").args(["-batch", "-"]), &script).map(drop)
}

fn interface_exists(mut ip: Command, interface: &str) -> Result<bool> {
    let links = run(ip.args(["-o", "link", "show"]))?;
    Ok(links.lines().filter_map(|line| line.split_ascii_whitespace().nth(1)).any(|word| {
        let name = word.trim_end_matches(':');
        name.split_once('@').map_or(name, |(name, _)| name) == interface
    }))
}

/// The names of this machine's nftables tables for IPv4.
fn tables() -> Result<Vec<String>> {
    let listed = run(Command::new("nft").args(["list", "tables", "ip"]))?;
    Ok(listed.lines().filter_map(|line| line.strip_prefix("table ip ")).map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_avoid_what_is_used() {
        let used = networks_in(
            "2: eth0 inet 192.0.2.2/24 brd x scope global\n9: pgf-a inet 100.64.0.1/30 scope global",
        );
        let link = first_free_link(&used).unwrap();
        assert_eq!(
            (link.machine, link.sandbox),
            ("100.64.0.5".parse().unwrap(), "100.64.0.6".parse().unwrap())
        );
        let all = ["100.64.0.0/10".parse().unwrap()];
        assert_eq!(first_free_link(&all), None);
    }

    #[test]
    fn interface_names_fit() {
        let names = Names::of(&"a-very-long-name-of-a-sandbox".parse().unwrap());
        assert!(names.uplink.len() <= 15);
        assert!(names.port(999).len() <= 15, "{}", names.port(999));
    }
}
