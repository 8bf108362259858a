//! What is shipped works together: every task of every playbook renders for every host of every inventory,
//! strictly, and comes to a resource that a target understands; and the files that result read as they should.

use pgfleet::{
    inventory::{Host, Inventory},
    playbook::{Action, Playbook, Sources, Task, names},
    remote,
    template::Templates,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// Passwords, so that nothing is generated.
const EXTRA: &[&str] =
    &["superuser_password=super-secret", "replication_password=repl-secret", "rewind_password=rewind-secret"];

struct Rendered {
    /// Files by path, for one host.
    files: BTreeMap<String, String>,
}

fn facts(formed: bool) -> Map<String, Value> {
    let service = |name: &str| (name.to_owned(), json!({"name": name, "state": "running"}));
    let services: Map<_, _> = ["etcd.service", "pgfleet-agent.service"].map(service).into_iter().collect();
    json!({"services": if formed { services } else { Map::new() },
        "distribution": "Debian", "distribution_release": "trixie", "architecture": "x86_64",
        "interfaces": ["lo", "host0"], "default_ipv4": {"interface": "host0"}})
    .as_object()
    .cloned()
    .unwrap_or_default()
}

fn templates(inventory: &Inventory) -> Templates {
    let mut templates = Templates::new(Vec::new()).expect("an environment");
    templates.share(&inventory.global_variables()).expect("shared variables");
    templates
}

/// Renders all that a playbook does on a host; `formed` is whether its services run already.
fn render(inventory: &Inventory, playbook: &Playbook, host: &Host, formed: bool) -> Rendered {
    let templates = templates(inventory);
    let mut files = BTreeMap::new();
    for play in &playbook.plays {
        let selected = inventory.select(&play.hosts).unwrap_or_else(|wrong| panic!("{wrong}"));
        if !selected.iter().any(|one| one.name == host.name) {
            continue;
        }
        let mut vars = inventory.complete(host, &facts(formed)).unwrap_or_else(|wrong| panic!("{wrong}"));
        vars.extend(play.vars.clone());
        vars.insert("etcd_speaks".to_owned(), json!({"stdout": "nothing"}));
        let trusted =
            if inventory.authority().is_some() { json!({"stdout": ""}) } else { json!({"skipped": true}) };
        vars.insert("trusted".to_owned(), trusted);
        vars.insert("etcd_found".to_owned(), json!({"stdout": "none"}));
        vars.insert("etcd_cluster".to_owned(), json!({"formed": false}));
        vars.insert("etcd_begins".to_owned(), json!(if formed { "never" } else { "forming" }));
        vars.insert("etcd_joined".to_owned(), json!({"initial_cluster": "etcd-1=http://10.128.0.26:2380"}));
        vars.insert("etcd_member".to_owned(), json!({"leader": false}));
        vars.insert("haproxy_address".to_owned(), json!({"stdout": "elsewhere"}));
        vars.insert("ansible_check_mode".to_owned(), json!(false));
        vars.insert("postgres_process".to_owned(), json!({"stale": false}));
        for task in play.tasks.iter().chain(&play.handlers) {
            if let Some((path, content)) = task_file(task, &vars, &templates) {
                files.insert(path, content);
            }
        }
    }
    Rendered { files }
}

/// Renders a task's arguments and has them understood; the file that it writes from a template.
fn task_file(task: &Task, vars: &Map<String, Value>, templates: &Templates) -> Option<(String, String)> {
    let mut vars = vars.clone();
    for (name, value) in &task.vars {
        let value = templates.value(value, &vars, &task.at).unwrap_or_else(|wrong| panic!("{wrong}"));
        vars.insert(name.clone(), value);
    }
    if task.r#loop.is_some() {
        vars.insert("item".to_owned(), json!("soft"));
    }
    let holds =
        |when: &String| templates.condition(when, &vars, &task.at).unwrap_or_else(|wrong| panic!("{wrong}"));
    let Action::Module { name, args } = &task.action else { return None };
    if !task.when.iter().all(holds) {
        return None;
    }
    let mut args = templates.value(args, &vars, &task.at).unwrap_or_else(|wrong| panic!("{wrong}"));
    let source = args.as_object_mut().and_then(|args| args.shift_remove("src"));
    let mut module = name.as_str();
    let mut written = None;
    if let Some(source) = source.as_ref().and_then(Value::as_str) {
        if matches!(module, "template" | "systemd_unit") {
            let text = templates.render_file(source, &vars).unwrap_or_else(|wrong| panic!("{wrong}"));
            let again = templates.render_file(source, &vars).unwrap_or_else(|wrong| panic!("{wrong}"));
            assert_eq!(text, again, "{source} differs from one rendering to the next");
            let path = args.get("dest").or(args.get("name")).and_then(Value::as_str).unwrap_or_default();
            written = Some((path.to_owned(), text.clone()));
            args["content"] = json!(text);
        } else {
            args["content"] = json!("content");
        }
    }
    if module == "template" {
        module = "copy";
    }
    if let Err(reason) = remote::parse(module, args.clone()) {
        panic!("{} at {}: {reason}\n{args}", task.name, task.at);
    }
    written
}

