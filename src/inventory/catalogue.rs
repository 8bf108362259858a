//! Every variable that pgfleet knows, as rows. Validation, defaults, the reference page and the nearest-word
//! hints come from here; a variable that is not here does not exist.

use super::variable::{
    Default::{Computed, FromHost, Generated, Required, Unset, Value as Is},
    Kind::{self, *},
    Known,
    Reach::{self, Cluster, Host},
    Section as In, Variable,
};
use serde_json::Value;

type Groups = &'static [&'static str];
const ALL: Groups = &[];
const PG: Groups = &["postgres"];
const ETCD: Groups = &["etcd"];
const ZOO: Groups = &["zookeeper"];
const PROXY: Groups = &["haproxy"];
const VIP: Groups = &["keepalived"];

/// The groups that pgfleet gives a meaning to, in the order of a bootstrap.
pub const GROUPS: [(&str, &str); 5] = [
    ("etcd", "members of the etcd cluster that holds the leader's lock; an odd number"),
    ("zookeeper", "members of the ZooKeeper ensemble, where it is used instead of etcd; an odd number"),
    ("postgres", "PostgreSQL with the agent beside it; which one is primary is never configured"),
    ("haproxy", "the entry points: one port leads to the primary, another to the replicas"),
    ("keepalived", "hosts among `haproxy` that share the virtual address `vip`"),
];

/// What users of other tools call these groups.
pub const OTHER_NAMES: [(&str, &str); 13] = [
    ("etcd_cluster", "etcd"),
    ("etcd_servers", "etcd"),
    ("zk", "zookeeper"),
    ("postgres_cluster", "postgres"),
    ("postgresql", "postgres"),
    ("pgsql", "postgres"),
    ("patroni", "postgres"),
    ("master", "postgres"),
    ("primary", "postgres"),
    ("replica", "postgres"),
    ("balancers", "haproxy"),
    ("proxy", "haproxy"),
    ("vip", "keepalived"),
];

/// Secrets that are needed only where another variable is set.
pub const NEEDED_WITH: [(&str, &str); 1] = [("agent_api_password", "agent_api_user")];

/// Other spellings that Ansible accepts, and the variable that each is.
pub const ALIASES: [(&str, &str); 6] = [
    ("ansible_ssh_host", "ansible_host"),
    ("ansible_ssh_port", "ansible_port"),
    ("ansible_ssh_user", "ansible_user"),
    ("ansible_ssh_pass", "ansible_password"),
    ("ansible_private_key_file", "ansible_ssh_private_key_file"),
    ("ansible_become_pass", "ansible_become_password"),
];

