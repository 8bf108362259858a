//! The commands that ask, prove and change a living cluster.

use super::harness::{
    lab::Lab,
    program::{eventually, run},
};
use serde_json::Value;
use std::time::Duration;

/// The keys of an object, in order.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// What `ARCHITECTURE.md` says of a unit's exposure.
fn documented(unit: &str) -> f64 {
    let text = include_str!("../../ARCHITECTURE.md");
    let row =
        text.lines().find(|line| line.starts_with(&format!("| `{unit}` |"))).expect("a row of the table");
    row.split('|').nth(3).expect("a column").trim().parse().expect("a figure")
}

/// What systemd says of it on a host.
fn exposure(lab: &Lab, host: &str, unit: &str) -> f64 {
    let said = lab.scratch.on(host, &format!("systemd-analyze security --no-pager {unit} | tail -1"));
    let (_, figure) = said.split_once(&format!("{unit}: ")).unwrap_or_else(|| panic!("no figure: {said}"));
    figure.split(' ').next().and_then(|figure| figure.parse().ok()).expect("a figure")
}

#[test]
fn status_verify_and_switchover_of_seven_machines() {
    let lab = Lab::bootstrapped("demo", "trixie");
    for (host, unit) in [("pg-1", "pgfleet-agent.service"), ("etcd-1", "etcd.service")] {
        let (seen, limit) = (exposure(&lab, host, unit), documented(unit));
        assert!(seen <= limit, "{unit} is exposed by {seen}, and at most {limit} is documented");
    }

    let status = lab.until_healthy(Duration::from_secs(180));
    let expected = [
        "cluster",
        "healthy",
        "problems",
        "pause",
        "scheduled_switchover",
        "members",
        "dcs",
        "haproxy",
        "vip",
    ];
    assert_eq!(keys(&status), expected);
    let members = status["members"].as_array().expect("a list");
    assert_eq!(members.len(), 3, "{status:#}");
    let expected = [
        "name",
        "host",
        "port",
        "role",
        "state",
        "timeline",
        "lag_bytes",
        "pending_restart",
        "pending_restart_reason",
    ];
    assert_eq!(keys(&members[0]), expected);
    let streaming = members.iter().filter(|member| member["state"] == "streaming").count();
    assert_eq!(streaming, 2, "{status:#}");
    let dcs = status["dcs"]["members"].as_array().expect("a list");
    assert!(dcs.len() == 3 && dcs.iter().all(|member| member["healthy"] == true), "{status:#}");
    assert_eq!(dcs.iter().filter(|member| member["leader"] == true).count(), 1, "{status:#}");
    // HAProxy takes a few looks to drop a replica that leads now.
    eventually("HAProxy's servers", Duration::from_secs(60), || {
        let status: Value =
            serde_json::from_str(&lab.pgfleet(&["status", "--format", "json"]).stdout).ok()?;
        let frontends = status["haproxy"][0]["frontends"].as_array().expect("a list").clone();
        let up = frontends
            .into_iter()
            .map(|frontend| (frontend["serves"].clone(), frontend["backends_up"].clone()));
        let expected = [(Value::from("primary"), Value::from(1)), (Value::from("replica"), Value::from(2))];
        up.eq(expected).then_some(())
    });

    let proof = lab.pgfleet(&["verify"]).success();
    assert!(proof.contains("The cluster demo works."), "{proof}");
    assert_eq!(proof.matches("refused: it says that it is read-only").count(), 2, "{proof}");
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgfleet%'";
    assert_eq!(lab.sql(lab.write_entry(), left).expect("an answer"), [["0"]]);

    let before = lab.leader(None);
    let to = lab.members("replica").remove(0);
    let switched = lab.pgfleet(&["switchover", "--to", &to, "--format", "json"]).success();
    let switched: Value = serde_json::from_str(&switched).expect("JSON");
    assert_eq!((&switched["from"], &switched["to"]), (&Value::from(before), &Value::from(to.clone())));
    assert!(switched["writes_interrupted_ms"].is_u64(), "{switched:#}");
    assert_eq!(switched["not_following"], Value::Array(Vec::new()));
    assert_eq!(lab.leader(None), to);
    let refused = lab.pgfleet(&["switchover", "--to", &to]).failure(1);
    assert!(refused.contains(&format!("`{to}` leads already")), "{refused}");
    lab.pgfleet(&["verify"]).success();

    let said = run(lab.command(&["ssh", "pg-2"]).args(["--", "hostname"])).success();
    assert_eq!(said.trim(), "pg-2");
    let unknown = lab.pgfleet(&["ssh", "pg-9"]).failure(2);
    assert!(unknown.contains("the inventory has no host `pg-9`"), "{unknown}");
}

#[test]
fn status_names_what_is_gone() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let replica = lab.members("replica").remove(0);
    lab.scratch.run("kill", &[&replica, "etcd-2"]).success();
    let ran = lab.pgfleet(&["status"]);
    assert_eq!(ran.code, Some(3), "{ran}");
    for host in [replica.as_str(), "etcd-2"] {
        assert!(ran.stdout.contains(&format!("! {host} cannot be reached: ")), "{ran}");
    }
    // The rest goes on, and is not complained about.
    assert!(!ran.stdout.contains("quorum") && !ran.stdout.contains("No member leads"), "{ran}");
    let proof = lab.pgfleet(&["verify"]).failure(1);
    assert!(!proof.contains("panicked"), "{proof}");
    lab.scratch.run("start", &[&replica, "etcd-2"]).success();
    eventually("the cluster is whole again", Duration::from_secs(90), || {
        (lab.status()?["healthy"] == true).then_some(())
    });
}
