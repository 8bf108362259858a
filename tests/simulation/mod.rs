//! The agents' decisions in a simulated world: crashes, partitions, hangs, slow disks, clocks that drift.
//! What must never be false is asserted after every event; a failure prints its seed and what happened.

mod agent;
mod faults;
mod model;
mod random;
mod server;
mod store;
mod world;

use pgfleet::agent::core::{Settings, SyncMode};
use std::collections::BTreeSet;
use world::{Plan, World};

fn plan(nodes: usize, sync: SyncMode, node_count: usize) -> Plan {
    Plan {
        nodes,
        settings: Settings {
            ttl: 3_000,
            loop_wait: 1_000,
            retry_timeout: 3_000,
            maximum_lag_on_failover: 1 << 20,
            primary_start_timeout: 10_000,
            sync,
            sync_node_count: node_count,
            ..Settings::default()
        },
        maintenance: false,
        faults_from: 6_000,
        faults_until: 26_000,
        ends: 60_000,
        without: None,
        drift_ppm: 5_000,
    }
}

/// Runs schedules and says which rules fired; fails on the first that breaks a promise.
fn run(seeds: std::ops::Range<u64>, make: impl Fn(u64) -> Plan) -> BTreeSet<&'static str> {
    let mut fired = BTreeSet::new();
    let mut promotions = 0;
    for seed in seeds {
        let mut world = World::new(seed, make(seed));
        if let Err(wrong) = world.run().and_then(|()| world.healthy()) {
            let last = world.trace.len().saturating_sub(80);
            panic!("seed {seed} at {} ms: {wrong}\n{}", world.now, world.trace[last..].join("\n"));
        }
        promotions += world.promotions;
        fired.extend(world.fired.keys());
    }
    assert!(promotions > 0, "nothing ever failed over");
    fired
}

#[test]
fn asynchronous_clusters_keep_their_promises() {
    run(0..span(), |seed| Plan { faults_from: 200 + seed % 2 * 6_000, ..plan(3, SyncMode::Off, 1) });
}

#[test]
fn synchronous_clusters_lose_nothing_acknowledged() {
    run(1_000..1_000 + span(), |_| plan(3, SyncMode::On, 1));
}

#[test]
fn quorum_clusters_lose_nothing_acknowledged() {
    run(2_000..2_000 + span(), |seed| plan(3 + seed as usize % 3, SyncMode::Quorum, 1 + seed as usize % 2));
}

#[test]
fn paused_and_marked_clusters_keep_their_promises() {
    let modes = [SyncMode::Off, SyncMode::On, SyncMode::Quorum];
    let fired =
        run(3_000..3_000 + span(), |seed| Plan { maintenance: true, ..plan(3, modes[seed as usize % 3], 1) });
    for rule in ["paused", "release-paused", "poll-paused"] {
        assert!(fired.contains(rule), "{rule} never fired");
    }
}

#[test]
fn without_the_fence_two_primaries_are_found() {
    let found = (0..60).any(|seed| {
        let mut world = World::new(seed, Plan { without: Some("fence"), ..plan(3, SyncMode::Off, 1) });
        world.run().is_err_and(|wrong| wrong.starts_with("two primaries"))
    });
    assert!(found, "the simulator cannot see what the fence is for");
}

/// How many schedules each test runs; `PGFLEET_SCHEDULES` asks for more.
fn span() -> u64 {
    std::env::var("PGFLEET_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}