const ANY: Kind = Secret { most: usize::MAX };
const COUNT: Kind = Integer { least: 1, most: i64::MAX };
const FROM_ZERO: Kind = Integer { least: 0, most: i64::MAX };

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    row(In::Connection, "ansible_host", Address, Unset, Host, ALL, "Where SSH connects to; the host's name in the inventory when absent.", "10.128.0.26"),
    row(In::Connection, "ansible_port", Port, Unset, Host, ALL, "The port of sshd; what ssh_config says, or 22, when absent.", "2222"),
    row(In::Connection, "ansible_user", Text, Unset, Host, ALL, "The user that SSH logs in as; what `ssh` itself would take when absent.", "admin"),
    row(In::Connection, "ansible_password", ANY, Unset, Host, ALL, "The password of that user, where keys are not used.", "\"{{ lookup }}\""),
    row(In::Connection, "ansible_ssh_private_key_file", LocalPath, Unset, Host, ALL, "The private key to log in with.", "~/.ssh/id_ed25519"),
    row(In::Connection, "ansible_ssh_common_args", Text, Unset, Host, ALL, "Options as `ssh` takes them, for example a jump host.", "-J admin@bastion.example.org"),
    row(In::Connection, "ansible_ssh_extra_args", Text, Unset, Host, ALL, "As `ansible_ssh_common_args`, added to it.", "-o ProxyJump=bastion"),
    row(In::Connection, "ansible_host_key_checking", Bool, Is("true"), Host, ALL, "Whether a host's key must be known. False accepts a key that is seen for the first time; a changed key is refused always.", "false"),
    row(In::Connection, "ansible_become", Bool, Computed { how: "true unless `ansible_user` is `root`", from: become_unless_root }, Host, ALL, "Whether to become another user (root) by sudo after logging in.", "true"),
    row(In::Connection, "ansible_become_user", Text, Is("root"), Host, ALL, "The user to become.", "root"),
    row(In::Connection, "ansible_become_password", ANY, Unset, Host, ALL, "What sudo asks for, where it does.", "\"{{ lookup }}\""),
    row(In::Connection, "ansible_become_method", Choice(&["sudo"]), Is("sudo"), Host, ALL, "How to become another user.", "sudo"),
    row(In::Connection, "ansible_connection", Choice(&["ssh"]), Is("ssh"), Host, ALL, "How to connect.", "ssh"),
    row(In::Connection, "ansible_python_interpreter", Ignored, Unset, Host, ALL, "Not needed: targets need no Python.", "/usr/bin/python3"),

    row(In::Cluster, "cluster_name", ClusterName, Required, Cluster, ALL, "The cluster's name: its folder in the DCS, and part of its paths. It cannot be changed later.", "demo"),
    row(In::Cluster, "dcs", Choice(&["etcd", "zookeeper"]), Computed { how: "`zookeeper` where only that group has hosts, else `etcd`", from: dcs_by_groups }, Cluster, ALL, "What holds the leader's lock.", "etcd"),
    row(In::Cluster, "dcs_namespace", Path, Is("/service"), Cluster, ALL, "The folder in the DCS above the cluster's own; Patroni's `namespace`.", "/service"),
    row(In::Cluster, "address", Address, Computed { how: "`ansible_host`, or the host's name", from: address_of }, Host, ALL, "Where the cluster's other hosts reach this one, when that is not where SSH connects to.", "10.128.0.26"),

    row(In::Postgres, "postgres_version", Integer { least: 13, most: 18 }, FromHost { how: "the distribution's own version: bookworm 15, trixie 17, sid 18, jammy 14, noble 16", from: version_of_distribution }, Cluster, PG, "The major version of PostgreSQL.", "17"),
    row(In::Postgres, "postgres_port", Port, Is("5432"), Host, PG, "The port of PostgreSQL.", "5432"),
    row(In::Postgres, "postgres_listen", Text, Is("\"*\""), Host, PG, "The addresses that PostgreSQL listens on: `listen_addresses`.", "\"*\""),
    row(In::Postgres, "postgres_data_dir", Path, FromHost { how: "`/var/lib/postgresql/VERSION/CLUSTER_NAME`", from: data_dir }, Host, PG, "The data directory. Data that is already there is adopted, never overwritten.", "/var/lib/postgresql/17/demo"),
    row(In::Postgres, "postgres_bin_dir", Path, FromHost { how: "`/usr/lib/postgresql/VERSION/bin`", from: bin_dir }, Host, PG, "Where `postgres`, `initdb` and `pg_rewind` are.", "/usr/lib/postgresql/17/bin"),
    row(In::Postgres, "postgres_socket_dir", Path, Is("/var/run/postgresql"), Host, PG, "Where PostgreSQL's Unix socket is.", "/var/run/postgresql"),
    row(In::Postgres, "postgres_parameters", Settings, Is("{}"), Cluster, PG, "Settings of postgresql.conf for all members, kept in the DCS. What needs only a reload is reloaded; for the rest `apply` restarts one member after another.", "{max_connections: 200, work_mem: 16MB}"),
    row(In::Postgres, "postgres_hba", ListOfText, Unset, Cluster, PG, "Lines of pg_hba.conf for clients. Those that replication and the agent need come before them by themselves. Absent, everybody from a network that the server itself is in, from the cluster's servers and from its entry points is let in with a password, over TLS alone where `tls` is on; name other networks here.", "[host app app 10.0.0.0/8 scram-sha-256]"),
    row(In::Postgres, "postgres_encoding", Text, Is("UTF8"), Cluster, PG, "The encoding that initdb is given.", "UTF8"),
    row(In::Postgres, "postgres_locale", Text, Is("C.UTF-8"), Cluster, PG, "The locale that initdb is given.", "en_US.UTF-8"),
    row(In::Postgres, "postgres_packages", ListOfText, Is("[]"), Host, PG, "Further packages to install with the server, for extensions.", "[postgresql-17-pgvector]"),
    row(In::Postgres, "postgres_apt_repository", Bool, Is("false"), Host, PG, "Whether packages come from the PostgreSQL project's own repository instead of the distribution's.", "true"),
    row(In::Postgres, "postgres_apt_repository_url", Text, Is("https://apt.postgresql.org/pub/repos/apt"), Host, PG, "That repository, or a mirror of it.", "https://mirror.example.org/pgdg"),
    row(In::Postgres, "postgres_apt_repository_key", LocalPath, Unset, Cluster, PG, "The repository's signing key as a file on this machine; taken from the repository's site over https when absent.", "keys/pgdg.asc"),

    row(In::Roles, "superuser_name", Text, Is("postgres"), Cluster, PG, "The superuser that the agent makes the cluster with.", "postgres"),
    row(In::Roles, "superuser_password", ANY, Generated, Cluster, PG, "The superuser's password.", "\"{{ vaulted }}\""),
    row(In::Roles, "replication_user", Text, Is("replicator"), Cluster, PG, "The role that replicas stream as; it can do nothing else.", "replicator"),
    row(In::Roles, "replication_password", ANY, Generated, Cluster, PG, "Its password.", "\"{{ vaulted }}\""),
    row(In::Roles, "rewind_user", Text, Is("rewinder"), Cluster, PG, "The role that pg_rewind reads as; it can call the four functions that pg_rewind needs.", "rewinder"),
    row(In::Roles, "rewind_password", ANY, Generated, Cluster, PG, "Its password.", "\"{{ vaulted }}\""),

    row(In::Failover, "ttl", Seconds, Is("5"), Cluster, PG, "How long the leader's lease lasts without renewal: the longest that a dead host stays leader. `loop_wait + 2 * retry_timeout` must not exceed it.", "20"),
    row(In::Failover, "loop_wait", Seconds, Is("1"), Cluster, PG, "How often an agent looks around although nothing has happened.", "5"),
    row(In::Failover, "retry_timeout", Seconds, Is("2"), Cluster, PG, "How long the DCS or PostgreSQL may fail to answer before it counts as gone.", "5"),
    row(In::Failover, "synchronous_mode", Choice(&["off", "on", "quorum"]), Is("off"), Cluster, PG, "Whether a commit waits for replicas: `on` for named ones, `quorum` for any of a set. No acknowledged commit is then lost in a failover.", "quorum"),
    row(In::Failover, "synchronous_mode_strict", Bool, Is("false"), Cluster, PG, "Whether writes stop when no replica is left to wait for.", "true"),
    row(In::Failover, "synchronous_node_count", COUNT, Is("1"), Cluster, PG, "How many replicas a commit waits for.", "2"),
    row(In::Failover, "maximum_lag_on_failover", FROM_ZERO, Is("1048576"), Cluster, PG, "Bytes of WAL that a replica may lack and still become primary, where replication is asynchronous.", "10485760"),
    row(In::Failover, "primary_start_timeout", FROM_ZERO, Is("300"), Cluster, PG, "Seconds that a crashed primary may take to recover before another takes over; 0 for at once.", "0"),
    row(In::Failover, "failsafe_mode", Bool, Is("false"), Cluster, PG, "Whether a primary stays one while the DCS cannot be reached but all other members can.", "true"),
    row(In::Failover, "use_pg_rewind", Bool, Is("true"), Cluster, PG, "Whether a former primary returns by pg_rewind.", "true"),
    row(In::Failover, "use_slots", Bool, Is("true"), Cluster, PG, "Whether each replica has a replication slot, so that the primary keeps the WAL that it still needs.", "true"),
    row(In::Failover, "reclone_after_failed_rewind", Bool, Is("false"), Cluster, PG, "Whether a former primary that cannot be rewound is copied anew, which removes its data directory.", "true"),

    row(In::Tls, "tls", Bool, Is("true"), Cluster, ALL, "Whether etcd, PostgreSQL, the agents' REST API and HAProxy's statistics speak TLS alone, with certificates of an authority of the cluster's own. The authority's key and the certificates are kept in the secrets file. It is decided when the cluster is made.", "false"),
    row(In::Tls, "certificate_days", Integer { least: 1, most: 3_650 }, Is("365"), Cluster, ALL, "How many days a new certificate is valid. One is made anew by the first `apply` that finds less than a third of that left; services take it up without a restart.", "90"),

    row(In::Etcd, "etcd_install", Choice(&["package", "archive"]), Is("package"), Cluster, ETCD, "Where etcd comes from: the distribution's package, or a release archive.", "archive"),
    row(In::Etcd, "etcd_archive", Source, Unset, Cluster, ETCD, "The release archive for `etcd_install: archive`: a file on this machine, or a URL.", "downloads/etcd-v3.5.21-linux-amd64.tar.gz"),
    row(In::Etcd, "etcd_archive_sha256", Sha256, Unset, Cluster, ETCD, "The archive's SHA-256; required with it.", "9d8f...64 digits"),
    row(In::Etcd, "etcd_client_port", Port, Is("2379"), Cluster, ETCD, "Where clients of etcd connect to.", "2379"),
    row(In::Etcd, "etcd_peer_port", Port, Is("2380"), Cluster, ETCD, "Where members of etcd connect to each other.", "2380"),
    row(In::Etcd, "etcd_data_dir", Path, Computed { how: "`/var/lib/etcd/CLUSTER_NAME`", from: etcd_data_dir }, Cluster, ETCD, "etcd's data directory.", "/var/lib/etcd/demo"),
    row(In::Etcd, "etcd_cluster_token", Text, Computed { how: "`cluster_name`", from: cluster_name }, Cluster, ETCD, "Keeps members of different etcd clusters from joining each other.", "demo"),
    row(In::Etcd, "etcd_heartbeat_interval_ms", Integer { least: 10, most: 10_000 }, Is("100"), Cluster, ETCD, "Milliseconds between two heartbeats of etcd's leader; about the round trip between members.", "100"),
    row(In::Etcd, "etcd_election_timeout_ms", Integer { least: 50, most: 50_000 }, Is("1000"), Cluster, ETCD, "Milliseconds without heartbeat before etcd elects a leader; at least five times the heartbeat interval.", "1000"),
    row(In::Etcd, "etcd_quota_backend_bytes", COUNT, Is("2147483648"), Cluster, ETCD, "The size that etcd's database may grow to.", "8589934592"),
    row(In::Etcd, "etcd_auto_compaction_retention", Text, Is("1h"), Cluster, ETCD, "How much history etcd keeps.", "1h"),

    row(In::ZooKeeper, "zookeeper_client_port", Port, Is("2181"), Cluster, ZOO, "Where clients of ZooKeeper connect to.", "2181"),
    row(In::ZooKeeper, "zookeeper_peer_port", Port, Is("2888"), Cluster, ZOO, "Where followers connect to the ensemble's leader.", "2888"),
    row(In::ZooKeeper, "zookeeper_election_port", Port, Is("3888"), Cluster, ZOO, "Where the ensemble elects its leader.", "3888"),
    row(In::ZooKeeper, "zookeeper_data_dir", Path, Is("/var/lib/zookeeper"), Cluster, ZOO, "ZooKeeper's data directory.", "/var/lib/zookeeper"),

    row(In::HaProxy, "haproxy_primary_port", Port, Is("5000"), Cluster, PROXY, "The port that leads to the primary.", "5431"),
    row(In::HaProxy, "haproxy_replica_port", Port, Is("5001"), Cluster, PROXY, "The port that leads to the replicas.", "5433"),
    row(In::HaProxy, "haproxy_stats_port", Port, Is("7000"), Cluster, PROXY, "The port of HAProxy's statistics page.", "7000"),
    row(In::HaProxy, "haproxy_listen", Text, Is("\"*\""), Host, PROXY, "The address that HAProxy listens on.", "10.128.0.40"),
    row(In::HaProxy, "haproxy_maxconn", COUNT, Is("2000"), Host, PROXY, "How many connections HAProxy takes.", "10000"),
    row(In::HaProxy, "haproxy_check_interval_ms", Integer { least: 50, most: 60_000 }, Is("1000"), Cluster, PROXY, "Milliseconds between two looks at a server that is steadily up; of the entry point for reading, twice as many.", "500"),
    row(In::HaProxy, "haproxy_client_timeout", Text, Is("30m"), Cluster, PROXY, "How long a session may be silent before HAProxy closes it, on both sides.", "1h"),
    row(In::HaProxy, "haproxy_connect_timeout", Text, Is("4s"), Cluster, PROXY, "How long a connection to a server may take.", "2s"),

    row(In::Address, "vip", AddressWithPrefix, Unset, Cluster, VIP, "The virtual address that clients connect to, with the length of its network's prefix.", "10.73.0.172/24"),
    row(In::Address, "vip_interface", Text, FromHost { how: "the interface that has the host's own address", from: interface_of_address }, Host, VIP, "The network interface that carries it.", "eth0"),
    row(In::Address, "vip_router_id", Integer { least: 1, most: 255 }, Computed { how: "from `cluster_name` and `vip`", from: router_id }, Cluster, VIP, "VRRP's virtual router id; unique on the network.", "72"),
    row(In::Address, "vip_priority", Integer { least: 1, most: 254 }, Computed { how: "100 for the first host of `keepalived`, 99 for the second, ...", from: priority }, Host, VIP, "Which host takes the address first.", "100"),
    row(In::Address, "vip_advert_interval", Seconds, Is("1"), Cluster, VIP, "Seconds between two announcements of the holder.", "1"),
    row(In::Address, "vip_password", Secret { most: 8 }, Generated, Cluster, VIP, "What the hosts of `keepalived` know each other by.", "\"{{ vaulted }}\""),

    row(In::Agent, "agent", Kind::Map, Is("{}"), Host, PG, "Merged into the agent's configuration, which has Patroni's schema.", "{log: {level: DEBUG}}"),
    row(In::Agent, "agent_api_port", Port, Is("8008"), Host, PG, "The port of the agent's REST API.", "8008"),
    row(In::Agent, "agent_api_listen", Text, Is("0.0.0.0"), Host, PG, "The address that the agent's REST API listens on.", "10.128.0.31"),
    row(In::Agent, "agent_api_user", Text, Unset, Cluster, PG, "The user whose password the agent's REST API asks for before it changes anything. Absent, it asks for none. With `tls`, a client certificate of the cluster's authority is asked for instead, and this has no effect.", "pgfleet"),
    row(In::Agent, "agent_api_password", ANY, Generated, Cluster, PG, "That user's password; generated only where there is the user.", "\"{{ vaulted }}\""),
    row(In::Agent, "agent_tags", Settings, Is("{}"), Host, PG, "The member's tags: `nofailover`, `noloadbalance`, `clonefrom`, `nosync`, `failover_priority`, or your own.", "{nofailover: true}"),
    row(In::Agent, "agent_log_level", Choice(&["error", "warn", "info", "debug", "trace"]), Is("info"), Host, PG, "How much the agent logs.", "debug"),
    row(In::Agent, "agent_unit_options", Settings, Is("{}"), Host, PG, "Settings of the agent's unit, in systemd's words for `[Service]`. They come last, and so win over the restrictions that the agent and PostgreSQL run under: `ProtectHome: false` where a tablespace or an archive is below /home, `NoNewPrivileges: false` where an archive_command calls sudo. PostgreSQL has them from its next start on.", "{ProtectHome: false}"),

    row(In::System, "system_tuning", Bool, Is("true"), Host, ALL, "Whether to set the kernel parameters and limits that the host's roles profit from.", "false"),
    row(In::System, "sysctl", Settings, Is("{}"), Host, ALL, "Kernel parameters; they win over those of `system_tuning`.", "{vm.swappiness: 10}"),
    row(In::System, "open_files_limit", Integer { least: 1024, most: i64::MAX }, Is("65536"), Host, ALL, "How many files a service may have open.", "65536"),
    row(In::System, "manage_hosts_file", Bool, Is("false"), Host, ALL, "Whether the names of all hosts are kept in /etc/hosts.", "true"),

    row(In::Own, "custom", Kind::Map, Is("{}"), Host, ALL, "Anything that your own playbooks and templates need, as `{{ custom.NAME }}`.", "{rack: r7}"),
];

