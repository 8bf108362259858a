//! One fit host, and what is said of it when one thing is wrong.

mod between;

use super::{needs::*, *};
use crate::remote::{
    listeners::{Listener, Process},
    preflight::{self as answers, DataDirectory, Folder, Peer},
};

const DATA: &str = "/var/lib/postgresql/17/demo";
const ETCD: &str = "/var/lib/etcd/demo";
const GIB: u64 = 1 << 30;

/// A host with nothing on it that is to be a member of PostgreSQL and etcd.
fn fit() -> Found {
    let folder = |path: &str| Folder {
        path: path.to_owned(),
        mount: "/".to_owned(),
        fstype: "ext4".to_owned(),
        available_bytes: 40 * GIB,
        available_files: Some(1_000_000),
        read_only: false,
    };
    let port = |number, variable, unit| Port { number, variable, unit, address: None };
    Found {
        needs: Needs {
            cluster: "demo".to_owned(),
            address: "10.0.0.1".to_owned(),
            ports: vec![
                port(2379, "etcd_client_port", "etcd.service"),
                port(5432, "postgres_port", "pgfleet-agent.service"),
            ],
            postgres: Some(Postgres {
                version: 17,
                data_dir: DATA.to_owned(),
                shared_buffers: Some("128MB".to_owned()),
                own_repository: false,
            }),
            etcd: Some(Etcd {
                data_dir: ETCD.to_owned(),
                token: "demo".to_owned(),
                quota_bytes: 2 * GIB,
                client_port: 2379,
                heartbeat_ms: 100,
            }),
            peers: vec![Peer { name: "b".to_owned(), address: "10.0.0.2".to_owned(), port: 22 }],
            store_folder: "/service/demo/".to_owned(),
            ..Needs::default()
        },
        facts: Facts {
            distribution: "Debian".to_owned(),
            distribution_release: "trixie".to_owned(),
            distribution_version: "13".to_owned(),
            os_family: "Debian".to_owned(),
            service_mgr: "systemd".to_owned(),
            architecture: "x86_64".to_owned(),
            memtotal_mb: 8192,
            machine_id: "aa".to_owned(),
            hostname: "a".to_owned(),
            all_ipv4_addresses: vec!["10.0.0.1".to_owned()],
            user_uid: 0,
            user_id: "root".to_owned(),
        },
        survey: Survey {
            folders: [DOWNLOADS, PROGRAMS, DATA, ETCD].map(folder).into(),
            peers: vec![Some(0.4)],
            data: Some(DataDirectory { is_empty: true, ..DataDirectory::default() }),
            ..Survey::default()
        },
        reading: Reading { ahead_ms: 3, uncertainty_ms: 1 },
        contacts: Vec::new(),
    }
}

fn machine(name: &str, found: Found) -> Machine {
    Machine { name: name.parse().unwrap(), found: Ok(Box::new(found)) }
}

/// What is not well, a line each with its next step.
fn complaints(findings: &[Finding]) -> String {
    let wrong = findings.iter().filter(|finding| finding.verdict != Verdict::Ok);
    let line = |finding: &Finding| {
        let Finding { host, check, verdict, message, next_step } = finding;
        let next = next_step.as_deref().unwrap_or_default();
        format!("{host} {check} {verdict:?}: {message} -> {next}\n")
    };
    wrong.map(line).collect()
}

/// What is said of the fit host after one change.
fn after(change: impl FnOnce(&mut Found)) -> String {
    let mut found = fit();
    change(&mut found);
    complaints(&judge(&[machine("a", found)], true))
}

