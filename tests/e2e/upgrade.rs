//! Upgrades of a running cluster under a client that writes; a new agent that is broken; an upgrade that is killed.

use super::harness::{
    lab::Lab,
    writer::{ROWS, Written},
};
use pgfleet::model::Digest;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

const MEMBERS: [&str; 3] = ["pg-1", "pg-2", "pg-3"];
const HEALTHY: Duration = Duration::from_secs(120);

/// The packages that are replaced on each host.
const PACKAGES: [(&str, &[&str]); 7] = [
    ("etcd-1", &["etcd-server"]),
    ("etcd-2", &["etcd-server"]),
    ("etcd-3", &["etcd-server"]),
    ("pg-1", &["postgresql-15"]),
    ("pg-2", &["postgresql-15"]),
    ("pg-3", &["postgresql-15"]),
    // The latter is of the system.
    ("haproxy-1", &["haproxy", "procps"]),
];

fn lab() -> Lab {
    Lab::bootstrapped_with("demo", "bookworm", &["postgres_version=15"])
}

/// Gives every host an archive that has its packages in a newer version, made of those that are installed.
fn offer_newer(lab: &Lab, release: u32) {
    let offer = |host: &str, packages: &[&str]| {
        let packages = packages.join(" ");
        let script = format!(
            "set -e; mkdir -p /srv/newer; cd /srv/newer; apt-get -qq update\n\
             for package in {packages}; do\n\
               test -e $package.orig || {{ apt-get -qq download $package; mv ${{package}}_*.deb $package.orig; }}\n\
               rm -rf tree; dpkg-deb -R $package.orig tree\n\
               sed -i 's/^Version: .*/&+newer{release}/' tree/DEBIAN/control\n\
               new=$package-{release}.deb; dpkg-deb -Zgzip -z1 -b tree $new >/dev/null; rm -rf tree\n\
               dpkg-deb -f $new >> Packages\n\
               echo Filename: ./$new >> Packages; echo Size: $(stat -c %s $new) >> Packages\n\
               echo SHA256: $(sha256sum $new | cut -d' ' -f1) >> Packages; echo >> Packages\n\
             done\n\
             echo 'deb [trusted=yes] file:/srv/newer ./' > /etc/apt/sources.list.d/newer.list\n\
             apt-get -qq update"
        );
        lab.scratch.on(host, &script);
    };
    std::thread::scope(|scope| {
        for (host, packages) in PACKAGES {
            scope.spawn(move || offer(host, packages));
        }
    });
}

/// The version of each host's packages.
fn versions(lab: &Lab) -> BTreeMap<String, String> {
    let all =
        PACKAGES.iter().flat_map(|(host, packages)| packages.iter().map(move |package| (*host, *package)));
    all.map(|(host, package)| {
        let version = lab.scratch.on(host, &format!("dpkg-query -W -f '${{Version}}' {package}"));
        (format!("{host} {package}"), version)
    })
    .collect()
}

/// Another build of the program: the same with some bytes behind it, which are also its mark.
fn build(lab: &Lab, mark: &str) -> PathBuf {
    let path = lab.inventory().with_file_name(format!("pgfleet-{mark}"));
    let mut content = fs::read(env!("CARGO_BIN_EXE_pgfleet")).unwrap();
    content.extend_from_slice(mark.as_bytes());
    fs::write(&path, content).unwrap();
    path
}

fn agent_binary(path: &std::path::Path) -> String {
    format!("{}={}", std::env::consts::ARCH, path.display())
}

/// The digest of the agent's program on each member.
fn programs(lab: &Lab) -> Vec<String> {
    let digest = |host| lab.scratch.on(host, "sha256sum /usr/local/bin/pgfleet | cut -d' ' -f1");
    MEMBERS.map(digest).into()
}

/// When each member's postmaster was started.
fn starts(lab: &Lab) -> Vec<String> {
    let start = |host: &str| {
        let rows = lab.sql(lab.postgres(host), "SELECT pg_postmaster_start_time()").unwrap();
        rows[0][0].clone()
    };
    MEMBERS.map(start).into()
}

