//! Changes of a running cluster under a client that writes through the entry point the whole time: what
//! restarts, in which order, for how long nobody can write, and whether the report tells the truth.

use super::harness::{
    lab::Lab,
    writer::{ROWS, Written},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// What the report says of an interruption may differ by this from what a client of its own saw.
const AGREEMENT_MS: u128 = 100;

const MEMBERS: [&str; 3] = ["pg-1", "pg-2", "pg-3"];

/// Parameters as an extra variable.
fn parameters(max_connections: u32, work_mem: &str) -> String {
    format!(
        "{{\"postgres_parameters\": {{\"max_connections\": {max_connections}, \"shared_buffers\": \"128MB\", \
         \"work_mem\": \"{work_mem}\"}}}}"
    )
}

/// `pgfleet apply` while a client writes: the report, and what the client saw.
#[track_caller]
fn apply(lab: &Lab, variables: &str) -> (Value, Written) {
    let writer = lab.writer();
    let report = lab.pgfleet(&["apply", "--format", "json", "-e", variables]).success();
    let written = writer.stop();
    let rows = lab.sql(lab.write_entry(), ROWS).unwrap();
    assert_eq!(written.missing_from(&rows), Vec::<i64>::new(), "acknowledged rows are lost");
    (serde_json::from_str(&report).unwrap(), written)
}

/// When each member's postmaster was started.
fn starts(lab: &Lab) -> BTreeMap<&'static str, String> {
    let start = |host: &'static str| {
        let rows = lab.sql(lab.postgres(host), "SELECT pg_postmaster_start_time()").unwrap();
        (host, rows[0][0].clone())
    };
    MEMBERS.into_iter().map(start).collect()
}

