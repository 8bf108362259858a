//! Who listens on which TCP port, from the kernel's own tables. Reads `/proc` alone; costs no process.

use crate::remote::host::Host;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A socket that takes TCP connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub port: u16,
    pub address: IpAddr,
    /// Unknown without the rights of root.
    pub process: Option<Process>,
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub name: String,
    /// The systemd service that it belongs to, with its ending.
    pub unit: Option<String>,
    /// The directory that it works in.
    pub directory: Option<String>,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(process) => write!(f, "port {} is taken by {process}", self.port),
            None => write!(f, "port {} is taken", self.port),
        }
    }
}

impl Listener {
    /// What to do about it, where a service of ours is to have the port.
    pub fn advice(&self) -> String {
        let stop = match &self.process {
            Some(process) => format!("if nobody needs that one: `{}` on the host", process.stop_command()),
            None => format!("see by whom: `ss -ltnp sport = :{}` on the host; stop it there", self.port),
        };
        format!("{stop}; otherwise choose another port in the inventory. Then run the same command again")
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unit {
            Some(unit) => write!(f, "{} (process {} of {unit})", self.name, self.pid),
            None => write!(f, "{} (process {})", self.name, self.pid),
        }
    }
}

impl Process {
    /// The command that makes it let go of its port.
    pub fn stop_command(&self) -> String {
        match &self.unit {
            Some(unit) => format!("systemctl disable --now {unit}"),
            None => format!("kill {}", self.pid),
        }
    }
}

/// Whatever listens on one of `ports`, in the order of the ports.
pub(crate) fn on(host: &Host, ports: &[u16]) -> Vec<Listener> {
    let read = |path: &str| fs::read_to_string(host.path(path)).unwrap_or_default();
    let tables = [read("/proc/net/tcp"), read("/proc/net/tcp6")];
    let sockets: Vec<Socket> =
        tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(socket).collect();
    let mut wanted: Vec<&Socket> = sockets.iter().filter(|socket| ports.contains(&socket.port)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    wanted.sort_by_key(|socket| (socket.port, socket.address));
    let holders = holders(host);
    let listener = |socket: &Socket| Listener {
        port: socket.port,
        address: socket.address,
        process: holders.get(&socket.inode).map(|pid| process(host, *pid)),
    };
    wanted.into_iter().map(listener).collect()
}

struct Socket {
    port: u16,
    address: IpAddr,
    inode: u64,
}

/// A line of `/proc/net/tcp` or `tcp6`, where it is of a socket that listens.
fn socket(line: &str) -> Option<Socket> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
    let (address, port) = local.split_once(':')?;
    Some(Socket {
        port: u16::from_str_radix(port, 16).ok()?,
        address: address_of(address)?,
        inode: inode.parse().ok()?,
    })
}

/// The kernel prints addresses as words of four bytes, each in the machine's own order.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// The first process that holds each socket, by the socket's inode. The service manager, which keeps sockets for others,
/// is asked last.
fn holders(host: &Host) -> HashMap<u64, u32> {
    let mut holders = HashMap::new();
    let mut pids: Vec<u32> = fs::read_dir(host.path("/proc"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable_by_key(|pid| (*pid == 1, *pid));
    for pid in pids {
        let descriptors = fs::read_dir(host.path(format!("/proc/{pid}/fd"))).into_iter().flatten().flatten();
        for descriptor in descriptors {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|target| {
                target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
            });
            if let Some(inode) = inode {
                holders.entry(inode).or_insert(pid);
            }
        }
    }
    holders
}

fn process(host: &Host, pid: u32) -> Process {
    let read = |name: &str| fs::read_to_string(host.path(format!("/proc/{pid}/{name}"))).unwrap_or_default();
    let directory = fs::read_link(host.path(format!("/proc/{pid}/cwd"))).ok();
    Process {
        pid,
        name: read("comm").trim().to_owned(),
        unit: unit(&read("cgroup")),
        directory: directory.map(|path| path.display().to_string()),
    }
}

/// The service in a process's control groups. Login sessions are scopes, and no service.
fn unit(cgroups: &str) -> Option<String> {
    let names = cgroups.lines().flat_map(|line| line.rsplit('/'));
    names.filter(|name| name.ends_with(".service")).map(str::to_owned).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn this_very_process_is_found_behind_its_ports() {
        let (v4, v6) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("[::1]:0"));
        for socket in [v4.expect("a socket"), v6.expect("a socket")] {
            let address = socket.local_addr().expect("an address");
            let found = on(&Host::at("/"), &[address.port()]);
            let found = found.iter().find(|listener| listener.address == address.ip()).expect("a listener");
            assert_eq!(found.process.as_ref().map(|process| process.pid), Some(std::process::id()));
        }
    }

    #[test]
    fn the_service_manager_holds_sockets_for_others() {
        let root = tempfile::tempdir().expect("a folder");
        for (pid, inode) in [(1, 77), (1, 78), (50, 77)] {
            let descriptors = root.path().join(format!("proc/{pid}/fd"));
            fs::create_dir_all(&descriptors).expect("a folder");
            let link = descriptors.join(inode.to_string());
            std::os::unix::fs::symlink(format!("socket:[{inode}]"), link).expect("a link");
        }
        assert_eq!(holders(&Host::at(root.path())), HashMap::from([(77, 50), (78, 1)]));
    }

    #[test]
    fn a_service_is_read_from_both_kinds_of_control_groups() {
        assert_eq!(unit("0::/system.slice/etcd.service\n").as_deref(), Some("etcd.service"));
        let old = "12:pids:/system.slice\n1:name=systemd:/system.slice/system-postgresql.slice/postgresql@17-main.service/x\n0::/\n";
        assert_eq!(unit(old).as_deref(), Some("postgresql@17-main.service"));
        assert_eq!(unit("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    }
}
