//! Hosts come and go while a client writes: a cluster of three grows and shrinks, dead hosts are replaced,
//! and what would cost the quorum is refused.

use super::harness::{
    lab::Lab,
    program::eventually,
    writer::{ROWS, Writer},
};
use serde_json::Value;
use std::{
    fs,
    time::{Duration, Instant},
};

const HEALTHY: Duration = Duration::from_secs(180);

/// Writes hosts into the inventory, each beside one that is there, and boots them.
pub(super) fn write_in(lab: &Lab, hosts: &[(&str, &str, &str)]) {
    let mut text = fs::read_to_string(lab.inventory()).unwrap();
    for (beside, name, address) in hosts {
        let line =
            text.lines().find(|line| line.trim().starts_with(&format!("{beside}:"))).unwrap().to_owned();
        let indent = &line[..line.len() - line.trim_start().len()];
        text = text.replace(&line, &format!("{line}\n{indent}{name}: {{ansible_host: {address}}}"));
    }
    fs::write(lab.inventory(), text).unwrap();
    boot(lab);
}

/// Writes hosts in the places of others, and boots them.
fn write_in_place(lab: &Lab, hosts: &[(&str, &str, &str)]) {
    let stays = |line: &str| {
        let found = hosts.iter().find(|(old, ..)| line.trim().starts_with(&format!("{old}:")));
        let indent = &line[..line.len() - line.trim_start().len()];
        match found {
            Some((_, name, address)) => format!("{indent}{name}: {{ansible_host: {address}}}\n"),
            None => format!("{line}\n"),
        }
    };
    let text = fs::read_to_string(lab.inventory()).unwrap();
    fs::write(lab.inventory(), text.lines().map(stays).collect::<String>()).unwrap();
    boot(lab);
}

fn boot(lab: &Lab) {
    lab.scratch.run("up", &["-i", &lab.inventory().display().to_string()]).success();
}

/// Takes hosts out of the inventory.
pub(super) fn strike_out(lab: &Lab, hosts: &[&str]) {
    let text = fs::read_to_string(lab.inventory()).unwrap();
    let stays = |line: &&str| !hosts.iter().any(|host| line.trim().starts_with(&format!("{host}:")));
    fs::write(
        lab.inventory(),
        text.lines().filter(stays).map(|line| format!("{line}\n")).collect::<String>(),
    )
    .unwrap();
}

fn names(status: &Value, of: &str) -> Vec<String> {
    let members = if of == "etcd" { &status["dcs"]["members"] } else { &status["members"] };
    members.as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap().to_owned()).collect()
}

/// The members that etcd itself lists.
fn etcd_members(lab: &Lab, through: &str) -> usize {
    let listed = lab.scratch.on(
        through,
        "ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/pgfleet/tls/ca.crt \
         --cert /etc/pgfleet/tls/etcd.crt --key /etc/pgfleet/tls/etcd.key member list | grep -c started",
    );
    listed.parse().unwrap()
}

/// Nothing that was acknowledged to the client is missing.
fn assert_whole(lab: &Lab, writer: Writer) {
    writer.acknowledged_since(Instant::now(), HEALTHY);
    let written = writer.stop();
    let rows = lab.sql(lab.write_entry(), ROWS).unwrap();
    let missing = written.missing_from(&rows);
    assert!(missing.is_empty(), "acknowledged rows are missing: {missing:?}");
}

