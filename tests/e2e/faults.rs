//! Faults under a client that writes through HAProxy: the cluster comes back by itself, never two
//! writable primaries, and with synchronous replication no acknowledged row is missing.

use super::harness::{
    lab::Lab,
    program::eventually,
    writer::{ROWS, Written},
};
use std::time::{Duration, Instant};

const COMES_BACK: Duration = Duration::from_secs(180);

/// Breaks the leader, waits until writes are acknowledged again, repairs it, and waits until the cluster
/// is whole. Returns what the client saw.
fn fault(lab: &Lab, what: &str, break_it: impl Fn(&str), repair: impl Fn(&str)) -> Written {
    let sampler = lab.sampler();
    let writer = lab.writer();
    let leader = lab.leader(None);
    writer.acknowledged_since(Instant::now(), COMES_BACK);
    break_it(&leader);
    let broken = Instant::now();
    // A row that began after the fault, by whoever leads then.
    writer.acknowledged_since(broken + Duration::from_millis(200), COMES_BACK);
    repair(&leader);
    lab.until_healthy(COMES_BACK);
    let written = writer.stop();
    sampler.stop().assert_one_primary_at_a_time();
    let rows = lab.sql(lab.write_entry(), ROWS).unwrap();
    let missing = written.missing_from(&rows);
    assert!(missing.is_empty(), "{what}: acknowledged rows are missing: {missing:?}");
    written
}

/// Patient enough for agents that are not optimised, on a machine that two cores' worth of other hosts share: how
/// quick everything is, `make bench` measures.
fn lab() -> Lab {
    let patient = ["synchronous_mode=quorum", "ttl=10"];
    Lab::bootstrapped_with("demo", "trixie", &patient)
}

/// The pid of the process that is a unit's main one.
fn main_pid(lab: &Lab, host: &str, unit: &str) -> String {
    lab.scratch.on(host, &format!("systemctl show -p MainPID --value {unit}"))
}

fn signal_agent(lab: &Lab, host: &str, signal: &str) {
    lab.scratch.on(host, &format!("kill -{signal} {}", main_pid(lab, host, "pgfleet-agent")));
}

fn kill_postmaster(lab: &Lab, host: &str) {
    lab.scratch.on(host, "kill -KILL $(pgrep -o -x postgres)");
}

/// systemd's watchdog ends an agent that hangs; whoever comes after it is not stopped.
fn await_agent(lab: &Lab, host: &str) {
    eventually("the agent runs again", COMES_BACK, || {
        let state =
            lab.scratch.on(host, "ps -o stat= -p $(systemctl show -p MainPID --value pgfleet-agent) || true");
        (!state.is_empty() && !state.starts_with('T')).then_some(())
    });
}

fn sandbox(lab: &Lab, command: &str, host: &str) {
    lab.scratch.run(command, &[host]).success();
}

fn postmaster(lab: &Lab) -> Written {
    fault(lab, "SIGKILL of the postmaster", |host| kill_postmaster(lab, host), |_| {})
}

fn agent_killed(lab: &Lab) -> Written {
    fault(lab, "SIGKILL of the agent", |host| signal_agent(lab, host, "KILL"), |_| {})
}

fn agent_hangs(lab: &Lab) -> Written {
    let stop = |host: &str| signal_agent(lab, host, "STOP");
    fault(lab, "SIGSTOP of the agent", stop, |host| await_agent(lab, host))
}

fn power(lab: &Lab) -> Written {
    fault(lab, "power loss", |host| sandbox(lab, "kill", host), |host| sandbox(lab, "start", host))
}

fn network(lab: &Lab) -> Written {
    fault(lab, "network cut", |host| sandbox(lab, "cut", host), |host| sandbox(lab, "join", host))
}

fn switchover(lab: &Lab) -> Written {
    fault(lab, "switchover", |_| drop(lab.pgfleet(&["switchover"]).success()), |_| {})
}

#[test]
fn the_postmaster_is_killed() {
    let lab = lab();
    for _ in 0..2 {
        postmaster(&lab);
    }
}

#[test]
fn the_agent_is_killed_and_postgresql_goes_on() {
    let lab = lab();
    let leader = lab.leader(None);
    let postmaster = || lab.scratch.on(&leader, "pgrep -o -x postgres");
    let before = postmaster();
    let agent = main_pid(&lab, &leader, "pgfleet-agent");
    let written = agent_killed(&lab);
    assert_ne!(main_pid(&lab, &leader, "pgfleet-agent"), agent, "the agent was started again");
    assert_eq!(postmaster(), before, "PostgreSQL was not touched");
    assert_eq!(lab.leader(None), leader, "the lease was adopted");
    assert!(written.failed.is_empty(), "no write failed: {:?}", written.failed);
}

#[test]
fn the_agent_hangs() {
    agent_hangs(&lab());
}

#[test]
fn the_power_of_the_leader_fails() {
    power(&lab());
}

#[test]
fn the_network_of_the_leader_is_cut() {
    network(&lab());
}

/// One cluster lives through them all, each starting from what the one before left.
#[test]
#[ignore = "make test-long"]
fn faults_again_and_again() {
    let lab = lab();
    let faults = [postmaster, switchover, power, agent_killed, network, agent_hangs];
    // In their order, then in the opposite one.
    for step in [1, 5] {
        for turn in 0..2 * faults.len() {
            let fault = faults[(turn * step) % faults.len()];
            fault(&lab);
        }
    }
}