fn inventory(path: &Path) -> Inventory {
    let mut extra: Vec<String> = EXTRA.iter().chain(&["tls=false"]).map(|&pair| pair.to_owned()).collect();
    if fs::read_to_string(path).unwrap_or_default().contains("keepalived") {
        extra.push("vip_password=vip-pass".to_owned());
    }
    Inventory::inspect(path, &extra).unwrap_or_else(|wrong| panic!("{wrong}"))
}

fn bootstrap() -> Playbook {
    Playbook::load("bootstrap", &Sources::default()).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn every_task_renders_for_every_host_of_every_inventory() {
    let mut rendered = 0;
    for entry in fs::read_dir("inventories").expect("inventories").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A cluster that somebody tries here has its secrets beside its inventory.
        if !name.ends_with(".yml") || name.ends_with(".secrets.yml") {
            continue;
        }
        let inventory = inventory(&entry.path());
        for name in names() {
            let playbook =
                Playbook::load(name, &Sources::default()).unwrap_or_else(|wrong| panic!("{wrong}"));
            for host in inventory.hosts.values() {
                for formed in [false, true] {
                    rendered += render(&inventory, &playbook, host, formed).files.len();
                }
            }
        }
    }
    assert!(rendered > 100, "only {rendered} files were rendered");
}

#[test]
fn the_archive_and_the_project_repository_render_too() {
    let extra: Vec<String> = EXTRA
        .iter()
        .copied()
        .chain([
            "etcd_install=archive",
            "etcd_archive=downloads/etcd.tar.gz",
            "etcd_archive_sha256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "postgres_apt_repository=true",
            "manage_hosts_file=true",
            "synchronous_mode=quorum",
            r#"{"agent": {"log": {"level": "DEBUG"}, "restapi": {"authentication": {"username": "u", "password": "p"}}}}"#,
        ])
        .map(str::to_owned)
        .collect();
    let inventory = Inventory::inspect(Path::new("inventories/demo.yml"), &extra)
        .unwrap_or_else(|wrong| panic!("{wrong}"));
    for host in inventory.hosts.values() {
        for formed in [false, true] {
            let files = render(&inventory, &bootstrap(), host, formed).files;
            if host.is_in("etcd") {
                assert!(files["etcd.service"].contains("ExecStart=/usr/local/bin/etcd\n"));
            }
            if host.is_in("postgres") {
                assert!(files["/etc/pgfleet/agent.yml"].contains("level: DEBUG"));
            }
        }
    }
}

/// The files of a host of an inventory, as a bootstrap leaves them.
fn files(inventory_name: &str, host: &str, formed: bool) -> BTreeMap<String, String> {
    let inventory = inventory(&Path::new("inventories").join(inventory_name));
    let host = inventory.hosts.values().find(|one| one.name.as_str() == host).expect("the host");
    render(&inventory, &bootstrap(), host, formed).files
}

