use super::*;
use crate::cluster::{
    etcd::DcsFacts,
    haproxy::ProxyFacts,
    topology::{DcsHost, VirtualAddress},
};
use serde_json::json;

fn name(text: &str) -> HostName {
    text.parse().expect("a name")
}

fn topology() -> Topology {
    let agent = |text: &str, address: &str| AgentHost {
        name: name(text),
        address: address.to_owned(),
        api_port: 8008,
        postgres_port: 5432,
        api_login: None,
    };
    Topology {
        cluster: "demo".parse().expect("a name"),
        dcs: DcsKind::Etcd,
        dcs_hosts: ["e1", "e2", "e3"]
            .map(|text| DcsHost { name: name(text), address: text.to_owned(), client_port: 2379 })
            .into(),
        agents: vec![agent("pg1", "10.0.0.1"), agent("pg2", "10.0.0.2")],
        proxies: vec![ProxyHost {
            name: name("lb"),
            address: "10.0.0.9".to_owned(),
            primary_port: 5000,
            replica_port: 5001,
            stats_port: 7000,
        }],
        vip: Some(VirtualAddress {
            address: "10.0.0.100".parse().expect("an address"),
            candidates: vec![name("lb")],
        }),
        superuser: None,
    }
}

fn node(document: serde_json::Value) -> Result<NodeStatus, String> {
    Ok(serde_json::from_value(document).expect("a status"))
}

fn proxy(name: &str, up: &[&str], down: &[&str]) -> ProxyFacts {
    ProxyFacts {
        name: name.to_owned(),
        up: up.iter().map(|name| (*name).to_owned()).collect(),
        down: down.iter().map(|name| ((*name).to_owned(), "DOWN L7STS".to_owned())).collect(),
    }
}

fn well() -> Observed {
    let mut observed = Observed::default();
    observed.nodes.insert(
        name("pg1"),
        node(json!({"state": "running", "role": "primary", "timeline": 2, "xlog": {"location": 1000},
            "patroni": {"name": "pg1"}})),
    );
    observed.nodes.insert(
        name("pg2"),
        node(json!({"state": "running", "role": "replica", "timeline": 2, "replication_state": "streaming",
            "xlog": {"received_location": 990, "replayed_location": 900}, "patroni": {"name": "pg2"}})),
    );
    let cluster: ClusterDocument = serde_json::from_value(json!({"scope": "demo", "members": [
        {"name": "pg1", "role": "leader", "state": "running", "api_url": "", "timeline": 2},
        {"name": "pg2", "role": "sync_standby", "state": "streaming", "api_url": "", "timeline": 2, "lag": 5000},
    ]}))
    .expect("a document");
    observed.clusters.insert(name("pg1"), cluster.clone());
    observed.clusters.insert(name("pg2"), cluster);
    for (index, host) in ["e1", "e2", "e3"].into_iter().enumerate() {
        observed.dcs.insert(name(host), Ok(DcsFacts { leader: index == 1, ailment: None }));
    }
    let proxies = vec![proxy("primary", &["pg1"], &["pg2"]), proxy("replica", &["pg2"], &["pg1"])];
    observed.proxies.insert(name("lb"), Ok(proxies));
    observed.vip.insert(name("lb"), Ok(true));
    observed
}

fn problems(change: impl FnOnce(&mut Observed)) -> String {
    let mut observed = well();
    change(&mut observed);
    let status = assess(&topology(), &observed);
    assert_eq!(status.healthy, status.problems.is_empty());
    status.problems.join("\n")
}