fn kinds(report: &Value) -> Vec<String> {
    let steps = report["restarts"]["steps"].as_array().unwrap_or_else(|| panic!("no restarts: {report:#}"));
    steps.iter().map(|step| step["kind"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn everywhere(lab: &Lab, setting: &str, value: &str) {
    for host in MEMBERS {
        let rows = lab.sql(lab.postgres(host), &format!("SHOW {setting}")).unwrap();
        assert_eq!(rows[0][0], value, "{setting} on {host}");
        let pending = "SELECT count(*) FROM pg_settings WHERE pending_restart";
        assert_eq!(lab.sql(lab.postgres(host), pending).unwrap()[0][0], "0", "{host}");
    }
}

/// The report's interruption is the client's.
#[track_caller]
fn interruption(report: &Value, written: &Written) {
    let told = report["restarts"]["writes_interrupted_ms"].as_u64().expect("a measured interruption");
    let seen = written.longest_gap().as_millis();
    println!("told {told} ms, the client saw {seen} ms");
    assert!(u128::from(told).abs_diff(seen) <= AGREEMENT_MS, "told {told} ms, the client saw {seen} ms");
}

#[track_caller]
fn changes_nothing(lab: &Lab, variables: &str) {
    let report = lab.pgfleet(&["apply", "--format", "json", "-e", variables]).success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let changes =
        report["hosts"].as_object().unwrap().values().map(|host| host["changes"].as_array().unwrap().len());
    assert_eq!((changes.sum::<usize>(), &report["restarts"]), (0, &Value::Null), "{report:#}");
}

#[test]
fn settings_change_under_a_client_that_writes() {
    let lab = Lab::bootstrapped("demo", "trixie");

    // In force by a reload: nothing restarts, and no write fails.
    let before = starts(&lab);
    let (report, written) = apply(&lab, &parameters(200, "13MB"));
    assert_eq!(report["restarts"], Value::Null, "{report:#}");
    assert_eq!(written.failed, [], "{report:#}");
    assert_eq!(starts(&lab), before);
    everywhere(&lab, "work_mem", "13MB");

    // More: standbys first, then one of them takes over, then the old primary.
    let first = lab.leader(None);
    let (report, written) = apply(&lab, &parameters(300, "13MB"));
    assert_eq!(kinds(&report), ["standby", "standby", "switchover", "former_primary"]);
    interruption(&report, &written);
    everywhere(&lab, "max_connections", "300");
    let second = lab.leader(Some(&first));
    changes_nothing(&lab, &parameters(300, "13MB"));

    // Less: the primary first, in place, then the standbys; who leads goes on leading.
    let (report, written) = apply(&lab, &parameters(250, "13MB"));
    assert_eq!(kinds(&report), ["primary", "standby_after_primary", "standby_after_primary"]);
    interruption(&report, &written);
    everywhere(&lab, "max_connections", "250");
    assert_eq!(lab.leader(None), second);
    changes_nothing(&lab, &parameters(250, "13MB"));
    lab.until_healthy(std::time::Duration::from_secs(30));
}

#[test]
fn restarts_wait_stop_and_go_on() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let more = parameters(300, "4MB");

    // Left for later, and shown until then.
    let before = starts(&lab);
    let ran = lab.pgfleet(&["apply", "--no-restart", "-e", &more]);
    assert!(ran.stderr.contains("pgfleet restart --pending"), "{ran}");
    assert_eq!(starts(&lab), before);
    let status = lab.pgfleet(&["status"]).success();
    assert!(status.contains("waits for a restart: max_connections (200 -> 300)"), "{status}");

    // A cluster whose store is not whole is left alone.
    lab.scratch.on("etcd-3", "systemctl stop etcd");
    let ran = lab.pgfleet(&["restart", "--pending"]);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.stderr.contains("etcd on etcd-3 is not healthy"), "{ran}");
    assert_eq!(starts(&lab), before);
    lab.scratch.on("etcd-3", "systemctl start etcd");
    lab.until_healthy(std::time::Duration::from_secs(60));

    // One by name, which takes nobody else along.
    let standby = lab.members("replica").remove(0);
    lab.pgfleet(&["restart", &standby]).success();
    let after = starts(&lab);
    let moved: Vec<&str> = MEMBERS.into_iter().filter(|host| after[host] != before[host]).collect();
    assert_eq!(moved, [standby.as_str()]);

    // No pause at all is allowed, not even the probe's own between two writes: nothing is begun.
    let ran = lab.pgfleet(&["restart", "--pending", "--max-write-gap", "0", "--format", "json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran}"));
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(report["stopped"]["why"].as_str().unwrap().contains("--max-write-gap"), "{report:#}");
    assert_eq!(starts(&lab), after);
    lab.pgfleet(&["restart", "--pending"]).success();
    everywhere(&lab, "max_connections", "300");
    let ran = lab.pgfleet(&["restart", "--pending"]);
    assert!(ran.code == Some(0) && ran.stderr.contains("Nothing waits for a restart"), "{ran}");
}

/// The members of etcd in the order in which their units were started, and the one that leads.
fn store(lab: &Lab) -> (Vec<String>, String) {
    let status = lab.status().expect("a status");
    let members = status["dcs"]["members"].as_array().unwrap();
    let name = |member: &Value| member["name"].as_str().unwrap().to_owned();
    let leader = members.iter().find(|member| member["leader"] == true).map(name).expect("a leader");
    // All hosts of a sandbox have the same clock.
    let ask = "systemctl show --value -p ActiveEnterTimestampMonotonic etcd";
    let started = |member| (lab.scratch.on(&name(member), ask).parse::<u64>().unwrap(), name(member));
    let mut started: Vec<(u64, String)> = members.iter().map(started).collect();
    started.sort();
    (started.into_iter().map(|(_, name)| name).collect(), leader)
}

#[test]
fn etcd_takes_settings_up_member_by_member_and_its_leader_last() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let (_, leader) = store(&lab);
    let before = starts(&lab);
    let (report, written) = apply(&lab, "etcd_election_timeout_ms=1500");
    assert_eq!(report["restarts"], Value::Null, "{report:#}");
    for host in ["etcd-1", "etcd-2", "etcd-3"] {
        let steps = report["hosts"][host]["changes"].as_array().unwrap().iter();
        let steps: Vec<&str> = steps.map(|change| change["step"].as_str().unwrap()).collect();
        assert_eq!(steps, ["Settings of a running member", "restart etcd"], "{host}");
    }
    let (order, _) = store(&lab);
    assert_eq!(order.last(), Some(&leader), "{order:?}");
    assert_eq!(written.failed, []);
    assert_eq!(starts(&lab), before);
}