#[expect(clippy::too_many_arguments, reason = "a row of the table above, in the order of its columns")]
const fn row(
    section: In,
    name: &'static str,
    kind: Kind,
    default: super::variable::Default,
    reach: Reach,
    groups: Groups,
    doc: &'static str,
    example: &'static str,
) -> Variable {
    Variable { section, name, kind, default, reach, groups, doc, example }
}

/// The row of a variable; aliases of Ansible's are resolved.
pub fn find(name: &str) -> Option<&'static Variable> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    VARIABLES.iter().find(|variable| variable.name == name)
}

fn become_unless_root(known: &Known<'_>) -> Option<Value> {
    Some(Value::Bool(known.text("ansible_user") != Some("root")))
}

fn dcs_by_groups(known: &Known<'_>) -> Option<Value> {
    let used = |group| known.groups.get(group).is_some_and(|hosts: &Vec<_>| !hosts.is_empty());
    Some(if used("zookeeper") && !used("etcd") { "zookeeper" } else { "etcd" }.into())
}

fn address_of(known: &Known<'_>) -> Option<Value> {
    Some(known.text("ansible_host").unwrap_or(known.host).into())
}

fn cluster_name(known: &Known<'_>) -> Option<Value> {
    known.text("cluster_name").map(Value::from)
}