#[test]
fn a_fit_host_has_a_row_for_every_check_and_none_is_wrong() {
    let findings = judge(&[machine("a", fit())], true);
    let rows: Vec<_> = findings.iter().map(|row| format!("{}: {}", row.check, row.message)).collect();
    assert_eq!(worst(&findings), Verdict::Ok);
    insta::assert_snapshot!(rows.join("\n"), @r"
    ssh: reachable
    sudo: commands run as root
    system: Debian 13 (trixie), x86_64
    memory: 8.0 GiB
    disk: 40.0 GiB free on /
    clock: within 3 ms of the others
    network: reaches all others, the farthest in 0.4 ms
    ports: 2379, 5432 free
    leftovers: none
    ");
}

#[test]
fn a_host_that_was_not_reached_says_why() {
    let obstacle = Obstacle {
        check: "sudo",
        message: "sudo asks for a password, and none is given".to_owned(),
        next_step: "Set it.".to_owned(),
        unreachable: false,
    };
    let findings = judge(&[Machine { name: "a".parse().unwrap(), found: Err(obstacle) }], true);
    insta::assert_snapshot!(complaints(&findings), @"a sudo Fail: sudo asks for a password, and none is given -> Set it.");
}

#[test]
fn the_machine_itself() {
    let told = [
        after(|found| {
            found.facts.user_uid = 1000;
            found.facts.user_id = "admin".to_owned();
        }),
        after(|found| found.facts.service_mgr = "unknown".to_owned()),
        after(|found| {
            found.facts.os_family = "RedHat".to_owned();
            found.facts.distribution = "Rocky".to_owned();
        }),
        after(|found| found.facts.distribution_release = "buster".to_owned()),
        after(|found| found.facts.architecture = "riscv64".to_owned()),
        after(|found| found.facts.distribution_release = "bookworm".to_owned()),
        after(|found| found.facts.memtotal_mb = 200),
        after(|found| found.facts.memtotal_mb = 900),
        after(|found| found.needs.postgres.as_mut().unwrap().shared_buffers = Some("8GB".to_owned())),
        after(|found| found.needs.postgres.as_mut().unwrap().shared_buffers = Some("655360".to_owned())),
        after(|found| found.survey.folders[2].available_bytes = 600 << 20),
        after(|found| found.survey.folders[3].available_bytes = GIB),
        after(|found| found.survey.folders[0].available_bytes = 9 << 20),
        after(|found| found.survey.folders[1].read_only = true),
        after(|found| found.survey.folders[2].fstype = "tmpfs".to_owned()),
        after(|found| found.survey.folders[2].available_files = Some(0)),
    ];
    insta::assert_snapshot!(told.concat(), @r"
    a sudo Fail: commands run as `admin`, not as root -> Set `ansible_become: true`, or log in as root.
    a system Fail: systemd does not run here -> Boot the host with systemd: every service of the cluster is a unit of it.
    a system Fail: `Rocky 13` is not supported: packages are installed by apt -> Use Debian 12 or later, or Ubuntu 22.04 or later.
    a system Warn: `Debian 13` (buster) has not been tried -> Debian 12 and later and Ubuntu 22.04 and later are known to work.
    a system Warn: the architecture `riscv64` has not been tried -> x86_64 and aarch64 are known to work.
    a system Warn: bookworm itself has PostgreSQL 15, not 17 -> Unless an archive of yours has it: `postgres_apt_repository: true`, or `postgres_version: 15`.
    a memory Fail: 200 MiB in all is too little -> Give it 1.0 GiB or more.
    a memory Warn: `shared_buffers: 128MB` is more than half of its 200 MiB -> About a quarter serves most clusters best: 50 MiB.
    a memory Warn: 900 MiB in all is little -> Give it 1.0 GiB or more.
    a memory Fail: `shared_buffers: 8GB` takes all of its 8.0 GiB -> About a quarter serves most clusters best: 2.0 GiB.
    a memory Warn: `shared_buffers: 655360` is more than half of its 8.0 GiB -> About a quarter serves most clusters best: 2.0 GiB.
    a disk Fail: 600 MiB free on / for PostgreSQL's data in /var/lib/postgresql/17/demo -> Make room for 5.0 GiB or more, or choose another folder by `postgres_data_dir`.
    a disk Warn: 1.0 GiB free on / for etcd's data in /var/lib/etcd/demo -> Make room for 2.0 GiB or more, or choose another folder by `etcd_data_dir`.
    a disk Fail: 9 MiB free on / for downloaded packages in /var/cache/apt/archives -> Make room for 500 MiB or more.
    a disk Fail: / is mounted read-only: no place for programs in /usr -> Find out why (`findmnt /`, `dmesg`) and mount it for writing.
    a disk Fail: /var/lib/postgresql/17/demo is in memory (tmpfs on /): PostgreSQL's data would be gone after a reboot -> Mount a disk there, or choose another folder by `postgres_data_dir`.
    a disk Fail: / has no inode left for PostgreSQL's data in /var/lib/postgresql/17/demo -> Remove files there (`df -i /`), or choose another folder by `postgres_data_dir`.
    ");
}

#[test]
fn the_network() {
    let told = [
        after(|found| found.survey.peers = vec![None]),
        after(|found| found.facts.all_ipv4_addresses = vec!["192.168.0.1".to_owned()]),
    ];
    insta::assert_snapshot!(told.concat(), @r"
    a network Fail: does not reach b -> Are they up, and do routes and firewalls let the cluster's hosts reach each other?
    a network Warn: no interface has 10.0.0.1, by which the others are to reach this host -> Right where addresses are translated on the way; otherwise set `address` to the host's own.
    ");
}

#[test]
fn hosts_that_are_one_or_call_themselves_the_same() {
    let other = |change: fn(&mut Facts)| {
        let mut other = fit();
        change(&mut other.facts);
        complaints(&judge(&[machine("a", fit()), machine("b", other)], true))
    };
    let told = [other(|_| {}), other(|facts| facts.machine_id = "bb".to_owned())];
    insta::assert_snapshot!(told.concat(), @r"
    a system Fail: has the machine id of b: one machine named twice, or a copied disk -> Name each machine once; on a copy run `rm /etc/machine-id; systemd-machine-id-setup` and reboot.
    b system Fail: has the machine id of a: one machine named twice, or a copied disk -> Name each machine once; on a copy run `rm /etc/machine-id; systemd-machine-id-setup` and reboot.
    a system Warn: calls itself `a`, as b does -> Give it a name of its own: `hostnamectl hostname a`.
    b system Warn: calls itself `a`, as a does -> Give it a name of its own: `hostnamectl hostname b`.
    ");
}

#[test]
fn clocks_are_compared_with_where_most_are() {
    let told = |ahead: &[i64]| {
        let machines = ahead.iter().enumerate().map(|(index, ahead_ms)| {
            let mut found = fit();
            found.facts.machine_id = index.to_string();
            found.facts.hostname = format!("h{index}");
            found.reading = Reading { ahead_ms: *ahead_ms, uncertainty_ms: 5 };
            machine(&format!("h{index}"), found)
        });
        complaints(&judge(&machines.collect::<Vec<_>>(), true))
    };
    assert_eq!(told(&[0, 200, -100, 504]), "");
    let all = [told(&[90_000]), told(&[0, -700, 1]), told(&[60_000, 60_010, 59_990])];
    insta::assert_snapshot!(all.concat(), @r"
    h0 clock Fail: 90.0 s ahead of the others -> Let it keep time: `timedatectl set-ntp true`; see `timedatectl timesync-status`.
    h1 clock Warn: 0.7 s behind the others -> Let it keep time: `timedatectl set-ntp true`; see `timedatectl timesync-status`.
    this machine clock Warn: 60.0 s behind the others -> Set its clock: the hosts agree among themselves.
    ");
}

/// A service's socket.
fn listens(port: u16, unit: &str) -> Listener {
    let unit = Some(unit.to_owned()).filter(|unit| !unit.is_empty());
    let process = Process { pid: 7, name: "thing".to_owned(), unit, directory: None };
    Listener { port, address: "0.0.0.0".parse().unwrap(), process: Some(process) }
}

#[test]
fn ports_are_free_or_our_own() {
    let own_agent = |scope: &str| {
        let (scope, name, data_dir) = (scope.to_owned(), "a".to_owned(), DATA.to_owned());
        Some(answers::Agent { scope, name, data_dir })
    };
    let ours = after(|found| {
        found.survey.listeners = vec![listens(5432, "pgfleet-agent.service")];
        found.survey.agent = own_agent("demo");
    });
    assert_eq!(ours, "");
    let bound_elsewhere = after(|found| {
        found.needs.ports[1].address = "10.0.0.1".parse().ok();
        let local = Listener { address: "127.0.0.1".parse().unwrap(), ..listens(5432, "") };
        found.survey.listeners = vec![local];
    });
    assert_eq!(bound_elsewhere, "");
    let told = [
        after(|found| found.survey.listeners = vec![listens(5432, "postgresql@17-main.service")]),
        after(|found| found.survey.listeners = vec![listens(5432, "")]),
        after(|found| found.survey.listeners = vec![Listener { process: None, ..listens(2379, "") }]),
        // The distribution's own etcd, with its own data.
        after(|found| found.survey.listeners = vec![listens(2379, "etcd.service")]),
    ];
    insta::assert_snapshot!(told.concat(), @r"
    a ports Fail: 5432 is taken by thing (process 7 of postgresql@17-main.service) -> If nobody needs it: `systemctl disable --now postgresql@17-main.service`. Otherwise choose another port by `postgres_port`.
    a ports Fail: 5432 is taken by thing (process 7) -> If nobody needs it: `kill 7`. Otherwise choose another port by `postgres_port`.
    a ports Fail: 2379 is taken -> `ss -ltnp sport = :2379` says by whom. Stop it, or choose another port by `etcd_client_port`.
    a ports Fail: 2379 is taken by thing (process 7 of etcd.service) -> If nobody needs it: `systemctl disable --now etcd.service`. Otherwise choose another port by `etcd_client_port`.
    ");
}

#[test]
fn leftovers_of_an_older_cluster() {
    let data = |version: Option<&str>, identifier: &str| {
        Some(DataDirectory {
            is_empty: false,
            version: version.map(str::to_owned),
            system_identifier: Some(identifier.to_owned()),
        })
    };
    let told = [
        after(|found| found.survey.data = data(None, "1")),
        after(|found| found.survey.data = data(Some("15"), "1")),
        after(|found| found.survey.data = data(Some("17"), "1")),
        after(|found| {
            let (scope, name) = ("old".to_owned(), "pg9".to_owned());
            found.survey.agent = Some(answers::Agent { scope, name, data_dir: "/srv/old".to_owned() });
        }),
        after(|found| found.survey.rivals = vec!["patroni.service".to_owned()]),
        after(|found| found.survey.etcd.has_data = true),
        after(|found| {
            found.survey.etcd.has_data = true;
            found.survey.etcd.token = Some("old".to_owned());
        }),
        after(|found| found.survey.etcd.token = Some("old".to_owned())),
        after(|found| {
            found.survey.store =
                Some(answers::StoreFolder { keys: 3, system_identifier: Some("42".to_owned()) });
        }),
        after(|found| {
            found.needs.haproxy = true;
            found.survey.foreign_files =
                ["/etc/haproxy/haproxy.cfg", "/etc/keepalived/keepalived.conf"].map(str::to_owned).into();
        }),
    ];
    insta::assert_snapshot!(told.concat(), @r"
    a leftovers Fail: /var/lib/postgresql/17/demo is not empty, and what is in it is no data of PostgreSQL -> Choose another `postgres_data_dir`. If nobody needs it: `rm -rf /var/lib/postgresql/17/demo`.
    a leftovers Fail: /var/lib/postgresql/17/demo holds data of PostgreSQL 15, and 17 is wanted -> Set `postgres_version: 15`, or another `postgres_data_dir`. If nobody needs the data: `rm -rf /var/lib/postgresql/17/demo`.
    a leftovers Warn: /var/lib/postgresql/17/demo holds data that no agent looks after; a bootstrap adopts it -> If it is of an older cluster and nobody needs it: `rm -rf /var/lib/postgresql/17/demo`.
    a leftovers Fail: the host is member `pg9` of another cluster, `old` -> If nobody needs that one: `systemctl disable --now pgfleet-agent; rm -rf /etc/pgfleet /srv/old`.
    a leftovers Fail: patroni.service runs here or starts at boot; two agents fight over one server -> If nobody needs it: `systemctl disable --now patroni.service`.
    a leftovers Fail: /var/lib/etcd/demo holds data of an etcd cluster that is not set up here -> Choose another `etcd_data_dir`. If nobody needs it: `systemctl disable --now etcd; rm -rf /var/lib/etcd/demo`.
    a leftovers Fail: /var/lib/etcd/demo holds data of another etcd cluster (token `old`) -> Choose another `etcd_data_dir`. If nobody needs it: `systemctl disable --now etcd; rm -rf /var/lib/etcd/demo`.
    a leftovers Warn: etcd is set up for another cluster (token `old`); a bootstrap replaces its settings -> If somebody needs them: `cp /etc/default/etcd /etc/default/etcd.saved`.
    a leftovers Fail: the store remembers a cluster in /service/demo/ (system identifier 42), and no host has its data -> If that cluster is gone for good: `etcdctl del --prefix /service/demo/`.
    a leftovers Warn: /etc/haproxy/haproxy.cfg is not pgfleet's; a bootstrap replaces it -> If somebody needs it: `cp /etc/haproxy/haproxy.cfg /etc/haproxy/haproxy.cfg.saved`.
    ");
}

#[test]
fn what_belongs_to_the_cluster_is_left_alone() {
    let mut member = fit();
    member.survey.agent =
        Some(answers::Agent { scope: "demo".to_owned(), name: "a".to_owned(), data_dir: DATA.to_owned() });
    member.survey.etcd = answers::Etcd {
        has_data: true,
        data_dir: Some(ETCD.to_owned()),
        token: Some("demo".to_owned()),
        name: Some("a".to_owned()),
    };
    member.survey.data = Some(DataDirectory {
        is_empty: false,
        version: Some("17".to_owned()),
        system_identifier: Some("42".to_owned()),
    });
    member.survey.store = Some(answers::StoreFolder { keys: 3, system_identifier: Some("42".to_owned()) });
    assert_eq!(complaints(&judge(&[machine("a", member.clone())], true)), "");

    let mut other = member.clone();
    other.facts.machine_id = "bb".to_owned();
    other.facts.hostname = "b".to_owned();
    other.survey.data.as_mut().unwrap().system_identifier = Some("43".to_owned());
    insta::assert_snapshot!(complaints(&judge(&[machine("a", member.clone()), machine("b", other)], true)), @r"
    a leftovers Fail: /var/lib/postgresql/17/demo holds other data than b: they were never one cluster -> Keep the data that is right. Where nobody needs it: `rm -rf /var/lib/postgresql/17/demo`.
    b leftovers Fail: /var/lib/postgresql/17/demo holds other data than a: they were never one cluster -> Keep the data that is right. Where nobody needs it: `rm -rf /var/lib/postgresql/17/demo`.
    ");

    // Where not all were asked, the data may be where nobody looked.
    member.survey.data = Some(DataDirectory { is_empty: true, ..DataDirectory::default() });
    assert_eq!(complaints(&judge(&[machine("a", member)], false)), "");
}

#[test]
fn sizes_are_read_as_postgresql_reads_them() {
    let cases =
        [("16384", Some(128 << 20)), ("128MB", Some(128 << 20)), ("2 GB", Some(2 * GIB)), ("x", None)];
    for (text, bytes) in cases {
        assert_eq!(machine::setting_bytes(text), bytes, "{text}");
    }
}