#[test]
fn a_new_member_of_etcd_ends_up_as_an_existing_one() {
    for formed in [false, true] {
        let files = files("demo.yml", "etcd-1", formed);
        assert!(files["/etc/default/etcd"].contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"));
    }
    insta::assert_snapshot!(files("demo.yml", "etcd-1", true)["/etc/default/etcd"], @r#"
    # Managed by pgfleet.
    ETCD_NAME="etcd-1"
    ETCD_DATA_DIR="/var/lib/etcd/demo"

    # Members listen everywhere: an address that others know may be another one than the host's own.
    ETCD_LISTEN_CLIENT_URLS="http://0.0.0.0:2379"
    ETCD_LISTEN_PEER_URLS="http://0.0.0.0:2380"
    ETCD_ADVERTISE_CLIENT_URLS="http://10.128.0.26:2379"
    ETCD_INITIAL_ADVERTISE_PEER_URLS="http://10.128.0.26:2380"

    # `existing` keeps a start with lost data from forming a cluster of its own; whom to form one with or to join is
    # read at the first start alone.
    ETCD_INITIAL_CLUSTER_TOKEN="demo"
    ETCD_INITIAL_CLUSTER_STATE="existing"

    ETCD_HEARTBEAT_INTERVAL="100"
    ETCD_ELECTION_TIMEOUT="1000"
    # A member that was cut off asks before it disturbs a working leader.
    ETCD_PRE_VOTE="true"

    ETCD_QUOTA_BACKEND_BYTES="2147483648"
    ETCD_AUTO_COMPACTION_MODE="periodic"
    ETCD_AUTO_COMPACTION_RETENTION="1h"
    ETCD_LOGGER="zap"
    "#);
}

#[test]
fn haproxy_reads_as_it_should() {
    insta::assert_snapshot!(files("demo.yml", "haproxy-1", true)["/etc/haproxy/haproxy.cfg"], @r"
    # Managed by pgfleet.
    global
        log /dev/log local0 notice
        chroot /var/lib/haproxy
        user haproxy
        group haproxy
        daemon
        maxconn 2000
        stats socket /run/haproxy/admin.sock mode 660 level admin
        # A process that was replaced by a reload goes when its sessions have had their time.
        hard-stop-after 30m

    defaults
        mode tcp
        log global
        option dontlognull
        # A peer that vanished is noticed although nobody speaks.
        option clitcpka
        option srvtcpka
        timeout client 30m
        timeout server 30m
        timeout connect 4s
        # Longer than an agent holds its answer back, see below.
        timeout check 2500ms
        # The agents say who is what; asked by OPTIONS they answer in one line, and one whose server is down for us answers
        # when it is up, or after two seconds. An agent may be away for a second (it restarts) without its server being
        # dropped. A connection that PostgreSQL refuses makes the very next look decide.
        default-server inter 1000ms fastinter 100ms downinter 200ms fall 3 rise 1 observe layer4 error-limit 1 on-error sudden-death on-marked-down shutdown-sessions

    # The primary, for reading and writing.
    listen primary
        bind *:5431
        # There is one server to try; a client that is refused at once can try again at once.
        retries 0
        option httpchk
        http-check send-state
        http-check send meth OPTIONS uri /primary hdr Prefer wait=2
        http-check expect status 200
        server pg-1 10.128.0.12:5432 check port 8008
        server pg-2 10.128.0.13:5432 check port 8008
        server pg-3 10.128.0.14:5432 check port 8008

    # The replicas, for reading.
    listen replicas
        bind *:5433
        balance leastconn
        retries 3
        option redispatch 1
        # A connection that fails goes to the next one.
        default-server inter 2000ms
        option httpchk
        http-check send-state
        http-check send meth OPTIONS uri /replica hdr Prefer wait=2
        http-check expect status 200
        server pg-1 10.128.0.12:5432 check port 8008
        server pg-2 10.128.0.13:5432 check port 8008
        server pg-3 10.128.0.14:5432 check port 8008

    listen stats
        mode http
        bind *:7000
        timeout client 10s
        timeout server 10s
        stats enable
        stats uri /
        stats refresh 5s
    ");
}

#[test]
fn the_agent_reads_as_it_should() {
    let files = files("demo.yml", "pg-1", true);
    insta::assert_snapshot!(files["/etc/pgfleet/agent.yml"], @r"
    # Managed by pgfleet. The schema is Patroni's; `agent` in the inventory is merged into it.
    scope: demo
    namespace: /service
    name: pg-1
    log:
      level: INFO
    restapi:
      listen: 0.0.0.0:8008
      connect_address: 10.128.0.12:8008
    etcd3:
      hosts:
      - 10.128.0.26:2379
      - 10.128.0.11:2379
      - 10.128.0.31:2379
    postgresql:
      listen: '*:5432'
      connect_address: 10.128.0.12:5432
      data_dir: /var/lib/postgresql/17/demo
      bin_dir: /usr/lib/postgresql/17/bin
      pgpass: /run/pgfleet/pgpass
      use_unix_socket: true
      authentication:
        superuser:
          username: postgres
          password: super-secret
        replication:
          username: replicator
          password: repl-secret
        rewind:
          username: rewinder
          password: rewind-secret
      parameters:
        unix_socket_directories: /var/run/postgresql
    tags: {}
    ");
    insta::assert_snapshot!(files["pgfleet-agent.service"], @r#"
    # Managed by pgfleet.
    [Unit]
    Description=pgfleet agent: PostgreSQL of demo
    After=network-online.target etcd.service
    Wants=network-online.target
    # The agent tries for as long as it takes.
    StartLimitIntervalSec=0
    # What the agent reads at its start alone. A change here is a change of the unit, and so restarts the agent.
    X-Pgfleet-AtStart=["demo","/service","pg-1","/var/lib/postgresql/17/demo","0.0.0.0",8008,"info",false]
    X-Pgfleet-AtStart=10.128.0.26:2379 10.128.0.11:2379 10.128.0.31:2379 
    X-Pgfleet-AtStart=[{},{},""]

    [Service]
    Type=notify
    User=postgres
    Group=postgres
    WorkingDirectory=/var/lib/postgresql
    RuntimeDirectory=pgfleet
    # The agent that comes after a crash finds the lease that its forerunner held.
    RuntimeDirectoryPreserve=yes
    RuntimeDirectoryMode=0750
    ExecStart=/usr/local/bin/pgfleet agent run /etc/pgfleet/agent.yml
    ExecReload=/bin/kill -HUP $MAINPID
    # An agent that ended or was ended must not leave a PostgreSQL that takes writes without a lease.
    ExecStopPost=/usr/local/bin/pgfleet agent fence /etc/pgfleet/agent.yml
    # PostgreSQL outlives its agent. A stop of the unit stops it too: by the agent, in order.
    KillMode=process
    TimeoutStopSec=300
    Restart=always
    # Anything longer is lengthened by up to 250 ms: systemd wakes for its timers together.
    RestartSec=0
    # The sockets of the REST API stay open while the agent is away: who asks waits, and is not refused.
    FileDescriptorStoreMax=16
    # Half of the lease: an agent that hangs is ended, and PostgreSQL fenced, before another member can lead.
    WatchdogSec=2500ms
    WatchdogSignal=SIGKILL
    LimitNOFILE=65536
    LimitMEMLOCK=infinity
    TasksMax=infinity
    # The OOM killer takes a backend, never the agent or the postmaster.
    OOMScoreAdjust=-900
    Environment=PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj PG_OOM_ADJUST_VALUE=0

    # What a server that somebody has broken into cannot do any more. Left out, because PostgreSQL outlives its agent or
    # is extended by others: PrivateTmp (the directory goes with the agent), RemoveIPC (shared memory too), PrivateIPC (a
    # second server on the same data would not be noticed), PrivateUsers (`peer` could tell nobody from nobody),
    # MemoryDenyWriteExecute (JIT), ProtectSystem=strict (tablespaces and archives may be anywhere).
    NoNewPrivileges=yes
    CapabilityBoundingSet=
    ProtectSystem=full
    ReadWritePaths=-/var/lib/postgresql/17 -/var/run/postgresql
    ProtectHome=yes
    PrivateDevices=yes
    PrivateMounts=yes
    ProtectProc=invisible
    ProtectClock=yes
    ProtectHostname=yes
    ProtectKernelLogs=yes
    ProtectKernelModules=yes
    ProtectKernelTunables=yes
    ProtectControlGroups=yes
    LockPersonality=yes
    RestrictNamespaces=yes
    RestrictRealtime=yes
    RestrictSUIDSGID=yes
    # `samenet` in pg_hba.conf asks the kernel for its networks.
    RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
    SystemCallArchitectures=native
    SystemCallFilter=@system-service
    SystemCallErrorNumber=EPERM
    UMask=0077

    [Install]
    WantedBy=multi-user.target
    "#);
}

/// The lines of a file that say how it speaks TLS.
fn lines_about_tls(file: &str) -> String {
    let words = ["/etc/pgfleet/tls", "https", "sslmode", "hostssl", "verify", "CERT_AUTH"];
    let lines = file.lines().filter(|line| words.iter().any(|word| line.contains(word)));
    lines.map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn with_tls_nobody_speaks_plain_text() {
    let extra: Vec<String> = EXTRA.iter().copied().chain(["tls=true"]).map(str::to_owned).collect();
    let inventory = Inventory::inspect(Path::new("inventories/demo.yml"), &extra)
        .unwrap_or_else(|wrong| panic!("{wrong}"));
    let mut files = BTreeMap::new();
    for host in inventory.hosts.values() {
        for formed in [true, false] {
            let rendered = render(&inventory, &bootstrap(), host, formed).files;
            for (path, text) in &rendered {
                assert!(!text.contains("http://1"), "{path} speaks plain text:\n{text}");
                assert!(!text.contains("PRIVATE KEY"), "{path} holds a key");
            }
            files.insert(format!("{} {formed}", host.name), rendered);
        }
    }
    let others = |file: &str| fs::read_to_string(Path::new("playbooks").join(file)).expect("a playbook");
    for file in
        ["etcd.yml", "forget.yml", "postgres.yml", "credentials.yml", "verify.yml", "tasks/etcd-restart.yml"]
    {
        assert!(!others(file).contains("http:"), "{file} asks in plain text");
    }
    insta::assert_snapshot!(lines_about_tls(&files["etcd-1 true"]["/etc/default/etcd"]), @r#"
    ETCD_LISTEN_CLIENT_URLS="https://0.0.0.0:2379"
    ETCD_LISTEN_PEER_URLS="https://0.0.0.0:2380"
    ETCD_ADVERTISE_CLIENT_URLS="https://10.128.0.26:2379"
    ETCD_INITIAL_ADVERTISE_PEER_URLS="https://10.128.0.26:2380"
    ETCD_CERT_FILE="/etc/pgfleet/tls/etcd.crt"
    ETCD_KEY_FILE="/etc/pgfleet/tls/etcd.key"
    ETCD_TRUSTED_CA_FILE="/etc/pgfleet/tls/etcd-ca.crt"
    ETCD_CLIENT_CERT_AUTH="true"
    ETCD_PEER_CERT_FILE="/etc/pgfleet/tls/etcd.crt"
    ETCD_PEER_KEY_FILE="/etc/pgfleet/tls/etcd.key"
    ETCD_PEER_TRUSTED_CA_FILE="/etc/pgfleet/tls/etcd-ca.crt"
    ETCD_PEER_CLIENT_CERT_AUTH="true"
    "#);
    insta::assert_snapshot!(lines_about_tls(&files["haproxy-1 true"]["/etc/haproxy/haproxy.cfg"]), @r"
    default-server inter 1000ms fastinter 100ms downinter 200ms fall 3 rise 1 observe layer4 error-limit 1 on-error sudden-death on-marked-down shutdown-sessions check-ssl verify required ca-file /etc/pgfleet/tls/ca.crt crt /etc/pgfleet/tls/haproxy.pem
    server pg-1 10.128.0.12:5432 check port 8008 verifyhost pg-1
    server pg-2 10.128.0.13:5432 check port 8008 verifyhost pg-2
    server pg-3 10.128.0.14:5432 check port 8008 verifyhost pg-3
    server pg-1 10.128.0.12:5432 check port 8008 verifyhost pg-1
    server pg-2 10.128.0.13:5432 check port 8008 verifyhost pg-2
    server pg-3 10.128.0.14:5432 check port 8008 verifyhost pg-3
    bind *:7000 ssl crt /etc/pgfleet/tls/haproxy.pem
    ");
    insta::assert_snapshot!(lines_about_tls(&files["pg-1 false"]["/etc/pgfleet/agent.yml"]), @r"
    certfile: /etc/pgfleet/tls/postgres.crt
    keyfile: /etc/pgfleet/tls/postgres.key
    cafile: /etc/pgfleet/tls/ca.crt
    verify_client: optional
    cacert: /etc/pgfleet/tls/ca.crt
    certfile: /etc/pgfleet/tls/postgres.crt
    keyfile: /etc/pgfleet/tls/postgres.key
    protocol: https
    cacert: /etc/pgfleet/tls/ca.crt
    cert: /etc/pgfleet/tls/postgres.crt
    key: /etc/pgfleet/tls/postgres.key
    sslmode: verify-full
    sslrootcert: /etc/pgfleet/tls/ca.crt
    sslcert: /etc/pgfleet/tls/postgres.crt
    sslkey: /etc/pgfleet/tls/postgres.key
    sslmode: verify-full
    sslrootcert: /etc/pgfleet/tls/ca.crt
    sslcert: /etc/pgfleet/tls/postgres.crt
    sslkey: /etc/pgfleet/tls/postgres.key
    sslmode: verify-full
    sslrootcert: /etc/pgfleet/tls/ca.crt
    sslcert: /etc/pgfleet/tls/postgres.crt
    sslkey: /etc/pgfleet/tls/postgres.key
    ");
}

#[test]
fn keepalived_reads_as_it_should() {
    insta::assert_snapshot!(files("two-nodes-and-a-vip.yml", "pgdb1", true)["/etc/keepalived/keepalived.conf"], @r#"
    # Managed by pgfleet.
    global_defs {
        router_id pgdb1
        script_user nobody
        enable_script_security
        # A switch or a client that missed the move hears of it again.
        vrrp_garp_master_delay 1
        vrrp_garp_master_repeat 3
        vrrp_garp_master_refresh 60
        # Of two holders after a broken network the lower one lets go, and the other claims the address again.
        vrrp_garp_lower_prio_repeat 1
    }

    vrrp_script haproxy {
        script "/etc/keepalived/check-haproxy"
        interval 1
        timeout 1
        fall 2
        rise 2
    }

    vrrp_instance files {
        # All begin equal, and whoever holds the address keeps it: a host that returns takes nothing away.
        state BACKUP
        nopreempt
        interface host0
        virtual_router_id 121
        priority 100
        advert_int 1
        unicast_src_ip 10.73.0.160
        unicast_peer {
            10.73.0.170
        }
        authentication {
            auth_type PASS
            auth_pass vip-pass
        }
        virtual_ipaddress {
            10.73.0.172/24 dev host0
        }
        track_script {
            haproxy
        }
    }
    "#);
}