fn etcd_data_dir(known: &Known<'_>) -> Option<Value> {
    known.text("cluster_name").map(|name| format!("/var/lib/etcd/{name}").into())
}

fn version_of_distribution(known: &Known<'_>) -> Option<Value> {
    let major = match known.fact("distribution_release")? {
        "bullseye" => 13,
        "bookworm" => 15,
        "trixie" => 17,
        "sid" | "forky" => 18,
        "jammy" => 14,
        "noble" => 16,
        "plucky" | "questing" => 17,
        _ => return None,
    };
    Some(major.into())
}

fn data_dir(known: &Known<'_>) -> Option<Value> {
    let (version, name) = (known.number("postgres_version")?, known.text("cluster_name")?);
    Some(format!("/var/lib/postgresql/{version}/{name}").into())
}

fn bin_dir(known: &Known<'_>) -> Option<Value> {
    Some(format!("/usr/lib/postgresql/{}/bin", known.number("postgres_version")?).into())
}

/// The interface among the facts that has the host's address.
fn interface_of_address(known: &Known<'_>) -> Option<Value> {
    let address = known.text("address")?;
    let interfaces = known.facts.get("interfaces")?.as_array()?.iter().filter_map(Value::as_str);
    let has_address = |name: &&str| {
        let fact = known.facts.get(&name.replace('-', "_")).or_else(|| known.facts.get(*name));
        let first = fact.and_then(|fact| fact.get("ipv4")).into_iter();
        let more = fact.and_then(|fact| fact.get("ipv4_secondaries")).and_then(Value::as_array);
        let also = fact.and_then(|fact| fact.get("ipv6")).and_then(Value::as_array);
        first
            .chain(more.into_iter().flatten())
            .chain(also.into_iter().flatten())
            .any(|entry| entry.get("address").and_then(Value::as_str) == Some(address))
    };
    let default = || known.facts.get("default_ipv4")?.get("interface")?.as_str();
    interfaces.into_iter().find(has_address).or_else(default).map(Value::from)
}

