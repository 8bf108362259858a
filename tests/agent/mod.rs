//! Agents with real PostgreSQL and real etcd on this machine: what happens to a cluster, and what must
//! not happen to it meanwhile.

mod cluster;
mod encrypted;
mod operator;
mod security;

use cluster::{Cluster, eventually};
use nix::sys::signal::Signal;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[test]
fn a_cluster_forms_loses_a_node_and_takes_it_back() {
    let mut cluster = Cluster::start(3, "");
    let first = cluster.healthy(2);
    cluster.nodes[first]
        .sql("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
        .expect("a primary takes writes");
    for node in cluster.nodes.iter().filter(|node| node.name != cluster.nodes[first].name) {
        eventually("the row on a replica", || node.sql("SELECT x FROM t").filter(|rows| rows == "1"));
        assert_eq!(node.sql("INSERT INTO t VALUES (2)"), None, "a replica refuses writes");
    }

    // The node is gone as if it had lost power.
    cluster.nodes[first].kill_agent();
    cluster.nodes[first].kill_postmaster();
    let second = cluster.new_leader(first);
    assert_eq!(
        cluster.nodes[second].sql("INSERT INTO t VALUES (3); SELECT count(*) FROM t").as_deref(),
        Some("2")
    );
    assert_eq!(cluster.nodes[second].status()["timeline"], 2);

    // It comes back with a history of its own, written while nobody looked.
    let old = &cluster.nodes[first];
    let data = old.folder.join("data").display().to_string();
    as_postgres(&format!("$BIN/pg_ctl -D {data} -w start >/dev/null"));
    old.sql("INSERT INTO t VALUES (99)").expect("nobody fences it yet");
    as_postgres(&format!("$BIN/pg_ctl -D {data} -w -m fast stop >/dev/null"));
    cluster.start_agent(first);
    assert_eq!(cluster.healthy(2), second);
    let old = &cluster.nodes[first];
    let rows =
        eventually("the new leader's rows", || old.sql("SELECT string_agg(x::text, ',' ORDER BY x) FROM t"));
    assert_eq!(rows, "1,3", "what was written apart is gone, what was written since is there");
    assert!(old.log().contains("Rewind"), "it was rewound rather than copied");
    let history = cluster.nodes[second].request("GET", "/history", "").expect("an answer").1;
    assert_eq!(history[0][0], 1);
    assert_eq!(history[0][4], cluster.nodes[second].name);
}

#[test]
fn postgres_never_notices_a_new_agent() {
    let mut cluster = Cluster::start(2, "");
    let leader = cluster.healthy(1);
    let postmaster = cluster.nodes[leader].postmaster().expect("it runs");
    let term = lease_term(&cluster.nodes[leader]);
    for how in [Signal::SIGKILL, Signal::SIGUSR1] {
        cluster.nodes[leader].signal_agent(how);
        cluster.nodes[leader].await_agent();
        assert_eq!(cluster.nodes[leader].postmaster(), Some(postmaster), "{how} ends the agent alone");
        cluster.start_agent(leader);
        assert_eq!(cluster.healthy(1), leader);
        assert_eq!(cluster.nodes[leader].postmaster(), Some(postmaster));
        assert_eq!(lease_term(&cluster.nodes[leader]), term, "the key was kept, not taken anew");
    }
    assert_eq!(cluster.nodes[leader].status()["timeline"], 1);

    // Its successor is not back in time: what watches over PostgreSQL ends it.
    let config = cluster.nodes[leader].folder.join("config.yml");
    let sampler = Sampler::begin(&cluster);
    cluster.nodes[leader].kill_agent();
    let fence = cluster.command(&["agent", "fence"], &config).status().expect("the fence");
    assert!(fence.success());
    assert_eq!(cluster.nodes[leader].postmaster(), Some(postmaster), "the lease still lasts");
    cluster.new_leader(leader);
    assert_eq!(cluster.nodes[leader].postmaster(), None, "nothing writes without a lease");
    sampler.end();
}

#[test]
fn a_switchover_and_an_orderly_end_hand_over_at_once() {
    let mut cluster = Cluster::start(3, "");
    let first = cluster.healthy(2);
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let candidate = (first + 1) % 3;
    let sampler = Sampler::begin(&cluster);
    let body = format!(r#"{{"leader":"{}","candidate":"{}"}}"#, names[first], names[candidate]);
    let (status, text) = cluster.nodes[first].request("POST", "/switchover", &body).expect("an answer");
    assert_eq!(
        (status, text),
        (200, format!("Successfully switched over to \"{}\"", names[candidate]).into())
    );
    assert_eq!(cluster.healthy(2), candidate, "and the old leader follows without repair");
    assert!(!cluster.nodes[first].log().contains("Rewind"));

    // Restart and configuration go through the API too.
    let (status, _) = cluster.nodes[candidate].request("POST", "/restart", "{}").expect("an answer");
    assert_eq!(status, 200);
    assert_eq!(cluster.healthy(2), candidate, "a restart doesn't move the leader");
    let patch = r#"{"postgresql":{"parameters":{"work_mem":"7MB"}}}"#;
    let (status, _) = cluster.nodes[first].request("PATCH", "/config", patch).expect("an answer");
    assert_eq!(status, 200);
    for node in &cluster.nodes {
        eventually("the new setting", || node.sql("SHOW work_mem").filter(|value| value == "7MB"));
    }

    cluster.nodes[candidate].signal_agent(Signal::SIGTERM);
    assert!(cluster.nodes[candidate].await_agent().success());
    assert_eq!(cluster.nodes[candidate].postmaster(), None, "PostgreSQL is shut down");
    let third = cluster.new_leader(candidate);
    assert!(cluster.nodes[third].log().contains("leader key"));
    sampler.end();
}

#[test]
fn a_leader_cut_off_from_the_store_stops_before_another_writes() {
    let cluster = Cluster::start(3, "");
    let first = cluster.healthy(2);
    let sampler = Sampler::begin(&cluster);
    cluster.nodes[first].cut_store(true);
    let second = cluster.new_leader(first);
    assert!(cluster.nodes[first].log().contains("rule=\"fence\""), "the old leader fenced itself");
    cluster.nodes[first].cut_store(false);
    assert_eq!(cluster.healthy(2), second);

    // Everybody is cut off: nobody writes, and afterwards somebody does again.
    cluster.nodes.iter().for_each(|node| node.cut_store(true));
    eventually("no primary at all", || cluster.leader().is_none().then_some(()));
    cluster.nodes.iter().for_each(|node| node.cut_store(false));
    cluster.healthy(2);
    sampler.end();
}

#[test]
fn data_that_are_there_become_the_cluster() {
    let mut cluster = Cluster::prepare(2, "");
    let data = cluster.nodes[0].folder.join("data").display().to_string();
    as_postgres(&format!("$BIN/initdb -D {data} -A trust -U postgres >/dev/null"));
    let socket = cluster.nodes[0].folder.display().to_string();
    let port = cluster.nodes[0].port;
    as_postgres(&format!(
        "$BIN/pg_ctl -D {data} -w -o '-p {port} -k {socket} -h 127.0.0.1' -l {data}/log start >/dev/null"
    ));
    cluster.nodes[0].sql("CREATE TABLE t (x int); INSERT INTO t VALUES (7)").expect("it runs");
    let postmaster = cluster.nodes[0].postmaster().expect("it runs");
    cluster.start_agent(0);
    eventually("the leader that was there", || cluster.leader());
    assert_eq!(cluster.nodes[0].postmaster(), Some(postmaster), "it was adopted as it ran");
    cluster.start_agent(1);
    // What was started by hand may lack what replication needs; a restart under the agent brings it.
    let (status, text) = cluster.nodes[0].request("POST", "/restart", "{}").expect("an answer");
    assert_eq!(status, 200, "{text}");
    assert_eq!(cluster.healthy(1), 0);
    assert_eq!(cluster.nodes[1].sql("SELECT x FROM t").as_deref(), Some("7"));
}

#[test]
fn a_crashed_leader_hands_over_to_a_standby_that_has_everything() {
    let cluster = Cluster::start(2, "");
    let first = cluster.healthy(1);
    cluster.nodes[first].sql("CREATE TABLE t (x int)").expect("a primary takes writes");
    let other = &cluster.nodes[1 - first];
    eventually("the table on the replica", || other.sql("SELECT count(*) FROM t"));
    let sampler = Sampler::begin(&cluster);
    // The quiet moment that it takes for the replica to have all of it.
    eventually("a handover", || {
        let leader = cluster.leader()?;
        cluster.nodes[leader].kill_postmaster();
        cluster.healthy(1);
        cluster.nodes[first].log().contains("crash-handover").then_some(())
    });
    sampler.end();
}

#[test]
fn synchronous_commits_survive_crashes() {
    let cluster = Cluster::start(3, "    synchronous_mode: true");
    let first = cluster.healthy(2);
    cluster.nodes[first].sql("CREATE TABLE t (x int)").expect("a primary takes writes");
    let synchronous = |cluster: &Cluster| cluster.nodes.iter().any(|node| node.check("/sync"));
    eventually("a synchronous standby", || synchronous(&cluster).then_some(()));
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for _ in 0..2 {
        let leader = cluster.healthy(2);
        eventually("a synchronous standby", || synchronous(&cluster).then_some(()));
        for turn in 0..30 {
            next += 1;
            if cluster.nodes[leader].sql(&format!("INSERT INTO t VALUES ({next})")).is_some() {
                acknowledged.push(next.to_string());
            }
            if turn == 10 {
                cluster.nodes[leader].kill_postmaster();
            }
        }
    }
    let leader = cluster.healthy(2);
    assert!(cluster.nodes[leader].status()["timeline"].as_u64() > Some(1), "the key was handed over");
    let rows = cluster.nodes[leader].sql("SELECT x FROM t").expect("an answer");
    let rows: Vec<&str> = rows.lines().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|row| !rows.contains(&row.as_str())).collect();
    assert!(acknowledged.len() >= 20, "too few commits to say anything: {}", acknowledged.len());
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// Runs a shell script as user `postgres`; `$BIN` is where PostgreSQL is.
fn as_postgres(script: &str) {
    let script = format!("cd /; BIN=$(ls -d /usr/lib/postgresql/*/bin | sort | tail -1); {script}");
    let status =
        std::process::Command::new("runuser").args(["-u", "postgres", "--", "sh", "-c", &script]).status();
    assert!(status.expect("runuser").success(), "{script}");
}

fn lease_term(node: &cluster::Node) -> serde_json::Value {
    let text = std::fs::read_to_string(node.folder.join(".data.lease")).expect("a leader leaves its lease");
    serde_json::from_str::<serde_json::Value>(&text).expect("a document")["term"].clone()
}

/// A write that was acknowledged: when it was made, on which timeline, by which node.
type Write = (u64, u32, usize);

/// Writes to all nodes again and again, and judges what was acknowledged.
struct Sampler {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Vec<Write>>>,
}

impl Sampler {
    fn begin(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let leader = cluster.leader().expect("a leader at first");
        cluster.nodes[leader]
            .sql("CREATE TABLE IF NOT EXISTS sampled (x int)")
            .expect("a primary takes writes");
        let write = "INSERT INTO sampled VALUES (1) RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint, \
                     ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";
        let threads = cluster
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| {
                let (folder, port, stopped) = (node.folder.clone(), node.port, Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut writes = Vec::new();
                    while !stopped.load(Ordering::SeqCst) {
                        let answer = cluster::sql(&folder, port, write);
                        let fields = answer.as_deref().and_then(|answer| answer.split_once('|'));
                        if let Some((Ok(at), Ok(timeline))) =
                            fields.map(|(at, line)| (at.parse(), line.parse()))
                        {
                            writes.push((at, timeline, index));
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    writes
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// Nobody wrote to an older timeline after somebody wrote to a newer one, and no timeline had two
    /// writers: never were two nodes writable.
    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        let mut writes: Vec<Write> =
            self.threads.into_iter().flat_map(|thread| thread.join().expect("the writes")).collect();
        writes.sort_unstable();
        assert!(writes.len() > 1, "only {} writes were sampled", writes.len());
        for pair in writes.windows(2) {
            let ((_, before, first), (_, after, second)) = (pair[0], pair[1]);
            assert!(
                before < after || (before, first) == (after, second),
                "two primaries: {:?} then {:?}",
                pair[0],
                pair[1]
            );
        }
    }
}
