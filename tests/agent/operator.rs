//! What operators do to a running cluster: pause it, name a leader, restart, copy anew; and the marks that
//! runs leave on it.

use super::{
    as_postgres,
    cluster::{Cluster, Node, eventually},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Asks for a change, and expects this code.
fn ask(node: &Node, method: &str, path: &str, body: Value, expected: u16) -> Value {
    let (status, said) = node.request(method, path, &body.to_string()).expect("an answer");
    assert_eq!(status, expected, "{method} {path} {body}: {said}");
    said
}

fn pause(cluster: &Cluster, through: usize, paused: bool) {
    let wanted = if paused { json!(true) } else { Value::Null };
    ask(&cluster.nodes[through], "PATCH", "/config", json!({"pause": wanted}), 200);
    for node in cluster.nodes.iter().filter(|node| node.agent.is_some()) {
        eventually("all know of the pause", || {
            (node.status()["pause"] == json!(true)).eq(&paused).then_some(())
        });
    }
}

fn rounds(node: &Node) -> u64 {
    let (_, metrics) = node.request("GET", "/metrics", "").expect("metrics");
    let text = metrics.as_str().expect("text");
    let line = text.lines().find(|line| line.starts_with("pgfleet_loops_total")).expect("the rounds");
    line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}

/// The agents know that nobody leads, and have thought about it.
fn stays_without_leader(cluster: &Cluster, nodes: &[usize]) {
    for index in nodes {
        let node = &cluster.nodes[*index];
        eventually("the key is gone", || {
            node.status()["cluster_unlocked"].as_bool().filter(|unlocked| *unlocked)
        });
        let before = rounds(node);
        eventually("some rounds", || (rounds(node) > before + 6).then_some(()));
        assert!(node.status()["cluster_unlocked"] == json!(true), "{} or another leads", node.name);
    }
    assert_eq!(cluster.leader(), None);
}

fn member(through: &Node, name: &str) -> Value {
    let (_, cluster) = through.request("GET", "/cluster", "").expect("an answer");
    let members = cluster["members"].as_array().expect("members");
    members.iter().find(|member| member["name"] == json!(name)).cloned().unwrap_or_default()
}

#[test]
fn a_paused_cluster_is_left_alone_until_it_is_resumed() {
    let mut cluster = Cluster::start(3, "");
    let first = cluster.healthy(2);
    let others = [(first + 1) % 3, (first + 2) % 3];
    pause(&cluster, others[0], true);
    let (_, shown) = cluster.nodes[first].request("GET", "/cluster", "").expect("an answer");
    assert_eq!(shown["pause"], json!(true));

    // Nobody takes over, and nobody starts it.
    cluster.nodes[first].kill_postmaster();
    stays_without_leader(&cluster, &[first, others[0], others[1]]);
    assert_eq!(cluster.nodes[first].postmaster(), None);
    assert_eq!(member(&cluster.nodes[others[0]], &cluster.nodes[first].name)["state"], json!("stopped"));

    // Started through the API, each comes back as what it was.
    cluster.nodes[others[1]].kill_postmaster();
    for index in [first, others[1]] {
        let node = &cluster.nodes[index];
        eventually("it is down", || (node.status()["state"] == json!("stopped")).then_some(()));
        ask(node, "POST", "/restart", json!({}), 200);
    }
    assert_eq!(cluster.healthy(2), first);
    assert_eq!(cluster.nodes[first].status()["timeline"], 1);

    // Started by hand, it is accepted as the leader again.
    cluster.nodes[first].kill_postmaster();
    stays_without_leader(&cluster, &[first]);
    let data = cluster.nodes[first].folder.join("data").display().to_string();
    as_postgres(&format!("$BIN/pg_ctl -D {data} -w start >/dev/null"));
    assert_eq!(cluster.healthy(2), first);
    assert_eq!(cluster.nodes[first].status()["timeline"], 1);

    // The agent's end leaves PostgreSQL alone; so does what watches over it.
    let postmaster = cluster.nodes[first].postmaster().expect("it runs");
    cluster.nodes[first].signal_agent(Signal::SIGTERM);
    assert!(cluster.nodes[first].await_agent().success());
    let config = cluster.nodes[first].folder.join("config.yml");
    assert!(cluster.command(&["agent", "fence", "--guard"], &config).status().expect("the fence").success());
    stays_without_leader(&cluster, &others);
    assert_eq!(cluster.nodes[first].postmaster(), Some(postmaster));
    cluster.start_agent(first);
    assert_eq!(cluster.healthy(2), first);

    // So does the end of the store, for longer than a lease.
    let term = |cluster: &Cluster| {
        let text = std::fs::read_to_string(cluster.nodes[first].folder.join(".data.lease")).ok()?;
        serde_json::from_str::<Value>(&text).ok().map(|lease| lease["term"].clone())
    };
    let before = term(&cluster);
    cluster.nodes.iter().for_each(|node| node.cut_store(true));
    stays_unlocked_but_writes(&cluster.nodes[first]);
    cluster.nodes.iter().for_each(|node| node.cut_store(false));
    eventually("the key is taken again", || term(&cluster).filter(|now| Some(now) != before.as_ref()));
    assert_eq!(cluster.healthy(2), first);
    assert_eq!(cluster.nodes[first].postmaster(), Some(postmaster), "PostgreSQL never noticed");
    eventually("all are members again", || {
        let (_, shown) = cluster.nodes[first].request("GET", "/cluster", "")?;
        (shown["members"].as_array()?.len() == 3).then_some(())
    });

    // What an operator asks for is done, and the old leader follows.
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let body = json!({"leader": names[first], "candidate": names[others[0]]});
    ask(&cluster.nodes[first], "POST", "/switchover", body, 200);
    assert_eq!(cluster.healthy(2), others[0]);

    // The end of the pause sets everything right.
    cluster.nodes[others[0]].kill_postmaster();
    stays_without_leader(&cluster, &[first, others[1]]);
    pause(&cluster, first, false);
    cluster.healthy(2);
}

fn stays_unlocked_but_writes(node: &Node) {
    eventually("the store is away", || {
        node.status()["cluster_unlocked"].as_bool().filter(|unlocked| *unlocked)
    });
    assert!(node.check("/primary"), "in a pause the role counts");
    node.sql("CREATE TABLE IF NOT EXISTS meanwhile (x int); INSERT INTO meanwhile VALUES (1)")
        .expect("a write");
}

#[test]
fn a_failover_goes_to_the_candidate_that_is_named() {
    let mut cluster = Cluster::start(3, "");
    let first = cluster.healthy(2);
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    ask(&cluster.nodes[third], "POST", "/failover", json!({}), 400);
    ask(&cluster.nodes[third], "POST", "/failover", json!({"candidate": "nobody"}), 412);
    let said = ask(&cluster.nodes[third], "POST", "/failover", json!({"candidate": names[second]}), 200);
    assert_eq!(said, json!(format!("Successfully failed over to \"{}\"", names[second])));
    assert_eq!(cluster.healthy(2), second);

    // A schedule can be seen and struck off.
    let later = json!({"leader": names[second], "scheduled_at": "2099-01-01T00:00:00+00:00"});
    ask(&cluster.nodes[third], "POST", "/switchover", later, 202);
    let shown = || cluster.nodes[first].request("GET", "/cluster", "").map(|(_, cluster)| cluster);
    let scheduled = eventually("the schedule", || {
        shown().map(|cluster| cluster["scheduled_switchover"].clone()).filter(|schedule| !schedule.is_null())
    });
    assert_eq!(scheduled["from"], json!(names[second]));
    ask(&cluster.nodes[first], "DELETE", "/switchover", json!({}), 200);
    eventually("no schedule", || {
        shown().filter(|cluster| cluster["scheduled_switchover"].is_null()).map(drop)
    });
    ask(&cluster.nodes[first], "DELETE", "/switchover", json!({}), 404);

    // Nobody leads, and nobody would: the operator's word is enough.
    pause(&cluster, third, true);
    cluster.nodes[second].kill_agent();
    cluster.nodes[second].kill_postmaster();
    stays_without_leader(&cluster, &[first, third]);
    let said = ask(&cluster.nodes[first], "POST", "/failover", json!({"candidate": names[third]}), 200);
    assert_eq!(said, json!(format!("Successfully failed over to \"{}\"", names[third])));
    // The other one may have had more of the dead primary's WAL, and nobody is rewound in a pause.
    eventually("the candidate leads", || cluster.leader().filter(|leader| *leader == third));
    pause(&cluster, third, false);
    cluster.start_agent(second);
    assert_eq!(cluster.healthy(2), third);
}

#[test]
fn a_replica_is_copied_anew_when_that_is_asked_for() {
    let cluster = Cluster::start(2, "");
    let first = cluster.healthy(1);
    let (leader, replica) = (&cluster.nodes[first], &cluster.nodes[1 - first]);
    leader.sql("CREATE TABLE t (x int); INSERT INTO t VALUES (1)").expect("a primary takes writes");
    let said = ask(leader, "POST", "/reinitialize", json!({}), 503);
    assert_eq!(said, json!("I am the leader, can not reinitialize"));

    let marker = replica.folder.join("data/marker");
    std::fs::write(&marker, "of the old copy").expect("a file");
    let said = ask(replica, "POST", "/reinitialize", json!({"from_leader": true}), 200);
    assert_eq!(said, json!("reinitialize started"));
    // On a small cluster the copy may be there before anybody has looked.
    eventually("its state says so", || {
        let state = member(leader, &replica.name)["state"].clone();
        (state == json!("creating replica") || !marker.exists()).then_some(())
    });
    let rows = || replica.sql("SELECT x FROM t").filter(|rows| rows == "1").filter(|_| !marker.exists());
    eventually("a new copy", rows);
    assert_eq!(cluster.healthy(1), first);

    // Data that cannot be started from are the reason why one asks.
    std::fs::remove_file(replica.folder.join("data/global/pg_control")).expect("a file");
    replica.kill_postmaster();
    std::fs::write(&marker, "of the damaged copy").expect("a file");
    eventually("it is down", || replica.postmaster().is_none().then_some(()));
    ask(replica, "POST", "/reinitialize", json!({}), 200);
    eventually("a new copy", rows);
    assert_eq!(cluster.healthy(1), first);
}

#[test]
fn limits_go_up_on_standbys_first_and_down_on_the_primary_first() {
    let cluster = Cluster::start(2, "");
    let first = cluster.healthy(1);
    let (primary, standby) = (&cluster.nodes[first], &cluster.nodes[1 - first]);
    let limit = |node: &Node| node.sql("SHOW max_connections").unwrap_or_default();
    let set = |value: Value, old: &str, new: &str| {
        let patch = json!({"postgresql": {"parameters": {"max_connections": value}}});
        ask(primary, "PATCH", "/config", patch, 200);
        let reason = json!({"max_connections": {"old_value": old, "new_value": new}});
        for node in [primary, standby] {
            eventually("a restart is pending, and why", || {
                let (own, seen) = (node.status(), member(primary, &node.name));
                let told = |document: &Value| {
                    document["pending_restart"] == json!(true) && document["pending_restart_reason"] == reason
                };
                (told(&own) && told(&seen)).then_some(())
            });
        }
    };
    let restart = |node: &Node| {
        ask(node, "POST", "/restart", json!({"restart_pending": true, "timeout": 60}), 200);
        assert_eq!(cluster.healthy(1), first, "a restart moves no leader and loses no standby");
    };
    let caught_up = || {
        let end = primary.sql("SELECT pg_current_wal_lsn()").expect("an answer");
        let query = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        eventually("the standby has replayed it", || standby.sql(&query).filter(|answer| answer == "t"));
    };
    let settled = |value: &str| {
        for node in [primary, standby] {
            assert_eq!(limit(node), value);
            eventually("nothing is pending", || {
                (node.status()["pending_restart"].is_null()
                    && member(primary, &node.name)["pending_restart"].is_null())
                .then_some(())
            });
        }
    };

    set(json!(60), "40", "60");
    ask(standby, "POST", "/restart", json!({"role": "primary"}), 503);
    restart(standby);
    assert_eq!(limit(standby), "60");
    restart(primary);
    settled("60");
    ask(primary, "POST", "/restart", json!({"restart_pending": true}), 503);

    set(json!(30), "60", "30");
    // Too early: it comes up all the same, with what its primary has.
    restart(standby);
    assert_eq!((limit(standby).as_str(), standby.status()["pending_restart"].clone()), ("60", json!(true)));
    restart(primary);
    caught_up();
    restart(standby);
    settled("30");

    // What is taken out of the configuration goes back to its default.
    set(Value::Null, "30", "100");
    restart(standby);
    restart(primary);
    settled("100");

    let later = json!({"schedule": "2099-01-01T00:00:00+00:00", "role": "replica"});
    ask(standby, "POST", "/restart", later.clone(), 202);
    ask(standby, "POST", "/restart", later, 409);
    eventually("the schedule", || {
        member(primary, &standby.name)["scheduled_restart"]["schedule"].is_string().then_some(())
    });
    ask(standby, "DELETE", "/restart", json!({}), 200);
    ask(standby, "DELETE", "/restart", json!({}), 404);
    let postmaster = standby.postmaster();
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    ask(standby, "POST", "/restart", json!({"schedule": soon.to_string()}), 202);
    eventually("the restart at its time", || standby.postmaster().filter(|now| Some(*now) != postmaster));
    assert_eq!(cluster.healthy(1), first);
}

#[test]
fn a_runs_marks_end_with_their_lease() {
    let mut cluster = Cluster::start(2, "");
    let first = cluster.healthy(1);
    let name = cluster.nodes[1 - first].name.clone();
    let mark = json!({"by": "a test", "reason": "none", "drain": true});
    let lease = cluster.mark(&name, &mark, 600);
    let replica = &cluster.nodes[1 - first];
    eventually("it gets no readers", || (!replica.check("/replica")).then_some(()));
    assert!(replica.check("/health"));
    let body = json!({"leader": cluster.nodes[first].name, "candidate": name});
    ask(&cluster.nodes[first], "POST", "/switchover", body, 412);
    cluster.revoke(&lease);
    eventually("it gets readers again", || replica.check("/replica").then_some(()));

    let lease = cluster.mark(&name, &json!({"by": "a test", "reason": "none", "nofailover": true}), 600);
    cluster.nodes[first].kill_agent();
    cluster.nodes[first].kill_postmaster();
    stays_without_leader(&cluster, &[1 - first]);
    cluster.revoke(&lease);
    assert_eq!(cluster.new_leader(first), 1 - first);
}