#[test]
fn three_hosts_grow_to_five_and_shrink_again() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let writer = lab.writer();
    writer.acknowledged_since(Instant::now(), HEALTHY);

    write_in(
        &lab,
        &[
            ("etcd-3", "etcd-5", "10.128.0.33"),
            ("etcd-3", "etcd-4", "10.128.0.32"),
            ("pg-3", "pg-4", "10.128.0.15"),
        ],
    );
    lab.pgfleet(&["add", "etcd-4", "etcd-5", "pg-4"]).success();
    let status = lab.until_healthy(HEALTHY);
    assert_eq!(names(&status, "etcd").len(), 5);
    assert_eq!(names(&status, "postgres").len(), 4);
    assert_eq!(etcd_members(&lab, "etcd-1"), 5);
    let refused = lab.pgfleet(&["add", "pg-4"]).failure(2);
    assert!(refused.contains("`pg-4` is in the cluster already"), "{refused}");
    let again = lab.pgfleet(&["apply", "--format", "json"]).success();
    assert!(!again.contains("\"step\""), "the second run changes nothing: {again}");

    // Who would cost the quorum may not go.
    lab.scratch.run("kill", &["etcd-4", "etcd-5"]).success();
    let refused = lab.pgfleet(&["remove", "etcd-1", "etcd-2"]).failure(1);
    assert!(refused.contains("etcd would be left with 1 healthy members of 3; it needs 2"), "{refused}");
    lab.scratch.run("start", &["etcd-4", "etcd-5"]).success();
    lab.until_healthy(HEALTHY);

    // The leader goes too: another one takes over first.
    let leader = lab.leader(None);
    let leaving = ["etcd-2", "etcd-5", leader.as_str()];
    lab.pgfleet(&["remove", leaving[0], leaving[1], leaving[2]]).success();
    strike_out(&lab, &leaving);
    let status = lab.until_healthy(HEALTHY);
    assert_eq!(names(&status, "etcd"), ["etcd-1", "etcd-3", "etcd-4"]);
    assert!(!names(&status, "postgres").contains(&leader));
    assert_eq!(etcd_members(&lab, "etcd-1"), 3);
    assert_eq!(lab.scratch.on(&leader, "systemctl is-active pgfleet-agent || true"), "inactive");
    assert_eq!(lab.scratch.on(&leader, "pgrep -x postgres || true"), "");
    assert_whole(&lab, writer);
}

#[test]
fn dead_hosts_are_replaced() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let writer = lab.writer();
    writer.acknowledged_since(Instant::now(), HEALTHY);
    let leader = lab.leader(None);
    lab.scratch.run("kill", &[&leader, "etcd-3"]).success();
    lab.leader(Some(&leader));

    // In the inventory, new hosts stand in the places of the dead ones.
    write_in_place(&lab, &[("etcd-3", "etcd-4", "10.128.0.32"), (&leader, "pg-4", "10.128.0.15")]);
    // The sandbox has booted the dead ones again, too; they are to stay dead.
    lab.scratch.run("kill", &[&leader, "etcd-3"]).success();
    lab.pgfleet(&["replace", "etcd-3", "etcd-4"]).success();
    lab.pgfleet(&["replace", &leader, "pg-4"]).success();
    let status = lab.until_healthy(HEALTHY);
    assert_eq!(names(&status, "etcd"), ["etcd-1", "etcd-2", "etcd-4"]);
    assert!(names(&status, "postgres").contains(&"pg-4".to_owned()));
    assert_eq!(etcd_members(&lab, "etcd-1"), 3);
    assert_whole(&lab, writer);
}

#[test]
fn a_cluster_ends_when_its_name_is_given() {
    let lab = Lab::bootstrapped("single", "trixie");
    let refused = lab.pgfleet(&["destroy"]).failure(2);
    assert!(refused.contains("--confirm NAME"), "{refused}");
    let cluster = lab.loaded().cluster.to_string();
    lab.pgfleet(&["destroy", "--confirm", &cluster]).success();
    let host = lab.loaded().hosts.keys().next().unwrap().to_string();
    eventually("nothing of it runs", HEALTHY, || {
        let left = lab.scratch.on(&host, "pgrep -x 'postgres|etcd|pgfleet|haproxy' || true");
        left.is_empty().then_some(())
    });
    let data = lab.scratch.on(&host, "ls /var/lib/postgresql/*/*/PG_VERSION");
    assert!(!data.is_empty(), "the data stay");
}