#[track_caller]
fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|wrong| panic!("{wrong}: {text}"))
}

#[track_caller]
fn nothing_is_lost(lab: &Lab, written: &Written) {
    let rows = lab.sql(lab.write_entry(), ROWS).unwrap();
    assert_eq!(written.missing_from(&rows), Vec::<i64>::new(), "acknowledged rows are lost");
}

/// What the next run finds to do.
fn due(lab: &Lab, arguments: &[&str]) -> Value {
    let told =
        report(&lab.pgfleet(&[&["upgrade", "--check", "--format", "json"], arguments].concat()).success());
    let due = told["found"].as_array().unwrap().iter().filter(|found| {
        found["waits_for_restart"] == true || !found["changes"].as_array().unwrap().is_empty()
    });
    due.cloned().collect::<Vec<_>>().into()
}

#[track_caller]
fn nothing_is_due(lab: &Lab, arguments: &[&str]) {
    assert_eq!(due(lab, arguments), Value::Array(Vec::new()));
    let again = lab.pgfleet(&[&["upgrade", "--format", "json"], arguments].concat()).success();
    assert_eq!(report(&again)["steps"], Value::Array(Vec::new()));
}

/// Everything, under a client that writes: how long it took, the report, and what the client saw.
fn everything(lab: &Lab, arguments: &[&str]) -> (Value, Written) {
    let writer = lab.writer();
    let ran = lab.pgfleet(&[&["upgrade", "--format", "json"], arguments].concat());
    let written = writer.stop();
    let told = report(&ran.success());
    nothing_is_lost(lab, &written);
    println!(
        "told {} ms, the client saw {} ms",
        told["writes_interrupted_ms"],
        written.longest_gap().as_millis()
    );
    (told, written)
}

#[test]
#[ignore = "make test-long"]
fn everything_is_upgraded_and_the_agent_rolled_back() {
    let lab = lab();
    let (before, programs_before) = (versions(&lab), programs(&lab));
    nothing_is_due(&lab, &["--component", "agent"]);
    offer_newer(&lab, 1);
    let new = build(&lab, "another build");
    let agent = agent_binary(&new);
    let (first, started) = (lab.leader(None), starts(&lab));

    let (told, written) = everything(&lab, &["--agent-binary", &agent]);
    assert_eq!(told["stopped"], Value::Null, "{told:#}");
    let steps: Vec<&str> =
        told["steps"].as_array().unwrap().iter().map(|step| step["what"].as_str().unwrap()).collect();
    println!("{steps:#?}");
    let after = versions(&lab);
    for (package, version) in &before {
        assert_eq!(after[package], format!("{version}+newer1"), "{package}");
    }
    let digest = Digest::of(&fs::read(&new).unwrap()).to_string();
    assert_eq!(programs(&lab), [digest.as_str(); 3]);
    assert!(starts(&lab).iter().zip(&started).all(|(now, then)| now != then), "every server has restarted");
    assert_ne!(lab.leader(None), first, "one switchover");
    let gap = told["writes_interrupted_ms"].as_u64().expect("a measured interruption");
    let seen = u64::try_from(written.longest_gap().as_millis()).unwrap();
    assert!(gap.abs_diff(seen) <= 100, "told {gap} ms, the client saw {seen} ms");
    // Held against the distribution's own upgrades.
    assert_eq!(lab.scratch.on("pg-1", "apt-mark showhold postgresql-15"), "postgresql-15");
    lab.until_healthy(HEALTHY);
    nothing_is_due(&lab, &["--agent-binary", &agent]);

    // The agent as it was: no server restarts, no session ends.
    let started = starts(&lab);
    let writer = lab.writer();
    let told = report(&lab.pgfleet(&["rollback", "--format", "json"]).success());
    let written = writer.stop();
    assert_eq!(told["stopped"], Value::Null, "{told:#}");
    assert_eq!(programs(&lab), programs_before);
    assert_eq!((starts(&lab), written.failed), (started, Vec::new()));
    let last = report(&lab.pgfleet(&["history", "--format", "json"]).success());
    let last = last.as_array().unwrap().last().unwrap()["command"].as_str().unwrap().to_owned();
    assert!(last.starts_with("rollback --component agent"), "{last}");
    // Packages of before are in apt's cache or in an archive.
    lab.pgfleet(&["rollback", "--component", "haproxy"]).success();
    assert_eq!(versions(&lab)["haproxy-1 haproxy"], before["haproxy-1 haproxy"]);
    lab.until_healthy(HEALTHY);
}

