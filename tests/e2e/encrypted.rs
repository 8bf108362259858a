//! Everything speaks TLS: nothing answers in plain text, certificates are renewed in passing.

use super::{
    harness::{
        lab::Lab,
        postgres::{Login, enter},
        program::{pgfleet, run},
    },
    preflight::all_get_through,
    scale::{strike_out, write_in},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

/// What a port answers to a question in plain text.
fn asked_plainly(lab: &Lab, at: &str) -> String {
    let (network, address) = (lab.network(), at.parse::<SocketAddr>().unwrap());
    let asking = move || {
        enter(&network).unwrap();
        let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(b"GET /health HTTP/1.0\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    thread::spawn(asking).join().unwrap()
}

/// The processes behind all services, by host: who is restarted has another.
fn processes(lab: &Lab) -> BTreeMap<String, String> {
    let ask = "systemctl show -p Id -p MainPID etcd pgfleet-agent haproxy; \
               for pid in $(pgrep -x postgres -o); do echo postmaster=$pid; done";
    let inventory = lab.loaded();
    inventory.hosts.keys().map(|host| (host.to_string(), lab.scratch.on(host.as_str(), ask))).collect()
}

/// Serial numbers of what the services present; all of it has to be current.
#[track_caller]
fn serials(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    let text = lab.pgfleet(&[&["certs", "--format", "json"], arguments].concat()).success();
    let document: Value = serde_json::from_str(&text).unwrap();
    let served = document["certificates"].as_array().unwrap().iter();
    served.map(|one| one["serial"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn changed(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    let report = lab.pgfleet(&[arguments, &["--format", "json"]].concat()).success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let hosts = report["hosts"].as_object().unwrap().values();
    let steps = hosts.flat_map(|host| host["changes"].as_array().unwrap().clone());
    steps.map(|step| step["step"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_answers_in_plain_text_and_certificates_are_renewed_in_passing() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let proof = lab.pgfleet(&["verify"]).success();
    assert!(proof.contains("The cluster demo works."), "{proof}");
    assert_eq!(changed(&lab, &["apply"]), [""; 0], "the second run changes nothing");

    for at in ["10.128.0.26:2379", "10.128.0.26:2380", "10.128.0.12:8008", "10.128.0.40:7000"] {
        let answer = asked_plainly(&lab, at);
        assert!(!answer.contains("200 OK"), "{at} answers plain text: {answer}");
    }
    // Hosts that try each other do so at the services themselves, by TLS.
    let links = |host: &str, ports| format!("{host} links ok: gets through to the {ports} that it needs");
    let etcd = ["etcd-1", "etcd-2", "etcd-3"].map(|host| links(host, "7 ports of 5 hosts"));
    let postgres = ["pg-1", "pg-2", "pg-3"].map(|host| links(host, "7 ports of 5 hosts"));
    let haproxy = [links("haproxy-1", "6 ports of 3 hosts")];
    all_get_through(&lab, &[&etcd[..], &postgres, &haproxy].concat());
    let plain = Login { tls: None, ..lab.login() };
    for at in [lab.postgres("pg-1"), lab.write_entry(), lab.read_entry()] {
        let refused =
            super::harness::postgres::query(lab.network(), at, plain.clone(), "SELECT 1").unwrap_err();
        assert!(refused.contains("no encryption"), "{at}: {refused}");
        assert_eq!(lab.sql(at, "SELECT 1").unwrap(), [["1"]], "{at}");
    }
    let leader = lab.leader(None);
    let encrypted =
        "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl AND client_dn <> ''";
    assert_eq!(lab.sql(lab.postgres(&leader), encrypted).unwrap(), [["2"]]);

    // As seen from certificates that are to last long, those that are there end soon.
    let before = (serials(&lab, &[]), processes(&lab));
    let renew = ["-e", "certificate_days=3000"];
    let steps = changed(&lab, &[&["apply"], &renew[..]].concat());
    assert!(steps.iter().any(|step| step.contains("PostgreSQL's certificate")), "{steps:?}");
    let after = serials(&lab, &renew);
    assert_eq!(after.len(), before.0.len());
    assert!(after.iter().zip(&before.0).all(|(new, old)| new != old), "{after:?} after {:?}", before.0);
    assert_eq!(processes(&lab), before.1, "a service was restarted");
    assert_eq!(changed(&lab, &[&["apply"], &renew[..]].concat()), [""; 0]);
    lab.pgfleet(&[&["verify"], &renew[..]].concat()).success();

    // A leader that dies is replaced as ever.
    lab.scratch.run("kill", &[&leader]).success();
    let new = lab.leader(Some(&leader));
    lab.sql(lab.postgres(&new), "CREATE TABLE after_failover (x int)").unwrap();
    lab.scratch.run("start", &[&leader]).success();
    lab.until_healthy(Duration::from_secs(180));
}

#[test]
#[ignore = "make test-long"]
fn a_cluster_with_tls_grows_shrinks_and_changes_its_authority() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let healthy = Duration::from_secs(180);
    write_in(
        &lab,
        &[
            ("etcd-3", "etcd-5", "10.128.0.33"),
            ("etcd-3", "etcd-4", "10.128.0.32"),
            ("pg-3", "pg-4", "10.128.0.15"),
        ],
    );
    lab.pgfleet(&["add", "etcd-4", "etcd-5", "pg-4"]).success();
    lab.until_healthy(healthy);
    assert_eq!(changed(&lab, &["apply"]), [""; 0], "the second run changes nothing");
    let leader = lab.leader(None);
    let leaving = ["etcd-2", "etcd-5", leader.as_str()];
    lab.pgfleet(&["remove", leaving[0], leaving[1], leaving[2]]).success();
    strike_out(&lab, &leaving);
    lab.until_healthy(healthy);
    assert_eq!(lab.scratch.on(&leader, "ls -d /etc/pgfleet/tls || true"), "");

    lab.pgfleet(&["restart"]).success();
    lab.pgfleet(&["secrets", "rotate"]).success();
    let before = serials(&lab, &[]);
    lab.pgfleet(&["certs", "rotate"]).success();
    let after = serials(&lab, &[]);
    assert!(after.iter().zip(&before).all(|(new, old)| new != old), "{after:?} after {before:?}");
    lab.until_healthy(healthy);
    assert_eq!(changed(&lab, &["apply"]), [""; 0], "nothing is left to do");
    let history = lab.pgfleet(&["history"]).success();
    assert!(history.contains("certs rotate") && history.contains("add etcd-4"), "{history}");

    // Another machine has the inventory from etcd, and makes nothing of it without the secrets.
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = other.path().join("demo").display().to_string();
    let sandbox = lab.scratch.name.clone();
    let adopt = ["adopt", "10.128.0.26", "--cluster", "demo", "-o", &folder, "--sandbox", &sandbox];
    run(&mut pgfleet(&adopt)).success();
    let inventory = format!("{folder}/inventory.yml");
    let apply = ["apply", "-y", "-i", &inventory, "--sandbox", &sandbox];
    let refused = run(&mut pgfleet(&apply)).failure(1);
    assert!(refused.contains("trusts another authority"), "{refused}");
    lab.until_healthy(healthy);
    let secrets = lab.inventory().with_file_name("inventory.secrets.yml");
    fs::copy(secrets, format!("{folder}/inventory.secrets.yml")).unwrap();
    run(&mut pgfleet(&apply)).success();
}