/// 1 to 255, the same on every run, and unlikely to be another cluster's on the same network.
fn router_id(known: &Known<'_>) -> Option<Value> {
    let text = format!("{}/{}", known.text("cluster_name")?, known.text("vip")?);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some((hash % 255 + 1).into())
}

fn priority(known: &Known<'_>) -> Option<Value> {
    let position = known.groups.get("keepalived")?.iter().position(|host| host.as_str() == known.host)?;
    Some(100_usize.saturating_sub(position).max(1).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::variable::Default;

    #[test]
    fn every_row_is_in_order() {
        let mut seen = std::collections::HashSet::new();
        for variable in VARIABLES {
            let name = variable.name;
            assert!(seen.insert(name), "{name} has two rows");
            assert!(variable.doc.ends_with('.'), "{name} has no sentence");
            assert!(!variable.example.is_empty(), "{name} has no example");
            for group in variable.groups {
                assert!(GROUPS.iter().any(|(known, _)| known == group), "{name} names the group {group}");
            }
            if let Default::Value(text) = variable.default {
                let value = crate::yaml::Document::parse(name, text).unwrap().value().clone();
                assert_eq!(variable.kind.read(&value).as_ref(), Ok(&value), "the default of {name}");
            }
        }
    }

    #[test]
    fn aliases_and_other_names_lead_to_known_words() {
        assert!(ALIASES.iter().all(|(_, name)| VARIABLES.iter().any(|variable| variable.name == *name)));
        assert!(OTHER_NAMES.iter().all(|(_, group)| GROUPS.iter().any(|(known, _)| known == group)));
    }
}
