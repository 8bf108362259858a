//! What a target tells about itself on first contact: Ansible's fact names without the `ansible_`
//! prefix. Read from files and system calls; only systemd has to be asked by a process.

use crate::remote::host::Host;
use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::{statvfs::statvfs, utsname::uname},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, net::Ipv4Addr, process::Command};

/// The facts of a host. What can't be found out is left out.
pub(crate) fn gather(host: &Host) -> Map<String, Value> {
    let read = |path: &str| fs::read_to_string(host.path(path)).unwrap_or_default();
    let mut facts = Map::new();
    distribution(&mut facts, &read("/etc/os-release"));
    kernel(&mut facts);
    memory(&mut facts, &read("/proc/meminfo"));
    let processors = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    facts.insert("processor_vcpus".into(), processors.into());
    facts.insert(
        "processor_nproc".into(),
        std::thread::available_parallelism().map_or(processors, |count| count.get()).into(),
    );
    network(&mut facts, &read("/proc/net/route"));
    facts.insert("listen_tcp".into(), listening(&[read("/proc/net/tcp"), read("/proc/net/tcp6")]));
    facts.insert("mounts".into(), mounts(host, &read("/proc/mounts")));
    let systemd = host.path("/run/systemd/system").is_dir();
    facts.insert("service_mgr".into(), if systemd { "systemd" } else { "unknown" }.into());
    facts.insert("services".into(), if systemd && host.is_live() { services() } else { json!({}) });
    let container = read("/run/systemd/container");
    facts.insert("virtualization_type".into(), container.trim().into());
    facts.insert("machine_id".into(), read("/etc/machine-id").trim().into());
    facts.insert("boot_id".into(), read("/proc/sys/kernel/random/boot_id").trim().into());
    let now = jiff::Timestamp::now();
    facts.insert(
        "date_time".into(),
        json!({
            "epoch": now.as_second().to_string(),
            "epoch_ms": now.as_millisecond(),
            "iso8601": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }),
    );
    let uid = nix::unistd::geteuid().as_raw();
    facts.insert("user_uid".into(), uid.into());
    facts.insert("user_id".into(), host.accounts().user_name(uid).into());
    facts
}

/// The services that run, as `service_facts` has them; all others are left out.
fn services() -> Value {
    let arguments =
        ["list-units", "--type=service", "--state=running", "--plain", "--no-legend", "--no-pager"];
    let listed = Command::new("systemctl").args(arguments).output();
    let listed =
        listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names
        .map(|name| (name.to_owned(), json!({"name": name, "state": "running"})))
        .collect::<Map<_, _>>()
        .into()
}

fn distribution(facts: &mut Map<String, Value>, os_release: &str) {
    let fields: BTreeMap<_, _> = os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, value.trim_matches(['"', '\''])))
        .collect();
    let field = |key: &str| fields.get(key).copied().unwrap_or_default();
    let name = match field("ID") {
        "debian" => "Debian",
        "ubuntu" => "Ubuntu",
        "rhel" => "RedHat",
        "rocky" => "Rocky",
        "almalinux" => "AlmaLinux",
        other => other,
    };
    let like = format!("{} {}", field("ID"), field("ID_LIKE"));
    let family = match like.as_str() {
        like if like.contains("debian") => "Debian",
        like if like.contains("rhel") || like.contains("fedora") => "RedHat",
        _ => name,
    };
    let version = field("VERSION_ID");
    for (key, value) in [
        ("distribution", name),
        ("distribution_release", field("VERSION_CODENAME")),
        ("distribution_version", version),
        ("distribution_major_version", version.split('.').next().unwrap_or_default()),
        ("os_family", family),
    ] {
        facts.insert(key.into(), value.into());
    }
}

fn kernel(facts: &mut Map<String, Value>) {
    let Ok(name) = uname() else { return };
    let text = |part: &std::ffi::OsStr| Value::from(part.to_string_lossy().into_owned());
    facts.insert("kernel".into(), text(name.release()));
    facts.insert("architecture".into(), text(name.machine()));
    facts.insert("nodename".into(), text(name.nodename()));
    let hostname = name.nodename().to_string_lossy();
    facts.insert("hostname".into(), hostname.split('.').next().unwrap_or_default().into());
}

