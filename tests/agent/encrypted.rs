//! A cluster in which everything speaks TLS, and nothing else is listened to.

use super::{
    as_postgres,
    cluster::{Cluster, eventually},
};
use nix::sys::signal::Signal;
use std::process::Command;

#[test]
fn a_cluster_with_tls_forms_fails_over_and_takes_its_old_leader_back() {
    let mut cluster = Cluster::encrypted(3);
    let first = cluster.healthy(2);
    let leader = &cluster.nodes[first];
    leader.sql("CREATE TABLE t (x int); INSERT INTO t VALUES (1)").expect("a primary takes writes");
    let streams =
        "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl AND client_dn <> ''";
    assert_eq!(leader.sql(streams).as_deref(), Some("2"), "replicas stream encrypted, with certificates");

    cluster.nodes[first].kill_agent();
    cluster.nodes[first].kill_postmaster();
    let second = cluster.new_leader(first);
    cluster.nodes[second].sql("INSERT INTO t VALUES (3)").expect("a primary takes writes");
    // It comes back with a history of its own.
    let old = &cluster.nodes[first];
    let data = old.folder.join("data").display().to_string();
    as_postgres(&format!("$BIN/pg_ctl -D {data} -w start >/dev/null"));
    old.sql("INSERT INTO t VALUES (99)").expect("nobody fences it yet");
    as_postgres(&format!("$BIN/pg_ctl -D {data} -w -m fast stop >/dev/null"));
    cluster.start_agent(first);
    assert_eq!(cluster.healthy(2), second);
    assert!(cluster.nodes[first].log().contains("Rewind"), "it was rewound");
    let rows = eventually("the new leader's rows", || {
        cluster.nodes[first].sql("SELECT string_agg(x::text, ',' ORDER BY x) FROM t")
    });
    assert_eq!(rows, "1,3");
}

#[test]
fn plain_text_is_refused_and_changes_need_a_certificate() {
    let cluster = Cluster::encrypted(2);
    let leader = &cluster.nodes[cluster.healthy(1)];
    let security = cluster.security.as_ref().expect("an encrypted cluster");

    let plainly = |port: u16| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    for port in [leader.api, cluster.etcd_port] {
        let answer = plainly(port);
        assert!(!answer.contains("200 OK"), "port {port} answers plain text: {answer}");
    }
    let psql = |mode: &str| {
        let conninfo =
            format!("host=127.0.0.1 port={} user=postgres dbname=postgres sslmode={mode}", leader.port);
        let mut command = Command::new("psql");
        command.args(["-XAtqw", "-c", "SELECT 1", &conninfo]).env("PGPASSWORD", "super");
        command.output().expect("psql")
    };
    let refused = psql("disable");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no encryption"), "{refused:?}");
    assert!(psql("require").status.success());

    let patch = |with_certificate| {
        let body = r#"{"postgresql":{"parameters":{"work_mem":"7MB"}}}"#;
        let request =
            format!("PATCH /config HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        security.request(leader.api, request.as_bytes(), with_certificate).expect("an answer")
    };
    let refused = patch(false);
    assert!(refused.contains("403") && refused.ends_with("client certificate required"), "{refused}");
    assert!(patch(true).contains("200 OK"));
    let look = security.request(leader.api, b"GET /primary HTTP/1.0\r\nHost: x\r\n\r\n", false);
    assert!(look.expect("an answer").contains("200 OK"), "who only looks needs no certificate");
    assert_eq!(
        security.request(cluster.etcd_port, b"GET /health HTTP/1.0\r\nHost: x\r\n\r\n", false),
        None,
        "etcd listens to nobody without a certificate"
    );
}

#[test]
fn a_new_certificate_is_taken_up_without_a_restart() {
    let mut cluster = Cluster::encrypted(2);
    let leader = cluster.healthy(1);
    let node = &cluster.nodes[leader];
    let (postmaster, agent) = (node.postmaster(), node.agent.as_ref().map(std::process::Child::id));
    let security = cluster.security.as_ref().expect("an encrypted cluster");
    let ports = [(node.api, false), (node.port, true)];
    let serials = || ports.map(|(port, postgres)| security.serial(port, postgres).expect("a certificate"));
    let before = serials();
    cluster.write_certificate(leader);
    assert_eq!(serials(), before, "nothing is read before it is asked for");
    cluster.nodes[leader].signal_agent(Signal::SIGHUP);
    let security = cluster.security.as_ref().expect("an encrypted cluster");
    for ((port, postgres), before) in ports.into_iter().zip(&before) {
        eventually("the new certificate", || {
            security.serial(port, postgres).filter(|serial| serial != before)
        });
    }
    let node = &cluster.nodes[leader];
    assert_eq!((node.postmaster(), node.agent.as_ref().map(std::process::Child::id)), (postmaster, agent));
    assert_eq!(cluster.healthy(1), leader);
}