/// What each unit does at its start with a program that has the mark.
fn breaks_on(lab: &Lab, mark: &str, how: &str) {
    for host in MEMBERS {
        lab.scratch.on(
            host,
            &format!(
                "set -e; unit=/etc/systemd/system/pgfleet-agent.service.d; mkdir -p $unit\n\
                 cat > /usr/local/sbin/broken <<'END'\n#!/bin/sh\n\
                 grep -q '{mark}' /usr/local/bin/pgfleet || exit 0\n{how}\nEND\n\
                 chmod 755 /usr/local/sbin/broken\n\
                 printf '[Service]\\nExecStartPre=/usr/local/sbin/broken\\n' > $unit/broken.conf\n\
                 systemctl daemon-reload"
            ),
        );
    }
}

#[test]
fn a_broken_agent_stops_at_the_first_node_and_a_good_one_is_not_noticed() {
    let lab = lab();
    let (programs_before, started, leader) = (programs(&lab), starts(&lab), lab.leader(None));
    let writer = lab.writer();
    for (mark, how, said) in [
        ("dies at its start", "echo the new agent is broken; exit 1", "the new agent is broken"),
        ("never gets ready", "echo the new agent hangs; sleep 1000", "the new agent hangs"),
    ] {
        let new = build(&lab, mark);
        breaks_on(&lab, mark, how);
        let agent = agent_binary(&new);
        let ran =
            lab.pgfleet(&["upgrade", "--component", "agent", "--agent-binary", &agent, "--format", "json"]);
        assert_eq!(ran.code, Some(1), "{ran}");
        let told = report(&ran.stdout);
        let stopped = &told["stopped"];
        assert_eq!(
            (&told["steps"], &stopped["rolled_back"]),
            (&Value::Array(Vec::new()), &Value::Bool(true)),
            "{told:#}"
        );
        let lines = stopped["last_lines"].as_array().unwrap();
        assert!(lines.iter().any(|line| line.as_str().unwrap().contains(said)), "{told:#}");
        assert!(!stopped["why"].as_str().unwrap().starts_with(&leader), "a replica is the first: {told:#}");
        assert_eq!(told["left"].as_array().unwrap().len(), 3, "{told:#}");
        assert_eq!(programs(&lab), programs_before);
        lab.until_healthy(HEALTHY);
    }
    let last = report(&lab.pgfleet(&["history", "--format", "json"]).success());
    assert_eq!(last.as_array().unwrap().last().unwrap()["outcome"], "failed");

    let new = build(&lab, "a good one");
    let agent = agent_binary(&new);
    let upgrade = ["upgrade", "--component", "agent", "--agent-binary", &agent, "--format", "json"];
    let told = report(&lab.pgfleet(&upgrade).success());
    assert_eq!(told["steps"].as_array().unwrap().len(), 3, "{told:#}");
    assert!(
        told["steps"][2]["what"].as_str().unwrap().ends_with(&leader),
        "the leader is the last: {told:#}"
    );
    let written = writer.stop();
    assert_eq!((starts(&lab), lab.leader(None)), (started, leader));
    assert_eq!(written.failed, [], "no session ended");
    assert_ne!(programs(&lab), programs_before);
    nothing_is_lost(&lab, &written);
}

