//! The stories of the clusters that people built by hand, told by a program: what their authors showed
//! step by step is done here, and the outcome asserted.

use super::harness::{archive::etcd_archive, lab::Lab, program::eventually};
use std::{net::SocketAddr, time::Duration};

/// A dead host's lease has to end, and a replica to be promoted.
const TAKEOVER: Duration = Duration::from_secs(180);
const REPLICATION: Duration = Duration::from_secs(60);

/// Waits until a query gives these values, one a row.
#[track_caller]
fn reads(lab: &Lab, at: SocketAddr, sql: &str, expected: &[&str]) {
    eventually(&format!("{sql} at {at} gives {expected:?}"), REPLICATION, || {
        let rows = lab.sql(at, sql).ok()?;
        let values: Vec<&str> = rows.iter().filter_map(|row| row.first().map(String::as_str)).collect();
        (values == expected).then_some(())
    });
}

/// Waits until a statement succeeds through an entry point.
#[track_caller]
fn writes(lab: &Lab, at: SocketAddr, sql: &str) {
    eventually(&format!("{sql} at {at}"), TAKEOVER, || lab.sql(at, sql).ok());
}

/// The power of the host that has `who` is cut, the cluster goes on, and the host returns as a replica
/// with what it missed.
fn leader_lost_and_returned(lab: &Lab) {
    let (write, read) = (lab.write_entry(), lab.read_entry());
    lab.sql(write, "CREATE TABLE story (line text)").unwrap();
    lab.sql(write, "INSERT INTO story VALUES ('before')").unwrap();
    reads(lab, read, "SELECT line FROM story", &["before"]);
    let refused = lab.sql(read, "INSERT INTO story VALUES ('never')").unwrap_err();
    assert!(refused.contains("read-only"), "{refused}");

    let first = lab.leader(None);
    lab.scratch.run("kill", &[&first]).success();
    writes(lab, write, "INSERT INTO story VALUES ('while it was away')");
    let second = lab.leader(Some(&first));
    assert_ne!(first, second);

    lab.scratch.run("start", &[&first]).success();
    lab.until_healthy(TAKEOVER);
    assert_eq!(lab.leader(None), second, "who leads goes on leading");
    let returned = lab.postgres(&first);
    reads(lab, returned, "SELECT line FROM story", &["before", "while it was away"]);
    let refused = lab.sql(returned, "INSERT INTO story VALUES ('never')").unwrap_err();
    assert!(refused.contains("read-only"), "{refused}");
}

/// Cluster E: three etcd hosts, three of PostgreSQL 17, one HAProxy; etcd from the distribution.
#[test]
fn seven_machines() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let status = lab.until_healthy(TAKEOVER);
    assert_eq!(status["members"].as_array().unwrap().len(), 3);
    assert_eq!(status["dcs"]["members"].as_array().unwrap().len(), 3);
    let version = lab.sql(lab.write_entry(), "SHOW server_version_num").unwrap();
    assert!(version[0][0].starts_with("17"), "{version:?}");
    lab.pgfleet(&["verify"]).success();
    leader_lost_and_returned(&lab);
}

/// Cluster E again, on PostgreSQL 15 and without TLS, with etcd from an archive: its unit and programs are ours
/// then, and a member that restarts never forms a cluster anew.
#[test]
fn seven_machines_with_etcd_from_an_archive() {
    let (archive, sha256) = etcd_archive();
    let archive = format!("etcd_archive={}", archive.display());
    let sha256 = format!("etcd_archive_sha256={sha256}");
    let vars = ["postgres_version=15", "tls=false", "etcd_install=archive", &archive, &sha256];
    let lab = Lab::bootstrapped_with("demo", "bookworm", &vars);
    let version = lab.sql(lab.write_entry(), "SHOW server_version_num").unwrap();
    assert!(version[0][0].starts_with("15"), "{version:?}");
    for host in ["etcd-1", "etcd-2", "etcd-3"] {
        assert_eq!(lab.scratch.on(host, "dpkg-query -W -f '${Status}' etcd-server || echo absent"), "absent");
        let settings = lab.scratch.on(host, "cat /etc/default/etcd");
        assert!(
            settings.contains("ETCD_INITIAL_CLUSTER_STATE=existing")
                || settings.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""),
            "{settings}"
        );
        lab.scratch.on(host, "systemctl restart etcd");
        lab.until_healthy(TAKEOVER);
    }
    leader_lost_and_returned(&lab);
}

/// Cluster D: two nodes with everything on them, a host that only votes, and an address that moves.
#[test]
fn two_nodes_and_a_virtual_address() {
    let lab = Lab::bootstrapped_with("two-nodes-and-a-vip", "bookworm", &["postgres_version=15"]);
    let entry = lab.write_entry();
    let holder =
        |lab: &Lab| lab.status().and_then(|status| Some(status["vip"]["holder"].as_str()?.to_owned()));
    let held = holder(&lab).expect("the address is held");
    assert_eq!(lab.sql(entry, "SELECT pg_is_in_recovery()").unwrap()[0][0], "f");
    lab.sql(entry, "CREATE TABLE files (name text)").unwrap();

    // A switchover moves the leader, not the address.
    let first = lab.leader(None);
    lab.pgfleet(&["switchover"]).success();
    let second = lab.leader(Some(&first));
    assert_ne!(first, second);
    lab.until_healthy(TAKEOVER);
    assert_eq!(holder(&lab), Some(held.clone()));
    assert_eq!(lab.sql(entry, "SELECT pg_is_in_recovery()").unwrap()[0][0], "f");

    // The holder is shut down: the address moves, and the application goes on writing.
    let writer = lab.writer();
    lab.scratch.run("stop", &[&held]).success();
    let since = std::time::Instant::now();
    writer.acknowledged_since(since, TAKEOVER);
    let other = eventually("the address has moved", TAKEOVER, || holder(&lab).filter(|now| *now != held));
    assert_ne!(other, held);
    drop(writer);

    lab.scratch.run("start", &[&held]).success();
    lab.until_healthy(TAKEOVER);
    let replicas = lab.members("replica");
    assert_eq!(replicas, [held], "the host that was away returns as a replica");
}
