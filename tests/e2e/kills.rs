//! The control process is killed in the middle of a bootstrap; the next one completes it, and the result
//! is the same as without the kill.

use super::harness::lab::Lab;
use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};

const HEALTHY: Duration = Duration::from_secs(180);

/// What a bootstrap leaves on each host: every file that it writes, by content, and every unit's state.
fn result(lab: &Lab) -> BTreeMap<String, String> {
    let ask = "for file in /etc/default/etcd /etc/haproxy/haproxy.cfg /etc/pgfleet/agent.yml \
         /etc/systemd/system/*.service /etc/sysctl.d/*pgfleet* /usr/local/bin/pgfleet; do \
         test -e $file && sha256sum $file; done; \
         systemctl is-active etcd pgfleet-agent haproxy keepalived; systemctl is-enabled etcd pgfleet-agent haproxy keepalived; \
         ls -A /var/lib/pgfleet/debts 2>/dev/null; dpkg --audit; true";
    let inventory = lab.loaded();
    let hosts = inventory.hosts.keys();
    hosts.map(|host| (host.to_string(), lab.scratch.on(host.as_str(), ask))).collect()
}

/// The same passwords for every cluster here, so that equal results have equal files.
const PASSWORDS: [&str; 3] = [
    "superuser_password=one-for-the-test",
    "replication_password=two-for-the-test",
    "rewind_password=three-for-the-test",
];

/// How long an undisturbed bootstrap takes here and now, and what it leaves.
fn undisturbed() -> (Duration, BTreeMap<String, String>) {
    let lab = Lab::fresh("demo", "trixie", &PASSWORDS);
    let started = Instant::now();
    lab.pgfleet(&["bootstrap"]).success();
    let took = started.elapsed();
    lab.until_healthy(HEALTHY);
    (took, result(&lab))
}

/// Kills a bootstrap after `delay`, completes it by another, and gives what that leaves. None when the
/// first was over before.
fn killed_after(delay: Duration) -> Option<BTreeMap<String, String>> {
    let lab = Lab::fresh("demo", "trixie", &PASSWORDS);
    let mut first = lab.command(&["bootstrap"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + delay;
    // The moment of the kill is the condition that is waited for.
    while Instant::now() < deadline {
        if first.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    lab.pgfleet(&["bootstrap"]).success();
    lab.until_healthy(HEALTHY);
    Some(result(&lab))
}

/// Kills at `points` moments spread evenly over a bootstrap.
fn killed_at(points: u32) {
    let (took, expected) = undisturbed();
    let mut seen = 0;
    for point in 1..=points {
        let delay = took * point / (points + 1);
        let Some(left) = killed_after(delay) else { continue };
        assert_eq!(left, expected, "killed after {delay:?} of {took:?}");
        seen += 1;
    }
    assert!(seen * 2 > points, "only {seen} of {points} kills came before the end");
}

#[test]
fn a_bootstrap_that_was_killed_is_completed_by_the_next() {
    killed_at(3);
}

#[test]
#[ignore = "make test-long"]
fn a_bootstrap_that_was_killed_at_any_of_twenty_points_is_completed_by_the_next() {
    killed_at(20);
}