/// Kills an upgrade at `points` moments spread evenly, each time one to a newer release.
fn killed_at(points: u32) {
    let lab = lab();
    lab.pgfleet(&["upgrade", "--component", "system"]).success();
    offer_newer(&lab, 0);
    let upgrade = |release: u32| {
        let new = build(&lab, &format!("release {release}"));
        let mut command = lab.command(&["upgrade", "--agent-binary", &agent_binary(&new)]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let begun = Instant::now();
    assert!(upgrade(0).status().unwrap().success());
    let took = begun.elapsed();
    let mut seen = 0;
    for point in 1..=points {
        offer_newer(&lab, point);
        let writer = lab.writer();
        let mut first = upgrade(point).spawn().unwrap();
        let deadline = Instant::now() + took * point / (points + 1);
        // The moment of the kill is the condition that is waited for.
        let over = loop {
            match first.try_wait().unwrap() {
                Some(_) => break true,
                None if Instant::now() >= deadline => break false,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        if !over {
            first.kill().unwrap();
            first.wait().unwrap();
            seen += 1;
        }
        // It serves, and goes on serving.
        writer.acknowledged_since(Instant::now(), Duration::from_secs(20));
        let again = lab.pgfleet(&[
            "upgrade",
            "--wait-lock",
            "60",
            "--agent-binary",
            &agent_binary(&build(&lab, &format!("release {point}"))),
        ]);
        again.success();
        nothing_is_lost(&lab, &writer.stop());
        for (package, version) in versions(&lab) {
            assert!(version.ends_with(&format!("+newer{point}")), "{package}: {version}");
        }
        for (host, _) in PACKAGES {
            let left = lab.scratch.on(host, "ls -A /var/lib/pgfleet/debts 2>/dev/null; dpkg --audit; true");
            assert_eq!(left, "", "{host}");
        }
        assert_eq!(programs(&lab).iter().collect::<std::collections::BTreeSet<_>>().len(), 1);
        lab.until_healthy(HEALTHY);
    }
    assert!(seen * 2 > points, "only {seen} of {points} kills came before the end");
}

#[test]
fn an_upgrade_that_was_killed_is_completed_by_the_next() {
    killed_at(2);
}

#[test]
#[ignore = "make test-long"]
fn an_upgrade_that_was_killed_at_any_of_twenty_points_is_completed_by_the_next() {
    killed_at(20);
}

/// From the older to the newer minor version that the distribution offers.
#[test]
#[ignore = "make test-long"]
fn a_minor_version_of_the_distribution_under_a_client_that_writes() {
    let lab = lab();
    let newest = lab.sql(lab.write_entry(), "SHOW server_version").unwrap();
    for host in MEMBERS {
        lab.scratch.on(
            host,
            "set -e; printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
             old=$(apt-cache madison postgresql-15 | tail -1 | cut -d'|' -f2 | tr -d ' '); \
             DEBIAN_FRONTEND=noninteractive apt-get -y -qq --allow-downgrades --allow-change-held-packages \
             install postgresql-15=$old postgresql-client-15=$old >/dev/null; rm /usr/sbin/policy-rc.d",
        );
    }
    lab.pgfleet(&["restart"]).success();
    lab.pgfleet(&["apply"]).success();
    assert_ne!(lab.sql(lab.write_entry(), "SHOW server_version").unwrap(), newest, "it is the older one");
    let (told, written) = everything(&lab, &["--component", "postgres"]);
    assert_eq!(told["stopped"], Value::Null, "{told:#}");
    for host in MEMBERS {
        assert_eq!(lab.sql(lab.postgres(host), "SHOW server_version").unwrap(), newest, "{host}");
    }
    // How long it is, on a machine that does nothing else, is the bench's to say.
    let gap = Duration::from_millis(told["writes_interrupted_ms"].as_u64().expect("a measured interruption"));
    assert!(gap.abs_diff(written.longest_gap()) <= Duration::from_millis(100), "told {gap:?}");
    nothing_is_due(&lab, &["--component", "postgres"]);
}