fn memory(facts: &mut Map<String, Value>, meminfo: &str) {
    for (fact, key) in [("memtotal_mb", "MemTotal"), ("memfree_mb", "MemFree"), ("swaptotal_mb", "SwapTotal")]
    {
        let kib = meminfo.lines().find_map(|line| {
            let rest = line.strip_prefix(key)?.strip_prefix(':')?;
            rest.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
        if let Some(kib) = kib {
            facts.insert(fact.into(), (kib / 1024).into());
        }
    }
}

fn network(facts: &mut Map<String, Value>, routes: &str) {
    let Ok(addresses) = getifaddrs() else { return };
    let mut interfaces: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut all = Vec::new();
    for interface in addresses {
        let entry = interfaces.entry(interface.interface_name.clone()).or_default();
        let (Some(address), Some(mask)) = (
            interface
                .address
                .as_ref()
                .and_then(|address| address.as_sockaddr_in())
                .map(|address| address.ip()),
            interface.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in()).map(|mask| mask.ip()),
        ) else {
            continue;
        };
        entry.push(json!({
            "address": address.to_string(),
            "netmask": mask.to_string(),
            "prefix": u32::from(mask).count_ones().to_string(),
        }));
        if !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            all.push(Value::from(address.to_string()));
        }
    }
    if let Some((name, gateway)) = default_route(routes) {
        let mut default = Map::new();
        if let Some(Value::Object(first)) = interfaces.get(&name).and_then(|addresses| addresses.first()) {
            default.extend(first.clone());
        }
        default.insert("interface".into(), name.into());
        default.insert("gateway".into(), gateway.to_string().into());
        facts.insert("default_ipv4".into(), default.into());
    }
    facts.insert("all_ipv4_addresses".into(), all.into());
    facts.insert("interfaces".into(), interfaces.keys().cloned().collect::<Vec<_>>().into());
    for (name, mut addresses) in interfaces {
        let first = if addresses.is_empty() { Value::Null } else { addresses.remove(0) };
        let key = name.replace(['-', '.', '@'], "_");
        facts.insert(key, json!({"device": name, "ipv4": first, "ipv4_secondaries": addresses}));
    }
}

/// The interface and the gateway of the default route, from the kernel's table.
fn default_route(routes: &str) -> Option<(String, Ipv4Addr)> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match fields.as_slice() {
            [name, "00000000", gateway, ..] => {
                let gateway = u32::from_str_radix(gateway, 16).ok()?;
                Some(((*name).to_owned(), Ipv4Addr::from(gateway.to_le_bytes())))
            }
            _ => None,
        }
    })
}

/// The TCP ports that something listens on, sorted.
fn listening(tables: &[String]) -> Value {
    const LISTEN: &str = "0A";
    let mut ports: Vec<u16> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            match fields.as_slice() {
                [_, local, _, LISTEN, ..] => u16::from_str_radix(local.rsplit(':').next()?, 16).ok(),
                _ => None,
            }
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into()
}

/// Real file systems with their size and what is free for ordinary users, in bytes.
fn mounts(host: &Host, table: &str) -> Value {
    const REAL: &[&str] = &["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs"];
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [device, mount, kind, ..] = fields.as_slice() else { return None };
            if !REAL.contains(kind) {
                return None;
            }
            let space = statvfs(&host.path(mount)).ok()?;
            Some(json!({
                "mount": mount,
                "device": device,
                "fstype": kind,
                "size_total": space.blocks() * space.fragment_size(),
                "size_available": space.blocks_available() * space.fragment_size(),
            }))
        })
        .collect::<Vec<_>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_describes_itself() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("etc")).expect("a directory");
        let release = "PRETTY_NAME=\"Ubuntu 24.04\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\n";
        fs::write(root.path().join("etc/os-release"), release).expect("written");
        let facts = gather(&Host::at(root.path()));
        assert_eq!(facts["distribution"], "Ubuntu");
        assert_eq!(facts["distribution_release"], "noble");
        assert_eq!(facts["distribution_major_version"], "24");
        assert_eq!(facts["os_family"], "Debian");
        assert_eq!(facts["lo"]["ipv4"]["address"], "127.0.0.1");
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let routes = "Iface Destination Gateway Flags\nhost0 00000000 0102000A 0003 0 0 0 00000000\n";
        assert_eq!(default_route(routes), Some(("host0".to_owned(), Ipv4Addr::new(10, 0, 2, 1))));
        let tcp = "  sl  local_address rem_address   st\n   0: 00000000:0016 00000000:0000 0A 0 0\n   1: 0100007F:1F48 0100007F:9999 01 0 0\n";
        assert_eq!(listening(&[tcp.to_owned()]), json!([22]));
    }
}
