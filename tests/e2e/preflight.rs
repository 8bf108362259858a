//! Hosts that look at each other before a bootstrap: what is in the way between them is told, and nothing changed.

use super::harness::lab::Lab;
use serde_json::Value;

/// What `check --hosts` finds: `HOST CHECK VERDICT: MESSAGE`, a line each.
fn findings(lab: &Lab) -> Vec<String> {
    let ran = lab.pgfleet(&["check", "--hosts", "--format", "json"]);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"));
    let rows = document["hosts"].as_array().unwrap().iter();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.map(|row| {
        let [host, check, verdict, message] =
            ["host", "check", "verdict", "message"].map(|key| text(row, key));
        format!("{host} {check} {verdict}: {message}")
    })
    .collect()
}

/// The findings of some checks. How fast this machine's disk is changes from moment to moment.
fn of(findings: &[String], checks: &[&str]) -> Vec<String> {
    let own = findings.iter().filter(|row| checks.contains(&row.split(' ').nth(1).unwrap()));
    own.cloned().collect()
}

fn complaints(findings: &[String]) -> Vec<String> {
    let wrong = findings.iter().filter(|row| !row.contains(" ok: ") && !row.contains(" fsync "));
    wrong.cloned().collect()
}

/// Every host gets through to those that its roles need; the numbers are of ports.
#[track_caller]
pub fn all_get_through(lab: &Lab, expected: &[impl AsRef<str> + std::fmt::Debug]) {
    let found = findings(lab);
    assert_eq!(complaints(&found), [""; 0]);
    let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
    assert_eq!(of(&found, &["links"]), expected);
}

/// Announces another router's address under an id, until `systemctl stop rival`.
fn announce(lab: &Lab, host: &str, router_id: u64) {
    let script = format!(
        "use Socket; socket(S, AF_INET, SOCK_RAW, 112) or die; \
         while (1) {{ send(S, pack(q{{CCCCCCnNx8}}, 0x21, {router_id}, 100, 1, 0, 1, 0, 0x0a4900c8), 0, \
         pack_sockaddr_in(0, inet_aton(q{{224.0.0.18}}))) or die; select(undef, undef, undef, 0.2) }}"
    );
    lab.scratch.on(host, &format!("systemd-run --quiet --collect --unit rival perl -e '{script}'"));
}

#[test]
fn what_is_in_the_way_between_hosts_is_told_before_anything_is_changed() {
    let lab = Lab::fresh("two-nodes-and-a-vip", "trixie", &[]);
    let on = |host: &str, command: &str| lab.scratch.on(host, command);
    all_get_through(
        &lab,
        &[
            "pgdb1 links ok: gets through to the 6 ports of 2 hosts that it needs",
            "pgdb2 links ok: gets through to the 6 ports of 2 hosts that it needs",
            "etcd1 links ok: gets through to the 6 ports of 2 hosts that it needs",
        ],
    );
    let router_id = lab.loaded().hosts["pgdb1"].vars["vip_router_id"].as_u64().unwrap();
    let free = format!("10.73.0.172 is free, and so is virtual router id {router_id}");
    assert_eq!(
        of(&findings(&lab), &["vip"]),
        [format!("pgdb1 vip ok: {free}"), format!("pgdb2 vip ok: {free}")]
    );

    // Another machine has the address and the id: one of ours, that is none of `keepalived`.
    on("etcd1", "ip address add 10.73.0.172/32 dev host0");
    announce(&lab, "etcd1", router_id);
    let found = findings(&lab);
    on("etcd1", "systemctl stop rival; ip address del 10.73.0.172/32 dev host0");
    let vip = of(&found, &["vip"]);
    assert_eq!(vip.len(), 4, "{found:#?}");
    for host in ["pgdb1", "pgdb2"] {
        let id = format!("{host} vip fail: virtual router id {router_id} is taken on this network by ");
        assert!(vip.iter().any(|row| row.starts_with(&id)), "{vip:#?}");
        let taken =
            format!("{host} vip fail: 10.73.0.172 answers already, and is with none of the cluster's hosts");
        assert!(vip.iter().any(|row| row.starts_with(&taken)), "{vip:#?}");
    }

    // Interfaces that differ.
    on("etcd1", "ip link set dev host0 mtu 1400");
    let told = complaints(&findings(&lab));
    on("etcd1", "ip link set dev host0 mtu 1500");
    let differs = |host: &str| {
        format!(
            "{host} mtu warn: sends etcd1 packets of up to 1500 bytes, and gets such of up to 1400 from it"
        )
    };
    assert_eq!(told, [differs("pgdb1"), differs("pgdb2")]);

    // No way from one host to another. A bootstrap does not even begin.
    on("pgdb1", "ip route add prohibit 10.73.0.171/32; touch /root/before");
    let told = complaints(&findings(&lab));
    assert!(told.contains(&"pgdb1 network fail: does not reach etcd1".to_owned()), "{told:#?}");
    let refused = lab.pgfleet(&["bootstrap"]).failure(1);
    assert!(refused.contains("does not reach etcd1"), "{refused}");
    assert!(refused.contains("the hosts do not get through to each other; nothing was changed"), "{refused}");
    assert_eq!(
        on("pgdb1", "find /etc -newer /root/before -type f; dpkg -l etcd-server 2>/dev/null || true"),
        ""
    );
}