/// The exact document of `pgfleet status --format json`.
#[test]
fn a_cluster_that_is_well() {
    let status = assess(&topology(), &well());
    insta::assert_snapshot!(serde_json::to_string_pretty(&status).expect("JSON"), @r#"
    {
      "cluster": "demo",
      "healthy": true,
      "problems": [],
      "pause": false,
      "scheduled_switchover": null,
      "members": [
        {
          "name": "pg1",
          "host": "10.0.0.1",
          "port": 5432,
          "role": "leader",
          "state": "running",
          "timeline": 2,
          "lag_bytes": null,
          "pending_restart": false,
          "pending_restart_reason": {}
        },
        {
          "name": "pg2",
          "host": "10.0.0.2",
          "port": 5432,
          "role": "sync_standby",
          "state": "streaming",
          "timeline": 2,
          "lag_bytes": 10,
          "pending_restart": false,
          "pending_restart_reason": {}
        }
      ],
      "dcs": {
        "kind": "etcd",
        "members": [
          {
            "name": "e1",
            "healthy": true,
            "leader": false
          },
          {
            "name": "e2",
            "healthy": true,
            "leader": true
          },
          {
            "name": "e3",
            "healthy": true,
            "leader": false
          }
        ]
      },
      "haproxy": [
        {
          "name": "lb",
          "host": "10.0.0.9",
          "frontends": [
            {
              "port": 5000,
              "serves": "primary",
              "backends_up": 1
            },
            {
              "port": 5001,
              "serves": "replica",
              "backends_up": 1
            }
          ]
        }
      ],
      "vip": {
        "address": "10.0.0.100",
        "holder": "lb"
      }
    }
    "#);
}

#[test]
fn a_host_that_is_gone_is_one_problem_and_what_follows_from_it() {
    let found = problems(|observed| {
        observed
            .unreachable
            .insert(name("pg2"), ("no route to 10.0.0.2:22".to_owned(), "Is it up?".to_owned()));
        observed
            .unreachable
            .insert(name("e1"), ("no route to 10.0.0.3:22".to_owned(), "Is it up?".to_owned()));
        observed.nodes.remove(&name("pg2"));
        observed.clusters.remove(&name("pg2"));
        observed.dcs.remove(&name("e1"));
        observed.proxies.insert(
            name("lb"),
            Ok(vec![proxy("primary", &["pg1"], &["pg2"]), proxy("replica", &[], &["pg1", "pg2"])]),
        );
    });
    insta::assert_snapshot!(found, @r"
    e1 cannot be reached: no route to 10.0.0.3:22. Is it up?
    pg2 cannot be reached: no route to 10.0.0.2:22. Is it up?
    ");
}

#[test]
fn troubles_of_members_are_told_apart() {
    let role = |observed: &mut Observed, host: &str, role: Role, state: PostgresState| {
        if let Some(Ok(node)) = observed.nodes.get_mut(&name(host)) {
            (node.role, node.state, node.replication_state) = (role, Some(state), None);
        }
    };
    let cases = [
        problems(|o| role(o, "pg1", Role::Replica, PostgresState::Starting)),
        problems(|o| role(o, "pg2", Role::Primary, PostgresState::Running)),
        problems(|o| role(o, "pg2", Role::Replica, PostgresState::CreatingReplica)),
        problems(|o| role(o, "pg2", Role::Replica, PostgresState::StartFailed)),
        problems(|o| role(o, "pg2", Role::Replica, PostgresState::Running)),
        problems(|o| {
            o.nodes.insert(name("pg2"), Err("connection refused".to_owned()));
        }),
        problems(|o| {
            if let Some(Ok(node)) = o.nodes.get_mut(&name("pg2")) {
                node.timeline = Some(1);
            }
        }),
        problems(|o| {
            if let Some(document) = o.clusters.get_mut(&name("pg1")) {
                document.pause = true;
                document.members.push(ClusterMember { name: "pg9".to_owned(), ..ClusterMember::default() });
            }
        }),
    ];
    insta::assert_snapshot!(cases.join("\n--\n"), @r#"
    No member leads, so nothing can be written. Look at the agents' logs with `journalctl -u pgfleet-agent`, and at the DCS below.
    pg1 is still starting. Wait, and ask again.
    --
    pg1 and pg2 say that they lead. Ask again; if it stays, stop PostgreSQL on those that the DCS does not name.
    --
    pg2 is still being copied from the leader. Wait, and ask again.
    --
    pg2 does not replicate: its state is `start failed`. See `journalctl -u pgfleet-agent` there.
    --
    pg2 runs but does not stream from the leader. See its agent's and PostgreSQL's logs for the reason.
    --
    The agent on pg2 does not answer on port 8008: connection refused. See `journalctl -u pgfleet-agent` there.
    --
    pg2 is on timeline 1, the leader on 2. It follows by itself unless its agent's log says why not.
    --
    The cluster is paused: nobody takes over if the leader fails. Resume it with `pgfleet resume`.
    The DCS lists a member `pg9` that the inventory does not have. Add it there, or stop its agent and remove it.
    "#);
}

#[test]
fn troubles_around_the_members_are_told_apart() {
    let cases = [
        problems(|o| {
            for host in ["e1", "e2"] {
                o.dcs.insert(
                    name(host),
                    Ok(DcsFacts { leader: false, ailment: Some("raft no leader".to_owned()) }),
                );
            }
        }),
        problems(|o| {
            o.proxies.insert(name("lb"), Err("code 503".to_owned()));
        }),
        problems(|o| {
            let proxies = vec![proxy("primary", &[], &["pg1"]), proxy("stats", &[], &[])];
            o.proxies.insert(name("lb"), Ok(proxies));
        }),
        problems(|o| {
            o.vip.insert(name("lb"), Ok(false));
        }),
    ];
    insta::assert_snapshot!(cases.join("\n--\n"), @r"
    etcd on e1 is not healthy: raft no leader. See `journalctl -u etcd` there.
    etcd on e2 is not healthy: raft no leader. See `journalctl -u etcd` there.
    etcd has lost its quorum: 1 of 3 members are healthy, 2 are needed. Bring its hosts back; until then nobody can take over.
    --
    HAProxy on lb does not answer on its statistics port 7000: code 503. See `journalctl -u haproxy` there.
    --
    HAProxy on lb sees no primary behind port 5000; its checks say: pg1 DOWN L7STS. Can it reach the agents' REST port?
    HAProxy on lb has no proxy for the replica port 5001. Run `pgfleet apply` to write its configuration.
    --
    No host that answers holds the virtual address 10.0.0.100. See `journalctl -u keepalived` on lb.
    ");
}
