//! What a run leaves alone: the second one everything, a changed setting all that it does not concern.

use super::harness::{lab::Lab, program::eventually};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

const LIMIT: Duration = Duration::from_secs(90);
const UNITS: [&str; 4] = ["etcd", "pgfleet-agent", "haproxy", "keepalived"];

/// When each unit of each host, and each postmaster, was started.
fn starts(lab: &Lab) -> BTreeMap<String, String> {
    let inventory = lab.loaded();
    let ask = format!(
        "systemctl show -p Id -p ActiveEnterTimestampMonotonic -p MainPID {}; \
         for pid in $(pgrep -x postgres -o); do echo postmaster=$pid $(cut -d' ' -f22 /proc/$pid/stat); done",
        UNITS.join(" ")
    );
    let hosts = inventory.hosts.keys();
    hosts.map(|host| (host.to_string(), lab.scratch.on(host.as_str(), &ask))).collect()
}

/// The steps that changed something, by host; fails if the run failed.
#[track_caller]
fn changes(lab: &Lab, arguments: &[&str]) -> BTreeMap<String, Vec<String>> {
    let report = lab.pgfleet(&[arguments, &["--format", "json"]].concat()).success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let hosts = report["hosts"].as_object().unwrap().iter();
    let changed = hosts.map(|(host, tally)| {
        let steps = tally["changes"].as_array().unwrap().iter();
        (host.clone(), steps.map(|change| change["step"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
    });
    changed.filter(|(_, steps)| !steps.is_empty()).collect()
}

fn reload_count(lab: &Lab, host: &str, unit: &str) -> String {
    lab.scratch.on(host, &format!("journalctl -q -u {unit} -o cat | grep -c '^Reloaded' || true"))
}

#[test]
fn the_second_run_changes_nothing() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let before = starts(&lab);
    assert_eq!(changes(&lab, &["bootstrap"]), BTreeMap::new());
    assert_eq!(changes(&lab, &["apply"]), BTreeMap::new());
    assert_eq!(lab.pgfleet(&["plan", "--detailed-exitcode"]).code, Some(0));
    assert_eq!(starts(&lab), before, "a service was restarted");
}

#[test]
fn a_setting_of_haproxy_reloads_haproxy_alone() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let before = starts(&lab);
    let reloads = reload_count(&lab, "haproxy-1", "haproxy");
    let planned = lab.pgfleet(&["plan", "--detailed-exitcode", "-e", "haproxy_maxconn=1234"]);
    assert_eq!(planned.code, Some(4), "{planned}");
    let changed = changes(&lab, &["apply", "-e", "haproxy_maxconn=1234"]);
    assert_eq!(changed.keys().collect::<Vec<_>>(), ["haproxy-1"], "{changed:?}");
    assert_eq!(changed["haproxy-1"].len(), 2, "a file and a reload: {changed:?}");
    assert_ne!(reload_count(&lab, "haproxy-1", "haproxy"), reloads);
    assert_eq!(starts(&lab), before, "a service was restarted");
    let config = lab.scratch.on("haproxy-1", "cat /etc/haproxy/haproxy.cfg");
    assert!(config.contains("1234"), "{config}");
    assert_eq!(changes(&lab, &["apply", "-e", "haproxy_maxconn=1234"]), BTreeMap::new());
}

#[test]
fn a_setting_of_postgresql_that_needs_a_reload_is_reloaded_through_the_dcs() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let before = starts(&lab);
    let set = "postgres_parameters={\"max_connections\": 200, \"shared_buffers\": \"128MB\", \"work_mem\": \"13MB\"}";
    let set = format!("{{{}}}", set.replacen("postgres_parameters=", "\"postgres_parameters\": ", 1));
    let changed = changes(&lab, &["apply", "-e", &set]);
    assert_eq!(changed.values().flatten().count(), 1, "one step, once: {changed:?}");
    for host in ["pg-1", "pg-2", "pg-3"] {
        eventually(&format!("{host} has the setting"), LIMIT, || {
            let rows = lab.sql(lab.postgres(host), "SHOW work_mem").ok()?;
            (rows[0][0] == "13MB").then_some(())
        });
        let pending = "SELECT count(*) FROM pg_settings WHERE pending_restart";
        assert_eq!(lab.sql(lab.postgres(host), pending).unwrap()[0][0], "0", "{host}");
    }
    assert_eq!(starts(&lab), before, "a service was restarted");
}
